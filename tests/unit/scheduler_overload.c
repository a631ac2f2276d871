/* tests/unit/scheduler_overload.c - ten times of what a cluster can do, for a minute of simulated
 * time.
 *
 * The real scheduler under played workers and clients that ask by the clock. What is asked of it:
 * nearly nobody who was admitted ends late, the narrower panel never rests, who is refused learns
 * when to come again, and what is told of the end comes true.
 *
 * A played worker shares its device: with n images under way each of them takes 1 + (n - 1) * share
 * times as long; 0 is a device that has room for all, 1 one that does nothing in parallel. The
 * autoencoder runs on the device too, behind the steps and without a word about it. Messages take
 * LINK_NS either way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/cluster.h"

enum {
    MEMBERS_MAX = 32,
    JOBS_MAX = 4096,
    EVENTS_MAX = 1 << 16,
    REQUESTS_MAX = 1 << 18,
    QUEUE = 4096,
    TOKENS_MAX = 256,
    BATCH = 16,
    TENANTS = 8,
    CLIENTS_MAX = 4096,
    NOBODY = -1, /* who asks by the clock, once */
};
#define MS_NS     INT64_C(1000000)
#define SECOND_NS (1000 * MS_NS)
#define LINK_NS   (MS_NS / 2)
#define ENCODE_NS (5 * MS_NS)

struct kind {
    int count;
    uint32_t roles;
    int ar_slots, hinge_slots, diffusion_slots;
    int64_t prefill_ns, token_ns, step_ns, vae_ns;
    double ar_share, diffusion_share;
};

/* What clients ask for: `rate` times of what the cluster can do. */
struct plan {
    struct kind kinds[4];
    double rate;
    int seconds;
    int tokens, steps, steps_more; /* steps: evenly from steps to steps + steps_more */
    int images_more;
    int64_t deadline_ns, deadline_more_ns; /* evenly from the first on */
    int tenants, weights[TENANTS];
    bool has_priorities, is_ar_bound;
    int64_t shrink_ns; /* then every second member goes */
    int clients;       /* 0: they ask by the clock; else so many ask, and come again when told to */
};

enum event_kind { EVENT_ARRIVE, EVENT_AGAIN, EVENT_JOB, EVENT_TICK, EVENT_SHRINK };
struct event {
    int64_t at_ns;
    uint64_t serial, id;
    enum event_kind kind;
};

enum stage {
    STAGE_NONE,
    STAGE_PREFILL,
    STAGE_DECODE,
    STAGE_KEPT,
    STAGE_EMPTY,
    STAGE_CONDITION,
    STAGE_STEPS,
    STAGE_VAE,
    STAGE_ENCODE
};
struct job {
    uint64_t id;
    uint32_t member;
    enum stage stage;
    int done, total;
};

struct member {
    const struct kind *kind;
    bool is_there;
    int drawing, painting;
};

struct request {
    int64_t submitted_ns, patience_ns, finish_ns; /* the last: as it was told */
    int images, client;
    uint32_t tenant;
    enum dip_priority priority;
    int steps;
    bool was_told; /* to come again, and has */
};

struct counts {
    int in_time, late, told, told_admitted;
    int by_priority[3], by_tenant[TENANTS];
    double work; /* of images in time, in images of the mean size */
};

struct world {
    const struct plan *plan;
    struct dip_scheduler *s;
    int64_t now_ns, tick_ns, measure_ns, end_ns;
    double could; /* images, from measure_ns to end_ns */
    uint64_t serial, random, request_count, phase;
    struct event *events; /* a heap */
    int event_count;
    struct job jobs[JOBS_MAX]; /* by hash of the id */
    struct member members[MEMBERS_MAX];
    int member_count;
    struct request *requests; /* by id - 1 */
    struct counts counts;     /* of what ended, or was refused, after measure_ns */
    double wait_error;        /* sum over those in time, of the estimate's share in what came */
    int wait_error_count;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return below > 0 ? (w->random >> 33) % below : 0;
}

