/* cli/bench_decide.c - `bench control`: the scheduler alone, fed with what a busy cluster says.
 *
 * A fifth of the workers draws, eight images at a time; the others paint, two at a time. All slots
 * are taken and QUEUE images wait; whenever a request ends the next one comes, of one of eight
 * tenants and three priorities. One sample is one message fed and all of its actions taken. */
#include "cli/bench_decide.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cluster/cluster.h"

enum {
    QUEUE = 10000,
    TOKENS = 729,
    STEPS = 20,
    AR_SLOTS = 8,
    DIFFUSION_SLOTS = 2,
    MESSAGES = 200000,
    ROUNDS = 5,
    SAMPLE_NS_MAX = 1 << 20,
};

struct job {
    uint64_t id;
    uint32_t member;
    bool is_ar;
    int done;
};

struct decide {
    struct dip_scheduler *scheduler;
    struct job *jobs;
    int job_count, job_max, cursor;
    uint64_t request_id, random;
    int64_t now_ns;    /* simulated */
    int owed;          /* requests that ended: so many more are to come */
    uint32_t *samples; /* [SAMPLE_NS_MAX] by ns; NULL = not measuring */
    int64_t fed;
};

static void act(struct decide *d, const struct dip_action *action)
{
    if (action->kind == DIP_ACTION_ENDED) {
        d->owed++;
        return;
    }
    if (action->kind != DIP_ACTION_AR && action->kind != DIP_ACTION_DIFFUSION)
        return;
    if (d->job_count < d->job_max)
        d->jobs[d->job_count++] = (struct job){
            .id = action->job_id, .member = action->member, .is_ar = action->kind == DIP_ACTION_AR};
}

static void feed(struct decide *d, const struct dip_message *m)
{
    static struct dip_action actions[64];
    int count = 0;
    int64_t begin_ns = dip_clock_now_ns();
    dip_scheduler_feed(d->scheduler, d->now_ns, m);
    while (count < 64 && dip_scheduler_next(d->scheduler, &actions[count]))
        count++;
    int64_t took_ns = dip_clock_now_ns() - begin_ns;
    struct dip_action more;
    while (count == 64 && dip_scheduler_next(d->scheduler, &more))
        act(d, &more);
    for (int i = 0; i < count; i++)
        act(d, &actions[i]);
    if (!d->samples)
        return;
    d->fed++;
    d->samples[took_ns < SAMPLE_NS_MAX ? took_ns : SAMPLE_NS_MAX - 1]++;
}

static uint64_t draw(struct decide *d, uint64_t below)
{
    d->random = d->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (d->random >> 33) % below;
}

static void submit(struct decide *d)
{
    struct dip_message m = {.kind = DIP_MESSAGE_SUBMIT, .request_id = ++d->request_id};
    m.as.submit.image_count = 1;
    m.as.submit.token_count = TOKENS;
    m.as.submit.step_count = STEPS;
    m.as.submit.priority = (enum dip_priority)draw(d, 3);
    m.as.submit.tenant = (uint32_t)draw(d, 8);
    if (draw(d, 2))
        m.as.submit.deadline_ns = d->now_ns + (int64_t)(1 + draw(d, 1000)) * 3600 * DIP_SECOND_NS;
    feed(d, &m);
}

/* Another worker says how far another job is. */
static void advance(struct decide *d)
{
    d->now_ns += 1000;
    d->cursor = (int)draw(d, (uint64_t)d->job_count);
    struct job *job = &d->jobs[d->cursor];
    struct dip_message m = {.from = job->member, .job_id = job->id};
    bool is_over = false;
    if (job->is_ar && job->done < TOKENS) {
        m.kind = DIP_MESSAGE_TOKENS;
        m.as.tokens.first = job->done;
        m.as.tokens.count = TOKENS - job->done < 32 ? TOKENS - job->done : 32;
        job->done += m.as.tokens.count;
    } else if (job->is_ar) {
        m.kind = DIP_MESSAGE_HINGE_READY;
        m.as.hinge_ready.prefill_ns = 20 * DIP_MS_NS;
        is_over = true;
    } else if (job->done < STEPS) {
        m.kind = DIP_MESSAGE_STEP;
        m.as.step.steps_done = ++job->done;
        m.as.step.step_ns = (20 + (int64_t)(job->member % 10)) * DIP_MS_NS;
    } else if (job->done == STEPS) {
        m.kind = DIP_MESSAGE_DECODED;
        job->done++;
    } else {
        m.kind = DIP_MESSAGE_IMAGE;
        is_over = true;
    }
    if (is_over)
        *job = d->jobs[--d->job_count];
    feed(d, &m);
    for (; d->owed > 0; d->owed--)
        submit(d);
}

