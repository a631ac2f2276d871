/* tests/unit/scheduler_order.c - who is admitted, who goes first, who is told what: deadlines,
 * priorities, shares, poison, drain and jobs that are handed back.
 *
 * A small cluster is played in simulated time: every AR worker draws a token in TOKEN_NS, every
 * diffusion worker takes STEP_NS for a step of one image. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/cluster.h"

enum { TOKENS = 32, STEPS = 4, ACTIONS_MAX = 4096, IDS_MAX = 8192, MEMBERS = 8, GIVEN_MAX = 64 };
#define MS_NS     INT64_C(1000000)
#define SECOND_NS (1000 * MS_NS)
#define TOKEN_NS  (10 * MS_NS)
#define STEP_NS   (50 * MS_NS)
#define AR_NS     (TOKENS * TOKEN_NS)
#define PAINT_NS  (STEPS * STEP_NS)

struct given {
    uint64_t request_id, job_id;
};

struct world {
    struct dip_scheduler *s;
    int64_t now_ns;
    struct dip_action actions[ACTIONS_MAX]; /* of the last feed */
    int count;
    uint64_t begun[IDS_MAX]; /* requests in the order in which an AR worker took them */
    int begun_count;
    struct given given[MEMBERS]
                      [GIVEN_MAX]; /* AR jobs that a member has not finished, by the test */
    int given_count[MEMBERS];
    int ends[DIP_END_COUNT];
};

static struct world *world_new(int images, int members, int attempts)
{
    struct dip_scheduler_limits limits = {.request_count_max = images,
                                          .image_count_max = images,
                                          .member_count_max = members,
                                          .token_count_max = TOKENS,
                                          .attempt_count_max = attempts,
                                          .tenant_count_max = 8,
                                          .age_ns = SECOND_NS};
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->now_ns = SECOND_NS;
    assert_int_equal(dip_scheduler_new(&limits, &w->s), DIP_OK);
    return w;
}

static void world_free(struct world *w)
{
    dip_scheduler_free(w->s);
    free(w);
}

static void feed(struct world *w, struct dip_message message)
{
    dip_scheduler_feed(w->s, w->now_ns, &message);
    w->count = 0;
    while (dip_scheduler_next(w->s, &w->actions[w->count])) {
        const struct dip_action *a = &w->actions[w->count];
        if (a->kind == DIP_ACTION_AR) {
            w->begun[w->begun_count++ % IDS_MAX] = a->request_id;
            w->given[a->member][w->given_count[a->member]++ % GIVEN_MAX] =
                (struct given){a->request_id, a->job_id};
        }
        if (a->kind == DIP_ACTION_ENDED)
            w->ends[a->end]++;
        assert_true(++w->count < ACTIONS_MAX);
    }
}

static const struct dip_action *find(const struct world *w, enum dip_action_kind kind)
{
    for (int i = 0; i < w->count; i++)
        if (w->actions[i].kind == kind)
            return &w->actions[i];
    return NULL;
}

static int count_of(const struct world *w, enum dip_action_kind kind)
{
    int count = 0;
    for (int i = 0; i < w->count; i++)
        count += w->actions[i].kind == kind;
    return count;
}

static void say(struct world *w, enum dip_message_kind kind, uint32_t from, uint64_t job_id)
{
    feed(w, (struct dip_message){.kind = kind, .from = from, .job_id = job_id});
}

static void tick(struct world *w)
{
    say(w, DIP_MESSAGE_TICK, 0, 0);
}

static void join(struct world *w, uint32_t from, uint32_t roles, int slots)
{
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_JOINED,
                                 .from = from,
                                 .as.joined = {.roles = roles,
                                               .ar_slots = slots,
                                               .hinge_slots = 4 * slots,
                                               .diffusion_slots = slots}});
}

