/* cluster/state.h - what the scheduler remembers; private to cluster/.
 *
 *   request.c   SUBMIT, CANCEL, FAILED       lane.c    who is next among those that wait
 *   member.c    JOINED, LOST, DRAIN          pool.c    which member is best among those with room
 *   ar.c        events of the AR panel       rate.c    what was measured, and what follows from it
 *   diffusion.c events of the other panel    place.c   the next one to the best one
 *   tick.c      what is due                  state.c   the moves that all of them are made of
 *   adopt.c     what workers hold before     estimate.c  when a request would be done
 *
 * Owner thread: the coordinator's loop. */
#pragma once

#include "base/clock.h"
#include "cluster/scheduler.h"
#include "cluster/tree.h"

enum image_state {
    IMAGE_FREE,
    IMAGE_AR_WAITING,
    IMAGE_AR_RUNNING,
    IMAGE_DIFFUSION_WAITING,
    IMAGE_DIFFUSION_RUNNING,
    IMAGE_ENCODING, /* the diffusion slot is free again, the picture is not here yet */
    IMAGE_STATE_COUNT,
};

enum { PRIORITY_COUNT = DIP_PRIORITY_INTERACTIVE + 1 };

/* Mean times; 0 = not measured. By this process's clock, but for share_ns and picture_ns. */
struct rates {
    int64_t prefill_ns;
    int64_t token_ns;             /* one token of one image, alone; see rate.c for company */
    int token_count, paint_count; /* images in the means */
    /* One image's part of a diffusion step of 1, 2, ... images, as the worker says. */
    int64_t share_ns[DIP_BATCH_MAX];
    int64_t paint_ns;   /* one step of one image, as its slot was held for it, as if alone */
    int64_t tail_ns;    /* what the slot is held for behind the last step, as if alone */
    int64_t picture_ns; /* last step to file: decoder, encoder */
};

/* In order of submission. */
struct request_list {
    struct request *first, *last;
};
struct request_link {
    struct request *previous, *next;
    bool is_in;
};

struct request {
    bool is_live;
    uint64_t id;
    int image_count, images_done;
    struct image *images; /* those not done, linked by `sibling` */
    int token_count, step_count;
    bool has_hidden;
    bool is_begun; /* a worker has taken one of its images */
    enum dip_priority priority;
    uint32_t tenant;
    int64_t submitted_ns, deadline_ns, begin_by_ns; /* 0 = none */
    int64_t hold_by_ns; /* a worker must have come by then; 0 = there is one */
    int64_t begin_key;  /* when it must begin to be in time: the order within its tenant */
    int64_t paint_key;  /* when the other panel must begin for that */
    int64_t spare_ns;   /* by which it may be later than these keys say */
    bool is_promised, is_paint_promised; /* whether somebody waits for that */
    struct tree_node expiry;             /* in s->expiries */
    struct request_link waiting;         /* in s->waiting, until it has begun */
    struct request_link news;            /* in s->news, until it has begun */
    struct request_link held;            /* in s->held, until there are workers for it */
    int64_t news_ns;                     /* when it is told again */
    int told_ahead;
    int64_t told_start_ns;
};

struct image {
    enum image_state state;
    struct request *request;
    struct image *sibling;
    int index;      /* within the request */
    uint64_t order; /* of admission */

    /* Waiting (lane.c). */
    int band;                    /* the priority it has come to */
    struct tree_node wait;       /* in its flow, among the isolated or among the hopeless */
    struct tree_weight promise;  /* in its lane's promises */
    struct image *older, *newer; /* that wait in the same lane */
    int64_t wait_ns;             /* since when */
    bool is_hopeless;            /* it cannot be in time any more, by the estimate */

    uint64_t ar_job_id; /* 0, or a worker draws this image or keeps its hinge */
    uint32_t ar_member;
    uint64_t diffusion_job_id; /* 0, or a worker makes the picture */
    uint32_t diffusion_member;
    bool is_bound;       /* no diffusion job yet, but a slot is kept for it at diffusion_member */
    bool is_conditioned; /* the hinge has arrived where it was sent */
    struct image *ar_next, *ar_previous;               /* of the same ar_member */
    struct image *diffusion_next, *diffusion_previous; /* of the same diffusion_member */

