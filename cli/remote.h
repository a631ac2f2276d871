/* cli/remote.h - a cluster as its client sees it: calls over one channel, and how they end.
 *
 * One thread: whoever waits turns the loop. --server names one coordinator or several: where nobody
 * answers the next is asked, and one that does not lead names the one that does, where the channel
 * moves to. One of whom nothing comes although it should is left, too: it may be stopped, or its
 * host cut off, with a connection that still looks sound. What went wrong is kept as the server
 * said it, for a sentence with what to do about it. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "cli/cli.h"
#include "net/rpc_client.h"
#include "proto/error.h"

enum { REMOTE_TARGET_BYTES = 272, REMOTE_TOKEN_BYTES = 4096, REMOTE_SERVERS_MAX = 8 };
#define REMOTE_SERVER_DEFAULT "127.0.0.1:50051"

struct remote {
    struct dip_rpc_loop *loop;
    struct dip_rpc_channel *channel;
    struct dip_rpc_tls *tls;
    const char *tls_name;
    bool has_certificate;                                  /* of our own */
    char servers[REMOTE_SERVERS_MAX][REMOTE_TARGET_BYTES]; /* as the user named them */
    int server_count, server;                              /* the last of them that was tried */
    char target[REMOTE_TARGET_BYTES];                      /* in use: one of them, or the leader */
    bool has_moved;                                        /* there are several coordinators */
    char silent[REMOTE_TARGET_BYTES];                      /* who was left for its silence lately */
    int64_t silent_until_ns;                               /* and is not gone back to before */
    char authorization[REMOTE_TOKEN_BYTES + 8];            /* "Bearer ..."; empty without a token */
    int64_t deadline_ns;                                   /* of all that is asked; 0 = none */
};

/* Connects to nothing yet. timeout_s counts when the user has not said. Errors: LIMIT (--server,
 * --token), those of certificates, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__remote_open(const struct options *options, int64_t timeout_s,
                                              struct dip_why *why, struct remote *ret_remote);
/* Accepts a zeroed one. */
void dip__remote_close(struct remote *remote);

/* Whether it ended because this process was told to stop is dip__signals_came's to say. */
struct remote_end {
    int code;       /* enum dip_rpc_code */
    bool is_silent; /* nothing came for too long */
    bool has_error; /* the server explained itself: `error` */
    bool has_pushback;
    int64_t pushback_ns; /* negative = do not try again */
    struct dip_error error;
    char message[DIP_ERROR_MESSAGE_BYTES];
};

/* A coordinator says something at least once a second on the stream of a request, and answers a
 * single question at once. */
#define REMOTE_SILENCE_NS (5 * DIP_SECOND_NS)

struct remote_call {
    int64_t silence_ns_max; /* so long nothing: UNAVAILABLE; 0 = silence is no bad sign */
    int64_t silence_ns;     /* time in which this process itself stood still does not count */
    void (*on_message)(void *context, const void *data, size_t bytes);
    void *context;
    struct dip_rpc_call *call; /* NULL once it is over */
    struct remote_end end;
};

/* Sends the request and no more. The caller has set on_message, context and silence_ns_max; *call
 * stays where it is until it is over. Errors: NO_MEMORY, LIMIT. */
DIP_MUST_USE enum dip_status dip__remote_begin(struct remote *remote, const char *path,
                                               const ProtobufCMessage *request,
                                               struct remote_call *call);
/* Turns the loop for about wait_ns, or until the call is over. */
void dip__remote_turn(struct remote *remote, struct remote_call *call, int64_t wait_ns);
/* The client does not want it any more; waits for the end. */
void dip__remote_cancel(struct remote *remote, struct remote_call *call);

/* A call with one answer, to whoever leads, repeated as the server allows while it is UNAVAILABLE.
 * The answer is freed with dip_proto_free; NULL when *ret_end says that there is none.
 * Errors: CANCELLED (a signal), NO_MEMORY, those of the answer's bytes. */
DIP_MUST_USE enum dip_status dip__remote_ask(struct remote *remote, const char *path,
                                             const ProtobufCMessage *request,
                                             const ProtobufCMessageDescriptor *answer_type,
                                             struct remote_end *ret_end,
                                             ProtobufCMessage **ret_answer);

/* Whether the server's explanation holds this fact. */
bool dip__remote_has_fact(const struct remote_end *end, const char *key, const char *value);

/* What the end of a call leads to. */
struct remote_retry {
    int attempts;     /* so far without any success */
    int attempts_max; /* 0 = REMOTE_ATTEMPTS_MAX */
    int64_t wait_ns;  /* before the next one */
};
enum { REMOTE_ATTEMPTS_MAX = 4, REMOTE_RETURNS_MAX = 12 /* half a minute: a server restarts */ };
/* True when the same call may be made again after wait_ns: the server or its absence is temporary
 * and attempts are left. Moves to the leader when the server has named it, and to the next of the
 * user's servers when nobody answers; an election among several is waited for. */
bool dip__remote_may_retry(struct remote *remote, const struct remote_end *end,
                           struct remote_retry *retry);
/* Waits; false when a signal came or the deadline is sooner. */
bool dip__remote_wait(struct remote *remote, int64_t wait_ns);

/* "error: ..." and what to do about it, on standard error; the exit status that belongs to it. */
enum exit_code dip__remote_fail(const struct remote *remote, const struct remote_end *end);
