/* cluster/member.c - JOINED, LOST, DRAIN, UNDRAIN: who there is to work with.
 *
 * Rule (design, promise 2): the death of a worker costs time, never the request. Work resumes from
 * the hinge where somebody still has it, else from the tokens already drawn.
 *
 * Rule (operations, poison): an image that takes workers down must not take them all. One that was
 * alone on attempt_count_max of them is the reason. One that was in company each time runs from
 * then on only where no other such image runs, so the next time tells: the innocent come through,
 * the guilty one takes down one worker more.
 *
 * Everything here is deterministic, so the guilty one fails at the same place each time. An image
 * that comes well past the place where its last worker died, or that loses a worker of the other
 * panel, was not the reason: then counting begins anew. A worker that was leaving counts for
 * nothing; one that reports that its device failed under the image counts like one that died. */
#include "base/assert.h"
#include "cluster/state.h"

enum {
    MEMBER_SLOTS_MAX = 4096, /* keeps sums of what members say far from overflow */
    LOSSES_PER_ATTEMPT = 8,  /* losses of hinges and of leaving workers are forgiven so often */
};

static int clamp_slots(int32_t count)
{
    return count < 0 ? 0 : count > MEMBER_SLOTS_MAX ? MEMBER_SLOTS_MAX : count;
}

/* Alive, and of those the ones that do not drain, by role. */
static void count_roles(struct dip_scheduler *s, const struct member *member, int by)
{
    for (int i = 0; i < 2; i++) {
        if (!(member->roles & (i == 0 ? DIP_ROLE_AR : DIP_ROLE_DIFFUSION)))
            continue;
        s->pool.alive_count[i] += by;
        if (!member->is_draining)
            s->pool.staying_count[i] += by;
    }
}

/* A member that joins again has restarted, or was cut off: what it was doing is gone, unless it
 * still holds it and offers it. */
void dip__on_joined(struct dip_scheduler *s, const struct dip_message *m)
{
    struct member *member = &s->members[m->from];
    if (member->is_alive)
        dip__on_lost(s, m);
    const struct dip_message_joined *joined = &m->as.joined;
    *member = (struct member){.is_alive = true,
                              .roles = joined->roles,
                              .shares_ns = s->now_ns,
                              .ar_slots = clamp_slots(joined->ar_slots),
                              .hinge_slots = clamp_slots(joined->hinge_slots),
                              .diffusion_slots = clamp_slots(joined->diffusion_slots)};
    count_roles(s, member, 1);
    dip__member_settle(s, member);
    for (int i = 0; i < joined->offer_count; i++) {
        const struct request *request = dip__request_find(s, joined->offers[i].request_id);
        if (request)
            dip__offers_take(s, request, &joined->offers[i], 1);
    }
}

void dip__image_requeue(struct dip_scheduler *s, struct image *image, bool is_hinge_lost)
{
    if (image->state == IMAGE_DIFFUSION_WAITING)
        dip__lane_remove(s, &s->diffusion_lane, image);
    dip__image_drop_diffusion(s, image);
    if (is_hinge_lost)
        dip__image_drop_ar(s, image);
    image->is_isolated = image->death_count >= s->limits.attempt_count_max;
    bool has_hinge = image->request->has_hidden || image->ar_job_id != 0;
    dip__image_set_state(s, image, has_hinge ? IMAGE_DIFFUSION_WAITING : IMAGE_AR_WAITING);
    image->hinge_ready_ns = s->now_ns;
    dip__lane_push(s, has_hinge ? &s->diffusion_lane : &s->ar_lane, image);
}

/* Whether the image got as far as this when its last worker died, and hardly further now. */
static bool is_same_place(const struct image *image, bool is_ar, int progress)
{
    int margin = is_ar ? 2 * DIP_TOKEN_BATCH_MAX : 2; /* tokens are told in batches */
    return image->death_count > 0 && image->has_died_at_ar == is_ar &&
           progress < image->died_at + margin;
}

