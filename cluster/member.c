/* cluster/member.c - JOINED and LOST: who there is to work with.
 *
 * Rule (design, promise 2): the death of a worker costs time, never the request. Work resumes from
 * the hinge where somebody still has it, else from the tokens already drawn. */
#include "base/assert.h"
#include "cluster/state.h"

enum { MEMBER_SLOTS_MAX = 1 << 20 }; /* keeps sums of what members say far from overflow */

static int clamp_slots(int32_t count)
{
    return count < 0 ? 0 : count > MEMBER_SLOTS_MAX ? MEMBER_SLOTS_MAX : count;
}

/* A member that joins again has restarted: what it was doing is gone. */
void dip__on_joined(struct dip_scheduler *s, const struct dip_message *m)
{
    struct member *member = &s->members[m->from];
    if (member->is_alive)
        dip__on_lost(s, m);
    const struct dip_message_joined *joined = &m->as.joined;
    *member = (struct member){.is_alive = true,
                              .roles = joined->roles,
                              .ar_slots = clamp_slots(joined->ar_slots),
                              .hinge_slots = clamp_slots(joined->hinge_slots),
                              .diffusion_slots = clamp_slots(joined->diffusion_slots)};
}

/* Whether the loss of `member` takes something that the image still needs. */
static bool image_is_hit(const struct image *image, uint32_t member)
{
    switch (image->state) {
    case IMAGE_AR_RUNNING:
    case IMAGE_DIFFUSION_WAITING:
        return image->ar_job_id != 0 && image->ar_member == member;
    case IMAGE_DIFFUSION_RUNNING:
    case IMAGE_ENCODING:
        return image->diffusion_member == member ||
               (image->ar_job_id != 0 && image->ar_member == member && !image->is_conditioned);
    default:
        return false;
    }
}

/* Back to waiting: for the diffusion panel when its hinge is still somewhere, else for the AR one.
 */
static void image_retry(struct dip_scheduler *s, struct image *image, uint32_t member)
{
    bool is_hinge_lost = image->ar_job_id != 0 && image->ar_member == member;
    if (image->state == IMAGE_DIFFUSION_WAITING)
        dip__queue_remove(&s->diffusion_queue, image);
    dip__image_drop_diffusion(s, image);
    if (is_hinge_lost)
        dip__image_drop_ar(s, image);
    bool has_hinge = image->request->has_hidden || image->ar_job_id != 0;
    image->state = has_hinge ? IMAGE_DIFFUSION_WAITING : IMAGE_AR_WAITING;
    image->hinge_ready_ns = s->now_ns;
    image->loss_count++;
    dip__queue_insert(has_hinge ? &s->diffusion_queue : &s->ar_queue, image);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_RETRIED, image);
    action->done = image->loss_count;
}

void dip__on_lost(struct dip_scheduler *s, const struct dip_message *m)
{
    struct member *member = &s->members[m->from];
    if (!member->is_alive)
        return;
    member->is_alive = false; /* first, so that nothing is sent to it any more */
    for (int i = 0; i < s->limits.image_count_max; i++) {
        struct image *image = &s->images[i];
        if (image->state == IMAGE_FREE)
            continue;
        if (image_is_hit(image, m->from)) {
            if (image->loss_count + 1 >= s->limits.attempt_count_max)
                dip__request_end(s, image->request, DIP_UNREACHABLE,
                                 "every worker that took this request was lost");
            else
                image_retry(s, image, m->from);
        } else if (image->ar_job_id != 0 && image->ar_member == m->from) {
            dip__image_drop_ar(s, image); /* a kept hinge that is not needed any more */
        }
    }
    dip_assert(member->ar_live == 0);
    dip_assert(member->hinges == 0);
    dip_assert(member->diffusion_live == 0);
    dip_assert(member->backlog_steps == 0);
}
