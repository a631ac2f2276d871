/* cluster/scheduler.h - the coordinator's decisions: (event, now) in, (actions) out.
 *
 * A pure state machine: no clock, no socket, no thread, and no allocation after dip_scheduler_new.
 * The daemon, the embedded process, the tests and the simulator feed it the same messages and carry
 * out its actions; payloads pass it by. What it holds at all times:
 *
 *   - an admitted request ends exactly once, whatever workers do; a refused one never began;
 *   - what cannot meet its deadline by the measured rates is refused, not queued, and so is what
 *     could only meet it by making somebody late who was admitted before;
 *   - who is refused is told when to come again, and is let in before others if it does;
 *   - what comes while a panel has no worker at all is refused, or held for hold_ns if there may be
 *     one soon: a pool that is scaled from zero;
 *   - whatever waits is served at last: waiting raises a priority, tenants share by weight, and
 *     within a tenant the one that must begin first goes first; whatever its priority and tenant,
 *     one that was admitted with a deadline goes first when it must;
 *   - a member never has more jobs than the slots it joined with;
 *   - an event of a job that was given up changes nothing.
 *
 *   SUBMIT       HINGE_READY           DECODED   IMAGE
 *   AR_WAITING > AR_RUNNING > DIFFUSION_WAITING > DIFFUSION_RUNNING > ENCODING > (free)
 *   member lost: back to AR_WAITING with the tokens drawn so far, or to DIFFUSION_WAITING while
 *   somebody keeps the hinge
 *
 * One decision costs O(log n) in members and images: everything that is searched lies in ordered
 * trees (cluster/tree.h).
 *
 * Thread: the coordinator's loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

struct dip_scheduler;

struct dip_scheduler_limits {
    int request_count_max; /* admitted and not ended */
    int image_count_max;   /* of all those requests together; below 2^20 */
    int member_count_max;  /* addresses 0 .. member_count_max - 1 */
    int token_count_max;   /* image tokens of one image */
    int attempt_count_max; /* workers that one image may take down with it */
    int tenant_count_max;  /* 0 = 64; larger numbers share the places of smaller ones */
    int64_t hold_ns;       /* requests wait so long for a panel that has no worker; 0 = refused */
    int64_t age_ns;        /* a priority's wait that raises its next images by one; 0 = 20 s */
};

DIP_MUST_USE enum dip_status dip_scheduler_new(const struct dip_scheduler_limits *limits,
                                               struct dip_scheduler **ret_scheduler);
void dip_scheduler_free(struct dip_scheduler *scheduler);

/* What it has set aside in all, once and for ever; most of it is touched only when it is needed. */
size_t dip_scheduler_bytes(const struct dip_scheduler *scheduler);

/* A tenant's share of what is contended for, 1 .. 1000, against 1 of the others. */
void dip_scheduler_set_weight(struct dip_scheduler *scheduler, uint32_t tenant, int weight);

/* Until then the want of workers refuses nobody: a coordinator that has just begun to lead has not
 * met them yet. */
void dip_scheduler_expect_workers(struct dip_scheduler *scheduler, int64_t until_ns);

/* Why a request was not admitted. */
#define DIP_REFUSAL_LIST(X)                                                                        \
    X(QUEUE_FULL, "the queue is full")                                                             \
    X(NO_WORKERS, "no worker for one of the two panels")                                           \
    X(TOO_LARGE, "more images or tokens than this cluster can hold")                               \
    X(DUPLICATE, "a request with this id is running")                                              \
    X(WOULD_BE_LATE, "it could not begin or end in time")                                          \
    X(DRAINING, "no new work is taken")

enum dip_refusal {
#define DIP_REFUSAL_ENUM(name, text) DIP_REFUSAL_##name,
    DIP_REFUSAL_LIST(DIP_REFUSAL_ENUM)
#undef DIP_REFUSAL_ENUM
        DIP_REFUSAL_COUNT
};
const char *dip_refusal_text(enum dip_refusal refusal);

/* How an admitted request ended. */
#define DIP_END_LIST(X)                                                                            \
    X(DONE, "done")                                                                                \
    X(CANCELLED, "cancelled")                                                                      \
    X(DEADLINE, "its deadline has passed")                                                         \
    X(QUEUE_TIME, "it waited longer than it wanted to")                                            \
    X(NO_WORKERS, "no worker came for one of the two panels")                                      \
    X(WORKER_LOST, "too many workers were lost under it")                                          \
    X(POISONED, "every worker that took it went down")                                             \
    X(FAILED, "a worker could not do it")

enum dip_end {
#define DIP_END_ENUM(name, text) DIP_END_##name,
    DIP_END_LIST(DIP_END_ENUM)
#undef DIP_END_ENUM
        DIP_END_COUNT
};
const char *dip_end_text(enum dip_end end);
const char *dip_end_name(enum dip_end end); /* "QUEUE_TIME" */