static void join_all(struct decide *d, int workers)
{
    for (int i = 1; i <= workers; i++) {
        bool is_ar = i % 5 == 0;
        struct dip_message m = {.kind = DIP_MESSAGE_JOINED, .from = (uint32_t)i};
        m.as.joined.roles = is_ar ? DIP_ROLE_AR : DIP_ROLE_DIFFUSION;
        m.as.joined.ar_slots = is_ar ? AR_SLOTS : 0;
        m.as.joined.hinge_slots = is_ar ? 4 * AR_SLOTS : 0;
        m.as.joined.diffusion_slots = is_ar ? 0 : DIFFUSION_SLOTS;
        feed(d, &m);
    }
}

static enum dip_status decide_new(struct decide *d, int workers)
{
    d->job_max = workers * AR_SLOTS;
    int images = QUEUE + workers * (AR_SLOTS + DIFFUSION_SLOTS);
    struct dip_scheduler_limits limits = {.request_count_max = images,
                                          .image_count_max = images,
                                          .member_count_max = workers + 1,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = 2};
    DIP_TRY(dip_scheduler_new(&limits, &d->scheduler));
    d->jobs = calloc((size_t)d->job_max, sizeof *d->jobs);
    d->samples = NULL;
    return d->jobs ? DIP_OK : DIP_NO_MEMORY;
}

static double percentile_us(const struct decide *d, int percent)
{
    int64_t rank = d->fed * percent / 100;
    int ns = 0;
    while (ns < SAMPLE_NS_MAX - 1 && (rank -= d->samples[ns]) > 0)
        ns++;
    return ns / 1e3;
}

/* Median and p99 in us, each of its best round. Not the mean: on a machine that others use as well
 * it is made of the few samples in which the process was not running. */
static enum dip_status measure(int workers, double ret_us[2])
{
    struct decide d = {.random = 1, .now_ns = DIP_SECOND_NS};
    uint32_t *samples = calloc(SAMPLE_NS_MAX, sizeof *samples);
    enum dip_status status = samples ? decide_new(&d, workers) : DIP_NO_MEMORY;
    if (status)
        goto out;
    join_all(&d, workers);
    while (dip_scheduler_stats(d.scheduler).ar_waiting < QUEUE)
        submit(&d);
    for (int i = 0; i < MESSAGES + 100 * workers; i++) /* until both panels are busy */
        advance(&d);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SAMPLE_NS_MAX; i++)
            samples[i] = 0;
        d.samples = samples;
        d.fed = 0;
        for (int i = 0; i < MESSAGES; i++)
            advance(&d);
        double us[2] = {percentile_us(&d, 50), percentile_us(&d, 99)};
        for (int i = 0; i < 2; i++)
            ret_us[i] = round == 0 || us[i] < ret_us[i] ? us[i] : ret_us[i];
    }
out:
    dip_scheduler_free(d.scheduler);
    free(d.jobs);
    free(samples);
    return status;
}

/* Of one queued request of one image: what a scheduler with room for it sets aside more. */
static enum dip_status measure_bytes(double *ret_kib)
{
    size_t bytes[2] = {0, 0};
    static const int counts[2] = {1 << 12, 1 << 14};
    for (int i = 0; i < 2; i++) {
        struct dip_scheduler_limits limits = {.request_count_max = counts[i],
                                              .image_count_max = counts[i],
                                              .member_count_max = 2,
                                              .token_count_max = TOKENS,
                                              .attempt_count_max = 2};
        struct dip_scheduler *scheduler = NULL;
        DIP_TRY(dip_scheduler_new(&limits, &scheduler));
        bytes[i] = dip_scheduler_bytes(scheduler);
        dip_scheduler_free(scheduler);
    }
    *ret_kib = (double)(bytes[1] - bytes[0]) / (counts[1] - counts[0]) / 1024;
    return DIP_OK;
}

enum dip_status dip__bench_decide(void (*on_row)(void *context, const struct dip_bench_row *row),
                                  void *context, struct dip_why *why)
{
    static const struct {
        int workers;
        const char *median, *p99;
    } rows[] = {{100, "control.decide.w100", "control.decide.w100.p99"},
                {1000, "control.decide.w1000", "control.decide.w1000.p99"},
                {10000, "control.decide.w10000", "control.decide.w10000.p99"}};
    const double aim_us = 20;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double us[2] = {0, 0};
        if (measure(rows[i].workers, us))
            return dip_fail(why, DIP_NO_MEMORY, "no memory for %d workers", rows[i].workers);
        on_row(context, &(struct dip_bench_row){rows[i].median, us[0], "us", aim_us, aim_us / us[0],
                                                us[0], ROUNDS, "10,000 images queued"});
        on_row(context, &(struct dip_bench_row){rows[i].p99, us[1], "us", aim_us, aim_us / us[1],
                                                us[1], ROUNDS, "bound: the aim"});
    }
    double kib = 0;
    if (measure_bytes(&kib))
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the scheduler");
    on_row(context, &(struct dip_bench_row){"control.reserved", kib, "KiB", kib, 1, kib, 1,
                                            "the scheduler's share of one queued request"});
    return DIP_OK;
}
