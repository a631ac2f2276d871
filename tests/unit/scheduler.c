/* tests/unit/scheduler.c - the scheduler driven by messages only: the life of one request, and long
 * random histories of many requests and failing workers with the promises checked after every step.
 *
 * The random half plays every worker itself: it keeps what a member was told, answers with the
 * events a real one would send, loses members at any moment and delivers events of dead jobs late.
 * One seed is one history; a failure prints the seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "cluster/cluster.h"

enum { TOKENS = 40, STEPS = 6 };

static struct dip_scheduler *scheduler_new(int requests, int images, int members)
{
    struct dip_scheduler_limits limits = {.request_count_max = requests,
                                          .image_count_max = images,
                                          .member_count_max = members,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = 1000};
    struct dip_scheduler *s = NULL;
    assert_int_equal(dip_scheduler_new(&limits, &s), DIP_OK);
    return s;
}

static struct dip_message submit(uint64_t request_id, int images)
{
    return (struct dip_message){
        .kind = DIP_MESSAGE_SUBMIT,
        .request_id = request_id,
        .as.submit = {.image_count = images, .token_count = TOKENS, .step_count = STEPS}};
}

static struct dip_message joined(uint32_t from, uint32_t roles, int slots)
{
    return (struct dip_message){
        .kind = DIP_MESSAGE_JOINED,
        .from = from,
        .as.joined = {
            .roles = roles, .ar_slots = slots, .hinge_slots = 2 * slots, .diffusion_slots = slots}};
}

/* ---- one request, step by step ---- */

/* Feeds and collects the actions. */
struct turn {
    struct dip_action actions[64];
    int count;
};

static void feed(struct dip_scheduler *s, int64_t now_ns, struct dip_message message,
                 struct turn *turn)
{
    dip_scheduler_feed(s, now_ns, &message);
    turn->count = 0;
    while (dip_scheduler_next(s, &turn->actions[turn->count]))
        assert_true(++turn->count < 64);
}

static const struct dip_action *find(const struct turn *turn, enum dip_action_kind kind)
{
    for (int i = 0; i < turn->count; i++)
        if (turn->actions[i].kind == kind)
            return &turn->actions[i];
    return NULL;
}

static struct dip_message event(enum dip_message_kind kind, uint32_t from, uint64_t job_id)
{
    return (struct dip_message){.kind = kind, .from = from, .job_id = job_id};
}

static struct dip_message tokens(uint32_t from, uint64_t job_id, int first, int count)
{
    struct dip_message m = event(DIP_MESSAGE_TOKENS, from, job_id);
    m.as.tokens.first = first;
    m.as.tokens.count = count;
    for (int i = 0; i < count; i++)
        m.as.tokens.ids[i] = 1000 + first + i;
    return m;
}