static struct dip_message request(uint64_t id)
{
    return (struct dip_message){.kind = DIP_MESSAGE_SUBMIT,
                                .request_id = id,
                                .as.submit = {.image_count = 1,
                                              .token_count = TOKENS,
                                              .step_count = STEPS,
                                              .priority = DIP_PRIORITY_STANDARD}};
}

static void submit(struct world *w, uint64_t id)
{
    feed(w, request(id));
}

/* Draws all tokens of an AR job, in two batches, in the time that they take. */
static void draw_tokens(struct world *w, uint32_t from, uint64_t job_id)
{
    say(w, DIP_MESSAGE_PREFILLED, from, job_id);
    for (int first = 0; first < TOKENS; first += TOKENS / 2) {
        struct dip_message m = {.kind = DIP_MESSAGE_TOKENS, .from = from, .job_id = job_id};
        m.as.tokens.first = first;
        m.as.tokens.count = TOKENS / 2;
        w->now_ns += TOKENS / 2 * TOKEN_NS;
        feed(w, m);
    }
    say(w, DIP_MESSAGE_HINGE_READY, from, job_id);
}

static void paint(struct world *w, uint32_t from, uint64_t job_id)
{
    say(w, DIP_MESSAGE_CONDITIONED, from, job_id);
    for (int i = 1; i <= STEPS; i++) {
        struct dip_message m = {.kind = DIP_MESSAGE_STEP, .from = from, .job_id = job_id};
        m.as.step.steps_done = i;
        m.as.step.step_ns = STEP_NS;
        w->now_ns += STEP_NS;
        feed(w, m);
    }
    say(w, DIP_MESSAGE_DECODED, from, job_id);
    say(w, DIP_MESSAGE_IMAGE, from, job_id);
}

/* Worker 1 draws, worker 2 paints, each with one slot; one image has gone through: all is known. */
static struct world *measured_world(int images)
{
    struct world *w = world_new(images, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR, 1);
    join(w, 2, DIP_ROLE_DIFFUSION, 1);
    submit(w, 1000000);
    draw_tokens(w, 1, find(w, DIP_ACTION_AR)->job_id);
    paint(w, 2, find(w, DIP_ACTION_DIFFUSION)->job_id);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_DONE);
    w->begun_count = 0;
    return w;
}

/* The AR worker of measured_world draws one image, and the picture is forgotten by its client, so
 * that only the order at the AR panel matters. */
static void serve_one(struct world *w, uint64_t *job_id)
{
    struct world *copy = w;
    uint64_t request_id = copy->begun[(copy->begun_count - 1) % IDS_MAX];
    w->now_ns += AR_NS;
    say(w, DIP_MESSAGE_HINGE_READY, 1, *job_id);
    const struct dip_action *next = find(w, DIP_ACTION_AR);
    uint64_t next_id = next ? next->job_id : 0;
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = request_id});
    next = find(w, DIP_ACTION_AR);
    *job_id = next ? next->job_id : next_id;
}

/* ---- admission ---- */

static void estimates_are_what_happens(void **state)
{
    (void)state;
    struct world *w = measured_world(16);
    for (uint64_t id = 0; id < 4; id++) {
        submit(w, id + 1);
        const struct dip_action *admitted = find(w, DIP_ACTION_ADMITTED);
        int64_t wait_ns = id == 0 ? 0 : (int64_t)id * AR_NS;
        int64_t start_ns = admitted->start_ns - w->now_ns;
        int64_t finish_ns = admitted->finish_ns - w->now_ns;
        assert_int_equal(admitted->total,
                         id == 0 ? 0 : id - 1); /* the first runs: it is not ahead */
        assert_in_range(start_ns, wait_ns - wait_ns / 20, wait_ns + wait_ns / 20);
        int64_t end_ns = wait_ns + AR_NS + PAINT_NS;
        assert_in_range(finish_ns, end_ns - end_ns / 20, end_ns + end_ns / 20);
    }
    world_free(w);
}

