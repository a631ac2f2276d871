/* model/weights.h - the tensors of a checkpoint by name, mapped read-only and used where they lie.
 *
 * One model.safetensors, or shards listed by model.safetensors.index.json. Every offset, shape
 * product and dtype is checked when a file is opened; a tensor's values are looked at (NaN,
 * infinity) when it is bound. Thread: any, after open; binding marks tensors as used and belongs to
 * one thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"
#include "ops/ops.h"

struct dip_weights;

struct dip_weight {
    const char *name;
    const char *dtype_name; /* as stored, "BF16"; may be one we cannot compute with */
    const char *file;       /* shard it lies in, relative to the directory */
    int rank;
    int64_t dims[DIP_TENSOR_RANK_MAX];
    size_t bytes;
    const void *data;
};

/* Errors: NOT_FOUND, CORRUPT, LIMIT, NO_MEMORY with a sentence. */
DIP_MUST_USE enum dip_status dip_weights_open(const char *directory, struct dip_why *why,
                                              struct dip_weights **ret_weights);

/* Random normal weights for a benchmark: nothing is found on disk; every dip_weights_bind creates
 * its tensor in memory (bf16, N(0, 1/fan_in) for matrices, 1 for vectors ending in "norm..weight"
 * style names, 0 for biases). */
DIP_MUST_USE enum dip_status dip_weights_random(uint64_t seed, struct dip_weights **ret_weights);
void dip_weights_close(struct dip_weights *weights);

/* Gives back the memory of what has been read only to be checked: what is used comes back when it
 * is used. Of random weights nothing can be given back. */
void dip_weights_rest(const struct dip_weights *weights);

/* After that: all of a dense view will be used, and what lies beside it need not come with it. */
void dip_weights_expect(const struct dip_weights *weights, struct dip_tensor view);

/* Both, for all that has been bound: a process that uses half of a model holds half of it. */
void dip_weights_keep_used(const struct dip_weights *weights);

/* NULL when absent. */
const struct dip_weight *dip_weights_find(const struct dip_weights *weights, const char *name);

/* For listings: in file order. */
size_t dip_weights_count(const struct dip_weights *weights);
const struct dip_weight *dip_weights_at(const struct dip_weights *weights, size_t index);
size_t dip_weights_bytes(const struct dip_weights *weights);

/* The tensor `name` as a view, after checking shape, dtype (F32, BF16, F16), alignment and values;
 * marks it used. Rank and dims must match exactly. One sentence names tensor, expected and found.
 */
DIP_MUST_USE enum dip_status dip_weights_bind(struct dip_weights *weights, const char *name,
                                              int rank, const int64_t *dims, struct dip_why *why,
                                              struct dip_tensor *ret_tensor);

/* The same with a printf-style name prefix and shorter calls: dims beyond rank are ignored. */
DIP_MUST_USE enum dip_status dip_weights_bind_1d(struct dip_weights *weights, struct dip_why *why,
                                                 struct dip_tensor *ret_tensor, int64_t d0,
                                                 const char *format, ...) DIP_PRINTF(5, 6);
DIP_MUST_USE enum dip_status dip_weights_bind_2d(struct dip_weights *weights, struct dip_why *why,
                                                 struct dip_tensor *ret_tensor, int64_t d0,
                                                 int64_t d1, const char *format, ...)
    DIP_PRINTF(6, 7);
DIP_MUST_USE enum dip_status dip_weights_bind_4d(struct dip_weights *weights, struct dip_why *why,
                                                 struct dip_tensor *ret_tensor, int64_t d0,
                                                 int64_t d1, int64_t d2, int64_t d3,
                                                 const char *format, ...) DIP_PRINTF(8, 9);

/* After everything is bound: a tensor that nothing used and that is in no namespace known to be
 * optional (image tokenizer, autoencoder encoder, editing connectors, a duplicate head) fails by
 * name. Random weights always pass. */
DIP_MUST_USE enum dip_status dip_weights_check_unused(const struct dip_weights *weights,
                                                      struct dip_why *why);

/* Looks at every value of every tensor that could be bound, for who wants to be sure rather than
 * quick: reads the whole checkpoint. Errors: CORRUPT, naming the first tensor with a NaN or an
 * infinity. */
DIP_MUST_USE enum dip_status dip_weights_check_values(const struct dip_weights *weights,
                                                      struct dip_why *why);

/* SHA-256 hex over names, dtypes, shapes and sampled bytes of all tensors in name order. */
DIP_MUST_USE enum dip_status dip_weights_digest(const struct dip_weights *weights,
                                                char ret_hex[65]);
