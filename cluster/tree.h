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

struct tree {
    struct tree_node *root, *first;
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