static void what_would_be_late_is_refused(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    struct dip_message m = request(1);
    m.as.submit.deadline_ns = w->now_ns + 1;
    feed(w, m); /* nothing is measured: the doubt is for the client */
    assert_int_equal(find(w, DIP_ACTION_ADMITTED)->finish_ns, 0);
    m.request_id = 2;
    m.as.submit.deadline_ns = w->now_ns;
    feed(w, m); /* but that has passed already */
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_WOULD_BE_LATE);
    world_free(w);

    w = measured_world(8);
    m.request_id = 1;
    m.as.submit.deadline_ns = w->now_ns + (AR_NS + PAINT_NS) * 9 / 10;
    feed(w, m);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_WOULD_BE_LATE);
    assert_true(find(w, DIP_ACTION_REFUSED)->retry_ns > 0);
    m.as.submit.deadline_ns = w->now_ns + (AR_NS + PAINT_NS) * 11 / 10;
    feed(w, m);
    assert_non_null(find(w, DIP_ACTION_ADMITTED));
    m = request(2);
    m.as.submit.begin_by_ns = w->now_ns + AR_NS / 2; /* the slot is taken for longer */
    feed(w, m);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_WOULD_BE_LATE);
    m.as.submit.begin_by_ns = w->now_ns + AR_NS * 11 / 10;
    feed(w, m);
    assert_non_null(find(w, DIP_ACTION_ADMITTED));
    world_free(w);
}

/* A new leader has not met its workers yet. */
static void workers_may_be_on_their_way(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    dip_scheduler_expect_workers(w->s, w->now_ns + SECOND_NS);
    submit(w, 1);
    assert_non_null(find(w, DIP_ACTION_ADMITTED));
    w->now_ns += SECOND_NS;
    submit(w, 2);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_NO_WORKERS);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    assert_int_equal(find(w, DIP_ACTION_AR)->request_id, 1);
    world_free(w);
}

static void a_check_runs_nothing(void **state)
{
    (void)state;
    struct world *w = measured_world(4);
    struct dip_message m = request(1);
    m.as.submit.is_check = true;
    feed(w, m);
    assert_int_equal(w->count, 2);
    assert_int_equal(w->actions[0].kind, DIP_ACTION_ADMITTED);
    assert_true(w->actions[0].finish_ns > w->now_ns);
    assert_int_equal(w->actions[1].kind, DIP_ACTION_ENDED);
    assert_int_equal(w->actions[1].end, DIP_END_DONE);
    assert_int_equal(dip_scheduler_stats(w->s).requests, 0);
    world_free(w);
}

/* ---- time ---- */

static void what_is_due_ends_at_its_tick(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    struct dip_message m = request(1);
    int64_t deadline_ns = w->now_ns + 400 * MS_NS;
    m.as.submit.deadline_ns = deadline_ns;
    feed(w, m); /* takes the slot */
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    m.request_id = 2;
    m.as.submit.deadline_ns = w->now_ns + 9 * SECOND_NS;
    m.as.submit.begin_by_ns = w->now_ns + 300 * MS_NS;
    feed(w, m);
    assert_int_equal(dip_scheduler_wake_ns(w->s), w->now_ns + 300 * MS_NS);
    w->now_ns += 299 * MS_NS;
    tick(w);
    assert_int_equal(w->count, 0);
    w->now_ns += MS_NS;
    tick(w);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_QUEUE_TIME);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->request_id, 2);
    assert_int_equal(dip_scheduler_wake_ns(w->s), deadline_ns);
    w->now_ns = deadline_ns;
    tick(w);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_DEADLINE);
    assert_int_equal(find(w, DIP_ACTION_RELEASE)->job_id, job_id); /* the slot is free again */
    assert_int_equal(dip_scheduler_wake_ns(w->s), INT64_MAX);
    world_free(w);
}

