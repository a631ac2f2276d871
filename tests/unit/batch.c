/* tests/unit/batch.c - how many pictures go into a step, and which worker gets the next one: the
 * decisions alone, and the scheduler over played workers in virtual time.
 *
 * A played worker is what a real one is to the scheduler: it asks dip_batch how many of its
 * pictures go into the next step, takes as long for it as its curve says, and reports with the step
 * what the worker would. Curves: flat (a step costs the same whatever is in it), linear (each costs
 * its own), and mixed ones. No clock runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "cluster/cluster.h"

#define FOREVER_NS (INT64_MAX / 2)

enum { KIND = 1024, SLOTS = 4, STEPS = 20, WORKERS_MAX = 4, IMAGES_MAX = 64 };

/* ---- the decision alone ---- */

typedef int64_t (*curve_fn)(int count);

static int64_t flat_ns(int count)
{
    return 100 * DIP_MS_NS + count;
}

static int64_t linear_ns(int count)
{
    return 100 * DIP_MS_NS * count;
}

/* Two side by side gain, more do not. */
static int64_t pairs_ns(int count)
{
    return count <= 2 ? 100 * DIP_MS_NS + 10 * DIP_MS_NS * count : 60 * DIP_MS_NS * count;
}

/* A grid of tiles that only four fill. */
static int64_t fours_ns(int count)
{
    return count == 4 ? 150 * DIP_MS_NS : 100 * DIP_MS_NS * count;
}

/* `steps` steps with `ready` pictures at hand; returns how many the last one took. */
static int run_steps(struct dip_batch *batch, curve_fn curve, int ready, int steps)
{
    int count = 0;
    for (int i = 0; i < steps; i++) {
        count = dip_batch_next(batch, KIND, ready);
        assert_in_range(count, 1, ready);
        dip_batch_add(batch, KIND, count, curve(count));
    }
    return count;
}

