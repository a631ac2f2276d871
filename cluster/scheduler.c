/* cluster/scheduler.c - the state machine's frame: reserve, dispatch, hand out actions. */
#include "cluster/scheduler.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

/* What one message can say: an image is told about, released twice and placed with two commands; a
 * request is told of and ended; the members that all this empties are drained. */
enum { ACTIONS_PER_IMAGE = 8, ACTIONS_PER_REQUEST = 3, ACTIONS_BESIDE = 8 };
enum { TENANTS_DEFAULT = 64, TENANTS_MAX = 1 << 16, WEIGHT_MAX = 1000 };
#define AGE_NS_DEFAULT (20 * DIP_SECOND_NS)

const char *dip_refusal_text(enum dip_refusal refusal)
{
    static const char *const texts[] = {
#define DIP_REFUSAL_TEXT(name, text) text,
        DIP_REFUSAL_LIST(DIP_REFUSAL_TEXT)
#undef DIP_REFUSAL_TEXT
    };
    return (unsigned)refusal < DIP_REFUSAL_COUNT ? texts[refusal] : "?";
}

const char *dip_end_text(enum dip_end end)
{
    static const char *const texts[] = {
#define DIP_END_TEXT(name, text) text,
        DIP_END_LIST(DIP_END_TEXT)
#undef DIP_END_TEXT
    };
    return (unsigned)end < DIP_END_COUNT ? texts[end] : "?";
}

const char *dip_end_name(enum dip_end end)
{
    static const char *const names[] = {
#define DIP_END_NAME(name, text) #name,
        DIP_END_LIST(DIP_END_NAME)
#undef DIP_END_NAME
    };
    return (unsigned)end < DIP_END_COUNT ? names[end] : "?";
}

/* ---- reserve ---- */

static void limits_take(struct dip_scheduler *s, const struct dip_scheduler_limits *limits)
{
    dip_assert(limits->request_count_max > 0);
    dip_assert(limits->image_count_max > 0 && limits->image_count_max < 1 << 20);
    dip_assert(limits->member_count_max > 0);
    dip_assert(limits->token_count_max > 0 && limits->token_count_max <= DIP_IMAGE_TOKENS_MAX);
    dip_assert(limits->attempt_count_max > 0);
    dip_assert(limits->tenant_count_max >= 0 && limits->tenant_count_max <= TENANTS_MAX);
    dip_assert(limits->age_ns >= 0 && limits->hold_ns >= 0);
    s->limits = *limits;
    if (s->limits.tenant_count_max == 0)
        s->limits.tenant_count_max = TENANTS_DEFAULT;
    if (s->limits.age_ns == 0)
        s->limits.age_ns = AGE_NS_DEFAULT;
    s->request_table_size = 2;
    while (s->request_table_size < 2 * (uint32_t)limits->request_count_max)
        s->request_table_size *= 2;
    s->action_count_max = ACTIONS_PER_IMAGE * limits->image_count_max +
                          ACTIONS_PER_REQUEST * limits->request_count_max + ACTIONS_BESIDE;
}

static void *take(struct dip_scheduler *s, size_t count, size_t bytes)
{
    s->bytes += count * bytes;
    return calloc(count, bytes);
}

static bool reserve(struct dip_scheduler *s)
{
    const struct dip_scheduler_limits *limits = &s->limits;
    size_t images = (size_t)limits->image_count_max;
    size_t tenants = (size_t)limits->tenant_count_max;
    s->requests = take(s, (size_t)limits->request_count_max, sizeof *s->requests);
    s->images = take(s, images, sizeof *s->images);
    s->members = take(s, (size_t)limits->member_count_max, sizeof *s->members);
    s->token_ids = take(s, images * (size_t)limits->token_count_max, sizeof *s->token_ids);
    s->weights = take(s, tenants, sizeof *s->weights);
    s->flows = take(s, 2 * PRIORITY_COUNT * tenants, sizeof *s->flows);
    s->tickets = take(s, TICKET_COUNT, sizeof *s->tickets);
    s->request_table = take(s, s->request_table_size, sizeof *s->request_table);
    s->actions = take(s, (size_t)s->action_count_max, sizeof *s->actions);
    return s->requests && s->images && s->members && s->token_ids && s->weights && s->flows &&
           s->tickets && s->request_table && s->actions;
}

