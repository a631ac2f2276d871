/* cluster/job.h - what travels between coordinator and workers: parameters, commands, events.
 *
 * A client's request asks for n images. Each image is two jobs joined by the hinge: an AR job draws
 * the image tokens and leaves hidden states, a diffusion job turns them into a picture.
 *
 *     coordinator ── AR ───────► worker     draw tokens          ── PREFILLED, TOKENS, HINGE_READY
 * ─► ── HAND_OVER ► worker     send the hinge to the diffusion worker (kept until RELEASE) worker
 * ── HINGE ──► worker ── DIFFUSION ► worker     sample and decode    ── CONDITIONED, STEP, DECODED,
 * IMAGE ─► ── RELEASE ──► worker     forget the job: it is finished or nobody wants it any more
 *
 * Messages are plain structs that cross a transport by value. Memory that a payload points to comes
 * from malloc, belongs to the message and moves with it. Job ids are never used twice, so an event
 * of a job that was given up is recognised and ignored. Letters: H hidden size, c latent channels,
 * h x w latent size. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/sha256.h"

enum dip_job_sampler { DIP_JOB_EULER, DIP_JOB_DPM };
enum dip_job_preview { DIP_JOB_PREVIEW_NONE, DIP_JOB_PREVIEW_LINEAR, DIP_JOB_PREVIEW_DECODED };

/* Everything that decides an image's bytes, but for prompt, injected inputs and weights. */
struct dip_job_params {
    uint64_t seed;
    uint32_t image_index; /* within the request; part of every random draw's key */
    int32_t token_count;  /* image tokens to draw */
    float temperature;
    int32_t top_k;
    float top_p;
    enum dip_job_sampler sampler;
    int32_t steps;
    float guidance;
    int32_t latent_height, latent_width;
    enum dip_job_preview preview;
    int32_t preview_every; /* steps from one preview to the next; 0 = none */
    bool is_traced;        /* send TRACE messages */
};

struct dip_payload {
    void *data; /* NULL when there is none */
    size_t bytes;
};

/* The stages that an image passes through, in order: names of progress and of timings.
 *   queue      admission to the start of prefill (or of diffusion)
 *   prefill    prompt              decode   image tokens
 *   hinge      hidden states ready to conditioned: placement, transfer, connector
 *   diffusion  sampler steps       vae      latent to pixels       encode   pixels to PNG */
#define DIP_STAGE_LIST(X)                                                                          \
    X(QUEUE, "queue")                                                                              \
    X(PREFILL, "prefill")                                                                          \
    X(DECODE, "decode")                                                                            \
    X(HINGE, "hinge")                                                                              \
    X(DIFFUSION, "diffusion")                                                                      \
    X(VAE, "vae")                                                                                  \
    X(ENCODE, "encode")

enum dip_stage {
#define DIP_STAGE_ENUM(name, text) DIP_STAGE_##name,
    DIP_STAGE_LIST(DIP_STAGE_ENUM)
#undef DIP_STAGE_ENUM
        DIP_STAGE_COUNT
};

/* "queue", "prefill", ...; never NULL. */
const char *dip_stage_name(enum dip_stage stage);

/* Where the time of one image went. A worker measures its own stages, the coordinator queue, hinge
 * and total. */
struct dip_timings {
    int64_t stage_ns[DIP_STAGE_COUNT];
    int64_t total_ns; /* admission to the picture's arrival */
};

enum dip_role { DIP_ROLE_AR = 1, DIP_ROLE_DIFFUSION = 2 }; /* bits */

enum {
    DIP_TOKEN_BATCH_MAX = 32,
    DIP_TRACE_NAME_BYTES = 24,
    DIP_FAILURE_BYTES = 160,
    DIP_FINGERPRINT_BYTES = DIP_SHA256_HEX_BYTES,
};

#define DIP_MESSAGE_LIST(X)                                                                        \
    X(STOP)                                                                                        \
    X(SUBMIT)                                                                                      \
    X(CANCEL)                                                                                      \
    X(AR)                                                                                          \
    X(HAND_OVER)                                                                                   \
    X(DIFFUSION)                                                                                   \
    X(RELEASE)                                                                                     \
    X(HINGE)                                                                                       \
    X(JOINED)                                                                                      \
    X(LOST)                                                                                        \
    X(PREFILLED)                                                                                   \
    X(TOKENS)                                                                                      \
    X(HINGE_READY)                                                                                 \
    X(CONDITIONED)                                                                                 \
    X(STEP)                                                                                        \
    X(DECODED)                                                                                     \
    X(PREVIEW)                                                                                     \
    X(IMAGE)                                                                                       \
    X(TRACE)                                                                                       \
    X(FAILED)

