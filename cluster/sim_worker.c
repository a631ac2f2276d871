/* cluster/sim_worker.c - the played worker: takes jobs, takes time over them, says how far it is.
 */
#include "base/assert.h"
#include "cluster/sim_state.h"

enum { BATCH = DIP_TOKEN_BATCH_MAX };
#define HAND_OVER_NS  (5 * DIP_SECOND_NS)
#define TRY_AGAIN_NS  (50 * DIP_MS_NS)
#define LOOK_AGAIN_NS (500 * DIP_MS_NS)

void dip__sim_worker_init(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    bool is_ar = worker % 4 == 0 || (s->degree > 1 && worker % 2 == 0);
    bool is_both = s->degree == 1 && dip__sim_chance(s, 200000);
    w->roles = is_both ? DIP_ROLE_AR | DIP_ROLE_DIFFUSION
               : is_ar ? DIP_ROLE_AR
                       : DIP_ROLE_DIFFUSION;
    if (worker == 1)
        w->roles = DIP_ROLE_DIFFUSION;
    w->ar_slots = 1 + (int)dip__sim_draw(s, 8);
    w->hinge_slots = w->ar_slots + (int)dip__sim_draw(s, 8);
    w->diffusion_slots = 1 + (int)dip__sim_draw(s, 3);
    w->token_ns = DIP_MS_NS + (int64_t)dip__sim_draw(s, 4 * DIP_MS_NS);
    w->step_ns = 20 * DIP_MS_NS + (int64_t)dip__sim_draw(s, 60 * DIP_MS_NS);
    w->is_wide = w->step_ns % 2;
    w->slowness = 1;
    w->skew_percent = s->has_skew ? 20 + (int)dip__sim_draw(s, 480) : 100;
}

void dip__sim_worker_reset(struct sim_worker *w)
{
    w->job_count = 0;
    w->epoch = 0;
    w->is_formed = false;
}

/* ---- jobs ---- */

struct sim_job *dip__sim_job_find(struct sim_worker *w, uint64_t job_id)
{
    for (int i = 0; i < w->job_count; i++)
        if (job_id != 0 && w->jobs[i].id == job_id)
            return &w->jobs[i];
    return NULL;
}

static struct sim_job *job_of(struct sim_worker *w, uint64_t handle)
{
    for (int i = 0; i < w->job_count; i++)
        if (w->jobs[i].handle == handle)
            return &w->jobs[i];
    return NULL;
}

/* Of those that somebody has asked for. */
int dip__sim_count_stages(const struct sim_worker *w, enum sim_stage from, enum sim_stage to)
{
    int count = 0;
    for (int i = 0; i < w->job_count; i++)
        count += w->jobs[i].id != 0 && w->jobs[i].stage >= from && w->jobs[i].stage <= to;
    return count;
}

void dip__sim_job_remove(struct sim_worker *w, struct sim_job *job)
{
    *job = w->jobs[--w->job_count];
}

void dip__sim_job_wait(struct sim *s, uint32_t worker, const struct sim_job *job, int64_t wait_ns)
{
    dip__sim_push(s, (struct sim_event){.kind = SIM_JOB,
                                        .at_ns = s->now_ns + wait_ns,
                                        .worker = worker,
                                        .id = job->handle,
                                        .message = -1});
}

void dip__sim_job_say(struct sim *s, uint32_t worker, const struct sim_job *job,
                      struct dip_message m)
{
    m.job_id = job->id;
    if (job->id != 0)
        dip__sim_send_up(s, worker, &m);
}

static void say(struct sim *s, uint32_t worker, const struct sim_job *job,
                enum dip_message_kind kind)
{
    dip__sim_job_say(s, worker, job, (struct dip_message){.kind = kind});
}

static void job_fail(struct sim *s, uint32_t worker, uint64_t job_id, enum dip_status status)
{
    dip__sim_send_up(s, worker,
                     &(struct dip_message){.kind = DIP_MESSAGE_FAILED,
                                           .job_id = job_id,
                                           .as.failed = {.status = status, .text = "played"}});
}

static int64_t skewed(const struct sim_worker *w, int64_t ns)
{
    return ns * w->skew_percent / 100;
}

/* ---- commands ---- */