/* ---- events ---- */

static bool is_before(const struct event *a, const struct event *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->serial < b->serial);
}

static void push(struct world *w, enum event_kind kind, int64_t at_ns, uint64_t id)
{
    assert_true(w->event_count < EVENTS_MAX);
    struct event event = {.kind = kind, .at_ns = at_ns, .id = id, .serial = ++w->serial};
    int i = w->event_count++;
    for (; i > 0 && is_before(&event, &w->events[(i - 1) / 2]); i = (i - 1) / 2)
        w->events[i] = w->events[(i - 1) / 2];
    w->events[i] = event;
}

static struct event pop(struct world *w)
{
    struct event first = w->events[0], last = w->events[--w->event_count];
    int i = 0;
    for (int child; (child = 2 * i + 1) < w->event_count; i = child) {
        child += child + 1 < w->event_count && is_before(&w->events[child + 1], &w->events[child]);
        if (!is_before(&w->events[child], &last))
            break;
        w->events[i] = w->events[child];
    }
    w->events[i] = last;
    return first;
}

/* ---- workers ---- */

static struct job *job_of(struct world *w, uint64_t id)
{
    for (int i = 0; i < JOBS_MAX; i++) {
        struct job *job = &w->jobs[((id ^ id >> 20) + (uint64_t)i) % JOBS_MAX];
        if (job->id == id)
            return job;
        if (job->id == 0)
            break;
    }
    return NULL;
}

static struct job *job_new(struct world *w, uint64_t id)
{
    for (int i = 0; i < JOBS_MAX; i++) {
        struct job *job = &w->jobs[((id ^ id >> 20) + (uint64_t)i) % JOBS_MAX];
        if (job->id == 0 || job->stage == STAGE_NONE) {
            *job = (struct job){.id = id};
            return job;
        }
    }
    fail_msg("no place for a job");
    return NULL;
}

static bool is_drawing(enum stage stage)
{
    return stage == STAGE_PREFILL || stage == STAGE_DECODE;
}

static bool is_painting(enum stage stage)
{
    return stage >= STAGE_CONDITION && stage <= STAGE_VAE;
}

static void stage_set(struct world *w, struct job *job, enum stage stage)
{
    struct member *member = &w->members[job->member];
    member->drawing += is_drawing(stage) - is_drawing(job->stage);
    member->painting += is_painting(stage) - is_painting(job->stage);
    job->stage = stage;
}

static void job_wait(struct world *w, const struct job *job, int64_t wait_ns)
{
    push(w, EVENT_JOB, w->now_ns + wait_ns, job->id);
}

static double company(int live, double share)
{
    return 1 + (live > 1 ? live - 1 : 0) * share;
}

static void feed(struct world *w, struct dip_message m);

static void say(struct world *w, const struct job *job, struct dip_message m)
{
    m.from = job->member;
    m.job_id = job->id;
    feed(w, m);
}

static void job_draw(struct world *w, struct job *job)
{
    const struct member *member = &w->members[job->member];
    const struct kind *kind = member->kind;
    double slower = company(member->drawing, kind->ar_share);
    int count = job->total - job->done < BATCH ? job->total - job->done : BATCH;
    if (job->stage == STAGE_PREFILL) {
        stage_set(w, job, STAGE_DECODE);
        say(w, job, (struct dip_message){.kind = DIP_MESSAGE_PREFILLED});
        job_wait(w, job, (int64_t)((double)count * (double)kind->token_ns * slower));
        return;
    }
    struct dip_message m = {.kind = DIP_MESSAGE_TOKENS};
    m.as.tokens.first = job->done;
    m.as.tokens.count = count;
    job->done += count;
    say(w, job, m);
    count = job->total - job->done < BATCH ? job->total - job->done : BATCH;
    if (job->done < job->total) {
        job_wait(w, job, (int64_t)((double)count * (double)kind->token_ns * slower));
        return;
    }
    stage_set(w, job, STAGE_KEPT);
    m = (struct dip_message){.kind = DIP_MESSAGE_HINGE_READY};
    m.as.hinge_ready.token_count = job->total;
    m.as.hinge_ready.prefill_ns = kind->prefill_ns;
    m.as.hinge_ready.decode_ns = job->total * kind->token_ns;
    say(w, job, m);
}

