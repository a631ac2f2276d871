/* cluster/diffusion.c - CONDITIONED, STEP, DECODED, IMAGE and what is only passed on.
 *
 * Rule (design, life of a request, 4): the sender keeps the hinge until the diffusion worker
 * reports the final image; only then is its job released. */
#include "base/assert.h"
#include "cluster/state.h"

void dip__on_conditioned(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_diffusion(s, m);
    if (!image || image->state != IMAGE_DIFFUSION_RUNNING || image->is_conditioned)
        return;
    image->is_conditioned = true; /* from here on its sender may go */
    image->timings.stage_ns[DIP_STAGE_HINGE] += s->now_ns - image->hinge_ready_ns;
    dip__progress(s, image, DIP_STAGE_DIFFUSION, 0, image->request->step_count);
}

void dip__on_step(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_step *step = &m->as.step;
    struct image *image = dip__image_of_diffusion(s, m);
    if (!image || image->state != IMAGE_DIFFUSION_RUNNING)
        return;
    struct member *member = &s->members[image->diffusion_member];
    dip__rate_step(s, member, step);
    s->shared_steps += step->batch > 1;
    if (step->steps_done <= image->steps_done || step->steps_done > image->request->step_count) {
        dip__member_settle(s, member);
        return;
    }
    if (image->steps_done == 0)
        image->paint_mark_steps = step->steps_done - 1; /* it may go on from a checkpoint */
    member->backlog_steps -= step->steps_done - image->steps_done;
    image->steps_done = step->steps_done;
    dip__rate_stepped(s, image);
    dip__finish_update(s, image);
    dip__member_settle(s, member);
    dip__progress(s, image, DIP_STAGE_DIFFUSION, image->steps_done, image->request->step_count);
}

/* The slot is free; the picture is being encoded beside it. */
void dip__on_decoded(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_diffusion(s, m);
    if (!image || image->state != IMAGE_DIFFUSION_RUNNING)
        return;
    dip__rate_painted(s, image);
    dip__image_leave_diffusion(s, image);
    dip__image_set_state(s, image, IMAGE_ENCODING);
    image->steps_done = image->request->step_count;
    dip__progress(s, image, DIP_STAGE_ENCODE, 0, 1);
}

static void member_measure(struct dip_scheduler *s, const struct image *image,
                           const struct dip_message_picture *picture)
{
    struct member *member = &s->members[image->diffusion_member];
    int64_t picture_ns = 0;
    if (picture->vae_ns >= 0 && picture->vae_ns <= INT64_MAX / 2 && picture->encode_ns >= 0 &&
        picture->encode_ns <= INT64_MAX / 2)
        picture_ns = picture->vae_ns + picture->encode_ns;
    dip__rate_add(&member->rates.picture_ns, picture_ns);
    dip__rate_add(&s->rates.picture_ns, picture_ns);
    member->aside_length_ns = 0; /* it can do what it is told */
}

void dip__on_image(struct dip_scheduler *s, const struct dip_message *m)
{
    const struct dip_message_picture *picture = &m->as.picture;
    struct image *image = dip__image_of_diffusion(s, m);
    if (!image || image->state != IMAGE_ENCODING)
        return;
    struct request *request = image->request;
    int64_t *stage_ns = image->timings.stage_ns;
    stage_ns[DIP_STAGE_DIFFUSION] = picture->diffusion_ns;
    stage_ns[DIP_STAGE_VAE] = picture->vae_ns;
    stage_ns[DIP_STAGE_ENCODE] = picture->encode_ns;
    image->timings.total_ns = s->now_ns - request->submitted_ns;
    struct dip_action *action = dip__action_push(s, DIP_ACTION_IMAGE, image);
    action->timings = image->timings;
    action->done = image->drawn_count > 0 ? image->drawn_count : image->token_count;
    member_measure(s, image, picture);
    dip__image_finish(s, image);
    if (++request->images_done == request->image_count)
        dip__request_end(s, request, DIP_END_DONE, DIP_OK, "");
}

/* PREVIEW, TRACE and CHECKPOINT: the payload is not the scheduler's business. */
void dip__on_relay(struct dip_scheduler *s, const struct dip_message *m)
{
    struct image *image = dip__image_of_ar(s, m);
    if (!image)
        image = dip__image_of_diffusion(s, m);
    if (image)
        dip__action_push(s, DIP_ACTION_RELAY, image);
}
