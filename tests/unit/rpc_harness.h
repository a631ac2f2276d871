/* tests/unit/rpc_harness.h - a server and a client on one loop on one thread, so that a test is a
 * sequence of "do this" and "wait until that". */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/rpc_client.h"
#include "net/rpc_server.h"

/* Turns the loop until the condition holds; fails the test after a minute. */
#define WAIT_UNTIL(loop, condition)                                                                \
    do {                                                                                           \
        int64_t give_up_ns = dip_clock_now_ns() + 60 * DIP_SECOND_NS;                              \
        while (!(condition) && dip_clock_now_ns() < give_up_ns)                                    \
            dip_rpc_loop_turn(loop, INT64_C(200) * DIP_MS_NS);                                     \
        if (!(condition))                                                                          \
            fail_msg("did not happen within a minute: %s", #condition);                            \
    } while (0)

/* What one end of a call has seen. */
struct seen {
    struct dip_rpc_call *call; /* NULL before on_open and after on_close */
    int opens, messages, half_closes, writables, closes;
    size_t bytes;
    char last[256]; /* the beginning of the last message */
    int code;
    char text[256];
    char details[64];
    size_t details_bytes;
    bool has_pushback;
    int64_t pushback_ns;
    int send_left; /* messages that `seen_stream` has still to send */
    size_t send_bytes;
};

static inline void seen_open(void *context, struct dip_rpc_call *call)
{
    struct seen *seen = context;
    seen->opens++;
    seen->call = call;
}

static inline void seen_message(void *context, struct dip_rpc_call *call, const void *data,
                                size_t bytes)
{
    (void)call;
    struct seen *seen = context;
    seen->messages++;
    seen->bytes += bytes;
    snprintf(seen->last, sizeof seen->last, "%.*s", (int)bytes, (const char *)data);
}

static inline void seen_half_close(void *context, struct dip_rpc_call *call)
{
    (void)call;
    ((struct seen *)context)->half_closes++;
}

static inline void seen_writable(void *context, struct dip_rpc_call *call)
{
    (void)call;
    ((struct seen *)context)->writables++;
}

static inline void seen_close(void *context, struct dip_rpc_call *call,
                              const struct dip_rpc_status *status)
{
    (void)call;
    struct seen *seen = context;
    seen->closes++;
    seen->call = NULL;
    seen->code = status->code;
    snprintf(seen->text, sizeof seen->text, "%s", status->message ? status->message : "");
    seen->details_bytes = status->details_bytes;
    if (status->details_bytes && status->details_bytes <= sizeof seen->details)
        memcpy(seen->details, status->details, status->details_bytes);
    seen->has_pushback = status->has_pushback;
    seen->pushback_ns = status->pushback_ns;
}

static const struct dip_rpc_handler seen_handler = {seen_open, seen_message, seen_half_close,
                                                    seen_writable, seen_close};

/* A copy of the text as a message. */
static inline enum dip_status send_text(struct dip_rpc_call *call, const char *text, uint32_t key)
{
    char *data = strdup(text);
    assert_non_null(data);
    enum dip_status status = dip_rpc_call_send(call, data, strlen(text), key);
    if (status)
        free(data);
    return status;
}

/* A message of so many bytes. */
static inline enum dip_status send_bytes(struct dip_rpc_call *call, size_t bytes)
{
    char *data = malloc(bytes ? bytes : 1);
    assert_non_null(data);
    memset(data, 'd', bytes);
    enum dip_status status = dip_rpc_call_send(call, data, bytes, 0);
    if (status)
        free(data);
    return status;
}

static inline void finish_ok(struct dip_rpc_call *call)
{
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_OK});
}

/* ---- services ---- */

/* Unary: the request is the reply. */
static inline void echo_message(void *context, struct dip_rpc_call *call, const void *data,
                                size_t bytes)
{
    seen_message(context, call, data, bytes);
    char *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    assert_int_equal(dip_rpc_call_send(call, copy, bytes, 0), DIP_OK);
}

static inline void finish_half_close(void *context, struct dip_rpc_call *call)
{
    seen_half_close(context, call);
    finish_ok(call);
}

/* Server stream: sends send_left messages of send_bytes bytes, as fast as they are taken. */
static inline void stream_more(void *context, struct dip_rpc_call *call)
{
    struct seen *seen = context;
    seen->writables++;
    while (seen->send_left > 0 && send_bytes(call, seen->send_bytes) == DIP_OK)
        seen->send_left--;
    if (seen->send_left == 0)
        finish_ok(call);
}

/* Client stream: the reply is the number of bytes. */
static inline void collect_half_close(void *context, struct dip_rpc_call *call)
{
    struct seen *seen = context;
    char text[32];
    seen->half_closes++;
    snprintf(text, sizeof text, "%zu", seen->bytes);
    assert_int_equal(send_text(call, text, 0), DIP_OK);
    finish_ok(call);
}

static const struct dip_rpc_handler echo_handler = {seen_open, echo_message, finish_half_close,
                                                    seen_writable, seen_close};
static const struct dip_rpc_handler stream_handler = {seen_open, seen_message, stream_more,
                                                      stream_more, seen_close};
