/* net/rpc_client.h - a channel to one server, and the calls that go out over it.
 *
 * gRPC connects by itself when a call needs it, and again, with growing pauses, when the connection
 * is lost; the channel says where it stands. Calls are not retried and not moved: a call that was
 * open when the connection broke ends UNAVAILABLE, and whoever made it knows best what to do. */
#pragma once

#include "net/rpc_call.h"
#include "net/rpc_loop.h"
#include "net/rpc_tls.h"

struct dip_rpc_channel;

enum dip_rpc_channel_state {
    DIP_RPC_CHANNEL_IDLE,       /* no connection, and no call that needs one */
    DIP_RPC_CHANNEL_CONNECTING, /* the first time, or again */
    DIP_RPC_CHANNEL_READY,
    DIP_RPC_CHANNEL_WAITING, /* failed, waits before it tries again */
};
const char *dip_rpc_channel_state_name(enum dip_rpc_channel_state state);

struct dip_rpc_channel_options {
    struct dip_rpc_loop *loop;
    const char *target;            /* "host:port", "unix:/run/d.sock" */
    const struct dip_rpc_tls *tls; /* NULL = plaintext */
    const char *tls_name;          /* the name in the server's certificate; NULL = the host */
    /* Ceilings; 0 = the default in brackets. */
    size_t message_bytes_max;     /* received [4 MiB] */
    size_t metadata_bytes_max;    /* [16 KiB] */
    size_t window_bytes;          /* unread, of one stream [grows with the measured bandwidth] */
    int64_t keepalive_ns;         /* silence before the peer is asked whether it lives [30 s] */
    int64_t keepalive_timeout_ns; /* to answer that [10 s] */
    int64_t connect_ns;           /* for one attempt [5 s] */
    int64_t backoff_ns_min;       /* first pause [100 ms]; doubles with jitter */
    int64_t backoff_ns_max;       /* longest pause [5 s] */
    /* NULL, or told of every change; keeps the channel trying while there is no call. */
    void (*on_state)(void *context, enum dip_rpc_channel_state state);
    void *context;
};

/* Connects to nothing yet. On the loop's owner thread, or before it runs.
 * Errors: NO_MEMORY and those of certificates. */
DIP_MUST_USE enum dip_status dip_rpc_channel_open(const struct dip_rpc_channel_options *options,
                                                  struct dip_why *why,
                                                  struct dip_rpc_channel **ret_channel);

/* Cancels its live calls and is gone with the last of them, also while they are paused: close is
 * the last call about a channel. on_state is not called any more. Owner thread. */
void dip_rpc_channel_close(struct dip_rpc_channel *channel);

enum dip_rpc_channel_state dip_rpc_channel_state(const struct dip_rpc_channel *channel);
/* Connections lost or not made since the last READY. Counted only with on_state. */
int dip_rpc_channel_failures(const struct dip_rpc_channel *channel);

struct dip_rpc_pair {
    const char *key; /* as for dip_rpc_call_header */
    const char *value;
};

struct dip_rpc_call_options {
    const char *path;    /* kept, not copied: a constant */
    int64_t deadline_ns; /* of dip_clock_now_ns; 0 = none */
    bool is_patient;     /* wait for a connection, until the deadline, instead of failing */
    const struct dip_rpc_pair *headers;
    int header_count;       /* at most 8 */
    int queue_count_max;    /* messages that wait to be sent; 0 = 16 */
    size_t queue_bytes_max; /* and their bytes; 0 = 8 MiB */
    const struct dip_rpc_handler *handler;
    void *context;
};

/* Begins a call. on_close comes exactly once, never before this returns. Owner thread.
 * Errors: NO_MEMORY, LIMIT (too many calls on the loop, too many headers), INVALID (a header). */
DIP_MUST_USE enum dip_status dip_rpc_call_open(struct dip_rpc_channel *channel,
                                               const struct dip_rpc_call_options *options,
                                               struct dip_rpc_call **ret_call);
