/* tests/unit/service_generate.c - Generate over loopback: events in order, files that are whole. */
#include "tests/unit/service_harness.h"

static void a_request_runs_through(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
    assert_int_equal(a.events[0].kind, DIPTYCH__V1__EVENT__KIND_ADMITTED);
    assert_int_equal(a.events[a.event_count - 1].kind, DIPTYCH__V1__EVENT__KIND_COMPLETED);
    assert_int_equal(a.events[a.event_count - 2].kind, DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE);
    assert_true(a.files[0].is_right);
    assert_true(a.files[0].bytes > 4096); /* the texts have been put in */
    assert_int_equal(a.files[0].seed, a.seed);
    assert_int_equal(strlen(a.fingerprint), 64);
    assert_true(strlen(a.id) >= 26); /* drawn here */
    assert_int_equal(a.images, 1);
    assert_true(a.text_tokens > 0);
    assert_true(a.image_tokens > 0);
    assert_int_equal(dip_stub_stats(f.stub).jobs, 0);
    assert_int_equal(dip_coordinator_daemon_queue(f.daemon).images, 0);
    const struct dip_front_stats *stats = dip_coordinator_daemon_stats(f.daemon);
    assert_int_equal(stats->admitted, 1);
    assert_int_equal(stats->succeeded, 1);
    WAIT_UNTIL(f.loop, stats->calls_ok[DIP_FRONT_METHOD_GENERATE] == 1);
    assert_int_equal(stats->results, 1);
    assert_int_equal(stats->send.count, 1);
    assert_int_equal(a.unknown_stages, 0);
}

static void many_images_come_each_once(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    request.n = 9;
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
    assert_int_equal(count_kind(&a, DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE), 9);
    for (int i = 0; i < 9; i++)
        assert_true(a.files[i].is_right);
    assert_int_equal(a.images, 9);
}

static void a_large_file_comes_in_chunks(void **state)
{
    (void)state;
    f.stub_options.png_bytes = (5 << 20) + 17;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
    assert_int_equal(count_kind(&a, DIPTYCH__V1__EVENT__KIND_CHUNK), 6);
    assert_true(a.files[0].is_right);
    assert_true(a.files[0].bytes > (5 << 20) + 17);
}

static void without_metadata_the_file_is_the_workers(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Output output = DIPTYCH__V1__OUTPUT__INIT;
    output.strip_metadata = true;
    request.output = &output;
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_int_equal(a.files[0].bytes, 4096);
    assert_true(a.files[0].is_right);
}

static void progress_keeps_its_interval_and_its_second(void **state)
{
    (void)state;
    f.stub_options.ar_ns = INT64_C(400) * DIP_MS_NS;
    f.stub_options.step_ns = INT64_C(20) * DIP_MS_NS;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling sampling = with_steps(60);
    Diptych__V1__Progress progress = DIPTYCH__V1__PROGRESS__INIT;
    Google__Protobuf__Duration interval = GOOGLE__PROTOBUF__DURATION__INIT;
    interval.nanos = 100 * DIP_MS_NS;
    progress.min_interval = &interval;
    request.sampling = &sampling;
    request.progress = &progress;
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
    int tokens = count_kind(&a, DIPTYCH__V1__EVENT__KIND_TOKENS);
    int steps = count_kind(&a, DIPTYCH__V1__EVENT__KIND_STEPS);
    assert_in_range(tokens, 1, 20);
    assert_in_range(steps, 2, 30); /* of 60: they have been drawn together */
    int done = -1;
    for (int i = 0; i < a.event_count; i++) {
        if (a.events[i].kind != DIPTYCH__V1__EVENT__KIND_STEPS)
            continue;
        assert_true(a.events[i].done > done);
        done = a.events[i].done;
    }
}

/* A stream never falls silent, whatever the workers do. */
static void something_is_said_every_second(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("");
    ask_generate(&f, &request, &a);
    int64_t begin_ns = dip_clock_now_ns();
    WAIT_UNTIL(f.loop, a.event_count >= 4);
    assert_in_range(dip_clock_now_ns() - begin_ns, 2 * DIP_SECOND_NS, 12 * DIP_SECOND_NS);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
}

