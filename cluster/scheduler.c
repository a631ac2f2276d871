/* cluster/scheduler.c - the state machine's frame: reserve, dispatch, hand out actions. */
#include "cluster/scheduler.h"

#include <stdlib.h>

#include "base/assert.h"
#include "cluster/state.h"

/* An image is told about, released twice and placed with two commands at most, per message. */
enum { ACTIONS_PER_IMAGE = 6, ACTIONS_PER_REQUEST = 2, ACTIONS_BESIDE = 8 };

const char *dip_refusal_text(enum dip_refusal refusal)
{
    static const char *const texts[] = {
#define DIP_REFUSAL_TEXT(name, text) text,
        DIP_REFUSAL_LIST(DIP_REFUSAL_TEXT)
#undef DIP_REFUSAL_TEXT
    };
    return (unsigned)refusal < DIP_REFUSAL_COUNT ? texts[refusal] : "?";
}

enum dip_status dip_scheduler_new(const struct dip_scheduler_limits *limits,
                                  struct dip_scheduler **ret_scheduler)
{
    dip_assert(limits->request_count_max > 0);
    dip_assert(limits->image_count_max > 0);
    dip_assert(limits->member_count_max > 0);
    dip_assert(limits->token_count_max > 0);
    dip_assert(limits->attempt_count_max > 0);
    size_t images = (size_t)limits->image_count_max;
    size_t actions = ACTIONS_PER_IMAGE * images +
                     ACTIONS_PER_REQUEST * (size_t)limits->request_count_max + ACTIONS_BESIDE;
    struct dip_scheduler *s = calloc(1, sizeof *s);
    if (!s)
        return DIP_NO_MEMORY;
    s->limits = *limits;
    s->requests = calloc((size_t)limits->request_count_max, sizeof *s->requests);
    s->images = calloc(images, sizeof *s->images);
    s->members = calloc((size_t)limits->member_count_max, sizeof *s->members);
    s->token_ids = calloc(images * (size_t)limits->token_count_max, sizeof *s->token_ids);
    s->actions = calloc(actions, sizeof *s->actions);
    if (!s->requests || !s->images || !s->members || !s->token_ids || !s->actions) {
        dip_scheduler_free(s);
        return DIP_NO_MEMORY;
    }
    s->action_count_max = (int)actions;
    for (size_t i = 0; i < images; i++) {
        s->images[i].token_ids = s->token_ids + i * (size_t)limits->token_count_max;
        s->images[i].order = i;
        dip__queue_insert(&s->free_images, &s->images[i]);
    }
    *ret_scheduler = s;
    return DIP_OK;
}

void dip_scheduler_free(struct dip_scheduler *scheduler)
{
    if (!scheduler)
        return;
    free(scheduler->requests);
    free(scheduler->images);
    free(scheduler->members);
    free(scheduler->token_ids);
    free(scheduler->actions);
    free(scheduler);
}

typedef void (*on_message_fn)(struct dip_scheduler *s, const struct dip_message *m);

static const on_message_fn handlers[DIP_MESSAGE_COUNT] = {
    [DIP_MESSAGE_SUBMIT] = dip__on_submit,
    [DIP_MESSAGE_CANCEL] = dip__on_cancel,
    [DIP_MESSAGE_FAILED] = dip__on_failed,
    [DIP_MESSAGE_JOINED] = dip__on_joined,
    [DIP_MESSAGE_LOST] = dip__on_lost,
    [DIP_MESSAGE_PREFILLED] = dip__on_prefilled,
    [DIP_MESSAGE_TOKENS] = dip__on_tokens,
    [DIP_MESSAGE_HINGE_READY] = dip__on_hinge_ready,
    [DIP_MESSAGE_CONDITIONED] = dip__on_conditioned,
    [DIP_MESSAGE_STEP] = dip__on_step,
    [DIP_MESSAGE_DECODED] = dip__on_decoded,
    [DIP_MESSAGE_IMAGE] = dip__on_image,
    [DIP_MESSAGE_PREVIEW] = dip__on_relay,
    [DIP_MESSAGE_TRACE] = dip__on_relay,
};

void dip_scheduler_feed(struct dip_scheduler *scheduler, int64_t now_ns,
                        const struct dip_message *message)
{
    struct dip_scheduler *s = scheduler;
    dip_assert(s->action_index == s->action_count); /* the caller took every action */
    dip_assert((unsigned)message->kind < DIP_MESSAGE_COUNT);
    s->action_index = 0;
    s->action_count = 0;
    s->now_ns = now_ns;
    /* An address that cannot be a member's: a transport that is confused, or hostile. */
    if (message->from >= (uint32_t)s->limits.member_count_max)
        return;
    if (handlers[message->kind])
        handlers[message->kind](s, message);
    dip__place(s);
}

bool dip_scheduler_next(struct dip_scheduler *scheduler, struct dip_action *ret_action)
{
    if (scheduler->action_index == scheduler->action_count)
        return false;
    *ret_action = scheduler->actions[scheduler->action_index++];
    return true;
}

struct dip_scheduler_stats dip_scheduler_stats(const struct dip_scheduler *scheduler)
{
    int counts[IMAGE_STATE_COUNT] = {0};
    for (int i = 0; i < scheduler->limits.image_count_max; i++)
        counts[scheduler->images[i].state]++;
    return (struct dip_scheduler_stats){
        .requests = scheduler->request_count,
        .images = scheduler->limits.image_count_max - counts[IMAGE_FREE],
        .ar_waiting = counts[IMAGE_AR_WAITING],
        .ar_running = counts[IMAGE_AR_RUNNING],
        .diffusion_waiting = counts[IMAGE_DIFFUSION_WAITING],
        .diffusion_running = counts[IMAGE_DIFFUSION_RUNNING],
        .encoding = counts[IMAGE_ENCODING],
    };
}

struct dip_member_stats dip_scheduler_member(const struct dip_scheduler *scheduler,
                                             uint32_t address)
{
    dip_assert(address < (uint32_t)scheduler->limits.member_count_max);
    const struct member *member = &scheduler->members[address];
    return (struct dip_member_stats){
        .is_alive = member->is_alive,
        .ar_live = member->ar_live,
        .hinges = member->hinges,
        .diffusion_live = member->diffusion_live,
        .backlog_steps = member->backlog_steps,
    };
}
