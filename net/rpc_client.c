/* net/rpc_client.c - channels and the beginning of calls.
 *
 * A channel is a name for one gRPC channel after another: when its certificates have changed, the
 * next call gets a new one, and calls on the old one keep that alive until they end. The watch on
 * the state is one operation that is always out, armed again after each change and at least once
 * a second, so that closing never waits longer than that for it.
 *
 * Each channel has connections of its own: gRPC would otherwise share them between channels to the
 * same address, and one would see the state and the keepalive of another. */
#include "net/rpc_client.h"

#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc_private.h"

struct dip_rpc_channel {
    struct dip_rpc_channel_options options;
    char *target, *tls_name;
    grpc_channel *core;
    struct dip__rpc_tls_use *tls;
    int64_t tls_checked_ns;
    int call_count;
    bool is_closed;
    /* watching */
    struct dip__rpc_op watch_op;
    bool is_watching;
    grpc_connectivity_state seen;
    int failures;
};

const char *dip_rpc_channel_state_name(enum dip_rpc_channel_state state)
{
    static const char *const names[] = {"idle", "connecting", "ready", "waiting"};
    dip_assert((size_t)state < sizeof names / sizeof names[0]);
    return names[state];
}

static enum dip_rpc_channel_state state_of(grpc_connectivity_state state)
{
    switch (state) {
    case GRPC_CHANNEL_CONNECTING:
        return DIP_RPC_CHANNEL_CONNECTING;
    case GRPC_CHANNEL_READY:
        return DIP_RPC_CHANNEL_READY;
    case GRPC_CHANNEL_TRANSIENT_FAILURE:
        return DIP_RPC_CHANNEL_WAITING;
    default:
        return DIP_RPC_CHANNEL_IDLE;
    }
}

/* ---- life ---- */

static void set_defaults(struct dip_rpc_channel_options *o)
{
    if (!o->message_bytes_max)
        o->message_bytes_max = RPC_MESSAGE_BYTES_DEFAULT;
    if (!o->metadata_bytes_max)
        o->metadata_bytes_max = 16 << 10;
    if (!o->keepalive_ns)
        o->keepalive_ns = 30 * DIP_SECOND_NS;
    if (!o->keepalive_timeout_ns)
        o->keepalive_timeout_ns = 10 * DIP_SECOND_NS;
    if (!o->connect_ns)
        o->connect_ns = 5 * DIP_SECOND_NS;
    if (!o->backoff_ns_min)
        o->backoff_ns_min = INT64_C(100) * DIP_MS_NS;
    if (!o->backoff_ns_max)
        o->backoff_ns_max = 5 * DIP_SECOND_NS;
}

