/* coordinator/record.h - one client's request: what is known of it, kept of it, and who listens.
 *
 *     Generate ─► record_open ─► core ─► event.c ─► keep ─► pump ─► streams
 *     Watch, a repeated Generate ─► attach ─► pump
 *     the last stream goes ─► cancelled (unless detached), or kept until it is old
 *
 * Two sorts of events. Those that are kept (Admitted, files, Retried, Completed) wait in the record
 * until each stream has taken them, however slow. The others (queue, progress, previews) are made
 * only when the first stream has nothing left to take: what a slow reader missed was never made,
 * and so the numbers have no holes. Whoever comes back while the first stream hangs does not wait
 * for it: from then on that one has holes.
 *
 * Owner thread: the loop's. */
#pragma once

#include "coordinator/core.h"
#include "coordinator/daemon.h"
#include "net/rpc_call.h"
#include "proto/error.h"

enum { RECORD_ID_BYTES = DIP_REQUEST_ID_BYTES };

struct kept {
    uint64_t sequence;
    void *data; /* a GenerateResponse, which is a WatchResponse, too */
    size_t bytes;
};

/* A call that listens to a record. Lives from on_open to on_close. */
struct stream {
    struct dip_coordinator_daemon *daemon;
    struct dip_rpc_call *call;
    struct record *record; /* NULL before it is attached and after it has been finished */
    struct stream *next;   /* of the record */
    enum dip_front_method method;
    uint64_t after_sequence;
    int cursor;     /* into kept */
    bool is_first;  /* its events have no holes */
    bool is_served; /* the call has been given everything and OK; whether that is taken shows */
    int64_t work_ended_ns; /* its record's, with is_served */
};

struct image_news {
    int tokens_done, steps_done;
    bool has_tokens, has_steps; /* not told yet */
    struct dip_payload preview; /* not told yet */
    int preview_width, preview_height, preview_index;
    int previews_seen;
    int attempts;
};

enum record_state {
    RECORD_QUEUED,
    RECORD_RUNNING,
    RECORD_SUCCEEDED,
    RECORD_FAILED,
    RECORD_CANCELLED
};

struct record {
    struct dip_coordinator_daemon *daemon;
    char id[RECORD_ID_BYTES];
    char body[DIP_SHA256_HEX_BYTES]; /* of the request; empty when the server chose the id */
    char tenant[DIP_TENANT_BYTES];
    uint32_t tenant_share; /* which count it is in; see front.h */
    bool is_counted;
    char traceparent[DIP_TRACEPARENT_BYTES]; /* well-formed, or "" */
    struct record *next;                     /* of the same bucket */
    struct record *older, *newer;            /* of those that are over and that nobody listens to */
    struct record *before, *after;           /* of those that run, by admission */
    enum record_state state;
    bool is_admitted, is_detached, is_check, is_again; /* is_again: a repetition runs anew */
    bool is_left;                                      /* cancelled because its client was gone */
    bool is_old;                                       /* in the list of those that are over */
    uint64_t core_id;                                  /* 0 = over */
    int64_t received_ns, admitted_ns, ended_ns;

    struct stream *streams;
    struct kept *kept;
    int kept_count, kept_max;
    size_t bytes; /* of what is kept */
    uint64_t sequence;

    struct dip_rpc_timer timer; /* news that wait for their interval, or the second that is up */
    int64_t min_interval_ns, told_ns, progress_told_ns;
    int queue_position;
    int64_t queue_start_ns;
    bool has_queue;
    int previews, preview_every;
    bool has_previewed;

    int image_count, images_done, token_count, step_count, prompt_tokens;
    int width, height;
    uint64_t seed;
    int image_turn; /* whose news come next */
    enum dip_stage stage;
    int attempts;
    int adopted[DIP_HELD_STAGE_COUNT]; /* parts that a worker held from before */
    uint64_t image_tokens;
    struct dip_timings timings; /* summed */

    struct dip_error *error; /* of a request that has failed */
    char cancel_reason[257];
    struct image_news images[]; /* [image_count] */
};

/* All records. */
struct book {
    struct record **buckets; /* [bucket_count] by id */
    uint64_t bucket_count;
    struct record *oldest, *newest;      /* over, nobody listens: the first to go */
    struct record *first_run, *last_run; /* running */
    int run_count, old_count;
    uint64_t core_serial;
};

struct ask;
struct caller;

DIP_MUST_USE enum dip_status dip__book_init(struct book *book, int record_count);
void dip__book_deinit(struct book *book);

/* The tenant's own; NULL when it is not known. Ids of different tenants have nothing to do with
 * each other. */
struct record *dip__record_find(const struct book *book, const char *tenant, const char *id);
/* Anybody's, for who may see them all: the newest of that id. */
struct record *dip__record_find_any(const struct book *book, const char *id);
/* Forgets what is too old or too much. */
void dip__book_sweep(struct dip_coordinator_daemon *d, int64_t now_ns);

/* A new record in the book of the tenant under `id`; empty: one is drawn. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__record_new(struct dip_coordinator_daemon *d, const char *tenant,
                                             const char *id, int image_count,
                                             struct record **ret_record);
void dip__record_free(struct record *record);

/* From here on the stream hears what happens and what is kept after after_sequence. */
void dip__record_attach(struct record *record, struct stream *stream);
/* The call has ended: `is_stalled` readers may come back for the result, others have given up. */
void dip__record_detach(struct stream *stream, bool is_stalled);

/* Ends the request as cancelled; nothing when it is over. */
void dip__record_cancel(struct record *record, const char *reason);
/* Ends it with an error that the scheduler does not know of. */
void dip__record_abort(struct record *record, const struct dip_error *error);

/* Encodes nothing: `data` is the event's message and moves to the record. */
void dip__record_keep(struct record *record, void *data, size_t bytes);
/* Gives every stream what it has not taken yet; ends those that have everything. */
void dip__record_pump(struct record *record);
void dip__stream_pump(struct stream *stream);
/* The core has ended it. error NULL: success. */
void dip__record_end(struct record *record, enum record_state state, const struct dip_error *error);

/* True when news that nobody keeps can be told now. They wait for the first stream; `is_due`: not
 * any more, when another one is ready, since the first may be a line that broke unnoticed. */
bool dip__record_is_idle(struct record *record, bool is_due);
/* Sends one message to every stream that has nothing left to take. */
void dip__record_tell(struct record *record, const void *data, size_t bytes);

/* ---- event.c ---- */

/* dip_update_fn of a record. */
void dip__event_update(void *record, const struct dip_update *update);
/* News that waited: when a stream is idle again and when the timer fires. */
void dip__event_news(struct record *record);
