/* worker/held.c - work whose coordinator is gone: it is held for the next one.
 *
 *     RESET ──► held: goes on without a word ──► ADOPT: under a new id, all is said again
 *                      └──► not asked for in hold_ns, or pushed out by what is asked for: forgotten
 *
 * What is worth it: tokens drawn and hinges, sampling that has begun, pictures. A diffusion job
 * that waits for its hinge is not. Held work is known by the epoch and the id under which it was
 * given out, and by its request's digest, which only an equal request of the same tenant has. What
 * it holds the worker says with every hello: here the list is made, anew whenever it has changed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

#define SAY_NS_CHANGED (INT64_C(200) * DIP_MS_NS)
#define SAY_NS         DIP_SECOND_NS /* the time that is left goes by all the same */

bool dip__tag_may_be_held(const struct dip_worker *w, const struct tag *tag)
{
    static const unsigned char none[DIP_DIGEST_BYTES];
    return w->options.hold_ns > 0 && !w->is_leaving && !w->is_device_dead &&
           memcmp(tag->origin.digest, none, sizeof none) != 0;
}

static bool is_held(const struct tag *tag)
{
    return tag->handle != 0 && tag->id == 0;
}

/* ---- holding ---- */

/* Whether something is held still. */
static bool expire(struct dip_worker *w, int64_t now_ns)
{
    bool has_held = false;
    for (int i = 0; i < w->options.hinge_slots; i++) {
        struct ar_job *job = &w->ar_jobs[i];
        if (is_held(&job->tag) && job->tag.until_ns <= now_ns)
            dip__worker_ar_drop(w, job);
        has_held = has_held || is_held(&job->tag);
    }
    for (int i = 0; i < w->diffusion_job_count_max; i++) {
        struct diffusion_job *job = &w->diffusion_jobs[i];
        if (is_held(&job->tag) && job->tag.until_ns <= now_ns)
            dip__worker_diffusion_drop(w, job);
        has_held = has_held || is_held(&job->tag);
    }
    for (int i = 0; i < PICTURES_MAX; i++) {
        struct picture *picture = &w->pictures[i];
        if (picture->tag.handle != 0 && picture->tag.until_ns <= now_ns)
            dip__worker_picture_drop(w, picture);
        has_held = has_held || is_held(&picture->tag);
    }
    return has_held;
}

/* False: it is not worth it, or cannot be known again. What is held already stays so. */
static bool tag_hold(struct dip_worker *w, struct tag *tag, uint64_t epoch)
{
    if (is_held(tag))
        return true;
    if (!dip__tag_may_be_held(w, tag))
        return false;
    tag->held_epoch = epoch;
    tag->held_id = tag->id;
    tag->id = 0;
    tag->until_ns = dip_clock_now_ns() + w->options.hold_ns;
    return true;
}

void dip__worker_hold(struct dip_worker *w, uint64_t epoch)
{
    for (int i = 0; i < w->options.hinge_slots; i++) {
        struct ar_job *job = &w->ar_jobs[i];
        job->is_parted = false; /* the coordinator has not heard of it */
        if (job->tag.handle != 0 && !tag_hold(w, &job->tag, epoch))
            dip__worker_ar_drop(w, job);
    }
    for (int i = 0; i < w->diffusion_job_count_max; i++) {
        struct diffusion_job *job = &w->diffusion_jobs[i];
        if (job->tag.handle != 0 && !(job->is_live && tag_hold(w, &job->tag, epoch)))
            dip__worker_diffusion_drop(w, job);
    }
    for (int i = 0; i < PICTURES_MAX; i++)
        if (w->pictures[i].tag.handle != 0 && !tag_hold(w, &w->pictures[i].tag, epoch))
            dip__worker_picture_drop(w, &w->pictures[i]);
    w->held_said_ns = dip_clock_now_ns();
    w->is_holding = expire(w, w->held_said_ns);
    w->has_held_news = false; /* the answer to the RESET tells all */
}

/* ---- saying ---- */

static struct dip_held *entry_add(struct dip_message_held *list, const struct tag *tag,
                                  int64_t now_ns)
{
    struct dip_held *entries = list->entries.data;
    size_t count = list->entries.bytes / sizeof *entries;
    if (!is_held(tag) || count == DIP_HELD_MAX)
        return NULL;
    struct dip_held *held = &entries[count];
    *held = (struct dip_held){.epoch = tag->held_epoch,
                              .job_id = tag->held_id,
                              .image_index = tag->image_index,
                              .left_ns = tag->until_ns > now_ns ? tag->until_ns - now_ns : 0};
    memcpy(held->request_id, tag->origin.request_id, sizeof held->request_id);
    memcpy(held->digest, tag->origin.digest, sizeof held->digest);
    list->entries.bytes += sizeof *held;
    return held;
}

static void ar_add(struct dip_message_held *list, const struct ar_job *job, int64_t now_ns)
{
    struct dip_held *held = entry_add(list, &job->tag, now_ns);
    size_t id_first = list->ids.bytes / sizeof job->ids[0];
    if (!held)
        return;
    held->stage = job->hinge.data ? DIP_HELD_HINGE : DIP_HELD_TOKENS;
    held->done = job->id_count;
    held->token_count = job->hinge.data ? job->id_count : 0;
    if (id_first + (size_t)job->id_count > DIP_HELD_IDS_MAX)
        return;
    held->id_first = (int32_t)id_first;
    held->id_count = job->id_count;
    memcpy((int32_t *)list->ids.data + id_first, job->ids,
           (size_t)job->id_count * sizeof job->ids[0]);
    list->ids.bytes += (size_t)job->id_count * sizeof job->ids[0];
}

