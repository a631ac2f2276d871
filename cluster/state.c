/* cluster/state.c - the few moves that every message handler is made of. */
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

void dip__queue_insert(struct queue *queue, struct image *image)
{
    dip_assert(!image->next && !image->previous && queue->first != image);
    struct image *before = queue->last; /* nearly always where it belongs */
    while (before && before->order > image->order)
        before = before->previous;
    image->previous = before;
    image->next = before ? before->next : queue->first;
    *(before ? &before->next : &queue->first) = image;
    *(image->next ? &image->next->previous : &queue->last) = image;
    queue->count++;
}

void dip__queue_remove(struct queue *queue, struct image *image)
{
    dip_assert(queue->count > 0);
    *(image->previous ? &image->previous->next : &queue->first) = image->next;
    *(image->next ? &image->next->previous : &queue->last) = image->previous;
    image->next = image->previous = NULL;
    queue->count--;
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

struct request *dip__request_find(struct dip_scheduler *s, uint64_t id)
{
    for (int i = 0; i < s->limits.request_count_max; i++)
        if (s->requests[i].is_live && s->requests[i].id == id)
            return &s->requests[i];
    return NULL;
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
    dip_assert(member->hinges > 0);
    member->hinges--;
    if (image->state == IMAGE_AR_RUNNING)
        member->ar_live--;
    dip_assert(member->ar_live >= 0);
    if (member->is_alive)
        release_push(s, image->ar_member, image->ar_job_id);
    image->ar_job_id = 0;
}

void dip__image_drop_diffusion(struct dip_scheduler *s, struct image *image)
{
    if (image->diffusion_job_id == 0)
        return;
    struct member *member = &s->members[image->diffusion_member];
    if (image->state == IMAGE_DIFFUSION_RUNNING) {
        member->diffusion_live--;
        member->backlog_steps -= image->request->step_count - image->steps_done;
    }
    dip_assert(member->diffusion_live >= 0);
    dip_assert(member->backlog_steps >= 0);
    if (member->is_alive)
        release_push(s, image->diffusion_member, image->diffusion_job_id);
    image->diffusion_job_id = 0;
    image->is_conditioned = false;
    image->steps_done = 0;
}

void dip__image_free(struct dip_scheduler *s, struct image *image)
{
    if (image->state == IMAGE_AR_WAITING)
        dip__queue_remove(&s->ar_queue, image);
    if (image->state == IMAGE_DIFFUSION_WAITING)
        dip__queue_remove(&s->diffusion_queue, image);
    dip__image_drop_diffusion(s, image);
    dip__image_drop_ar(s, image);
    image->state = IMAGE_FREE;
    image->request = NULL;
    dip__queue_insert(&s->free_images, image);
}

void dip__request_end(struct dip_scheduler *s, struct request *request, enum dip_status status,
                      const char *text)
{
    for (int i = 0; i < s->limits.image_count_max; i++)
        if (s->images[i].state != IMAGE_FREE && s->images[i].request == request)
            dip__image_free(s, &s->images[i]);
    struct dip_action *action = dip__action_push(s, DIP_ACTION_ENDED, NULL);
    action->request_id = request->id;
    action->status = status;
    action->text = text;
    *request = (struct request){0};
    s->request_count--;
}

void dip__progress(struct dip_scheduler *s, const struct image *image, enum dip_stage stage,
                   int done, int total)
{
    struct dip_action *action = dip__action_push(s, DIP_ACTION_PROGRESS, image);
    action->stage = stage;
    action->done = done;
    action->total = total;
}
