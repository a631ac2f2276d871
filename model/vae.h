/* model/vae.h - the autoencoder's decoder: DC-AE, latents to RGB.
 *
 * Owns views into weights. Paper: Chen et al. 2024, "Deep compression autoencoder" (2410.10733);
 * reference class AutoencoderDC of diffusers 0.34.0. Letters: h x w latent size, c latent channels,
 * f spatial factor 2^(stages-1). */
#pragma once

#include "base/arena.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/ops.h"

struct dip_vae;

DIP_MUST_USE enum dip_status dip_vae_new(const struct dip_vae_config *config,
                                         struct dip_weights *weights, struct dip_why *why,
                                         struct dip_vae **ret_vae);
void dip_vae_free(struct dip_vae *vae);

/* As dip_ar_place. */
DIP_MUST_USE enum dip_status dip_vae_place(struct dip_vae *vae, struct dip_stream *s,
                                           struct dip_why *why);

/* image [h*f, w*f, 3] f32 in about -1..1 from a scaled latent [h, w, c] f32 NHWC (the division by
 * scaling_factor is done here). scratch: dip_vae_scratch_bytes(vae, h, w). dip_rgb8 makes the 8-bit
 * picture of it. */
size_t dip_vae_scratch_bytes(const struct dip_vae *vae, int64_t height, int64_t width);
DIP_MUST_USE enum dip_status dip_vae_decode(const struct dip_vae *vae, struct dip_stream *s,
                                            struct dip_tensor image, struct dip_tensor latent,
                                            struct dip_arena *scratch);
