/* net/rpc_server.c - listening, accepting, and stopping in the order that works.
 *
 * All calls come in by one way, gRPC's catch-all; the method is looked up here. Each loop has a
 * station with a few accepts waiting on its queue, so a call lives on the thread that accepted it.
 *
 * Stopping. gRPC reports that a server is shut down as soon as its connections are gone, which may
 * be before our own operations on their calls have been reported; a queue must not be destroyed
 * until then. So everything is counted, station by station, and the server is stopped when
 *
 *     the shutdown is reported  and  each station has no accept waiting and no call live
 *
 *     home   stop ─► GOAWAY, shutdown_and_notify ─► grace timer ─► cancel all
 *     each   accept fails ─► not armed again ─► last call gone ─► signal home
 *     home   as many signals as stations, and the report ─► stopped */
#include "net/rpc_server.h"

#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/flag.h"
#include "net/accept.h"
#include "net/rpc_private.h"

enum { ACCEPTS = 16, LOOPS_MAX = 64, UNKNOWN_PATH_BYTES = 80, READ_FACTOR = 4 };

/* One call that gRPC may bring. Owner: the station's loop. */
struct accept {
    struct dip__rpc_op op;
    struct station *station;
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array headers;
};

struct station {
    struct dip_rpc_server *server;
    struct dip_rpc_loop *loop;
    struct accept accepts[ACCEPTS];
    int accept_count; /* that wait */
    int call_count;
    struct dip__rpc_op closed_op; /* reported on the home loop */
    struct dip_flag is_closed;    /* what the loop did before is seen by home after */
};

struct dip_rpc_server {
    grpc_server *core;
    struct dip_rpc_server_options options;
    struct dip__rpc_tls_use *tls;
    int port;
    struct dip_rpc_loop *home;
    /* stopping; owner: the home loop */
    struct dip__rpc_op shutdown_op;
    struct dip_rpc_timer grace;
    bool is_stopping;
    int open_count; /* stations that are open, and the report of the shutdown */
    void (*on_stopped)(void *context);
    void *on_stopped_context;
    struct station stations[]; /* [options.loop_count] */
};

/* ---- stopping ---- */

static void one_closed(void *owner, bool is_ok)
{
    (void)is_ok;
    struct dip_rpc_server *server = owner;
    dip_assert(server->open_count > 0);
    if (--server->open_count > 0)
        return;
    dip_rpc_timer_clear(server->home, &server->grace);
    grpc_server_destroy(server->core);
    server->core = NULL;
    dip__rpc_loop_drop(server->home);
    if (server->on_stopped)
        server->on_stopped(server->on_stopped_context);
}

static void station_closed(void *owner, bool is_ok)
{
    struct station *station = owner;
    bool was_closed = dip_flag_lower(&station->is_closed);
    dip_assert(was_closed);
    one_closed(station->server, is_ok);
}

/* Only a server that stops runs out of accepts. */
static void station_settle(struct station *station)
{
    if (station->accept_count > 0 || station->call_count > 0)
        return;
    struct dip_rpc_server *server = station->server;
    if (station->loop != server->home)
        dip__rpc_loop_drop(station->loop);
    dip_flag_raise(&station->is_closed);
    dip__rpc_loop_signal(server->home, &station->closed_op);
}

static void call_gone(void *owner)
{
    struct station *station = owner;
    dip_assert(station->call_count > 0);
    station->call_count--;
    station_settle(station);
}

static void grace_is_over(void *context)
{
    struct dip_rpc_server *server = context;
    grpc_server_cancel_all_calls(server->core);
}

void dip_rpc_server_stop(struct dip_rpc_server *server, int64_t grace_ns,
                         void (*on_stopped)(void *context), void *context)
{
    dip_assert(dip_rpc_loop_is_mine(server->home));
    if (!server->core)
        return;
    int64_t until_ns = dip_clock_now_ns() + (grace_ns > 0 ? grace_ns : 0);
    if (!server->is_stopping) {
        server->is_stopping = true;
        server->on_stopped = on_stopped;
        server->on_stopped_context = context;
        server->shutdown_op = (struct dip__rpc_op){one_closed, server};
        grpc_server_shutdown_and_notify(server->core, dip__rpc_loop_queue(server->home),
                                        &server->shutdown_op);
    } else if (server->grace.heap_rank && server->grace.at_ns < until_ns) {
        return;
    }
    server->grace.fire = grace_is_over;
    server->grace.context = server;
    if (grace_ns <= 0 || dip_rpc_timer_set(server->home, &server->grace, until_ns))
        grace_is_over(server);
}

