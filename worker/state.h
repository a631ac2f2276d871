/* worker/state.h - what a worker remembers; private to worker/.
 *
 * Owner: the device thread, but for the two mailboxes that join it to the file thread. */
#pragma once

#include <pthread.h>

#include "base/flag.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "cluster/cluster.h"
#include "engine/engine.h"
#include "worker/worker.h"

enum { FILE_BUFFERS = 3, PREFILL_ROWS_MAX = 256, PICTURES_MAX = 64 };

/* Whose a piece of work is. While its coordinator is gone it is held: it goes on without a word,
 * until another coordinator adopts it or its time is over (held.c). */
struct tag {
    uint64_t handle; /* what the engines and the file thread call it; 0 = the place is free */
    uint64_t id;     /* what the coordinator calls it; 0 = held */
    uint32_t image_index;
    struct dip_job_origin origin;
    uint64_t held_epoch, held_id; /* while held: under which it was given out */
    int64_t until_ns;             /* while held: then it is forgotten */
};

/* An AR job, from its command to RELEASE; after the last token it keeps the hinge. Neither live nor
 * with a hinge: it has lost its slot while it was held, and is drawn on when somebody adopts it. */
struct ar_job {
    struct tag tag;
    bool is_live;   /* in the engine */
    bool is_parted; /* its group is gone, and it with that, should the coordinator hear of it */
    struct dip_job_params params;
    struct dip_payload prompt_ids;
    int32_t *ids; /* [image_tokens_max] drawn so far, reserved at the start */
    int id_count, ids_sent;
    int64_t started_ns, prefilled_ns, done_ns;
    struct dip_payload hinge; /* f32 [rows, H] */
};

/* A diffusion job, from its command (or its hinge, whichever came first) to DECODED. */
struct diffusion_job {
    struct tag tag;
    bool has_command;
    bool is_live; /* in the engine */
    struct dip_job_params params;
    struct dip_payload hidden, noise;
    struct dip_checkpoint resume;
    int token_count, steps_done;
    int64_t started_ns, conditioned_ns, last_step_ns;
};

/* A picture that the file thread keeps for whoever asks again. */
struct picture {
    struct tag tag;
    int token_count;
};

enum file_work_kind { FILE_STOP, FILE_PREVIEW, FILE_IMAGE, FILE_AGAIN, FILE_FORGET };

/* What the file thread is to do. Whatever may make it speak has one of the worker's buffers, which
 * goes back when it is done: with all of them in hand nothing more is said. */
struct file_work {
    enum file_work_kind kind;
    uint64_t job_id; /* 0 = nobody is told */
    uint64_t handle; /* IMAGE: the file is kept under it, 0 = it is not */
    unsigned char *rgb;
    int width, height, steps_done;
    int64_t diffusion_ns, vae_ns;
};

struct dip_worker {
    struct dip_worker_options options;
    struct dip_endpoint *endpoint;
    pthread_t device_thread, file_thread;
    struct dip_mailbox *started;     /* struct start_report, once */
    struct dip_mailbox *file_work;   /* struct file_work, device thread to file thread */
    struct dip_mailbox *rgb_buffers; /* unsigned char *, free ones */
    unsigned char *rgb[FILE_BUFFERS];

    struct dip_device *device;
    struct dip_ar_engine *ar;
    struct dip_diffusion_engine *diffusion;
    bool is_stopping;
    bool is_device_dead; /* a step failed: every job from here on fails with its status */
    enum dip_status device_status;

    /* being told to stop: leave.c */
    bool is_leaving;      /* the process wants to exit when nothing is left */
    bool is_leave_heard;  /* the coordinator has answered that with DRAIN */
    int64_t leaving_ns;   /* since when */
    int64_t hand_back_ns; /* jobs that still run then are handed back; 0 = never */
    struct dip_flag is_drained, is_failed;

    struct group *group; /* group.c; NULL unless it is a rank of a group */

    uint64_t handle_last;
    struct ar_job *ar_jobs; /* [hinge_slots] */
    struct dip_ar_event *ar_events;
    struct diffusion_job *diffusion_jobs; /* [diffusion_job_count_max] */
    int diffusion_job_count_max;
    struct dip_diffusion_event *diffusion_events;
    struct dip_batch batch;           /* what its steps have cost */
    struct diffusion_job *traced_job; /* during one step: whose trace could not be sent */
    struct picture pictures[PICTURES_MAX];

    bool is_holding;      /* something is held */
    bool has_held_news;   /* the last list is not true any more */
    int64_t held_said_ns; /* when that was */
};

/* ---- worker.c ---- */

/* Sends to the coordinator; waits while its inbox is full. The message's payload is gone after. */
void dip__worker_post(struct dip_worker *worker, struct dip_message *message);
void dip__worker_fail(struct dip_worker *worker, uint64_t job_id, enum dip_status status,
                      const char *text);
/* The same about a piece of work: nothing while it is held, except that the payload goes. */
void dip__worker_say(struct dip_worker *worker, const struct tag *tag, struct dip_message *message);
/* A line about work that is done, with the request that it is of. */
void dip__worker_log(struct dip_worker *worker, const struct tag *tag, const char *what,
                     int64_t took_ns);