static void previews_are_as_many_as_asked_for(void **state)
{
    (void)state;
    f.stub_options.step_ns = INT64_C(10) * DIP_MS_NS;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    Diptych__V1__Progress progress = DIPTYCH__V1__PROGRESS__INIT;
    sampling.diffusion_steps_presence_case =
        DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
    request.sampling = &sampling;
    request.progress = &progress;
    progress.preview_max_edge = 1024;
    for (int previews = 1; previews <= 8; previews += 3) {
        sampling.diffusion_steps = (uint32_t)(previews == 4 ? 20 : 10);
        progress.previews = (uint32_t)previews;
        answer_free(&a);
        run_generate(&f, &request, &a);
        assert_int_equal(a.code, DIP_RPC_OK);
        check_sequence(&a);
        int seen = 0;
        for (int i = 0; i < a.event_count; i++)
            if (a.events[i].kind == DIPTYCH__V1__EVENT__KIND_PREVIEW)
                assert_int_equal(a.events[i].done, seen++);
        /* Under load the reader may be slow, and then newer ones take the place of older ones. */
        if (dip_coordinator_daemon_stats(f.daemon)->previews_dropped == 0)
            assert_int_equal(seen, previews);
    }
}

static void a_check_runs_nothing(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    request.validate_only = true;
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_int_equal(a.event_count, 1);
    assert_int_equal(a.events[0].kind, DIPTYCH__V1__EVENT__KIND_ADMITTED);
    assert_int_equal(dip_stub_stats(f.stub).ar, 0);
    assert_int_equal(dip_coordinator_daemon_stats(f.daemon)->results, 0);
}

static void a_given_seed_is_used(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    sampling.seed_presence_case = DIPTYCH__V1__SAMPLING__SEED_PRESENCE_SEED;
    sampling.seed = 0; /* zero is a seed */
    request.sampling = &sampling;
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_int_equal(a.seed, 0);
    assert_int_equal(a.files[0].seed, 0);
}

static void a_lost_worker_costs_time_only(void **state)
{
    (void)state;
    f.stub_options.step_ns = INT64_C(20) * DIP_MS_NS;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling sampling = with_steps(100);
    request.sampling = &sampling;
    request.n = 2;
    ask_generate(&f, &request, &a);
    WAIT_UNTIL(f.loop, count_kind(&a, DIPTYCH__V1__EVENT__KIND_STEPS) > 0);
    dip_stub_lose(f.stub, 1);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a);
    assert_true(a.files[0].is_right);
    assert_true(a.files[1].is_right);
    assert_true(count_kind(&a, DIPTYCH__V1__EVENT__KIND_RETRIED) > 0);
    for (int i = 0; i < a.event_count; i++)
        if (a.events[i].kind == DIPTYCH__V1__EVENT__KIND_RETRIED)
            assert_int_equal(a.events[i].done, 2);
}

static void many_clients_at_once_are_all_served(void **state)
{
    (void)state;
    enum { CLIENTS = 64 };
    static struct answer answers[CLIENTS];
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    for (int i = 0; i < CLIENTS; i++)
        ask_generate(&f, &request, &answers[i]);
    for (int i = 0; i < CLIENTS; i++) {
        WAIT_UNTIL(f.loop, answers[i].closes);
        assert_int_equal(answers[i].code, DIP_RPC_OK);
        check_sequence(&answers[i]);
        assert_true(answers[i].files[0].is_right);
        answer_free(&answers[i]);
    }
    assert_int_equal(dip_stub_stats(f.stub).jobs, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_runs_through, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(many_images_come_each_once, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_large_file_comes_in_chunks, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(without_metadata_the_file_is_the_workers, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(progress_keeps_its_interval_and_its_second, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(something_is_said_every_second, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(previews_are_as_many_as_asked_for, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_check_runs_nothing, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_given_seed_is_used, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_lost_worker_costs_time_only, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(many_clients_at_once_are_all_served, front_setup,
                                        front_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
