/* cluster/tree.h - ordered sets of things that carry their own node; private to cluster/.
 *
 * A treap (Seidel and Aragon 1996, "Randomized search trees") ordered by (key, tie), with counts,
 * so that the first, a rank and the k-th are found in O(log n). The heap order is a hash of the
 * tie, so equal histories build equal trees. Nothing is allocated; a node is in one tree at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tree_node {
    struct tree_node *left, *right, *parent;
    int64_t key;
    uint64_t tie;  /* different for every node of a tree */
    uint32_t heap; /* a parent's is not smaller */
    int32_t count; /* nodes below and this one; 0 = in no tree */
};

/* In a tree that weighs: what a node takes, and what follows for those below it, when all are done
 * one after the other in their order and each must begin by its key. */
struct tree_weight {
    struct tree_node node; /* first */
    int64_t work;
    int64_t work_sum; /* of the nodes below and this one */
    int64_t begin_by; /* when the first of them must begin, that none is late */
};

struct tree {
    struct tree_node *root, *first;
    bool is_weighed; /* all of its nodes are those of tree_weights; set while it is empty */
};

/* The struct that a node is the field of. */
#define dip__tree_owner(node, type, field) ((type *)(void *)((char *)(node)-offsetof(type, field)))

void dip__tree_insert(struct tree *tree, struct tree_node *node, int64_t key, uint64_t tie);
void dip__tree_remove(struct tree *tree, struct tree_node *node);

/* Removes it if it is in the tree, and puts it in under the new key. */
void dip__tree_move(struct tree *tree, struct tree_node *node, int64_t key, uint64_t tie);

static inline bool dip__tree_has(const struct tree_node *node)
{
    return node->count > 0;
}

static inline int dip__tree_count(const struct tree *tree)
{
    return tree->root ? tree->root->count : 0;
}

struct tree_node *dip__tree_next(struct tree_node *node);

/* Nodes before this one; and before a place that nobody has. */
int dip__tree_rank(const struct tree_node *node);
int dip__tree_rank_of(const struct tree *tree, int64_t key, uint64_t tie);

/* The node with so many before it; NULL beyond the last. */
struct tree_node *dip__tree_at(const struct tree *tree, int rank);

/* Of a tree that weighs: all work, and when it must begin; INT64_MAX when nothing must. */
int64_t dip__tree_work(const struct tree *tree);
int64_t dip__tree_begin_by(const struct tree *tree);
/* All that goes before a place that nobody has. */
int64_t dip__tree_work_before(const struct tree *tree, int64_t key, uint64_t tie);
/* When the whole must begin, that of those behind that place none is late. */
int64_t dip__tree_begin_by_after(const struct tree *tree, int64_t key, uint64_t tie);
