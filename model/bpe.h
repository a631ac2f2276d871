/* model/bpe.h - byte-pair merging of one piece of text. Of model/ only.
 *
 * Reference: Sennrich et al. 2016, "Neural machine translation of rare words with subword units",
 * on bytes as in GPT-2. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* The pair (left, right) becomes `merged`; a lower rank goes first. */
struct dip__merge {
    int32_t left, right;
    int32_t merged; /* -1: the place in the table is free */
    uint32_t rank;
};

struct dip__bpe {
    int32_t byte_ids[256]; /* the symbol each byte starts as */
    struct dip__merge
        *table; /* open addressing, a power of two places, at most half of them used */
    size_t place_count;
};

/* A table for merge_count merges, empty. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__bpe_init(struct dip__bpe *bpe, size_t merge_count);
void dip__bpe_deinit(struct dip__bpe *bpe);

/* Errors: CORRUPT (the pair is there already), LIMIT (too many pairs share a place). */
DIP_MUST_USE enum dip_status dip__bpe_add(struct dip__bpe *bpe, const struct dip__merge *merge);

struct dip__bpe_symbol;
struct dip__bpe_pair;

/* Memory of one call, grown to its longest piece and reused. Zero-initialise. */
struct dip__bpe_scratch {
    struct dip__bpe_symbol *symbols;
    struct dip__bpe_pair *heap;
    size_t symbol_count_max;
    size_t heap_count;
    size_t pop_count; /* work done so far: at most 3 pops a byte, whatever the text */
};
void dip__bpe_scratch_deinit(struct dip__bpe_scratch *scratch);

/* The ids of piece[bytes], bytes > 0. Errors: NO_MEMORY, LIMIT (more than ids_max). */
DIP_MUST_USE enum dip_status dip__bpe_encode(const struct dip__bpe *bpe,
                                             struct dip__bpe_scratch *scratch, const char *piece,
                                             size_t bytes, int32_t *ids, size_t ids_max,
                                             size_t *ret_count);
