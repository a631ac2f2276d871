/* cluster/request.c - SUBMIT, CANCEL, FAILED: how a request begins and how it ends before its time.
 *
 * Rule (design, promise 2): a request is refused at once or kept to its end. What could refuse it
 * later is therefore checked here: places for the request and for each of its images. */
#include <stdio.h>

#include "base/assert.h"
#include "cluster/state.h"

static bool has_role(const struct dip_scheduler *s, enum dip_role role)
{
    for (int i = 0; i < s->limits.member_count_max; i++)
        if (s->members[i].is_alive && (s->members[i].roles & role))
            return true;
    return false;
}

/* DIP_REFUSAL_COUNT when there is nothing against it. */
static enum dip_refusal find_refusal(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_submit *submit = &m->as.submit;
    if (submit->image_count < 1 || submit->image_count > s->limits.image_count_max ||
        submit->token_count < 1 || submit->token_count > s->limits.token_count_max ||
        submit->forced_count < 0 || submit->forced_count > submit->token_count ||
        submit->step_count < 1)
        return DIP_REFUSAL_TOO_LARGE;
    if (dip__request_find(s, m->request_id))
        return DIP_REFUSAL_DUPLICATE;
    if (!has_role(s, DIP_ROLE_DIFFUSION) || (!submit->has_hidden && !has_role(s, DIP_ROLE_AR)))
        return DIP_REFUSAL_NO_WORKERS;
    if (s->request_count == s->limits.request_count_max ||
        s->free_images.count < submit->image_count)
        return DIP_REFUSAL_QUEUE_FULL;
    return DIP_REFUSAL_COUNT;
}

static struct request *request_take(struct dip_scheduler *s)
{
    struct request *request = s->requests;
    while (request->is_live)
        request++;
    dip_assert(request < s->requests + s->limits.request_count_max);
    s->request_count++;
    return request;
}

static void image_admit(struct dip_scheduler *s, struct request *request, int index,
                        const struct dip_message_submit *submit)
{
    struct image *image = s->free_images.first;
    dip_assert(image && image->state == IMAGE_FREE);
    dip__queue_remove(&s->free_images, image);
    int32_t *token_ids = image->token_ids;
    *image = (struct image){.request = request,
                            .index = index,
                            .order = ++s->serial,
                            .token_ids = token_ids,
                            .token_count = submit->forced_count};
    for (int i = 0; i < submit->forced_count; i++)
        token_ids[i] = submit->forced_ids[i];
    image->state = submit->has_hidden ? IMAGE_DIFFUSION_WAITING : IMAGE_AR_WAITING;
    dip__queue_insert(submit->has_hidden ? &s->diffusion_queue : &s->ar_queue, image);
}

void dip__on_submit(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_submit *submit = &m->as.submit;
    enum dip_refusal refusal = find_refusal(s, m);
    if (refusal != DIP_REFUSAL_COUNT) {
        struct dip_action *action = dip__action_push(s, DIP_ACTION_REFUSED, NULL);
        action->request_id = m->request_id;
        action->refusal = refusal;
        return;
    }
    struct dip_action *action = dip__action_push(s, DIP_ACTION_ADMITTED, NULL);
    action->request_id = m->request_id;
    action->total = s->ar_queue.count + s->diffusion_queue.count;
    struct request *request = request_take(s);
    *request = (struct request){.is_live = true,
                                .id = m->request_id,
                                .image_count = submit->image_count,
                                .token_count = submit->token_count,
                                .step_count = submit->step_count,
                                .has_hidden = submit->has_hidden,
                                .submitted_ns = s->now_ns};
    for (int i = 0; i < submit->image_count; i++)
        image_admit(s, request, i, submit);
}

/* Idempotent: a request that is over, or never was, needs no cancelling. */
void dip__on_cancel(struct dip_scheduler *s, const struct dip_message *m)
{
    struct request *request = dip__request_find(s, m->request_id);
    if (request)
        dip__request_end(s, request, DIP_CANCELLED, "cancelled");
}

/* A job that a healthy worker could not do (memory, a broken device) would fail again elsewhere in
 * the same way; the request ends with the worker's reason. A worker that is gone says LOST. */
void dip__on_failed(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_ar(s, m);
    if (!image)
        image = dip__image_of_diffusion(s, m);
    if (!image)
        return;
    int status = m->as.failed.status;
    bool is_status = status > DIP_OK && status < DIP_STATUS_COUNT;
    snprintf(s->failure, sizeof s->failure, "%s", m->as.failed.text);
    dip__request_end(s, image->request, is_status ? (enum dip_status)status : DIP_DEVICE,
                     s->failure);
}