static void what_has_begun_is_not_ended_for_its_wait(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    struct dip_message m = request(1);
    m.as.submit.begin_by_ns = w->now_ns + 300 * MS_NS;
    feed(w, m);
    assert_int_equal(dip_scheduler_wake_ns(w->s), INT64_MAX);
    w->now_ns += SECOND_NS;
    tick(w);
    assert_int_equal(w->count, 0);
    world_free(w);
}

static void those_that_wait_hear_of_it_once_a_second(void **state)
{
    (void)state;
    struct world *w = measured_world(8);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    for (uint64_t id = 2; id <= 4; id++)
        submit(w, id);
    assert_int_equal(dip_scheduler_wake_ns(w->s), w->now_ns + SECOND_NS);
    w->now_ns += SECOND_NS / 2;
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = 2});
    tick(w);
    assert_int_equal(w->count, 0); /* a change, but not a second */
    w->now_ns += SECOND_NS / 2;
    tick(w);
    assert_int_equal(count_of(w, DIP_ACTION_QUEUE), 2);
    assert_int_equal(w->actions[0].request_id, 3);
    assert_int_equal(w->actions[0].total, 0);
    assert_int_equal(w->actions[1].total, 1);
    assert_true(w->actions[1].start_ns > w->actions[0].start_ns);
    (void)job_id;
    world_free(w);
}

/* ---- order ---- */

static void priority_goes_first(void **state)
{
    (void)state;
    struct world *w = measured_world(16);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    static const enum dip_priority priorities[] = {DIP_PRIORITY_BATCH, DIP_PRIORITY_STANDARD,
                                                   DIP_PRIORITY_INTERACTIVE};
    for (uint64_t id = 2; id <= 4; id++) {
        struct dip_message m = request(id);
        m.as.submit.priority = priorities[id - 2];
        feed(w, m);
        assert_int_equal(find(w, DIP_ACTION_ADMITTED)->total, 0); /* each before those there */
    }
    for (int i = 0; i < 3; i++)
        serve_one(w, &job_id);
    static const uint64_t expected[] = {1, 4, 3, 2};
    for (int i = 0; i < 4; i++)
        assert_int_equal(w->begun[i], expected[i]);
    world_free(w);
}

/* One slot, and more interactive work than it can do: batch is served all the same. */
static void waiting_raises_what_waits(void **state)
{
    (void)state;
    struct world *w = measured_world(2000);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    struct dip_message batch = request(2);
    batch.as.submit.priority = DIP_PRIORITY_BATCH;
    feed(w, batch);
    int64_t submitted_ns = w->now_ns;
    uint64_t id = 10;
    bool is_served = false;
    for (int i = 0; i < 400 && !is_served; i++) {
        for (int k = 0; k < 2; k++) { /* twice what can be served, for ever */
            struct dip_message m = request(id++);
            m.as.submit.priority = DIP_PRIORITY_INTERACTIVE;
            feed(w, m);
        }
        serve_one(w, &job_id);
        is_served = w->begun[w->begun_count - 1] == 2;
    }
    assert_true(is_served);
    /* Two ages bring it to the top, where it is older than what came meanwhile. */
    assert_true(w->now_ns - submitted_ns >= 2 * SECOND_NS);
    assert_true(w->now_ns - submitted_ns <= 8 * SECOND_NS);
    world_free(w);
}

static void the_tighter_deadline_goes_first(void **state)
{
    (void)state;
    struct world *w = measured_world(16);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    static const int64_t deadlines_s[] = {0, 90, 30, 60}; /* 0: none */
    for (uint64_t id = 2; id <= 5; id++) {
        struct dip_message m = request(id);
        int64_t s = deadlines_s[id - 2];
        m.as.submit.deadline_ns = s > 0 ? w->now_ns + s * SECOND_NS : 0;
        feed(w, m);
    }
    for (int i = 0; i < 4; i++)
        serve_one(w, &job_id);
    static const uint64_t expected[] = {1, 4, 5, 3, 2};
    for (int i = 0; i < 5; i++)
        assert_int_equal(w->begun[i], expected[i]);
    world_free(w);
}