static struct sim_job *job_add(struct sim *s, uint32_t worker, const struct sim_message *m,
                               enum sim_stage stage)
{
    struct sim_worker *w = &s->workers[worker];
    if (dip__sim_job_find(w, m->m.job_id))
        return NULL; /* said twice */
    dip_assert(w->job_count < SIM_JOBS_MAX);
    struct sim_job *job = &w->jobs[w->job_count++];
    *job = (struct sim_job){.stage = stage,
                            .handle = ++s->handle_serial,
                            .id = m->m.job_id,
                            .leader = w->leader,
                            .request_id = m->request_id,
                            .image_index = m->image_index};
    if (dip__sim_count_stages(w, SIM_JOB_PREFILL, SIM_JOB_DECODE) > w->ar_slots ||
        dip__sim_count_stages(w, SIM_JOB_PREFILL, SIM_JOB_KEPT) > w->hinge_slots ||
        dip__sim_count_stages(w, SIM_JOB_EMPTY, SIM_JOB_STEPS) > w->diffusion_slots)
        dip__sim_fail(s, "worker %u has more jobs than slots", worker);
    uint64_t handle = job->handle;
    dip__sim_give_way(w);
    return job_of(w, handle);
}

/* Now and then a worker has no room where the coordinator saw some. */
static bool is_refused(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    if (dip__sim_job_find(&s->workers[worker], m->m.job_id) || !dip__sim_chance(s, s->refuse_ppm))
        return false;
    job_fail(s, worker, m->m.job_id, dip__sim_chance(s, 500000) ? DIP_BUSY : DIP_CANCELLED);
    return true;
}

static void take_ar(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    if (s->groups && !w->is_formed) { /* its group has gone meanwhile */
        job_fail(s, worker, m->m.job_id, DIP_UNREACHABLE);
        return;
    }
    struct sim_job *job = is_refused(s, worker, m) ? NULL : job_add(s, worker, m, SIM_JOB_PREFILL);
    if (!job)
        return;
    job->done = m->forced_count;
    job->total = m->token_count;
    dip__sim_job_wait(s, worker, job, 4 * w->token_ns * w->slowness);
}

static void take_diffusion(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    enum sim_stage stage = m->has_hidden ? SIM_JOB_CONDITION : SIM_JOB_EMPTY;
    struct sim_job *job = is_refused(s, worker, m) ? NULL : job_add(s, worker, m, stage);
    if (!job)
        return;
    job->total = m->step_count;
    if (m->has_hidden)
        dip__sim_job_wait(s, worker, job, DIP_MS_NS);
}

static void take_hand_over(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_job *job = dip__sim_job_find(&s->workers[worker], m->m.job_id);
    if (!job)
        return; /* dropped with its group */
    if (job->stage != SIM_JOB_KEPT) {
        dip__sim_fail(s, "worker %u is to hand over what it has not", worker);
        return;
    }
    job->to = m->m.as.hand_over.to - 1;
    job->to_job_id = m->m.as.hand_over.to_job_id;
    job->hand_over_ends_ns = s->now_ns + HAND_OVER_NS;
    if (job->is_handing_over)
        return;
    job->is_handing_over = true;
    dip__sim_hinge_go(s, worker, job->handle);
}

void dip__sim_worker_take(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    struct sim_job *job = NULL;
    switch (m->m.kind) {
    case DIP_MESSAGE_AR:
        take_ar(s, worker, m);
        break;
    case DIP_MESSAGE_DIFFUSION:
        take_diffusion(s, worker, m);
        break;
    case DIP_MESSAGE_HAND_OVER:
        take_hand_over(s, worker, m);
        break;
    case DIP_MESSAGE_ADOPT:
        dip__sim_adopt(s, worker, m);
        break;
    case DIP_MESSAGE_RELEASE:
        job = dip__sim_job_find(w, m->m.job_id);
        if (job)
            dip__sim_job_remove(w, job);
        break;
    default:
        dip__sim_group_take(s, worker, m);
        break;
    }
}