static void job_paint(struct world *w, struct job *job)
{
    const struct member *member = &w->members[job->member];
    const struct kind *kind = member->kind;
    double slower = company(member->painting, kind->diffusion_share);
    struct dip_message m = {.kind = DIP_MESSAGE_STEP};
    switch (job->stage) {
    case STAGE_CONDITION:
        stage_set(w, job, STAGE_STEPS);
        say(w, job, (struct dip_message){.kind = DIP_MESSAGE_CONDITIONED});
        job_wait(w, job, (int64_t)((double)kind->step_ns * slower));
        break;
    case STAGE_STEPS:
        m.as.step.steps_done = ++job->done;
        m.as.step.step_ns = (int64_t)((double)kind->step_ns * slower / member->painting);
        say(w, job, m);
        if (job->done == job->total)
            stage_set(w, job, STAGE_VAE);
        job_wait(
            w, job,
            (int64_t)((double)(job->stage == STAGE_VAE ? kind->vae_ns : kind->step_ns) * slower));
        break;
    case STAGE_VAE:
        stage_set(w, job, STAGE_ENCODE);
        say(w, job, (struct dip_message){.kind = DIP_MESSAGE_DECODED});
        job_wait(w, job, ENCODE_NS);
        break;
    default:
        stage_set(w, job, STAGE_NONE);
        m = (struct dip_message){.kind = DIP_MESSAGE_IMAGE};
        m.as.picture.vae_ns = kind->vae_ns;
        m.as.picture.encode_ns = ENCODE_NS;
        say(w, job, m);
        break;
    }
}

static void job_go(struct world *w, uint64_t id)
{
    struct job *job = job_of(w, id);
    if (!job || job->stage == STAGE_NONE)
        return;
    if (is_drawing(job->stage))
        job_draw(w, job);
    else if (job->stage != STAGE_KEPT && job->stage != STAGE_EMPTY)
        job_paint(w, job);
}

/* ---- what they can do ---- */

static double ar_rate(const struct kind *kind, const struct plan *plan)
{
    if (!(kind->roles & DIP_ROLE_AR))
        return 0;
    double each = (double)kind->prefill_ns +
                  (double)(plan->tokens * kind->token_ns) * company(kind->ar_slots, kind->ar_share);
    return 1e9 * kind->ar_slots / each;
}

static double diffusion_rate(const struct kind *kind, const struct plan *plan)
{
    if (!(kind->roles & DIP_ROLE_DIFFUSION))
        return 0;
    double steps = plan->steps + plan->steps_more / 2.0;
    double each = (steps * (double)kind->step_ns + (double)kind->vae_ns) *
                  company(kind->diffusion_slots, kind->diffusion_share);
    return 1e9 * kind->diffusion_slots / each;
}

/* Of images with so many steps, at the narrower panel: 1 is the mean. */
static double size_of(const struct plan *plan, int steps)
{
    const struct kind *kind = &plan->kinds[0];
    double mean = (plan->steps + plan->steps_more / 2.0) * (double)kind->step_ns;
    if (plan->is_ar_bound)
        return 1;
    return ((double)(steps * kind->step_ns) + (double)kind->vae_ns) / (mean + (double)kind->vae_ns);
}