/* Of three tenants one floods; another one weighs three times as much. */
static void tenants_share_by_weight(void **state)
{
    (void)state;
    struct world *w = measured_world(2000);
    dip_scheduler_set_weight(w->s, 2, 3);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    for (uint64_t i = 0; i < 1200; i++) {
        uint32_t tenant = i < 900 ? 0 : i < 1000 ? 1 : 2; /* the flood comes first */
        struct dip_message m = request(10 + i);
        m.as.submit.tenant = tenant;
        feed(w, m);
    }
    int served[3] = {0};
    for (int i = 0; i < 100; i++) {
        serve_one(w, &job_id);
        uint64_t i_served = w->begun[w->begun_count - 1] - 10;
        served[i_served < 900 ? 0 : i_served < 1000 ? 1 : 2]++;
    }
    assert_in_range(served[0], 18, 22);
    assert_in_range(served[1], 18, 22);
    assert_in_range(served[2], 58, 62);
    world_free(w);
}

/* Who comes seldom does not pay for having been away, and does not save up either. */
static void a_trickle_waits_for_one_turn(void **state)
{
    (void)state;
    struct world *w = measured_world(2000);
    submit(w, 1);
    uint64_t job_id = find(w, DIP_ACTION_AR)->job_id;
    for (uint64_t i = 0; i < 500; i++)
        submit(w, 10 + i);
    for (uint64_t round = 0; round < 20; round++) {
        for (int i = 0; i < 10; i++)
            serve_one(w, &job_id);
        struct dip_message m = request(5000 + round);
        m.as.submit.tenant = 3;
        feed(w, m);
        serve_one(w, &job_id);
        bool is_first = w->begun[w->begun_count - 1] == 5000 + round;
        if (!is_first)
            serve_one(w, &job_id);
        assert_int_equal(w->begun[w->begun_count - 1], 5000 + round);
    }
    world_free(w);
}

/* ---- losses ---- */

static void an_image_alone_with_two_dead_workers_is_poison(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    for (uint32_t i = 1; i <= 3; i++)
        join(w, i, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 2);
    submit(w, 1);
    say(w, DIP_MESSAGE_LOST, find(w, DIP_ACTION_AR)->member, 0);
    assert_int_equal(find(w, DIP_ACTION_RETRIED)->setback, DIP_SETBACK_LOST);
    say(w, DIP_MESSAGE_LOST, find(w, DIP_ACTION_AR)->member, 0);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_POISONED);
    assert_null(find(w, DIP_ACTION_AR)); /* the third worker never sees it */
    world_free(w);
}

/* Bad luck is not poison: it got further each time, or it was the other panel's worker. */
static void an_image_that_gets_further_is_innocent(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    for (uint32_t i = 1; i <= 6; i++)
        join(w, i, i <= 2 ? DIP_ROLE_AR : DIP_ROLE_DIFFUSION, 1);
    submit(w, 1);
    say(w, DIP_MESSAGE_LOST, find(w, DIP_ACTION_AR)->member, 0);
    const struct dip_action *ar = find(w, DIP_ACTION_AR);
    draw_tokens(w, ar->member, ar->job_id);
    for (int i = 1; i <= 3; i++) { /* dies after 1 step, after 3, after 1 again */
        struct dip_action diffusion = *find(w, DIP_ACTION_DIFFUSION);
        struct dip_message m = {
            .kind = DIP_MESSAGE_STEP, .from = diffusion.member, .job_id = diffusion.job_id};
        m.as.step.steps_done = i == 2 ? 3 : 1;
        feed(w, m);
        say(w, DIP_MESSAGE_LOST, diffusion.member, 0);
    }
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_POISONED); /* no further: it may be */
    assert_int_equal(w->ends[DIP_END_POISONED], 1);
    world_free(w);
}

