/* tests/unit/service_errors.c - the error table of the API, row by row, as a client sees it: code,
 * reason, details, pushback; refusals come before any message. */
#include "tests/unit/service_harness.h"

/* A refusal: no event, and if a client may not try again, it is told so. */
static void check_refused(const struct answer *answer, enum dip_reason reason)
{
    check_error(answer, reason);
    assert_int_equal(answer->event_count, 0);
    if (dip_reason_retry(reason) == DIP_RETRY_NEVER) {
        assert_true(answer->has_pushback);
        assert_true(answer->pushback_ns < 0);
    }
    if (dip_reason_retry(reason) == DIP_RETRY_LATER) {
        assert_true(answer->has_pushback);
        assert_true(answer->pushback_ns > 0);
        assert_true(answer->error.has_retry);
    }
}

static void refused(const Diptych__V1__GenerateRequest *request, enum dip_reason reason,
                    const char *field)
{
    answer_free(&a);
    ask_generate(&f, request, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_refused(&a, reason);
    if (!field)
        return;
    assert_int_equal(a.error.field_count, 1);
    assert_string_equal(a.error.fields[0].field, field);
}

#define BAD(field) refused(&request, DIP_REASON_BAD_FIELD, field)

static void every_field_is_checked(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    request.prompt = (char *)(uintptr_t) "";
    BAD("prompt");
    request = a_request("");
    request.n = 17;
    BAD("n");
    request.n = UINT32_MAX;
    BAD("n");
    request = a_request("no/slash");
    BAD("request_id");
    request = a_request("an-id-that-is-longer-than-the-sixty-four-bytes-that-an-id-may-have-here");
    BAD("request_id");
}

static void every_number_of_sampling_is_checked(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling s = DIPTYCH__V1__SAMPLING__INIT;
    request.sampling = &s;
    s.diffusion_steps_presence_case =
        DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
    s.diffusion_steps = 0;
    BAD("sampling.diffusion_steps");
    s.diffusion_steps = 1001;
    BAD("sampling.diffusion_steps");
    diptych__v1__sampling__init(&s);
    s.guidance_scale_presence_case = DIPTYCH__V1__SAMPLING__GUIDANCE_SCALE_PRESENCE_GUIDANCE_SCALE;
    s.guidance_scale = -1;
    BAD("sampling.guidance_scale");
    s.guidance_scale = (float)(0.0 / 0.0);
    BAD("sampling.guidance_scale");
    diptych__v1__sampling__init(&s);
    s.temperature_presence_case = DIPTYCH__V1__SAMPLING__TEMPERATURE_PRESENCE_TEMPERATURE;
    s.temperature = 0;
    BAD("sampling.temperature");
    diptych__v1__sampling__init(&s);
    s.top_p_presence_case = DIPTYCH__V1__SAMPLING__TOP_P_PRESENCE_TOP_P;
    s.top_p = 1.5F;
    BAD("sampling.top_p");
    diptych__v1__sampling__init(&s);
    s.top_k_presence_case = DIPTYCH__V1__SAMPLING__TOP_K_PRESENCE_TOP_K;
    s.top_k = 0;
    BAD("sampling.top_k");
    s.top_k = 1u << 31;
    BAD("sampling.top_k");
    diptych__v1__sampling__init(&s);
    s.sampler = 77;
    BAD("sampling.sampler");
    s.sampler = 0;
    s.determinism = 9;
    BAD("sampling.determinism");
}

static void what_the_model_cannot_do_is_refused_by_name(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Sampling s = DIPTYCH__V1__SAMPLING__INIT;
    Diptych__V1__Output o = DIPTYCH__V1__OUTPUT__INIT;
    s.negative_prompt = (char *)(uintptr_t) "blue";
    request.sampling = &s;
    BAD("sampling.negative_prompt");
    request.sampling = NULL;
    request.output = &o;
    o.format = DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_JPEG;
    BAD("output.format");
    o.format = DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_RAW_RGB8;
    BAD("output.format");
    o.format = 0;
    o.quality_presence_case = DIPTYCH__V1__OUTPUT__QUALITY_PRESENCE_QUALITY;
    o.quality = 90;
    BAD("output.quality");
}

static void sizes_and_progress_are_checked(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    Diptych__V1__Output o = DIPTYCH__V1__OUTPUT__INIT;
    Diptych__V1__Progress p = DIPTYCH__V1__PROGRESS__INIT;
    Diptych__V1__Scheduling s = DIPTYCH__V1__SCHEDULING__INIT;
    Google__Protobuf__Duration d = GOOGLE__PROTOBUF__DURATION__INIT;
    request.output = &o;
    o.width = 1;
    BAD("output.width");
    o.width = 100000;
    BAD("output.width");
    o.width = 0;
    o.height = 3;
    BAD("output.height");
    request.output = NULL;
    request.progress = &p;
    p.previews = 9;
    BAD("progress.previews");
    p.previews = 0;
    p.preview_max_edge = 2000;
    BAD("progress.preview_max_edge");
    p.preview_max_edge = 0;
    p.min_interval = &d;
    d.nanos = 1;
    BAD("progress.min_interval");
    d.nanos = -1;
    BAD("progress.min_interval");
    d.nanos = 0;
    d.seconds = 2;
    BAD("progress.min_interval");
    request.progress = NULL;
    request.scheduling = &s;
    s.priority = 12;
    BAD("scheduling.priority");
    s.priority = 0;
    s.max_queue_time = &d;
    d.seconds = -1;
    BAD("scheduling.max_queue_time");
}

static void a_prompt_that_is_too_long_says_how_long(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    static char prompt[20001];
    memset(prompt, 'a', 20000);
    request.prompt = prompt;
    refused(&request, DIP_REASON_PROMPT_TOO_LONG, "prompt");
    assert_string_equal(fact(&a, "limit"), "16384 bytes");
    assert_string_equal(fact(&a, "length"), "20000 bytes");
    for (int i = 0; i < 16000; i++)
        prompt[i] = (char)(i % 2 ? ' ' : 'a' + i % 23);
    prompt[16000] = '\0';
    refused(&request, DIP_REASON_PROMPT_TOO_LONG, "prompt");
    assert_non_null(strstr(fact(&a, "limit"), "tokens"));
    assert_non_null(strstr(fact(&a, "length"), "tokens"));
}

static void bytes_that_are_no_message_are_malformed(void **state)
{
    (void)state;
    front_open(&f);
    static const struct asking asking = {.path = "/diptych.v1.ImageService/Generate",
                                         .is_events = true};
    ask_bytes(&f, &asking, "\xff\xff\xff", 3, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_refused(&a, DIP_REASON_MALFORMED);
    answer_free(&a); /* one whose field cannot be read names it: a prompt that is not UTF-8 */
    ask_bytes(&f, &asking, "\x1a\x02\xc3\x28", 4, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_refused(&a, DIP_REASON_BAD_FIELD);
    assert_string_equal(a.text, "prompt: must be UTF-8 without NUL");
}

/* Also beyond what the transport takes for any method. */
static void a_message_that_is_too_large_says_how_large(void **state)
{
    (void)state;
    static const struct asking asking = {.path = "/diptych.v1.ImageService/Generate",
                                         .is_events = true};
    static const size_t sizes[] = {65537, 20 << 20};
    static char large[20 << 20];
    front_open(&f);
    for (int i = 0; i < 2; i++) {
        char length[24];
        snprintf(length, sizeof length, "%zu", sizes[i]);
        answer_free(&a);
        ask_bytes(&f, &asking, large, sizes[i], &a);
        WAIT_UNTIL(f.loop, a.closes);
        check_refused(&a, DIP_REASON_MESSAGE_TOO_LARGE);
        assert_string_equal(fact(&a, "length"), length);
        assert_string_equal(fact(&a, "limit"), "65536");
    }
}

static void an_unknown_model_is_not_found(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    request.model = (char *)(uintptr_t) "huge";
    refused(&request, DIP_REASON_MODEL_UNKNOWN, NULL);
    assert_string_equal(fact(&a, "model"), "huge");
    assert_string_equal(fact(&a, "known"), "tiny");
    request.model = (char *)(uintptr_t) "\x1b[2J\n"; /* a terminal would obey it */
    refused(&request, DIP_REASON_MODEL_UNKNOWN, NULL);
    assert_string_equal(a.text, "there is no model \"?[2J?\" here; there is \"tiny\"");
}

static void an_unknown_request_is_not_found(void **state)
{
    (void)state;
    front_open(&f);
    ask_watch(&f, "nobodys", 0, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_refused(&a, DIP_REASON_REQUEST_UNKNOWN);
    answer_free(&a);
    assert_int_equal(ask_cancel(&f, "nobodys", &a), -1);
    check_refused(&a, DIP_REASON_REQUEST_UNKNOWN);
    static const char *const ids[] = {"", "no/slash", "\x1b[31m"}; /* nobody can have them */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ask_cancel(&f, ids[i], &a), -1);
        check_refused(&a, DIP_REASON_BAD_FIELD);
        assert_string_equal(fact(&a, "field"), "request_id");
    }
}

static void a_full_queue_says_when_to_come_again(void **state)
{
    (void)state;
    f.options.request_count_max = 1;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &b);
    refused(&request, DIP_REASON_OVERLOADED, NULL);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
}

static void a_tenant_has_a_quota(void **state)
{
    (void)state;
    f.options.tenant_request_count_max = 1;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &b);
    refused(&request, DIP_REASON_QUOTA, NULL);
    assert_true(a.error.has_quota);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    answer_free(&b);
    run_generate(&f, &request, &b); /* there is room again */
    assert_int_equal(b.code, DIP_RPC_OK);
}