static void free_lists_fill(struct dip_scheduler *s)
{
    for (int i = s->limits.image_count_max - 1; i >= 0; i--) {
        s->images[i].token_ids = s->token_ids + (size_t)i * (size_t)s->limits.token_count_max;
        s->images[i].sibling = s->free_images;
        s->free_images = &s->images[i];
    }
    s->free_image_count = s->limits.image_count_max;
    s->state_counts[IMAGE_FREE] = s->limits.image_count_max;
    for (int i = s->limits.request_count_max - 1; i >= 0; i--) {
        s->requests[i].waiting.next = s->free_requests;
        s->free_requests = &s->requests[i];
    }
    for (int i = 0; i < s->limits.tenant_count_max; i++)
        s->weights[i] = 1;
}

enum dip_status dip_scheduler_new(const struct dip_scheduler_limits *limits,
                                  struct dip_scheduler **ret_scheduler)
{
    struct dip_scheduler *s = calloc(1, sizeof *s);
    if (!s)
        return DIP_NO_MEMORY;
    limits_take(s, limits);
    s->look_ns = INT64_MAX;
    if (!reserve(s)) {
        dip_scheduler_free(s);
        return DIP_NO_MEMORY;
    }
    free_lists_fill(s);
    dip__lane_init(s, &s->ar_lane, s->flows);
    dip__lane_init(s, &s->diffusion_lane,
                   s->flows + PRIORITY_COUNT * (size_t)s->limits.tenant_count_max);
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
    free(scheduler->weights);
    free(scheduler->flows);
    free(scheduler->tickets);
    free(scheduler->request_table);
    free(scheduler->actions);
    free(scheduler);
}

size_t dip_scheduler_bytes(const struct dip_scheduler *scheduler)
{
    return sizeof *scheduler + scheduler->bytes;
}

void dip_scheduler_set_weight(struct dip_scheduler *scheduler, uint32_t tenant, int weight)
{
    struct dip_scheduler *s = scheduler;
    tenant %= (uint32_t)s->limits.tenant_count_max;
    weight = weight < 1 ? 1 : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
    struct lane *lanes[] = {&s->ar_lane, &s->diffusion_lane};
    for (int i = 0; i < 2; i++)
        for (int band = 0; band < PRIORITY_COUNT; band++) {
            const struct flow *flow =
                &lanes[i]->flows[band * s->limits.tenant_count_max + (int)tenant];
            int more = weight - s->weights[tenant];
            lanes[i]->bands[band].weight += dip__tree_has(&flow->node) ? more : 0;
            lanes[i]->bands[band].asked_weight += flow->asked_ns > 0 ? more : 0;
        }
    s->weights[tenant] = weight;
}

void dip_scheduler_expect_workers(struct dip_scheduler *scheduler, int64_t until_ns)
{
    scheduler->expect_until_ns = until_ns;
}

/* ---- dispatch ---- */

typedef void (*on_message_fn)(struct dip_scheduler *s, const struct dip_message *m);