/* ---- accepting ---- */

static void arm(struct accept *accept)
{
    struct station *station = accept->station;
    grpc_completion_queue *queue = dip__rpc_loop_queue(station->loop);
    grpc_call_details_init(&accept->details);
    grpc_metadata_array_init(&accept->headers);
    station->accept_count++;
    grpc_call_error error =
        grpc_server_request_call(station->server->core, &accept->core, &accept->details,
                                 &accept->headers, queue, queue, &accept->op);
    dip_assert(error == GRPC_CALL_OK); /* after a shutdown it is OK, too, and reported as failed */
}

static const struct dip_rpc_method *find_method(const struct dip_rpc_server *server,
                                                grpc_slice path)
{
    for (int i = 0; i < server->options.method_count; i++)
        if (grpc_slice_str_cmp(path, server->options.methods[i].path) == 0)
            return &server->options.methods[i];
    return NULL;
}

/* A request that does not come, or a message that is not taken. */
static void too_slow(void *context)
{
    struct dip_rpc_call *call = context;
    if (call->handler)
        dip_rpc_call_cancel(call, DIP_RPC_DEADLINE_EXCEEDED, "the reader is too slow");
    else
        dip_rpc_call_finish(call,
                            &(struct dip_rpc_status){.code = DIP_RPC_DEADLINE_EXCEEDED,
                                                     .message = "the request came too slowly"});
}

static void refuse_unknown(struct dip_rpc_call *call, grpc_slice path)
{
    char text[UNKNOWN_PATH_BYTES + 32];
    size_t bytes = GRPC_SLICE_LENGTH(path);
    snprintf(text, sizeof text, "unknown method %.*s",
             (int)(bytes < UNKNOWN_PATH_BYTES ? bytes : UNKNOWN_PATH_BYTES),
             (const char *)GRPC_SLICE_START_PTR(path));
    dip_rpc_call_finish(call,
                        &(struct dip_rpc_status){.code = DIP_RPC_UNIMPLEMENTED, .message = text});
}

/* The call is in the books: asks for its end and its messages, tells the service or refuses. */
static void begin(struct station *station, struct dip_rpc_call *call, struct accept *accept)
{
    const struct dip_rpc_server_options *options = &station->server->options;
    grpc_op end = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    end.data.recv_close_on_server.cancelled = &call->is_cancelled;
    dip__rpc_call_start(call, &end, 1, &call->end_op);
    call->id = dip__rpc_loop_enter(station->loop, call);
    if (!call->method) {
        refuse_unknown(call, accept->details.method);
        return;
    }
    if (!call->id) {
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED,
                                                           .message = "too many calls"});
        return;
    }
    if (call->method->may_begin && !call->method->may_begin(call->method->context, call))
        return; /* what it sends is not asked for, so that no more than a window of it is read */
    call->receive_bytes_max = call->method->request_bytes_max > 0 ? call->method->request_bytes_max
                                                                  : options->message_bytes_max;
    if (call->method->kind == DIP_RPC_CLIENT_STREAM || call->method->kind == DIP_RPC_BIDI) {
        dip__rpc_call_open(call);
    } else {
        enum dip_status status = dip_rpc_timer_set(station->loop, &call->timer,
                                                   dip_clock_now_ns() + options->request_ns);
        dip_assert(status == DIP_OK); /* the loop keeps a place for every call */
    }
    dip__rpc_call_receive(call);
}