/* Images a second. */
static double capacity(const struct world *w)
{
    double ar = 0, diffusion = 0;
    for (int i = 1; i <= w->member_count; i++) {
        if (!w->members[i].is_there)
            continue;
        ar += ar_rate(w->members[i].kind, w->plan);
        diffusion += diffusion_rate(w->members[i].kind, w->plan);
    }
    return ar < diffusion ? ar : diffusion;
}

/* ---- what the scheduler says ---- */

/* `told`: the number of the request that comes again; 0 = a new one. */
static void ask_later(struct world *w, int client, int64_t wait_ns, uint64_t told)
{
    push(w, EVENT_AGAIN, w->now_ns + wait_ns, told * CLIENTS_MAX + (uint64_t)client);
}

static void on_refused(struct world *w, const struct dip_action *action)
{
    const struct request *request = &w->requests[action->request_id - 1];
    assert_int_equal(action->refusal, DIP_REFUSAL_WOULD_BE_LATE);
    assert_true(action->retry_ns > 0);
    w->counts.told += request->was_told && w->now_ns >= w->measure_ns;
    if (request->client != NOBODY)
        ask_later(w, request->client, action->retry_ns, action->request_id);
}

static void on_ended(struct world *w, const struct dip_action *action)
{
    const struct request *request = &w->requests[action->request_id - 1];
    bool is_in_time = action->end == DIP_END_DONE;
    assert_true(is_in_time || action->end == DIP_END_DEADLINE);
    if (w->now_ns >= w->measure_ns) {
        w->counts.in_time += is_in_time;
        w->counts.late += !is_in_time;
        w->counts.work += is_in_time ? request->images * size_of(w->plan, request->steps) : 0;
        w->counts.by_priority[request->priority] += is_in_time;
        w->counts.by_tenant[request->tenant] += is_in_time;
    }
    if (w->now_ns >= w->measure_ns && is_in_time && request->finish_ns > 0) {
        double took = (double)(w->now_ns - request->submitted_ns);
        double error = (double)(request->finish_ns - request->submitted_ns) / took - 1;
        w->wait_error += error < 0 ? -error : error;
        w->wait_error_count++;
    }
    if (request->client != NOBODY)
        ask_later(w, request->client, MS_NS, 0);
}

static void act(struct world *w, const struct dip_action *action)
{
    struct job *job;
    struct request *request = action->request_id > 0 ? &w->requests[action->request_id - 1] : NULL;
    switch (action->kind) {
    case DIP_ACTION_AR:
    case DIP_ACTION_DIFFUSION:
        job = job_new(w, action->job_id);
        job->member = action->member;
        job->total = action->kind == DIP_ACTION_AR ? w->plan->tokens : request->steps;
        job->done = action->kind == DIP_ACTION_AR ? action->forced_count : 0;
        stage_set(w, job, action->kind == DIP_ACTION_AR ? STAGE_PREFILL : STAGE_EMPTY);
        if (action->kind == DIP_ACTION_AR)
            job_wait(w, job, 2 * LINK_NS + w->members[job->member].kind->prefill_ns);
        break;
    case DIP_ACTION_HAND_OVER:
        job = job_of(w, action->to_job_id);
        stage_set(w, job, STAGE_CONDITION);
        job_wait(w, job, 2 * LINK_NS);
        break;
    case DIP_ACTION_RELEASE:
        job = job_of(w, action->job_id);
        if (job)
            stage_set(w, job, STAGE_NONE);
        break;
    case DIP_ACTION_ADMITTED:
        request->finish_ns = action->finish_ns;
        w->counts.told += request->was_told && w->now_ns >= w->measure_ns;
        w->counts.told_admitted += request->was_told && w->now_ns >= w->measure_ns;
        break;
    case DIP_ACTION_REFUSED:
        on_refused(w, action);
        break;
    case DIP_ACTION_ENDED:
        on_ended(w, action);
        break;
    default:
        break;
    }
}

