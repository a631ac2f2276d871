/* cluster/place.c - gives waiting images to members with free slots.
 *
 * The next image (lane.c) goes to the best member (pool.c): the AR worker that draws soonest, the
 * diffusion worker that will finish first (design, life of a request, 4), unless that would make it
 * late. It may be one that is busy yet: then the image waits for its slot, and is looked at again
 * when that is overdue. Images under suspicion come before the others, each to a member that runs
 * no other one. */
#include "base/assert.h"
#include "cluster/state.h"

/* The wait that counts as the queue's is the first one. */
void dip__image_start(struct dip_scheduler *s, struct image *image)
{
    if (image->is_started)
        return;
    image->is_started = true;
    dip__request_begin(s, image->request);
    image->timings.stage_ns[DIP_STAGE_QUEUE] = s->now_ns - image->request->submitted_ns;
    image->hinge_ready_ns = s->now_ns; /* stands when the client brought the hinge */
}

static void ar_start(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    dip__image_start(s, image);
    dip__image_take_ar(s, image, address);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_AR, image);
    action->member = address;
    action->job_id = image->ar_job_id;
    action->forced_ids = image->token_ids;
    action->forced_count = image->token_count;
    dip__progress(s, image, DIP_STAGE_PREFILL, 0, 1);
}

void dip__diffusion_start(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    dip__image_start(s, image);
    dip__image_take_diffusion(s, image, address);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_DIFFUSION, image);
    action->member = address;
    action->job_id = image->diffusion_job_id;
    if (image->request->has_hidden)
        return;
    dip_assert(image->ar_job_id != 0);
    action = dip__action_push(s, DIP_ACTION_HAND_OVER, image);
    action->member = image->ar_member;
    action->job_id = image->ar_job_id;
    action->to_member = address;
    action->to_job_id = image->diffusion_job_id;
}

static bool place_diffusion(struct dip_scheduler *s, struct image *image)
{
    int64_t here_ns = 0;
    int address = image ? dip__pick_diffusion(s, image, &here_ns) : -1;
    if (address < 0)
        return false;
    if (!image->is_isolated &&
        dip__is_better_later(s, image, s->diffusion_lane.count, here_ns, &s->look_ns))
        return false;
    dip__lane_serve(s, &s->diffusion_lane, image);
    dip__diffusion_start(s, image, (uint32_t)address);
    return true;
}

static bool place_ar(struct dip_scheduler *s, struct image *image)
{
    int address = image ? dip__pick_ar(s, image) : -1;
    if (address < 0)
        return false;
    dip__lane_serve(s, &s->ar_lane, image);
    ar_start(s, image, (uint32_t)address);
    return true;
}

static struct image *first_isolated(const struct lane *lane)
{
    struct tree_node *first = lane->isolated.first;
    return first ? dip__tree_owner(first, struct image, wait) : NULL;
}

void dip__place(struct dip_scheduler *s)
{
    dip__lane_age(s, &s->diffusion_lane);
    dip__lane_age(s, &s->ar_lane);
    s->look_ns = INT64_MAX;
    while (place_diffusion(s, first_isolated(&s->diffusion_lane)))
        continue;
    while (s->pool.painting.room > 0 && place_diffusion(s, dip__lane_first(s, &s->diffusion_lane)))
        continue;
    while (place_ar(s, first_isolated(&s->ar_lane)))
        continue;
    while (s->pool.drawing.room > 0 && place_ar(s, dip__lane_first(s, &s->ar_lane)))
        continue;
}