/* NULL without memory; what the accept holds has then been given back. */
static struct dip_rpc_call *call_of(struct accept *accept)
{
    struct station *station = accept->station;
    const struct dip_rpc_method *method = find_method(station->server, accept->details.method);
    struct dip_rpc_call *call = dip__rpc_call_new(
        station->loop, method ? method->queue_count_max : 1, method ? method->queue_bytes_max : 0);
    if (!call) {
        grpc_call_cancel_with_status(accept->core, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory",
                                     NULL);
        grpc_call_unref(accept->core);
        grpc_metadata_array_destroy(&accept->headers);
        return NULL;
    }
    call->core = accept->core;
    call->is_server = true;
    call->method = method;
    call->path = method ? method->path : "";
    call->peer = grpc_call_get_peer(call->core);
    call->deadline_ns = dip__rpc_time_from(accept->details.deadline);
    call->received_headers = accept->headers;
    call->timer.fire = too_slow;
    call->timer.context = call;
    call->gone = call_gone;
    call->gone_owner = station;
    station->call_count++;
    return call;
}

static void accepted(void *owner, bool is_ok)
{
    struct accept *accept = owner;
    struct station *station = accept->station;
    station->accept_count--;
    if (is_ok) {
        struct dip_rpc_call *call = call_of(accept);
        if (call)
            begin(station, call, accept);
        grpc_call_details_destroy(&accept->details);
        arm(accept);
    } else {
        grpc_call_details_destroy(&accept->details);
        grpc_metadata_array_destroy(&accept->headers);
        station_settle(station);
    }
}

int dip_rpc_server_calls(const struct dip_rpc_server *server, int loop_index)
{
    return server->stations[loop_index].call_count;
}

/* ---- starting ---- */

static void set_defaults(struct dip_rpc_server_options *o)
{
    if (!o->message_bytes_max)
        o->message_bytes_max = RPC_MESSAGE_BYTES_DEFAULT;
    if (!o->buffer_bytes_max)
        o->buffer_bytes_max = (size_t)512 << 20;
    if (!o->metadata_bytes_max)
        o->metadata_bytes_max = 16 << 10;
    if (!o->stream_count_max)
        o->stream_count_max = 100;
    if (!o->request_ns)
        o->request_ns = 30 * DIP_SECOND_NS;
    if (!o->handshake_ns)
        o->handshake_ns = 30 * DIP_SECOND_NS; /* ten thousand at once take long to greet */
    if (!o->keepalive_ns)
        o->keepalive_ns = 30 * DIP_SECOND_NS;
    if (!o->keepalive_timeout_ns)
        o->keepalive_timeout_ns = 10 * DIP_SECOND_NS;
    if (!o->ping_ns_min)
        o->ping_ns_min = 10 * DIP_SECOND_NS;
}

static void put_args(struct rpc_args *args, const struct dip_rpc_server_options *o)
{
    dip__rpc_args_int(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
                      (int64_t)(READ_FACTOR * o->message_bytes_max));
    dip__rpc_args_int(args, GRPC_ARG_MAX_METADATA_SIZE, (int64_t)o->metadata_bytes_max);
    dip__rpc_args_window(args, o->window_bytes);
    dip__rpc_args_int(args, GRPC_ARG_MAX_CONCURRENT_STREAMS, o->stream_count_max);
    dip__rpc_args_ms(args, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, o->handshake_ns);
    dip__rpc_args_ms(args, GRPC_ARG_MAX_CONNECTION_IDLE_MS, o->idle_ns);
    dip__rpc_args_ms(args, GRPC_ARG_MAX_CONNECTION_AGE_MS, o->age_ns);
    dip__rpc_args_ms(args, GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, o->age_grace_ns);
    dip__rpc_args_ms(args, GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_ns);
    dip__rpc_args_ms(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_ns);
    dip__rpc_args_int(args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    dip__rpc_args_ms(args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, o->ping_ns_min);
    dip__rpc_args_int(args, GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2);
    /* Only uncompressed messages, and none unpacked on the way to us. */
    dip__rpc_args_int(args, GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
                      1 << GRPC_COMPRESS_NONE);
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    /* Two servers on one port would each get half of the clients, and no error. */
    dip__rpc_args_int(args, GRPC_ARG_ALLOW_REUSEPORT, 0);
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_CHANNELZ, 0);
}