static void one_request_runs_to_its_end(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(4, 4, 2);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 2), &turn);
    feed(s, 100, submit(7, 1), &turn);
    assert_int_equal(turn.actions[0].kind, DIP_ACTION_ADMITTED);
    uint64_t ar = find(&turn, DIP_ACTION_AR)->job_id;

    feed(s, 110, event(DIP_MESSAGE_PREFILLED, 1, ar), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_PROGRESS)->stage, DIP_STAGE_DECODE);
    feed(s, 120, tokens(1, ar, 0, 30), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_PROGRESS)->done, 30);
    feed(s, 130, tokens(1, ar, 30, 10), &turn);
    struct dip_message ready = event(DIP_MESSAGE_HINGE_READY, 1, ar);
    ready.as.hinge_ready.prefill_ns = 5;
    ready.as.hinge_ready.decode_ns = 25;
    feed(s, 140, ready, &turn);
    uint64_t diffusion = find(&turn, DIP_ACTION_DIFFUSION)->job_id;
    assert_int_equal(find(&turn, DIP_ACTION_HAND_OVER)->job_id, ar);
    assert_int_equal(find(&turn, DIP_ACTION_HAND_OVER)->to_job_id, diffusion);

    feed(s, 150, event(DIP_MESSAGE_CONDITIONED, 1, diffusion), &turn);
    for (int i = 1; i <= STEPS; i++) {
        struct dip_message step = event(DIP_MESSAGE_STEP, 1, diffusion);
        step.as.step.steps_done = i;
        feed(s, 150 + i, step, &turn);
        assert_int_equal(find(&turn, DIP_ACTION_PROGRESS)->done, i);
    }
    feed(s, 160, event(DIP_MESSAGE_DECODED, 1, diffusion), &turn);
    assert_int_equal(dip_scheduler_member(s, 1).diffusion_live, 0);
    feed(s, 170, event(DIP_MESSAGE_IMAGE, 1, diffusion), &turn);
    const struct dip_action *image = find(&turn, DIP_ACTION_IMAGE);
    assert_int_equal(image->done, TOKENS);
    assert_int_equal(image->timings.stage_ns[DIP_STAGE_PREFILL], 5);
    assert_int_equal(image->timings.stage_ns[DIP_STAGE_HINGE], 10);
    assert_int_equal(image->timings.total_ns, 70);
    assert_int_equal(find(&turn, DIP_ACTION_RELEASE)->job_id, ar);
    assert_int_equal(find(&turn, DIP_ACTION_ENDED)->status, DIP_OK);

    feed(s, 180, event(DIP_MESSAGE_IMAGE, 1, diffusion), &turn); /* said twice, heard once */
    assert_int_equal(turn.count, 0);
    assert_int_equal(dip_scheduler_stats(s).images, 0);
    dip_scheduler_free(s);
}

static struct dip_scheduler *holding(int64_t hold_ns)
{
    struct dip_scheduler_limits limits = {.request_count_max = 4,
                                          .image_count_max = 4,
                                          .member_count_max = 4,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = 2,
                                          .hold_ns = hold_ns};
    struct dip_scheduler *s = NULL;
    assert_int_equal(dip_scheduler_new(&limits, &s), DIP_OK);
    return s;
}

/* A pool that is scaled from zero: what comes meanwhile waits, and runs once there is somebody. */
static void requests_wait_for_the_first_worker(void **state)
{
    (void)state;
    struct dip_scheduler *s = holding(100);
    struct turn turn;
    feed(s, 10, submit(1, 1), &turn);
    assert_non_null(find(&turn, DIP_ACTION_ADMITTED));
    assert_null(find(&turn, DIP_ACTION_AR));
    assert_int_equal(dip_scheduler_stats(s).held, 1);
    assert_int_equal(dip_scheduler_stats(s).ar_waiting, 1); /* what a scaler sees */
    assert_int_equal(dip_scheduler_wake_ns(s), 110);
    feed(s, 50, joined(1, DIP_ROLE_AR, 1), &turn);
    assert_non_null(find(&turn, DIP_ACTION_AR)); /* its tokens need not wait for the other panel */
    assert_int_equal(dip_scheduler_stats(s).held, 1);
    feed(s, 60, joined(2, DIP_ROLE_DIFFUSION, 1), &turn);
    assert_int_equal(dip_scheduler_stats(s).held, 0);
    feed(s, 200, event(DIP_MESSAGE_TICK, 0, 0), &turn);
    assert_null(find(&turn, DIP_ACTION_ENDED)); /* held no more: its time is its deadline */
    /* Workers that all drain are as good as none. */
    feed(s, 300, event(DIP_MESSAGE_DRAIN, 2, 0), &turn);
    feed(s, 310, submit(2, 1), &turn);
    assert_int_equal(dip_scheduler_stats(s).held, 1);
    feed(s, 320, event(DIP_MESSAGE_UNDRAIN, 2, 0), &turn);
    assert_int_equal(dip_scheduler_stats(s).held, 0);
    dip_scheduler_free(s);
}

