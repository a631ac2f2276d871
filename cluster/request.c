/* cluster/request.c - SUBMIT, CANCEL, FAILED: how a request begins and how it ends before its time.
 *
 * Rule (design, promise 2): a request is refused at once or kept to its end. What could refuse it
 * later is therefore checked here: places for the request and for each of its images, members that
 * take work, and by the measured rates whether it can be in time. */
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

enum { HANDED_COUNT_MAX = 16, HANDED_PER_HINGE = 3 };
#define TICKET_NS_EARLY (50 * DIP_MS_NS)

/* ---- SUBMIT ---- */

static bool is_too_large(const struct dip_scheduler *s, const struct dip_message_submit *submit)
{
    return submit->image_count < 1 || submit->image_count > s->limits.image_count_max ||
           submit->token_count < 1 || submit->token_count > s->limits.token_count_max ||
           submit->forced_count < 0 || submit->forced_count > submit->token_count ||
           submit->step_count < 1 || submit->step_count > DIP_STEPS_MAX ||
           (unsigned)submit->priority >= PRIORITY_COUNT;
}

/* Both panels must have somebody; DIP_REFUSAL_COUNT when they have. */
static enum dip_refusal find_missing(const struct dip_scheduler *s, bool has_hidden)
{
    const struct pool *pool = &s->pool;
    if (s->is_draining)
        return DIP_REFUSAL_DRAINING;
    if (pool->alive_count[1] == 0 || (!has_hidden && pool->alive_count[0] == 0))
        return s->now_ns < s->expect_until_ns || s->limits.hold_ns > 0 ? DIP_REFUSAL_COUNT
                                                                       : DIP_REFUSAL_NO_WORKERS;
    if (s->limits.hold_ns > 0)
        return DIP_REFUSAL_COUNT; /* those that drain go, and others may come */
    if (pool->staying_count[1] == 0 || (!has_hidden && pool->staying_count[0] == 0))
        return DIP_REFUSAL_DRAINING;
    return DIP_REFUSAL_COUNT;
}

/* DIP_REFUSAL_COUNT when there is nothing against it. */
static enum dip_refusal find_refusal(struct dip_scheduler *s, const struct dip_message *m,
                                     const struct estimate *estimate)
{
    const struct dip_message_submit *submit = &m->as.submit;
    enum dip_refusal missing = find_missing(s, submit->has_hidden);
    if (missing != DIP_REFUSAL_COUNT)
        return missing;
    if (s->request_count == s->limits.request_count_max ||
        s->free_image_count < submit->image_count)
        return DIP_REFUSAL_QUEUE_FULL;
    return estimate->late_ns > 0 ? DIP_REFUSAL_WOULD_BE_LATE : DIP_REFUSAL_COUNT;
}

static void refuse(struct dip_scheduler *s, const struct dip_message *m, enum dip_refusal refusal,
                   int64_t retry_ns)
{
    struct dip_action *action = dip__action_push(s, DIP_ACTION_REFUSED, NULL);
    action->request_id = m->request_id;
    action->refusal = refusal;
    action->retry_ns = retry_ns;
}

static uint32_t tenant_of(const struct dip_scheduler *s, const struct dip_message_submit *submit)
{
    return submit->tenant % (uint32_t)s->limits.tenant_count_max;
}

