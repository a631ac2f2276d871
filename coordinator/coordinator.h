/* coordinator/coordinator.h - front door of coordinator/: requests in, news about them out.
 *
 * A request is resolved first (every field checked and filled in, the prompt tokenized, the seed
 * fixed; a pure function, any thread), then submitted. From there a loop thread owns it: it feeds
 * the scheduler, sends commands to workers and tells the client what happens through a callback.
 * Knows the tokenizer and the configuration of the model; never weights, engines or files. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/cluster.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "net/net.h"

/* ---- a request, as asked ---- */

/* Bounds that do not depend on the model; the command line prints the same ones. */
#define DIP_GUIDANCE_MAX    100.0
#define DIP_TEMPERATURE_MIN 0.01
#define DIP_TEMPERATURE_MAX 100.0
#define DIP_TOP_P_MIN       0.0001

/* Fields that the client set; the others take the model's defaults. */
enum {
    DIP_GIVEN_SEED = 1 << 0,
    DIP_GIVEN_STEPS = 1 << 1,
    DIP_GIVEN_GUIDANCE = 1 << 2,
    DIP_GIVEN_TEMPERATURE = 1 << 3,
    DIP_GIVEN_TOP_K = 1 << 4,
    DIP_GIVEN_TOP_P = 1 << 5,
    DIP_GIVEN_SIZE = 1 << 6,
    DIP_GIVEN_SAMPLER = 1 << 7,
};

/* What to use instead of drawing it. Each array may be NULL. */
struct dip_injection {
    const int32_t *prompt_ids; /* [prompt_count], instead of the prompt */
    int64_t prompt_count;
    const int32_t *image_ids; /* [image_count], all of the image's tokens */
    int64_t image_count;
    const float *hidden; /* [hidden_rows, hidden_columns]: the AR panel is skipped */
    int64_t hidden_rows, hidden_columns;
    const float *noise; /* [c, h, w] */
    int64_t noise_dims[3];
};

struct dip_request {
    const char *prompt; /* UTF-8, NULL when the injection makes it needless */
    size_t prompt_bytes;
    int image_count; /* 1..DIP_IMAGES_MAX */
    uint32_t given;  /* DIP_GIVEN_... */
    uint64_t seed;
    int steps;
    double guidance, temperature, top_p;
    int top_k; /* 1 is greedy, 0 keeps every id */
    int width, height;
    enum dip_job_sampler sampler;
    enum dip_job_preview preview;
    int preview_every;
    bool is_traced;    /* image 0 only */
    bool has_metadata; /* write prompt and parameters into the file */
    struct dip_injection injection;
};

/* ---- the same, checked and complete; owns its memory ---- */

struct dip_resolved {
    int image_count;
    struct dip_job_params params; /* of image 0 */
    int width, height;
    char *prompt; /* NULL when there is none */
    bool has_metadata;
    char digest[65];               /* of the model's weights */
    struct dip_payload prompt_ids; /* i32; empty with hidden */
    struct dip_payload forced_ids; /* i32 [token_count] or empty */
    struct dip_payload hidden;     /* f32 [rows, H] or empty */
    struct dip_payload noise;      /* f32 [c, h, w] or empty */
};

/* The shortest decimal that reads back as `value`: 0.95, not 0.949999988. */
enum { DIP_FLOAT_TEXT_BYTES = 32 };
void dip_float_text(float value, char ret_text[DIP_FLOAT_TEXT_BYTES]);

/* What requests are resolved against. */
struct dip_served_model {
    const struct dip_config *config;
    const struct dip_tokenizer *tokenizer;
    const char *digest;
};

/* Errors: INVALID, LIMIT, UNSUPPORTED with one sentence naming the field and what it may be;
 * CORRUPT (something injected does not fit the model); NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_request_resolve(const struct dip_request *request,
                                                 const struct dip_served_model *model,
                                                 struct dip_why *why,
                                                 struct dip_resolved *ret_resolved);
void dip_resolved_deinit(struct dip_resolved *resolved);

/* ---- the running coordinator ---- */

struct dip_coordinator;

/* News of one request, in order; ENDED is the last. */
enum dip_update_kind {
    DIP_UPDATE_ADMITTED, /* resolved, total = images ahead in the queue, start_ns, finish_ns */
    DIP_UPDATE_QUEUE,    /* total = images ahead, start_ns */
    DIP_UPDATE_PROGRESS, /* image_index, stage, done, total */
    DIP_UPDATE_PREVIEW,  /* image_index, picture */
    DIP_UPDATE_TRACE,    /* image_index, trace */
    DIP_UPDATE_IMAGE,    /* image_index, picture, timings, done = image tokens, fingerprint */
    DIP_UPDATE_RETRIED,  /* image_index, done = workers lost so far, setback */
    DIP_UPDATE_ADOPTED,  /* image_index, held_stage: a worker had so much of it from before */
    DIP_UPDATE_ENDED,    /* status, is_refused, text; refusal and retry_ns, or end */
};

/* Everything pointed to is valid during the call only. */
struct dip_update {
    enum dip_update_kind kind;
    uint64_t request_id;
    int image_index;
    enum dip_stage stage;
    int done, total;
    int64_t start_ns, finish_ns; /* estimated, of the clock that is fed; 0 = nothing known */
    int64_t retry_ns;            /* from now on; negative = do not */
    const struct dip_resolved *resolved;
    const struct dip_message_picture *picture;
    const struct dip_message_trace *trace;
    const struct dip_timings *timings;
    const char *fingerprint;
    enum dip_status status;
    bool is_refused; /* never admitted */
    enum dip_refusal refusal;
    enum dip_end end;
    enum dip_setback setback;
    enum dip_held_stage held_stage;
    const char *text;
};

/* Runs on the loop thread and holds it up: return soon. Must not call the coordinator. */
typedef void (*dip_update_fn)(void *context, const struct dip_update *update);

struct dip_coordinator_options {
    struct dip_endpoint *endpoint; /* address 0 */
    struct dip_scheduler_limits limits;
    int checkpoint_every; /* sampler steps from one latent checkpoint to the next; 0 = none */
};

DIP_MUST_USE enum dip_status dip_coordinator_start(const struct dip_coordinator_options *options,
                                                   struct dip_why *why,
                                                   struct dip_coordinator **ret_coordinator);

/* Every live request ends as cancelled first. */
void dip_coordinator_stop(struct dip_coordinator *coordinator);

/* Takes over *resolved (which is then empty) and answers through `update`, beginning with ADMITTED
 * or a refusal. One thread submits. Errors: BUSY (the loop is behind), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_coordinator_submit(struct dip_coordinator *coordinator,
                                                    struct dip_resolved *resolved,
                                                    dip_update_fn update, void *context,
                                                    uint64_t *ret_request_id);

/* ENDED follows unless it is already under way. Errors: BUSY: ask again. */
DIP_MUST_USE enum dip_status dip_coordinator_cancel(struct dip_coordinator *coordinator,
                                                    uint64_t request_id);
