/* tests/unit/rpc_flow.c - readers that are slow, readers that stop, many streams at once, and
 * bytes that are no gRPC. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/rpc_harness.h"

static struct pair p;

static int setup(void **state)
{
    (void)state;
    pair_open(&p, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

/* What is allocated now. The sanitizers' allocators say 0; then only the counts below decide. */
static size_t allocated_bytes(void)
{
    return mallinfo2().uordblks;
}

/* Turns until nothing has happened for a while. */
static void settle(void)
{
    for (int i = 0; i < 3; i++)
        dip_rpc_loop_turn(p.loop, INT64_C(20) * DIP_MS_NS);
}

/* A client that stops reading holds a window of messages and one queue, however much is made. */
static void a_reader_that_stops_costs_a_bounded_amount(void **state)
{
    (void)state;
    enum { BYTES = 64 << 10, TRIES = 20000 };
    struct seen seen;
    dip_rpc_channel_close(p.channel);
    p.window_bytes = 64 << 10;
    pair_connect(&p);
    struct dip_rpc_call *call = pair_call(&p, HANG_STREAM, &seen, 0);
    dip_rpc_call_pause(call);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    struct dip_rpc_call *served = p.served[HANG_STREAM].call;
    size_t before = allocated_bytes();
    int taken = 0, refused = 0;
    while (taken + refused < TRIES) {
        if (send_bytes(served, BYTES) == DIP_OK) {
            taken++;
        } else if (refused++ < 100) {
            settle();
        }
    }
    size_t after = allocated_bytes();
    /* 20,000 x 64 KiB would be 1.2 GiB; the ceiling is our queue of 16, the one that is on its way,
     * and what fits into the client's window. */
    assert_in_range(taken, 17, 20);
    if (after > before)
        assert_true(after - before < (size_t)(taken + 16) * BYTES + (1 << 20));
    dip_rpc_call_resume(call);
    finish_ok(served);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.messages, taken);
    assert_int_equal(seen.code, DIP_RPC_OK);
}

/* Messages of one key replace each other while they wait; others keep their place. */
static void a_preview_that_waits_is_replaced(void **state)
{
    (void)state;
    struct seen seen;
    struct dip_rpc_call *call = pair_call(&p, HANG_STREAM, &seen, 0);
    dip_rpc_call_pause(call);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    struct dip_rpc_call *served = p.served[HANG_STREAM].call;
    int blocks = 0;
    while (dip_rpc_call_queued(served) < 3) { /* fill the windows */
        assert_int_equal(send_bytes(served, 100000), DIP_OK);
        blocks++;
        settle();
    }
    int queued = dip_rpc_call_queued(served);
    for (int i = 0; i < 1000; i++) {
        char text[32];
        snprintf(text, sizeof text, "preview %d", i);
        assert_int_equal(send_text(served, text, 7), DIP_OK);
    }
    assert_int_equal(dip_rpc_call_queued(served), queued + 1);
    assert_int_equal(send_text(served, "the end", 0), DIP_OK);
    assert_int_equal(send_text(served, "preview 1000", 7), DIP_OK); /* still before the end */
    assert_int_equal(dip_rpc_call_queued(served), queued + 2);
    finish_ok(served);
    dip_rpc_call_resume(call);
    WAIT_UNTIL(p.loop, seen.messages == blocks + 1);
    assert_string_equal(seen.last, "preview 1000");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.messages, blocks + 2);
    assert_string_equal(seen.last, "the end");
}

static void a_full_queue_says_busy_and_later_that_it_is_empty(void **state)
{
    (void)state;
    struct seen seen;
    p.methods[HANG_STREAM].queue_count_max = 4;
    p.methods[HANG_STREAM].queue_bytes_max = 1000;
    pair_call(&p, HANG_STREAM, &seen, 0);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].opens);
    struct dip_rpc_call *served = p.served[HANG_STREAM].call;
    /* Nothing leaves before the turn ends. */
    for (int i = 0; i < 4; i++)
        assert_int_equal(send_bytes(served, 100), DIP_OK);
    assert_int_equal(send_bytes(served, 100), DIP_BUSY);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].writables == 1);
    assert_int_equal(seen.messages <= 4, 1);
    assert_int_equal(send_bytes(served, 5000), DIP_OK); /* one always fits */
    assert_int_equal(send_bytes(served, 1), DIP_BUSY);
    WAIT_UNTIL(p.loop, p.served[HANG_STREAM].writables == 2);
    finish_ok(served);
    assert_int_equal(send_bytes(served, 1), DIP_CANCELLED);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.bytes, 5400);
}