    int32_t *token_ids; /* [token_count_max] drawn so far: where a replay resumes */
    int token_count;
    int drawn_count; /* of its hinge, where another coordinator had it drawn; 0 = token_count */
    int steps_done;
    int loss_count;   /* how often it lost a member it needed */
    int death_count;  /* members that went down while they worked at it, at one place */
    int strike_count; /* of those, the ones that did nothing else */
    bool has_died_at_ar;
    int died_at;             /* that place: tokens or steps */
    int handed_count;        /* how often it was handed back */
    bool is_isolated;        /* under suspicion: never beside another one that is */
    bool is_started;         /* has left its first queue */
    struct tree_node finish; /* when its slot is free, in s->ar_finishes or diffusion_finishes */
    bool is_prefilled;
    int64_t draw_mark_ns, paint_mark_ns; /* on its member's share; negative = not to be measured */
    int draw_mark_tokens, paint_mark_steps;
    int64_t tail_mark_ns; /* the share at its last step */
    int64_t hinge_ready_ns;
    struct dip_timings timings;
};

/* What members can do at a panel when all of their slots are taken. Speeds are in tokens or steps
 * per DIP_SPEED_NS; members that are not measured have a weight instead: so many times the speed of
 * an image that is alone on a mean one. */
struct capacity {
    int members, slots, room;
    int hinge_slots, hinges; /* AR */
    int64_t speed, weight;
};
#define DIP_SPEED_NS INT64_C(1000000000000000)

struct member {
    bool is_alive, is_draining, is_drained;
    uint32_t roles;
    int ar_slots, hinge_slots, diffusion_slots;
    int diffusion_wanted; /* images at a time, by what its steps cost; 0 = all its slots */
    int ar_live;          /* images in AR_RUNNING here */
    int hinges;           /* images whose ar_member this is: drawn here or kept here */
    int diffusion_live;   /* images in DIFFUSION_RUNNING here */
    int diffusion_jobs;   /* those and the ones being encoded */
    int bound;            /* slots kept for images whose tokens are nearly drawn */
    int backlog_steps;
    int isolated_count; /* images under suspicion that run here */
    struct rates rates;
    struct image *ar_images, *diffusion_images;

    /* What an image alone would have got of each panel's time since the member joined (rate.c). */
    int64_t draw_share_ns, paint_share_ns, shares_ns; /* the last: until when */

    /* Set aside after it could not do what it was told, until then. */
    int64_t aside_ns, aside_length_ns;
    struct tree_node aside;

    /* What pool.c counts of it. */
    struct tree_node ar_open, diffusion_open;
    int speed; /* whose tree diffusion_open is in */
    struct capacity pooled_drawing, pooled_painting;
};

/* ---- members with room (pool.c) ---- */

/* Eight speeds to the octave of an image's part of a step: within one, order by backlog is order by
 * finish. */
enum { SPEED_COUNT = 512 };

struct pool {
    struct tree ar_open;
    struct tree diffusion_open[SPEED_COUNT];
    uint64_t speeds[SPEED_COUNT / 64];               /* bits of those that are not empty */
    struct capacity drawing, painting;               /* of members that take work */
    struct capacity drawing_before, painting_before; /* of the last one, before it took none */
    int alive_count[2], staying_count[2]; /* AR, diffusion; the second without those that drain */
};

/* ---- images that wait (lane.c) ---- */

/* One tenant within one priority. */
struct flow {
    struct tree images;                      /* by begin_key */
    struct tree_node node;                   /* in its band's flows */
    int64_t tag;                             /* service had, over weight; the smallest is served */
    struct flow *asked_before, *asked_after; /* in its band's list of those that ask */
    int64_t asked_ns;                        /* when it asked last; 0 = not in that list */
    int64_t retry_ns;                        /* what it was told last about when to come again */
    int pace;                                /* in the line of those, in sixteenths of a turn */
    uint32_t tenant;
};