static void put_args(struct rpc_args *args, const struct dip_rpc_channel_options *o)
{
    dip__rpc_args_int(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int64_t)o->message_bytes_max);
    dip__rpc_args_int(args, GRPC_ARG_MAX_METADATA_SIZE, (int64_t)o->metadata_bytes_max);
    dip__rpc_args_window(args, o->window_bytes);
    dip__rpc_args_ms(args, GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_ns);
    dip__rpc_args_ms(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_timeout_ns);
    dip__rpc_args_int(args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    dip__rpc_args_int(args, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0); /* no ceiling */
    dip__rpc_args_ms(args, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, o->connect_ns);
    dip__rpc_args_ms(args, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, o->backoff_ns_min);
    dip__rpc_args_ms(args, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, o->backoff_ns_max);
    dip__rpc_args_int(args, GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET,
                      1 << GRPC_COMPRESS_NONE);
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    dip__rpc_args_int(args, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_RETRIES, 0);
    /* Neither a proxy of the environment nor a TXT record decides where calls go. */
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    dip__rpc_args_int(args, GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    dip__rpc_args_int(args, GRPC_ARG_ENABLE_CHANNELZ, 0);
    if (o->tls_name)
        dip__rpc_args_text(args, GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, o->tls_name);
}

/* A gRPC channel with the certificates as they are now. On failure the old one stays. */
static enum dip_status connect_anew(struct dip_rpc_channel *channel, struct dip_why *why)
{
    struct rpc_args args = {.count = 0};
    struct dip__rpc_tls_use *use = NULL;
    grpc_channel_credentials *credentials = NULL;
    if (channel->options.tls)
        DIP_TRY(dip__rpc_tls_channel(channel->options.tls, why, &use, &credentials));
    else
        credentials = grpc_insecure_credentials_create();
    put_args(&args, &channel->options);
    grpc_channel_args list = {.num_args = args.count, .args = args.list};
    grpc_channel *core = grpc_channel_create(channel->target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    if (channel->core)
        grpc_channel_destroy(channel->core);
    dip__rpc_tls_use_free(channel->tls);
    channel->core = core;
    channel->tls = use;
    return DIP_OK;
}

/* Frees a closed channel once nothing of it is out. */
static void settle(struct dip_rpc_channel *channel)
{
    if (!channel->is_closed || channel->is_watching || channel->call_count > 0)
        return;
    dip__rpc_loop_drop(channel->options.loop);
    dip__rpc_tls_use_free(channel->tls);
    free(channel->target);
    free(channel->tls_name);
    free(channel);
}

static void watch(struct dip_rpc_channel *channel)
{
    channel->is_watching = true;
    grpc_channel_watch_connectivity_state(
        channel->core, channel->seen,
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(1, GPR_TIMESPAN)),
        dip__rpc_loop_queue(channel->options.loop), &channel->watch_op);
}

static void on_watched(void *owner, bool is_ok)
{
    (void)is_ok; /* false = nothing changed in time */
    struct dip_rpc_channel *channel = owner;
    grpc_connectivity_state now = channel->seen;
    if (!channel->is_closed)
        now = grpc_channel_check_connectivity_state(channel->core, 1);
    if (now != channel->seen) {
        channel->seen = now;
        if (now == GRPC_CHANNEL_READY)
            channel->failures = 0;
        else if (now == GRPC_CHANNEL_TRANSIENT_FAILURE)
            channel->failures++;
        channel->options.on_state(channel->options.context, state_of(now)); /* may close it */
    }
    if (channel->is_closed) {
        channel->is_watching = false;
        settle(channel);
    } else {
        watch(channel);
    }
}

enum dip_status dip_rpc_channel_open(const struct dip_rpc_channel_options *options,
                                     struct dip_why *why, struct dip_rpc_channel **ret_channel)
{
    dip_assert(dip_rpc_loop_is_mine(options->loop));
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_rpc_channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        goto out;
    channel->options = *options;
    set_defaults(&channel->options);
    channel->target = strdup(options->target);
    channel->tls_name = options->tls_name ? strdup(options->tls_name) : NULL;
    if (!channel->target || (options->tls_name && !channel->tls_name))
        goto out;
    channel->options.tls_name = channel->tls_name;
    status = connect_anew(channel, why);
    if (status)
        goto out;
    dip__rpc_loop_hold(options->loop);
    channel->watch_op = (struct dip__rpc_op){on_watched, channel};
    if (options->on_state) {
        channel->seen = grpc_channel_check_connectivity_state(channel->core, 1);
        watch(channel);
    }
    *ret_channel = channel;
    return DIP_OK;
out:
    if (channel) {
        free(channel->target);
        free(channel->tls_name);
    }
    free(channel);
    return status;
}

void dip_rpc_channel_close(struct dip_rpc_channel *channel)
{
    if (!channel)
        return;
    dip_assert(dip_rpc_loop_is_mine(channel->options.loop));
    dip_assert(!channel->is_closed);
    channel->is_closed = true;
    dip__rpc_loop_cancel(channel->options.loop, channel);
    grpc_channel_destroy(channel->core);
    channel->core = NULL;
    settle(channel);
}

enum dip_rpc_channel_state dip_rpc_channel_state(const struct dip_rpc_channel *channel)
{
    return state_of(grpc_channel_check_connectivity_state(channel->core, 0));
}

int dip_rpc_channel_failures(const struct dip_rpc_channel *channel)
{
    return channel->failures;
}

/* ---- calls ---- */

static void call_gone(void *owner)
{
    struct dip_rpc_channel *channel = owner;
    dip_assert(channel->call_count > 0);
    channel->call_count--;
    settle(channel);
}

/* Before a call, at most once a second: new certificates need a new channel. */
static void renew(struct dip_rpc_channel *channel)
{
    int64_t now_ns = dip_clock_now_ns();
    if (!channel->tls || now_ns - channel->tls_checked_ns < DIP_SECOND_NS)
        return;
    channel->tls_checked_ns = now_ns;
    if (dip__rpc_tls_is_changed(channel->tls) && connect_anew(channel, NULL))
        return; /* half-written files: what was in use stays in use */
}

/* What a client waits for from the first moment on. */
static void begin(struct dip_rpc_call *call)
{
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    grpc_op headers = {.op = GRPC_OP_RECV_INITIAL_METADATA};
    status.data.recv_status_on_client.trailing_metadata = &call->received_trailers;
    status.data.recv_status_on_client.status = &call->end_code;
    status.data.recv_status_on_client.status_details = &call->end_text;
    dip__rpc_call_start(call, &status, 1, &call->end_op);
    headers.data.recv_initial_metadata.recv_initial_metadata = &call->received_headers;
    dip__rpc_call_start(call, &headers, 1, &call->headers_op);
    dip__rpc_call_receive(call);
    call->is_headers_wanted = true;
    dip__rpc_loop_touch(call->loop, call);
}

enum dip_status dip_rpc_call_open(struct dip_rpc_channel *channel,
                                  const struct dip_rpc_call_options *options,
                                  struct dip_rpc_call **ret_call)
{
    struct dip_rpc_loop *loop = channel->options.loop;
    dip_assert(dip_rpc_loop_is_mine(loop));
    dip_assert(!channel->is_closed);
    struct dip_rpc_call *call =
        dip__rpc_call_new(loop, options->queue_count_max, options->queue_bytes_max);
    if (!call)
        return DIP_NO_MEMORY;
    enum dip_status status = DIP_OK;
    for (int i = 0; i < options->header_count && !status; i++)
        status = dip__rpc_pairs_add(&call->headers, options->headers[i].key,
                                    options->headers[i].value, strlen(options->headers[i].value));
    call->id = dip__rpc_loop_enter(loop, call);
    if (!status && !call->id)
        status = DIP_LIMIT;
    if (status) {
        dip__rpc_call_free(call);
        return status;
    }
    renew(channel);
    call->deadline_ns = options->deadline_ns > 0 ? options->deadline_ns : INT64_MAX;
    call->core = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS,
                                          dip__rpc_loop_queue(loop),
                                          grpc_slice_from_static_string(options->path), NULL,
                                          dip__rpc_time_to(call->deadline_ns), NULL);
    call->is_patient = options->is_patient;
    call->path = options->path;
    call->receive_bytes_max = channel->options.message_bytes_max;
    call->handler = options->handler;
    call->context = options->context;
    call->gone = call_gone;
    call->gone_owner = channel;
    channel->call_count++;
    begin(call);
    *ret_call = call;
    return DIP_OK;
}
