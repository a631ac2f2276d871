/* net/spoke_private.h - what the files of the worker's end share; private to net/.
 *
 * spoke.c            the endpoint: two mailboxes, and what is told from outside
 * spoke_stream.c     the stream to the coordinator: connecting, commands in, events out
 * spoke_send.c       hinges to other workers
 * spoke_receive.c    hinges from other workers
 *
 * Owner of everything: the loop's thread, but for the mailboxes and the two flags. */
#pragma once

#include "base/counter.h"
#include "base/flag.h"
#include "base/mailbox.h"
#include "cluster/wire.h"
#include "net/spoke.h"

enum { SPOKE_TOKEN_BYTES = 1024 + 8 };

enum {
    ADDRESS_FIRST = 2,     /* of members that hinges are handed to */
    HAND_OVERS_MAX = 1024, /* remembered ones */
    DELAYED_MAX = 8,       /* commands that wait for a place in the inbox */
    PUTS_MAX = 64,         /* hinges on their way out */
    PEERS_MAX = 64,        /* workers that hinges went to */
    RECEIPTS_MAX = 16,     /* hinges on their way in */
    RECEIVED_MAX = 256,    /* job ids of hinges that have come whole */
};

/* What the device thread gave to the loop. */
struct spoke_out {
    uint32_t to;
    struct dip_message message;
};

/* One HAND_OVER: where its hinge goes. The member's address that the worker sees is its serial. */
struct hand_over {
    uint32_t address; /* 0 = free; never used twice within RESETs */
    uint64_t ar_job_id, to_job_id;
    char target[256];
};

/* A worker that hinges go to. */
struct peer {
    char target[256]; /* "" = free */
    struct dip_rpc_channel *channel;
    int put_count;
    int64_t used_ns;
};

enum put_state { PUT_FREE, PUT_ASKING, PUT_SENDING, PUT_WAITING };

/* A hinge on its way out. */
struct put {
    struct dip_spoke *spoke;
    enum put_state state;
    bool is_dropped; /* nobody wants it any more; gone with its call */
    uint64_t ar_job_id, to_job_id;
    struct peer *peer;
    struct dip_rpc_call *call;
    struct dip_wire_hinge header;
    struct dip_payload hidden;
    size_t sent_bytes;
    uint64_t answer_bytes;
    bool is_answered;
    int attempt;
    int64_t begun_ns, deadline_ns;
    struct dip_rpc_timer timer;
};

/* A hinge on its way in: survives the call that brings it. */
struct receipt {
    struct dip_wire_hinge header; /* job_id 0 = free */
    unsigned char *data;
    size_t bytes, held_bytes;
    struct dip_rpc_call *call; /* that brings it now, or NULL */
    bool is_whole;             /* waits for a place in the inbox */
    int64_t touched_ns;
};

struct received {
    uint64_t job_id;
    size_t bytes;
};

enum stream_state { STREAM_DOWN, STREAM_HELLO, STREAM_UP };

struct dip_spoke {
    struct dip_endpoint endpoint; /* first, so that one pointer is both */
    struct dip_spoke_options options;
    char cluster_id[129];
    char authorization[SPOKE_TOKEN_BYTES]; /* "Bearer ..."; "" = none */
    char *tls_name;                        /* options.tls_name */
    struct dip_mailbox *inbox;             /* struct dip_message, to the device thread */
    struct dip_mailbox *outbox;            /* struct spoke_out */
    struct dip_mailbox *hinges;            /* struct spoke_out: they do not wait behind events */
    struct dip_flag is_noted;              /* a post is under way */
    struct dip_flag is_connected;

    /* the stream */
    bool is_closing;  /* says what is left, then hangs up */
    bool is_stopping; /* nothing begins any more */
    char target[256]; /* "" = nobody leads */
    char next[256];   /* whom to go to when the farewell is said; "" = no change is under way */
    enum stream_state state;
    struct dip_rpc_channel *channel;
    struct dip_rpc_call *call;
    struct dip_wire_reader *reader;
    uint64_t epoch;            /* the largest seen */
    struct dip_counter fenced; /* commands, greetings and hinges of smaller ones */
    int attempt;
    int64_t hello_ns, up_ns, heartbeat_ns;
    struct dip_rpc_timer connect_timer, tick_timer, inbox_timer;