enum dip_message_kind {
#define DIP_MESSAGE_ENUM(name) DIP_MESSAGE_##name,
    DIP_MESSAGE_LIST(DIP_MESSAGE_ENUM)
#undef DIP_MESSAGE_ENUM
        DIP_MESSAGE_COUNT
};

/* SUBMIT: the part of a request that the scheduler needs. */
struct dip_message_submit {
    int32_t image_count, token_count, step_count;
    bool has_hidden;           /* the AR panel is skipped: the client brought the hinge */
    const int32_t *forced_ids; /* [forced_count], every image begins with them; not owned */
    int32_t forced_count;
    void *client; /* the coordinator's own record; the scheduler never looks at it */
};

struct dip_message_ar {
    struct dip_job_params params;
    struct dip_payload prompt_ids; /* i32 */
    struct dip_payload forced_ids; /* i32: injected, or drawn before the job came here */
};

/* Texts for the picture's file: key, zero, value, zero, and so on. Opaque to the worker. */
struct dip_message_diffusion {
    struct dip_job_params params;
    struct dip_payload hidden; /* f32 [rows, H] when the client brought it; else a HINGE follows */
    struct dip_payload noise;  /* f32 [c, h, w] or none */
    struct dip_payload texts;
};

struct dip_message_hand_over {
    uint32_t to; /* member */
    uint64_t to_job_id;
};

struct dip_message_hinge {
    struct dip_payload hidden; /* f32 [rows, H] */
};

/* What a member can hold. */
struct dip_message_joined {
    uint32_t roles;      /* enum dip_role bits */
    int32_t ar_slots;    /* jobs decoded in lockstep */
    int32_t hinge_slots; /* hinges kept, those being drawn included */
    int32_t diffusion_slots;
    char fingerprint[DIP_FINGERPRINT_BYTES];
};

/* ids[0 .. count) are the image tokens first .. first + count - 1. */
struct dip_message_tokens {
    int32_t first, count;
    int32_t ids[DIP_TOKEN_BATCH_MAX];
};

struct dip_message_hinge_ready {
    int32_t token_count; /* drawn in all */
    int64_t prefill_ns, decode_ns;
};

struct dip_message_step {
    int32_t steps_done;
    int64_t step_ns; /* measured by the worker: what one step of one job costs it */
};

/* PREVIEW and IMAGE. Times only with IMAGE. */
struct dip_message_picture {
    struct dip_payload png;
    int32_t steps_done, width, height;
    char sha256[DIP_SHA256_HEX_BYTES]; /* of the file; IMAGE only */
    int64_t diffusion_ns, vae_ns, encode_ns;
};

struct dip_message_trace {
    char name[DIP_TRACE_NAME_BYTES];
    int32_t dtype; /* enum dip_dtype */
    int32_t rank;
    int64_t dims[DIP_TENSOR_RANK_MAX];
    struct dip_payload data;
};

struct dip_message_failed {
    int32_t status; /* enum dip_status */
    char text[DIP_FAILURE_BYTES];
};

struct dip_message {
    enum dip_message_kind kind;
    uint32_t from;       /* address of the sender */
    uint64_t request_id; /* SUBMIT, CANCEL */
    uint64_t job_id;     /* everything else that is about a job */
    union {
        struct dip_message_submit submit;
        struct dip_message_ar ar;
        struct dip_message_diffusion diffusion;
        struct dip_message_hand_over hand_over;
        struct dip_message_hinge hinge;
        struct dip_message_joined joined;
        struct dip_message_tokens tokens;
        struct dip_message_hinge_ready hinge_ready;
        struct dip_message_step step;
        struct dip_message_picture picture;
        struct dip_message_trace trace;
        struct dip_message_failed failed;
    } as;
};

/* "HINGE_READY", never NULL. */
const char *dip_message_name(enum dip_message_kind kind);

/* Frees what the message owns: for one that cannot be delivered or that nobody wants. */
void dip_message_release(struct dip_message *message);