static void without_workers_nothing_is_admitted(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_lose(f.stub, 1);
    dip_stub_lose(f.stub, 2);
    Diptych__V1__GenerateRequest request = a_request("");
    refused(&request, DIP_REASON_NO_WORKERS, NULL);
}

/* A coordinator that has just begun to lead expects its workers back. */
static void a_young_leader_lets_requests_wait_for_workers(void **state)
{
    (void)state;
    f.options.expect_ns = 60 * DIP_SECOND_NS;
    front_open(&f);
    dip_stub_lose(f.stub, 1);
    dip_stub_lose(f.stub, 2);
    Diptych__V1__GenerateRequest request = a_request("");
    admit_generate(&f, &request, &a);
    dip_stub_join_one(f.stub, 1);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_OK);
}

static void a_standby_names_the_leader(void **state)
{
    (void)state;
    front_open(&f);
    dip_coordinator_daemon_follow(f.daemon, "10.0.0.7:50051");
    Diptych__V1__GenerateRequest request = a_request("");
    refused(&request, DIP_REASON_NOT_LEADER, NULL);
    assert_string_equal(fact(&a, "leader"), "10.0.0.7:50051");
    answer_free(&a);
    ask_watch(&f, "somebodys", 0, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_refused(&a, DIP_REASON_NOT_LEADER);
    dip_coordinator_daemon_lead(f.daemon, 2);
    dip_stub_join(f.stub, f.daemon);
    answer_free(&a);
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
}

static void what_runs_when_another_leads_ends_so(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &a);
    dip_coordinator_daemon_follow(f.daemon, NULL);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, DIP_REASON_NOT_LEADER);
    assert_int_equal(dip_coordinator_daemon_queue(f.daemon).images, 0);
}