static void a_stalled_reader_is_cut(void **state)
{
    (void)state;
    struct seen seen;
    p.methods[STREAM].stall_ns = INT64_C(1500) * DIP_MS_NS;
    p.served[STREAM].send_left = 1000;
    p.served[STREAM].send_bytes = 100000;
    struct dip_rpc_call *call = pair_ask(&p, STREAM, &seen, "");
    dip_rpc_call_pause(call);
    WAIT_UNTIL(p.loop, p.served[STREAM].closes);
    assert_int_equal(p.served[STREAM].code, DIP_RPC_DEADLINE_EXCEEDED);
    assert_string_equal(p.served[STREAM].text, "the reader is too slow");
    dip_rpc_call_resume(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_DEADLINE_EXCEEDED);

    /* A reader that is only slow is not: the clock starts anew with each message. */
    p.served[STREAM].send_left = 60;
    p.served[STREAM].closes = 0;
    call = pair_ask(&p, STREAM, &seen, "");
    while (!seen.closes) {
        dip_rpc_call_pause(call);
        settle();
        dip_rpc_call_resume(call);
        for (int i = 0; i < 10 && !seen.closes; i++)
            dip_rpc_loop_turn(p.loop, INT64_C(2) * DIP_MS_NS);
    }
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_int_equal(seen.messages, 60);
}

/* 64 streams at once on one connection, each with its own data. */
static void many_streams_share_a_connection(void **state)
{
    (void)state;
    enum { STREAMS = 64, MESSAGES = 20 };
    static struct seen seen[STREAMS];
    struct dip_rpc_call *calls[STREAMS];
    for (int i = 0; i < STREAMS; i++)
        calls[i] = pair_call(&p, CHAT, &seen[i], 0);
    for (int round = 0; round < MESSAGES; round++) {
        for (int i = 0; i < STREAMS; i++) {
            char text[32];
            snprintf(text, sizeof text, "%d of %d", round, i);
            assert_int_equal(send_text(calls[i], text, 0), DIP_OK);
        }
        for (int i = 0; i < STREAMS; i++) {
            char text[32];
            snprintf(text, sizeof text, "%d of %d", round, i);
            WAIT_UNTIL(p.loop, seen[i].messages == round + 1);
            assert_string_equal(seen[i].last, text);
        }
    }
    assert_int_equal(dip_rpc_server_calls(p.server, 0), STREAMS);
    for (int i = 0; i < STREAMS; i++)
        dip_rpc_call_half_close(calls[i]);
    for (int i = 0; i < STREAMS; i++) {
        WAIT_UNTIL(p.loop, seen[i].closes);
        assert_int_equal(seen[i].code, DIP_RPC_OK);
    }
    WAIT_UNTIL(p.loop, dip_rpc_server_calls(p.server, 0) == 0);
}

