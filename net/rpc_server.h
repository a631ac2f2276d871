/* net/rpc_server.h - a gRPC server: methods by path, bytes in and out, ceilings on everything.
 *
 * It knows no message: a method is a path, a kind and somebody who is told of its calls
 * (net/rpc_call.h). What is refused here, before anybody is told: unknown methods (UNIMPLEMENTED),
 * messages above the ceiling and calls above call_count_max (RESOURCE_EXHAUSTED), compressed
 * messages (UNIMPLEMENTED: 1 KB can unpack to 1 GB, and images do not compress), requests that do
 * not become whole soon enough (DEADLINE_EXCEEDED), clients without a certificate when one is asked
 * for. A method may refuse in its own words who shows no credential, of whom nothing is read then,
 * and a request that is too large.
 *
 * A request that is too large is read before it is refused, up to four times the ceiling: gRPC
 * would end the call by itself otherwise, without a word of ours. Beyond that it does. The core of
 * the images (1.85) looks at the length that a message states; Debian's (1.51) has read all of it
 * by then, up to 4 GiB, so that buffer_bytes_max is what bounds the memory of this process. Beyond
 * it gRPC ends streams, whosever they are (RESOURCE_EXHAUSTED), until there is room again. */
#pragma once

#include "net/rpc_call.h"
#include "net/rpc_loop.h"
#include "net/rpc_tls.h"

struct dip_rpc_server;

struct dip_rpc_method {
    const char *path; /* "/diptych.v1.ImageService/Generate" */
    enum dip_rpc_kind kind;
    const struct dip_rpc_handler *handler;
    void *context;            /* of the handler */
    size_t request_bytes_max; /* of one message; 0 = the server's */
    int queue_count_max;      /* messages that wait to be sent; 0 = 16 */
    size_t queue_bytes_max;   /* and their bytes; 0 = 8 MiB */
    int64_t stall_ns;         /* a reader that takes no message for so long is cut; 0 = never */
    /* May be NULL; both are given `context`, before the handler is told of the call. */
    bool (*may_begin)(void *context, struct dip_rpc_call *call); /* false: it has ended the call */
    void (*refuse)(void *context, struct dip_rpc_call *call, size_t bytes); /* ends it: too large */
};

struct dip_rpc_server_options {
    const char *listen;                /* "127.0.0.1:0", "[::]:50051", "unix:/run/d.sock" */
    const struct dip_rpc_tls *tls;     /* NULL = plaintext */
    struct dip_rpc_loop *const *loops; /* calls are spread over them; the first is the home */
    int loop_count;
    const struct dip_rpc_method *methods; /* kept, not copied */
    int method_count;
    /* Ceilings; 0 = the default in brackets. */
    size_t message_bytes_max;     /* received, any method [4 MiB] */
    size_t buffer_bytes_max;      /* of all connections, being read [512 MiB] */
    size_t metadata_bytes_max;    /* headers of one call [16 KiB] */
    int stream_count_max;         /* calls on one connection [100] */
    size_t window_bytes;          /* unread, of one stream [grows with the measured bandwidth] */
    int64_t request_ns;           /* for a single request to become whole [30 s] */
    int64_t handshake_ns;         /* TLS and the client's first words [30 s] */
    int64_t idle_ns;              /* a connection without calls is closed [never] */
    int64_t age_ns;               /* a connection is asked to reconnect [never] */
    int64_t age_grace_ns;         /* and its calls may last so long [never cut] */
    int64_t keepalive_ns;         /* silence before the peer is asked whether it lives [30 s] */
    int64_t keepalive_timeout_ns; /* to answer that [10 s] */
    int64_t ping_ns_min;          /* a peer that asks more often is sent away [10 s] */
};

/* Whether only this machine reaches it: a loopback address, with or without a port, or a unix
 * socket. */
bool dip_rpc_is_local(const char *address);
/* Plaintext beyond this machine is for those who ask for it: INVALID, with a sentence, unless there
 * is TLS, or `listen` is local, or is_insecure. */
DIP_MUST_USE enum dip_status dip_rpc_listen_check(const char *listen, const struct dip_rpc_tls *tls,
                                                  bool is_insecure, struct dip_why *why);

/* Listens and serves. Before its loops run; with a single loop also on its owner thread.
 * Errors: IO (cannot listen there; why says what), NO_MEMORY and those of certificates. */
DIP_MUST_USE enum dip_status dip_rpc_server_start(const struct dip_rpc_server_options *options,
                                                  struct dip_why *why,
                                                  struct dip_rpc_server **ret_server);

/* The port that was bound; 0 for a unix socket. */
int dip_rpc_server_port(const struct dip_rpc_server *server);

/* Orderly end: no new connections and calls, clients are told to go elsewhere, calls may finish
 * for grace_ns, then they are cancelled; then on_stopped (may be NULL) is called once, and may free
 * the server. On the home loop's thread. A second call can only shorten the grace. A call that
 * arrives in the very moment of the stop ends CANCELLED, which clients do not retry: a service
 * first refuses new work as UNAVAILABLE and stops its server when that has gone round. */
void dip_rpc_server_stop(struct dip_rpc_server *server, int64_t grace_ns,
                         void (*on_stopped)(void *context), void *context);

/* After on_stopped (or after all its loops have returned). */
void dip_rpc_server_free(struct dip_rpc_server *server);

/* Calls that are live on a loop; for tests and metrics. On that loop's thread. */
int dip_rpc_server_calls(const struct dip_rpc_server *server, int loop_index);