static void feed(struct world *w, struct dip_message m)
{
    static struct dip_action actions[EVENTS_MAX];
    int count = 0;
    dip_scheduler_feed(w->s, w->now_ns, &m);
    while (dip_scheduler_next(w->s, &actions[count]))
        assert_true(++count < EVENTS_MAX);
    for (int i = 0; i < count; i++)
        act(w, &actions[i]);
}

/* ---- clients ---- */

static struct request shape_new(struct world *w)
{
    const struct plan *plan = w->plan;
    struct request shape = {.images = 1, .priority = DIP_PRIORITY_STANDARD};
    shape.images += (int)draw(w, (uint64_t)plan->images_more + 1);
    shape.steps = plan->steps + (int)draw(w, (uint64_t)plan->steps_more + 1);
    shape.patience_ns = plan->deadline_ns + (int64_t)draw(w, (uint64_t)plan->deadline_more_ns + 1);
    shape.tenant = (uint32_t)draw(w, (uint64_t)plan->tenants);
    if (plan->has_priorities)
        shape.priority = (enum dip_priority)draw(w, 3);
    return shape;
}

/* `told`: the request that was refused and comes again; NULL = a new one. */
static void ask(struct world *w, int client, const struct request *told)
{
    uint64_t id = ++w->request_count;
    assert_true(id <= REQUESTS_MAX);
    struct request *request = &w->requests[id - 1];
    *request = told ? *told : shape_new(w);
    request->submitted_ns = w->now_ns;
    request->client = client;
    request->was_told = told != NULL;
    struct dip_message m = {.kind = DIP_MESSAGE_SUBMIT, .request_id = id};
    m.as.submit = (struct dip_message_submit){.image_count = request->images,
                                              .token_count = w->plan->tokens,
                                              .step_count = request->steps,
                                              .priority = request->priority,
                                              .tenant = request->tenant,
                                              .deadline_ns = w->now_ns + request->patience_ns,
                                              .ticket = (uint64_t)(client + 1)};
    feed(w, m);
}

/* ---- the cluster ---- */

static void join_all(struct world *w)
{
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < w->plan->kinds[k].count; i++) {
            const struct kind *kind = &w->plan->kinds[k];
            struct dip_message m = {.kind = DIP_MESSAGE_JOINED,
                                    .from = (uint32_t)++w->member_count};
            assert_true(w->member_count < MEMBERS_MAX);
            w->members[w->member_count] = (struct member){.kind = kind, .is_there = true};
            m.as.joined.roles = kind->roles;
            m.as.joined.ar_slots = kind->ar_slots;
            m.as.joined.hinge_slots = kind->hinge_slots;
            m.as.joined.diffusion_slots = kind->diffusion_slots;
            feed(w, m);
        }
}

static void lose_half(struct world *w)
{
    for (int i = 1; i <= w->member_count; i += 2) {
        w->members[i].is_there = false;
        for (int j = 0; j < JOBS_MAX; j++)
            if (w->jobs[j].stage != STAGE_NONE && w->jobs[j].member == (uint32_t)i)
                stage_set(w, &w->jobs[j], STAGE_NONE);
        feed(w, (struct dip_message){.kind = DIP_MESSAGE_LOST, .from = (uint32_t)i});
    }
}

static struct world *world_new(const struct plan *plan)
{
    struct dip_scheduler_limits limits = {.request_count_max = QUEUE,
                                          .image_count_max = 4 * QUEUE,
                                          .member_count_max = MEMBERS_MAX,
                                          .token_count_max = TOKENS_MAX,
                                          .attempt_count_max = 2,
                                          .tenant_count_max = TENANTS};
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->events = calloc(EVENTS_MAX, sizeof *w->events);
    w->requests = calloc(REQUESTS_MAX, sizeof *w->requests);
    assert_true(w->events && w->requests);
    w->plan = plan;
    w->now_ns = SECOND_NS;
    w->tick_ns = INT64_MAX;
    w->random = 1;
    assert_int_equal(dip_scheduler_new(&limits, &w->s), DIP_OK);
    for (int i = 0; i < TENANTS; i++)
        if (plan->weights[i] > 0)
            dip_scheduler_set_weight(w->s, (uint32_t)i, plan->weights[i]);
    join_all(w);
    return w;
}