/* Calls above the table's size are refused, not queued. */
static void too_many_calls_are_refused(void **state)
{
    (void)state;
    struct pair small = {0};
    assert_int_equal(
        dip_rpc_loop_new(&(struct dip_rpc_loop_options){.call_count_max = 6}, &small.loop), DIP_OK);
    pair_methods(&small);
    pair_serve(&small, NULL);
    pair_connect(&small);
    struct seen seen[4];
    for (int i = 0; i < 3; i++) { /* both ends of three calls fill the table */
        pair_call(&small, HANG_STREAM, &seen[i], 0);
        WAIT_UNTIL(small.loop, small.served[HANG_STREAM].opens == i + 1);
    }
    struct dip_rpc_call *call = NULL;
    struct dip_rpc_call_options options = {
        .path = "/t.T/Hang", .handler = &seen_handler, .context = &seen[3]};
    assert_int_equal(dip_rpc_call_open(small.channel, &options, &call), DIP_LIMIT);
    dip_rpc_call_cancel(seen[0].call, DIP_RPC_CANCELLED, "");
    WAIT_UNTIL(small.loop, seen[0].closes && small.served[HANG_STREAM].closes);
    pair_call(&small, HANG_STREAM, &seen[0], 0);
    pair_call(&small, HANG_STREAM, &seen[3], 0); /* takes the place of its other end */
    WAIT_UNTIL(small.loop, seen[0].closes || seen[3].closes);
    struct seen *refused = seen[0].closes ? &seen[0] : &seen[3];
    assert_int_equal(refused->code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(refused->text, "too many calls");
    for (int i = 0; i < 4; i++)
        if (seen[i].call)
            dip_rpc_call_cancel(seen[i].call, DIP_RPC_CANCELLED, "");
    pair_close(&small);
}

/* ---- bytes that are no gRPC ---- */

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)dip_rpc_server_port(p.server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static size_t put_frame(unsigned char *at, unsigned char type, unsigned char flags,
                        unsigned char stream, const void *payload, size_t bytes)
{
    const unsigned char head[9] = {
        0, (unsigned char)(bytes >> 8), (unsigned char)bytes, type, flags, 0, 0, 0, stream};
    memcpy(at, head, sizeof head);
    if (bytes)
        memcpy(at + sizeof head, payload, bytes);
    return sizeof head + bytes;
}

static size_t put_pair(unsigned char *at, const char *key, const char *value)
{
    size_t k = strlen(key), v = strlen(value);
    at[0] = 0; /* a literal, not indexed, no Huffman */
    at[1] = (unsigned char)k;
    memcpy(at + 2, key, k);
    at[2 + k] = (unsigned char)v;
    memcpy(at + 3 + k, value, v);
    return 3 + k + v;
}

/* Preface, settings and the headers of an Echo call on stream 1. */
static size_t put_call(unsigned char *at)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    unsigned char headers[256];
    size_t bytes = 0, used = sizeof preface - 1;
    bytes += put_pair(headers + bytes, ":method", "POST");
    bytes += put_pair(headers + bytes, ":scheme", "http");
    bytes += put_pair(headers + bytes, ":path", "/t.T/Echo");
    bytes += put_pair(headers + bytes, ":authority", "x");
    bytes += put_pair(headers + bytes, "te", "trailers");
    bytes += put_pair(headers + bytes, "content-type", "application/grpc");
    memcpy(at, preface, used);
    used += put_frame(at + used, 4, 0, 0, NULL, 0);
    return used + put_frame(at + used, 1, 4, 1, headers, bytes);
}

static void the_server_still_answers(void)
{
    struct seen seen;
    pair_ask(&p, ECHO, &seen, "still here");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
    assert_string_equal(seen.last, "still here");
}

static void send_raw(const void *data, size_t bytes, bool is_kept)
{
    int fd = dial();
    assert_int_equal(send(fd, data, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
    settle();
    if (!is_kept)
        close(fd);
    the_server_still_answers();
    if (is_kept)
        close(fd);
}

static void garbage_harms_nobody_else(void **state)
{
    (void)state;
    unsigned char data[2048];
    uint32_t x = 12345;
    for (int round = 0; round < 20;
         round++) { /* noise from the first byte, or after a good start */
        size_t used = round % 2 ? put_call(data) : 0;
        for (size_t i = used; i < sizeof data; i++) {
            x = x * 1664525 + 1013904223;
            data[i] = (unsigned char)(x >> 24);
        }
        send_raw(data, sizeof data, round % 4 == 0);
    }
    send_raw("GET / HTTP/1.1\r\n\r\n", 18, false);
}

/* The message's own frame: a flag byte and four bytes of length. What gRPC takes all the same (an
 * odd flag, bytes behind the last message) is not ours to decide, but must harm nobody. */
static void a_broken_message_frame_ends_the_call(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
        bool is_refused;
    } bad[] = {
        {"\x00\x00\x00\x00\x05"
         "ab",
         7, true},                              /* shorter than it says, then the end */
        {"\x00\xff\xff\xff\xff", 5, true},      /* 4 GiB */
        {"\x00\x00\x00", 3, true},              /* half a frame */
        {"\x01\x00\x00\x00\x01x", 6, false},    /* compressed, with no encoding named */
        {"\x07\x00\x00\x00\x00", 5, false},     /* flags that do not exist */
        {"\x00\x00\x00\x00\x00junk", 9, false}, /* a message, then what is none */
    };
    unsigned char data[1024];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t used = put_call(data);
        used += put_frame(data + used, 0, 1, 1, bad[i].bytes, bad[i].count);
        int opens = p.served[ECHO].opens;
        send_raw(data, used, false);
        if (bad[i].is_refused) /* only the good call in between */
            assert_int_equal(p.served[ECHO].opens, opens + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_reader_that_stops_costs_a_bounded_amount, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_preview_that_waits_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_says_busy_and_later_that_it_is_empty, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_stalled_reader_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(many_streams_share_a_connection, setup, teardown),
        cmocka_unit_test(too_many_calls_are_refused),
        cmocka_unit_test_setup_teardown(garbage_harms_nobody_else, setup, teardown),
        cmocka_unit_test_setup_teardown(a_broken_message_frame_ends_the_call, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