struct band {
    struct tree flows; /* that have images, by tag */
    int64_t tag;       /* of the flow served last: who comes back begins here */
    int image_count;
    int64_t served_ns;                     /* when it was served last, or had its first image */
    int64_t weight;                        /* of all flows that have images */
    struct flow *asked_first, *asked_last; /* that have asked lately, admitted or not */
    int64_t asked_weight;
};

/* What is to be done at images that wait. */
struct work {
    int64_t tokens, steps;
};

struct lane {
    struct band bands[PRIORITY_COUNT];
    struct flow *flows;   /* [PRIORITY_COUNT * tenant_count_max] */
    struct tree isolated; /* images that need a member without another such */
    struct tree promises; /* images in bands that must begin by a time, by it */
    struct tree hopeless; /* images that cannot be in time; the one that is least late first */
    struct image *oldest, *newest;
    int count;
    struct work all, promised; /* that wait */
};

/* What one that was refused was told about when to come again. */
struct ticket {
    uint64_t key; /* of whom; 0 = nobody */
    int64_t at_ns;
};
enum { TICKET_COUNT = 1 << 14 }; /* a later one takes the place of an earlier one */

struct dip_scheduler {
    struct dip_scheduler_limits limits;
    int64_t now_ns; /* of the message being fed */
    uint64_t serial;
    bool is_draining;
    int64_t expect_until_ns;       /* workers may still be on their way */
    size_t bytes;                  /* set aside below */
    struct request *requests;      /* [request_count_max] */
    struct image *images;          /* [image_count_max] */
    struct member *members;        /* [member_count_max], by address */
    int32_t *token_ids;            /* [image_count_max * token_count_max] */
    int *weights;                  /* [tenant_count_max] */
    struct flow *flows;            /* of both lanes */
    struct ticket *tickets;        /* [TICKET_COUNT] by key */
    int32_t *request_table;        /* [request_table_size] index + 1 by hash of the id; 0 = free */
    uint32_t request_table_size;   /* a power of two */
    struct request *free_requests; /* linked by waiting.next */
    struct image *free_images;     /* linked by sibling */
    int request_count, free_image_count;
    int state_counts[IMAGE_STATE_COUNT];

    struct lane ar_lane, diffusion_lane;
    struct pool pool;
    struct rates rates; /* of all members */
    struct tree ar_finishes, diffusion_finishes;
    struct tree expiries; /* requests by the time that ends them */
    struct tree asides;   /* members by the time that brings them back */
    int64_t look_ns;      /* a slot that an image waits for was due by then; INT64_MAX = none */
    struct request_list waiting, news, held;
    int held_count;
    int64_t shared_steps; /* sampler steps of images that were not alone in them */

    struct dip_action *actions; /* [action_count_max], those of the last message */
    int action_count, action_count_max, action_index;
    char failure[DIP_FAILURE_BYTES]; /* what the last FAILED said: an action points here */
};

/* While nobody takes work, what the last one could do: what comes meanwhile is not admitted
 * blindly. */
static inline const struct capacity *dip__drawing(const struct dip_scheduler *s)
{
    return s->pool.drawing.members > 0 ? &s->pool.drawing : &s->pool.drawing_before;
}
static inline const struct capacity *dip__painting(const struct dip_scheduler *s)
{
    return s->pool.painting.members > 0 ? &s->pool.painting : &s->pool.painting_before;
}

/* ---- state.c ---- */

/* Appends an action about `image` (NULL: about no image) and returns it for the other fields. */
struct dip_action *dip__action_push(struct dip_scheduler *s, enum dip_action_kind kind,
                                    const struct image *image);

void dip__image_set_state(struct dip_scheduler *s, struct image *image, enum image_state state);

uint64_t dip__job_id_next(struct dip_scheduler *s, const struct image *image);

