/* model/dit.h - the diffusion panel: SANA-1.5, one guided velocity prediction per call for a batch
 * of jobs.
 *
 * Owns views into weights, and after dip_dit_prepare one constant vector per block. Immutable after
 * that. Papers: SANA (2410.10629), SANA-1.5 (2501.18427); reference class SanaTransformer2DModel of
 * diffusers 0.34.0. Exact savings (bits differ from the reference only by rounding): the context's
 * keys and values are computed once per image, and the unconditional branch, whose context rows are
 * all equal, has the constant cross-attention output Wout v0 + bout per block. Letters: B jobs, N
 * latent tokens, M context rows, D width, c latent channels, h x w latent size. */
#pragma once

#include "base/arena.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/ops.h"

struct dip_dit;

DIP_MUST_USE enum dip_status dip_dit_new(const struct dip_dit_config *config,
                                         struct dip_weights *weights, struct dip_why *why,
                                         struct dip_dit **ret_dit);
void dip_dit_free(struct dip_dit *dit);

/* As dip_ar_place. */
DIP_MUST_USE enum dip_status dip_dit_place(struct dip_dit *dit, struct dip_stream *s,
                                           struct dip_why *why);

/* Once after load and placing: the unconditional branch's constants from null_context [1,
 * caption_channels], device memory held by the dit until dip_dit_free. */
DIP_MUST_USE enum dip_status dip_dit_prepare(struct dip_dit *dit, struct dip_stream *s,
                                             struct dip_tensor null_context, struct dip_why *why);

/* Keys and values of one job's context, all blocks (block i is rows i*M .. i*M + M-1 of k and v):
 * memory of dip_dit_context_bytes(dit, M_max) bytes given by the caller. */
size_t dip_dit_context_bytes(const struct dip_dit *dit, int64_t row_count);
size_t dip_dit_context_scratch_bytes(const struct dip_dit *dit, int64_t row_count);
/* From condition [M, caption_channels] f32 (connector output). `memory` is device memory, aligned.
 */
DIP_MUST_USE enum dip_status dip_dit_context_init(const struct dip_dit *dit, struct dip_stream *s,
                                                  void *memory, struct dip_tensor condition,
                                                  struct dip_arena *scratch,
                                                  struct dip_cross_context *ret_context);

/* velocity_uncond, velocity_cond [B, h, w, c] from latent [B, h, w, c] f32 NHWC; job b at timestep
 * t[b] (0..1000, host f32[B]) under contexts[b] (host [B]). No output may alias the latent.
 * scratch: dip_dit_scratch_bytes(dit, B, h, w, M_max). A job's velocity has the same bits whatever
 * else is in the batch. h and w are multiples of the patch size. Without guidance the unconditional
 * branch is not computed: velocity_uncond has no data then. Where t and contexts are the device's,
 * nothing but device memory is read, so the call can be recorded. */
struct dip_dit_args {
    struct dip_tensor velocity_uncond, velocity_cond, latent;
    const float *t;
    const struct dip_cross_context *contexts;
};
size_t dip_dit_scratch_bytes(const struct dip_dit *dit, int batch, int64_t height, int64_t width,
                             int64_t context_rows);
DIP_MUST_USE enum dip_status dip_dit_forward(const struct dip_dit *dit, struct dip_stream *s,
                                             const struct dip_dit_args *args,
                                             struct dip_arena *scratch);