static struct request *request_take(struct dip_scheduler *s, const struct dip_message *m,
                                    const struct estimate *estimate)
{
    const struct dip_message_submit *submit = &m->as.submit;
    struct request *request = s->free_requests;
    dip_assert(s->request_count < s->limits.request_count_max);
    dip_assert(!request->is_live);
    s->free_requests = request->waiting.next;
    s->request_count++;
    *request =
        (struct request){.is_live = true,
                         .id = m->request_id,
                         .image_count = submit->image_count,
                         .token_count = submit->token_count,
                         .step_count = submit->step_count,
                         .has_hidden = submit->has_hidden,
                         .priority = submit->priority,
                         .tenant = tenant_of(s, submit),
                         .submitted_ns = s->now_ns,
                         .deadline_ns = submit->deadline_ns,
                         .begin_by_ns = submit->begin_by_ns,
                         .begin_key = estimate->begin_key,
                         .paint_key = estimate->paint_key,
                         .spare_ns = estimate->spare_ns,
                         .is_promised = submit->deadline_ns > 0 || submit->begin_by_ns > 0,
                         .is_paint_promised = submit->deadline_ns > 0 ||
                                              (submit->has_hidden && submit->begin_by_ns > 0)};
    dip__request_enter(s, request);
    return request;
}

static void image_admit(struct dip_scheduler *s, struct request *request, int index,
                        const struct dip_message_submit *submit)
{
    struct image *image = s->free_images;
    dip_assert(s->free_image_count > 0);
    dip_assert(image->state == IMAGE_FREE);
    s->free_images = image->sibling;
    s->free_image_count--;
    int32_t *token_ids = image->token_ids;
    *image = (struct image){.request = request,
                            .sibling = request->images,
                            .index = index,
                            .order = ++s->serial,
                            .band = (int)request->priority,
                            .token_ids = token_ids,
                            .token_count = submit->forced_count};
    request->images = image;
    for (int i = 0; i < submit->forced_count; i++)
        token_ids[i] = submit->forced_ids[i];
    dip__image_set_state(s, image, submit->has_hidden ? IMAGE_DIFFUSION_WAITING : IMAGE_AR_WAITING);
    dip__lane_push(s, submit->has_hidden ? &s->diffusion_lane : &s->ar_lane, image);
}

/* The time at which it ends by itself; INT64_MAX = never. */
static int64_t expiry_of(const struct request *request)
{
    int64_t expiry_ns = request->deadline_ns > 0 ? request->deadline_ns : INT64_MAX;
    if (!request->is_begun && request->begin_by_ns > 0 && request->begin_by_ns < expiry_ns)
        expiry_ns = request->begin_by_ns;
    if (request->hold_by_ns > 0 && request->hold_by_ns < expiry_ns)
        expiry_ns = request->hold_by_ns;
    return expiry_ns;
}

static void expiry_set(struct dip_scheduler *s, struct request *request)
{
    int64_t expiry_ns = expiry_of(request);
    if (expiry_ns < INT64_MAX)
        dip__tree_move(&s->expiries, &request->expiry, expiry_ns,
                       (uint64_t)(request - s->requests));
    else if (dip__tree_has(&request->expiry))
        dip__tree_remove(&s->expiries, &request->expiry);
}

/* ---- held: it may wait for a worker to come, but not for ever ---- */

static bool has_members(const struct dip_scheduler *s, const struct request *request)
{
    const int *counts = s->pool.staying_count;
    return counts[1] > 0 && (request->has_hidden || counts[0] > 0);
}

static void hold(struct dip_scheduler *s, struct request *request)
{
    if (s->limits.hold_ns == 0 || has_members(s, request))
        return;
    request->hold_by_ns = s->now_ns + s->limits.hold_ns;
    dip__list_push(s, LIST_HELD, request);
    s->held_count++;
}

static void unhold(struct dip_scheduler *s, struct request *request)
{
    if (!request->held.is_in)
        return;
    dip__list_remove(s, LIST_HELD, request);
    request->hold_by_ns = 0;
    s->held_count--;
}

void dip__hold_end(struct dip_scheduler *s)
{
    for (struct request *request = s->held.first, *next; request; request = next) {
        next = request->held.next;
        if (!has_members(s, request))
            continue;
        unhold(s, request);
        expiry_set(s, request);
    }
}

/* ---- those that were refused and come again ---- */

static struct ticket *ticket_at(struct dip_scheduler *s, uint64_t key)
{
    return &s->tickets[(key ^ key >> 32) % TICKET_COUNT];
}