static void nobody_waits_for_a_worker_for_ever(void **state)
{
    (void)state;
    struct dip_scheduler *s = holding(100);
    struct turn turn;
    feed(s, 10, submit(1, 2), &turn);
    feed(s, 20, submit(2, 1), &turn);
    feed(s, 109, event(DIP_MESSAGE_TICK, 0, 0), &turn);
    assert_null(find(&turn, DIP_ACTION_ENDED));
    feed(s, 110, event(DIP_MESSAGE_TICK, 0, 0), &turn);
    const struct dip_action *ended = find(&turn, DIP_ACTION_ENDED);
    assert_int_equal(ended->request_id, 1);
    assert_int_equal(ended->end, DIP_END_NO_WORKERS);
    /* One that is cancelled, and one whose own time is shorter. */
    struct dip_message cancel = {.kind = DIP_MESSAGE_CANCEL, .request_id = 2};
    feed(s, 111, cancel, &turn);
    assert_int_equal(find(&turn, DIP_ACTION_ENDED)->end, DIP_END_CANCELLED);
    struct dip_message hurried = submit(3, 1);
    hurried.as.submit.deadline_ns = 150;
    feed(s, 112, hurried, &turn);
    feed(s, 151, event(DIP_MESSAGE_TICK, 0, 0), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_ENDED)->end, DIP_END_DEADLINE);
    assert_int_equal(dip_scheduler_stats(s).held, 0);
    assert_int_equal(dip_scheduler_stats(s).requests, 0);
    assert_int_equal(dip_scheduler_wake_ns(s), INT64_MAX);
    dip_scheduler_free(s);
}

/* Refusals come at once and leave nothing behind. */
static void what_cannot_be_kept_is_refused(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(2, 3, 3);
    struct turn turn;
    feed(s, 1, submit(1, 1), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_NO_WORKERS);
    feed(s, 1, joined(1, DIP_ROLE_AR, 1), &turn);
    feed(s, 1, submit(1, 1), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_NO_WORKERS);
    feed(s, 1, joined(2, DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, submit(1, 4), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_TOO_LARGE);
    feed(s, 1, submit(1, 2), &turn);
    assert_non_null(find(&turn, DIP_ACTION_ADMITTED));
    feed(s, 1, submit(1, 1), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_DUPLICATE);
    feed(s, 1, submit(2, 2), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_QUEUE_FULL);
    feed(s, 1, submit(2, 1), &turn);
    feed(s, 1, submit(3, 1), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_QUEUE_FULL);
    assert_int_equal(dip_scheduler_stats(s).images, 3);
    dip_scheduler_free(s);
}

/* An AR worker dies in mid-image: the next one begins with the tokens already drawn. */
static void a_lost_ar_worker_costs_no_token(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(2, 2, 4);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR, 1), &turn);
    feed(s, 1, joined(3, DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, submit(9, 1), &turn);
    uint64_t first = find(&turn, DIP_ACTION_AR)->job_id;
    feed(s, 2, tokens(1, first, 0, 17), &turn);
    feed(s, 3, tokens(1, first, 20, 5), &turn); /* leaves a hole: not a place to resume from */
    feed(s, 4, event(DIP_MESSAGE_LOST, 1, 0), &turn);
    assert_non_null(find(&turn, DIP_ACTION_RETRIED));
    assert_null(find(&turn, DIP_ACTION_AR));
    feed(s, 5, joined(2, DIP_ROLE_AR, 1), &turn);
    const struct dip_action *again = find(&turn, DIP_ACTION_AR);
    assert_int_equal(again->member, 2);
    assert_int_equal(again->forced_count, 17);
    for (int i = 0; i < 17; i++)
        assert_int_equal(again->forced_ids[i], 1000 + i);
    feed(s, 6, tokens(1, first, 17, 5), &turn); /* a ghost speaks */
    assert_int_equal(turn.count, 0);
    dip_scheduler_free(s);
}