static void world_free(struct world *w)
{
    dip_scheduler_free(w->s);
    free(w->events);
    free(w->requests);
    free(w);
}

static void turn(struct world *w, double rate)
{
    struct event event = pop(w);
    uint64_t told;
    w->now_ns = event.at_ns;
    switch (event.kind) {
    case EVENT_ARRIVE:
        if (event.id != w->phase)
            break;
        push(w, EVENT_ARRIVE, w->now_ns + 1 + (int64_t)draw(w, (uint64_t)(2e9 / rate)), w->phase);
        ask(w, NOBODY, NULL);
        break;
    case EVENT_AGAIN:
        told = event.id / CLIENTS_MAX;
        ask(w, (int)(event.id % CLIENTS_MAX), told > 0 ? &w->requests[told - 1] : NULL);
        break;
    case EVENT_JOB:
        job_go(w, event.id);
        break;
    case EVENT_SHRINK:
        lose_half(w);
        break;
    case EVENT_TICK:
        w->tick_ns = INT64_MAX;
        feed(w, (struct dip_message){.kind = DIP_MESSAGE_TICK});
        break;
    }
    int64_t wake_ns = dip_scheduler_wake_ns(w->s);
    if (wake_ns < w->tick_ns) {
        w->tick_ns = wake_ns > w->now_ns ? wake_ns : w->now_ns;
        push(w, EVENT_TICK, w->tick_ns, 0);
    }
}

/* Three seconds at half of the capacity, then `rate` times of it. Counted is what ends when those
 * are past that were asked for before. */
static struct world *run(const struct plan *plan)
{
    struct world *w = world_new(plan);
    double can = capacity(w);
    w->end_ns = w->now_ns + 3 * SECOND_NS;
    w->measure_ns = INT64_MAX;
    push(w, EVENT_ARRIVE, w->now_ns, w->phase);
    while (w->now_ns < w->end_ns)
        turn(w, can / 2);
    w->phase++;
    int64_t begin_ns = w->now_ns, changes_ns = begin_ns + plan->shrink_ns;
    w->end_ns = begin_ns + plan->seconds * SECOND_NS;
    w->measure_ns = begin_ns + plan->seconds * SECOND_NS / 10;
    if (plan->shrink_ns > 0)
        push(w, EVENT_SHRINK, changes_ns, 0);
    for (int i = 0; i < plan->clients; i++)
        ask_later(w, i, (int64_t)draw(w, SECOND_NS), 0);
    if (plan->clients == 0)
        push(w, EVENT_ARRIVE, w->now_ns, w->phase);
    while (w->now_ns < w->end_ns)
        turn(w, can * plan->rate);
    changes_ns = plan->shrink_ns > 0 ? changes_ns : w->end_ns;
    w->could = can * (double)(changes_ns - w->measure_ns) / 1e9 +
               capacity(w) * (double)(w->end_ns - changes_ns) / 1e9;
    return w;
}

/* In percent. */
static double late(const struct world *w)
{
    int all = w->counts.late + w->counts.in_time;
    return all > 0 ? 100.0 * w->counts.late / all : 100;
}

static double used(const struct world *w)
{
    return 100 * w->counts.work / w->could;
}

static double eta_error(const struct world *w)
{
    return w->wait_error_count > 0 ? 100 * w->wait_error / w->wait_error_count : 100;
}

/* What it came to stands in the log whether or not it is enough. */
static struct world *run_well(const char *name, const struct plan *plan, double late_most,
                              double used_least)
{
    struct world *w = run(plan);
    print_message("%s: %.2f %% late, %.1f %% of the capacity, estimates off by %.0f %%\n", name,
                  late(w), used(w), eta_error(w));
    assert_true(late(w) <= late_most);
    assert_true(used(w) >= used_least);
    return w;
}

