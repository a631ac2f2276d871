/* model/bpe.c - merging with a heap over a linked list: n log n in the length of a piece.
 *
 * The obvious loop (find the best pair, merge it, look again) is quadratic, and one word of 20,000
 * equal letters then costs half a second. Here every adjacent pair that may merge waits in a heap
 * ordered by rank, then by position; popping the best one joins two neighbours of the list and
 * pushes the two pairs that the join creates. A pair whose neighbours have changed since is stale
 * and dropped when popped. A piece of n bytes has n - 1 pairs at first and each of at most n - 1
 * joins adds two, which bounds the heap. */
#include "model/bpe.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/limits.h"

/* Symbols stand where their first byte stood; an absorbed one has id -1. */
struct dip__bpe_symbol {
    int32_t id;
    int32_t previous, next; /* -1 at the ends */
};

struct dip__bpe_pair {
    uint32_t rank;
    int32_t at; /* the left symbol */
    int32_t merged;
};

enum {
    HEAP_PER_SYMBOL = 3,
    SYMBOLS_MIN = 64,
    PROBES_MAX = 1000, /* a table at most half full has runs of dozens; a forged one may not */
};

/* ---- the table of merges ---- */

enum dip_status dip__bpe_init(struct dip__bpe *bpe, size_t merge_count)
{
    *bpe = (struct dip__bpe){.place_count = 2};
    while (bpe->place_count < 2 * merge_count)
        bpe->place_count *= 2;
    bpe->table = malloc(bpe->place_count * sizeof *bpe->table);
    if (!bpe->table)
        return DIP_NO_MEMORY;
    for (size_t i = 0; i < bpe->place_count; i++)
        bpe->table[i] = (struct dip__merge){.merged = -1};
    return DIP_OK;
}

void dip__bpe_deinit(struct dip__bpe *bpe)
{
    free(bpe->table);
    *bpe = (struct dip__bpe){0};
}

/* The place of a pair, or the free place where it belongs. NULL when neither is near: insertion
 * stays within the same bound, so the pair is not in the table then. */
static struct dip__merge *find_merge(const struct dip__bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t hash = key * UINT64_C(0x9e3779b97f4a7c15);
    size_t mask = bpe->place_count - 1;
    size_t place = (size_t)(hash ^ hash >> 32) & mask;
    for (int i = 0; i < PROBES_MAX; i++, place = (place + 1) & mask) {
        struct dip__merge *merge = &bpe->table[place];
        if (merge->merged < 0 || (merge->left == left && merge->right == right))
            return merge;
    }
    return NULL;
}

/* What a pair becomes, or NULL. */
static const struct dip__merge *find_merged(const struct dip__bpe *bpe, int32_t left, int32_t right)
{
    const struct dip__merge *merge = find_merge(bpe, left, right);
    return merge && merge->merged >= 0 ? merge : NULL;
}

enum dip_status dip__bpe_add(struct dip__bpe *bpe, const struct dip__merge *merge)
{
    struct dip__merge *place = find_merge(bpe, merge->left, merge->right);
    if (!place)
        return DIP_LIMIT;
    if (place->merged >= 0)
        return DIP_CORRUPT;
    *place = *merge;
    return DIP_OK;
}

/* ---- the heap: lowest rank first, then leftmost ---- */

