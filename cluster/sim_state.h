/* cluster/sim_state.h - the simulated world; private to cluster/sim*.
 *
 *   sim.c         the clock and the loop           sim_coordinator.c  scheduler and groups, checked
 *   sim_client.c  requests                         sim_net.c          links and their troubles
 *   sim_worker.c  jobs                             sim_group.c        ranks
 *   sim_fault.c   who suffers what, and when       sim_held.c         work without a coordinator
 *   sim_leader.c  one coordinator after the other */
#pragma once

#include "base/clock.h"
#include "cluster/groups.h"
#include "cluster/held.h"
#include "cluster/scheduler.h"
#include "cluster/sim.h"

#define SIM_HOLD_NS (20 * DIP_SECOND_NS)

enum {
    SIM_DEGREE_MAX = 4,
    SIM_TOKENS_MAX = 96,
    SIM_STEPS_MAX = 6,
    SIM_IMAGES_MAX = 4,
    SIM_JOBS_MAX = 48, /* of one worker */
};

enum sim_event_kind {
    SIM_SUBMIT, /* the next request */
    SIM_CANCEL, /* id: request */
    SIM_TICK,
    SIM_TO_COORDINATOR, /* worker, stream, message */
    SIM_TO_WORKER,      /* worker, stream, message */
    SIM_SILENCE,        /* the coordinator has not heard of `stream` for too long */
    SIM_HANGING,        /* it hears of it, but nothing moves */
    SIM_CLOSED,         /* the worker learns that `stream` has ended */
    SIM_CONNECT,        /* the worker says hello */
    SIM_RESTART,        /* its process comes up again */
    SIM_RECOVER,        /* it hangs no more, or is as fast as before */
    SIM_LEAVE,          /* its grace is over */
    SIM_UNDRAIN,
    SIM_JOB,    /* id: handle of a job of the worker that can go on */
    SIM_HINGE,  /* id: handle of a job whose hinge is to be sent */
    SIM_GROUP,  /* the worker looks for the other ranks; id: epoch */
    SIM_FAULT,  /* somebody suffers something */
    SIM_LEADER, /* another coordinator leads */
    SIM_AGAIN,  /* id: request; its client asks the leader of now */
};

struct sim_event {
    int64_t at_ns;
    uint64_t serial; /* order among equals */
    enum sim_event_kind kind;
    uint32_t worker, stream;
    int32_t message; /* index, -1 = none */
    uint64_t id;
};

/* A message with what the played worker must know of it. */
struct sim_message {
    struct dip_message m;
    uint64_t request_id;
    int image_index, forced_count, token_count, step_count;
    bool has_hidden;
    uint32_t ranks[SIM_DEGREE_MAX]; /* FORM_GROUP: workers */
    int next_free;
};

enum sim_stage {
    SIM_JOB_NONE,
    SIM_JOB_PREFILL,
    SIM_JOB_DECODE,
    SIM_JOB_KEPT,   /* its hinge is kept */
    SIM_JOB_FROZEN, /* held without a slot: its tokens are kept */
    SIM_JOB_EMPTY,  /* a diffusion job without its hinge */
    SIM_JOB_CONDITION,
    SIM_JOB_STEPS,
    SIM_JOB_ENCODE,
    SIM_JOB_PICTURE, /* the file is kept for who asks again */
};

struct sim_job {
    enum sim_stage stage;
    uint64_t handle; /* never used twice */
    uint64_t id;     /* 0 = held: said about nothing */
    uint64_t leader; /* who gave it, or has adopted it */
    uint64_t held_leader, held_id;
    int64_t until_ns; /* while held, and of pictures */
    uint64_t request_id, to_job_id;
    int image_index, done, total;
    uint32_t to; /* worker */
    int64_t hand_over_ends_ns;
    bool is_handing_over;
};

struct sim_worker {
    uint32_t roles;
    int ar_slots, hinge_slots, diffusion_slots;
    int64_t token_ns, step_ns;
    bool is_wide;     /* images that share a step cost it a fifth each, instead of all */
    int slowness;     /* 1, or more while it is slow */
    int skew_percent; /* what it says of times is so much of the truth */

