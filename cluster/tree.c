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
