/* tests/unit/tree.c - the ordered set of cluster/ against a sorted array, over random operations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cluster/tree.h"

enum { NODES = 300, KEYS = 40, TURNS = 20000 };

struct model {
    struct tree tree;
    struct tree_node nodes[NODES];
    struct tree_node *sorted[NODES];
    int count;
};

static uint32_t draw(uint64_t *draws)
{
    struct dip_rng_key key = {.seed = 7, .purpose = DIP_RNG_TEST};
    uint32_t words[4];
    dip_rng_words(&key, (*draws)++, words);
    return words[0];
}

static int place_of(const struct model *m, int64_t key, uint64_t tie)
{
    int place = 0;
    while (place < m->count && (m->sorted[place]->key < key ||
                                (m->sorted[place]->key == key && m->sorted[place]->tie <= tie)))
        place++;
    return place;
}

static void model_insert(struct model *m, struct tree_node *node, int64_t key)
{
    uint64_t tie = (uint64_t)(node - m->nodes);
    int place = place_of(m, key, tie);
    memmove(m->sorted + place + 1, m->sorted + place,
            (size_t)(m->count++ - place) * sizeof m->sorted[0]);
    m->sorted[place] = node;
    dip__tree_insert(&m->tree, node, key, tie);
}

static void model_remove(struct model *m, struct tree_node *node)
{
    int place = 0;
    while (m->sorted[place] != node)
        place++;
    memmove(m->sorted + place, m->sorted + place + 1,
            (size_t)(--m->count - place) * sizeof m->sorted[0]);
    dip__tree_remove(&m->tree, node);
}

static void check(const struct model *m, int rank)
{
    assert_int_equal(dip__tree_count(&m->tree), m->count);
    assert_ptr_equal(m->tree.first, m->count > 0 ? m->sorted[0] : NULL);
    assert_ptr_equal(dip__tree_at(&m->tree, rank), rank < m->count ? m->sorted[rank] : NULL);
    assert_null(dip__tree_at(&m->tree, -1));
    if (rank >= m->count)
        return;
    assert_int_equal(dip__tree_rank(m->sorted[rank]), rank);
    assert_ptr_equal(dip__tree_next(m->sorted[rank]),
                     rank + 1 < m->count ? m->sorted[rank + 1] : NULL);
}

static void it_is_a_sorted_array(void **state)
{
    (void)state;
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    uint64_t draws = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        struct tree_node *node = &m->nodes[draw(&draws) % NODES];
        int64_t key = (int64_t)(draw(&draws) % KEYS) - KEYS / 2;
        if (!dip__tree_has(node))
            model_insert(m, node, key);
        else
            model_remove(m, node);
        check(m, (int)(draw(&draws) % NODES));
        assert_int_equal(dip__tree_rank_of(&m->tree, key, UINT64_MAX),
                         place_of(m, key, UINT64_MAX));
    }
    while (m->count > 0)
        model_remove(m, m->sorted[draw(&draws) % (uint32_t)m->count]);
    check(m, 0);
    free(m);
}

/* Sorted input is the worst case of a plain binary tree. */
static void it_stays_flat(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    struct tree tree = {0};
    struct tree_node *nodes = calloc(MANY, sizeof *nodes);
    assert_non_null(nodes);
    for (int i = 0; i < MANY; i++)
        dip__tree_insert(&tree, &nodes[i], i, (uint64_t)i);
    int deepest = 0;
    for (int i = 0; i < MANY; i++) {
        int depth = 0;
        for (const struct tree_node *node = &nodes[i]; node->parent; node = node->parent)
            depth++;
        deepest = depth > deepest ? depth : deepest;
    }
    assert_true(deepest < 60); /* about 2.5 times the best */
    free(nodes);
}

/* ---- weights ---- */

struct weighed {
    struct tree tree;
    struct tree_weight nodes[NODES];
};

static bool is_behind(const struct tree_node *node, int64_t key, uint64_t tie)
{
    return node->key > key || (node->key == key && node->tie > tie);
}

/* By walking through all of them. */
static void check_weights(const struct weighed *m, int64_t key)
{
    int64_t work = 0, before = 0, begin_by = INT64_MAX, after = INT64_MAX;
    for (struct tree_node *node = m->tree.first; node; node = dip__tree_next(node)) {
        int64_t latest = node->key - work;
        begin_by = latest < begin_by ? latest : begin_by;
        bool is_after = is_behind(node, key, UINT64_MAX);
        after = is_after && latest < after ? latest : after;
        work += ((struct tree_weight *)node)->work;
        before = is_after ? before : work;
    }
    assert_int_equal(dip__tree_work(&m->tree), work);
    assert_int_equal(dip__tree_begin_by(&m->tree), begin_by);
    assert_int_equal(dip__tree_work_before(&m->tree, key, UINT64_MAX), before);
    assert_int_equal(dip__tree_begin_by_after(&m->tree, key, UINT64_MAX), after);
}

static void it_knows_when_the_whole_must_begin(void **state)
{
    (void)state;
    struct weighed *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->tree.is_weighed = true;
    uint64_t draws = 0;
    for (int turn = 0; turn < TURNS / 4; turn++) {
        struct tree_weight *node = &m->nodes[draw(&draws) % NODES];
        int64_t key = (int64_t)(draw(&draws) % KEYS) - KEYS / 2;
        if (dip__tree_has(&node->node)) {
            dip__tree_remove(&m->tree, &node->node);
        } else {
            node->work = draw(&draws) % 10;
            dip__tree_insert(&m->tree, &node->node, key, (uint64_t)(node - m->nodes));
        }
        check_weights(m, key);
    }
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_a_sorted_array),
        cmocka_unit_test(it_stays_flat),
        cmocka_unit_test(it_knows_when_the_whole_must_begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