static void diffusion_add(struct dip_message_held *list, const struct diffusion_job *job,
                          int64_t now_ns)
{
    struct dip_held *held = entry_add(list, &job->tag, now_ns);
    if (!held)
        return;
    held->stage = DIP_HELD_STEPS;
    held->done = job->steps_done;
    held->token_count = job->token_count;
}

static void picture_add(struct dip_message_held *list, const struct picture *picture,
                        int64_t now_ns)
{
    struct dip_held *held = entry_add(list, &picture->tag, now_ns);
    if (!held)
        return;
    held->stage = DIP_HELD_PICTURE;
    held->token_count = picture->token_count;
}

/* Room for all that can be held; false without memory. */
static bool list_reserve(const struct dip_worker *w, struct dip_message_held *list)
{
    size_t id_count = 1;
    for (int i = 0; i < w->options.hinge_slots; i++)
        id_count += (size_t)w->ar_jobs[i].id_count;
    if (id_count > DIP_HELD_IDS_MAX)
        id_count = DIP_HELD_IDS_MAX;
    list->entries.data = calloc(DIP_HELD_MAX, sizeof(struct dip_held));
    list->ids.data = malloc(id_count * sizeof(int32_t));
    return list->entries.data && list->ids.data;
}

/* Pictures first: they are worth most, should there be too many. */
struct dip_message_held dip__worker_held_list(struct dip_worker *w)
{
    struct dip_message_held list = {.entries = {0}};
    int64_t now_ns = dip_clock_now_ns();
    if (!list_reserve(w, &list)) {
        free(list.entries.data);
        free(list.ids.data);
        return (struct dip_message_held){.entries = {0}};
    }
    for (int i = 0; i < PICTURES_MAX; i++)
        picture_add(&list, &w->pictures[i], now_ns);
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        diffusion_add(&list, &w->diffusion_jobs[i], now_ns);
    for (int i = 0; i < w->options.hinge_slots; i++)
        ar_add(&list, &w->ar_jobs[i], now_ns);
    return list;
}

/* ---- adopting ---- */

static bool is_meant(const struct tag *tag, const struct dip_message_adopt *adopt)
{
    return is_held(tag) && tag->held_epoch == adopt->held_epoch &&
           tag->held_id == adopt->held_job_id;
}

static bool adopt_ar(struct dip_worker *w, const struct dip_message *m)
{
    for (int i = 0; i < w->options.hinge_slots; i++) {
        struct ar_job *job = &w->ar_jobs[i];
        if (!is_meant(&job->tag, &m->as.adopt))
            continue;
        job->tag.id = m->job_id;
        if (m->job_id != 0)
            dip__worker_ar_resume(w, job);
        else
            dip__worker_ar_drop(w, job);
        return true;
    }
    return false;
}

static bool adopt_diffusion(struct dip_worker *w, const struct dip_message *m)
{
    for (int i = 0; i < w->diffusion_job_count_max; i++) {
        struct diffusion_job *job = &w->diffusion_jobs[i];
        if (!is_meant(&job->tag, &m->as.adopt))
            continue;
        job->tag.id = m->job_id;
        if (m->job_id != 0)
            dip__worker_diffusion_resume(w, job);
        else
            dip__worker_diffusion_drop(w, job);
        return true;
    }
    return false;
}

static bool adopt_picture(struct dip_worker *w, const struct dip_message *m)
{
    for (int i = 0; i < PICTURES_MAX; i++) {
        struct picture *picture = &w->pictures[i];
        if (!is_meant(&picture->tag, &m->as.adopt))
            continue;
        picture->tag.id = m->job_id;
        picture->tag.until_ns = dip_clock_now_ns() + w->options.hold_ns;
        if (m->job_id != 0)
            dip__worker_picture_resume(w, picture);
        else
            dip__worker_picture_drop(w, picture);
        return true;
    }
    return false;
}

void dip__worker_adopt(struct dip_worker *w, const struct dip_message *m)
{
    if (!w->is_device_dead && (adopt_ar(w, m) || adopt_diffusion(w, m) || adopt_picture(w, m)))
        return;
    dip__worker_fail(w, m->job_id, DIP_CANCELLED, "handed back: it is not held any more");
}

void dip__worker_picture_release(struct dip_worker *w, uint64_t job_id)
{
    for (int i = 0; i < PICTURES_MAX; i++)
        if (job_id != 0 && w->pictures[i].tag.id == job_id)
            dip__worker_picture_drop(w, &w->pictures[i]);
}

/* ---- time ---- */

void dip__worker_held_step(struct dip_worker *w)
{
    int64_t now_ns = dip_clock_now_ns();
    bool was_holding = w->is_holding;
    w->is_holding = expire(w, now_ns);
    int64_t due_ns = w->held_said_ns + (w->has_held_news ? SAY_NS_CHANGED : SAY_NS);
    if (!was_holding || (w->is_holding && now_ns < due_ns))
        return;
    struct dip_message message = {.kind = DIP_MESSAGE_HELD, .as.held = dip__worker_held_list(w)};
    w->has_held_news = false;
    w->held_said_ns = now_ns;
    dip__worker_post(w, &message);
}
