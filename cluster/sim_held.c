/* cluster/sim_held.c - the played worker without a coordinator: what it holds, and what becomes of
 * it under the next one. */
#include "base/assert.h"
#include "cluster/sim_state.h"

enum { PICTURES_MAX = 8 };

static bool is_held(const struct sim_job *job)
{
    return job->id == 0;
}

static bool is_ar(const struct sim_job *job)
{
    return job->stage >= SIM_JOB_PREFILL && job->stage <= SIM_JOB_FROZEN;
}

/* ---- holding ---- */

static void freeze(struct sim_job *job)
{
    if (job->stage == SIM_JOB_PREFILL || job->stage == SIM_JOB_DECODE)
        job->stage = SIM_JOB_FROZEN;
}

/* From the last to the first: the last takes the place of one that goes. */
void dip__sim_hold(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    w->epoch = 0; /* of a group: the next leader forms others */
    w->is_formed = false;
    for (int i = w->job_count - 1; i >= 0; i--) {
        struct sim_job *job = &w->jobs[i];
        int tokens, steps;
        bool has_hidden;
        dip__sim_shape(job->request_id, &tokens, &steps, &has_hidden);
        if (job->stage == SIM_JOB_EMPTY || has_hidden) {
            dip__sim_job_remove(w, job);
            continue;
        }
        if (s->groups)
            freeze(job);
        job->is_handing_over = false;
        if (is_held(job))
            continue;
        job->held_leader = job->leader;
        job->held_id = job->id;
        job->id = 0;
        job->until_ns = s->now_ns + SIM_HOLD_NS;
    }
}

void dip__sim_part(struct sim_worker *w)
{
    w->epoch = 0;
    w->is_formed = false;
    for (int i = w->job_count - 1; i >= 0; i--) {
        if (!is_ar(&w->jobs[i]))
            continue;
        if (is_held(&w->jobs[i]))
            freeze(&w->jobs[i]);
        else
            dip__sim_job_remove(w, &w->jobs[i]);
    }
}

/* ---- giving way ---- */

/* All of these stages, held or not; the oldest held one of them, which may be NULL. */
static int count_all(struct sim_worker *w, enum sim_stage from, enum sim_stage to,
                     struct sim_job **ret_oldest)
{
    int count = 0;
    *ret_oldest = NULL;
    for (int i = 0; i < w->job_count; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->stage < from || job->stage > to)
            continue;
        count++;
        if ((is_held(job) || job->stage == SIM_JOB_PICTURE) &&
            (!*ret_oldest || job->handle < (*ret_oldest)->handle))
            *ret_oldest = job;
    }
    return count;
}

void dip__sim_give_way(struct sim_worker *w)
{
    struct sim_job *oldest;
    while (count_all(w, SIM_JOB_PREFILL, SIM_JOB_DECODE, &oldest) > w->ar_slots && oldest)
        freeze(oldest);
    while (count_all(w, SIM_JOB_PREFILL, SIM_JOB_FROZEN, &oldest) > w->hinge_slots && oldest)
        dip__sim_job_remove(w, oldest);
    while (count_all(w, SIM_JOB_EMPTY, SIM_JOB_STEPS, &oldest) > w->diffusion_slots && oldest)
        dip__sim_job_remove(w, oldest);
    while (count_all(w, SIM_JOB_PICTURE, SIM_JOB_PICTURE, &oldest) > PICTURES_MAX)
        dip__sim_job_remove(w, oldest);
}

/* ---- adopting ---- */

static struct sim_job *find_held(struct sim *s, struct sim_worker *w,
                                 const struct dip_message_adopt *adopt)
{
    for (int i = 0; i < w->job_count; i++) {
        struct sim_job *job = &w->jobs[i];
        if (is_held(job) && job->held_leader == adopt->held_epoch &&
            job->held_id == adopt->held_job_id && job->until_ns > s->now_ns)
            return job;
    }
    return NULL;
}

static void say_ar(struct sim *s, uint32_t worker, struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    if (job->stage != SIM_JOB_PREFILL)
        dip__sim_job_say(s, worker, job, (struct dip_message){.kind = DIP_MESSAGE_PREFILLED});
    dip__sim_tokens_say(s, worker, job, 0, job->done);
    if (job->stage == SIM_JOB_KEPT)
        dip__sim_ready_say(s, worker, job);
    if (job->stage == SIM_JOB_FROZEN) {
        job->stage = SIM_JOB_PREFILL;
        dip__sim_job_wait(s, worker, job, 4 * w->token_ns * w->slowness);
    }
}

static void say_diffusion(struct sim *s, uint32_t worker, const struct sim_job *job)
{
    if (job->stage >= SIM_JOB_STEPS)
        dip__sim_job_say(s, worker, job, (struct dip_message){.kind = DIP_MESSAGE_CONDITIONED});
    if (job->done > 0)
        dip__sim_step_say(s, worker, job);
    if (job->stage >= SIM_JOB_ENCODE)
        dip__sim_job_say(s, worker, job, (struct dip_message){.kind = DIP_MESSAGE_DECODED});
    if (job->stage == SIM_JOB_PICTURE)
        dip__sim_picture_say(s, worker, job);
}

static void hand_back(struct sim *s, uint32_t worker, uint64_t job_id)
{
    if (job_id != 0)
        dip__sim_send_up(s, worker,
                         &(struct dip_message){.kind = DIP_MESSAGE_FAILED,
                                               .job_id = job_id,
                                               .as.failed = {.status = DIP_CANCELLED}});
}

void dip__sim_adopt(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    if (dip__sim_job_find(w, m->m.job_id))
        return; /* said twice */
    struct sim_job *job = find_held(s, w, &m->m.as.adopt);
    bool can_draw = !s->groups || w->is_formed;
    if (!job || m->m.job_id == 0 || (job->stage == SIM_JOB_FROZEN && !can_draw)) {
        if (job)
            dip__sim_job_remove(w, job);
        hand_back(s, worker, m->m.job_id);
        return;
    }
    job->id = m->m.job_id;
    job->leader = w->leader;
    job->until_ns = s->now_ns + SIM_HOLD_NS;
    if (is_ar(job))
        say_ar(s, worker, job);
    else
        say_diffusion(s, worker, job);
    dip__sim_give_way(w);
}

/* ---- saying ---- */

void dip__sim_held_list(const struct sim *s, uint32_t worker, struct sim_held_list *list)
{
    const struct sim_worker *w = &s->workers[worker];
    list->count = list->id_count = 0;
    for (int i = 0; i < w->job_count; i++) {
        const struct sim_job *job = &w->jobs[i];
        if (!is_held(job) || job->until_ns <= s->now_ns)
            continue;
        struct dip_held *held = &list->entries[list->count++];
        *held = (struct dip_held){.epoch = job->held_leader,
                                  .job_id = job->held_id,
                                  .image_index = (uint32_t)job->image_index,
                                  .done = job->done,
                                  .left_ns = job->until_ns - s->now_ns};
        dip__sim_digest(job->request_id, held->digest);
        held->stage = job->stage == SIM_JOB_KEPT      ? DIP_HELD_HINGE
                      : is_ar(job)                    ? DIP_HELD_TOKENS
                      : job->stage == SIM_JOB_PICTURE ? DIP_HELD_PICTURE
                                                      : DIP_HELD_STEPS;
        held->id_first = list->id_count;
        held->id_count = is_ar(job) ? job->done : 0;
        for (int k = 0; k < held->id_count; k++)
            list->ids[list->id_count++] = dip__sim_token(job->request_id, job->image_index, k);
    }
}
