/* model/shard.h - which part of the autoregressive panel each rank of a tensor-parallel group owns.
 *
 * A pure function of the configuration and the degree, so that the coordinator that plans and the
 * rank that loads agree without a word. Column-parallel products (queries, keys, values, gate, up)
 * split by output rows; row-parallel ones (attention output, MLP down) by whole chunks of their
 * canonical reduction, which is what makes every degree give the same bits (ops/comm.h). The head
 * splits by vocabulary rows. Norms and the embedding table are everywhere; of the table a rank
 * reads only the rows of the tokens it is given. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/config.h"

enum { DIP_SHARD_DEGREE_MAX = 16 };

struct dip_range {
    int64_t first, count;
};

struct dip_shard {
    int rank, degree;
    struct dip_range heads;        /* query heads */
    struct dip_range kv_heads;     /* the key/value heads that those read */
    struct dip_range intermediate; /* MLP channels */
    struct dip_range vocab;        /* rows of the head */
};

/* Chunks of the canonical reduction over K inputs, by all ranks together: one per key/value head,
 * the finest split of attention over processes, else up to 8; a power of two that divides K. */
int dip_shard_chunks(const struct dip_ar_config *config, int64_t K);

/* Whether the model can be cut into `degree` ranks. Errors: UNSUPPORTED with a sentence that says
 * why not and which degrees can be had. */
DIP_MUST_USE enum dip_status dip_shard_check(const struct dip_ar_config *config, int degree,
                                             struct dip_why *why);

/* The part of `rank`; the degree has passed dip_shard_check. */
struct dip_shard dip_shard_of(const struct dip_ar_config *config, int rank, int degree);

/* Bytes of the weights that a rank binds, at element_bytes each (2 for bf16), the embedding table
 * in full. */
size_t dip_shard_weights_bytes(const struct dip_ar_config *config, const struct dip_shard *shard,
                               size_t element_bytes);