    bool is_up, is_hanging, is_leaving;
    int64_t paused_until_ns;
    uint32_t stream;                            /* as the worker sees it; 0 = none */
    uint32_t coordinator_stream;                /* as the coordinator sees it */
    uint32_t stream_serial, broken_stream;      /* of the second, nothing arrives any more */
    int64_t cut_up_until_ns, cut_down_until_ns; /* what is sent before is held */
    int64_t up_ns, down_ns;                     /* delivery of the last message: order is kept */

    uint64_t leader;                   /* of its stream */
    uint64_t epoch_seen, epoch_joined; /* the largest of its groups */
    uint64_t epoch;                    /* of its group; 0 = in none */
    int rank, size;
    bool is_formed;
    uint32_t ranks[SIM_DEGREE_MAX];
    int64_t form_ends_ns;
    int64_t apart_since_ns; /* since when the ranks cannot step; 0 = they can */

    struct sim_job jobs[SIM_JOBS_MAX];
    int job_count;
};

enum sim_fault_kind {
    SIM_FAULT_CRASH,
    SIM_FAULT_PAUSE,
    SIM_FAULT_HANG,
    SIM_FAULT_CUT,
    SIM_FAULT_BREAK,
    SIM_FAULT_SLOW,
    SIM_FAULT_DRAIN,
    SIM_FAULT_LEAVE,
    SIM_FAULT_COUNT,
};

enum { SIM_REQUEST_NEW, SIM_REQUEST_ADMITTED, SIM_REQUEST_OVER };
struct sim_request {
    uint8_t state, images, images_done; /* bits */
    uint8_t kills;                      /* workers that its poison took down */
    bool is_poison, is_check, is_away;  /* is_away: its client comes back */
    bool was_admitted;                  /* by this leader or one before */
    int32_t submitted_ms;
    int32_t deadline_ms; /* 0 = none */
};

struct sim {
    struct dip_sim_options options;
    struct dip_sim_result result;
    struct dip_scheduler *scheduler;
    struct dip_groups *groups; /* NULL with degree 1 */
    struct dip_held_book *held;
    uint64_t leader; /* epoch of who leads */
    uint64_t handle_serial;
    int64_t leader_interval_ns; /* mean; 0 = one leads for ever */
    int degree;
    uint64_t random;
    int64_t now_ns;
    uint64_t serial;
    bool is_out_of_memory;

    struct sim_event *heap;
    int heap_count, heap_size;
    struct sim_message *messages;
    int message_size, message_free; /* free ones are linked, -1 = none */

    struct sim_worker *workers;
    struct sim_request *requests; /* by id - 1 */
    int64_t submitted, open;      /* sent; admitted and not over */
    int64_t interval_ns;          /* between requests, mean */
    int64_t tick_ns;              /* when one is on its way; INT64_MAX = none */

    bool has_fault[SIM_FAULT_COUNT];
    bool has_poison, has_skew;
    int attempts; /* the scheduler's limit */
    int duplicate_ppm, break_ppm, refuse_ppm;
    int64_t fault_interval_ns; /* mean; 0 = none */
    int64_t kind_since_ns;     /* 0 = not yet */
};

/* ---- sim.c ---- */

uint64_t dip__sim_draw(struct sim *s, uint64_t below);
bool dip__sim_chance(struct sim *s, int ppm);
void dip__sim_push(struct sim *s, struct sim_event event);
void dip__sim_fail(struct sim *s, const char *format, ...) DIP_PRINTF(2, 3);

/* A free message, or -1 without memory. */
int dip__sim_message_new(struct sim *s);
void dip__sim_message_free(struct sim *s, int index);

/* ---- sim_coordinator.c ---- */

/* Feeds scheduler and groups with what `worker` said, or what was noticed of it. */
void dip__sim_hear(struct sim *s, uint32_t worker, const struct dip_message *m);
void dip__sim_tick(struct sim *s);
void dip__sim_submit(struct sim *s, const struct dip_message *m);
void dip__sim_digest(uint64_t request_id, unsigned char ret_digest[DIP_DIGEST_BYTES]);
int32_t dip__sim_token(uint64_t request_id, int image_index, int position);