/* A little early is in time: clocks and links differ. */
static bool is_expected(struct dip_scheduler *s, uint64_t key)
{
    const struct ticket *ticket = ticket_at(s, key);
    return key != 0 && ticket->key == key && s->now_ns >= ticket->at_ns - TICKET_NS_EARLY;
}

static void ticket_give(struct dip_scheduler *s, uint64_t key, int64_t retry_ns)
{
    if (key != 0)
        *ticket_at(s, key) = (struct ticket){key, s->now_ns + retry_ns};
}

static void ticket_take(struct dip_scheduler *s, uint64_t key)
{
    if (key != 0 && ticket_at(s, key)->key == key)
        *ticket_at(s, key) = (struct ticket){0};
}

void dip__on_submit(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_submit *submit = &m->as.submit;
    struct lane *lane = submit->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    if (is_too_large(s, submit) || dip__request_find(s, m->request_id)) {
        refuse(s, m, is_too_large(s, submit) ? DIP_REFUSAL_TOO_LARGE : DIP_REFUSAL_DUPLICATE,
               -1); /* the answer would be the same */
        return;
    }
    struct flow *flow = dip__lane_ask(s, lane, submit->priority, tenant_of(s, submit));
    uint64_t ticket = submit->is_check ? 0 : submit->ticket;
    bool was_told = is_expected(s, ticket);
    struct estimate estimate = dip__estimate_new(s, submit, flow, was_told);
    enum dip_refusal refusal = find_refusal(s, m, &estimate);
    if (was_told)
        dip__pushback_learn(flow, refusal == DIP_REFUSAL_COUNT);
    if (refusal == DIP_REFUSAL_QUEUE_FULL || refusal == DIP_REFUSAL_WOULD_BE_LATE) {
        int64_t retry_ns = dip__pushback_ns(s, flow, &estimate, submit->image_count);
        ticket_give(s, ticket, retry_ns);
        refuse(s, m, refusal, retry_ns);
        return;
    }
    if (refusal != DIP_REFUSAL_COUNT) {
        refuse(s, m, refusal, DIP_SECOND_NS); /* somebody must come first */
        return;
    }
    ticket_take(s, ticket);
    if (estimate.ahead == 0)
        flow->retry_ns = 0; /* nobody waits: what was told before is past */
    struct dip_action *action = dip__action_push(s, DIP_ACTION_ADMITTED, NULL);
    action->request_id = m->request_id;
    action->total = estimate.ahead;
    action->start_ns = estimate.start_ns;
    action->finish_ns = estimate.finish_ns;
    if (submit->is_check) {
        action = dip__action_push(s, DIP_ACTION_ENDED, NULL);
        action->request_id = m->request_id;
        action->end = DIP_END_DONE;
        return;
    }
    struct request *request = request_take(s, m, &estimate);
    for (int i = 0; i < submit->image_count; i++)
        image_admit(s, request, i, submit);
    hold(s, request);
    expiry_set(s, request);
    request->news_ns = s->now_ns + DIP_SECOND_NS;
    request->told_ahead = estimate.ahead;
    request->told_start_ns = estimate.start_ns;
    dip__list_push(s, LIST_WAITING, request);
    dip__list_push(s, LIST_NEWS, request);
    dip__offers_take(s, request, submit->offers, submit->offer_count);
}

/* ---- begin and end ---- */

void dip__request_begin(struct dip_scheduler *s, struct request *request)
{
    if (request->is_begun)
        return;
    request->is_begun = true;
    dip__list_remove(s, LIST_WAITING, request);
    dip__list_remove(s, LIST_NEWS, request);
    if (request->begin_by_ns > 0)
        expiry_set(s, request);
}