void dip__sim_joined_send(struct sim *s, uint32_t worker)
{
    const struct sim_worker *w = &s->workers[worker];
    dip__sim_send_up(s, worker,
                     &(struct dip_message){.kind = DIP_MESSAGE_JOINED,
                                           .as.joined = {.roles = w->roles,
                                                         .ar_slots = w->ar_slots,
                                                         .hinge_slots = w->hinge_slots,
                                                         .diffusion_slots = w->diffusion_slots}});
}

/* ---- work ---- */

static void go_prefill(struct sim *s, uint32_t worker, struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    job->stage = SIM_JOB_DECODE;
    say(s, worker, job, DIP_MESSAGE_PREFILLED);
    dip__sim_job_wait(s, worker, job, w->token_ns * w->slowness);
}

/* It counts when the coordinator can blame it: it holds the stream and has not asked to leave. */
static void poison(struct sim *s, uint32_t worker, uint64_t request_id)
{
    struct sim_worker *w = &s->workers[worker];
    struct sim_request *request = &s->requests[request_id - 1];
    bool is_seen = w->stream != 0 && w->stream == w->coordinator_stream &&
                   !dip_scheduler_member(s->scheduler, worker + 1).is_draining;
    request->kills += is_seen;
    if (request->kills > (s->attempts + 2) * request->images)
        dip__sim_fail(s, "request %llu took down %d workers", (unsigned long long)request_id,
                      request->kills);
    dip__sim_crash(s, worker);
}

void dip__sim_tokens_say(struct sim *s, uint32_t worker, const struct sim_job *job, int first,
                         int count)
{
    while (count > 0) {
        struct dip_message m = {.kind = DIP_MESSAGE_TOKENS};
        m.as.tokens.first = first;
        m.as.tokens.count = count < BATCH ? count : BATCH;
        for (int i = 0; i < m.as.tokens.count; i++)
            m.as.tokens.ids[i] = dip__sim_token(job->request_id, job->image_index, first + i);
        dip__sim_job_say(s, worker, job, m);
        first += m.as.tokens.count;
        count -= m.as.tokens.count;
    }
}

void dip__sim_ready_say(struct sim *s, uint32_t worker, const struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    struct dip_message m = {.kind = DIP_MESSAGE_HINGE_READY};
    m.as.hinge_ready.token_count = job->total;
    m.as.hinge_ready.prefill_ns = skewed(w, 4 * w->token_ns);
    m.as.hinge_ready.decode_ns = skewed(w, job->total * w->token_ns);
    dip__sim_job_say(s, worker, job, m);
}

static void go_decode(struct sim *s, uint32_t worker, struct sim_job *job)
{
    struct sim_worker *w = &s->workers[worker];
    int count = job->total - job->done < BATCH ? job->total - job->done : BATCH;
    dip__sim_tokens_say(s, worker, job, job->done, count);
    job->done += count;
    if (s->requests[job->request_id - 1].is_poison && job->done > job->total / 2) {
        poison(s, worker, job->request_id);
        return;
    }
    if (job->done < job->total) {
        dip__sim_job_wait(s, worker, job, count * w->token_ns * w->slowness);
        return;
    }
    job->stage = SIM_JOB_KEPT;
    dip__sim_ready_say(s, worker, job);
}

/* Images that are sampled, this one included. */
static int company_of(const struct sim_worker *w)
{
    int count = dip__sim_count_stages(w, SIM_JOB_CONDITION, SIM_JOB_STEPS);
    return count > 0 ? count : 1;
}

/* Until an image has made its next step: they share one, or take turns. */
static int64_t step_ns_of(const struct sim_worker *w)
{
    int64_t alone_ns = w->step_ns * w->slowness;
    return w->is_wide ? alone_ns * (4 + company_of(w)) / 5 : alone_ns * company_of(w);
}

void dip__sim_step_say(struct sim *s, uint32_t worker, const struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    struct dip_message m = {.kind = DIP_MESSAGE_STEP};
    int company = w->is_wide ? company_of(w) : 1;
    m.as.step.steps_done = job->done;
    m.as.step.step_ns = skewed(w, w->is_wide ? step_ns_of(w) / company : w->step_ns * w->slowness);
    m.as.step.batch = company;
    m.as.step.room = w->is_wide ? w->diffusion_slots : 1;
    dip__sim_job_say(s, worker, job, m);
}

