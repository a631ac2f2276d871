/* tests/unit/service_takeover.c - a coordinator whose workers hold work from the one before: a
 * request that is sent again gets it, whichever comes first, and nobody else does. */
#include "tests/unit/service_harness.h"

static struct dip_job_origin origin; /* of the request in question, from the coordinator before */
static uint64_t seed;

static struct dip_message_held picture_of(const struct dip_job_origin *of, uint64_t epoch)
{
    struct dip_held *held = calloc(1, sizeof *held);
    assert_non_null(held);
    *held = (struct dip_held){.epoch = epoch,
                              .job_id = 77,
                              .stage = DIP_HELD_PICTURE,
                              .token_count = 16,
                              .left_ns = 60 * DIP_SECOND_NS};
    memcpy(held->digest, of->digest, sizeof held->digest);
    return (struct dip_message_held){.entries = {held, sizeof *held}};
}

/* The coordinator before: it is asked, and gone with all that it knew. */
static int setup(void **state)
{
    (void)state;
    memset(&f, 0, sizeof f);
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("again");
    run_generate(&f, &request, &a);
    if (a.code != DIP_RPC_OK)
        return -1;
    origin = dip_stub_stats(f.stub).origin;
    seed = a.seed;
    answer_free(&a);
    front_close(&f);
    f.options.epoch = 2;
    f.stub_options.member_count = 1;
    front_open(&f);
    return 0;
}

static void a_request_that_comes_again_is_not_made_again(void **state)
{
    (void)state;
    struct dip_message_held held = picture_of(&origin, 1);
    dip_stub_join_holding(f.stub, 2, &held);
    Diptych__V1__GenerateRequest request = a_request("again");
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_true(a.files[0].is_right);
    assert_int_equal(a.seed, seed); /* it follows from the id */
    assert_int_equal(a.image_tokens, 16);
    check_sequence(&a);
    struct dip_stub_stats stats = dip_stub_stats(f.stub);
    assert_true(stats.adopted == 1 && stats.ar == 0 && stats.diffusion == 0);
    const struct dip_front_stats *front = dip_coordinator_daemon_stats(f.daemon);
    assert_int_equal(front->adopted[DIP_HELD_PICTURE], 1);
    /* Nobody was there to tell how long it was drawn: that is not 0 ms. */
    assert_true(front->stages[DIP_STAGE_DECODE].count == 0);
    assert_true(front->stages[DIP_STAGE_ENCODE].count == 1);
    assert_int_equal(a.unknown_stages, 3); /* prefill, decode, hinge */
    assert_int_equal(dip_coordinator_daemon_queue(f.daemon).images, 0);
}

/* The client is faster than the worker: what was begun meanwhile is given up. */
static void a_worker_that_comes_later_is_asked(void **state)
{
    (void)state;
    struct dip_message_held held = picture_of(&origin, 1);
    Diptych__V1__GenerateRequest request = a_request("again");
    hold_generate(&f, &request, &a);
    assert_int_equal(dip_stub_stats(f.stub).jobs, 1);
    dip_stub_join_holding(f.stub, 2, &held);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_true(a.files[0].is_right);
    assert_int_equal(dip_stub_stats(f.stub).adopted, 1);
    assert_int_equal(dip_stub_stats(f.stub).diffusion, 0);
    assert_int_equal(dip_stub_stats(f.stub).jobs, 0);
}

/* Another request under the same id, and the same one under another: both are made. */
static void nobody_else_gets_it(void **state)
{
    (void)state;
    struct dip_message_held held = picture_of(&origin, 1);
    dip_stub_join_holding(f.stub, 2, &held);
    Diptych__V1__GenerateRequest request = a_request("again");
    request.prompt = (char *)(uintptr_t) "a blue circle";
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    request = a_request("another");
    run_generate(&f, &request, &b);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_int_equal(dip_stub_stats(f.stub).adopted, 0);
    assert_int_equal(dip_stub_stats(f.stub).diffusion, 2);
}

/* What this coordinator gave up itself nobody will ask for: the worker is told so at once. */
static void what_it_gave_up_itself_is_forgotten(void **state)
{
    (void)state;
    struct dip_message_held held = picture_of(&origin, 2);
    dip_stub_join_holding(f.stub, 2, &held);
    assert_int_equal(dip_stub_stats(f.stub).forgotten, 1);
    Diptych__V1__GenerateRequest request = a_request("again");
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_int_equal(dip_stub_stats(f.stub).adopted, 0);
}

/* Without the request itself nothing can be made of it; the answer says what to do. */
static void a_watcher_is_told_to_ask_again(void **state)
{
    (void)state;
    struct dip_message_held held = picture_of(&origin, 1);
    dip_stub_join_holding(f.stub, 2, &held);
    ask_watch(&f, "again", 0, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, DIP_REASON_REQUEST_UNKNOWN);
    assert_non_null(strstr(a.text, "send Generate again under this id"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_that_comes_again_is_not_made_again, setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_worker_that_comes_later_is_asked, setup, front_teardown),
        cmocka_unit_test_setup_teardown(nobody_else_gets_it, setup, front_teardown),
        cmocka_unit_test_setup_teardown(what_it_gave_up_itself_is_forgotten, setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_watcher_is_told_to_ask_again, setup, front_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