static const on_message_fn handlers[DIP_MESSAGE_COUNT] = {
    [DIP_MESSAGE_SUBMIT] = dip__on_submit,
    [DIP_MESSAGE_CANCEL] = dip__on_cancel,
    [DIP_MESSAGE_TICK] = dip__on_tick,
    [DIP_MESSAGE_FAILED] = dip__on_failed,
    [DIP_MESSAGE_JOINED] = dip__on_joined,
    [DIP_MESSAGE_LOST] = dip__on_lost,
    [DIP_MESSAGE_GROUP_LOST] = dip__on_lost,
    [DIP_MESSAGE_LEAVING] = dip__on_drain,
    [DIP_MESSAGE_DRAIN] = dip__on_drain,
    [DIP_MESSAGE_UNDRAIN] = dip__on_undrain,
    [DIP_MESSAGE_PREFILLED] = dip__on_prefilled,
    [DIP_MESSAGE_TOKENS] = dip__on_tokens,
    [DIP_MESSAGE_HINGE_READY] = dip__on_hinge_ready,
    [DIP_MESSAGE_CONDITIONED] = dip__on_conditioned,
    [DIP_MESSAGE_STEP] = dip__on_step,
    [DIP_MESSAGE_DECODED] = dip__on_decoded,
    [DIP_MESSAGE_IMAGE] = dip__on_image,
    [DIP_MESSAGE_CHECKPOINT] = dip__on_relay,
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
    s->now_ns = now_ns > s->now_ns ? now_ns : s->now_ns;
    /* An address that cannot be a member's: a transport that is confused, or hostile. */
    if (message->from >= (uint32_t)s->limits.member_count_max)
        return;
    dip__asides_end(s);
    if (handlers[message->kind])
        handlers[message->kind](s, message);
    if (message->kind == DIP_MESSAGE_JOINED || message->kind == DIP_MESSAGE_UNDRAIN)
        dip__hold_end(s);
    dip__place(s);
}

bool dip_scheduler_next(struct dip_scheduler *scheduler, struct dip_action *ret_action)
{
    if (scheduler->action_index == scheduler->action_count)
        return false;
    *ret_action = scheduler->actions[scheduler->action_index++];
    return true;
}

int64_t dip_scheduler_wake_ns(const struct dip_scheduler *scheduler)
{
    const struct dip_scheduler *s = scheduler;
    int64_t wake_ns = INT64_MAX;
    if (s->expiries.first)
        wake_ns = s->expiries.first->key;
    if (s->asides.first && s->asides.first->key < wake_ns)
        wake_ns = s->asides.first->key;
    if (s->news.first && s->news.first->news_ns < wake_ns)
        wake_ns = s->news.first->news_ns;
    if (s->look_ns < wake_ns)
        wake_ns = s->look_ns;
    return wake_ns;
}

/* ---- what pages show ---- */

struct dip_scheduler_stats dip_scheduler_stats(const struct dip_scheduler *scheduler)
{
    const struct dip_scheduler *s = scheduler;
    const int *counts = s->state_counts;
    const struct request *oldest = s->waiting.first;
    const struct image *unpainted = s->diffusion_lane.oldest;
    return (struct dip_scheduler_stats){
        .requests = s->request_count,
        .images = s->limits.image_count_max - counts[IMAGE_FREE],
        .ar_waiting = counts[IMAGE_AR_WAITING],
        .ar_running = counts[IMAGE_AR_RUNNING],
        .diffusion_waiting = counts[IMAGE_DIFFUSION_WAITING],
        .diffusion_running = counts[IMAGE_DIFFUSION_RUNNING],
        .encoding = counts[IMAGE_ENCODING],
        .ar_slots = s->pool.drawing.slots,
        .diffusion_slots = s->pool.painting.slots,
        .held = s->held_count,
        .oldest_wait_ns = oldest ? s->now_ns - oldest->submitted_ns : 0,
        .shared_steps = s->shared_steps,
        .diffusion_wait_ns = unpainted ? s->now_ns - unpainted->wait_ns : 0,
    };
}

struct dip_member_stats dip_scheduler_member(const struct dip_scheduler *scheduler,
                                             uint32_t address)
{
    dip_assert(address < (uint32_t)scheduler->limits.member_count_max);
    const struct member *member = &scheduler->members[address];
    return (struct dip_member_stats){
        .is_alive = member->is_alive,
        .is_draining = member->is_draining,
        .ar_live = member->ar_live,
        .hinges = member->hinges,
        .diffusion_live = member->diffusion_live,
        .jobs = member->hinges + member->diffusion_jobs,
        .backlog_steps = member->backlog_steps,
        .prefill_ns = member->rates.prefill_ns,
        .token_ns = member->rates.token_ns,
        .step_ns = dip__share_ns(&member->rates, 1),
        .diffusion_wanted = member->diffusion_wanted,
        .picture_ns = member->rates.picture_ns,
    };
}