/* A diffusion worker dies: the kept hinge goes to another one, nothing is drawn again. */
static void a_lost_diffusion_worker_keeps_the_hinge(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(2, 2, 4);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR, 1), &turn);
    feed(s, 1, joined(2, DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, joined(3, DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, submit(9, 1), &turn);
    uint64_t ar = find(&turn, DIP_ACTION_AR)->job_id;
    feed(s, 2, event(DIP_MESSAGE_HINGE_READY, 1, ar), &turn);
    uint32_t member = find(&turn, DIP_ACTION_DIFFUSION)->member;
    uint64_t job_id = find(&turn, DIP_ACTION_DIFFUSION)->job_id;
    feed(s, 3, event(DIP_MESSAGE_CONDITIONED, member, job_id), &turn);
    feed(s, 4, event(DIP_MESSAGE_LOST, member, 0), &turn);
    assert_null(find(&turn, DIP_ACTION_AR));
    assert_int_equal(find(&turn, DIP_ACTION_DIFFUSION)->member, member == 2 ? 3 : 2);
    assert_int_equal(find(&turn, DIP_ACTION_HAND_OVER)->job_id, ar);
    dip_scheduler_free(s);
}

/* Once the hinge has arrived, its sender may go. */
static void a_hinge_that_arrived_needs_no_sender(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(2, 2, 3);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR, 1), &turn);
    feed(s, 1, joined(2, DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, submit(9, 1), &turn);
    feed(s, 2, event(DIP_MESSAGE_HINGE_READY, 1, find(&turn, DIP_ACTION_AR)->job_id), &turn);
    uint64_t job_id = find(&turn, DIP_ACTION_DIFFUSION)->job_id;
    feed(s, 3, event(DIP_MESSAGE_CONDITIONED, 2, job_id), &turn);
    feed(s, 4, event(DIP_MESSAGE_LOST, 1, 0), &turn);
    assert_int_equal(turn.count, 0);
    feed(s, 5, event(DIP_MESSAGE_IMAGE, 2, job_id), &turn); /* out of turn: not decoded yet */
    assert_int_equal(turn.count, 0);
    feed(s, 6, event(DIP_MESSAGE_DECODED, 2, job_id), &turn);
    feed(s, 7, event(DIP_MESSAGE_IMAGE, 2, job_id), &turn);
    assert_int_equal(find(&turn, DIP_ACTION_ENDED)->status, DIP_OK);
    dip_scheduler_free(s);
}

/* What was admitted first and lost its worker goes before what came later. */
static void a_retry_keeps_its_place(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(4, 4, 3);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR, 1), &turn);
    feed(s, 1, joined(2, DIP_ROLE_DIFFUSION, 1), &turn);
    for (uint64_t id = 1; id <= 3; id++)
        feed(s, 1, submit(id, 1), &turn);
    feed(s, 2, event(DIP_MESSAGE_LOST, 1, 0), &turn);
    for (uint64_t id = 1; id <= 3; id++) {
        struct dip_message m = joined(1, DIP_ROLE_AR, 1);
        m.as.joined.hinge_slots = 3;
        feed(s, 3, id == 1 ? m : event(DIP_MESSAGE_HINGE_READY, 1, turn.actions[0].job_id), &turn);
        while (turn.actions[0].kind != DIP_ACTION_AR)
            memmove(turn.actions, turn.actions + 1, (size_t)--turn.count * sizeof turn.actions[0]);
        assert_int_equal(turn.actions[0].request_id, id);
    }
    dip_scheduler_free(s);
}