/* The image whose AR or diffusion job this is; NULL when the job was given up or never was. */
struct image *dip__image_of_ar(struct dip_scheduler *s, const struct dip_message *message);
struct image *dip__image_of_diffusion(struct dip_scheduler *s, const struct dip_message *message);

/* Gives a job to a member, in the books. */
void dip__image_take_ar(struct dip_scheduler *s, struct image *image, uint32_t member);
void dip__image_take_diffusion(struct dip_scheduler *s, struct image *image, uint32_t member);
/* What is held at a member is taken over: a hinge that is kept there, steps that are done, a
 * picture that is made. */
void dip__image_take_hinge(struct dip_scheduler *s, struct image *image, uint32_t member);
void dip__image_skip_steps(struct dip_scheduler *s, struct image *image, int steps_done);
void dip__image_take_picture(struct dip_scheduler *s, struct image *image, uint32_t member);
void dip__image_bind(struct dip_scheduler *s, struct image *image, uint32_t member);
void dip__image_unbind(struct dip_scheduler *s, struct image *image);

/* The panel is done with its slot: the tokens are drawn, the latent is final. */
void dip__image_leave_ar(struct dip_scheduler *s, struct image *image);
void dip__image_leave_diffusion(struct dip_scheduler *s, struct image *image);

/* Takes the image from its members, telling those alive to forget its jobs. */
void dip__image_drop_ar(struct dip_scheduler *s, struct image *image);
void dip__image_drop_diffusion(struct dip_scheduler *s, struct image *image);

/* Whether the image still needs the hinge that its AR member draws or keeps. */
bool dip__image_needs_hinge(const struct image *image);

/* Out of its lane, dropped by its members, and free. */
void dip__image_free(struct dip_scheduler *s, struct image *image);

/* Free, its picture being here. */
void dip__image_finish(struct dip_scheduler *s, struct image *image);

void dip__progress(struct dip_scheduler *s, const struct image *image, enum dip_stage stage,
                   int done, int total);

/* ---- table.c ---- */

struct request *dip__request_find(const struct dip_scheduler *s, uint64_t id);
void dip__request_enter(struct dip_scheduler *s, struct request *request);
void dip__request_remove(struct dip_scheduler *s, const struct request *request);

enum request_list_kind { LIST_WAITING, LIST_NEWS, LIST_HELD };
void dip__list_push(struct dip_scheduler *s, enum request_list_kind kind, struct request *request);
void dip__list_remove(struct dip_scheduler *s, enum request_list_kind kind,
                      struct request *request);

/* ---- request.c ---- */

/* Frees every image of the request and says ENDED. */
void dip__request_end(struct dip_scheduler *s, struct request *request, enum dip_end end,
                      enum dip_status status, const char *text);

/* A worker takes the first of its images: from here on its queue time is over. */
void dip__request_begin(struct dip_scheduler *s, struct request *request);

/* A member came, or takes work again: requests that were held for one are held no more. */
void dip__hold_end(struct dip_scheduler *s);

/* ---- lane.c ---- */

void dip__lane_init(struct dip_scheduler *s, struct lane *lane, struct flow *flows);
void dip__lane_push(struct dip_scheduler *s, struct lane *lane, struct image *image);
void dip__lane_remove(struct dip_scheduler *s, struct lane *lane, struct image *image);
/* As remove, and its tenant pays for it. */
void dip__lane_serve(struct dip_scheduler *s, struct lane *lane, struct image *image);
/* Raises the next ones of a priority that was not served for long; gives up hope where there is
 * none. */
void dip__lane_age(struct dip_scheduler *s, struct lane *lane);
/* The one that is next; NULL when none waits. Those in `isolated` come before it. */
struct image *dip__lane_first(const struct dip_scheduler *s, const struct lane *lane);
/* About how many are served before one that waits. */
int dip__lane_ahead(const struct dip_scheduler *s, const struct lane *lane,
                    const struct image *image);

