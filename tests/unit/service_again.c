/* tests/unit/service_again.c - requests that are met again: repeated, watched, detached, left,
 * and readers that are slow. */
#include "tests/unit/service_harness.h"

static void same_file(const struct answer *one, const struct answer *other)
{
    assert_true(one->files[0].is_right);
    assert_true(other->files[0].is_right);
    assert_int_equal(one->files[0].bytes, other->files[0].bytes);
    assert_memory_equal(one->files[0].data, other->files[0].data, one->files[0].bytes);
}

static void a_repeated_request_gets_the_kept_result(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("again");
    run_generate(&f, &request, &a);
    run_generate(&f, &request, &b);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_int_equal(b.seed, a.seed); /* drawn once */
    same_file(&a, &b);
    assert_int_equal(dip_stub_stats(f.stub).ar, 1);
    request.prompt = (char *)(uintptr_t) "a blue circle";
    run_generate(&f, &request, &c);
    check_error(&c, DIP_REASON_REQUEST_ID_REUSED);
    assert_int_equal(c.event_count, 0);
    assert_true(c.has_pushback && c.pushback_ns < 0);
}

static void a_repeated_request_joins_the_running_one(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("again");
    hold_generate(&f, &request, &a);
    admit_generate(&f, &request, &b);
    assert_int_equal(b.events[0].kind, DIPTYCH__V1__EVENT__KIND_ADMITTED);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, a.closes && b.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_int_equal(b.code, DIP_RPC_OK);
    same_file(&a, &b);
    check_sequence(&a);
    assert_int_equal(dip_stub_stats(f.stub).ar, 1);
}

static void what_failed_for_load_may_run_again_under_its_id(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_lose(f.stub, 1);
    dip_stub_lose(f.stub, 2);
    Diptych__V1__GenerateRequest request = a_request("again");
    run_generate(&f, &request, &a);
    check_error(&a, DIP_REASON_NO_WORKERS);
    dip_stub_join(f.stub, f.daemon);
    run_generate(&f, &request, &b);
    assert_int_equal(b.code, DIP_RPC_OK);
}

static void a_watcher_sees_what_is_kept_under_its_numbers(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    request.n = 3;
    run_generate(&f, &request, &a);
    ask_watch(&f, a.id, 0, &b);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_int_equal(count_kind(&b, DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE), 3);
    assert_int_equal(b.events[b.event_count - 1].kind, DIPTYCH__V1__EVENT__KIND_COMPLETED);
    assert_int_equal(b.events[b.event_count - 1].sequence, a.events[a.event_count - 1].sequence);
    same_file(&a, &b);
    ask_watch(&f, a.id, b.events[b.event_count - 1].sequence - 1, &c);
    WAIT_UNTIL(f.loop, c.closes);
    assert_int_equal(c.event_count, 1);
    assert_int_equal(c.events[0].kind, DIPTYCH__V1__EVENT__KIND_COMPLETED);
}

static void a_watcher_of_a_failure_gets_the_failure(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("gone");
    hold_generate(&f, &request, &a);
    assert_int_equal(ask_cancel(&f, "gone", &b), DIPTYCH__V1__JOB_STATE__JOB_STATE_CANCELLED);
    WAIT_UNTIL(f.loop, a.closes);
    ask_watch(&f, "gone", 0, &c);
    WAIT_UNTIL(f.loop, c.closes);
    check_error(&c, DIP_REASON_CANCELLED);
    /* Cancelling again changes nothing, and neither does asking for the same again. */
    assert_int_equal(ask_cancel(&f, "gone", &b), DIPTYCH__V1__JOB_STATE__JOB_STATE_CANCELLED);
    answer_free(&b);
    run_generate(&f, &request, &b);
    check_error(&b, DIP_REASON_CANCELLED);
}

static void cancelling_what_has_succeeded_says_so(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("done");
    run_generate(&f, &request, &a);
    assert_int_equal(ask_cancel(&f, "done", &b), DIPTYCH__V1__JOB_STATE__JOB_STATE_SUCCEEDED);
}