static bool is_before(struct dip__bpe_pair a, struct dip__bpe_pair b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void push_pair(struct dip__bpe_scratch *scratch, struct dip__bpe_pair pair)
{
    struct dip__bpe_pair *heap = scratch->heap;
    size_t hole = scratch->heap_count++;
    dip_assert(hole < HEAP_PER_SYMBOL * scratch->symbol_count_max);
    while (hole > 0 && is_before(pair, heap[(hole - 1) / 2])) {
        heap[hole] = heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    heap[hole] = pair;
}

static struct dip__bpe_pair pop_pair(struct dip__bpe_scratch *scratch)
{
    struct dip__bpe_pair *heap = scratch->heap;
    struct dip__bpe_pair best = heap[0];
    struct dip__bpe_pair last = heap[--scratch->heap_count];
    size_t hole = 0;
    for (size_t child = 1; child < scratch->heap_count; child = 2 * hole + 1) {
        if (child + 1 < scratch->heap_count && is_before(heap[child + 1], heap[child]))
            child++;
        if (!is_before(heap[child], last))
            break;
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = last;
    scratch->pop_count++;
    return best;
}

/* ---- merging ---- */

static enum dip_status reserve(struct dip__bpe_scratch *scratch, size_t symbol_count)
{
    if (symbol_count <= scratch->symbol_count_max)
        return DIP_OK;
    size_t count = symbol_count < SYMBOLS_MIN ? SYMBOLS_MIN : 2 * symbol_count;
    size_t pop_count = scratch->pop_count;
    dip__bpe_scratch_deinit(scratch);
    scratch->pop_count = pop_count;
    scratch->symbols = malloc(count * sizeof *scratch->symbols);
    scratch->heap = malloc(HEAP_PER_SYMBOL * count * sizeof *scratch->heap);
    if (!scratch->symbols || !scratch->heap) {
        dip__bpe_scratch_deinit(scratch);
        return DIP_NO_MEMORY;
    }
    scratch->symbol_count_max = count;
    return DIP_OK;
}

void dip__bpe_scratch_deinit(struct dip__bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct dip__bpe_scratch){0};
}

/* The pair of symbol `at` and its successor, if it can merge. */
static void consider(const struct dip__bpe *bpe, struct dip__bpe_scratch *scratch, int32_t at)
{
    const struct dip__bpe_symbol *left = &scratch->symbols[at];
    if (left->next < 0)
        return;
    const struct dip__merge *merge = find_merged(bpe, left->id, scratch->symbols[left->next].id);
    if (merge)
        push_pair(scratch, (struct dip__bpe_pair){merge->rank, at, merge->merged});
}

/* False for a pair of which a side has been absorbed or has grown since it was pushed. */
static bool is_fresh(const struct dip__bpe *bpe, const struct dip__bpe_scratch *scratch,
                     struct dip__bpe_pair pair)
{
    const struct dip__bpe_symbol *left = &scratch->symbols[pair.at];
    if (left->id < 0 || left->next < 0)
        return false;
    const struct dip__merge *merge = find_merged(bpe, left->id, scratch->symbols[left->next].id);
    return merge && merge->merged == pair.merged;
}

static void join(const struct dip__bpe *bpe, struct dip__bpe_scratch *scratch,
                 struct dip__bpe_pair pair)
{
    struct dip__bpe_symbol *left = &scratch->symbols[pair.at];
    struct dip__bpe_symbol *right = &scratch->symbols[left->next];
    left->id = pair.merged;
    left->next = right->next;
    if (right->next >= 0)
        scratch->symbols[right->next].previous = pair.at;
    right->id = -1;
    if (left->previous >= 0)
        consider(bpe, scratch, left->previous);
    consider(bpe, scratch, pair.at);
}

enum dip_status dip__bpe_encode(const struct dip__bpe *bpe, struct dip__bpe_scratch *scratch,
                                const char *piece, size_t bytes, int32_t *ids, size_t ids_max,
                                size_t *ret_count)
{
    dip_assert(bytes > 0);
    dip_assert(bytes <= 4 * (size_t)DIP_TEXT_BYTES_MAX); /* form C may lengthen a text */
    DIP_TRY(reserve(scratch, bytes));
    int32_t count = (int32_t)bytes;
    for (int32_t i = 0; i < count; i++)
        scratch->symbols[i] = (struct dip__bpe_symbol){
            .id = bpe->byte_ids[(unsigned char)piece[i]],
            .previous = i - 1,
            .next = i + 1 < count ? i + 1 : -1,
        };
    scratch->heap_count = 0;
    for (int32_t i = 0; i < count; i++)
        consider(bpe, scratch, i);
    while (scratch->heap_count > 0) {
        struct dip__bpe_pair pair = pop_pair(scratch);
        if (is_fresh(bpe, scratch, pair))
            join(bpe, scratch, pair);
    }
    size_t id_count = 0;
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) {
        if (id_count == ids_max)
            return DIP_LIMIT;
        ids[id_count++] = scratch->symbols[i].id;
    }
    *ret_count = id_count;
    return DIP_OK;
}