static void the_best_number_is_found(void **state)
{
    (void)state;
    const struct {
        curve_fn curve;
        int best;
    } cases[] = {{flat_ns, 4}, {linear_ns, 1}, {pairs_ns, 2}, {fours_ns, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dip_batch batch = {.serial = 0};
        assert_int_equal(dip_batch_room(&batch, KIND, SLOTS), SLOTS); /* all is to be tried */
        assert_int_equal(run_steps(&batch, cases[i].curve, SLOTS, 40), cases[i].best);
        assert_int_equal(dip_batch_room(&batch, KIND, SLOTS), cases[i].best);
        assert_int_equal(dip_batch_room(&batch, KIND, 1), 1);
        assert_int_equal(dip_batch_next(&batch, KIND, 1), 1);
        assert_true(dip_batch_step_ns(&batch, KIND, 1) == cases[i].curve(1));
    }
}

/* With two at hand nothing is learned of four, and four are still wanted, to try them. */
static void what_is_not_known_is_wanted(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    assert_int_equal(run_steps(&batch, flat_ns, 2, 20), 2);
    assert_int_equal(dip_batch_room(&batch, KIND, 8), 5); /* three more than the best */
    assert_int_equal(run_steps(&batch, flat_ns, 8, 40), 8);
    assert_int_equal(dip_batch_room(&batch, KIND, 8), 8);
    assert_int_equal(dip_batch_room(&batch, KIND, 100), DIP_BATCH_MAX);
}

static void kinds_are_apart(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    run_steps(&batch, flat_ns, 4, 40);
    for (int i = 0; i < 40; i++) {
        int count = dip_batch_next(&batch, 4 * KIND, 4);
        dip_batch_add(&batch, 4 * KIND, count, 4 * linear_ns(count));
    }
    assert_int_equal(dip_batch_next(&batch, KIND, 4), 4);
    assert_int_equal(dip_batch_next(&batch, 4 * KIND, 4), 1);
    for (int64_t kind = 1; kind <= DIP_BATCH_CURVES; kind++) /* others push both out */
        dip_batch_add(&batch, kind, 1, 1000);
    assert_true(dip_batch_step_ns(&batch, KIND, 1) == 0);
    assert_true(dip_batch_step_ns(&batch, 1, 1) == 1000);
}

/* The first step of a kind may take long for reasons of its own, and any step may. */
static void an_outlier_decides_nothing(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    for (int count = 1; count <= SLOTS; count++)
        dip_batch_add(&batch, KIND, count, 50 * flat_ns(count));
    assert_int_equal(run_steps(&batch, flat_ns, SLOTS, 40), SLOTS);
    dip_batch_add(&batch, KIND, SLOTS, 3 * flat_ns(SLOTS));
    assert_int_equal(run_steps(&batch, flat_ns, SLOTS, 1), SLOTS);
    struct dip_batch same = batch;
    dip_batch_add(&batch, KIND, 0, 1000); /* what cannot be true */
    dip_batch_add(&batch, KIND, DIP_BATCH_MAX + 1, 1000);
    dip_batch_add(&batch, 0, 1, 1000);
    dip_batch_add(&batch, KIND, 1, -1);
    dip_batch_add(&batch, KIND, 1, INT64_MAX);
    assert_memory_equal(&batch, &same, sizeof batch);
}

static void drift_is_followed(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    run_steps(&batch, flat_ns, SLOTS, 100);
    assert_int_equal(run_steps(&batch, linear_ns, SLOTS, 150),
                     1); /* somebody else came to the device */
    assert_int_equal(dip_batch_room(&batch, KIND, SLOTS), 1);
    assert_int_equal(run_steps(&batch, flat_ns, SLOTS, 1100), SLOTS); /* and left */
    assert_int_equal(dip_batch_room(&batch, KIND, SLOTS), SLOTS);
}

/* What never pays is tried less and less often: 9 steps of 512, of 1,024, of 2,048, ... */
static void trying_costs_little(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    int tried = 0;
    for (int i = 0; i < 20000; i++) {
        int count = dip_batch_next(&batch, KIND, SLOTS);
        dip_batch_add(&batch, KIND, count, linear_ns(count));
        tried += count > 1;
    }
    assert_in_range(tried, 9 * 4, 9 * 8);
}

/* A command waits for a step: what would take long is not tried. */
static void slow_steps_are_not_multiplied(void **state)
{
    (void)state;
    struct dip_batch batch = {.serial = 0};
    for (int i = 0; i < 3; i++)
        dip_batch_add(&batch, KIND, 1, 3 * DIP_SECOND_NS);
    assert_int_equal(dip_batch_next(&batch, KIND, SLOTS), 2);
    for (int i = 0; i < 3; i++)
        dip_batch_add(&batch, KIND, 2, 6 * DIP_SECOND_NS);
    assert_int_equal(dip_batch_next(&batch, KIND, SLOTS), 1);
    assert_int_equal(dip_batch_room(&batch, KIND, SLOTS), 1);
}

/* ---- the scheduler over played workers ---- */

struct picture_job {
    uint64_t id;
    int done;
    uint64_t turn;
};

struct worker {
    curve_fn curve;
    int64_t factor; /* on the curve, in thousandths */
    struct dip_batch batch;
    struct picture_job jobs[2 * SLOTS]; /* those that end with a step are there until it is told */
    int job_count, ended_count, most_jobs;
    int step_count; /* jobs in the step that runs; 0 = idle */
    int64_t step_ns, until_ns;
    uint64_t turn;
    int painted;
    bool is_stuck;
};

struct world {
    struct dip_scheduler *scheduler;
    struct worker workers[WORKERS_MAX];
    int worker_count;
    int64_t now_ns;
    int64_t submitted_ns[IMAGES_MAX + 1], done_ns[IMAGES_MAX + 1];
    uint32_t painted_by[IMAGES_MAX + 1];
    uint64_t next_request;
};

static void feed(struct world *w, const struct dip_message *m);

static void world_init(struct world *w)
{
    struct dip_scheduler_limits limits = {.request_count_max = IMAGES_MAX,
                                          .image_count_max = IMAGES_MAX,
                                          .member_count_max = WORKERS_MAX + 1,
                                          .token_count_max = 8,
                                          .attempt_count_max = 3};
    *w = (struct world){.now_ns = 1};
    assert_int_equal(dip_scheduler_new(&limits, &w->scheduler), DIP_OK);
}

static int world_join(struct world *w, curve_fn curve, int64_t factor)
{
    int i = w->worker_count++;
    w->workers[i] = (struct worker){.curve = curve, .factor = factor};
    feed(w, &(struct dip_message){
                .kind = DIP_MESSAGE_JOINED,
                .from = (uint32_t)i + 1,
                .as.joined = {.roles = DIP_ROLE_DIFFUSION, .diffusion_slots = SLOTS}});
    return i;
}

static void submit(struct world *w, int steps)
{
    uint64_t id = ++w->next_request;
    assert_true(id <= IMAGES_MAX);
    w->submitted_ns[id] = w->now_ns;
    feed(w, &(struct dip_message){
                .kind = DIP_MESSAGE_SUBMIT,
                .request_id = id,
                .as.submit = {
                    .image_count = 1, .token_count = 4, .step_count = steps, .has_hidden = true}});
}

/* The jobs served longest ago go into the next step. */
static void step_begin(struct world *w, struct worker *worker)
{
    if (worker->job_count == 0 || worker->step_count > 0)
        return;
    worker->step_count = dip_batch_next(&worker->batch, KIND, worker->job_count);
    worker->step_ns = worker->curve(worker->step_count) * worker->factor / 1000;
    worker->until_ns = w->now_ns + worker->step_ns;
    for (int i = 0; i < worker->step_count; i++)
        for (int k = i + 1; k < worker->job_count; k++)
            if (worker->jobs[k].turn < worker->jobs[i].turn) {
                struct picture_job other = worker->jobs[i];
                worker->jobs[i] = worker->jobs[k];
                worker->jobs[k] = other;
            }
}

static void job_take(struct world *w, const struct dip_action *action)
{
    assert_in_range(action->member, 1, w->worker_count);
    struct worker *worker = &w->workers[action->member - 1];
    assert_true(worker->job_count - worker->ended_count < SLOTS);
    worker->jobs[worker->job_count++] =
        (struct picture_job){.id = action->job_id, .turn = ++worker->turn};
    if (worker->job_count - worker->ended_count > worker->most_jobs)
        worker->most_jobs = worker->job_count - worker->ended_count;
    w->painted_by[action->request_id] = action->member;
}

static void act(struct world *w, const struct dip_action *action)
{
    switch (action->kind) {
    case DIP_ACTION_DIFFUSION:
        job_take(w, action);
        break;
    case DIP_ACTION_ENDED:
        assert_int_equal(action->end, DIP_END_DONE);
        w->done_ns[action->request_id] = w->now_ns;
        break;
    case DIP_ACTION_REFUSED:
        fail_msg("refused: %s", dip_refusal_text(action->refusal));
        break;
    default:
        break;
    }
}

static void feed(struct world *w, const struct dip_message *m)
{
    struct dip_action action;
    dip_scheduler_feed(w->scheduler, w->now_ns, m);
    while (dip_scheduler_next(w->scheduler, &action))
        act(w, &action);
    for (int i = 0; i < w->worker_count; i++)
        step_begin(w, &w->workers[i]);
}

/* One picture of the step that has ended says so, and its end if it is one. */
static void job_report(struct world *w, struct worker *worker, int i, int steps)
{
    struct picture_job *job = &worker->jobs[i];
    struct dip_message m = {.kind = DIP_MESSAGE_STEP,
                            .from = (uint32_t)(worker - w->workers) + 1,
                            .job_id = job->id,
                            .as.step = {.steps_done = ++job->done,
                                        .step_ns = worker->step_ns / worker->step_count,
                                        .batch = worker->step_count,
                                        .room = dip_batch_room(&worker->batch, KIND, SLOTS)}};
    job->turn = ++worker->turn;
    feed(w, &m);
    if (job->done < steps)
        return;
    m.kind = DIP_MESSAGE_DECODED;
    job->id = 0;
    worker->ended_count++;
    worker->painted++;
    feed(w, &m);
    m = (struct dip_message){.kind = DIP_MESSAGE_IMAGE, .from = m.from, .job_id = m.job_id};
    feed(w, &m);
}

static void step_end(struct world *w, struct worker *worker, int steps)
{
    dip_batch_add(&worker->batch, KIND, worker->step_count, worker->step_ns);
    for (int i = 0; i < worker->step_count; i++)
        job_report(w, worker, i, steps);
    for (int i = worker->job_count - 1; i >= 0; i--)
        if (worker->jobs[i].id == 0)
            worker->jobs[i] = worker->jobs[--worker->job_count];
    worker->step_count = worker->ended_count = 0;
    step_begin(w, worker);
}

/* Until nothing runs, or until_ns. */
static void run_until(struct world *w, int steps, int64_t until_ns)
{
    for (;;) {
        struct worker *next = NULL;
        for (int i = 0; i < w->worker_count; i++) {
            struct worker *worker = &w->workers[i];
            if (worker->step_count > 0 && !worker->is_stuck &&
                (!next || worker->until_ns < next->until_ns))
                next = worker;
        }
        int64_t wake_ns = dip_scheduler_wake_ns(w->scheduler);
        int64_t next_ns = next && next->until_ns < wake_ns ? next->until_ns : wake_ns;
        if (next_ns > until_ns)
            break;
        w->now_ns = next_ns > w->now_ns ? next_ns : w->now_ns;
        if (next && next->until_ns <= wake_ns)
            step_end(w, next, steps);
        else
            feed(w, &(struct dip_message){.kind = DIP_MESSAGE_TICK});
    }
    if (until_ns < FOREVER_NS && until_ns > w->now_ns)
        w->now_ns = until_ns;
}

static void run_all(struct world *w, int steps)
{
    run_until(w, steps, FOREVER_NS);
    for (uint64_t id = 1; id <= w->next_request; id++)
        assert_true(w->done_ns[id] > 0);
}

static int64_t mean_ns(const struct world *w, uint64_t first)
{
    int64_t sum_ns = 0;
    for (uint64_t id = first; id <= w->next_request; id++)
        sum_ns += w->done_ns[id] - w->submitted_ns[id];
    return sum_ns / (int64_t)(w->next_request - first + 1);
}

/* Lets a worker measure itself: a few pictures at a time. */
static void warm_up(struct world *w)
{
    for (int i = 0; i < SLOTS * w->worker_count; i++)
        submit(w, STEPS);
    run_all(w, STEPS);
    for (int i = 0; i < w->worker_count; i++)
        w->workers[i].most_jobs = 0;
}

/* Where a step costs the same whatever is in it, all that wait go side by side. */
static void flat_costs_make_batches(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_join(&w, flat_ns, 1000);
    warm_up(&w);
    uint64_t first = w.next_request + 1;
    for (int i = 0; i < 3 * SLOTS; i++)
        submit(&w, STEPS);
    run_all(&w, STEPS);
    assert_int_equal(w.workers[0].most_jobs, SLOTS);
    int64_t picture_ns = STEPS * flat_ns(1); /* rounds of one, two and three of them */
    assert_in_range(mean_ns(&w, first), 2 * picture_ns, 2 * picture_ns + picture_ns / 10);
    dip_scheduler_free(w.scheduler);
}

/* Where each costs its own, they go one after another: two at a time would both end when the second
 * one does. */
static void linear_costs_make_none(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_join(&w, linear_ns, 1000);
    warm_up(&w);
    uint64_t first = w.next_request + 1;
    for (int i = 0; i < 6; i++)
        submit(&w, STEPS);
    run_all(&w, STEPS);
    assert_int_equal(w.workers[0].most_jobs, 1);
    int64_t picture_ns = STEPS * linear_ns(1);
    assert_true(mean_ns(&w, first) == picture_ns * 7 / 2); /* (1 + 2 + ... + 6) / 6 */
    dip_scheduler_free(w.scheduler);
}

/* Each worker of a mixed pool gets as many as pay there. */
static void each_gets_what_pays(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_join(&w, linear_ns, 1000);
    world_join(&w, pairs_ns, 1000);
    world_join(&w, flat_ns, 1000);
    warm_up(&w);
    for (int i = 0; i < 28; i++)
        submit(&w, STEPS);
    run_all(&w, STEPS);
    assert_int_equal(w.workers[0].most_jobs, 1);
    assert_int_equal(w.workers[1].most_jobs, 2);
    assert_int_equal(w.workers[2].most_jobs, SLOTS);
    assert_int_equal(dip_scheduler_member(w.scheduler, 1).diffusion_wanted, 1);
    assert_int_equal(dip_scheduler_member(w.scheduler, 3).diffusion_wanted, SLOTS);
    dip_scheduler_free(w.scheduler);
}

/* A picture goes beside another one where that is free, not to an idle worker that is slower. */
static void company_may_be_faster(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    int slow = world_join(&w, linear_ns, 2000);
    int wide = world_join(&w, flat_ns, 1000);
    warm_up(&w);
    submit(&w, STEPS);
    submit(&w, STEPS);
    assert_int_equal(w.workers[wide].job_count, 2);
    assert_int_equal(w.workers[slow].job_count, 0);
    run_all(&w, STEPS);
    dip_scheduler_free(w.scheduler);
}

/* ---- a pool of fast and slow ones ---- */

static void pool_of_two(struct world *w, int *ret_fast, int *ret_slow)
{
    world_init(w);
    *ret_fast = world_join(w, linear_ns, 1000);
    *ret_slow = world_join(w, linear_ns, 10000);
    warm_up(w);
}

/* The idle one would take ten times as long: the busy one ends both before. */
static void a_fast_slot_is_waited_for(void **state)
{
    (void)state;
    struct world w;
    int fast, slow;
    pool_of_two(&w, &fast, &slow);
    submit(&w, STEPS);
    submit(&w, STEPS);
    uint64_t second = w.next_request;
    assert_int_equal(w.workers[fast].job_count, 1);
    assert_int_equal(w.workers[slow].job_count, 0);
    run_all(&w, STEPS);
    assert_int_equal(w.painted_by[second], (uint32_t)fast + 1);
    assert_true(w.done_ns[second] - w.submitted_ns[second] == 2 * STEPS * linear_ns(1));
    dip_scheduler_free(w.scheduler);
}

/* When more wait than the fast one could do in that time, the slow one works too. */
static void a_long_queue_uses_the_slow(void **state)
{
    (void)state;
    struct world w;
    int fast, slow;
    pool_of_two(&w, &fast, &slow);
    w.workers[fast].painted = w.workers[slow].painted = 0;
    int64_t begin_ns = w.now_ns;
    for (int i = 0; i < 22; i++)
        submit(&w, STEPS);
    run_all(&w, STEPS);
    assert_int_equal(w.workers[slow].painted, 2); /* 20 and 2 in the same time */
    assert_true(w.now_ns - begin_ns == 20 * STEPS * linear_ns(1));
    dip_scheduler_free(w.scheduler);
}

/* A slot that does not come when it was due is waited for no more, though nobody says a word. */
static void an_overdue_slot_is_given_up(void **state)
{
    (void)state;
    struct world w;
    int fast, slow;
    pool_of_two(&w, &fast, &slow);
    submit(&w, STEPS);
    run_until(&w, STEPS, w.now_ns + STEPS * linear_ns(1) / 2);
    w.workers[fast].is_stuck = true;
    submit(&w, STEPS);
    uint64_t second = w.next_request;
    assert_int_equal(w.workers[slow].job_count, 0);
    run_until(&w, STEPS, w.now_ns + STEPS * linear_ns(1));
    assert_int_equal(w.workers[slow].job_count, 1);
    w.workers[fast].is_stuck = false;
    run_all(&w, STEPS);
    assert_int_equal(w.painted_by[second], (uint32_t)slow + 1);
    dip_scheduler_free(w.scheduler);
}

/* The fast one has become the slow one: a picture later that is known. */
static void the_choice_follows_drift(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    int a = world_join(&w, linear_ns, 1000);
    int b = world_join(&w, linear_ns, 1500);
    warm_up(&w);
    submit(&w, STEPS);
    assert_int_equal(w.workers[a].job_count, 1);
    run_all(&w, STEPS);
    w.workers[a].factor = 5000;
    submit(&w, STEPS);
    run_all(&w, STEPS);
    assert_int_equal(w.painted_by[w.next_request], (uint32_t)a + 1);
    submit(&w, STEPS);
    assert_int_equal(w.workers[b].job_count, 1);
    run_all(&w, STEPS);
    dip_scheduler_free(w.scheduler);
}

/* A worker that has not been measured is not passed over: trying it is how that is known. */
static void a_new_worker_is_tried(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    int old = world_join(&w, linear_ns, 1000);
    warm_up(&w);
    int new = world_join(&w, linear_ns, 10000);
    submit(&w, STEPS);
    submit(&w, STEPS);
    assert_int_equal(w.workers[old].job_count, 1);
    assert_int_equal(w.workers[new].job_count, 1);
    run_all(&w, STEPS);
    dip_scheduler_free(w.scheduler);
}

/* One that says nothing of batches, as those of earlier versions, is given all its slots. */
static void silence_is_no_refusal(void **state)
{
    (void)state;
    struct world w;
    world_init(&w);
    world_join(&w, linear_ns, 1000);
    submit(&w, STEPS);
    struct dip_message m = {.kind = DIP_MESSAGE_STEP,
                            .from = 1,
                            .job_id = w.workers[0].jobs[0].id,
                            .as.step = {.steps_done = 1, .step_ns = 1000}};
    feed(&w, &m);
    for (int i = 0; i < SLOTS; i++)
        submit(&w, STEPS);
    assert_int_equal(w.workers[0].job_count, SLOTS);
    dip_scheduler_free(w.scheduler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_number_is_found),
        cmocka_unit_test(what_is_not_known_is_wanted),
        cmocka_unit_test(kinds_are_apart),
        cmocka_unit_test(an_outlier_decides_nothing),
        cmocka_unit_test(drift_is_followed),
        cmocka_unit_test(trying_costs_little),
        cmocka_unit_test(slow_steps_are_not_multiplied),
        cmocka_unit_test(flat_costs_make_batches),
        cmocka_unit_test(linear_costs_make_none),
        cmocka_unit_test(each_gets_what_pays),
        cmocka_unit_test(company_may_be_faster),
        cmocka_unit_test(a_fast_slot_is_waited_for),
        cmocka_unit_test(a_long_queue_uses_the_slow),
        cmocka_unit_test(an_overdue_slot_is_given_up),
        cmocka_unit_test(the_choice_follows_drift),
        cmocka_unit_test(a_new_worker_is_tried),
        cmocka_unit_test(silence_is_no_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