/* The member that draws this request's image, or 0. */
static uint32_t drawer_of(const struct world *w, uint64_t request_id)
{
    for (uint32_t m = 1; m < MEMBERS; m++)
        for (int i = 0; i < w->given_count[m]; i++)
            if (w->given[m][i].request_id == request_id)
                return m;
    return 0;
}

static void finish_any(struct world *w)
{
    for (uint32_t m = 1; m < MEMBERS; m++) {
        if (w->given_count[m] == 0)
            continue;
        struct given given = w->given[m][--w->given_count[m]];
        draw_tokens(w, m, given.job_id);
        const struct dip_action *paints = find(w, DIP_ACTION_DIFFUSION);
        assert_non_null(paints);
        paint(w, paints->member, paints->job_id);
        return;
    }
}

/* Image 1 takes down whoever draws it, in company of seven others. */
static void the_innocent_come_through(void **state)
{
    (void)state;
    enum { IMAGES = 8 };
    struct world *w = world_new(16, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, IMAGES);
    for (uint64_t id = 1; id <= IMAGES; id++)
        submit(w, id);
    uint32_t deaths = 0;
    for (int turn = 0; turn < 100 && dip_scheduler_stats(w->s).images > 0; turn++) {
        uint32_t killed = drawer_of(w, 1);
        if (killed == 0) {
            finish_any(w);
            continue;
        }
        w->given_count[killed] = 0;
        deaths++;
        say(w, DIP_MESSAGE_LOST, killed, 0);
        join(w, killed % (MEMBERS - 1) + 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, IMAGES);
    }
    assert_int_equal(w->ends[DIP_END_POISONED], 1);
    assert_int_equal(w->ends[DIP_END_DONE], IMAGES - 1);
    assert_int_equal(deaths, 3); /* two in company, one that tells */
    world_free(w);
}

static struct dip_message device_failed(uint32_t from, uint64_t job_id)
{
    return (struct dip_message){
        .kind = DIP_MESSAGE_FAILED,
        .from = from,
        .job_id = job_id,
        .as.failed = {.status = DIP_DEVICE, .text = "the cuda device failed"}};
}

static void a_job_handed_back_runs_elsewhere(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    join(w, 2, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    submit(w, 1);
    uint32_t first = find(w, DIP_ACTION_AR)->member;
    struct dip_message failed = {.kind = DIP_MESSAGE_FAILED,
                                 .from = first,
                                 .job_id = find(w, DIP_ACTION_AR)->job_id,
                                 .as.failed.status = DIP_BUSY};
    feed(w, failed);
    assert_int_equal(find(w, DIP_ACTION_RETRIED)->setback, DIP_SETBACK_HANDED_BACK);
    assert_int_not_equal(find(w, DIP_ACTION_AR)->member, first);
    submit(w, 2); /* the first one is free, but set aside */
    assert_null(find(w, DIP_ACTION_AR));
    int64_t back_ns = dip_scheduler_wake_ns(w->s);
    assert_true(back_ns > w->now_ns && back_ns < w->now_ns + SECOND_NS);
    w->now_ns = back_ns;
    tick(w);
    assert_int_equal(find(w, DIP_ACTION_AR)->member, first);
    failed.job_id = find(w, DIP_ACTION_AR)->job_id;
    failed.as.failed.status = DIP_NO_MEMORY;
    feed(w, failed); /* the job's own fault */
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_FAILED);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->status, DIP_NO_MEMORY);
    world_free(w);
}

/* A worker whose device dies under three images says so of each; it lives, and gets nothing more.
 */
