/* cluster/scheduler.h - the coordinator's decisions: (event, now) in, (actions) out.
 *
 * A pure state machine: no clock, no socket, no thread, and no allocation after dip_scheduler_new.
 * The daemon, the embedded process, the tests and the simulator feed it the same messages and carry
 * out its actions; payloads pass it by. What it holds at all times:
 *
 *   - an admitted request ends exactly once, whatever happens to workers; a refused one never
 * began;
 *   - images wait in order of admission, also after a worker was lost;
 *   - a member never has more jobs than the slots it joined with;
 *   - an event of a job that was given up changes nothing.
 *
 *            SUBMIT                 HINGE_READY                 DECODED            IMAGE
 *     (free) ──► AR_WAITING ─► AR_RUNNING ─► DIFFUSION_WAITING ─► DIFFUSION_RUNNING ─► ENCODING ─►
 * (free) ▲   member lost: tokens so far    ▲  member lost, hinge kept elsewhere   │
 *                    └────────────────┴────────────────┴──────────────────────────────────────┘
 *
 * Thread: the coordinator's loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

struct dip_scheduler;

struct dip_scheduler_limits {
    int request_count_max; /* admitted and not ended */
    int image_count_max;   /* of all those requests together */
    int member_count_max;  /* addresses 0 .. member_count_max - 1 */
    int token_count_max;   /* image tokens of one image */
    int attempt_count_max; /* workers that one image may take down with it */
};

DIP_MUST_USE enum dip_status dip_scheduler_new(const struct dip_scheduler_limits *limits,
                                               struct dip_scheduler **ret_scheduler);
void dip_scheduler_free(struct dip_scheduler *scheduler);

/* Why a request was not admitted. */
#define DIP_REFUSAL_LIST(X)                                                                        \
    X(QUEUE_FULL, "the queue is full")                                                             \
    X(NO_WORKERS, "no worker for one of the two panels")                                           \
    X(TOO_LARGE, "more images or tokens than this cluster can hold")                               \
    X(DUPLICATE, "a request with this id is running")

enum dip_refusal {
#define DIP_REFUSAL_ENUM(name, text) DIP_REFUSAL_##name,
    DIP_REFUSAL_LIST(DIP_REFUSAL_ENUM)
#undef DIP_REFUSAL_ENUM
        DIP_REFUSAL_COUNT
};
const char *dip_refusal_text(enum dip_refusal refusal);

enum dip_action_kind {
    /* commands for `member` */
    DIP_ACTION_AR,        /* job_id, request_id, image_index, forced_ids */
    DIP_ACTION_HAND_OVER, /* job_id, to_member, to_job_id */
    DIP_ACTION_DIFFUSION, /* job_id, request_id, image_index */
    DIP_ACTION_RELEASE,   /* job_id */
    /* news for the client of `request_id` */
    DIP_ACTION_ADMITTED, /* total = images ahead of its first */
    DIP_ACTION_REFUSED,  /* refusal; the request is unknown from here on */
    DIP_ACTION_PROGRESS, /* image_index, stage, done, total */
    DIP_ACTION_RELAY,    /* image_index; pass on the payload of the message just fed */
    DIP_ACTION_IMAGE,    /* image_index, timings, done = its tokens; payload as for RELAY */
    DIP_ACTION_RETRIED,  /* image_index, done = losses so far */
    DIP_ACTION_ENDED,    /* status, text; the last word about this request */
};

struct dip_action {
    enum dip_action_kind kind;
    uint32_t member;
    uint64_t job_id;
    uint64_t request_id;
    int image_index; /* within its request */
    uint32_t to_member;
    uint64_t to_job_id;
    const int32_t *forced_ids; /* [forced_count], valid until the next feed */
    int forced_count;
    enum dip_stage stage;
    int done, total;
    struct dip_timings timings;
    enum dip_refusal refusal;
    enum dip_status status;
    char text[DIP_FAILURE_BYTES];
};

/* Takes one message (SUBMIT, CANCEL, JOINED, LOST or any event of a worker) that came at now_ns;
 * others are ignored. All actions of the message before must have been taken. */
void dip_scheduler_feed(struct dip_scheduler *scheduler, int64_t now_ns,
                        const struct dip_message *message);

/* The next action of the last message, in the order to carry them out; false when there is none. */
bool dip_scheduler_next(struct dip_scheduler *scheduler, struct dip_action *ret_action);

/* For status pages and for tests. */
struct dip_scheduler_stats {
    int requests, images;
    int ar_waiting, ar_running, diffusion_waiting, diffusion_running, encoding;
};
struct dip_scheduler_stats dip_scheduler_stats(const struct dip_scheduler *scheduler);

struct dip_member_stats {
    bool is_alive;
    int ar_live, hinges, diffusion_live;
    int backlog_steps; /* diffusion steps still to do */
};
struct dip_member_stats dip_scheduler_member(const struct dip_scheduler *scheduler,
                                             uint32_t address);
