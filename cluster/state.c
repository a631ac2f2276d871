/* cluster/state.c - the few moves that every message handler is made of.
 *
 * Whatever gives a job to a member or takes one away does so here, so that the member's counts, its
 * list of images, the tree of finishes and its places among those with room change together. */
#include "cluster/state.h"

#include "base/assert.h"

/* A job id is a serial number over the image's index: found without a search, never used twice. */
enum { INDEX_BITS = 20 };

struct dip_action *dip__action_push(struct dip_scheduler *s, enum dip_action_kind kind,
                                    const struct image *image)
{
    dip_assert(s->action_count < s->action_count_max);
    struct dip_action *action = &s->actions[s->action_count++];
    *action = (struct dip_action){.kind = kind, .text = ""};
    if (image) {
        action->request_id = image->request->id;
        action->image_index = image->index;
    }
    return action;
}

void dip__image_set_state(struct dip_scheduler *s, struct image *image, enum image_state state)
{
    dip_assert(!dip__tree_has(&image->finish)); /* it lies in the tree of the state before */
    s->state_counts[image->state]--;
    s->state_counts[state]++;
    image->state = state;
}

uint64_t dip__job_id_next(struct dip_scheduler *s, const struct image *image)
{
    return (++s->serial << INDEX_BITS) | (uint64_t)(image - s->images);
}

static struct image *image_at(struct dip_scheduler *s, uint64_t job_id)
{
    uint64_t index = job_id & ((UINT64_C(1) << INDEX_BITS) - 1);
    return index < (uint64_t)s->limits.image_count_max ? &s->images[index] : NULL;
}

struct image *dip__image_of_ar(struct dip_scheduler *s, const struct dip_message *message)
{
    struct image *image = image_at(s, message->job_id);
    bool is_current = image && message->job_id != 0 && image->ar_job_id == message->job_id &&
                      image->ar_member == message->from;
    return is_current ? image : NULL;
}

struct image *dip__image_of_diffusion(struct dip_scheduler *s, const struct dip_message *message)
{
    struct image *image = image_at(s, message->job_id);
    bool is_current = image && message->job_id != 0 && image->diffusion_job_id == message->job_id &&
                      image->diffusion_member == message->from;
    return is_current ? image : NULL;
}

/* ---- the lists of a member ---- */

static void ar_link(struct member *member, struct image *image)
{
    image->ar_previous = NULL;
    image->ar_next = member->ar_images;
    if (member->ar_images)
        member->ar_images->ar_previous = image;
    member->ar_images = image;
}

static void ar_unlink(struct member *member, struct image *image)
{
    *(image->ar_previous ? &image->ar_previous->ar_next : &member->ar_images) = image->ar_next;
    if (image->ar_next)
        image->ar_next->ar_previous = image->ar_previous;
}

static void diffusion_link(struct member *member, struct image *image)
{
    image->diffusion_previous = NULL;
    image->diffusion_next = member->diffusion_images;
    if (member->diffusion_images)
        member->diffusion_images->diffusion_previous = image;
    member->diffusion_images = image;
}

static void diffusion_unlink(struct member *member, struct image *image)
{
    *(image->diffusion_previous ? &image->diffusion_previous->diffusion_next
                                : &member->diffusion_images) = image->diffusion_next;
    if (image->diffusion_next)
        image->diffusion_next->diffusion_previous = image->diffusion_previous;
}

/* ---- jobs ---- */

void dip__image_take_ar(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    struct member *member = &s->members[address];
    dip_assert(image->ar_job_id == 0);
    dip_assert(member->ar_live < member->ar_slots);
    dip_assert(member->hinges < member->hinge_slots);
    dip__image_set_state(s, image, IMAGE_AR_RUNNING);
    image->ar_member = address;
    image->ar_job_id = dip__job_id_next(s, image);
    dip__shares_move(s, member);
    image->is_prefilled = false;
    image->draw_mark_ns = member->draw_share_ns;
    image->draw_mark_tokens = image->token_count;
    member->ar_live++;
    member->hinges++;
    member->isolated_count += image->is_isolated;
    ar_link(member, image);
    dip__finish_update(s, image);
    dip__member_settle(s, member);
}

