/* coordinator/record.c - see coordinator/record.h. */
#include "coordinator/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/front.h"

/* ---- the book ---- */

enum dip_status dip__book_init(struct book *book, int record_count)
{
    *book = (struct book){.bucket_count = 1};
    while (book->bucket_count < (uint64_t)record_count)
        book->bucket_count *= 2;
    book->buckets = calloc(book->bucket_count, sizeof(struct record *));
    return book->buckets ? DIP_OK : DIP_NO_MEMORY;
}

void dip__book_deinit(struct book *book)
{
    for (uint64_t i = 0; book->buckets && i < book->bucket_count; i++)
        while (book->buckets[i])
            dip__record_free(book->buckets[i]);
    free(book->buckets);
    *book = (struct book){0};
}

static struct record **bucket_of(const struct book *book, const char *id)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * UINT64_C(1099511628211);
    return &book->buckets[(hash ^ (hash >> 32)) & (book->bucket_count - 1)];
}

struct record *dip__record_find_any(const struct book *book, const char *id)
{
    struct record *record = *bucket_of(book, id);
    while (record && strcmp(record->id, id) != 0)
        record = record->next;
    return record;
}

struct record *dip__record_find(const struct book *book, const char *tenant, const char *id)
{
    struct record *record = *bucket_of(book, id);
    while (record && (strcmp(record->id, id) != 0 || strcmp(record->tenant, tenant) != 0))
        record = record->next;
    return record;
}

static void run_insert(struct book *book, struct record *record)
{
    record->before = book->last_run;
    *(book->last_run ? &book->last_run->after : &book->first_run) = record;
    book->last_run = record;
    book->run_count++;
}

static void run_remove(struct book *book, struct record *record)
{
    if (record->is_counted)
        record->daemon->tenant_counts[record->tenant_share]--;
    record->is_counted = false;
    *(record->before ? &record->before->after : &book->first_run) = record->after;
    *(record->after ? &record->after->before : &book->last_run) = record->before;
    record->before = record->after = NULL;
    book->run_count--;
}

static void old_insert(struct book *book, struct record *record)
{
    record->is_old = true;
    record->older = book->newest;
    *(book->newest ? &book->newest->newer : &book->oldest) = record;
    book->newest = record;
    book->old_count++;
}

static void old_remove(struct book *book, struct record *record)
{
    record->is_old = false;
    *(record->older ? &record->older->newer : &book->oldest) = record->newer;
    *(record->newer ? &record->newer->older : &book->newest) = record->older;
    record->older = record->newer = NULL;
    book->old_count--;
}

void dip__book_sweep(struct dip_coordinator_daemon *d, int64_t now_ns)
{
    struct book *book = &d->book;
    for (struct record *record = book->oldest, *newer; record; record = newer) {
        bool is_too_much = book->old_count > d->options.result_count_max ||
                           d->stats.result_bytes > d->options.result_bytes_max;
        if (!is_too_much && now_ns - record->ended_ns < d->options.result_ns)
            break;
        newer = record->newer;
        dip__record_free(record);
    }
    d->stats.results = book->old_count;
}

/* ---- one record ---- */

enum dip_status dip__record_new(struct dip_coordinator_daemon *d, const char *tenant,
                                const char *id, int image_count, struct record **ret_record)
{
    struct record *record =
        calloc(1, sizeof *record + (size_t)image_count * sizeof record->images[0]);
    if (!record)
        return DIP_NO_MEMORY;
    record->daemon = d;
    record->image_count = image_count;
    snprintf(record->tenant, sizeof record->tenant, "%s", tenant);
    if (id[0])
        snprintf(record->id, sizeof record->id, "%s", id);
    else
        snprintf(record->id, sizeof record->id, "%013llx%013llx",
                 (unsigned long long)dip_entropy_seed(), (unsigned long long)dip_entropy_seed());
    record->core_id = ++d->book.core_serial;
    record->attempts = 1;
    record->timer.fire = (void (*)(void *))dip__event_news;
    record->timer.context = record;
    struct record **bucket = bucket_of(&d->book, record->id);
    record->next = *bucket;
    *bucket = record;
    run_insert(&d->book, record);
    *ret_record = record;
    return DIP_OK;
}

static void previews_drop(struct record *record)
{
    for (int i = 0; i < record->image_count; i++) {
        free(record->images[i].preview.data);
        record->images[i].preview = (struct dip_payload){0};
    }
}

void dip__record_free(struct record *record)
{
    struct dip_coordinator_daemon *d = record->daemon;
    struct record **at = bucket_of(&d->book, record->id);
    while (*at != record)
        at = &(*at)->next;
    *at = record->next;
    if (record->is_old)
        old_remove(&d->book, record);
    else if (record->core_id)
        run_remove(&d->book, record);
    for (struct stream *stream = record->streams; stream; stream = stream->next)
        stream->record = NULL;
    dip_rpc_timer_clear(d->loop, &record->timer);
    previews_drop(record);
    for (int i = 0; i < record->kept_count; i++)
        free(record->kept[i].data);
    d->stats.result_bytes -= record->bytes;
    free(record->kept);
    free(record->error);
    free(record);
}

/* Over, and nobody listens: kept for whoever comes back, unless it never was a request. */
static void record_settle(struct record *record)
{
    struct dip_coordinator_daemon *d = record->daemon;
    if (record->core_id || record->streams || record->is_old)
        return;
    if (!record->is_admitted || record->is_check) {
        dip__record_free(record);
        return;
    }
    old_insert(&d->book, record);
    dip__book_sweep(d, dip_clock_now_ns());
}

