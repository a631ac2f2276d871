/* cluster/job.h - what travels between coordinator and workers: parameters, commands, events.
 *
 * A client's request asks for n images. Each image is two jobs joined by the hinge: an AR job draws
 * the image tokens and leaves hidden states, a diffusion job turns them into a picture.
 *
 *   coordinator                         worker
 *     |-- AR ---------------------------> draws the tokens
 *     | <-- PREFILLED, TOKENS, HINGE_READY -|
 *     |-- DIFFUSION --------------------> other worker: waits for the hinge
 *     |-- HAND_OVER --------------------> sends HINGE to the other worker, keeps it until RELEASE
 *     | <-- CONDITIONED, STEP, DECODED, IMAGE - other worker: samples and decodes
 *     |-- RELEASE ----------------------> forgets the job: finished, or nobody wants it any more
 *
 * A worker whose coordinator is gone holds what it has (HELD), and the next one may take it over:
 *
 *     | <-- APPEARED, with what is held --|
 *     |-- ADOPT ------------------------> goes on, and says again what it has said of the job
 *
 * Messages are plain structs that cross a transport by value. Memory that a payload points to comes
 * from malloc, belongs to the message and moves with it. Job ids are never used twice, so an event
 * of a job that was given up is recognised and ignored. Letters: H hidden size, c latent channels,
 * h x w latent size. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "cluster/batch.h"

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
    int32_t preview_every;    /* steps from one preview to the next; 0 = none */
    int32_t checkpoint_every; /* the same of latent checkpoints */
    bool is_traced;           /* send TRACE messages */
};

/* Of what request a job is a part: for logs, and to be known again by another coordinator. */
enum { DIP_REQUEST_ID_BYTES = 65, DIP_TRACEPARENT_BYTES = 56, DIP_DIGEST_BYTES = 32 };
struct dip_job_origin {
    char request_id[DIP_REQUEST_ID_BYTES];
    char traceparent[DIP_TRACEPARENT_BYTES]; /* W3C trace context; "" = none */
    /* SHA-256 of tenant, request id, model, prompt ids and parameters: equal digests mean that the
     * same was asked by the same. All zero = nobody will ask again. */
    unsigned char digest[DIP_DIGEST_BYTES];
};

/* Order in which a queue is served; waiting raises a request. */
enum dip_priority { DIP_PRIORITY_BATCH, DIP_PRIORITY_STANDARD, DIP_PRIORITY_INTERACTIVE };

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
    uint32_t unknown; /* stages, a bit each, of which a part was before this coordinator's time */
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
    X(TICK)                                                                                        \
    X(AR)                                                                                          \
    X(HAND_OVER)                                                                                   \
    X(DIFFUSION)                                                                                   \
    X(RELEASE)                                                                                     \
    X(ADOPT)                                                                                       \
    X(RESET)                                                                                       \
    X(DRAIN)                                                                                       \
    X(UNDRAIN)                                                                                     \
    X(PREPARE_GROUP)                                                                               \
    X(FORM_GROUP)                                                                                  \
    X(DISSOLVE_GROUP)                                                                              \
    X(HINGE)                                                                                       \
    X(APPEARED)                                                                                    \
    X(JOINED)                                                                                      \
    X(HELD)                                                                                        \
    X(HEARTBEAT)                                                                                   \
    X(LEAVING)                                                                                     \
    X(SUPERSEDED)                                                                                  \
    X(LOST)                                                                                        \
    X(GROUP_PREPARED)                                                                              \
    X(GROUP_FORMED)                                                                                \
    X(GROUP_LOST)                                                                                  \
    X(PREFILLED)                                                                                   \
    X(TOKENS)                                                                                      \
    X(HINGE_READY)                                                                                 \
    X(CONDITIONED)                                                                                 \
    X(STEP)                                                                                        \
    X(DECODED)                                                                                     \
    X(CHECKPOINT)                                                                                  \
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

/* How far work is that a worker holds since its coordinator went: nobody has asked for it yet. */
#define DIP_HELD_STAGE_LIST(X)                                                                     \
    X(TOKENS, "tokens")   /* the AR panel draws */                                                 \
    X(HINGE, "hinge")     /* all is drawn, the hinge is kept */                                    \
    X(STEPS, "steps")     /* the diffusion panel samples */                                        \
    X(PICTURE, "picture") /* the file is made */

