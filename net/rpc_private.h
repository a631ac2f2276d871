/* net/rpc_private.h - what the files of the RPC transport know of each other. */
#pragma once

#include <grpc/grpc.h>
#if __has_include(<grpc/credentials.h>) /* part of grpc_security.h before */
#include <grpc/credentials.h>
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/rpc_call.h"
#include "net/rpc_loop.h"
#include "net/rpc_server.h"

/* ---- loop ---- */

/* Something that gRPC will report on the completion queue: its address is the tag. One report for
 * each time it is handed out; it must live until then. */
struct dip__rpc_op {
    void (*done)(void *owner, bool is_ok);
    void *owner;
};

grpc_completion_queue *dip__rpc_loop_queue(struct dip_rpc_loop *loop);

/* Reports op on the loop's thread, is_ok true. From any thread, cannot fail. */
void dip__rpc_loop_signal(struct dip_rpc_loop *loop, struct dip__rpc_op *op);

/* Things that keep dip_rpc_loop_run from returning. Owner thread. */
void dip__rpc_loop_hold(struct dip_rpc_loop *loop);
void dip__rpc_loop_drop(struct dip_rpc_loop *loop);

/* A place in the table of live calls; 0 when it is full. */
uint64_t dip__rpc_loop_enter(struct dip_rpc_loop *loop, struct dip_rpc_call *call);
void dip__rpc_loop_leave(struct dip_rpc_loop *loop, uint64_t id);
/* Cancels every live call whose gone_owner this is. */
void dip__rpc_loop_cancel(struct dip_rpc_loop *loop, const void *gone_owner);

/* Has dip__rpc_call_flush called once at the end of this turn. */
void dip__rpc_loop_touch(struct dip_rpc_loop *loop, struct dip_rpc_call *call);

/* ---- calls ---- */

enum {
    RPC_PAIRS_MAX = 8,
    RPC_QUEUE_COUNT_DEFAULT = 16,
    RPC_QUEUE_BYTES_DEFAULT = 8 << 20,
    RPC_MESSAGE_BYTES_DEFAULT = 4 << 20,
};

struct rpc_out {
    void *data; /* malloc */
    size_t bytes;
    uint32_t key;
};

/* Headers or trailers to be sent; two places are kept for what a status brings. */
struct rpc_pairs {
    grpc_metadata list[RPC_PAIRS_MAX + 2];
    size_t count;
};

/* See the essay of net/rpc_call.c. Owner: the loop's thread. */
struct dip_rpc_call {
    struct dip_rpc_loop *loop;
    grpc_call *core;
    uint64_t id;
    bool is_server;
    const struct dip_rpc_method *method;   /* server */
    const struct dip_rpc_handler *handler; /* NULL until the owner has been told of the call */
    void *context;
    void (*gone)(void *owner); /* told when the call is gone */
    void *gone_owner;
    const char *path;
    char *peer; /* gpr_free */
    int64_t deadline_ns;
    struct dip_rpc_call *touched_next;
    bool is_touched;

    /* sending */
    struct dip__rpc_op send_op;
    grpc_byte_buffer *sending; /* kept until gRPC has taken it */
    bool is_sending;           /* a batch of ours is out */
    bool is_headers_wanted;    /* send them even without a message */
    bool is_patient;           /* client: wait for a connection */
    bool is_headers_sent;
    bool is_ending; /* finish (server) or half-close (client) was asked for */
    bool is_end_sent;
    bool is_broken; /* nothing can be sent any more */
    struct rpc_pairs headers, trailers;
    struct rpc_out *queue; /* [queue_count_max], a ring */
    int queue_count_max, queue_first, queue_count;
    size_t queue_bytes_max, queue_bytes;
    struct dip_rpc_timer timer; /* server: the request must be complete; a send must be taken */

    /* receiving */
    struct dip__rpc_op receive_op;
    grpc_byte_buffer *received;
    grpc_byte_buffer *request; /* server, one request: kept until it is known to be the only one */
    size_t receive_bytes_max;
    bool is_receiving, is_paused, is_all_received;
    grpc_metadata_array received_headers, received_trailers;