/* Sends one traced tensor; false when there was no memory for the copy. */
bool dip__worker_trace(struct dip_worker *worker, uint64_t job_id, const char *name,
                       enum dip_dtype dtype, const void *data, const int64_t *dims, int rank);

/* The engine's words for the cluster's. */
struct dip_image_params dip__worker_params(const struct dip_job_params *params);

/* A copy that the caller owns; data NULL when there was no memory or nothing to copy. */
struct dip_payload dip__payload_copy(const void *data, size_t bytes);

/* Says what the worker can hold: work comes after that. Not when it leaves. */
void dip__worker_join(struct dip_worker *worker);

/* What one message asks for; releases it. */
void dip__worker_handle(struct dip_worker *worker, struct dip_message *message);

/* ---- group.c ---- */

DIP_MUST_USE enum dip_status dip__worker_group_new(struct dip_worker *worker);
void dip__worker_group_free(struct dip_worker *worker);
/* PREPARE_GROUP, FORM_GROUP, DISSOLVE_GROUP. */
void dip__worker_group_command(struct dip_worker *worker, const struct dip_message *message);
/* What came while the group was being formed. */
bool dip__worker_group_pending(struct dip_worker *worker, struct dip_message *ret_message);
/* The coordinator is gone, and with it the group. */
void dip__worker_group_reset(struct dip_worker *worker);
/* How long a rank may wait for messages that would wait wait_ns alone (negative = for ever). */
int64_t dip__worker_group_wait_ns(const struct dip_worker *worker, int64_t wait_ns);
/* A rank's part of a turn; *ret_is_step: it was a step, of *ret_images. Errors: of the device, not
 * of the group. */
DIP_MUST_USE enum dip_status dip__worker_group_turn(struct dip_worker *worker, bool *ret_is_step,
                                                    int *ret_images);
/* A rank other than 0 whose group works. */
bool dip__worker_group_is_busy(const struct dip_worker *worker);

/* ---- leave.c ---- */

/* The stream to the coordinator broke: its jobs are somebody else's now. */
void dip__worker_reset(struct dip_worker *worker, const struct dip_message *message);
void dip__worker_drain(struct dip_worker *worker, const struct dip_message *message);
void dip__worker_undrain(struct dip_worker *worker);
void dip__worker_leave(struct dip_worker *worker, const struct dip_message *message);
/* Every turn: what is due. */
void dip__worker_leave_step(struct dip_worker *worker);
/* Shows what is going on to the thread that sends heartbeats. */
void dip__worker_load_show(struct dip_worker *worker);

/* ---- held.c ---- */

/* Of a digest that says something. */
bool dip__tag_may_be_held(const struct dip_worker *worker, const struct tag *tag);
/* The stream that ran under this epoch has ended: what is worth it is held, the rest goes. */
void dip__worker_hold(struct dip_worker *worker, uint64_t epoch);
/* What is held; empty when there is no memory for the list. */
struct dip_message_held dip__worker_held_list(struct dip_worker *worker);
void dip__worker_adopt(struct dip_worker *worker, const struct dip_message *message);
/* Nobody wants the picture of this job any more. */
void dip__worker_picture_release(struct dip_worker *worker, uint64_t job_id);
/* Every turn: what is over, and what is new. */
void dip__worker_held_step(struct dip_worker *worker);

/* ---- ar.c ---- */

void dip__worker_ar_command(struct dip_worker *worker, struct dip_message *message);
void dip__worker_hand_over(struct dip_worker *worker, const struct dip_message *message);
bool dip__worker_ar_release(struct dip_worker *worker, uint64_t job_id);
void dip__worker_ar_drop(struct dip_worker *worker, struct ar_job *job);
/* The engine goes, with all that is in it; what is held keeps its tokens. */
void dip__worker_ar_part(struct dip_worker *worker);
/* The coordinator has heard of that: it has given its jobs to others. */
void dip__worker_ar_forget_parted(struct dip_worker *worker);
/* Says all of it again, and draws on what had lost its slot. */
void dip__worker_ar_resume(struct dip_worker *worker, struct ar_job *job);
DIP_MUST_USE enum dip_status dip__worker_ar_step(struct dip_worker *worker);

/* ---- diffusion.c ---- */

void dip__worker_diffusion_command(struct dip_worker *worker, struct dip_message *message);
void dip__worker_hinge(struct dip_worker *worker, struct dip_message *message);
bool dip__worker_diffusion_release(struct dip_worker *worker, uint64_t job_id);
void dip__worker_diffusion_drop(struct dip_worker *worker, struct diffusion_job *job);
void dip__worker_diffusion_resume(struct dip_worker *worker, struct diffusion_job *job);
/* The file is said again; the other forgets it. */
void dip__worker_picture_resume(struct dip_worker *worker, struct picture *picture);
void dip__worker_picture_drop(struct dip_worker *worker, struct picture *picture);
DIP_MUST_USE enum dip_status dip__worker_diffusion_step(struct dip_worker *worker, int *ret_images);

/* ---- file.c ---- */

void *dip__worker_file_main(void *worker);
