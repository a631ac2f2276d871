/* model/ar.h - the autoregressive panel: Qwen3, one forward pass over a batch of rows from many
 * sequences.
 *
 * Owns views into weights, a shard's copies and the rotary table; immutable after dip_ar_new, so
 * engines may share it. Paper: Qwen3 technical report (2505.09388); reference class
 * Qwen3ForCausalLM of transformers 4.51.3. Formulas: docs/models/blip3o-next.md. Letters: R rows in
 * this call, H hidden size, V vocabulary. */
#pragma once

#include "base/arena.h"
#include "model/config.h"
#include "model/shard.h"
#include "model/weights.h"
#include "ops/comm.h"
#include "ops/ops.h"

struct dip_ar;

/* Binds and checks every tensor by name and shape. Errors: CORRUPT, NOT_FOUND with a sentence;
 * NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_ar_new(const struct dip_ar_config *config,
                                        struct dip_weights *weights, struct dip_why *why,
                                        struct dip_ar **ret_ar);
void dip_ar_free(struct dip_ar *ar);

/* The part of the panel that one rank of a tensor-parallel group owns: the same binding and checks,
 * then the rank's slices only. Whole rows stay views of the file; columns, which lie in every page
 * of it, and norms are copied once. The process keeps no other part of the weights in memory. With
 * a degree above 1 forward needs a group (dip_ar_args. comm) of that degree, caches hold the rank's
 * key/value heads, and logits are those of the rank's vocabulary rows. */
DIP_MUST_USE enum dip_status dip_ar_shard_new(const struct dip_ar_config *config,
                                              const struct dip_shard *shard,
                                              struct dip_weights *weights, struct dip_why *why,
                                              struct dip_ar **ret_ar);
const struct dip_shard *dip_ar_shard(const struct dip_ar *ar);

/* Onto the stream's device: its weights where it cannot read the host's memory, and its dtype of
 * activations. Before anything else is asked of the panel; again is nothing. Errors: NO_MEMORY with
 * what was missing, DEVICE. */
DIP_MUST_USE enum dip_status dip_ar_place(struct dip_ar *ar, struct dip_stream *s,
                                          struct dip_why *why);

const struct dip_ar_config *dip_ar_config(const struct dip_ar *ar); /* of the whole panel */

/* Keys and values of every layer for slot_count sequences of up to capacity positions. Reserved
 * once, device memory. */
struct dip_ar_cache {
    struct dip_mem mem;
    int slot_count;
    int capacity;
    struct dip_kv *layers; /* [layers] */
};
DIP_MUST_USE enum dip_status dip_ar_cache_init(const struct dip_ar *ar, struct dip_device *device,
                                               int slot_count, int capacity,
                                               struct dip_ar_cache *ret_cache);
void dip_ar_cache_deinit(const struct dip_ar *ar, struct dip_device *device,
                         struct dip_ar_cache *cache);

/* Positions 0..count-1 of one slot become those of another: several images from one prefill. */
DIP_MUST_USE enum dip_status dip_ar_cache_share(const struct dip_ar *ar, struct dip_stream *s,
                                                struct dip_ar_cache *cache, int from_slot,
                                                int to_slot, int count);

/* One pass: rows of any mix of slots; rows of one slot are in ascending position and all earlier
 * positions are cached. ids     i32[R] device memory, each below V        rows  [R] host hidden [R,
 * H] f32: the state after the final RMSNorm ("hidden" everywhere in this project) scratch:
 * dip_ar_scratch_bytes(ar, R). A row's hidden state has the same bits whatever else is in the call.
 */
struct dip_ar_args {
    struct dip_tensor hidden, ids;
    const struct dip_row *rows;
    struct dip_ar_cache *cache;
    struct dip_comm *comm; /* the group of a shard, whose ranks all make this call with the same ids
                              and rows; NULL when alone. Two exchanges per layer. */
};
size_t dip_ar_scratch_bytes(const struct dip_ar *ar, int row_count);
DIP_MUST_USE enum dip_status dip_ar_forward(const struct dip_ar *ar, struct dip_stream *s,
                                            const struct dip_ar_args *args,
                                            struct dip_arena *scratch);

/* logits [R, V] f32 = hidden [R, H] (f32, or the device's dtype of activations) W_head^T; the head
 * is the embedding table when tied. Of a shard, V is its vocab.count: the columns [vocab.first, +
 * vocab.count) of all logits, bit for bit. */
DIP_MUST_USE enum dip_status dip_ar_logits(const struct dip_ar *ar, struct dip_stream *s,
                                           struct dip_tensor logits, struct dip_tensor hidden);
