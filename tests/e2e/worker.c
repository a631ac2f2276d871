/* tests/e2e/worker.c - worker processes over loopback: a hinge goes from one to another, workers
 * die, stop and come back, coordinators change, and a picture stays the same bytes. */
#include "tests/e2e/worker_cluster.h"

enum { STEPS = 20, MANY_STEPS = 1000 };

static unsigned char *expected; /* the picture of one worker with both panels */
static size_t expected_bytes;

static void assert_expected(const struct heard_job *job)
{
    assert_int_equal(job->images, 1);
    assert_int_equal(job->png_bytes, expected_bytes);
    assert_memory_equal(job->png, expected, expected_bytes);
}

/* Draws the tokens of job `ar_job` and waits for its hinge. */
static void draw(struct cluster *c, uint32_t ar, uint64_t ar_job)
{
    tell_ar(c, ar, ar_job, STEPS);
    UNTIL(c, job_of(c, ar_job)->hinge_ready || job_of(c, ar_job)->failed);
    assert_string_equal(job_of(c, ar_job)->text, "");
    assert_int_equal(job_of(c, ar_job)->tokens, 16);
}

static void paint(struct cluster *c, uint32_t ar, uint64_t ar_job, uint32_t diffusion,
                  uint64_t diffusion_job, int steps)
{
    tell_diffusion(c, diffusion, diffusion_job, steps);
    tell_hand_over(c, ar, ar_job, diffusion, diffusion_job);
}

static void until_image(struct cluster *c, uint64_t job_id)
{
    UNTIL(c, job_of(c, job_id)->images || job_of(c, job_id)->failed);
    assert_string_equal(job_of(c, job_id)->text, "");
}

static int make_expected(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t both = cluster_start(&c, "ad", "both", NULL);
    draw(&c, both, 10);
    paint(&c, both, 10, both, 11, STEPS); /* to itself */
    until_image(&c, 11);
    expected = job_of(&c, 11)->png;
    expected_bytes = job_of(&c, 11)->png_bytes;
    job_of(&c, 11)->png = NULL;
    cluster_close(&c);
    return expected_bytes > 100 ? 0 : -1;
}

static void a_hinge_goes_from_worker_to_worker(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    assert_int_equal(c.members[ar].slots.ar_slots, 2);
    assert_int_equal(c.members[ar].slots.diffusion_slots, 0);
    assert_int_equal(c.members[diffusion].slots.diffusion_slots, 2);
    assert_int_equal(c.members[diffusion].slots.ar_slots, 0);
    assert_string_equal(c.members[ar].slots.fingerprint, c.members[diffusion].slots.fingerprint);
    draw(&c, ar, 20);
    paint(&c, ar, 20, diffusion, 21, STEPS);
    until_image(&c, 21);
    assert_int_equal(job_of(&c, 21)->conditioned, 1);
    assert_int_equal(job_of(&c, 21)->steps, STEPS);
    assert_int_equal(job_of(&c, 21)->decoded, 1);
    assert_expected(job_of(&c, 21));
    /* The hinge is kept until RELEASE, and given again. */
    paint(&c, ar, 20, diffusion, 22, STEPS);
    until_image(&c, 22);
    assert_expected(job_of(&c, 22));
    UNTIL(&c, c.members[ar].beat.hinges_held == 1);
    tell_release(&c, ar, 20);
    UNTIL(&c, c.members[ar].beat.hinges_held == 0);
    assert_true(c.members[ar].beat.steps_total >= 16);
    cluster_close(&c);
}

/* kill -9: the end of the stream says it, long before the silence would. */
static void a_killed_worker_is_lost_once_and_replaced(void **state)
{
    (void)state;
    struct cluster c;
    int process = 0;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t first = cluster_start(&c, "d", "first", &process);
    draw(&c, ar, 30);
    paint(&c, ar, 30, first, 31, MANY_STEPS);
    UNTIL(&c, job_of(&c, 31)->steps > 2);
    int64_t killed_ns = dip_clock_now_ns();
    cluster_kill(&c, process);
    UNTIL(&c, c.members[first].lost);
    print_message("lost %lld ms after kill -9\n",
                  (long long)((c.members[first].lost_ns - killed_ns) / DIP_MS_NS));
    assert_true(c.members[first].lost_ns - killed_ns < 10 * DIP_SECOND_NS);
    uint32_t second = cluster_start(&c, "d", "second", NULL);
    assert_true(second != first);
    paint(&c, ar, 30, second, 32, STEPS); /* the hinge is still there */
    until_image(&c, 32);
    assert_expected(job_of(&c, 32));
    assert_int_equal(job_of(&c, 31)->images, 0);
    assert_int_equal(c.members[first].lost, 1);
    assert_int_equal(c.members[first].late, 0);
    cluster_close(&c);
}