/* The faster of two measured diffusion workers gets the next image. */
static void diffusion_goes_where_it_ends_first(void **state)
{
    (void)state;
    struct dip_scheduler *s = scheduler_new(8, 8, 3);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_DIFFUSION, 4), &turn);
    feed(s, 1, joined(2, DIP_ROLE_DIFFUSION, 4), &turn);
    struct dip_message m = submit(1, 2);
    m.as.submit.has_hidden = true;
    feed(s, 1, m, &turn);
    for (uint64_t i = 0; i < 2; i++) { /* one each: neither was measured */
        struct dip_message step =
            event(DIP_MESSAGE_STEP, turn.actions[1 + i].member, turn.actions[1 + i].job_id);
        assert_int_equal(turn.actions[1 + i].kind, DIP_ACTION_DIFFUSION);
        step.as.step.steps_done = 1;
        step.as.step.step_ns = step.from == 1 ? 1000 : 10;
        struct turn ignored;
        feed(s, 2, step, &ignored);
    }
    m.request_id = 2;
    feed(s, 3, m, &turn);
    assert_int_equal(find(&turn, DIP_ACTION_DIFFUSION)->member, 2);
    dip_scheduler_free(s);
}

/* ---- random histories ---- */

enum { MEMBERS = 5, REQUESTS = 6, IMAGES = 10, JOBS_MAX = 4096, SUBMITS = 400 };

enum job_stage {
    JOB_NONE,
    JOB_AR,
    JOB_HINGE_KEPT,
    JOB_DIFFUSION_NO_HINGE,
    JOB_DIFFUSION,
    JOB_ENCODING
};

struct played_job {
    enum job_stage stage;
    uint32_t member;
    uint64_t id;
    int done;
    int hinge_tokens;
};

struct played_request {
    bool is_submitted, is_ended, is_admitted, is_cancelled;
    int image_count;
    bool has_image[IMAGES];
};

struct play {
    struct dip_scheduler *s;
    uint64_t seed, draws;
    int64_t now_ns;
    bool is_up[MEMBERS];
    int slots[MEMBERS];
    struct played_job jobs[JOBS_MAX];
    int job_count;
    struct played_request requests[SUBMITS + 1];
    int submit_count, ended_count;
};

static unsigned draw(struct play *p, unsigned below)
{
    struct dip_rng_key key = {.seed = p->seed, .purpose = DIP_RNG_TEST};
    uint32_t words[4];
    dip_rng_words(&key, p->draws++, words);
    return words[0] % below;
}

#define require(p, condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            print_error("seed %llu, draw %llu: %s\n", (unsigned long long)(p)->seed,               \
                        (unsigned long long)(p)->draws, #condition);                               \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

static struct played_job *job_find(struct play *p, uint32_t member, uint64_t id)
{
    for (int i = 0; i < p->job_count; i++)
        if (p->jobs[i].stage != JOB_NONE && p->jobs[i].id == id && p->jobs[i].member == member)
            return &p->jobs[i];
    return NULL;
}

static int live_count(struct play *p, uint32_t member, enum job_stage from, enum job_stage to)
{
    int count = 0;
    for (int i = 0; i < p->job_count; i++)
        count += p->jobs[i].member == member && p->jobs[i].stage >= from && p->jobs[i].stage <= to;
    return count;
}

static void job_add(struct play *p, enum job_stage stage, const struct dip_action *a, int done)
{
    require(p, a->member > 0 && a->member < MEMBERS && p->is_up[a->member]);
    require(p, !job_find(p, a->member, a->job_id));
    int index = 0;
    while (index < p->job_count && p->jobs[index].stage != JOB_NONE)
        index++;
    require(p, index < JOBS_MAX);
    if (index == p->job_count)
        p->job_count++;
    p->jobs[index] =
        (struct played_job){.stage = stage, .member = a->member, .id = a->job_id, .done = done};
    /* No member is ever given more than it said it can hold. */
    require(p, live_count(p, a->member, JOB_AR, JOB_AR) <= p->slots[a->member]);
    require(p, live_count(p, a->member, JOB_AR, JOB_HINGE_KEPT) <= 2 * p->slots[a->member]);
    require(p,
            live_count(p, a->member, JOB_DIFFUSION_NO_HINGE, JOB_DIFFUSION) <= p->slots[a->member]);
}