    /* ending */
    struct dip__rpc_op headers_op; /* client */
    struct dip__rpc_op end_op;
    int op_count;              /* reports to come */
    int is_cancelled;          /* server; written by gRPC */
    bool is_given_up;          /* cancelled from here: the status is ours */
    bool is_over;              /* end_op has come */
    grpc_status_code end_code; /* what finish said, what cancel said, what the server said */
    grpc_slice end_text;
};

/* ---- rpc_call.c ---- */

/* Zeroed memory for a call with its queue; NULL without memory. Holds the loop. */
struct dip_rpc_call *dip__rpc_call_new(struct dip_rpc_loop *loop, int queue_count_max,
                                       size_t queue_bytes_max);
/* For a call whose core could not be made. */
void dip__rpc_call_free(struct dip_rpc_call *call);
/* Starts a batch, whose report op gets. */
void dip__rpc_call_start(struct dip_rpc_call *call, const grpc_op *ops, size_t count,
                         struct dip__rpc_op *op);
/* At the end of a turn: starts what can be started, or ends the call. */
void dip__rpc_call_flush(struct dip_rpc_call *call);
/* The report of the operation that ends a call. */
void dip__rpc_call_ended(void *owner, bool is_ok);
/* A report that nothing depends on. */
void dip__rpc_call_ignored(void *owner, bool is_ok);

/* ---- rpc_receive.c ---- */

/* Asks for the next message unless paused or one is on its way. */
void dip__rpc_call_receive(struct dip_rpc_call *call);
void dip__rpc_call_received(void *owner, bool is_ok);
/* Server: tells the service of the call. */
void dip__rpc_call_open(struct dip_rpc_call *call);

/* ---- rpc_pairs.c ---- */

DIP_MUST_USE enum dip_status dip__rpc_pairs_add(struct rpc_pairs *pairs, const char *key,
                                                const void *value, size_t bytes);
/* What a status brings besides code and message. Always fits. */
void dip__rpc_pairs_add_status(struct rpc_pairs *pairs, const struct dip_rpc_status *status);
void dip__rpc_pairs_clear(struct rpc_pairs *pairs);
/* NULL when there is none. */
const grpc_metadata *dip__rpc_metadata_find(const grpc_metadata_array *array, const char *key);

/* ---- rpc_time.c ---- */

/* A moment of dip_clock_now_ns for gRPC; INT64_MAX = never. */
gpr_timespec dip__rpc_time_to(int64_t at_ns);
/* And back. Not below 0: long past is past. */
int64_t dip__rpc_time_from(gpr_timespec at);

/* ---- rpc_args.c: arguments of channels and servers ---- */

enum { RPC_ARGS_MAX = 24 };

struct rpc_args {
    grpc_arg list[RPC_ARGS_MAX];
    size_t count;
};

void dip__rpc_args_int(struct rpc_args *args, const char *key, int64_t value);
void dip__rpc_args_text(struct rpc_args *args, const char *key, const char *value);
/* gRPC takes a share of its own. */
void dip__rpc_args_quota(struct rpc_args *args, grpc_resource_quota *quota);
/* In whole milliseconds, at least 1; 0 = leave gRPC's default. */
void dip__rpc_args_ms(struct rpc_args *args, const char *key, int64_t ns);
/* 0 = leave gRPC's own way. */
void dip__rpc_args_window(struct rpc_args *args, size_t bytes);

/* ---- rpc_tls.c ---- */

/* One server's or channel's view of the files: what it has read of them last. */
struct dip__rpc_tls_use;

DIP_MUST_USE enum dip_status dip__rpc_tls_server(const struct dip_rpc_tls *tls, struct dip_why *why,
                                                 struct dip__rpc_tls_use **ret_use,
                                                 grpc_server_credentials **ret_credentials);
DIP_MUST_USE enum dip_status dip__rpc_tls_channel(const struct dip_rpc_tls *tls,
                                                  struct dip_why *why,
                                                  struct dip__rpc_tls_use **ret_use,
                                                  grpc_channel_credentials **ret_credentials);
/* Whether a channel's files have changed since its credentials were made. */
bool dip__rpc_tls_is_changed(const struct dip__rpc_tls_use *use);
void dip__rpc_tls_use_free(struct dip__rpc_tls_use *use);