/* A process that stands still is lost by its silence. When it goes on, what it was doing is
 * nobody's any more, and it is a member like a new one. */
static void a_stopped_worker_is_lost_and_comes_back(void **state)
{
    (void)state;
    struct cluster c;
    int process = 0;
    cluster_open(&c, 2 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t before = cluster_start(&c, "d", "sleeper", &process);
    draw(&c, ar, 40);
    paint(&c, ar, 40, before, 41, MANY_STEPS);
    UNTIL(&c, job_of(&c, 41)->steps > 2);
    kill(c.pids[process], SIGSTOP);
    int64_t stopped_ns = dip_clock_now_ns();
    UNTIL(&c, c.members[before].lost);
    print_message("lost %lld ms after SIGSTOP, silence is 2000 ms\n",
                  (long long)((c.members[before].lost_ns - stopped_ns) / DIP_MS_NS));
    int steps = job_of(&c, 41)->steps, joins = c.joins;
    kill(c.pids[process], SIGCONT);
    UNTIL(&c, c.joins > joins);
    uint32_t after = c.last;
    assert_string_equal(c.members[after].facts.name, "sleeper");
    assert_true(after != before);
    UNTIL(&c, c.members[after].heartbeats > 2);
    assert_int_equal(c.members[after].beat.diffusion_busy, 0); /* the RESET took it away */
    paint(&c, ar, 40, after, 42, STEPS);
    until_image(&c, 42);
    assert_expected(job_of(&c, 42));
    assert_int_equal(c.members[before].lost, 1);
    assert_int_equal(c.members[before].late, 0);
    assert_int_equal(job_of(&c, 41)->steps, steps);
    assert_int_equal(job_of(&c, 41)->images, 0);
    cluster_close(&c);
}

/* A new leader may give the same job ids again: nothing of the old jobs may reach it. */
static void workers_find_the_next_coordinator(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", NULL);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", NULL);
    draw(&c, ar, 50);
    paint(&c, ar, 50, diffusion, 51, MANY_STEPS);
    UNTIL(&c, job_of(&c, 51)->steps > 2);
    cluster_unserve(&c); /* says nothing about the jobs */
    assert_int_equal(c.members[ar].lost + c.members[diffusion].lost, 0);
    memset(c.members, 0, sizeof c.members);
    memset(c.jobs, 0, sizeof c.jobs);
    c.joins = 0;
    cluster_serve(&c, 2, 20 * DIP_SECOND_NS);
    UNTIL(&c, c.joins == 2);
    assert_int_equal(c.jobs[0].id, 0);
    bool is_first_ar = c.members[1].slots.roles == DIP_ROLE_AR;
    ar = is_first_ar ? 1 : 2;
    diffusion = is_first_ar ? 2 : 1;
    draw(&c, ar, 50);
    paint(&c, ar, 50, diffusion, 51, STEPS);
    until_image(&c, 51);
    assert_expected(job_of(&c, 51));
    assert_int_equal(job_of(&c, 50)->prefilled, 1);
    assert_int_equal(job_of(&c, 51)->conditioned, 1);
    cluster_close(&c);
}