static void a_dead_device_costs_its_images_a_replay(void **state)
{
    (void)state;
    enum { IMAGES = 3 };
    struct world *w = world_new(8, MEMBERS, 2);
    uint64_t jobs[IMAGES];
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, IMAGES);
    for (uint64_t id = 1; id <= IMAGES; id++) {
        submit(w, id);
        jobs[id - 1] = find(w, DIP_ACTION_AR)->job_id;
    }
    join(w, 2, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, IMAGES);
    for (int i = 0; i < IMAGES; i++) {
        feed(w, device_failed(1, jobs[i]));
        assert_int_equal(find(w, DIP_ACTION_RETRIED)->setback, DIP_SETBACK_DEVICE);
        assert_int_equal(find(w, DIP_ACTION_AR)->member, 2);
        assert_null(find(w, DIP_ACTION_ENDED));
    }
    assert_int_equal(dip_scheduler_member(w->s, 1).jobs, 0);
    assert_int_equal(dip_scheduler_member(w->s, 2).ar_live, IMAGES);
    feed(w, device_failed(1, jobs[0])); /* said twice */
    assert_int_equal(w->count, 0);
    world_free(w);
}

/* One that was alone on as many devices as it may take down is the reason. */
static void what_takes_devices_down_ends(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    join(w, 2, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    join(w, 3, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    submit(w, 1);
    for (int i = 0; i < 2; i++) {
        const struct dip_action *given = find(w, DIP_ACTION_AR);
        assert_non_null(given);
        feed(w, device_failed(given->member, given->job_id));
    }
    assert_null(find(w, DIP_ACTION_AR));
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_FAILED);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->status, DIP_DEVICE);
    assert_string_equal(find(w, DIP_ACTION_ENDED)->text, "the cuda device failed");
    world_free(w);
}

/* Who hands everything back for ever does not keep a request for ever. */
static void handing_back_is_bounded(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR | DIP_ROLE_DIFFUSION, 1);
    submit(w, 1);
    for (int i = 0; i < 100 && !find(w, DIP_ACTION_ENDED); i++) {
        const struct dip_action *given = find(w, DIP_ACTION_AR);
        if (given) {
            feed(w, (struct dip_message){.kind = DIP_MESSAGE_FAILED,
                                         .from = 1,
                                         .job_id = given->job_id,
                                         .as.failed.status = DIP_BUSY});
            continue;
        }
        w->now_ns = dip_scheduler_wake_ns(w->s);
        tick(w);
    }
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_WORKER_LOST);
    world_free(w);
}

/* ---- drain ---- */

static void a_drained_member_finishes_and_says_so(void **state)
{
    (void)state;
    struct world *w = measured_world(8);
    join(w, 3, DIP_ROLE_DIFFUSION, 1);
    say(w, DIP_MESSAGE_DRAIN, 3, 0);
    assert_int_equal(find(w, DIP_ACTION_DRAINED)->member, 3); /* it had nothing */
    submit(w, 1);
    draw_tokens(w, 1, find(w, DIP_ACTION_AR)->job_id);
    assert_int_equal(find(w, DIP_ACTION_DIFFUSION)->member, 2);
    uint64_t job_id = find(w, DIP_ACTION_DIFFUSION)->job_id;
    say(w, DIP_MESSAGE_UNDRAIN, 3, 0);
    say(w, DIP_MESSAGE_LEAVING, 2, 0);
    assert_null(find(w, DIP_ACTION_DRAINED)); /* it has a job */
    paint(w, 2, job_id);
    assert_int_equal(find(w, DIP_ACTION_DRAINED)->member, 2);
    assert_int_equal(find(w, DIP_ACTION_ENDED)->end, DIP_END_DONE);
    say(w, DIP_MESSAGE_DRAIN, 1, 0);
    submit(w, 2);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_DRAINING);
    say(w, DIP_MESSAGE_LOST, 1, 0);
    submit(w, 2);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_NO_WORKERS);
    join(w, 1, DIP_ROLE_AR, 1); /* a new process does not drain, and gets work */
    submit(w, 2);
    assert_int_equal(find(w, DIP_ACTION_AR)->member, 1);
    say(w, DIP_MESSAGE_DRAIN, 0, 0); /* the whole coordinator */
    submit(w, 3);
    assert_int_equal(find(w, DIP_ACTION_REFUSED)->refusal, DIP_REFUSAL_DRAINING);
    world_free(w);
}

