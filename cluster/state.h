/* cluster/state.h - what the scheduler remembers; private to cluster/.
 *
 * One file per group of incoming messages changes it (request.c, member.c, ar.c, diffusion.c);
 * place.c gives waiting images to members. Owner thread: the coordinator's loop. */
#pragma once

#include "cluster/scheduler.h"

enum image_state {
    IMAGE_FREE,
    IMAGE_AR_WAITING,
    IMAGE_AR_RUNNING,
    IMAGE_DIFFUSION_WAITING,
    IMAGE_DIFFUSION_RUNNING,
    IMAGE_ENCODING, /* the diffusion slot is free again, the picture is not here yet */
    IMAGE_STATE_COUNT,
};

struct request {
    bool is_live;
    uint64_t id;
    int image_count, images_done;
    int token_count, step_count;
    bool has_hidden;
    int64_t submitted_ns;
};

struct image {
    enum image_state state;
    struct request *request;
    int index;      /* within the request */
    uint64_t order; /* of admission: the order of every queue */
    struct image *next, *previous;

    uint64_t ar_job_id; /* 0, or a worker draws this image or keeps its hinge */
    uint32_t ar_member;
    uint64_t diffusion_job_id; /* 0, or a worker makes the picture */
    uint32_t diffusion_member;
    bool is_conditioned; /* the hinge has arrived where it was sent */

    int32_t *token_ids; /* [token_count_max] drawn so far: where a replay resumes */
    int token_count;
    int steps_done;
    int loss_count;  /* how often a member took it to the grave */
    bool is_started; /* has left its first queue */
    int64_t hinge_ready_ns;
    struct dip_timings timings;
};

struct member {
    bool is_alive;
    uint32_t roles;
    int ar_slots, hinge_slots, diffusion_slots;
    int ar_live;        /* images in AR_RUNNING here */
    int hinges;         /* images whose ar_member this is: drawn here or kept here */
    int diffusion_live; /* images in DIFFUSION_RUNNING here */
    int backlog_steps;
    int64_t step_ns; /* last measured cost of a diffusion step; 0 = none yet */
};

struct queue {
    struct image *first, *last;
    int count;
};

struct dip_scheduler {
    struct dip_scheduler_limits limits;
    int64_t now_ns; /* of the message being fed */
    uint64_t serial;
    struct request *requests; /* [request_count_max] */
    struct image *images;     /* [image_count_max] */
    struct member *members;   /* [member_count_max], by address */
    int32_t *token_ids;       /* [image_count_max * token_count_max] */
    struct queue ar_queue, diffusion_queue;
    struct queue free_images;
    int request_count;
    struct dip_action *actions; /* [action_count_max], those of the last message */
    int action_count, action_count_max, action_index;
    char failure[DIP_FAILURE_BYTES]; /* what the last FAILED said: an action points here */
};

/* ---- state.c ---- */

/* Appends an action about `image` (NULL: about no image) and returns it for the other fields. */
struct dip_action *dip__action_push(struct dip_scheduler *s, enum dip_action_kind kind,
                                    const struct image *image);

/* Keeps the queue in order of admission. */
void dip__queue_insert(struct queue *queue, struct image *image);
void dip__queue_remove(struct queue *queue, struct image *image);

uint64_t dip__job_id_next(struct dip_scheduler *s, const struct image *image);

/* The image whose AR or diffusion job this is; NULL when the job was given up or never was. */
struct image *dip__image_of_ar(struct dip_scheduler *s, const struct dip_message *message);
struct image *dip__image_of_diffusion(struct dip_scheduler *s, const struct dip_message *message);

struct request *dip__request_find(struct dip_scheduler *s, uint64_t id);

/* Takes the image from its members, telling those alive to forget its jobs. */
void dip__image_drop_ar(struct dip_scheduler *s, struct image *image);
void dip__image_drop_diffusion(struct dip_scheduler *s, struct image *image);

/* Out of its queue, dropped by its members, and free. */
void dip__image_free(struct dip_scheduler *s, struct image *image);

/* Frees every image of the request and says ENDED. */
void dip__request_end(struct dip_scheduler *s, struct request *request, enum dip_status status,
                      const char *text);

void dip__progress(struct dip_scheduler *s, const struct image *image, enum dip_stage stage,
                   int done, int total);

/* ---- one function per message ---- */

void dip__on_submit(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_cancel(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_failed(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_joined(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_lost(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_prefilled(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_tokens(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_hinge_ready(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_conditioned(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_step(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_decoded(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_image(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_relay(struct dip_scheduler *s, const struct dip_message *m);

/* After every message: waiting images to free slots. */
void dip__place(struct dip_scheduler *s);