static enum dip_status listen_at(struct dip_rpc_server *server, struct dip_why *why)
{
    const struct dip_rpc_server_options *o = &server->options;
    grpc_server_credentials *credentials = NULL;
    if (o->tls)
        DIP_TRY(dip__rpc_tls_server(o->tls, why, &server->tls, &credentials));
    else
        credentials = grpc_insecure_server_credentials_create();
    server->port = grpc_server_add_http2_port(server->core, o->listen, credentials);
    grpc_server_credentials_release(credentials);
    if (server->port == 0)
        return dip_fail(why, DIP_IO, "cannot listen on %s: the address is taken or not ours",
                        o->listen);
    return DIP_OK;
}

static void open_stations(struct dip_rpc_server *server)
{
    server->open_count = 1; /* the report of the shutdown */
    for (int i = 0; i < server->options.loop_count; i++) {
        struct station *station = &server->stations[i];
        station->server = server;
        station->loop = server->options.loops[i];
        station->closed_op = (struct dip__rpc_op){station_closed, station};
        server->open_count++;
        dip__rpc_loop_hold(station->loop);
        for (int j = 0; j < ACCEPTS; j++) {
            station->accepts[j].station = station;
            station->accepts[j].op = (struct dip__rpc_op){accepted, &station->accepts[j]};
            arm(&station->accepts[j]);
        }
    }
}

enum dip_status dip_rpc_server_start(const struct dip_rpc_server_options *options,
                                     struct dip_why *why, struct dip_rpc_server **ret_server)
{
    dip_assert(options->loop_count > 0);
    dip_assert(options->loop_count <= LOOPS_MAX);
    enum dip_status status = DIP_NO_MEMORY;
    struct rpc_args args = {.count = 0};
    struct dip_rpc_server *server =
        calloc(1, sizeof *server + (size_t)options->loop_count * sizeof server->stations[0]);
    if (!server)
        return DIP_NO_MEMORY;
    server->options = *options;
    server->home = options->loops[0];
    set_defaults(&server->options);
    put_args(&args, &server->options);
    grpc_resource_quota *quota = grpc_resource_quota_create("server");
    grpc_resource_quota_resize(quota, server->options.buffer_bytes_max);
    dip__rpc_args_quota(&args, quota);
    server->core =
        grpc_server_create(&(grpc_channel_args){.num_args = args.count, .args = args.list}, NULL);
    grpc_resource_quota_unref(quota);
    for (int i = 0; i < options->loop_count; i++)
        grpc_server_register_completion_queue(server->core, dip__rpc_loop_queue(options->loops[i]),
                                              NULL);
    dip_accept_reserve();
    status = listen_at(server, why);
    if (status) {
        /* Never started: nothing is reported and nothing to wait for. */
        dip_rpc_server_free(server);
        return status;
    }
    grpc_server_start(server->core);
    open_stations(server);
    *ret_server = server;
    return DIP_OK;
}

/* A name may begin with 127, too; numbers lead nowhere else. */
bool dip_rpc_is_local(const char *address)
{
    static const char *const starts[] = {"localhost:", "[::1]:", "unix:", "unix-abstract:"};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        if (strncmp(address, starts[i], strlen(starts[i])) == 0)
            return true;
    char end = address[strspn(address, "0123456789.")];
    return strcmp(address, "::1") == 0 ||
           (strncmp(address, "127.", 4) == 0 && (end == ':' || end == '\0'));
}

enum dip_status dip_rpc_listen_check(const char *listen, const struct dip_rpc_tls *tls,
                                     bool is_insecure, struct dip_why *why)
{
    if (tls || is_insecure || dip_rpc_is_local(listen))
        return DIP_OK;
    return dip_fail(why, DIP_INVALID,
                    "%s is reachable from other machines and there is no TLS: give a "
                    "certificate, listen on 127.0.0.1, or allow it with --insecure",
                    listen);
}

int dip_rpc_server_port(const struct dip_rpc_server *server)
{
    return server->port;
}

void dip_rpc_server_free(struct dip_rpc_server *server)
{
    if (!server)
        return;
    dip_assert(server->open_count == 0);
    if (server->core)
        grpc_server_destroy(server->core);
    dip__rpc_tls_use_free(server->tls);
    free(server);
}
