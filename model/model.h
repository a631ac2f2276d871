/* model/model.h - front door of model/: a model directory opened, checked and bound.
 *
 * dip_model owns the mapped weights, the configuration, the tokenizer and the four networks; all
 * are immutable once dip_model_prepare has run, so any number of engines on one device may share
 * it. Nothing in a model directory can run: only safetensors and JSON are read. */
#pragma once

#include "model/ar.h"
#include "model/config.h"
#include "model/connector.h"
#include "model/dit.h"
#include "model/prompt.h"
#include "model/schedule.h"
#include "model/tokenizer.h"
#include "model/vae.h"
#include "model/weights.h"

struct dip_model {
    struct dip_config config;
    struct dip_weights *weights;
    struct dip_tokenizer *tokenizer;
    struct dip_ar *ar;
    struct dip_connector *connector;
    struct dip_dit *dit;
    struct dip_vae *vae;
    char digest[65]; /* SHA-256 over the names, dtypes, shapes and sampled bytes of the tensors:
                        part of the fingerprint */
};

/* Opens, checks and binds everything; a tensor that is missing, misshapen, NaN-filled or that
 * nothing reads fails with one sentence. No device is needed. Errors: NOT_FOUND, CORRUPT,
 * UNSUPPORTED, LIMIT, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_model_open(const char *directory, struct dip_why *why,
                                            struct dip_model **ret_model);
void dip_model_close(struct dip_model *model);

/* Only what a process needs: the rest is NULL and costs neither memory nor time. The digest is that
 * of the whole model. Weights that nothing reads are looked for only when all networks are bound.
 */
enum dip_model_part {
    DIP_MODEL_TOKENIZER = 1,
    DIP_MODEL_AR = 2,
    DIP_MODEL_DIFFUSION = 4, /* connector, transformer, decoder */
    DIP_MODEL_ALL = 7,
}; /* bits */
DIP_MUST_USE enum dip_status dip_model_open_parts(const char *directory, uint32_t parts,
                                                  struct dip_why *why,
                                                  struct dip_model **ret_model);

/* Random weights of built-in true shapes made in memory, for benchmarks: see dip_config_shape. Only
 * the parts that the shape has are present (the others NULL). */
DIP_MUST_USE enum dip_status dip_model_random(const char *shape, uint64_t seed, struct dip_why *why,
                                              struct dip_model **ret_model);

/* Puts the diffusion half onto the stream's device and computes its load-time constants there
 * (unconditional branch). The autoregressive panel is placed by the engine that runs it, whole or
 * as a shard. */
DIP_MUST_USE enum dip_status dip_model_prepare(struct dip_model *model, struct dip_stream *s,
                                               struct dip_why *why);

/* Linear preview: rgb u8 [h, w, 3] (host) from a scaled clean latent [h, w, c] f32 (host): the
 * least-squares map of diptych.json's preview_rgb. Errors: UNSUPPORTED when the model has no such
 * map. */
DIP_MUST_USE enum dip_status dip_model_preview(const struct dip_model *model, const float *latent,
                                               int64_t height, int64_t width,
                                               unsigned char *ret_rgb);
