/* coordinator/service_image.c - diptych.v1.ImageService: Generate, Watch, Cancel. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/front.h"
#include "proto/diptych/v1/image.pb-c.h"

/* ---- streams ---- */

static void open_stream(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                        enum dip_front_method method)
{
    struct stream *stream = calloc(1, sizeof *stream);
    dip_rpc_call_bind(call, stream);
    if (!stream) {
        dip_rpc_call_cancel(call, DIP_RPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    stream->daemon = d;
    stream->call = call;
    stream->method = method;
    d->stats.streams++;
}

static void on_open_generate(void *daemon, struct dip_rpc_call *call)
{
    open_stream(daemon, call, DIP_FRONT_METHOD_GENERATE);
}

static void on_open_watch(void *daemon, struct dip_rpc_call *call)
{
    open_stream(daemon, call, DIP_FRONT_METHOD_WATCH);
}

static void on_writable(void *context, struct dip_rpc_call *call)
{
    (void)call;
    struct stream *stream = context;
    if (stream && stream->record)
        dip__stream_pump(stream);
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    struct stream *stream = context;
    if (!stream)
        return;
    struct dip_coordinator_daemon *d = stream->daemon;
    d->stats.streams--;
    /* The server cuts a reader that takes nothing with the deadline's code before the deadline. */
    bool is_late = dip_clock_now_ns() >= dip_rpc_call_deadline_ns(call);
    bool is_stalled = status->code == DIP_RPC_DEADLINE_EXCEEDED && !is_late;
    bool is_short = stream->record || (stream->is_served && status->code != DIP_RPC_OK);
    if (is_short) {
        enum dip_reason reason = is_stalled ? DIP_REASON_SLOW_READER
                                 : status->code == DIP_RPC_DEADLINE_EXCEEDED ? DIP_REASON_DEADLINE
                                                                             : DIP_REASON_CANCELLED;
        d->stats.calls_failed[stream->method][reason]++;
        d->stats.streams_stalled += is_stalled;
    }
    bool is_ok = stream->is_served && !is_short;
    d->stats.calls_ok[stream->method] += is_ok;
    if (is_ok && stream->is_first) /* whoever comes back later begins long after */
        dip_histogram_add(&d->stats.send, dip_clock_now_ns() - stream->work_ended_ns);
    if (stream->record)
        dip__record_detach(stream, is_stalled);
    free(stream);
}

static void attach(struct record *record, struct stream *stream, uint64_t after_sequence)
{
    stream->after_sequence = after_sequence;
    dip__record_attach(record, stream);
    dip__stream_pump(stream);
}

/* False and the error for an id that nobody can have. */
static bool id_is_good(const char *id, bool is_required, struct dip_error *error)
{
    if (is_required && !id[0])
        return dip__error_field(error, "request_id", "is empty; name the request");
    for (; *id; id++)
        if (!isalnum((unsigned char)*id) && *id != '-' && *id != '_')
            return dip__error_field(error, "request_id", "only A-Z a-z 0-9 _ - are allowed");
    return true;
}

/* ---- Generate ---- */

/* What makes two requests the same: all of it, as protobuf-c would write it. False: no memory. */
static bool body_hash(const Diptych__V1__GenerateRequest *r, char ret_hex[DIP_SHA256_HEX_BYTES])
{
    void *data;
    size_t bytes;
    if (dip_proto_encode(&r->base, &data, &bytes))
        return false;
    enum dip_status status = dip_sha256_hex(data, bytes, ret_hex);
    free(data);
    return status == DIP_OK;
}

/* A request that names its id and leaves the seed open: the seed follows from both, so that it is
 * the same request wherever and however often it is sent. False: no memory. */
static bool seed_from_id(const Diptych__V1__GenerateRequest *r, const char *tenant,
                         const char *body, struct ask *ask)
{
    char text[DIP_TENANT_BYTES + DIP_SHA256_HEX_BYTES], hex[DIP_SHA256_HEX_BYTES];
    if (!r->request_id[0] || (r->sampling && r->sampling->seed_presence_case))
        return true;
    int bytes = snprintf(text, sizeof text, "%s %s", body, tenant);
    if (dip_sha256_hex(text, (size_t)bytes, hex))
        return false;
    hex[16] = '\0';
    ask->resolved.params.seed = strtoull(hex, NULL, 16);
    return true;
}

/* A request of this id is known to this tenant: true when the call has been joined to it or
 * refused. */
static bool join(struct stream *stream, const struct caller *caller, const char *id,
                 const char *body)
{
    struct dip_coordinator_daemon *d = stream->daemon;
    struct record *record = id[0] ? dip__record_find(&d->book, caller->tenant, id) : NULL;
    struct dip_error error;
    if (!record)
        return false;
    if (strcmp(record->body, body) != 0) {
        dip_error_set(&error, DIP_REASON_REQUEST_ID_REUSED,
                      "the id \"%s\" belongs to another request; choose a new one", id);
        dip_error_fact(&error, "request_id", "%s", id);
        dip__reply_error(d, stream->method, stream->call, &error);
        return true;
    }
    if (record->is_old && record->is_again && record->error) {
        dip__record_free(record); /* it failed in a way that another attempt may not */
        return false;
    }
    attach(record, stream, 0);
    return true;
}

/* Lower-case hex, not all of it zero. */
static bool is_hex(const char *text, int count)
{
    bool is_zero = true;
    for (int i = 0; i < count; i++) {
        if (!(text[i] >= '0' && text[i] <= '9') && !(text[i] >= 'a' && text[i] <= 'f'))
            return false;
        is_zero = is_zero && text[i] == '0';
    }
    return !is_zero;
}

/* W3C trace context: "00-", trace id, "-", parent id, "-", flags. What is not so is no trace; of a
 * later version the part counts that this one knows. */
static void read_traceparent(const struct dip_rpc_call *call, struct record *record)
{
    enum { BYTES = DIP_TRACEPARENT_BYTES - 1, TRACE_AT = 3, PARENT_AT = 36, FLAGS_AT = 53 };
    const char *value;
    size_t bytes;
    if (!dip_rpc_call_metadata(call, "traceparent", &value, &bytes) || bytes < BYTES)
        return;
    bool is_first_version = memcmp(value, "00", 2) == 0;
    bool is_version = is_first_version || (is_hex(value, 2) && memcmp(value, "ff", 2) != 0);
    bool is_whole = bytes == BYTES || (!is_first_version && value[BYTES] == '-');
    bool is_flags =
        isxdigit((unsigned char)value[FLAGS_AT]) && isxdigit((unsigned char)value[FLAGS_AT + 1]);
    if (is_version && is_whole && is_flags && value[TRACE_AT - 1] == '-' &&
        value[PARENT_AT - 1] == '-' && value[FLAGS_AT - 1] == '-' && is_hex(value + TRACE_AT, 32) &&
        is_hex(value + PARENT_AT, 16))
        memcpy(record->traceparent, value, BYTES);
}

static void describe(struct record *record, const struct ask *ask)
{
    const struct dip_resolved *resolved = &ask->resolved;
    record->is_detached = ask->is_detached;
    record->is_check = ask->is_check;
    record->min_interval_ns = ask->min_interval_ns;
    record->previews = ask->previews;
    record->preview_every = ask->preview_every;
    record->token_count = resolved->params.token_count;
    record->step_count = resolved->params.steps;
    record->prompt_tokens = (int)(resolved->prompt_ids.bytes / sizeof(int32_t));
    record->width = resolved->width;
    record->height = resolved->height;
    record->seed = resolved->params.seed;
}

/* Who has named its request is known again when it comes back after a refusal. FNV-1a (Fowler,
 * Noll, Vo) over tenant and id. */
static uint64_t ticket_of(const struct record *record)
{
    const char *parts[] = {record->tenant, record->id};
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    if (!record->body[0])
        return 0; /* the server chose the id */
    for (int i = 0; i < 2; i++)
        for (const char *c = parts[i];; c++) {
            hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
            if (!*c)
                break;
        }
    return hash;
}

static struct dip_core_request core_request(const struct record *record, struct ask *ask,
                                            const struct stream *stream)
{
    struct dip_coordinator_daemon *d = record->daemon;
    int64_t deadline_ns = record->received_ns + d->options.deadline_ns;
    int64_t call_ns = dip_rpc_call_deadline_ns(stream->call);
    if (!ask->is_detached && call_ns < deadline_ns)
        deadline_ns = call_ns;
    /* A wait that ends after the deadline does anyhow says nothing. */
    int64_t left_ns = deadline_ns - record->received_ns;
    bool has_begin = ask->max_queue_ns > 0 && ask->max_queue_ns < left_ns;
    return (struct dip_core_request){
        .id = record->core_id,
        .resolved = &ask->resolved,
        .update = dip__event_update,
        .context = (void *)(uintptr_t)record,
        .priority = ask->priority,
        .deadline_ns = deadline_ns,
        .begin_by_ns = has_begin ? record->received_ns + ask->max_queue_ns : 0,
        .is_check = ask->is_check,
        .ticket = ticket_of(record),
    };
}

static void submit(struct stream *stream, const struct caller *caller,
                   const Diptych__V1__GenerateRequest *r, struct ask *ask, const char *body,
                   int64_t received_ns)
{
    struct dip_coordinator_daemon *d = stream->daemon;
    struct record *record;
    struct dip_error error;
    if (dip__record_new(d, caller->tenant, r->request_id, ask->resolved.image_count, &record)) {
        dip__error_bug(d, &error, "no memory for the request");
        dip__reply_error(d, stream->method, stream->call, &error);
        return;
    }
    record->received_ns = received_ns;
    record->tenant_share = dip__caller_share(caller, "");
    record->is_counted = true;
    d->tenant_counts[record->tenant_share]++;
    memcpy(record->body, body, sizeof record->body);
    read_traceparent(stream->call, record);
    describe(record, ask);
    stream->is_first = true;
    dip__record_attach(record, stream);
    struct dip_job_origin origin;
    enum dip_status status =
        dip_origin_make(&ask->resolved, caller->tenant, record->id, record->traceparent, &origin);
    struct dip_core_request request = core_request(record, ask, stream);
    request.origin = &origin;
    request.tenant = dip__caller_share(caller, r->scheduling ? r->scheduling->fairness_key : "");
    if (!status)
        status = dip_core_submit(d->core, received_ns, &request);
    if (status) {
        dip__error_bug(d, &error, "no memory for the request");
        dip__record_end(record, RECORD_FAILED, &error);
    }
    dip__front_arm(d); /* the record may be gone: a refusal is its end */
}

static void refuse(struct stream *stream, const struct dip_error *error)
{
    struct dip_coordinator_daemon *d = stream->daemon;
    d->stats.refused[error->reason]++;
    dip__reply_error(d, stream->method, stream->call, error);
}

static bool quota_is_left(const struct dip_coordinator_daemon *d, const struct caller *caller,
                          struct dip_error *error)
{
    int max = d->options.tenant_request_count_max;
    if (max == 0 || d->tenant_counts[dip__caller_share(caller, "")] < max)
        return true;
    dip_error_set(error, DIP_REASON_QUOTA, "the tenant \"%s\" has %d requests running already",
                  caller->tenant, max);
    dip_error_fact(error, "limit", "%d", max);
    dip_error_quota(error, caller->tenant, "at most %d requests at a time", max);
    dip_error_retry(error, DIP_SECOND_NS);
    return false;
}

static void generate(struct stream *stream, const struct caller *caller,
                     const Diptych__V1__GenerateRequest *r, int64_t received_ns)
{
    struct dip_coordinator_daemon *d = stream->daemon;
    char body[DIP_SHA256_HEX_BYTES] = "";
    struct dip_error error;
    struct ask ask = {.previews = 0};
    if (!id_is_good(r->request_id, false, &error)) {
        refuse(stream, &error);
        return;
    }
    if (r->request_id[0] && !body_hash(r, body)) {
        dip__error_bug(d, &error, "no memory for the request");
        refuse(stream, &error);
        return;
    }
    if (join(stream, caller, r->request_id, body))
        return;
    if (!dip__ask_read(d, r, &ask, &error) || !dip__front_takes_requests(d, &error) ||
        !quota_is_left(d, caller, &error)) {
        refuse(stream, &error);
    } else if (!seed_from_id(r, caller->tenant, body, &ask)) {
        dip__error_bug(d, &error, "no memory for the request");
        refuse(stream, &error);
    } else {
        submit(stream, caller, r, &ask, body, received_ns);
    }
    dip_resolved_deinit(&ask.resolved); /* empty when it was taken over */
}

static void on_generate(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct stream *stream = context;
    struct caller caller;
    if (!stream)
        return;
    int64_t received_ns = dip_clock_now_ns();
    Diptych__V1__GenerateRequest *r =
        dip__reply_read(stream->daemon, stream->method, call, DIP_SCOPE_GENERATE,
                        &diptych__v1__generate_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    generate(stream, &caller, r, received_ns);
    dip_proto_free(r);
}

/* ---- Watch, Cancel ---- */

/* The caller's own request, or anybody's for an admin; NULL and the error otherwise. */
static struct record *find(struct dip_coordinator_daemon *d, const struct caller *caller,
                           const char *id, struct dip_error *error)
{
    if (!id_is_good(id, true, error))
        return NULL;
    struct record *record = dip__record_find(&d->book, caller->tenant, id);
    if (!record && (caller->scopes & DIP_SCOPE_ADMIN))
        record = dip__record_find_any(&d->book, id);
    if (record)
        return record;
    if (!d->is_leading && !dip__front_takes_requests(d, error))
        return NULL; /* the leader may know it */
    dip_error_set(error, DIP_REASON_REQUEST_UNKNOWN,
                  "no request \"%s\" is known here, or no longer; if its coordinator is gone, "
                  "send Generate again under this id: work that workers still hold is used",
                  id);
    dip_error_fact(error, "request_id", "%s", id);
    return NULL;
}

static void on_watch(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct stream *stream = context;
    struct caller caller;
    struct dip_error error;
    if (!stream)
        return;
    struct dip_coordinator_daemon *d = stream->daemon;
    Diptych__V1__WatchRequest *r =
        dip__reply_read(d, stream->method, call, DIP_SCOPE_GENERATE,
                        &diptych__v1__watch_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    struct record *record = find(d, &caller, r->request_id, &error);
    if (record)
        attach(record, stream, r->after_sequence);
    else
        dip__reply_error(d, stream->method, call, &error);
    dip_proto_free(r);
}

static Diptych__V1__JobState state_of(const struct record *record)
{
    switch (record->state) {
    case RECORD_SUCCEEDED:
        return DIPTYCH__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    case RECORD_FAILED:
        return DIPTYCH__V1__JOB_STATE__JOB_STATE_FAILED;
    default:
        return DIPTYCH__V1__JOB_STATE__JOB_STATE_CANCELLED;
    }
}

static void on_cancel(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    struct caller caller;
    struct dip_error error;
    Diptych__V1__CancelRequest *r =
        dip__reply_read(d, DIP_FRONT_METHOD_CANCEL, call, DIP_SCOPE_GENERATE,
                        &diptych__v1__cancel_request__descriptor, data, bytes, &caller);
    if (!r)
        return;
    struct record *record = find(d, &caller, r->request_id, &error);
    if (record) {
        Diptych__V1__CancelResponse answer = DIPTYCH__V1__CANCEL_RESPONSE__INIT;
        bool was_running = record->core_id != 0;
        answer.state = was_running ? DIPTYCH__V1__JOB_STATE__JOB_STATE_CANCELLED : state_of(record);
        dip__record_cancel(record, r->reason[0] ? r->reason : "asked for");
        dip__reply(d, DIP_FRONT_METHOD_CANCEL, call, &answer.base);
    } else {
        dip__reply_error(d, DIP_FRONT_METHOD_CANCEL, call, &error);
    }
    dip_proto_free(r);
}

void dip__service_image(struct dip_coordinator_daemon *d)
{
    static const struct dip_rpc_handler generate_handler = {on_open_generate, on_generate, NULL,
                                                            on_writable, on_close};
    static const struct dip_rpc_handler watch_handler = {on_open_watch, on_watch, NULL, on_writable,
                                                         on_close};
    static const struct dip_rpc_handler cancel_handler = {.on_message = on_cancel};
    dip__service_add(d, DIP_FRONT_METHOD_GENERATE, "/diptych.v1.ImageService/Generate",
                     DIP_RPC_SERVER_STREAM, &generate_handler);
    dip__service_add(d, DIP_FRONT_METHOD_WATCH, "/diptych.v1.ImageService/Watch",
                     DIP_RPC_SERVER_STREAM, &watch_handler);
    dip__service_add(d, DIP_FRONT_METHOD_CANCEL, "/diptych.v1.ImageService/Cancel", DIP_RPC_UNARY,
                     &cancel_handler);
}