/* One that would come now. */
struct newcomer {
    enum dip_priority priority;
    uint32_t tenant;
    int64_t begin_key;
    bool is_promised;
    int64_t work_ns; /* all of its images, at the speed of all members */
};
/* This tenant asks for something, whatever becomes of it. */
struct flow *dip__lane_ask(struct dip_scheduler *s, struct lane *lane, enum dip_priority priority,
                           uint32_t tenant);
/* About how many are served before it. */
int dip__lane_ahead_of_new(const struct dip_scheduler *s, const struct lane *lane,
                           const struct newcomer *newcomer);
/* The same when all that ask have their share. */
int dip__lane_ahead_at_most(const struct dip_scheduler *s, const struct lane *lane,
                            const struct newcomer *newcomer);
/* Of so many images one is its tenant's then. */
int64_t dip__lane_turns(const struct dip_scheduler *s, const struct lane *lane,
                        const struct newcomer *newcomer);
/* How long those take that are promised to begin before it. */
int64_t dip__lane_promised_ns(const struct dip_scheduler *s, const struct lane *lane,
                              const struct newcomer *newcomer);
/* By how much the most pressed of those that begin later would be late with it; <= 0: nobody. The
 * first image in the lane begins at start_ns. */
int64_t dip__lane_harm_ns(const struct dip_scheduler *s, const struct lane *lane,
                          const struct newcomer *newcomer, int64_t start_ns);

/* ---- pool.c ---- */

bool dip__member_takes(const struct member *member); /* alive, not draining, not set aside */

/* After any change of a member: its places in the trees, and DRAINED when that is so. */
void dip__member_settle(struct dip_scheduler *s, struct member *member);

/* The address of the best member for this image, or -1: nobody has room, or only one that is so
 * slow that the image would be late. One under suspicion goes where no other such is. */
int dip__pick_ar(const struct dip_scheduler *s, const struct image *image);
/* *ret_ns: how long it would take there; INT64_MAX where nothing was measured yet. */
int dip__pick_diffusion(const struct dip_scheduler *s, const struct image *image, int64_t *ret_ns);
/* Whether a slot that others have yet would serve `waiting` such images, one after another, clearly
 * before `here_ns` have passed. *ret_until_ns: when that slot will be overdue. */
bool dip__is_better_later(const struct dip_scheduler *s, const struct image *image, int waiting,
                          int64_t here_ns, int64_t *ret_until_ns);
/* How many images a member is given at a time. */
int dip__diffusion_slots(const struct member *member);

/* It could not do what it was told: no new work for a while, longer every time. */
void dip__member_set_aside(struct dip_scheduler *s, struct member *member);

/* ---- rate.c ---- */

/* Moves a mean towards what was measured, which may be nonsense. */
void dip__rate_add(int64_t *rate, int64_t measured_ns);

/* What a step of its sampler says of the member. */
void dip__rate_step(struct dip_scheduler *s, struct member *member,
                    const struct dip_message_step *step);
/* One image's part of a step where `live` take turns, or share one as far as that pays; 0 = not
 * measured. */
int64_t dip__share_ns(const struct rates *rates, int live);

/* Before the number of images changes that a member draws or paints. */
void dip__shares_move(struct dip_scheduler *s, struct member *member);
/* An image is prefilled; has come so far; leaves its panel: what that says of its member. */
void dip__rate_prefilled(struct dip_scheduler *s, struct image *image);
void dip__rate_drawing(struct dip_scheduler *s, const struct image *image);
void dip__rate_drawn(struct dip_scheduler *s, const struct image *image);
void dip__rate_stepped(struct dip_scheduler *s, struct image *image);
void dip__rate_painted(struct dip_scheduler *s, const struct image *image);

/* One token of each of `live` images decoded together; one step of one image, its part of it in
 * such company. 0 = not known. */
int64_t dip__token_ns(const struct dip_scheduler *s, const struct member *member, int live);
int64_t dip__paint_ns(const struct dip_scheduler *s, const struct member *member, int live);