static void carry_out(struct play *p, const struct dip_action *a)
{
    struct played_request *request = &p->requests[a->request_id <= SUBMITS ? a->request_id : 0];
    struct played_job *job = NULL;
    if (a->kind >= DIP_ACTION_ADMITTED || a->kind == DIP_ACTION_AR ||
        a->kind == DIP_ACTION_DIFFUSION)
        require(p, request->is_submitted && !request->is_ended);
    switch (a->kind) {
    case DIP_ACTION_AR:
        for (int i = 0; i < a->forced_count; i++)
            require(p, a->forced_ids[i] == 1000 + i);
        job_add(p, JOB_AR, a, a->forced_count);
        break;
    case DIP_ACTION_DIFFUSION:
        job_add(p, JOB_DIFFUSION_NO_HINGE, a, 0);
        break;
    case DIP_ACTION_HAND_OVER:
        job = job_find(p, a->member, a->job_id);
        require(p, job && job->stage == JOB_HINGE_KEPT); /* the hinge is where it is sought */
        job = job_find(p, a->to_member, a->to_job_id);
        require(p, job && job->stage == JOB_DIFFUSION_NO_HINGE);
        job->stage = JOB_DIFFUSION;
        break;
    case DIP_ACTION_RELEASE:
        require(p, p->is_up[a->member]);
        job = job_find(p, a->member, a->job_id);
        require(p, job != NULL);
        job->stage = JOB_NONE;
        break;
    case DIP_ACTION_ADMITTED:
        require(p, !request->is_admitted);
        request->is_admitted = true;
        break;
    case DIP_ACTION_IMAGE:
        require(p, !request->has_image[a->image_index]); /* once */
        request->has_image[a->image_index] = true;
        break;
    case DIP_ACTION_ENDED:
        require(p, request->is_admitted);
        require(p, (a->status == DIP_CANCELLED) == request->is_cancelled);
        for (int i = 0; i < request->image_count && a->status == DIP_OK; i++)
            require(p, request->has_image[i]);
        request->is_ended = true;
        p->ended_count++;
        break;
    case DIP_ACTION_REFUSED:
        require(p, !request->is_admitted);
        request->is_ended = true;
        p->ended_count++;
        break;
    default:
        require(p, request->is_admitted);
        break;
    }
}

/* What the scheduler believes about every member is what the members know. */
static void check_books(struct play *p)
{
    for (uint32_t i = 1; i < MEMBERS; i++) {
        struct dip_member_stats stats = dip_scheduler_member(p->s, i);
        require(p, stats.is_alive == p->is_up[i]);
        require(p, stats.ar_live == live_count(p, i, JOB_AR, JOB_AR));
        require(p, stats.hinges == live_count(p, i, JOB_AR, JOB_HINGE_KEPT));
        require(p, stats.diffusion_live == live_count(p, i, JOB_DIFFUSION_NO_HINGE, JOB_DIFFUSION));
        require(p, stats.backlog_steps >= 0 && stats.backlog_steps <= stats.diffusion_live * STEPS);
    }
}

static void play_feed(struct play *p, const struct dip_message *m)
{
    p->now_ns += 1 + draw(p, 1000);
    dip_scheduler_feed(p->s, p->now_ns, m);
    struct dip_action action;
    while (dip_scheduler_next(p->s, &action))
        carry_out(p, &action);
    check_books(p);
}

static void member_join(struct play *p, uint32_t member)
{
    p->is_up[member] = true;
    p->slots[member] = 1 + (int)draw(p, 3);
    static const uint32_t roles[MEMBERS] = {0, DIP_ROLE_AR, DIP_ROLE_DIFFUSION,
                                            DIP_ROLE_AR | DIP_ROLE_DIFFUSION, DIP_ROLE_DIFFUSION};
    struct dip_message m = joined(member, roles[member], p->slots[member]);
    play_feed(p, &m);
}