static void a_client_that_leaves_frees_the_workers(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("left");
    hold_generate(&f, &request, &a);
    assert_int_equal(dip_stub_stats(f.stub).jobs, 1);
    dip_rpc_call_cancel(a.call, DIP_RPC_CANCELLED, "bye");
    WAIT_UNTIL(f.loop, dip_stub_stats(f.stub).jobs == 0);
    assert_int_equal(dip_coordinator_daemon_queue(f.daemon).images, 0);
    assert_int_equal(dip_coordinator_daemon_stats(f.daemon)->cancelled, 1);
    ask_watch(&f, "left", 0, &b); /* told why, in a way that a program can tell from Cancel */
    WAIT_UNTIL(f.loop, b.closes);
    check_error(&b, DIP_REASON_CANCELLED);
    assert_string_equal(b.error.facts[0].key, "cause");
    assert_string_equal(b.error.facts[0].value, "client_left");
    answer_free(&b);
    dip_stub_hold(f.stub, false);
    run_generate(&f, &request, &b); /* it comes back: the work is done after all */
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_true(b.files[0].is_right);
}

static void a_detached_request_outlives_its_client(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("detached");
    Diptych__V1__Scheduling scheduling = DIPTYCH__V1__SCHEDULING__INIT;
    scheduling.detach = true;
    request.scheduling = &scheduling;
    admit_generate(&f, &request, &a);
    dip_rpc_call_cancel(a.call, DIP_RPC_CANCELLED, "bye");
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_stats(f.daemon)->streams == 0);
    ask_watch(&f, "detached", a.events[0].sequence, &b);
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_stats(f.daemon)->streams == 1);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_true(b.files[0].is_right);
}

static void a_call_that_runs_out_of_time_cancels(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("");
    ask(&f,
        &(struct asking){.path = "/diptych.v1.ImageService/Generate",
                         .is_events = true,
                         .timeout_ns = INT64_C(400) * DIP_MS_NS},
        &request.base, &a);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_DEADLINE_EXCEEDED);
    WAIT_UNTIL(f.loop, dip_stub_stats(f.stub).jobs == 0);
    assert_int_equal(dip_coordinator_daemon_queue(f.daemon).images, 0);
}

/* ---- results are kept for a while only ---- */

static void old_results_make_room(void **state)
{
    (void)state;
    f.options.result_count_max = 2;
    front_open(&f);
    char ids[4][65];
    for (int i = 0; i < 4; i++) {
        Diptych__V1__GenerateRequest request = a_request("");
        run_generate(&f, &request, &a);
        memcpy(ids[i], a.id, sizeof ids[i]);
        answer_free(&a);
    }
    assert_int_equal(dip_coordinator_daemon_stats(f.daemon)->results, 2);
    for (int i = 0; i < 4; i++) {
        ask_watch(&f, ids[i], 0, &a);
        WAIT_UNTIL(f.loop, a.closes);
        if (i < 2)
            check_error(&a, DIP_REASON_REQUEST_UNKNOWN);
        else
            assert_int_equal(a.code, DIP_RPC_OK);
        answer_free(&a);
    }
}

static void bytes_make_room_and_so_does_time(void **state)
{
    (void)state;
    f.options.result_bytes_max = 3 << 20;
    f.options.result_ns = DIP_SECOND_NS;
    f.stub_options.png_bytes = 1 << 20;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    for (int i = 0; i < 8; i++) {
        run_generate(&f, &request, &a);
        assert_true(a.files[0].is_right);
        answer_free(&a);
        assert_true(dip_coordinator_daemon_stats(f.daemon)->result_bytes <= 3 << 20);
    }
    assert_in_range(dip_coordinator_daemon_stats(f.daemon)->results, 1, 2);
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_stats(f.daemon)->results == 0);
    assert_int_equal(dip_coordinator_daemon_stats(f.daemon)->result_bytes, 0);
}

/* ---- slow readers ---- */

static void a_slow_reader_gets_whole_files_and_no_stale_previews(void **state)
{
    (void)state;
    f.stub_options.png_bytes = 3 << 20;
    f.stub_options.step_ns = INT64_C(5) * DIP_MS_NS;
    f.window_bytes = 64 << 10;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling sampling = with_steps(9);
    Diptych__V1__Progress progress = DIPTYCH__V1__PROGRESS__INIT;
    progress.previews = 8;
    progress.preview_max_edge = 1024;
    request.sampling = &sampling;
    request.progress = &progress;
    request.n = 4;
    admit_generate(&f, &request, &a);
    dip_rpc_call_pause(a.call);
    /* Everything is made while the client looks away. */
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_queue(f.daemon).images == 0);
    dip_rpc_call_resume(a.call);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
    check_sequence(&a); /* what was never made has no number */
    for (int i = 0; i < 4; i++)
        assert_true(a.files[i].is_right);
}