/* Cut off from registry and workers it sends clients to others, until it is of use again. */
static void a_leader_in_doubt_takes_nothing(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &a);
    dip_coordinator_daemon_doubt(f.daemon, true);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, DIP_REASON_NOT_LEADER);
    answer_free(&a);
    refused(&request, DIP_REASON_NOT_LEADER, NULL);
    assert_string_equal(fact(&a, "leader"), "");
    assert_false(dip_coordinator_daemon_is_serving(f.daemon));
    assert_string_equal(dip_coordinator_daemon_view(f.daemon).leader, "");
    answer_free(&a);
    dip_coordinator_daemon_doubt(f.daemon, false);
    dip_stub_hold(f.stub, false);
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
}

static void a_draining_coordinator_finishes_what_it_has(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &b);
    dip_coordinator_daemon_drain(f.daemon, 60 * DIP_SECOND_NS, front_on_stopped, &f);
    refused(&request, DIP_REASON_DRAINING, NULL);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
    assert_true(b.files[0].is_right);
    WAIT_UNTIL(f.loop, f.is_stopped);
}

static void a_drain_that_takes_too_long_is_cut(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &a);
    dip_coordinator_daemon_drain(f.daemon, INT64_C(300) * DIP_MS_NS, front_on_stopped, &f);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, DIP_REASON_DRAINING);
    WAIT_UNTIL(f.loop, f.is_stopped);
}

static void a_deadline_ends_a_request(void **state)
{
    (void)state;
    f.options.deadline_ns = INT64_C(300) * DIP_MS_NS; /* the call itself has none */
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("");
    run_generate(&f, &request, &a);
    check_error(&a, DIP_REASON_DEADLINE);
    assert_int_equal(a.events[0].kind, DIPTYCH__V1__EVENT__KIND_ADMITTED);
    assert_int_equal(dip_stub_stats(f.stub).jobs, 0); /* the workers were told */
}

