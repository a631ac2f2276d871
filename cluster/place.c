/* cluster/place.c - gives waiting images to members with free slots, in order of admission.
 *
 * An AR job goes where most slots are free: decoding in lockstep costs a neighbour next to nothing.
 * A diffusion job goes to the worker that will finish it first (design, life of a request, 4); one
 * that has not been measured yet counts as fast, so that it will be. */
#include "base/assert.h"
#include "cluster/state.h"

static int ar_room(const struct member *member)
{
    if (!member->is_alive || !(member->roles & DIP_ROLE_AR))
        return 0;
    int slots = member->ar_slots - member->ar_live;
    int hinges = member->hinge_slots - member->hinges;
    return slots < hinges ? slots : hinges;
}

/* The member's address, or -1. */
static int pick_ar(const struct dip_scheduler *s)
{
    int best = -1;
    for (int i = 0; i < s->limits.member_count_max; i++)
        if (ar_room(&s->members[i]) > (best < 0 ? 0 : ar_room(&s->members[best])))
            best = i;
    return best;
}

static int pick_diffusion(const struct dip_scheduler *s, int step_count)
{
    int best = -1;
    int64_t best_ns = INT64_MAX;
    for (int i = 0; i < s->limits.member_count_max; i++) {
        const struct member *member = &s->members[i];
        if (!member->is_alive || !(member->roles & DIP_ROLE_DIFFUSION) ||
            member->diffusion_live >= member->diffusion_slots)
            continue;
        int64_t step_ns = member->step_ns > 0 ? member->step_ns : 1;
        int64_t finish_ns = (member->backlog_steps + (int64_t)step_count) * step_ns;
        if (finish_ns < best_ns) {
            best = i;
            best_ns = finish_ns;
        }
    }
    return best;
}

/* The wait that counts as the queue's is the first one. */
static void note_started(const struct dip_scheduler *s, struct image *image)
{
    if (image->is_started)
        return;
    image->is_started = true;
    image->timings.stage_ns[DIP_STAGE_QUEUE] = s->now_ns - image->request->submitted_ns;
    image->hinge_ready_ns = s->now_ns; /* stands when the client brought the hinge */
}

static void ar_start(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    dip__queue_remove(&s->ar_queue, image);
    note_started(s, image);
    image->state = IMAGE_AR_RUNNING;
    image->ar_member = address;
    image->ar_job_id = dip__job_id_next(s, image);
    s->members[address].ar_live++;
    s->members[address].hinges++;
    struct dip_action *action = dip__action_push(s, DIP_ACTION_AR, image);
    action->member = address;
    action->job_id = image->ar_job_id;
    action->forced_ids = image->token_ids;
    action->forced_count = image->token_count;
    dip__progress(s, image, DIP_STAGE_PREFILL, 0, 1);
}

static void diffusion_start(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    dip__queue_remove(&s->diffusion_queue, image);
    note_started(s, image);
    image->state = IMAGE_DIFFUSION_RUNNING;
    image->diffusion_member = address;
    image->diffusion_job_id = dip__job_id_next(s, image);
    struct member *member = &s->members[address];
    member->diffusion_live++;
    member->backlog_steps += image->request->step_count;
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

void dip__place(struct dip_scheduler *s)
{
    while (s->diffusion_queue.first) {
        int address = pick_diffusion(s, s->diffusion_queue.first->request->step_count);
        if (address < 0)
            break;
        diffusion_start(s, s->diffusion_queue.first, (uint32_t)address);
    }
    while (s->ar_queue.first) {
        int address = pick_ar(s);
        if (address < 0)
            break;
        ar_start(s, s->ar_queue.first, (uint32_t)address);
    }
}