static void a_reader_that_stops_is_cut_and_may_come_back(void **state)
{
    (void)state;
    f.stub_options.png_bytes = 3 << 20;
    f.window_bytes = 64 << 10;
    f.options.stall_ns = INT64_C(500) * DIP_MS_NS;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("slow");
    request.n = 2;
    ask_generate(&f, &request, &a);
    dip_rpc_call_pause(a.call);
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_stats(f.daemon)->streams_stalled == 1);
    dip_rpc_call_resume(a.call);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_not_equal(a.code, DIP_RPC_OK);
    const struct dip_front_stats *stats = dip_coordinator_daemon_stats(f.daemon);
    assert_int_equal(stats->calls_failed[DIP_FRONT_METHOD_GENERATE][DIP_REASON_SLOW_READER], 1);
    assert_int_equal(stats->cancelled, 0);
    ask_watch(&f, "slow", 0, &b);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_true(b.files[0].is_right);
    assert_true(b.files[1].is_right);
}

/* All of it was made and given to the call before the reader stopped: not OK all the same. */
static void who_does_not_take_the_end_was_not_served(void **state)
{
    (void)state;
    f.stub_options.png_bytes = 512 << 10;
    f.window_bytes = 64 << 10;
    f.options.stall_ns = INT64_C(500) * DIP_MS_NS;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("end");
    ask_generate(&f, &request, &a);
    dip_rpc_call_pause(a.call);
    const struct dip_front_stats *stats = dip_coordinator_daemon_stats(f.daemon);
    WAIT_UNTIL(f.loop, stats->streams_stalled == 1);
    assert_int_equal(stats->calls_failed[DIP_FRONT_METHOD_GENERATE][DIP_REASON_SLOW_READER], 1);
    assert_int_equal(stats->calls_ok[DIP_FRONT_METHOD_GENERATE], 0);
    assert_int_equal(stats->succeeded, 1); /* the request was */
    dip_rpc_call_resume(a.call);
    WAIT_UNTIL(f.loop, a.closes);
}

/* The line of the first reader hangs, unnoticed, with half of the images; whoever has come back on
 * another one hears of the other half. */
static void who_comes_back_does_not_wait_for_a_line_that_hangs(void **state)
{
    (void)state;
    f.stub_options.png_bytes = 1 << 20;
    f.stub_options.slots = 1;
    f.stub_options.step_ns = INT64_C(100) * DIP_MS_NS;
    f.window_bytes = 64 << 10;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("hangs");
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    sampling.diffusion_steps_presence_case =
        DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
    sampling.diffusion_steps = 40;
    request.sampling = &sampling;
    request.n = 4;
    admit_generate(&f, &request, &a);
    dip_rpc_call_pause(a.call);
    ask_watch(&f, "hangs", a.events[0].sequence, &b);
    WAIT_UNTIL(f.loop, b.files[0].is_final && b.files[1].is_final);
    int heard = b.event_count;
    WAIT_UNTIL(f.loop, b.event_count >= heard + 3);
    assert_false(b.files[2].is_final || b.files[3].is_final);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_repeated_request_gets_the_kept_result, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_repeated_request_joins_the_running_one, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(what_failed_for_load_may_run_again_under_its_id,
                                        front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_watcher_sees_what_is_kept_under_its_numbers, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_watcher_of_a_failure_gets_the_failure, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(cancelling_what_has_succeeded_says_so, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_frees_the_workers, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_detached_request_outlives_its_client, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_call_that_runs_out_of_time_cancels, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(old_results_make_room, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(bytes_make_room_and_so_does_time, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_slow_reader_gets_whole_files_and_no_stale_previews,
                                        front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_reader_that_stops_is_cut_and_may_come_back, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(who_does_not_take_the_end_was_not_served, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(who_comes_back_does_not_wait_for_a_line_that_hangs,
                                        front_setup, front_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
