/* engine/engine.h - front door of engine/: jobs in slots, advanced one step at a time on one
 * device.
 *
 * Two engines, one per panel. Each owns its slots, its device memory (reserved at start: no
 * allocation, lock or I/O inside a step) and a stream; each knows no peer, no socket and no clock.
 * The owner thread admits jobs between steps, calls step, and takes the events the step left.
 * Results of a job do not depend on what else is in the engine. Letters: H hidden size, M = tokens
 * + 1 context rows, V vocabulary, c latent channels, h x w latent size. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/status.h"
#include "model/model.h"
#include "ops/ops.h"

/* ---- parameters shared by both halves of a request ---- */

struct dip_image_params {
    uint64_t seed;
    uint32_t image_index;
    float temperature;
    int32_t top_k;
    float top_p;
    int steps;
    float guidance;
    enum dip_sampler sampler;
    int latent_height, latent_width;
    int token_count; /* image tokens to draw: grid height * width */
};

/* ---- autoregressive engine ---- */

struct dip_ar_engine;

struct dip_ar_engine_options {
    int slot_count; /* sequences decoded in lockstep, 1..DIP_SLOTS_MAX */
    int prompt_tokens_max;
    int image_tokens_max;
    int prefill_rows_max;  /* prompt rows per step, so that a long prompt does not stall the others
                            */
    struct dip_comm *comm; /* the group of which this engine is a rank; NULL = alone. Stays the
                              caller's, closed after the engine is freed */
    bool is_stepwise;      /* no step begins before the host has seen the one before, also where
                              the device could go on by itself: for comparison. The same results */
    int candidates_max; /* of a row that a rank of a group sends on in a recorded step; 0 = those of
                           the published top-k and ties. Fewer are for tests: the same results */
};

/* In a group every rank makes an engine with equal options, which binds its shard of the panel.
 * Rank 0 is driven like an engine alone; the others follow it (dip_ar_engine_follow) and hold the
 * same jobs in the same slots. What rank 0 admits or cancels reaches them between two steps. All
 * ranks draw the ids that one alone draws. */
DIP_MUST_USE enum dip_status dip_ar_engine_new(const struct dip_model *model,
                                               struct dip_device *device,
                                               const struct dip_ar_engine_options *options,
                                               struct dip_why *why,
                                               struct dip_ar_engine **ret_engine);
void dip_ar_engine_free(struct dip_ar_engine *engine);

/* One image. Everything pointed to is copied. forced_ids (may be NULL) teacher-forces the first
 * forced_count tokens: injected ids, or tokens drawn before a replay. */
struct dip_ar_job {
    uint64_t id;
    struct dip_image_params params;
    const int32_t *prompt_ids;
    int prompt_count;
    const int32_t *forced_ids;
    int forced_count;
};

/* Takes a slot; the prompt is shared with a slot that has the same one, else prefilled by the next
 * steps. Errors: BUSY (no free slot), LIMIT, INVALID (an id outside the vocabulary, a sampling
 * parameter out of range, an id of a live job). */
DIP_MUST_USE enum dip_status dip_ar_engine_admit(struct dip_ar_engine *engine,
                                                 const struct dip_ar_job *job);

/* Frees the slot; no event follows. Unknown ids are ignored. */
void dip_ar_engine_cancel(struct dip_ar_engine *engine, uint64_t id);
/* Above 0 while steps are due: for jobs, or on rank 0 to tell the others of one that is cancelled.
 */
int dip_ar_engine_live(const struct dip_ar_engine *engine);
int dip_ar_engine_free_slots(const struct dip_ar_engine *engine);

/* What a step did to one job. A job emits PREFILLED once, TOKENS after every step, then DONE or
 * FAILED. */
enum dip_ar_event_kind { DIP_AR_PREFILLED, DIP_AR_TOKENS, DIP_AR_DONE, DIP_AR_FAILED };
struct dip_ar_event {
    enum dip_ar_event_kind kind;
    uint64_t id;
    enum dip_status status; /* FAILED */
    int tokens_done;
    /* Valid until the next admit, cancel or step. */
    const int32_t *image_ids; /* [tokens_done], with TOKENS and DONE: where a replay resumes; DONE
                                 has fewer than asked when an end-of-sequence id was drawn */
    const float *hidden;      /* DONE: [tokens_done + 1, H] host memory */
};

/* One advance of all live slots: at most prefill_rows_max prompt rows, one token for every decoding
 * slot. Writes up to one event per live job. Errors: DEVICE; in a group those of ops/comm.h,
 * within its bounds: a rank was lost, and with it the group. The engine is dead then. */
DIP_MUST_USE enum dip_status dip_ar_engine_step(struct dip_ar_engine *engine,
                                                struct dip_ar_event *events, int event_count_max,
                                                int *ret_event_count);

/* One turn of a rank other than 0: a step while jobs are live, else what rank 0 has to say, for
 * which it waits at most wait_ns. Errors: BUSY (nothing yet), those of dip_ar_engine_step. */
DIP_MUST_USE enum dip_status dip_ar_engine_follow(struct dip_ar_engine *engine, int64_t wait_ns);