static void go_steps(struct sim *s, uint32_t worker, struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    if (job->done < job->total) {
        job->done++;
        dip__sim_step_say(s, worker, job);
        dip__sim_job_wait(s, worker, job, step_ns_of(w));
        return;
    }
    job->stage = SIM_JOB_ENCODE;
    say(s, worker, job, DIP_MESSAGE_DECODED);
    dip__sim_job_wait(s, worker, job, 10 * DIP_MS_NS);
}

void dip__sim_picture_say(struct sim *s, uint32_t worker, const struct sim_job *job)
{
    const struct sim_worker *w = &s->workers[worker];
    struct dip_message m = {.kind = DIP_MESSAGE_IMAGE};
    m.as.picture.vae_ns = skewed(w, 5 * DIP_MS_NS);
    m.as.picture.encode_ns = skewed(w, 5 * DIP_MS_NS);
    dip__sim_job_say(s, worker, job, m);
}

static void go_encode(struct sim *s, uint32_t worker, struct sim_job *job)
{
    job->stage = SIM_JOB_PICTURE;
    job->until_ns = s->now_ns + SIM_HOLD_NS;
    s->result.painted++;
    dip__sim_picture_say(s, worker, job);
    dip__sim_give_way(&s->workers[worker]);
}

void dip__sim_job_go(struct sim *s, uint32_t worker, uint64_t handle)
{
    struct sim_worker *w = &s->workers[worker];
    struct sim_job *job = w->is_up ? job_of(w, handle) : NULL;
    if (!job)
        return;
    bool is_ar = job->stage == SIM_JOB_PREFILL || job->stage == SIM_JOB_DECODE;
    bool is_apart = is_ar && s->groups && !dip__sim_group_steps(s, worker);
    if (is_apart || w->is_hanging) {
        job = job_of(w, handle); /* a group that breaks drops its jobs */
        if (job)
            dip__sim_job_wait(s, worker, job, LOOK_AGAIN_NS);
        return;
    }
    switch (job->stage) {
    case SIM_JOB_PREFILL:
        go_prefill(s, worker, job);
        break;
    case SIM_JOB_DECODE:
        go_decode(s, worker, job);
        break;
    case SIM_JOB_CONDITION:
        job->stage = SIM_JOB_STEPS;
        say(s, worker, job, DIP_MESSAGE_CONDITIONED);
        dip__sim_job_wait(s, worker, job, w->step_ns * w->slowness);
        break;
    case SIM_JOB_STEPS:
        go_steps(s, worker, job);
        break;
    case SIM_JOB_ENCODE:
        go_encode(s, worker, job);
        break;
    default:
        break;
    }
}

/* The receiver may not know of the job yet, may be away, or cut off: it is tried again for a while.
 */
void dip__sim_hinge_go(struct sim *s, uint32_t worker, uint64_t handle)
{
    struct sim_worker *w = &s->workers[worker];
    struct sim_job *job = w->is_up ? job_of(w, handle) : NULL;
    if (!job || job->stage != SIM_JOB_KEPT || !job->is_handing_over)
        return;
    struct sim_worker *to = &s->workers[job->to];
    struct sim_job *target = to->is_up && to->paused_until_ns <= s->now_ns
                                 ? dip__sim_job_find(to, job->to_job_id)
                                 : NULL;
    if (target && target->leader != job->leader)
        target = NULL;                                   /* another leader's job of the same name */
    bool is_lost = dip__sim_chance(s, s->duplicate_ppm); /* on the way */
    if (target && target->stage != SIM_JOB_EMPTY) {
        job->is_handing_over = false; /* it has it already */
    } else if (target && !is_lost) {
        target->stage = SIM_JOB_CONDITION;
        dip__sim_job_wait(s, job->to, target, 2 * DIP_MS_NS);
        job->is_handing_over = false;
    } else if (s->now_ns >= job->hand_over_ends_ns) {
        job_fail(s, worker, job->id, DIP_UNREACHABLE);
        dip__sim_job_remove(w, job);
    } else {
        dip__sim_push(s, (struct sim_event){.kind = SIM_HINGE,
                                            .at_ns = s->now_ns + TRY_AGAIN_NS,
                                            .worker = worker,
                                            .id = handle,
                                            .message = -1});
    }
}
