/* tests/unit/rpc_call.c - the four kinds of call over loopback, and everything that ends one. */
#include "tests/unit/rpc_harness.h"

static struct pair p;

static int setup(void **state)
{
    (void)state;
    pair_open(&p, &(struct dip_rpc_server_options){.message_bytes_max = 1 << 20,
                                                   .request_ns = 2 * DIP_SECOND_NS});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

static void a_unary_call_is_answered(void **state)
{
    (void)state;
    struct seen seen;
    pair_ask(&p, ECHO, &seen, "a red apple");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_int_equal(seen.messages, 1);
    assert_string_equal(seen.last, "a red apple");
    WAIT_UNTIL(p.loop, p.served[ECHO].closes);
    assert_int_equal(p.served[ECHO].opens, 1);
    assert_int_equal(p.served[ECHO].code, DIP_RPC_OK);
}

static void an_empty_message_is_a_message(void **state)
{
    (void)state;
    struct seen seen;
    pair_ask(&p, ECHO, &seen, "");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_int_equal(seen.messages, 1);
    assert_int_equal(seen.bytes, 0);
}

static void a_stream_arrives_in_full(void **state)
{
    (void)state;
    struct seen seen;
    p.served[STREAM].send_left = 300;
    p.served[STREAM].send_bytes = 10000;
    pair_ask(&p, STREAM, &seen, "");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_int_equal(seen.messages, 300);
    assert_int_equal(seen.bytes, 300 * 10000);
}

static void a_client_stream_is_collected(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, COLLECT, &seen, 0);
    for (int i = 0; i < 40; i++) {
        while (send_bytes(call, 50000) == DIP_BUSY)
            dip_rpc_loop_turn(p.loop, DIP_SECOND_NS);
    }
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_string_equal(seen.last, "2000000");
}

static void both_talk_at_once(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, CHAT, &seen, 0);
    for (int i = 1; i <= 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "word %d", i);
        assert_int_equal(send_text(call, text, 0), DIP_OK);
        WAIT_UNTIL(p.loop, seen.messages == i);
        assert_string_equal(seen.last, text);
    }
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
}

static void an_error_carries_its_details(void **state)
{
    (void)state;
    struct seen seen;
    pair_ask(&p, HANG, &seen, "");
    WAIT_UNTIL(p.loop, p.served[HANG].messages);
    dip_rpc_call_finish(
        p.served[HANG].call,
        &(struct dip_rpc_status){.code = DIP_RPC_UNAVAILABLE,
                                 .message = "viel zu tun \xe2\x80\x93 sp\xc3\xa4ter",
                                 .details = "\x08\x0e\x00\xff",
                                 .details_bytes = 4,
                                 .has_pushback = true,
                                 .pushback_ns = INT64_C(2500) * DIP_MS_NS});
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAVAILABLE);
    assert_string_equal(seen.text, "viel zu tun \xe2\x80\x93 sp\xc3\xa4ter");
    assert_int_equal(seen.details_bytes, 4);
    assert_memory_equal(seen.details, "\x08\x0e\x00\xff", 4);
    assert_true(seen.has_pushback);
    assert_int_equal(seen.pushback_ns, INT64_C(2500) * DIP_MS_NS);
    WAIT_UNTIL(p.loop, p.served[HANG].closes);
    assert_int_equal(p.served[HANG].code, DIP_RPC_UNAVAILABLE);

    pair_ask(&p, HANG, &seen, "");
    WAIT_UNTIL(p.loop, p.served[HANG].messages == 2);
    dip_rpc_call_finish(p.served[HANG].call,
                        &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED,
                                                 .has_pushback = true,
                                                 .pushback_ns = -1});
    WAIT_UNTIL(p.loop, seen.closes);
    assert_true(seen.has_pushback);
    assert_true(seen.pushback_ns < 0);
}

/* Trailers are there when the call ends, and not longer. */
static void close_with_trailers(void *context, struct dip_rpc_call *call,
                                const struct dip_rpc_status *status)
{
    const char *value;
    size_t bytes;
    seen_close(context, call, status);
    assert_true(dip_rpc_call_metadata(call, "x-last-bin", &value, &bytes));
    assert_int_equal(bytes, 2);
    assert_memory_equal(value, "\x00\xff", 2);
    assert_true(dip_rpc_call_metadata(call, "x-first", &value, &bytes));
}