void dip__image_take_hinge(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    struct member *member = &s->members[address];
    dip_assert(image->ar_job_id == 0);
    dip_assert(member->hinges < member->hinge_slots);
    dip__image_set_state(s, image, IMAGE_DIFFUSION_WAITING);
    image->ar_member = address;
    image->ar_job_id = dip__job_id_next(s, image);
    image->hinge_ready_ns = s->now_ns;
    member->hinges++;
    ar_link(member, image);
    dip__member_settle(s, member);
}

void dip__image_leave_ar(struct dip_scheduler *s, struct image *image)
{
    struct member *member = &s->members[image->ar_member];
    dip_assert(image->state == IMAGE_AR_RUNNING);
    dip__finish_remove(s, image);
    dip__shares_move(s, member);
    member->ar_live--;
    member->isolated_count -= image->is_isolated;
    dip_assert(member->ar_live >= 0);
    dip__member_settle(s, member);
}

void dip__image_take_diffusion(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    struct member *member = &s->members[address];
    dip_assert(image->diffusion_job_id == 0 && !image->is_bound);
    dip_assert(member->diffusion_live + member->bound < member->diffusion_slots);
    dip__image_set_state(s, image, IMAGE_DIFFUSION_RUNNING);
    image->diffusion_member = address;
    image->diffusion_job_id = dip__job_id_next(s, image);
    dip__shares_move(s, member);
    image->paint_mark_ns = member->paint_share_ns;
    image->paint_mark_steps = 0;
    member->diffusion_live++;
    member->diffusion_jobs++;
    member->backlog_steps += image->request->step_count;
    member->isolated_count += image->is_isolated;
    diffusion_link(member, image);
    dip__finish_update(s, image);
    dip__member_settle(s, member);
}

void dip__image_skip_steps(struct dip_scheduler *s, struct image *image, int steps_done)
{
    struct member *member = &s->members[image->diffusion_member];
    int total = image->request->step_count;
    dip_assert(image->state == IMAGE_DIFFUSION_RUNNING && image->steps_done == 0);
    image->steps_done = steps_done < total ? steps_done : total;
    image->is_conditioned = true; /* where it was before */
    image->paint_mark_ns = -1;
    member->backlog_steps -= image->steps_done;
    dip__finish_update(s, image);
    dip__member_settle(s, member);
}

void dip__image_take_picture(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    struct member *member = &s->members[address];
    dip_assert(image->diffusion_job_id == 0 && !image->is_bound);
    dip__image_set_state(s, image, IMAGE_ENCODING);
    image->diffusion_member = address;
    image->diffusion_job_id = dip__job_id_next(s, image);
    image->steps_done = image->request->step_count;
    member->diffusion_jobs++;
    diffusion_link(member, image);
    dip__member_settle(s, member);
}

void dip__image_leave_diffusion(struct dip_scheduler *s, struct image *image)
{
    struct member *member = &s->members[image->diffusion_member];
    dip_assert(image->state == IMAGE_DIFFUSION_RUNNING);
    dip__finish_remove(s, image);
    dip__shares_move(s, member);
    member->diffusion_live--;
    member->backlog_steps -= image->request->step_count - image->steps_done;
    member->isolated_count -= image->is_isolated;
    dip_assert(member->diffusion_live >= 0);
    dip_assert(member->backlog_steps >= 0);
    dip__member_settle(s, member);
}

