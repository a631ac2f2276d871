/* cluster/tree.c - insert, remove and count in a treap, without recursion. */
#include "cluster/tree.h"

#include "base/assert.h"

static uint32_t scramble(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return (uint32_t)(x >> 32);
}

static bool is_before(int64_t key, uint64_t tie, const struct tree_node *node)
{
    return key < node->key || (key == node->key && tie < node->tie);
}

static int count_of(const struct tree_node *node)
{
    return node ? node->count : 0;
}

/* ---- weights ---- */

static struct tree_weight *weight_of(struct tree_node *node)
{
    return (struct tree_weight *)node;
}

static int64_t work_of(struct tree_node *node)
{
    return node ? weight_of(node)->work_sum : 0;
}

static int64_t begin_by_of(struct tree_node *node)
{
    return node ? weight_of(node)->begin_by : INT64_MAX;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* So much goes before: then the first of all must begin as much sooner. */
static int64_t sooner(int64_t begin_by, int64_t work)
{
    return begin_by < INT64_MAX ? begin_by - work : INT64_MAX;
}

static void weigh(struct tree_node *node)
{
    struct tree_weight *weight = weight_of(node);
    int64_t left = work_of(node->left);
    weight->work_sum = left + weight->work + work_of(node->right);
    weight->begin_by = earlier(earlier(begin_by_of(node->left), node->key - left),
                               sooner(begin_by_of(node->right), left + weight->work));
}

static void weigh_up(const struct tree *tree, struct tree_node *node)
{
    for (; tree->is_weighed && node; node = node->parent)
        weigh(node);
}

/* ---- shape ---- */

/* Puts `child` where `node` hangs. */
static void replace(struct tree *tree, struct tree_node *node, struct tree_node *child)
{
    struct tree_node *parent = node->parent;
    if (!parent)
        tree->root = child;
    else if (parent->left == node)
        parent->left = child;
    else
        parent->right = child;
    if (child)
        child->parent = parent;
}

/* Swaps a node with its parent; the order stays. */
static void rotate_up(struct tree *tree, struct tree_node *node)
{
    struct tree_node *parent = node->parent;
    replace(tree, parent, node);
    if (parent->left == node) {
        parent->left = node->right;
        if (node->right)
            node->right->parent = parent;
        node->right = parent;
    } else {
        parent->right = node->left;
        if (node->left)
            node->left->parent = parent;
        node->left = parent;
    }
    parent->parent = node;
    node->count = parent->count;
    parent->count = 1 + count_of(parent->left) + count_of(parent->right);
    if (tree->is_weighed)
        weigh(parent);
}

void dip__tree_insert(struct tree *tree, struct tree_node *node, int64_t key, uint64_t tie)
{
    dip_assert(node->count == 0);
    *node = (struct tree_node){.key = key, .tie = tie, .heap = scramble(tie), .count = 1};
    if (!tree->first || is_before(key, tie, tree->first))
        tree->first = node;
    struct tree_node **place = &tree->root;
    while (*place) {
        struct tree_node *parent = *place;
        parent->count++;
        node->parent = parent;
        place = is_before(key, tie, parent) ? &parent->left : &parent->right;
    }
    *place = node;
    while (node->parent && node->parent->heap < node->heap)
        rotate_up(tree, node);
    weigh_up(tree, node);
}

void dip__tree_remove(struct tree *tree, struct tree_node *node)
{
    dip_assert(node->count > 0);
    if (tree->first == node)
        tree->first = dip__tree_next(node);
    while (node->left && node->right)
        rotate_up(tree, node->left->heap >= node->right->heap ? node->left : node->right);
    for (struct tree_node *up = node->parent; up; up = up->parent)
        up->count--;
    replace(tree, node, node->left ? node->left : node->right);
    weigh_up(tree, node->parent);
    *node = (struct tree_node){0};
}

void dip__tree_move(struct tree *tree, struct tree_node *node, int64_t key, uint64_t tie)
{
    if (node->count > 0 && node->key == key && node->tie == tie)
        return;
    if (node->count > 0)
        dip__tree_remove(tree, node);
    dip__tree_insert(tree, node, key, tie);
}

struct tree_node *dip__tree_next(struct tree_node *node)
{
    if (node->right) {
        node = node->right;
        while (node->left)
            node = node->left;
        return node;
    }
    while (node->parent && node->parent->right == node)
        node = node->parent;
    return node->parent;
}

int dip__tree_rank(const struct tree_node *node)
{
    dip_assert(node->count > 0);
    int rank = count_of(node->left);
    for (; node->parent; node = node->parent)
        if (node->parent->right == node)
            rank += 1 + count_of(node->parent->left);
    return rank;
}

int dip__tree_rank_of(const struct tree *tree, int64_t key, uint64_t tie)
{
    int rank = 0;
    for (const struct tree_node *node = tree->root; node;) {
        bool is_left = is_before(key, tie, node);
        if (!is_left)
            rank += 1 + count_of(node->left);
        node = is_left ? node->left : node->right;
    }
    return rank;
}

struct tree_node *dip__tree_at(const struct tree *tree, int rank)
{
    struct tree_node *node = rank >= 0 ? tree->root : NULL;
    while (node && count_of(node->left) != rank) {
        if (rank < count_of(node->left)) {
            node = node->left;
        } else {
            rank -= 1 + count_of(node->left);
            node = node->right;
        }
    }
    return node;
}

int64_t dip__tree_work(const struct tree *tree)
{
    dip_assert(tree->is_weighed);
    return work_of(tree->root);
}

int64_t dip__tree_begin_by(const struct tree *tree)
{
    dip_assert(tree->is_weighed);
    return begin_by_of(tree->root);
}

int64_t dip__tree_work_before(const struct tree *tree, int64_t key, uint64_t tie)
{
    int64_t work = 0;
    dip_assert(tree->is_weighed);
    for (struct tree_node *node = tree->root; node;) {
        bool is_left = is_before(key, tie, node);
        if (!is_left)
            work += work_of(node->left) + weight_of(node)->work;
        node = is_left ? node->left : node->right;
    }
    return work;
}

int64_t dip__tree_begin_by_after(const struct tree *tree, int64_t key, uint64_t tie)
{
    int64_t work = 0, begin_by = INT64_MAX;
    dip_assert(tree->is_weighed);
    for (struct tree_node *node = tree->root; node;) {
        bool is_left = is_before(key, tie, node);
        int64_t before = work + work_of(node->left), after = before + weight_of(node)->work;
        if (is_left)
            begin_by = earlier(
                begin_by, earlier(node->key - before, sooner(begin_by_of(node->right), after)));
        else
            work = after;
        node = is_left ? node->left : node->right;
    }
    return begin_by;
}
