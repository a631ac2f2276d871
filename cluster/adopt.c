/* cluster/adopt.c - held work is offered: an image goes on where it is, if that is further than it
 * has come here.
 *
 * Rule (design, promise 2; operations, coordinator loss): a retry under the same request id is
 * served without doing finished work twice. The offers come with the request, or with the worker
 * when that comes later; by then the image may have begun elsewhere, and whoever is further wins.
 * An offer that is not taken is useful all the same: its tokens are where a replay resumes. The
 * books hold: nobody adopts without a slot. */
#include "base/assert.h"
#include "cluster/state.h"

/* Stages in their order, and how far within. */
struct progress {
    int stage, done;
};

static struct progress progress_of(const struct image *image)
{
    switch (image->state) {
    case IMAGE_DIFFUSION_WAITING:
        return (struct progress){DIP_HELD_HINGE, 0};
    case IMAGE_DIFFUSION_RUNNING:
        return (struct progress){DIP_HELD_STEPS, image->steps_done};
    case IMAGE_ENCODING:
        return (struct progress){DIP_HELD_PICTURE, 0};
    default:
        return (struct progress){DIP_HELD_TOKENS, image->token_count};
    }
}

/* One that waits is glad of anybody who has as many tokens; one that is drawn, of more of them. */
static bool is_further(const struct dip_offer *offer, const struct image *image)
{
    struct progress here = progress_of(image);
    if ((int)offer->stage != here.stage)
        return (int)offer->stage > here.stage;
    if (image->state == IMAGE_AR_WAITING)
        return offer->done >= here.done;
    return (offer->stage == DIP_HELD_TOKENS || offer->stage == DIP_HELD_STEPS) &&
           offer->done > here.done;
}

/* Being set aside is about new work; one that drains can still give what it has made. */
static bool has_room(const struct member *member, const struct dip_offer *offer)
{
    if (!member->is_alive || (member->is_draining && offer->stage != DIP_HELD_PICTURE))
        return false;
    switch (offer->stage) {
    case DIP_HELD_TOKENS:
        return member->ar_live < member->ar_slots && member->hinges < member->hinge_slots;
    case DIP_HELD_HINGE:
        return member->hinges < member->hinge_slots;
    case DIP_HELD_STEPS:
        return member->diffusion_live + member->bound < member->diffusion_slots;
    default:
        return true; /* a picture that is made needs no slot */
    }
}

static void tokens_take(const struct dip_scheduler *s, struct image *image,
                        const struct dip_offer *offer)
{
    int total = image->request->token_count;
    int count = offer->id_count < total ? offer->id_count : total;
    dip_assert(total <= s->limits.token_count_max);
    for (int i = image->token_count; i < count; i++)
        image->token_ids[i] = offer->ids[i];
    if (count > image->token_count)
        image->token_count = count;
    if (offer->token_count > 0 && offer->token_count <= total)
        image->drawn_count = offer->token_count;
}

/* Out of whatever it does now. A hinge that is kept for it stays, when it is for later. */
static void image_leave(struct dip_scheduler *s, struct image *image, enum dip_held_stage stage)
{
    if (image->state == IMAGE_AR_WAITING)
        dip__lane_remove(s, &s->ar_lane, image);
    if (image->state == IMAGE_DIFFUSION_WAITING)
        dip__lane_remove(s, &s->diffusion_lane, image);
    bool keeps_hinge = stage >= DIP_HELD_STEPS && image->state != IMAGE_AR_RUNNING;
    dip__image_drop_diffusion(s, image);
    if (!keeps_hinge)
        dip__image_drop_ar(s, image);
}

/* Whoever has all tokens says again how long they took; of what was done elsewhere before that
 * nobody will say anything. */
static void timings_forget(struct image *image, enum dip_held_stage stage)
{
    if (stage >= DIP_HELD_HINGE)
        image->timings.unknown |= 1U << DIP_STAGE_PREFILL | 1U << DIP_STAGE_DECODE;
    if (stage >= DIP_HELD_STEPS)
        image->timings.unknown |= 1U << DIP_STAGE_HINGE;
}

static void image_go_on(struct dip_scheduler *s, struct image *image, const struct dip_offer *offer)
{
    const struct request *request = image->request;
    switch (offer->stage) {
    case DIP_HELD_TOKENS:
        dip__image_take_ar(s, image, offer->member);
        image->draw_mark_ns = -1; /* it tells at once what took it long */
        dip__progress(s, image, DIP_STAGE_DECODE, image->token_count, request->token_count);
        break;
    case DIP_HELD_HINGE:
        dip__image_take_hinge(s, image, offer->member);
        dip__lane_push(s, &s->diffusion_lane, image);
        dip__progress(s, image, DIP_STAGE_HINGE, 0, 1);
        break;
    case DIP_HELD_STEPS:
        dip__image_take_diffusion(s, image, offer->member);
        dip__image_skip_steps(s, image, offer->done);
        dip__progress(s, image, DIP_STAGE_DIFFUSION, image->steps_done, request->step_count);
        break;
    default:
        dip__image_take_picture(s, image, offer->member);
        dip__progress(s, image, DIP_STAGE_ENCODE, 0, 1);
        break;
    }
}

static void command(struct dip_scheduler *s, const struct image *image,
                    const struct dip_offer *offer)
{
    bool is_ar = offer->stage == DIP_HELD_TOKENS || offer->stage == DIP_HELD_HINGE;
    struct dip_action *action = dip__action_push(s, DIP_ACTION_ADOPT, image);
    action->member = offer->member;
    action->job_id = is_ar ? image->ar_job_id : image->diffusion_job_id;
    action->held_stage = offer->stage;
    action->held_epoch = offer->held_epoch;
    action->held_job_id = offer->held_job_id;
}

static void image_offer(struct dip_scheduler *s, struct image *image, const struct dip_offer *offer)
{
    const struct member *member = &s->members[offer->member];
    bool is_further_there = is_further(offer, image);
    tokens_take(s, image, offer);
    if (!is_further_there || !has_room(member, offer))
        return;
    image->death_count = image->strike_count = 0; /* who still has it was not taken down by it */
    dip__image_start(s, image);
    image_leave(s, image, offer->stage);
    image_go_on(s, image, offer);
    timings_forget(image, offer->stage);
    command(s, image, offer);
}

void dip__offers_take(struct dip_scheduler *s, const struct request *request,
                      const struct dip_offer *offers, int count)
{
    for (int i = 0; i < count; i++) {
        bool is_sound = offers[i].member < (uint32_t)s->limits.member_count_max &&
                        (unsigned)offers[i].stage < DIP_HELD_STAGE_COUNT && !request->has_hidden &&
                        offers[i].done >= 0 && offers[i].id_count >= 0;
        struct image *image = is_sound ? request->images : NULL;
        while (image && image->index != offers[i].image_index)
            image = image->sibling;
        if (image)
            image_offer(s, image, &offers[i]);
    }
}