/* A worker died while it worked at the image. true: the image is the reason. */
static bool image_strike(const struct dip_scheduler *s, struct image *image,
                         const struct loss *loss)
{
    bool is_ar = image->state == IMAGE_AR_RUNNING;
    int progress = is_ar ? image->token_count : image->steps_done;
    if (!is_same_place(image, is_ar, progress))
        image->death_count = image->strike_count = 0;
    image->has_died_at_ar = is_ar;
    image->died_at = progress; /* each replay knows a little more of where that is */
    bool was_suspect = image->death_count >= s->limits.attempt_count_max;
    image->death_count++;
    image->strike_count += loss->is_alone;
    return was_suspect || image->strike_count >= s->limits.attempt_count_max;
}

/* What is told of an image that is the reason. */
static void end_guilty(struct dip_scheduler *s, struct request *request, const struct loss *loss)
{
    if (loss->device_text)
        dip__request_end(s, request, DIP_END_FAILED, DIP_DEVICE, loss->device_text);
    else
        dip__request_end(s, request, DIP_END_POISONED, DIP_UNREACHABLE,
                         dip_end_text(DIP_END_POISONED));
}

void dip__image_hit(struct dip_scheduler *s, struct image *image, const struct loss *loss)
{
    bool is_worked_at =
        image->state != IMAGE_DIFFUSION_WAITING &&
        (image->state == IMAGE_AR_RUNNING || image->diffusion_member == loss->member);
    image->loss_count++;
    if (is_worked_at && !loss->is_leaving && image_strike(s, image, loss)) {
        end_guilty(s, image->request, loss);
        return;
    }
    if (image->loss_count >= LOSSES_PER_ATTEMPT * s->limits.attempt_count_max) {
        dip__request_end(s, image->request, DIP_END_WORKER_LOST, DIP_UNREACHABLE,
                         dip_end_text(DIP_END_WORKER_LOST));
        return;
    }
    bool is_hinge_lost = image->ar_job_id != 0 && image->ar_member == loss->member;
    dip__image_requeue(s, image, is_hinge_lost);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_RETRIED, image);
    action->done = image->loss_count + image->handed_count;
    action->setback = loss->device_text ? DIP_SETBACK_DEVICE : DIP_SETBACK_LOST;
}

void dip__on_lost(struct dip_scheduler *s, const struct dip_message *m)
{
    struct member *member = &s->members[m->from];
    if (!member->is_alive)
        return;
    struct loss loss = {.member = m->from,
                        .is_alone = member->ar_live + member->diffusion_jobs == 1,
                        .is_leaving = member->is_draining};
    count_roles(s, member, -1);
    member->is_alive = false; /* first, so that nothing is sent to it any more */
    if (dip__tree_has(&member->aside))
        dip__tree_remove(&s->asides, &member->aside);
    dip__member_settle(s, member);
    while (member->diffusion_images) {
        if (member->diffusion_images->is_bound)
            dip__image_unbind(s, member->diffusion_images);
        else
            dip__image_hit(s, member->diffusion_images, &loss);
    }
    while (member->ar_images) {
        if (dip__image_needs_hinge(member->ar_images))
            dip__image_hit(s, member->ar_images, &loss);
        else
            dip__image_drop_ar(s, member->ar_images);
    }
    dip_assert(member->ar_live == 0 && member->hinges == 0);
    dip_assert(member->diffusion_live == 0 && member->diffusion_jobs == 0);
    dip_assert(member->bound == 0 && member->backlog_steps == 0);
    dip_assert(member->isolated_count == 0);
}

/* DRAIN and LEAVING. Address 0 is the coordinator's own: then nothing is admitted any more. */
static void set_draining(struct dip_scheduler *s, uint32_t address, bool is_draining)
{
    struct member *member = &s->members[address];
    if (address == 0)
        s->is_draining = is_draining;
    if (!member->is_alive || member->is_draining == is_draining)
        return;
    count_roles(s, member, -1);
    member->is_draining = is_draining;
    member->is_drained = false;
    count_roles(s, member, 1);
    while (is_draining && member->bound > 0) {
        struct image *image = member->diffusion_images;
        while (!image->is_bound)
            image = image->diffusion_next;
        dip__image_unbind(s, image);
    }
    dip__member_settle(s, member);
}

void dip__on_drain(struct dip_scheduler *s, const struct dip_message *m)
{
    set_draining(s, m->from, true);
}

void dip__on_undrain(struct dip_scheduler *s, const struct dip_message *m)
{
    set_draining(s, m->from, false);
}