enum dip_held_stage {
#define DIP_HELD_STAGE_ENUM(name, text) DIP_HELD_##name,
    DIP_HELD_STAGE_LIST(DIP_HELD_STAGE_ENUM)
#undef DIP_HELD_STAGE_ENUM
        DIP_HELD_STAGE_COUNT
};
const char *dip_held_stage_name(enum dip_held_stage stage);

/* HELD, and with it APPEARED: a list of such work. What is beyond the limits is not told. */
enum { DIP_HELD_MAX = 512, DIP_HELD_IDS_MAX = 1 << 18 /* of all entries together */ };
struct dip_held {
    uint64_t epoch, job_id; /* under which it was given out */
    char request_id[DIP_REQUEST_ID_BYTES];
    unsigned char digest[DIP_DIGEST_BYTES];
    uint32_t image_index;
    enum dip_held_stage stage;
    int32_t done;               /* tokens, or steps */
    int32_t token_count;        /* drawn in all, as far as that is known there */
    int32_t id_first, id_count; /* of the tokens, among the list's ids */
    int64_t left_ns;            /* it is kept for so long */
};
struct dip_message_held {
    struct dip_payload entries; /* struct dip_held [] */
    struct dip_payload ids;     /* i32 of all entries */
};

/* ADOPT: a held job goes on under message.job_id; 0 = nobody wants it, forget it. */
struct dip_message_adopt {
    uint64_t held_epoch, held_job_id;
};

/* The same to the scheduler, about an image of a request that it has. */
struct dip_offer {
    uint64_t request_id; /* JOINED only: of whom */
    uint32_t member;
    int32_t image_index;
    enum dip_held_stage stage;
    int32_t done, token_count;
    const int32_t *ids; /* [id_count], the first of its tokens; not owned */
    int32_t id_count;
    uint64_t held_epoch, held_job_id;
};

/* SUBMIT: the part of a request that the scheduler needs. */
struct dip_message_submit {
    int32_t image_count, token_count, step_count;
    bool has_hidden;           /* the AR panel is skipped: the client brought the hinge */
    const int32_t *forced_ids; /* [forced_count], every image begins with them; not owned */
    int32_t forced_count;
    enum dip_priority priority;
    uint32_t tenant;     /* small number that the coordinator gives to a tenant's fairness key */
    int64_t deadline_ns; /* coordinator's clock; 0 = none */
    int64_t begin_by_ns; /* a worker must have begun by then; 0 = the deadline alone counts */
    bool is_check;       /* say what would be admitted, run nothing */
    uint64_t ticket;     /* the same when a client asks for the same again; 0 = cannot be told */
    const struct dip_offer *offers; /* [offer_count] held parts of it; not owned */
    int32_t offer_count;
    void *client; /* the coordinator's own record; the scheduler never looks at it */
};

struct dip_message_ar {
    struct dip_job_params params;
    struct dip_job_origin origin;
    struct dip_payload prompt_ids; /* i32 */
    struct dip_payload forced_ids; /* i32: injected, or drawn before the job came here */
};

/* CHECKPOINT, and a DIFFUSION that goes on from one: where the sampler can go on. A latent whose
 * checkpoint is larger than the limit is not check-pointed. */
enum { DIP_CHECKPOINT_BYTES_MAX = 3 << 19 }; /* both parts: what fits into a frame */
struct dip_checkpoint {
    int32_t steps_done;                 /* 0 = none */
    struct dip_payload latent, history; /* f32 [c, h, w] each */
};

struct dip_message_diffusion {
    struct dip_job_params params;
    struct dip_job_origin origin;
    struct dip_checkpoint resume;
    struct dip_payload hidden; /* f32 [rows, H] when the client brought it; else a HINGE follows */
    struct dip_payload noise;  /* f32 [c, h, w] or none */
};

struct dip_message_hand_over {
    uint32_t to; /* member */
    uint64_t to_job_id;
};

struct dip_message_hinge {
    struct dip_payload hidden; /* f32 [rows, H] */
};

/* APPEARED: a process has connected. What people and the forming of groups want to know of it; the
 * scheduler does not. Texts are cut to fit and terminated. */
struct dip_member_facts {
    char name[64];     /* stable across restarts when configured */
    char address[256]; /* "host:port" of its HingeService; empty without one */
    char version[64];
    char model_digest[65];
    char host_id[128];
    char device[64];
    uint64_t incarnation;
    uint32_t roles;
    uint32_t protocol; /* that both sides speak; set by who reads the hello */
    bool is_rank;      /* one of a group that the coordinator forms; else it draws alone */
    bool is_rank_said; /* older workers do not say */
};

/* APPEARED. */
struct dip_message_appeared {
    struct dip_payload facts;     /* one struct dip_member_facts */
    struct dip_message_held held; /* from before */
};