static void member_lose(struct play *p, uint32_t member)
{
    p->is_up[member] = false;
    for (int i = 0; i < p->job_count; i++)
        if (p->jobs[i].member == member)
            p->jobs[i].stage = JOB_NONE;
    struct dip_message m = event(DIP_MESSAGE_LOST, member, 0);
    play_feed(p, &m);
}

static void request_submit(struct play *p)
{
    if (p->submit_count == SUBMITS)
        return;
    uint64_t id = (uint64_t)++p->submit_count;
    struct dip_message m = submit(id, 1 + (int)draw(p, 4));
    m.as.submit.has_hidden = draw(p, 5) == 0;
    p->requests[id].is_submitted = true;
    p->requests[id].image_count = m.as.submit.image_count;
    play_feed(p, &m);
}

static void request_cancel(struct play *p)
{
    uint64_t id = 1 + draw(p, SUBMITS);
    if (p->requests[id].is_admitted && !p->requests[id].is_ended)
        p->requests[id].is_cancelled = true;
    struct dip_message m = {.kind = DIP_MESSAGE_CANCEL, .request_id = id};
    play_feed(p, &m);
}

/* One member advances one of its jobs, as its engine would. */
static void job_advance(struct play *p)
{
    if (p->job_count == 0)
        return;
    struct played_job *job = &p->jobs[draw(p, (unsigned)p->job_count)];
    struct dip_message m;
    int batch = 0;
    switch (job->stage) {
    case JOB_AR:
        batch = 1 + (int)draw(p, 12);
        batch = batch > TOKENS - job->done ? TOKENS - job->done : batch;
        if (batch > 0) {
            m = tokens(job->member, job->id, job->done, batch);
            job->done += batch;
        } else {
            m = event(DIP_MESSAGE_HINGE_READY, job->member, job->id);
            job->stage = JOB_HINGE_KEPT;
        }
        break;
    case JOB_DIFFUSION_NO_HINGE: /* the client brought the hidden states */
    case JOB_DIFFUSION:
        if (job->done == STEPS) {
            m = event(DIP_MESSAGE_DECODED, job->member, job->id);
            job->stage = JOB_ENCODING;
        } else if (job->done == 0 && draw(p, 2)) {
            m = event(DIP_MESSAGE_CONDITIONED, job->member, job->id);
        } else {
            m = event(DIP_MESSAGE_STEP, job->member, job->id);
            m.as.step.steps_done = ++job->done;
            m.as.step.step_ns = 1 + draw(p, 100000);
            m.as.step.batch = (int32_t)draw(p, 12);
            m.as.step.room = (int32_t)draw(p, 4);
        }
        break;
    case JOB_ENCODING:
        m = event(DIP_MESSAGE_IMAGE, job->member, job->id);
        job->stage = JOB_NONE;
        break;
    default:
        return;
    }
    play_feed(p, &m);
}

/* An event of some job, alive or long gone, from a member that may not own it. Progress only: what
 * a member may say about a job it does not have must not matter. */
static void ghost_speak(struct play *p)
{
    static const enum dip_message_kind kinds[] = {DIP_MESSAGE_PREFILLED,   DIP_MESSAGE_HINGE_READY,
                                                  DIP_MESSAGE_CONDITIONED, DIP_MESSAGE_DECODED,
                                                  DIP_MESSAGE_IMAGE,       DIP_MESSAGE_FAILED};
    uint64_t id = ((uint64_t)draw(p, 2000) << 20) | draw(p, 2 * IMAGES);
    if (p->job_count > 0 && draw(p, 2))
        id = p->jobs[draw(p, (unsigned)p->job_count)].id;
    uint32_t member = draw(p, MEMBERS + 2);
    if (job_find(p, member, id))
        return;
    struct dip_message m = event(kinds[draw(p, 6)], member, id);
    play_feed(p, &m);
}