/* ---- what pages show ---- */

static void who_waits_longest_need_not_be_next(void **state)
{
    (void)state;
    struct world *w = measured_world(8);
    static const enum dip_priority priorities[] = {DIP_PRIORITY_STANDARD, DIP_PRIORITY_BATCH,
                                                   DIP_PRIORITY_INTERACTIVE};
    for (uint64_t id = 1; id <= 3; id++) { /* the first takes the slot */
        struct dip_message m = request(id);
        m.as.submit.has_hidden = true;
        m.as.submit.priority = priorities[id - 1];
        feed(w, m);
        w->now_ns += 100 * MS_NS;
    }
    tick(w);
    assert_int_equal(dip_scheduler_stats(w->s).diffusion_waiting, 2);
    assert_int_equal(dip_scheduler_stats(w->s).diffusion_wait_ns, 200 * MS_NS);
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = 2});
    assert_int_equal(dip_scheduler_stats(w->s).diffusion_wait_ns, 100 * MS_NS);
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = 3});
    assert_int_equal(dip_scheduler_stats(w->s).diffusion_wait_ns, 0);
    world_free(w);
}

/* ---- late binding ---- */

static void near_the_end_a_slot_is_kept(void **state)
{
    (void)state;
    struct world *w = world_new(8, MEMBERS, 2);
    join(w, 1, DIP_ROLE_AR, 1);
    join(w, 2, DIP_ROLE_DIFFUSION, 1);
    submit(w, 1);
    uint64_t ar = find(w, DIP_ACTION_AR)->job_id;
    struct dip_message m = {.kind = DIP_MESSAGE_TOKENS, .from = 1, .job_id = ar};
    m.as.tokens.count = 16;
    feed(w, m);
    struct dip_message ready_made = request(2);
    ready_made.as.submit.has_hidden = true;
    feed(w, ready_made); /* half of the tokens: the slot is anybody's */
    assert_non_null(find(w, DIP_ACTION_DIFFUSION));
    feed(w, (struct dip_message){.kind = DIP_MESSAGE_CANCEL, .request_id = 2});
    m.as.tokens.first = 16;
    feed(w, m);
    ready_made.request_id = 3;
    feed(w, ready_made); /* all of them: it is kept */
    assert_null(find(w, DIP_ACTION_DIFFUSION));
    say(w, DIP_MESSAGE_HINGE_READY, 1, ar);
    assert_int_equal(find(w, DIP_ACTION_DIFFUSION)->request_id, 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_are_what_happens),
        cmocka_unit_test(what_would_be_late_is_refused),
        cmocka_unit_test(workers_may_be_on_their_way),
        cmocka_unit_test(a_check_runs_nothing),
        cmocka_unit_test(what_is_due_ends_at_its_tick),
        cmocka_unit_test(what_has_begun_is_not_ended_for_its_wait),
        cmocka_unit_test(those_that_wait_hear_of_it_once_a_second),
        cmocka_unit_test(priority_goes_first),
        cmocka_unit_test(waiting_raises_what_waits),
        cmocka_unit_test(the_tighter_deadline_goes_first),
        cmocka_unit_test(tenants_share_by_weight),
        cmocka_unit_test(a_trickle_waits_for_one_turn),
        cmocka_unit_test(an_image_alone_with_two_dead_workers_is_poison),
        cmocka_unit_test(an_image_that_gets_further_is_innocent),
        cmocka_unit_test(the_innocent_come_through),
        cmocka_unit_test(a_job_handed_back_runs_elsewhere),
        cmocka_unit_test(a_dead_device_costs_its_images_a_replay),
        cmocka_unit_test(what_takes_devices_down_ends),
        cmocka_unit_test(handing_back_is_bounded),
        cmocka_unit_test(a_drained_member_finishes_and_says_so),
        cmocka_unit_test(who_waits_longest_need_not_be_next),
        cmocka_unit_test(near_the_end_a_slot_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