    /* up: the frames of the message that is being sent */
    struct spoke_frame {
        void *data;
        size_t bytes;
    } * frames;
    int frame_count, frame_first, frame_count_max;
    int64_t blocked_ns;        /* since when the call takes nothing; 0 = it does */
    struct dip_message joined; /* what the worker can hold, when has_joined */
    bool has_joined;
    uint64_t steps_seen;
    int64_t stepped_ns;

    /* down: RESET and commands that a full inbox has not taken */
    uint64_t reset_serial, reset_epoch;
    bool is_reset_due; /* not in the inbox yet */
    bool is_fenced;    /* the worker has not answered it yet */
    struct dip_message delayed[DELAYED_MAX];
    int delayed_count;
    struct dip_message_held held; /* what the worker has from before, for the next hello */

    /* hinges */
    uint32_t address_last;
    struct hand_over *hand_overs; /* [HAND_OVERS_MAX], by address */
    struct put puts[PUTS_MAX];
    struct peer peers[PEERS_MAX];
    struct receipt receipts[RECEIPTS_MAX];
    struct received received[RECEIVED_MAX]; /* a ring */
    int received_next;
};

/* ---- spoke.c ---- */

void dip__spoke_log(const struct dip_spoke *spoke, const char *format, ...) DIP_PRINTF(2, 3);
/* The header of every call that goes out; how many (0 without a token). */
int dip__spoke_headers(const struct dip_spoke *spoke, struct dip_rpc_pair ret_headers[1]);
/* Whether a call that came shows our token; ends it when not. */
bool dip__spoke_may_call(const struct dip_spoke *spoke, struct dip_rpc_call *call);
/* A pause that doubles from min to max, between half of it and all of it. */
int64_t dip__spoke_pause(int attempt, int64_t min_ns, int64_t max_ns);
/* Moves the message into the inbox. False: full, it stays the caller's. */
bool dip__spoke_deliver(struct dip_spoke *spoke, struct dip_message *message);

/* ---- spoke_stream.c ---- */

void dip__spoke_stream_init(struct dip_spoke *spoke);
/* Hangs up when all that the worker said has been taken, or after a while. */
void dip__spoke_stream_close(struct dip_spoke *spoke);
/* Sends what the mailboxes hold, as far as the stream takes it. */
void dip__spoke_pump(struct dip_spoke *spoke);
/* Tries again, soon, what a full inbox has not taken. */
void dip__spoke_inbox_later(struct dip_spoke *spoke);
/* To the coordinator, from this thread; dropped while there is none. */
void dip__spoke_say_failed(struct dip_spoke *spoke, uint64_t job_id, enum dip_status status,
                           const char *text);

/* ---- spoke_send.c ---- */

/* Remembers where a hinge goes; the member's address for the worker. */
uint32_t dip__spoke_hand_over(struct dip_spoke *spoke, const struct dip_message *message,
                              const char *target);
/* A HINGE of the worker's; takes the payload. */
void dip__spoke_put(struct dip_spoke *spoke, uint32_t to, struct dip_message *message);
/* Forgets hinges of one AR job, or of all (0). */
void dip__spoke_put_drop(struct dip_spoke *spoke, uint64_t ar_job_id);
/* Closes connections that were not used for a while. */
void dip__spoke_peers_tick(struct dip_spoke *spoke, int64_t now_ns);
void dip__spoke_peers_close(struct dip_spoke *spoke);

/* ---- spoke_receive.c ---- */

int dip__spoke_receive_methods(struct dip_spoke *spoke, struct dip_rpc_method ret_methods[2]);
/* Whole hinges that wait; false while one still does. */
bool dip__spoke_receive_deliver(struct dip_spoke *spoke);
/* Forgets hinges for one diffusion job, or all (0). */
void dip__spoke_receive_drop(struct dip_spoke *spoke, uint64_t job_id);
void dip__spoke_receive_tick(struct dip_spoke *spoke, int64_t now_ns);