static void history(uint64_t seed)
{
    struct play *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->seed = seed;
    p->s = scheduler_new(REQUESTS, IMAGES, MEMBERS);
    for (int i = 0; i < 6000; i++) {
        unsigned dice = draw(p, 100);
        uint32_t member = 1 + draw(p, MEMBERS - 1);
        if (dice < 6)
            request_submit(p);
        else if (dice < 8)
            request_cancel(p);
        else if (dice < 11)
            ghost_speak(p);
        else if (dice == 11 && draw(p, 4) == 0)
            member_lose(p, member);
        else if (dice < 14 && (!p->is_up[member] || draw(p, 20) == 0)) {
            for (int j = 0; j < p->job_count; j++) /* a restart forgets */
                if (p->jobs[j].member == member)
                    p->jobs[j].stage = JOB_NONE;
            member_join(p, member);
        } else
            job_advance(p);
    }
    for (uint32_t i = 1; i < MEMBERS; i++) /* from here on nobody dies: now an end is owed */
        if (!p->is_up[i])
            member_join(p, i);
    for (int i = 0; i < 200000 && p->ended_count < p->submit_count; i++)
        job_advance(p);
    require(p, p->ended_count == p->submit_count);
    require(p, p->submit_count > 100);
    require(p, dip_scheduler_stats(p->s).images == 0);
    require(p, dip_scheduler_stats(p->s).requests == 0);
    for (uint32_t i = 1; i < MEMBERS; i++) {
        struct dip_member_stats stats = dip_scheduler_member(p->s, i);
        require(p, stats.ar_live == 0 && stats.hinges == 0 && stats.diffusion_live == 0);
        require(p, stats.backlog_steps == 0);
        require(p, live_count(p, i, JOB_AR, JOB_ENCODING) == 0);
    }
    dip_scheduler_free(p->s);
    free(p);
}

static void random_histories_keep_the_promises(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        history(seed);
}

/* A request whose image takes down every worker it meets ends with a reason. */
static void attempts_are_bounded(void **state)
{
    (void)state;
    struct dip_scheduler_limits limits = {.request_count_max = 1,
                                          .image_count_max = 1,
                                          .member_count_max = 2,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = 3};
    struct dip_scheduler *s = NULL;
    assert_int_equal(dip_scheduler_new(&limits, &s), DIP_OK);
    struct turn turn;
    feed(s, 1, joined(1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1), &turn);
    feed(s, 1, submit(5, 1), &turn);
    int starts = 1;
    for (int i = 0; i < 10 && !find(&turn, DIP_ACTION_ENDED); i++) {
        feed(s, 2, event(DIP_MESSAGE_LOST, 1, 0), &turn);
        if (find(&turn, DIP_ACTION_ENDED))
            break;
        feed(s, 3, joined(1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1), &turn);
        starts += find(&turn, DIP_ACTION_AR) != NULL;
    }
    assert_int_equal(find(&turn, DIP_ACTION_ENDED)->status, DIP_UNREACHABLE);
    assert_int_equal(starts, 3);
    dip_scheduler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request_runs_to_its_end),
        cmocka_unit_test(requests_wait_for_the_first_worker),
        cmocka_unit_test(nobody_waits_for_a_worker_for_ever),
        cmocka_unit_test(what_cannot_be_kept_is_refused),
        cmocka_unit_test(a_lost_ar_worker_costs_no_token),
        cmocka_unit_test(a_lost_diffusion_worker_keeps_the_hinge),
        cmocka_unit_test(a_hinge_that_arrived_needs_no_sender),
        cmocka_unit_test(a_retry_keeps_its_place),
        cmocka_unit_test(diffusion_goes_where_it_ends_first),
        cmocka_unit_test(random_histories_keep_the_promises),
        cmocka_unit_test(attempts_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
