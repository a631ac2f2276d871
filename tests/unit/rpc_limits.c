/* tests/unit/rpc_limits.c - what a connection may do and how long it may live, seen from a peer
 * that speaks HTTP/2 by hand: a client library would keep the rules by itself. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "net/accept.h"
#include "net/sockets.h"
#include "tests/unit/rpc_harness.h"

enum { SETTINGS = 4, PING = 6, GOAWAY = 7, CALM = 11, STREAMS_MAX = 3, HEADERS_MAX = 6 };

static struct pair p;

/* The far end of one connection. */
struct peer {
    int fd;
    unsigned char data[4096];
    size_t bytes;
    uint32_t settings[16]; /* by number, as the server has told */
    int goaways, code;     /* of the last GOAWAY */
    char said[64];         /* with the first */
    bool is_closed, is_silent;
};

static int teardown(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

static void peer_say(struct peer *peer, const void *data, size_t bytes)
{
    if (peer->is_silent)
        return;
    if (send(peer->fd, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        peer->is_closed = true;
}

static void peer_open(struct peer *peer, bool is_silent)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)dip_rpc_server_port(p.server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    memset(peer, 0, sizeof *peer);
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(peer->fd >= 0);
    assert_int_equal(connect(peer->fd, (struct sockaddr *)&to, sizeof to), 0);
    peer->is_silent = is_silent;
    peer_say(peer, hello, sizeof hello - 1);
}

static uint32_t number(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void peer_frame(struct peer *peer, const unsigned char *frame, size_t bytes)
{
    static const unsigned char settled[] = {0, 0, 0, SETTINGS, 1, 0, 0, 0, 0};
    unsigned char pong[17] = {0, 0, 8, PING, 1, 0, 0, 0, 0};
    const unsigned char *payload = frame + 9;
    bool is_answer = frame[4] & 1;
    if (frame[3] == SETTINGS && !is_answer) {
        for (size_t i = 0; i + 6 <= bytes; i += 6)
            if (payload[i] == 0 && payload[i + 1] < 16)
                peer->settings[payload[i + 1]] = number(payload + i + 2);
        peer_say(peer, settled, sizeof settled);
    } else if (frame[3] == PING && !is_answer && bytes == 8) {
        memcpy(pong + 9, payload, 8);
        peer_say(peer, pong, sizeof pong);
    } else if (frame[3] == GOAWAY) {
        peer->code = (int)number(payload + 4);
        if (peer->goaways++ > 0)
            return;
        snprintf(peer->said, sizeof peer->said, "%.*s", (int)(bytes - 8),
                 (const char *)payload + 8);
    }
}

/* Takes what has come. */
static void peer_turn(struct peer *peer)
{
    dip_rpc_loop_turn(p.loop, INT64_C(5) * DIP_MS_NS);
    ssize_t got =
        recv(peer->fd, peer->data + peer->bytes, sizeof peer->data - peer->bytes, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN))
        peer->is_closed = true;
    peer->bytes += got > 0 ? (size_t)got : 0;
    while (peer->bytes >= 9) {
        size_t bytes = (size_t)peer->data[1] << 8 | peer->data[2];
        if (peer->bytes < 9 + bytes)
            break;
        peer_frame(peer, peer->data, bytes);
        peer->bytes -= 9 + bytes;
        memmove(peer->data, peer->data + 9 + bytes, peer->bytes);
    }
}

#define PEER_UNTIL(peer, condition)                                                                \
    do {                                                                                           \
        int64_t give_up_ns = dip_clock_now_ns() + 60 * DIP_SECOND_NS;                              \
        while (!(condition) && dip_clock_now_ns() < give_up_ns)                                    \
            peer_turn(peer);                                                                       \
        if (!(condition))                                                                          \
            fail_msg("did not happen within a minute: %s", #condition);                            \
    } while (0)

static void a_client_is_told_the_limits(void **state)
{
    (void)state;
    struct peer peer;
    pair_open(&p,
              &(struct dip_rpc_server_options){.stream_count_max = 7, .metadata_bytes_max = 12345});
    peer_open(&peer, false);
    PEER_UNTIL(&peer, peer.settings[STREAMS_MAX]);
    assert_int_equal(peer.settings[STREAMS_MAX], 7);
    assert_int_equal(peer.settings[HEADERS_MAX], 12345);
    close(peer.fd);
}

static int connections(void)
{
    int count = -1;
    enum dip_status status = dip_sockets_count(dip_rpc_server_port(p.server), &count);
    if (status)
        fail_msg("the kernel does not tell: %s", dip_status_text(status));
    return count;
}

static void connections_are_counted_by_the_kernel(void **state)
{
    (void)state;
    struct peer one, other;
    pair_open(&p, NULL);
    assert_int_equal(connections(), 0); /* a channel connects with its first call */
    peer_open(&one, false);
    peer_open(&other, true); /* who says nothing counts, too */
    assert_int_equal(connections(), 2);
    close(other.fd);
    PEER_UNTIL(&one, connections() == 1);
    close(one.fd);
}

/* gRPC's core gives a listener up for good when there is no descriptor for who comes. */
static void a_shortage_of_descriptors_passes(void **state)
{
    (void)state;
    enum { MANY = 64, FREE = 8 };
    struct peer many[MANY], last;
    struct rlimit before, limit;
    pair_open(&p, NULL);
    for (int i = 0; i < MANY; i++)
        many[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    limit.rlim_cur = (rlim_t)many[MANY - 1].fd + 1 + FREE;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)dip_rpc_server_port(p.server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < MANY; i++)
        (void)connect(many[i].fd, (struct sockaddr *)&to, sizeof to);
    WAIT_UNTIL(p.loop, dip_accept_hung_up() >= MANY - 2 * FREE);
    for (int i = 0; i < MANY; i++)
        close(many[i].fd);
    WAIT_UNTIL(p.loop, connections() == 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    peer_open(&last, false);
    PEER_UNTIL(&last, last.settings[STREAMS_MAX]);
    close(last.fd);
}

static void headers_beyond_the_limit_are_refused(void **state)
{
    (void)state;
    static char big[20 << 10];
    struct seen seen = {.code = -1};
    struct dip_rpc_call *call = NULL;
    pair_open(&p, &(struct dip_rpc_server_options){.metadata_bytes_max = 4 << 10});
    memset(big, 'x', sizeof big - 1);
    struct dip_rpc_pair headers[] = {{"authorization", big}};
    struct dip_rpc_call_options options = {.path = p.methods[ECHO].path,
                                           .headers = headers,
                                           .header_count = 1,
                                           .handler = &seen_handler,
                                           .context = &seen};
    assert_int_equal(dip_rpc_call_open(p.channel, &options, &call), DIP_OK);
    assert_int_equal(send_text(call, "x", 0), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(p.served[ECHO].opens, 0); /* nobody was told */
}

static bool nobody_may(void *context, struct dip_rpc_call *call)
{
    (void)context;
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_UNAUTHENTICATED});
    return false;
}

/* The call has its answer although its request has not come, and never will. */
static void a_stranger_is_refused_unheard(void **state)
{
    (void)state;
    struct seen seen;
    pair_open(&p, NULL);
    p.methods[ECHO].may_begin = nobody_may;
    (void)pair_call(&p, ECHO, &seen, 0);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_UNAUTHENTICATED);
    assert_int_equal(p.served[ECHO].opens, 0);
}

static void in_own_words(void *context, struct dip_rpc_call *call, size_t bytes)
{
    struct seen *served = context;
    served->bytes = bytes;
    dip_rpc_call_finish(
        call, &(struct dip_rpc_status){.code = DIP_RPC_OUT_OF_RANGE, .message = "what a lot"});
}

static void what_is_too_large_is_refused_in_the_methods_words(void **state)
{
    (void)state;
    struct seen seen;
    pair_open(&p, &(struct dip_rpc_server_options){.message_bytes_max = 1 << 16});
    p.methods[ECHO].refuse = in_own_words;
    struct dip_rpc_call *call = pair_call(&p, ECHO, &seen, 0);
    assert_int_equal(send_bytes(call, 4 << 16), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OUT_OF_RANGE);
    assert_string_equal(seen.text, "what a lot");
    assert_int_equal(p.served[ECHO].bytes, 4 << 16);
    assert_int_equal(p.served[ECHO].opens, 0);
    call = pair_call(&p, ECHO, &seen, 0); /* not read to its end for the sake of a word */
    assert_int_equal(send_bytes(call, (4 << 16) + 1), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_RESOURCE_EXHAUSTED);
}

static void what_is_not_whole_yet_has_its_share_of_memory(void **state)
{
    (void)state;
    struct seen seen;
    pair_open(&p, &(struct dip_rpc_server_options){.message_bytes_max = 64 << 20,
                                                   .buffer_bytes_max = 8 << 20});
    p.methods[ECHO].refuse = in_own_words;
    struct dip_rpc_call *call = pair_call(&p, ECHO, &seen, 0);
    assert_int_equal(send_bytes(call, 65 << 20), DIP_OK);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(p.served[ECHO].bytes, 0); /* it never came to its end */
    pair_ask(&p, ECHO, &seen, "small");
    WAIT_UNTIL(p.loop, seen.closes);
    assert_int_equal(seen.code, DIP_RPC_OK);
}

/* Pings without anything to carry, faster than allowed: two are forgiven. */
static void who_pings_too_often_is_sent_away(void **state)
{
    (void)state;
    struct peer peer;
    pair_open(&p, &(struct dip_rpc_server_options){.ping_ns_min = 10 * DIP_SECOND_NS});
    peer_open(&peer, false);
    PEER_UNTIL(&peer, peer.settings[STREAMS_MAX]);
    for (unsigned char i = 0; i < 8; i++) {
        unsigned char ping[17] = {0, 0, 8, PING, 0, 0, 0, 0, 0, i};
        peer_say(&peer, ping, sizeof ping);
        peer_turn(&peer);
    }
    PEER_UNTIL(&peer, peer.goaways);
    assert_int_equal(peer.code, CALM);
    assert_string_equal(peer.said, "too_many_pings");
    PEER_UNTIL(&peer, peer.is_closed);
    close(peer.fd);
}

static void who_says_nothing_is_not_waited_for(void **state)
{
    (void)state;
    struct peer peer;
    pair_open(&p, &(struct dip_rpc_server_options){.handshake_ns = INT64_C(300) * DIP_MS_NS});
    peer_open(&peer, true);
    PEER_UNTIL(&peer, peer.is_closed);
    assert_int_equal(peer.goaways, 1);
    assert_non_null(strstr(peer.said, "settings"));
    close(peer.fd);
}

/* Asked to come anew, with two GOAWAYs so that nothing is lost in between; what runs runs on. */
static void an_old_connection_makes_way(void **state)
{
    (void)state;
    struct peer peer;
    struct seen old, young;
    pair_open(&p, &(struct dip_rpc_server_options){.age_ns = INT64_C(500) * DIP_MS_NS});
    struct dip_rpc_call *call = pair_call(&p, CHAT, &old, 0);
    assert_int_equal(send_text(call, "before", 0), DIP_OK);
    WAIT_UNTIL(p.loop, old.messages == 1);
    peer_open(&peer, false);
    PEER_UNTIL(&peer, peer.goaways == 2);
    assert_int_equal(peer.code, 0);
    PEER_UNTIL(&peer, peer.is_closed); /* it had no call */
    close(peer.fd);
    pair_ask(&p, ECHO, &young, "on a new connection");
    WAIT_UNTIL(p.loop, young.closes);
    assert_int_equal(young.code, DIP_RPC_OK);
    assert_int_equal(old.closes, 0);
    assert_int_equal(send_text(call, "after", 0), DIP_OK);
    WAIT_UNTIL(p.loop, old.messages == 2);
    dip_rpc_call_half_close(call);
    WAIT_UNTIL(p.loop, old.closes);
    assert_int_equal(old.code, DIP_RPC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_client_is_told_the_limits, teardown),
        cmocka_unit_test_teardown(connections_are_counted_by_the_kernel, teardown),
        cmocka_unit_test_teardown(a_shortage_of_descriptors_passes, teardown),
        cmocka_unit_test_teardown(headers_beyond_the_limit_are_refused, teardown),
        cmocka_unit_test_teardown(a_stranger_is_refused_unheard, teardown),
        cmocka_unit_test_teardown(what_is_too_large_is_refused_in_the_methods_words, teardown),
        cmocka_unit_test_teardown(what_is_not_whole_yet_has_its_share_of_memory, teardown),
        cmocka_unit_test_teardown(who_pings_too_often_is_sent_away, teardown),
        cmocka_unit_test_teardown(who_says_nothing_is_not_waited_for, teardown),
        cmocka_unit_test_teardown(an_old_connection_makes_way, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