static void run_and_free(const char *name, const struct plan *plan)
{
    world_free(run_well(name, plan, 1, 95));
}

/* ---- plans ---- */

#define BOTH (DIP_ROLE_AR | DIP_ROLE_DIFFUSION)

/* Two workers with four slots of each panel, whose device does one picture at a time: 83 a second.
 */
static struct plan pictures_are_slow(void)
{
    return (struct plan){.kinds = {{.count = 2,
                                    .roles = BOTH,
                                    .ar_slots = 4,
                                    .hinge_slots = 8,
                                    .diffusion_slots = 4,
                                    .prefill_ns = 10 * MS_NS,
                                    .token_ns = MS_NS / 2,
                                    .step_ns = 5 * MS_NS,
                                    .vae_ns = 4 * MS_NS,
                                    .ar_share = 0.25,
                                    .diffusion_share = 1}},
                         .rate = 10,
                         .seconds = 60,
                         .tokens = 64,
                         .steps = 4,
                         .deadline_ns = 2 * SECOND_NS,
                         .tenants = 1};
}

/* The same with tokens that take four times as long, and pictures a third. */
static struct plan tokens_are_slow(void)
{
    struct plan plan = pictures_are_slow();
    plan.is_ar_bound = true;
    plan.kinds[0].token_ns *= 4;
    plan.kinds[0].step_ns = 2 * MS_NS;
    plan.kinds[0].vae_ns = MS_NS;
    return plan;
}

/* Everything at once. */
static struct plan mixed(struct plan plan)
{
    plan.deadline_more_ns = 8 * SECOND_NS;
    plan.has_priorities = true;
    plan.tenants = 4;
    plan.images_more = 3;
    plan.steps_more = 8;
    return plan;
}

/* ---- tests ---- */

/* All hinges are kept, so that no token is drawn before a picture has left: that was taken for a
 * panel of which nothing is known, and everybody was let in. */
static void nobody_is_late_for_pictures(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    struct world *w = run_well("pictures", &plan, 0.5, 98);
    assert_true(eta_error(w) < 5);
    world_free(w);
    plan.images_more = 3;
    run_and_free("several pictures", &plan);
}

static void nobody_is_late_for_tokens(void **state)
{
    (void)state;
    struct plan plan = tokens_are_slow();
    struct world *w = run_well("tokens", &plan, 0.5, 98);
    assert_true(eta_error(w) < 5);
    world_free(w);
    plan.kinds[0].ar_share = 1;
    run_and_free("tokens one by one", &plan);
}

/* A neighbour costs nothing: what the coordinator thinks of a batch is not what the device does. */
static void a_device_may_have_room_for_all(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.kinds[0].step_ns = 20 * MS_NS;
    plan.kinds[0].vae_ns = 0;
    plan.kinds[0].ar_share = plan.kinds[0].diffusion_share = 0;
    run_and_free("room for all", &plan);
}

/* One worker, seconds for a picture: what a laptop does. */
static void one_slow_worker_is_enough(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.kinds[0].count = plan.kinds[0].ar_slots = plan.kinds[0].diffusion_slots = 1;
    plan.kinds[0].hinge_slots = 2;
    plan.kinds[0].step_ns = SECOND_NS;
    plan.kinds[0].token_ns = 50 * MS_NS;
    plan.deadline_ns = 60 * SECOND_NS;
    plan.seconds = 1000;
    run_and_free("one worker", &plan);
}

/* A deadline hardly longer than the work: less can be promised, and that is kept. */
static void little_time_is_enough_or_none(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.deadline_ns = 125 * MS_NS;
    world_free(run_well("125 ms", &plan, 1, 50));
    plan.deadline_ns = 200 * MS_NS;
    run_and_free("200 ms", &plan);
}