/* RESET, down: the stream has ended that ran under this epoch. Up: the answer, with what is held.
 */
struct dip_message_reset {
    uint64_t epoch;
    struct dip_message_held held;
};

/* What a worker's device thread shows to the thread that sends its heartbeats. */
struct dip_member_load {
    struct dip_counter steps; /* AR and sampler steps since the process started */
    struct dip_counter ar_busy, hinges_held, diffusion_busy;
    struct dip_times ar_steps, diffusion_steps;     /* how long they took, */
    struct dip_sizes ar_batches, diffusion_batches; /* and how many images were in one */
    struct dip_times ar_stops, diffusion_stops; /* from a job's release until its slot is free */
    /* What a sampler step of 1, 2, ... images costs, of the kind stepped last; 0 = not measured. */
    struct dip_counter batch_step_ns[DIP_BATCH_MAX];
    struct dip_counter batch_room; /* images at a time that are worth having by that */
};

/* Liveness is progress: a busy member whose steps_total stands still is not alive. */
struct dip_message_heartbeat {
    uint64_t steps_total;     /* AR and sampler steps since the process started */
    int64_t last_step_age_ns; /* 0 when idle */
    int32_t ar_busy, hinges_held, diffusion_busy;
};

/* RELEASE, of a job that is done and of one that nobody wants any more. */
struct dip_message_release {
    int64_t told_ns; /* when this process was told, of dip_clock_now_ns; 0 = inside one process */
};

/* DRAIN: jobs that run longer than the grace are handed back. LEAVING: the process exits then. */
struct dip_message_grace {
    int64_t grace_ns;
};

/* SUPERSEDED: the last word of a worker that goes to another leader. */
struct dip_message_superseded {
    char leader[256]; /* "host:port" */
};

/* PREPARE_GROUP (rank 0 only), FORM_GROUP, DISSOLVE_GROUP; GROUP_PREPARED, GROUP_FORMED,
 * GROUP_LOST. A version of a group that is older than the newest seen changes nothing. */
enum { DIP_GROUP_ID_BYTES = 32, DIP_GROUP_COMM_BYTES = 256 };
struct dip_message_group {
    char id[DIP_GROUP_ID_BYTES];
    uint64_t epoch; /* version of the group: grows with every forming */
    int32_t rank, size;
    int64_t timeout_ns;   /* FORM_GROUP: all ranks must have joined within this time */
    int32_t missing_rank; /* GROUP_LOST: -1 = not known */
    uint32_t comm_id_bytes;
    /* GROUP_PREPARED, FORM_GROUP: ops/comm's rendezvous */
    unsigned char comm_id[DIP_GROUP_COMM_BYTES];
};

/* JOINED: takes work from now on, and what it can hold. A rank other than 0 never joins: its group
 * is one member, which is rank 0. */
struct dip_message_joined {
    uint32_t roles;      /* enum dip_role bits */
    int32_t ar_slots;    /* jobs decoded in lockstep */
    int32_t hinge_slots; /* hinges kept, those being drawn included */
    int32_t diffusion_slots;
    char fingerprint[DIP_FINGERPRINT_BYTES];
    const struct dip_offer *offers; /* [offer_count] what it holds of live requests; not owned */
    int32_t offer_count;
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
    int64_t step_ns; /* measured by the worker: what one step of one job costs it, */
    int32_t batch;   /* in a step of so many jobs; 0 = it does not say */
    int32_t room;    /* jobs at a time that are worth it by what it measured; 0 = all its slots */
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
        struct dip_message_adopt adopt;
        struct dip_message_reset reset;
        struct dip_message_held held;
        struct dip_message_appeared appeared;
        struct dip_message_joined joined;
        struct dip_message_heartbeat heartbeat;
        struct dip_message_release release;
        struct dip_message_grace grace;
        struct dip_message_superseded superseded;
        struct dip_message_group group;
        struct dip_message_tokens tokens;
        struct dip_message_hinge_ready hinge_ready;
        struct dip_message_step step;
        struct dip_checkpoint checkpoint;
        struct dip_message_picture picture;
        struct dip_message_trace trace;
        struct dip_message_failed failed;
    } as;
};

/* "HINGE_READY", never NULL. */
const char *dip_message_name(enum dip_message_kind kind);

void dip_checkpoint_free(struct dip_checkpoint *checkpoint);

/* Frees what the message owns: for one that cannot be delivered or that nobody wants. */
void dip_message_release(struct dip_message *message);