enum dip_action_kind {
    /* commands for `member` */
    DIP_ACTION_AR,        /* job_id, request_id, image_index, forced_ids */
    DIP_ACTION_HAND_OVER, /* job_id, to_member, to_job_id */
    DIP_ACTION_DIFFUSION, /* job_id, request_id, image_index */
    DIP_ACTION_ADOPT,     /* job_id, request_id, image_index, held_stage, held_epoch, held_job_id */
    DIP_ACTION_RELEASE,   /* job_id */
    /* news for the client of `request_id` */
    DIP_ACTION_ADMITTED, /* total = images ahead of its first, start_ns, finish_ns */
    DIP_ACTION_REFUSED,  /* refusal, retry_ns; the request is unknown from here on */
    DIP_ACTION_QUEUE,    /* total = images ahead of its first, start_ns; at most once a second */
    DIP_ACTION_PROGRESS, /* image_index, stage, done, total */
    DIP_ACTION_RELAY,    /* image_index; pass on the payload of the message just fed */
    DIP_ACTION_IMAGE,    /* image_index, timings, done = its tokens; payload as for RELAY */
    DIP_ACTION_RETRIED,  /* image_index, done = losses so far, setback */
    DIP_ACTION_ENDED,    /* end, status, text; the last word about this request */
    /* about `member`, for nobody in particular */
    DIP_ACTION_DRAINED, /* it drains and has nothing left */
};

/* What an image goes back for. */
enum dip_setback {
    DIP_SETBACK_LOST,
    DIP_SETBACK_HANDED_BACK,
    DIP_SETBACK_DEVICE,
    DIP_SETBACK_COUNT
};

struct dip_action {
    enum dip_action_kind kind;
    uint32_t member;
    uint64_t job_id;
    uint64_t request_id;
    int image_index; /* within its request */
    uint32_t to_member;
    uint64_t to_job_id;
    enum dip_held_stage held_stage;
    uint64_t held_epoch, held_job_id;
    const int32_t *forced_ids; /* [forced_count], valid until the next feed */
    int forced_count;
    enum dip_stage stage;
    int done, total;
    int64_t start_ns, finish_ns; /* estimated, of the clock that is fed; 0 = nothing measured yet */
    int64_t retry_ns;            /* from now on; negative = do not */
    struct dip_timings timings;
    enum dip_refusal refusal;
    enum dip_end end;
    enum dip_setback setback;
    enum dip_status status;
    const char *text; /* never NULL; valid until the next feed */
};

/* Held work comes as offers with SUBMIT and with JOINED (cluster/held.h): an image that is further
 * there than here goes on there, under a new job.
 *
 * Takes one message that came at now_ns: SUBMIT, CANCEL, TICK, any event of a worker, or JOINED,
 * LOST, LEAVING, DRAIN, UNDRAIN, GROUP_LOST about the member `from`; others are ignored.
 *   - a request that is_check is ADMITTED and ENDED as DONE in one go, or REFUSED;
 *   - DRAIN and LEAVING: no new work for this member; from address 0: for nobody, requests are
 *     refused; a member that joins again drains no more;
 *   - FAILED with BUSY, CANCELLED, STALE or UNREACHABLE hands the job back: it runs elsewhere;
 *   - FAILED with DEVICE counts for its image like the loss of the member, and the member is set
 *     aside; its other jobs go on unless it says the same of them.
 * now_ns never goes back. All actions of the message before must have been taken. */
void dip_scheduler_feed(struct dip_scheduler *scheduler, int64_t now_ns,
                        const struct dip_message *message);

/* The next action of the last message, in the order to carry them out; false when there is none. */
bool dip_scheduler_next(struct dip_scheduler *scheduler, struct dip_action *ret_action);

/* When a TICK is due; INT64_MAX = not before another message. */
int64_t dip_scheduler_wake_ns(const struct dip_scheduler *scheduler);

/* For status pages and for tests. */
struct dip_scheduler_stats {
    int requests, images;
    int ar_waiting, ar_running, diffusion_waiting, diffusion_running, encoding;
    int ar_slots, diffusion_slots; /* of members that take work */
    int held;                      /* requests that wait because a panel had no worker */
    int64_t oldest_wait_ns;        /* of the requests that have not begun, at the last message */
    int64_t diffusion_wait_ns;     /* of the image that waits longest for its picture */
    int64_t shared_steps;          /* sampler steps of images that were not alone in them, so far */
};
struct dip_scheduler_stats dip_scheduler_stats(const struct dip_scheduler *scheduler);

struct dip_member_stats {
    bool is_alive, is_draining;
    int ar_live, hinges, diffusion_live;
    int jobs;             /* all of them, pictures being encoded included */
    int backlog_steps;    /* diffusion steps still to do */
    int diffusion_wanted; /* images at a time, by what its steps cost; 0 = all its slots */
    int64_t prefill_ns, token_ns, step_ns, picture_ns; /* measured, mean; 0 = not yet */
};
struct dip_member_stats dip_scheduler_member(const struct dip_scheduler *scheduler,
                                             uint32_t address);