static void shares_are_those_of_the_weights(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.tenants = 4;
    plan.weights[1] = 3;
    struct world *w = run_well("tenants", &plan, 1, 95);
    for (int i = 0; i < 4; i++) {
        int share = 60 * w->counts.by_tenant[i] / w->counts.in_time;
        assert_in_range(share, i == 1 ? 28 : 9, i == 1 ? 31 : 11);
    }
    world_free(w);
}

/* What is less urgent is refused, not admitted and then passed by. */
static void priorities_are_decided_at_the_door(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.has_priorities = true;
    struct world *w = run_well("priorities", &plan, 1, 95);
    assert_true(w->counts.by_priority[DIP_PRIORITY_INTERACTIVE] * 100 > w->counts.in_time * 95);
    world_free(w);
}

/* Who comes later and has less time goes first, but makes nobody late. */
static void everything_at_once_keeps_its_promises(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.deadline_more_ns = 8 * SECOND_NS;
    run_and_free("deadlines", &plan);
    plan = mixed(pictures_are_slow());
    run_and_free("mixed pictures", &plan);
    plan = mixed(tokens_are_slow());
    run_and_free("mixed tokens", &plan);
}

/* One that is much slower than the others gets what it can do in time. */
static void speeds_may_differ(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.kinds[1] = plan.kinds[0];
    plan.kinds[1].count = 1;
    plan.kinds[1].step_ns *= 4;
    plan.kinds[1].vae_ns *= 4;
    plan.kinds[1].token_ns *= 4;
    run_and_free("a slow worker", &plan);
    plan.kinds[1].roles = DIP_ROLE_DIFFUSION;
    plan.kinds[1].step_ns *= 5;
    plan.kinds[1].vae_ns *= 5;
    run_and_free("a sick painter", &plan);
    plan = pictures_are_slow();
    plan.kinds[1] = plan.kinds[0];
    plan.kinds[1].count = 1;
    plan.kinds[1].roles = DIP_ROLE_AR;
    plan.kinds[1].token_ns *= 20;
    run_and_free("a sick drawer", &plan);
}

/* Half of the workers are lost: of those who wait some are late, whatever is done; the others are
 * not, and what is left of the cluster works for them. */
static void a_pool_may_shrink(void **state)
{
    (void)state;
    struct plan plan = pictures_are_slow();
    plan.kinds[0].count = 8;
    plan.shrink_ns = 20 * SECOND_NS;
    plan.seconds = 40;
    world_free(run_well("half is lost", &plan, 2, 95));
}

/* Six hundred clients, or two hundred, want a picture each, again and again, and wait as they are
 * told. */
static void who_comes_when_told_is_let_in(void **state)
{
    (void)state;
    for (int clients = 200; clients <= 600; clients += 400) {
        struct plan plan = pictures_are_slow();
        plan.clients = clients;
        struct world *w = run_well("clients", &plan, 1, 95);
        print_message("told to come again: %d, admitted then: %d\n", w->counts.told,
                      w->counts.told_admitted);
        assert_true(w->counts.told > 1000);
        assert_true(w->counts.told_admitted * 100 >= w->counts.told * 95);
        world_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_is_late_for_pictures),
        cmocka_unit_test(nobody_is_late_for_tokens),
        cmocka_unit_test(a_device_may_have_room_for_all),
        cmocka_unit_test(one_slow_worker_is_enough),
        cmocka_unit_test(little_time_is_enough_or_none),
        cmocka_unit_test(shares_are_those_of_the_weights),
        cmocka_unit_test(priorities_are_decided_at_the_door),
        cmocka_unit_test(everything_at_once_keeps_its_promises),
        cmocka_unit_test(speeds_may_differ),
        cmocka_unit_test(a_pool_may_shrink),
        cmocka_unit_test(who_comes_when_told_is_let_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
