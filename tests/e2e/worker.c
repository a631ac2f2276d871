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

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hinge_goes_from_worker_to_worker),
    };
    return cmocka_run_group_tests(tests, make_expected, NULL);
}