static void stream_remove(struct stream *stream)
{
    struct stream **at = &stream->record->streams;
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    stream->next = NULL;
    stream->record = NULL;
}

/* ---- what streams get ---- */

static void stream_finish(struct stream *stream)
{
    struct record *record = stream->record;
    struct dip_coordinator_daemon *d = record->daemon;
    if (record->error) {
        dip__reply_error(d, stream->method, stream->call, record->error);
    } else {
        stream->is_served = true;
        stream->work_ended_ns = record->ended_ns;
        dip_rpc_call_finish(stream->call, &(struct dip_rpc_status){.code = DIP_RPC_OK});
    }
    stream_remove(stream);
}

/* Sends what waits; true when there is nothing left of it. */
static bool stream_send(struct stream *stream)
{
    const struct record *record = stream->record;
    for (; stream->cursor < record->kept_count; stream->cursor++) {
        const struct kept *kept = &record->kept[stream->cursor];
        if (kept->sequence <= stream->after_sequence)
            continue;
        void *copy = malloc(kept->bytes);
        if (!copy)
            return false; /* again when the call is writable */
        memcpy(copy, kept->data, kept->bytes);
        if (dip_rpc_call_send(stream->call, copy, kept->bytes, 0)) {
            free(copy);
            return false;
        }
    }
    return true;
}

void dip__stream_pump(struct stream *stream)
{
    struct record *record = stream->record;
    if (!stream_send(stream))
        return;
    if (record->core_id) {
        dip__event_news(record);
        return;
    }
    stream_finish(stream);
    record_settle(record);
}

void dip__record_pump(struct record *record)
{
    struct stream *next;
    for (struct stream *stream = record->streams; stream; stream = next) {
        next = stream->next;
        if (stream_send(stream) && !record->core_id)
            stream_finish(stream);
    }
}

void dip__record_keep(struct record *record, void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = record->daemon;
    if (record->kept_count == record->kept_max) {
        int max = record->kept_max ? 2 * record->kept_max : 4;
        struct kept *kept = realloc(record->kept, (size_t)max * sizeof *kept);
        dip_assert(kept); /* some hundred bytes: a process without them cannot go on */
        record->kept = kept;
        record->kept_max = max;
    }
    record->kept[record->kept_count++] =
        (struct kept){.sequence = record->sequence, .data = data, .bytes = bytes};
    record->bytes += bytes;
    d->stats.result_bytes += bytes;
}

static bool stream_is_idle(const struct stream *stream)
{
    return stream->cursor == stream->record->kept_count && dip_rpc_call_queued(stream->call) == 0 &&
           !dip_rpc_call_is_cancelled(stream->call);
}

bool dip__record_is_idle(struct record *record, bool is_due)
{
    bool is_any = false;
    struct stream *first = NULL;
    for (struct stream *stream = record->streams; stream; stream = stream->next) {
        is_any = is_any || stream_is_idle(stream);
        if (stream->is_first)
            first = stream;
    }
    if (!first || stream_is_idle(first) || !is_any)
        return is_any;
    if (is_due)
        first->is_first = false;
    return is_due;
}

void dip__record_tell(struct record *record, const void *data, size_t bytes)
{
    for (struct stream *stream = record->streams; stream; stream = stream->next) {
        if (!stream_is_idle(stream))
            continue;
        void *copy = malloc(bytes);
        if (!copy)
            continue;
        memcpy(copy, data, bytes);
        if (dip_rpc_call_send(stream->call, copy, bytes, 0))
            free(copy);
    }
}

/* ---- coming and going ---- */

void dip__record_attach(struct record *record, struct stream *stream)
{
    if (record->is_old)
        old_remove(&record->daemon->book, record);
    stream->record = record;
    stream->next = record->streams;
    record->streams = stream;
}

void dip__record_detach(struct stream *stream, bool is_stalled)
{
    struct record *record = stream->record;
    stream_remove(stream);
    if (is_stalled)
        record->is_detached = true; /* slow, not gone: what was made stays to be fetched */
    if (record->core_id && !record->streams && !record->is_detached) {
        record->is_again = record->is_left = true;
        dip__record_cancel(record, "its client has left");
        return;
    }
    record_settle(record);
}

void dip__record_cancel(struct record *record, const char *reason)
{
    struct dip_coordinator_daemon *d = record->daemon;
    if (!record->core_id)
        return;
    snprintf(record->cancel_reason, sizeof record->cancel_reason, "%s", reason);
    dip_core_cancel(d->core, dip_clock_now_ns(), record->core_id);
    dip__front_arm(d);
}

void dip__record_abort(struct record *record, const struct dip_error *error)
{
    if (!record->core_id)
        return;
    if (!record->error)
        record->error = malloc(sizeof *error);
    if (record->error)
        *record->error = *error;
    dip__record_cancel(record, error->message);
}

void dip__record_end(struct record *record, enum record_state state, const struct dip_error *error)
{
    struct dip_coordinator_daemon *d = record->daemon;
    run_remove(&d->book, record);
    record->core_id = 0;
    record->state = state;
    record->ended_ns = dip_clock_now_ns();
    dip_rpc_timer_clear(d->loop, &record->timer);
    previews_drop(record);
    if (error && !record->error) {
        record->error = malloc(sizeof *error);
        dip_assert(record->error); /* some kilobytes: a process without them cannot go on */
        *record->error = *error;
    }
    dip__record_pump(record);
    record_settle(record);
    dip__front_settle(d);
}