void dip__image_bind(struct dip_scheduler *s, struct image *image, uint32_t address)
{
    struct member *member = &s->members[address];
    dip_assert(image->state == IMAGE_AR_RUNNING && !image->is_bound);
    dip_assert(member->diffusion_live + member->bound < member->diffusion_slots);
    image->is_bound = true;
    image->diffusion_member = address;
    member->bound++;
    diffusion_link(member, image);
    dip__member_settle(s, member);
}

void dip__image_unbind(struct dip_scheduler *s, struct image *image)
{
    if (!image->is_bound)
        return;
    struct member *member = &s->members[image->diffusion_member];
    image->is_bound = false;
    member->bound--;
    dip_assert(member->bound >= 0);
    diffusion_unlink(member, image);
    dip__member_settle(s, member);
}

static void release_push(struct dip_scheduler *s, uint32_t member, uint64_t job_id)
{
    struct dip_action *action = dip__action_push(s, DIP_ACTION_RELEASE, NULL);
    action->member = member;
    action->job_id = job_id;
}

void dip__image_drop_ar(struct dip_scheduler *s, struct image *image)
{
    if (image->ar_job_id == 0)
        return;
    struct member *member = &s->members[image->ar_member];
    if (member->is_alive)
        release_push(s, image->ar_member, image->ar_job_id);
    if (image->state == IMAGE_AR_RUNNING)
        dip__image_leave_ar(s, image);
    ar_unlink(member, image);
    member->hinges--;
    dip_assert(member->hinges >= 0);
    image->ar_job_id = 0;
    dip__member_settle(s, member);
}

/* What is left of a diffusion job in the books, once it has no slot. */
static void diffusion_forget(struct dip_scheduler *s, struct image *image)
{
    struct member *member = &s->members[image->diffusion_member];
    diffusion_unlink(member, image);
    member->diffusion_jobs--;
    dip_assert(member->diffusion_jobs >= 0);
    image->diffusion_job_id = 0;
    image->is_conditioned = false;
    image->steps_done = 0;
    dip__member_settle(s, member);
}

void dip__image_drop_diffusion(struct dip_scheduler *s, struct image *image)
{
    dip__image_unbind(s, image);
    if (image->diffusion_job_id == 0)
        return;
    struct member *member = &s->members[image->diffusion_member];
    if (member->is_alive)
        release_push(s, image->diffusion_member, image->diffusion_job_id);
    if (image->state == IMAGE_DIFFUSION_RUNNING)
        dip__image_leave_diffusion(s, image);
    diffusion_forget(s, image);
}

void dip__image_finish(struct dip_scheduler *s, struct image *image)
{
    dip_assert(image->state == IMAGE_ENCODING);
    diffusion_forget(s, image); /* as its worker did when it sent the picture */
    dip__image_free(s, image);
}

void dip__image_free(struct dip_scheduler *s, struct image *image)
{
    if (image->state == IMAGE_AR_WAITING)
        dip__lane_remove(s, &s->ar_lane, image);
    if (image->state == IMAGE_DIFFUSION_WAITING)
        dip__lane_remove(s, &s->diffusion_lane, image);
    dip__image_drop_diffusion(s, image);
    dip__image_drop_ar(s, image);
    struct image **place = &image->request->images;
    while (*place != image) /* at most the images of one request */
        place = &(*place)->sibling;
    *place = image->sibling;
    dip__image_set_state(s, image, IMAGE_FREE);
    image->request = NULL;
    image->sibling = s->free_images;
    s->free_images = image;
    s->free_image_count++;
}

bool dip__image_needs_hinge(const struct image *image)
{
    return image->state == IMAGE_AR_RUNNING || image->state == IMAGE_DIFFUSION_WAITING ||
           (image->state == IMAGE_DIFFUSION_RUNNING && !image->is_conditioned);
}

void dip__progress(struct dip_scheduler *s, const struct image *image, enum dip_stage stage,
                   int done, int total)
{
    struct dip_action *action = dip__action_push(s, DIP_ACTION_PROGRESS, image);
    action->stage = stage;
    action->done = done;
    action->total = total;
}