static const struct dip_rpc_handler collect_handler = {seen_open, seen_message, collect_half_close,
                                                       seen_writable, seen_close};

/* ---- a pair ---- */

enum { ECHO, STREAM, COLLECT, CHAT, HANG, HANG_STREAM, METHODS };

struct pair {
    struct dip_rpc_loop *loop;
    struct dip_rpc_server *server;
    struct dip_rpc_channel *channel;
    struct seen served[METHODS]; /* by method: its latest call, counts over all of them */
    struct dip_rpc_method methods[METHODS];
    bool is_stopped;
    size_t window_bytes; /* of the client; 0 = grows */
    char target[64];
};

static inline void pair_methods(struct pair *pair)
{
    const struct dip_rpc_method methods[METHODS] = {
        [ECHO] = {"/t.T/Echo", DIP_RPC_UNARY, &echo_handler, &pair->served[ECHO]},
        [STREAM] = {"/t.T/Stream", DIP_RPC_SERVER_STREAM, &stream_handler, &pair->served[STREAM]},
        [COLLECT] = {"/t.T/Collect", DIP_RPC_CLIENT_STREAM, &collect_handler,
                     &pair->served[COLLECT]},
        [CHAT] = {"/t.T/Chat", DIP_RPC_BIDI, &echo_handler, &pair->served[CHAT]},
        [HANG] = {"/t.T/Hang", DIP_RPC_UNARY, &seen_handler, &pair->served[HANG]},
        [HANG_STREAM] = {"/t.T/HangStream", DIP_RPC_BIDI, &seen_handler,
                         &pair->served[HANG_STREAM]},
    };
    memcpy(pair->methods, methods, sizeof methods);
    pair->methods[CHAT].handler = &echo_handler;
}

/* Serves on a free port; `options` may be NULL, its methods and loops are set here. */
static inline void pair_serve(struct pair *pair, const struct dip_rpc_server_options *options)
{
    struct dip_rpc_server_options o = {0};
    struct dip_why why = {0};
    if (options)
        o = *options;
    o.listen = o.listen ? o.listen : "127.0.0.1:0";
    o.loops = &pair->loop;
    o.loop_count = 1;
    o.methods = pair->methods;
    o.method_count = METHODS;
    if (dip_rpc_server_start(&o, &why, &pair->server))
        fail_msg("%s", why.text);
    pair->is_stopped = false;
    snprintf(pair->target, sizeof pair->target, "127.0.0.1:%d", dip_rpc_server_port(pair->server));
}

static inline void pair_connect(struct pair *pair)
{
    struct dip_why why = {0};
    if (dip_rpc_channel_open(&(struct dip_rpc_channel_options){.loop = pair->loop,
                                                               .target = pair->target,
                                                               .window_bytes = pair->window_bytes},
                             &why, &pair->channel))
        fail_msg("%s", why.text);
}

static inline void pair_open(struct pair *pair, const struct dip_rpc_server_options *options)
{
    alarm(250); /* a failed test may leave calls that nobody ends */
    memset(pair, 0, sizeof *pair);
    assert_int_equal(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &pair->loop), DIP_OK);
    pair_methods(pair);
    pair_serve(pair, options);
    pair_connect(pair);
}

static inline void pair_on_stopped(void *context)
{
    ((struct pair *)context)->is_stopped = true;
}

static inline void pair_unserve(struct pair *pair, int64_t grace_ns)
{
    dip_rpc_server_stop(pair->server, grace_ns, pair_on_stopped, pair);
    WAIT_UNTIL(pair->loop, pair->is_stopped);
    dip_rpc_server_free(pair->server);
    pair->server = NULL;
}

static inline void pair_close(struct pair *pair)
{
    dip_rpc_channel_close(pair->channel);
    if (pair->server)
        pair_unserve(pair, 0);
    dip_rpc_loop_stop(pair->loop);
    dip_rpc_loop_run(pair->loop); /* until nothing is left */
    dip_rpc_loop_free(pair->loop);
}

/* Begins a call of one of the methods. */
static inline struct dip_rpc_call *pair_call(struct pair *pair, int method, struct seen *seen,
                                             int64_t wait_ns)
{
    struct dip_rpc_call *call = NULL;
    memset(seen, 0, sizeof *seen);
    seen->code = -1;
    int64_t deadline_ns = wait_ns ? dip_clock_now_ns() + wait_ns : 0;
    assert_int_equal(
        dip_rpc_call_open(pair->channel,
                          &(struct dip_rpc_call_options){.path = pair->methods[method].path,
                                                         .deadline_ns = deadline_ns,
                                                         .handler = &seen_handler,
                                                         .context = seen},
                          &call),
        DIP_OK);
    seen->call = call;
    return call;
}

/* A call with one request. */
static inline struct dip_rpc_call *pair_ask(struct pair *pair, int method, struct seen *seen,
                                            const char *text)
{
    struct dip_rpc_call *call = pair_call(pair, method, seen, 0);
    assert_int_equal(send_text(call, text, 0), DIP_OK);
    dip_rpc_call_half_close(call);
    return call;
}