/* A leader of the past that wakes up gets no workers. */
static void an_old_leader_gets_nobody(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    dip_hub_set_epoch(c.hub, 9);
    cluster_start(&c, "d", "diffusion", NULL);
    cluster_unserve(&c);
    memset(c.members, 0, sizeof c.members);
    c.joins = 0;
    cluster_serve(&c, 8, 20 * DIP_SECOND_NS);
    int64_t until_ns = dip_clock_now_ns() + 2 * DIP_SECOND_NS; /* many tries */
    while (dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(c.loop, INT64_C(50) * DIP_MS_NS);
    for (int i = 0; i <= CLUSTER_MEMBERS; i++)
        assert_int_equal(c.members[i].appeared, 0);
    dip_hub_set_epoch(c.hub, 10);
    UNTIL(&c, c.joins == 1);
    cluster_close(&c);
}

/* SIGTERM: what runs is finished, what is held stays until it is released, then the process exits.
 */
static void a_worker_that_is_told_to_stop_finishes_first(void **state)
{
    (void)state;
    struct cluster c;
    int ar_process = 0, diffusion_process = 0, status = -1;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t ar = cluster_start(&c, "a", "ar", &ar_process);
    uint32_t diffusion = cluster_start(&c, "d", "diffusion", &diffusion_process);
    draw(&c, ar, 60);
    kill(c.pids[ar_process], SIGTERM);
    UNTIL(&c, c.members[ar].leaving);
    struct dip_message drain = {.kind = DIP_MESSAGE_DRAIN, .as.grace.grace_ns = DIP_SECOND_NS};
    tell(&c, ar, &drain);
    paint(&c, ar, 60, diffusion, 61, 400);
    UNTIL(&c, job_of(&c, 61)->steps > 2);
    kill(c.pids[diffusion_process], SIGTERM);
    UNTIL(&c, c.members[diffusion].leaving);
    until_image(&c, 61);
    assert_int_equal(job_of(&c, 61)->steps, 400);
    UNTIL(&c, c.members[diffusion].lost);
    assert_int_equal(waitpid(c.pids[diffusion_process], &status, 0), c.pids[diffusion_process]);
    c.pids[diffusion_process] = 0;
    assert_int_equal(status, 0);
    assert_int_equal(c.members[ar].lost, 0); /* somebody may still want the hinge */
    tell_release(&c, ar, 60);
    UNTIL(&c, c.members[ar].lost);
    assert_int_equal(waitpid(c.pids[ar_process], &status, 0), c.pids[ar_process]);
    c.pids[ar_process] = 0;
    assert_int_equal(status, 0);
    assert_int_equal(job_of(&c, 60)->failed + job_of(&c, 61)->failed, 0);
    cluster_close(&c);
}

/* DRAIN with no time left: the job comes back and may run elsewhere. */
static void a_drained_job_is_handed_back(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t both = cluster_start(&c, "ad", "both", NULL);
    draw(&c, both, 70);
    paint(&c, both, 70, both, 71, MANY_STEPS);
    UNTIL(&c, job_of(&c, 71)->steps > 2);
    struct dip_message drain = {.kind = DIP_MESSAGE_DRAIN};
    tell(&c, both, &drain);
    UNTIL(&c, job_of(&c, 71)->failed && job_of(&c, 70)->failed);
    assert_int_equal(job_of(&c, 71)->status, DIP_CANCELLED);
    assert_int_equal(job_of(&c, 71)->failed, 1);
    assert_int_equal(c.members[both].lost, 0);
    struct dip_message undrain = {.kind = DIP_MESSAGE_UNDRAIN};
    tell(&c, both, &undrain);
    draw(&c, both, 72);
    paint(&c, both, 72, both, 73, STEPS);
    until_image(&c, 73);
    assert_expected(job_of(&c, 73));
    cluster_close(&c);
}

/* The younger of two processes with one name is the worker. */
static void a_later_start_takes_the_name(void **state)
{
    (void)state;
    struct cluster c;
    cluster_open(&c, 20 * DIP_SECOND_NS);
    uint32_t older = cluster_start(&c, "d", "twin", NULL);
    uint64_t incarnation = c.members[older].facts.incarnation;
    uint32_t younger = cluster_start(&c, "d", "twin", NULL);
    assert_int_equal(c.members[older].lost, 1); /* before the other appeared */
    assert_true(c.members[younger].facts.incarnation > incarnation);
    int64_t until_ns = dip_clock_now_ns() + DIP_SECOND_NS; /* the older one tries again */
    while (dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(c.loop, INT64_C(50) * DIP_MS_NS);
    assert_int_equal(c.members[younger].lost, 0);
    assert_int_equal(c.joins, 2);
    cluster_close(&c);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hinge_goes_from_worker_to_worker),
        cmocka_unit_test(a_killed_worker_is_lost_once_and_replaced),
        cmocka_unit_test(a_stopped_worker_is_lost_and_comes_back),
        cmocka_unit_test(workers_find_the_next_coordinator),
        cmocka_unit_test(an_old_leader_gets_nobody),
        cmocka_unit_test(a_worker_that_is_told_to_stop_finishes_first),
        cmocka_unit_test(a_drained_job_is_handed_back),
        cmocka_unit_test(a_later_start_takes_the_name),
    };
    return cmocka_run_group_tests(tests, make_expected, NULL);
}