static void a_wait_has_a_limit_of_its_own(void **state)
{
    (void)state;
    f.stub_options.member_count = 1;
    f.stub_options.slots = 1;
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest request = a_request("");
    ask_generate(&f, &request, &b); /* takes the only slot */
    WAIT_UNTIL(f.loop, b.event_count > 0);
    Diptych__V1__Scheduling s = DIPTYCH__V1__SCHEDULING__INIT;
    Google__Protobuf__Duration d = GOOGLE__PROTOBUF__DURATION__INIT;
    d.nanos = 300 * DIP_MS_NS;
    s.max_queue_time = &d;
    request.scheduling = &s;
    run_generate(&f, &request, &a);
    check_error(&a, DIP_REASON_QUEUE_TIME);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
}

static void a_cancelled_request_says_why(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("mine");
    hold_generate(&f, &request, &a);
    assert_int_equal(ask_cancel(&f, "mine", &b), DIPTYCH__V1__JOB_STATE__JOB_STATE_CANCELLED);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, DIP_REASON_CANCELLED);
    assert_non_null(strstr(a.text, "the test says so"));
    assert_int_equal(dip_stub_stats(f.stub).jobs, 0);
}

static void what_takes_workers_down_is_not_tried_for_ever(void **state)
{
    (void)state;
    f.stub_options.member_count = 4;
    f.options.attempt_count_max = 2;
    front_open(&f);
    Diptych__V1__GenerateRequest request = a_request("");
    hold_generate(&f, &request, &a);
    for (uint32_t i = 1; i <= 4 && !a.closes; i++) {
        dip_stub_lose(f.stub, i);
        dip_rpc_loop_turn(f.loop, DIP_MS_NS);
    }
    WAIT_UNTIL(f.loop, a.closes);
    assert_true(a.has_error);
    assert_true(a.error.reason == DIP_REASON_POISONED || a.error.reason == DIP_REASON_WORKER_LOST);
    assert_int_equal(a.code, dip_reason_code(a.error.reason));
}

static void a_worker_that_cannot_is_our_bug(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_fail_next(f.stub, DIP_CORRUPT);
    Diptych__V1__GenerateRequest request = a_request("");
    run_generate(&f, &request, &a);
    check_error(&a, DIP_REASON_BUG);
    assert_true(fact(&a, "error_id")[0] != '\0');
}

static void a_device_that_fails_costs_a_replay(void **state)
{
    (void)state;
    front_open(&f);
    dip_stub_fail_next(f.stub, DIP_DEVICE);
    Diptych__V1__GenerateRequest request = a_request("");
    run_generate(&f, &request, &a);
    assert_int_equal(a.code, DIP_RPC_OK);
    assert_true(a.files[0].is_right);
    assert_int_equal(count_kind(&a, DIPTYCH__V1__EVENT__KIND_RETRIED), 1);
    assert_int_equal(dip_stub_stats(f.stub).diffusion, 2);
    assert_int_equal(dip_coordinator_daemon_stats(f.daemon)->replays[DIP_SETBACK_DEVICE], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_field_is_checked, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(every_number_of_sampling_is_checked, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(what_the_model_cannot_do_is_refused_by_name, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(sizes_and_progress_are_checked, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_prompt_that_is_too_long_says_how_long, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(bytes_that_are_no_message_are_malformed, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_message_that_is_too_large_says_how_large, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(an_unknown_model_is_not_found, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(an_unknown_request_is_not_found, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_says_when_to_come_again, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_tenant_has_a_quota, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(without_workers_nothing_is_admitted, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_young_leader_lets_requests_wait_for_workers, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_standby_names_the_leader, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(what_runs_when_another_leads_ends_so, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_leader_in_doubt_takes_nothing, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_draining_coordinator_finishes_what_it_has, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_drain_that_takes_too_long_is_cut, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_deadline_ends_a_request, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_wait_has_a_limit_of_its_own, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(a_cancelled_request_says_why, front_setup, front_teardown),
        cmocka_unit_test_setup_teardown(what_takes_workers_down_is_not_tried_for_ever, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_worker_that_cannot_is_our_bug, front_setup,
                                        front_teardown),
        cmocka_unit_test_setup_teardown(a_device_that_fails_costs_a_replay, front_setup,
                                        front_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