/* Adds to `capacity` the speed of a member with so many slots, or its weight. */
void dip__capacity_draw(const struct member *member, struct capacity *capacity);
void dip__capacity_paint(const struct member *member, struct capacity *capacity);

/* From one image of so many tokens, or steps, to the next, when all slots are taken; 0 = unknown.
 */
int64_t dip__draw_every_ns(const struct dip_scheduler *s, int64_t tokens);
int64_t dip__paint_every_ns(const struct dip_scheduler *s, int64_t steps);

/* For how long one image holds its slot. */
int64_t dip__draw_ns(const struct dip_scheduler *s, int tokens, int images);
int64_t dip__paint_hold_ns(const struct dip_scheduler *s, int steps, int images);

/* Where the image stands in the tree of its panel's finishes, after anything that changes it. */
void dip__finish_update(struct dip_scheduler *s, struct image *image);
void dip__finish_remove(struct dip_scheduler *s, struct image *image);

/* ---- estimate.c ---- */

struct estimate {
    int ahead;                    /* images before the first one */
    int64_t start_ns, finish_ns;  /* 0 = not known */
    int64_t begin_key, paint_key; /* when each panel must begin with it */
    int64_t spare_ns;             /* by which that may be later */
    int64_t late_ns;              /* > 0: it, or a promise to another one, might not be kept */
    int64_t turn_ns;              /* from one image of its tenant to the next; 0 = not known */
};
/* Of a request that would come now. `is_expected`: it comes when it was told to. Who is not leaves
 * some room while others of its tenant have yet to come again. */
struct estimate dip__estimate_new(const struct dip_scheduler *s,
                                  const struct dip_message_submit *submit, const struct flow *flow,
                                  bool is_expected);
/* Of one whose images wait, finish_ns aside. */
struct estimate dip__estimate_waiting(const struct dip_scheduler *s, const struct image *image);

/* From an image to the next, of so many tokens and steps each, at the narrower panel; tokens may be
 * 0. 0 = not known. */
int64_t dip__every_ns(const struct dip_scheduler *s, int64_t tokens, int64_t steps);

/* How long one that is refused with this estimate should wait. */
int64_t dip__pushback_ns(const struct dip_scheduler *s, struct flow *flow,
                         const struct estimate *estimate, int images);
/* One has come when it was told to, and what became of that. */
void dip__pushback_learn(struct flow *flow, bool is_admitted);

/* ---- one function per message ---- */

void dip__on_submit(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_cancel(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_tick(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_failed(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_joined(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_lost(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_drain(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_undrain(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_prefilled(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_tokens(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_hinge_ready(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_conditioned(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_step(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_decoded(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_image(struct dip_scheduler *s, const struct dip_message *m);
void dip__on_relay(struct dip_scheduler *s, const struct dip_message *m);

/* Held work of this request is offered; what is further than its image has come is adopted. */
void dip__offers_take(struct dip_scheduler *s, const struct request *request,
                      const struct dip_offer *offers, int count);

/* Somebody has begun with it: the wait that counts as the queue's is over. */
void dip__image_start(struct dip_scheduler *s, struct image *image);

/* Members whose time aside is over. */
void dip__asides_end(struct dip_scheduler *s);

/* How a member went down, or its device did. */
struct loss {
    uint32_t member;
    bool is_alone;           /* it had one job */
    bool is_leaving;         /* it was expected to go */
    const char *device_text; /* NULL, or what a member that lives says of its device */
};

/* The image has lost a member that it needs: it goes back, or its request ends. */
void dip__image_hit(struct dip_scheduler *s, struct image *image, const struct loss *loss);

/* Back to waiting: for the diffusion panel while its hinge is somewhere, else for the AR one. */
void dip__image_requeue(struct dip_scheduler *s, struct image *image, bool is_hinge_lost);

/* After every message: waiting images to free slots. */
void dip__place(struct dip_scheduler *s);

/* Sends an image that has its hinge, or its client's, to the diffusion panel. */
void dip__diffusion_start(struct dip_scheduler *s, struct image *image, uint32_t address);