void dip__request_end(struct dip_scheduler *s, struct request *request, enum dip_end end,
                      enum dip_status status, const char *text)
{
    while (request->images)
        dip__image_free(s, request->images);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_ENDED, NULL);
    action->request_id = request->id;
    action->end = end;
    action->status = status;
    action->text = text;
    dip__list_remove(s, LIST_WAITING, request);
    dip__list_remove(s, LIST_NEWS, request);
    unhold(s, request);
    if (dip__tree_has(&request->expiry))
        dip__tree_remove(&s->expiries, &request->expiry);
    dip__request_remove(s, request);
    *request = (struct request){.waiting.next = s->free_requests};
    s->free_requests = request;
    s->request_count--;
}

/* Idempotent: a request that is over, or never was, needs no cancelling. */
void dip__on_cancel(struct dip_scheduler *s, const struct dip_message *m)
{
    struct request *request = dip__request_find(s, m->request_id);
    if (request)
        dip__request_end(s, request, DIP_END_CANCELLED, DIP_CANCELLED, "cancelled");
}

/* ---- FAILED ---- */

/* Not the job's own fault: another worker, or this one a little later, can do it. */
static bool is_handed_back(int status)
{
    return status == DIP_BUSY || status == DIP_CANCELLED || status == DIP_STALE ||
           status == DIP_UNREACHABLE;
}

static void hand_back(struct dip_scheduler *s, struct image *image, bool is_ar, int status)
{
    if (is_ar && !dip__image_needs_hinge(image)) {
        dip__image_drop_ar(s, image); /* a kept hinge that nobody misses */
        return;
    }
    /* A hinge that could not be delivered: the fault may be at either end. */
    if (is_ar && status == DIP_UNREACHABLE && image->diffusion_job_id != 0)
        dip__member_set_aside(s, &s->members[image->diffusion_member]);
    if (++image->handed_count > HANDED_COUNT_MAX) {
        dip__request_end(s, image->request, DIP_END_WORKER_LOST, DIP_UNREACHABLE,
                         "too many workers handed it back");
        return;
    }
    bool is_hinge_lost = is_ar || image->handed_count % HANDED_PER_HINGE == 0;
    dip__image_requeue(s, image, is_hinge_lost);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_RETRIED, image);
    action->done = image->loss_count + image->handed_count;
    action->setback = DIP_SETBACK_HANDED_BACK;
}

/* The device under a job is gone: the job runs elsewhere, unless it is what takes devices down. The
 * first word about a device tells whether the image was alone on it. */
static void on_device_failed(struct dip_scheduler *s, struct image *image, bool is_ar,
                             uint32_t address)
{
    struct member *member = &s->members[address];
    bool is_first = !dip__tree_has(&member->aside);
    struct loss loss = {.member = address,
                        .is_alone = is_first && member->ar_live + member->diffusion_jobs == 1,
                        .is_leaving = member->is_draining,
                        .device_text = s->failure};
    dip__member_set_aside(s, member);
    if (is_ar && !dip__image_needs_hinge(image))
        dip__image_drop_ar(s, image); /* a kept hinge that nobody misses */
    else
        dip__image_hit(s, image, &loss);
}

/* A job that a healthy worker could not do (memory, a picture that cannot be encoded) would fail
 * again elsewhere in the same way; the request ends with the worker's reason. One that was handed
 * back, or whose device died, runs elsewhere. A worker that is gone says LOST. */
void dip__on_failed(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_ar(s, m);
    bool is_ar = image != NULL;
    if (!image)
        image = dip__image_of_diffusion(s, m);
    if (!image)
        return;
    int status = m->as.failed.status;
    if (is_handed_back(status)) {
        dip__member_set_aside(s, &s->members[m->from]);
        hand_back(s, image, is_ar, status);
        return;
    }
    bool is_status = status > DIP_OK && status < DIP_STATUS_COUNT;
    snprintf(s->failure, sizeof s->failure, "%s", m->as.failed.text);
    if (!is_status || status == DIP_DEVICE)
        on_device_failed(s, image, is_ar, m->from);
    else
        dip__request_end(s, image->request, DIP_END_FAILED, (enum dip_status)status, s->failure);
}