/* ---- diffusion engine ---- */

struct dip_diffusion_engine;

struct dip_diffusion_engine_options {
    int slot_count;
    int batch_max; /* jobs of equal size advanced in one forward pass */
    int context_rows_max;
    int latent_height_max, latent_width_max;
    bool is_stepwise; /* for tests and measurements: never record a step, run each from the host */
};

DIP_MUST_USE enum dip_status
dip_diffusion_engine_new(const struct dip_model *model, struct dip_device *device,
                         const struct dip_diffusion_engine_options *options, struct dip_why *why,
                         struct dip_diffusion_engine **ret_engine);
void dip_diffusion_engine_free(struct dip_diffusion_engine *engine);

enum dip_preview_kind { DIP_PREVIEW_NONE, DIP_PREVIEW_LINEAR, DIP_PREVIEW_DECODED };

/* What a trace records, each called on the owner thread with host memory valid during the call.
 * NULL = no trace. name: "condition" [M, C], "noise" [c, h, w], "velocity.K", "latent.K", "latent"
 * [c, h, w]: design.md section 5. */
typedef void (*dip_trace_fn)(void *context, uint64_t id, const char *name, const float *data,
                             const int64_t *dims, int rank);

struct dip_diffusion_job {
    uint64_t id;
    struct dip_image_params params;
    const float *hidden; /* [hidden_rows, H] host, copied */
    int hidden_rows;
    const float *noise; /* [c, h, w] host, copied; NULL = drawn from the seed */
    /* Go on from a checkpoint: the latent after so many steps instead of noise, and the clean
     * estimate of the last of them, which a sampler of two steps looks back at. 0 = from noise. */
    int resume_steps;
    const float *resume_latent, *resume_history; /* [c, h, w] host, copied */
    enum dip_preview_kind preview;
    int preview_every; /* steps between previews; 0 = none */
    dip_trace_fn trace;
    void *trace_context;
};

/* Errors: BUSY, LIMIT (size or rows above what was reserved), INVALID, UNSUPPORTED (a linear
 * preview of a model without the map). */
DIP_MUST_USE enum dip_status dip_diffusion_engine_admit(struct dip_diffusion_engine *engine,
                                                        const struct dip_diffusion_job *job);
void dip_diffusion_engine_cancel(struct dip_diffusion_engine *engine, uint64_t id);

/* Where a sampler can go on: copies of a job's latent after its last step and of its last clean
 * estimate, each [c, h, w] host. A job that is resumed from them gives the same bytes. Errors:
 * INVALID (no such job between two of its steps), DEVICE. */
DIP_MUST_USE enum dip_status dip_diffusion_engine_checkpoint(struct dip_diffusion_engine *engine,
                                                             uint64_t id, float *ret_latent,
                                                             float *ret_history);
int dip_diffusion_engine_live(const struct dip_diffusion_engine *engine);
int dip_diffusion_engine_free_slots(const struct dip_diffusion_engine *engine);

/* CONDITIONED once, STEP after each step (with rgb when a preview is due), DECODED last with the
 * picture. */
enum dip_diffusion_event_kind {
    DIP_DIFFUSION_CONDITIONED,
    DIP_DIFFUSION_STEP,
    DIP_DIFFUSION_DECODED,
    DIP_DIFFUSION_FAILED
};
struct dip_diffusion_event {
    enum dip_diffusion_event_kind kind;
    uint64_t id;
    enum dip_status status;
    int steps_done;
    const unsigned char *
        rgb; /* u8 [height, width, 3] host, valid until the next admit, cancel or step; else NULL */
    int width, height;
};

/* How many jobs the next advance could step together, at most batch_max, and a positive number that
 * is equal for jobs whose steps are alike (size, guided or not); 0 when it is no sampler step. */
int dip_diffusion_engine_due(const struct dip_diffusion_engine *engine, int64_t *ret_kind);
/* From now on a step takes no more than `count` of them, 1 .. batch_max, which it was at first. */
void dip_diffusion_engine_set_batch(struct dip_diffusion_engine *engine, int count);

/* One advance: condition new jobs, one sampler step for up to so many jobs (round robin), or one
 * decode. Events: at most one per live slot. Errors: DEVICE. */
DIP_MUST_USE enum dip_status dip_diffusion_engine_step(struct dip_diffusion_engine *engine,
                                                       struct dip_diffusion_event *events,
                                                       int event_count_max, int *ret_event_count);

/* ---- pictures ---- */

/* A PNG in memory: 8-bit RGB, fast filter and compression level. Text chunks are key/value pairs,
 * written in order. The bytes depend on the arguments only. The caller frees *ret_data. Errors:
 * NO_MEMORY, LIMIT, INVALID. */
struct dip_png_text {
    const char *key;   /* 1..79 Latin-1 characters */
    const char *value; /* UTF-8 */
};
DIP_MUST_USE enum dip_status dip_png_encode(const unsigned char *rgb, int width, int height,
                                            const struct dip_png_text *texts, int text_count,
                                            unsigned char **ret_data, size_t *ret_bytes);

/* ---- measurements: dip_bench_run ---- */

#include "engine/bench.h"