static void metadata_goes_both_ways(void **state)
{
    static const struct dip_rpc_handler handler = {.on_close = close_with_trailers};
    (void)state;
    struct seen seen = {0};
    struct dip_rpc_call *call = NULL;
    const struct dip_rpc_pair headers[] = {
        {"authorization", "Bearer abc"},
        {"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}};
    const struct dip_rpc_pair illegal[] = {{"Authorization", "upper case"}};
    struct dip_rpc_call_options options = {.path = p.methods[HANG_STREAM].path,
                                           .headers = illegal,
                                           .header_count = 1,
                                           .handler = &handler,
                                           .context = &seen};
    assert_int_equal(dip_rpc_call_open(p.channel, &options, &call), DIP_INVALID);
    assert_null(call);
    options.headers = headers;
    options.header_count = 2;
    assert_int_equal(dip_rpc_call_open(p.channel, &options, &call), DIP_OK);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);

    struct dip_rpc_call *served = p.served[HANG_STREAM].call;
    const char *value;
    size_t bytes;
    assert_true(dip_rpc_call_metadata(served, "authorization", &value, &bytes));
    assert_int_equal(bytes, strlen("Bearer abc"));
    assert_memory_equal(value, "Bearer abc", bytes);
    assert_true(dip_rpc_call_metadata(served, "traceparent", &value, &bytes));
    assert_false(dip_rpc_call_metadata(served, "nothing", &value, &bytes));
    assert_non_null(strstr(dip_rpc_call_peer(served), "127.0.0.1"));
    assert_string_equal(dip_rpc_call_path(served), "/t.T/HangStream");
    assert_int_equal(dip_rpc_call_deadline_ns(served), INT64_MAX);
    assert_false(dip_rpc_call_identity(served, seen.text, sizeof seen.text));

    assert_int_equal(dip_rpc_call_header(served, "x-first", "1", 1), DIP_OK);
    assert_int_equal(dip_rpc_call_trailer(served, "x-last-bin", "\x00\xff", 2), DIP_OK);
    assert_int_equal(dip_rpc_call_trailer(served, "x-last", "\x01", 1), DIP_INVALID);
    dip_rpc_call_send_headers(served);
    WAIT_UNTIL(p.loop, dip_rpc_call_metadata(call, "x-first", &value, &bytes));
    assert_int_equal(dip_rpc_call_header(served, "x-late", "1", 1), DIP_CANCELLED);
    for (int i = 0; i < 7; i++)
        assert_int_equal(dip_rpc_call_trailer(served, "x-more", "1", 1), DIP_OK);
    assert_int_equal(dip_rpc_call_trailer(served, "x-more", "1", 1), DIP_LIMIT);
    finish_ok(served);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
}

static void a_client_that_cancels_is_noticed(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_ask(&p, HANG, &seen, "");
    WAIT_UNTIL(p.loop, p.served[HANG].messages);
    dip_rpc_call_cancel(call, DIP_RPC_CANCELLED, "changed my mind");
    WAIT_UNTIL(p.loop, seen.closes && p.served[HANG].closes);
    assert_int_equal(seen.code, DIP_RPC_CANCELLED);
    assert_int_equal(p.served[HANG].code, DIP_RPC_CANCELLED);

    /* Before anything has left. */
    call = pair_ask(&p, HANG, &seen, "");
    dip_rpc_call_cancel(call, DIP_RPC_CANCELLED, "at once");
    assert_int_equal(send_text(call, "too late", 0), DIP_CANCELLED);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_CANCELLED);
    assert_int_equal(seen.closes, 1);
}

static void a_server_that_cancels_is_noticed(void **state)
{
    (void)state;
    struct seen seen;
    pair_call(&p, HANG_STREAM, &seen, 0);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    dip_rpc_call_cancel(p.served[HANG_STREAM].call, DIP_RPC_INTERNAL, "gave up");
    WAIT_UNTIL(p.loop, seen.closes && p.served[HANG_STREAM].closes);
    assert_int_equal(p.served[HANG_STREAM].code, DIP_RPC_INTERNAL);
    assert_string_equal(p.served[HANG_STREAM].text, "gave up");
    assert_int_equal(seen.code, DIP_RPC_INTERNAL);
}

static void a_deadline_ends_both_sides(void **state)
{
    (void)state;
    struct seen seen;
    int64_t begun_ns = dip_clock_now_ns();
    struct dip_rpc_call *call = pair_call(&p, HANG, &seen, 3 * DIP_SECOND_NS);
    assert_int_equal(send_text(call, "", 0), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, p.served[HANG].messages);
    /* The wire carries the time left: what it took to come here is added, and it is rounded up. */
    int64_t elapsed_ns = dip_clock_now_ns() - begun_ns;
    int64_t given_ns = dip_rpc_call_deadline_ns(p.served[HANG].call) - begun_ns;
    assert_true(given_ns >= INT64_C(2990) * DIP_MS_NS);
    assert_true(given_ns <= INT64_C(3050) * DIP_MS_NS + elapsed_ns);
    WAIT_UNTIL(p.loop, seen.closes && p.served[HANG].closes);
    assert_int_equal(seen.code, DIP_RPC_DEADLINE_EXCEEDED);
    /* The client's own clock may end the stream first, then the server sees it leave. */
    assert_true(p.served[HANG].code == DIP_RPC_DEADLINE_EXCEEDED ||
                p.served[HANG].code == DIP_RPC_CANCELLED);
    assert_true(dip_clock_now_ns() - begun_ns >= INT64_C(2980) * DIP_MS_NS);
}

