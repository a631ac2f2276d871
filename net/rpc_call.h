/* net/rpc_call.h - one call, seen from either end: bytes out, bytes in, a status at the end.
 *
 * The same object serves both sides of all four kinds of method. What differs is who ends it: a
 * client says that no message will follow and receives a status, a server sends one.
 *
 *     client  open ─► send* ─► half_close ─►            ... on_message* ─► on_close(status)
 *     server  on_open ─► on_message* ─► on_half_close   ... send* ─► finish(status) ─► on_close
 *
 * Nothing waits. A message is on its way when the one before it has been taken by the peer's flow
 * control, so a reader that stops leaves one message in gRPC and the rest in the call's queue,
 * which is bounded. The owner has three ways to live with that:
 *   - push: send until BUSY, go on at on_writable;
 *   - pull: send only at on_writable, when the queue is empty, and decide then what is newest;
 *   - replace: give messages of one sort a key; a newer one takes the place of the one that waits.
 * What is sent during one callback leaves as one batch: a reply and its status are one write.
 *
 * A call is gone after on_close returns. Who keeps a call for longer, or names it from another
 * thread, keeps its id. Thread: all functions and callbacks on the loop's owner thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "net/rpc_loop.h"

/* gRPC's status codes. */
#define DIP_RPC_CODE_LIST(X)                                                                       \
    X(OK, 0)                                                                                       \
    X(CANCELLED, 1)                                                                                \
    X(UNKNOWN, 2)                                                                                  \
    X(INVALID_ARGUMENT, 3)                                                                         \
    X(DEADLINE_EXCEEDED, 4)                                                                        \
    X(NOT_FOUND, 5)                                                                                \
    X(ALREADY_EXISTS, 6)                                                                           \
    X(PERMISSION_DENIED, 7)                                                                        \
    X(RESOURCE_EXHAUSTED, 8)                                                                       \
    X(FAILED_PRECONDITION, 9)                                                                      \
    X(ABORTED, 10)                                                                                 \
    X(OUT_OF_RANGE, 11)                                                                            \
    X(UNIMPLEMENTED, 12)                                                                           \
    X(INTERNAL, 13)                                                                                \
    X(UNAVAILABLE, 14)                                                                             \
    X(DATA_LOSS, 15)                                                                               \
    X(UNAUTHENTICATED, 16)

enum dip_rpc_code {
#define DIP_RPC_CODE_ENUM(name, number) DIP_RPC_##name = number,
    DIP_RPC_CODE_LIST(DIP_RPC_CODE_ENUM)
#undef DIP_RPC_CODE_ENUM
};

/* "INVALID_ARGUMENT"; "UNKNOWN" for a number that is none. */
const char *dip_rpc_code_name(int code);

/* How a call ended. Pointers are valid during the callback or call that they are given to. */
struct dip_rpc_status {
    int code;            /* enum dip_rpc_code */
    const char *message; /* NULL = empty */
    const void *details; /* google.rpc.Status as bytes, for `grpc-status-details-bin` */
    size_t details_bytes;
    bool has_pushback;   /* `grpc-retry-pushback-ms`: when a client may try again, */
    int64_t pushback_ns; /* negative = not at all */
};

enum dip_rpc_kind { DIP_RPC_UNARY, DIP_RPC_SERVER_STREAM, DIP_RPC_CLIENT_STREAM, DIP_RPC_BIDI };

struct dip_rpc_call;

/* What the owner of a call is told. Functions that it does not need are NULL. `context` is the
 * method's (server) or what open was given (client), until dip_rpc_call_bind. */
struct dip_rpc_handler {
    /* Server: a call has come. For a method of one request the request is here and follows at once.
     */
    void (*on_open)(void *context, struct dip_rpc_call *call);
    /* A whole message; `data` is valid until the callback returns. */
    void (*on_message)(void *context, struct dip_rpc_call *call, const void *data, size_t bytes);
    /* Server: the client will send no more. */
    void (*on_half_close)(void *context, struct dip_rpc_call *call);
    /* The queue is empty and the last message has been taken. */
    void (*on_writable)(void *context, struct dip_rpc_call *call);
    /* The last callback, exactly one for each on_open and each open. Client: how the server ended
     * it. Server: as finished; or CANCELLED when the client left first, DEADLINE_EXCEEDED when the
     * deadline passed first. */
    void (*on_close)(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status);
};