/* ---- sim_client.c ---- */

void dip__sim_request_send(struct sim *s);
void dip__sim_request_again(struct sim *s, uint64_t id);
void dip__sim_request_cancel(struct sim *s, uint64_t id);
void dip__sim_shape(uint64_t id, int *ret_tokens, int *ret_steps, bool *ret_has_hidden);

/* ---- sim_net.c ---- */

void dip__sim_send_up(struct sim *s, uint32_t worker, const struct dip_message *m);
void dip__sim_send_down(struct sim *s, uint32_t worker, const struct sim_message *m);
/* The coordinator takes the worker for lost and closes its stream. */
void dip__sim_lose(struct sim *s, uint32_t worker);
void dip__sim_connect(struct sim *s, uint32_t worker);
void dip__sim_connect_later(struct sim *s, uint32_t worker);
void dip__sim_silence(struct sim *s, uint32_t worker, int64_t after_ns);

/* ---- sim_worker.c ---- */

void dip__sim_worker_init(struct sim *s, uint32_t worker);
void dip__sim_worker_reset(struct sim_worker *w);
void dip__sim_worker_take(struct sim *s, uint32_t worker, const struct sim_message *m);
void dip__sim_job_go(struct sim *s, uint32_t worker, uint64_t handle);
void dip__sim_hinge_go(struct sim *s, uint32_t worker, uint64_t handle);
void dip__sim_job_wait(struct sim *s, uint32_t worker, const struct sim_job *job, int64_t wait_ns);
void dip__sim_job_say(struct sim *s, uint32_t worker, const struct sim_job *job,
                      struct dip_message m);
void dip__sim_tokens_say(struct sim *s, uint32_t worker, const struct sim_job *job, int first,
                         int count);
void dip__sim_ready_say(struct sim *s, uint32_t worker, const struct sim_job *job);
void dip__sim_step_say(struct sim *s, uint32_t worker, const struct sim_job *job);
void dip__sim_picture_say(struct sim *s, uint32_t worker, const struct sim_job *job);
int dip__sim_count_stages(const struct sim_worker *w, enum sim_stage from, enum sim_stage to);
void dip__sim_job_remove(struct sim_worker *w, struct sim_job *job);
void dip__sim_joined_send(struct sim *s, uint32_t worker);
struct sim_job *dip__sim_job_find(struct sim_worker *w, uint64_t job_id);

/* ---- sim_held.c ---- */

struct sim_held_list {
    struct dip_held entries[SIM_JOBS_MAX];
    int32_t ids[SIM_JOBS_MAX * SIM_TOKENS_MAX];
    int count, id_count;
};

/* Its stream has ended: what is worth it goes on without a word. */
void dip__sim_hold(struct sim *s, uint32_t worker);
/* Its group has ended: jobs go, what is held keeps its tokens. */
void dip__sim_part(struct sim_worker *w);
/* What nobody has asked for gives way to what has been asked for. */
void dip__sim_give_way(struct sim_worker *w);
void dip__sim_adopt(struct sim *s, uint32_t worker, const struct sim_message *m);
void dip__sim_held_list(const struct sim *s, uint32_t worker, struct sim_held_list *ret_list);

/* ---- sim_leader.c ---- */

DIP_MUST_USE enum dip_status dip__sim_machines_new(struct sim *s);
void dip__sim_leader_change(struct sim *s);

/* ---- sim_group.c ---- */

void dip__sim_group_take(struct sim *s, uint32_t worker, const struct sim_message *m);
void dip__sim_group_go(struct sim *s, uint32_t worker, uint64_t epoch);
/* Whether all ranks can take a step together; notices after a second that they cannot. */
bool dip__sim_group_steps(struct sim *s, uint32_t worker);

/* ---- sim_fault.c ---- */

void dip__sim_faults_init(struct sim *s);
void dip__sim_fault(struct sim *s);
void dip__sim_crash(struct sim *s, uint32_t worker);