static void a_message_that_is_too_large_is_refused(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, ECHO, &seen, 0); /* above the server's ceiling */
    assert_int_equal(send_bytes(call, (1 << 20) + 1), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(p.served[ECHO].opens, 0);

    p.methods[CHAT].request_bytes_max = 100; /* above the method's */
    call = pair_call(&p, CHAT, &seen, 0);
    assert_int_equal(send_bytes(call, 100), DIP_OK);
    WAIT_UNTIL(p.loop, seen.messages == 1);
    assert_int_equal(send_bytes(call, 101), DIP_OK);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(seen.text, "a message of 101 bytes, at most 100 are taken");
    assert_int_equal(p.served[CHAT].messages, 1);
}

static void an_unknown_method_is_unimplemented(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct dip_rpc_call *call = NULL;
    assert_int_equal(dip_rpc_call_open(p.channel,
                                       &(struct dip_rpc_call_options){.path = "/t.T/Nothing",
                                                                      .handler = &seen_handler,
                                                                      .context = &seen},
                                       &call),
                     DIP_OK);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNIMPLEMENTED);
    assert_string_equal(seen.text, "unknown method /t.T/Nothing");
}

static void a_method_of_one_request_gets_one(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, ECHO, &seen, 0);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNIMPLEMENTED);

    call = pair_call(&p, ECHO, &seen, 0);
    assert_int_equal(send_text(call, "one", 0), DIP_OK);
    assert_int_equal(send_text(call, "two", 0), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNIMPLEMENTED);

    call = pair_call(&p, ECHO, &seen, 0); /* and never half-closes */
    assert_int_equal(send_text(call, "one", 0), DIP_OK);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_DEADLINE_EXCEEDED);
    assert_int_equal(p.served[ECHO].opens, 0);
}

static void a_paused_reader_slows_its_peer(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, HANG_STREAM, &seen, 0);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    dip_rpc_call_pause(p.served[HANG_STREAM].call);
    int sent = 0;
    for (int idle = 0; idle < 5;) { /* until nothing moves for a while */
        if (send_bytes(call, 100000) == DIP_OK) {
            sent++;
            idle = 0;
        } else {
            int before = dip_rpc_call_queued(call);
            dip_rpc_loop_turn(p.loop, INT64_C(50) * DIP_MS_NS);
            idle += dip_rpc_call_queued(call) == before;
        }
        assert_true(sent < 1000);
    }
    assert_true(p.served[HANG_STREAM].messages <= 1);
    dip_rpc_call_resume(p.served[HANG_STREAM].call);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].half_closes);
    assert_int_equal(p.served[HANG_STREAM].messages, sent);
    finish_ok(p.served[HANG_STREAM].call);
    WAIT_UNTIL(p.loop, seen.closes);
}

static void a_closed_channel_ends_its_calls(void **state)
{
    (void)state;
    struct seen paused, waiting;
    p.served[STREAM].send_left = 1000;
    p.served[STREAM].send_bytes = 100000;
    struct dip_rpc_call *call = pair_ask(&p, STREAM, &paused, "");
    dip_rpc_call_pause(call);
    pair_ask(&p, HANG, &waiting, "");
    WAIT_UNTIL(p.loop, p.served[HANG].messages && p.served[STREAM].send_left < 990);
    dip_rpc_channel_close(p.channel);
    WAIT_UNTIL(p.loop, paused.closes && waiting.closes);
    assert_int_equal(paused.code, DIP_RPC_CANCELLED);
    assert_int_equal(waiting.code, DIP_RPC_CANCELLED);
    WAIT_UNTIL(p.loop, p.served[HANG].closes && p.served[STREAM].closes);
    pair_connect(&p);
}

static void ids_find_live_calls_only(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_ask(&p, ECHO, &seen, "x");
    uint64_t id = dip_rpc_call_id(call);
    assert_true(id != 0);
    assert_ptr_equal(dip_rpc_call_find(p.loop, id), call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_null(dip_rpc_call_find(p.loop, id));
    assert_null(dip_rpc_call_find(p.loop, 0));
    assert_null(dip_rpc_call_find(p.loop, UINT64_MAX));
}

static void nobody_there_is_unavailable(void **state)
{
    (void)state;
    struct seen seen;
    pair_unserve(&p, 0);
    pair_ask(&p, ECHO, &seen, "x");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_unary_call_is_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_message_is_a_message, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stream_arrives_in_full, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_stream_is_collected, setup, teardown),
        cmocka_unit_test_setup_teardown(both_talk_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_error_carries_its_details, setup, teardown),
        cmocka_unit_test_setup_teardown(metadata_goes_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_cancels_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_server_that_cancels_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_deadline_ends_both_sides, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_that_is_too_large_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unknown_method_is_unimplemented, setup, teardown),
        cmocka_unit_test_setup_teardown(a_method_of_one_request_gets_one, setup, teardown),
        cmocka_unit_test_setup_teardown(a_paused_reader_slows_its_peer, setup, teardown),
        cmocka_unit_test_setup_teardown(a_closed_channel_ends_its_calls, setup, teardown),
        cmocka_unit_test_setup_teardown(ids_find_live_calls_only, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_there_is_unavailable, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