void dip_rpc_call_bind(struct dip_rpc_call *call, void *context);
/* Server, within on_open: another handler is told of everything from here on. */
void dip_rpc_call_hand_over(struct dip_rpc_call *call, const struct dip_rpc_handler *handler,
                            void *context);

/* Queues one message; `data` (malloc) belongs to the call from then on. With a key other than 0 it
 * replaces the message of the same key that still waits, at that one's place.
 * Errors, `data` stays the caller's: BUSY (the queue is full: wait for on_writable), CANCELLED (the
 * call is over or its end was asked for). */
DIP_MUST_USE enum dip_status dip_rpc_call_send(struct dip_rpc_call *call, void *data, size_t bytes,
                                               uint32_t key);

/* Server: metadata before the first message, after the last one; copied. Keys are lower case; those
 * that end in "-bin" take any bytes, others printable ASCII.
 * Errors: INVALID (key or value), LIMIT (more than 8 each), CANCELLED (too late). */
DIP_MUST_USE enum dip_status dip_rpc_call_header(struct dip_rpc_call *call, const char *key,
                                                 const void *value, size_t bytes);
DIP_MUST_USE enum dip_status dip_rpc_call_trailer(struct dip_rpc_call *call, const char *key,
                                                  const void *value, size_t bytes);
/* Server: sends the headers now instead of with the first message. A client then knows that it is
 * served, and may not retry by itself any more. */
void dip_rpc_call_send_headers(struct dip_rpc_call *call);

/* Server: ends the call once the queue is empty. Without a message sent before, the answer is a
 * single frame and clients may retry it by policy. Copies the status. The first call counts. */
void dip_rpc_call_finish(struct dip_rpc_call *call, const struct dip_rpc_status *status);

/* Client: no message follows. */
void dip_rpc_call_half_close(struct dip_rpc_call *call);

/* Ends the call now and drops what waits. on_close follows with this code. A server's client may
 * see CANCELLED instead: after this nothing is sent that could be stuck behind unread messages. */
void dip_rpc_call_cancel(struct dip_rpc_call *call, int code, const char *message);

/* While paused no further on_message comes (one may be under way) and the peer's sending stops. A
 * client is not told of the end either while messages that it has not taken come before it. */
void dip_rpc_call_pause(struct dip_rpc_call *call);
void dip_rpc_call_resume(struct dip_rpc_call *call);

/* ---- facts ---- */

/* Never 0 and never used twice by one loop. */
uint64_t dip_rpc_call_id(const struct dip_rpc_call *call);
/* The live call of this id; NULL when it is gone. */
struct dip_rpc_call *dip_rpc_call_find(struct dip_rpc_loop *loop, uint64_t id);

struct dip_rpc_loop *dip_rpc_call_loop(const struct dip_rpc_call *call);
const char *dip_rpc_call_path(const struct dip_rpc_call *call);
/* "ipv4:10.0.0.7:40312": for logs; proves nothing. */
const char *dip_rpc_call_peer(const struct dip_rpc_call *call);
/* Of dip_clock_now_ns; INT64_MAX = none. */
int64_t dip_rpc_call_deadline_ns(const struct dip_rpc_call *call);
/* Messages that wait, the one in gRPC not counted. */
int dip_rpc_call_queued(const struct dip_rpc_call *call);
bool dip_rpc_call_is_cancelled(const struct dip_rpc_call *call);

/* Metadata that the peer sent; a client looks into trailers, then headers. The value is not
 * terminated. False when there is none. */
bool dip_rpc_call_metadata(const struct dip_rpc_call *call, const char *key, const char **ret_value,
                           size_t *ret_bytes);

/* The name in the certificate that the peer proved to own: the first subject alternative name,
 * else the common name. False without one. Cut to `bytes`, always terminated. */
bool dip_rpc_call_identity(const struct dip_rpc_call *call, char *text, size_t bytes);
