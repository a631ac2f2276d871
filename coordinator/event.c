/* coordinator/event.c - what happens to a request, as events of diptych.v1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/front.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/time.h"

/* Nothing could be told for so long: the first stream may hang, others want to hear. */
#define HANG_NS (2 * DIP_SECOND_NS)

/* An event around one of its kinds, and what that points to. */
struct envelope {
    Diptych__V1__GenerateResponse response;
    Diptych__V1__Event event;
    Google__Protobuf__Timestamp time;
};

static void envelope_init(struct envelope *e, struct record *record,
                          Diptych__V1__Event__KindCase kind, void *payload)
{
    diptych__v1__generate_response__init(&e->response);
    diptych__v1__event__init(&e->event);
    dip_timestamp_encode(dip_clock_unix_ns(), &e->time);
    e->response.event = &e->event;
    e->event.request_id = record->id;
    e->event.sequence = ++record->sequence;
    e->event.time = &e->time;
    e->event.kind_case = kind;
    e->event.admitted = payload; /* all members of the union are pointers */
}

/* Kept until everybody who listens has it. */
static void keep(struct record *record, Diptych__V1__Event__KindCase kind, void *payload)
{
    struct envelope e;
    void *data;
    size_t bytes;
    envelope_init(&e, record, kind, payload);
    if (dip_proto_encode(&e.response.base, &data, &bytes)) {
        record->sequence--;
        if (!record->error && (record->error = malloc(sizeof *record->error)) != NULL)
            dip__error_bug(record->daemon, record->error, "no memory for the result");
        return;
    }
    dip__record_keep(record, data, bytes);
}

/* Told to those who are ready for it, and forgotten. */
static void tell(struct record *record, Diptych__V1__Event__KindCase kind, void *payload)
{
    struct envelope e;
    void *data;
    size_t bytes;
    envelope_init(&e, record, kind, payload);
    if (dip_proto_encode(&e.response.base, &data, &bytes)) {
        record->sequence--;
        return;
    }
    dip__record_tell(record, data, bytes);
    free(data);
    record->told_ns = dip_clock_now_ns();
}

/* ---- news that may be missed ---- */

static int64_t until(int64_t at_ns)
{
    return at_ns > 0 ? at_ns - dip_clock_now_ns() : 0;
}

static void tell_queue(struct record *record)
{
    Diptych__V1__QueueUpdate queue = DIPTYCH__V1__QUEUE_UPDATE__INIT;
    Google__Protobuf__Duration start;
    dip_duration_encode(until(record->queue_start_ns), &start);
    queue.position = (uint32_t)record->queue_position;
    queue.estimated_start = record->queue_start_ns ? &start : NULL;
    record->has_queue = false;
    tell(record, DIPTYCH__V1__EVENT__KIND_QUEUE, &queue);
}

static void tell_tokens(struct record *record, int i)
{
    Diptych__V1__TokenProgress tokens = DIPTYCH__V1__TOKEN_PROGRESS__INIT;
    tokens.image_index = (uint32_t)i;
    tokens.tokens_done = (uint32_t)record->images[i].tokens_done;
    tokens.tokens_total = (uint32_t)record->token_count;
    record->images[i].has_tokens = false;
    tell(record, DIPTYCH__V1__EVENT__KIND_TOKENS, &tokens);
}

static void tell_steps(struct record *record, int i)
{
    Diptych__V1__StepProgress steps = DIPTYCH__V1__STEP_PROGRESS__INIT;
    steps.image_index = (uint32_t)i;
    steps.steps_done = (uint32_t)record->images[i].steps_done;
    steps.steps_total = (uint32_t)record->step_count;
    record->images[i].has_steps = false;
    tell(record, DIPTYCH__V1__EVENT__KIND_STEPS, &steps);
}

static bool tell_preview(struct record *record)
{
    for (int i = 0; i < record->image_count; i++) {
        struct image_news *image = &record->images[i];
        Diptych__V1__PreviewImage preview = DIPTYCH__V1__PREVIEW_IMAGE__INIT;
        if (!image->preview.data)
            continue;
        preview.image_index = (uint32_t)i;
        preview.preview_index = (uint32_t)image->preview_index;
        preview.format = DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_PNG;
        preview.width = (uint32_t)image->preview_width;
        preview.height = (uint32_t)image->preview_height;
        preview.data = (ProtobufCBinaryData){image->preview.bytes, image->preview.data};
        tell(record, DIPTYCH__V1__EVENT__KIND_PREVIEW, &preview);
        free(image->preview.data);
        image->preview = (struct dip_payload){0};
        if (!record->has_previewed)
            dip_histogram_add(&record->daemon->stats.first_preview,
                              record->told_ns - record->received_ns);
        record->has_previewed = true;
        return true;
    }
    return false;
}

static bool has_progress(const struct record *record)
{
    bool has = record->has_queue;
    for (int i = 0; i < record->image_count; i++)
        has = has || record->images[i].has_tokens || record->images[i].has_steps;
    return has;
}

/* One piece of progress: images take turns. `is_due`: something is said even if it is known. */
static void tell_progress(struct record *record, bool is_due)
{
    for (int n = 0; n < record->image_count; n++) {
        int i = (record->image_turn + n) % record->image_count;
        struct image_news *image = &record->images[i];
        if (!image->has_tokens && !image->has_steps)
            continue;
        record->image_turn = i + 1;
        if (image->has_steps)
            tell_steps(record, i);
        else
            tell_tokens(record, i);
        return;
    }
    if (record->has_queue || (is_due && record->state == RECORD_QUEUED)) {
        tell_queue(record);
    } else if (is_due) {
        int i = record->image_turn > 0 ? record->image_turn - 1 : 0;
        if (record->images[i].steps_done > 0)
            tell_steps(record, i);
        else
            tell_tokens(record, i);
    }
}

static void arm(struct record *record, int64_t at_ns)
{
    struct dip_coordinator_daemon *d = record->daemon;
    enum dip_status status = dip_rpc_timer_set(d->loop, &record->timer, at_ns);
    (void)status; /* without a timer the next news or the next writable call does it */
}

void dip__event_news(struct record *record)
{
    int64_t now_ns = dip_clock_now_ns();
    if (!record->core_id || !record->is_admitted || record->is_check)
        return;
    bool is_hanging = now_ns - record->told_ns >= HANG_NS;
    if (!dip__record_is_idle(record, is_hanging)) {
        if (!is_hanging && record->streams && record->streams->next)
            arm(record, record->told_ns + HANG_NS);
        return; /* a stream calls when it has taken what it has */
    }
    if (tell_preview(record))
        return; /* the rest when that has been taken */
    bool has_news = has_progress(record);
    int64_t news_ns = record->progress_told_ns + record->min_interval_ns;
    int64_t due_ns = record->told_ns + DIP_SECOND_NS;
    if ((has_news && now_ns >= news_ns) || now_ns >= due_ns) {
        tell_progress(record, now_ns >= due_ns);
        record->progress_told_ns = now_ns;
        return;
    }
    arm(record, has_news && news_ns < due_ns ? news_ns : due_ns);
}

/* ---- news that must arrive ---- */

static void on_admitted(struct record *record, const struct dip_update *update)
{
    struct dip_coordinator_daemon *d = record->daemon;
    Diptych__V1__Admitted admitted = DIPTYCH__V1__ADMITTED__INIT;
    Diptych__V1__Determinism determinism = DIPTYCH__V1__DETERMINISM__INIT;
    Google__Protobuf__Duration start, finish;
    record->is_admitted = true;
    record->admitted_ns = record->told_ns = dip_clock_now_ns();
    record->queue_position = update->total;
    record->queue_start_ns = update->start_ns;
    determinism.mode = DIPTYCH__V1__DETERMINISM_MODE__DETERMINISM_MODE_STRICT;
    determinism.fingerprint = (char *)(uintptr_t)dip__roster_fingerprint(&d->roster);
    dip_duration_encode(until(update->start_ns), &start);
    dip_duration_encode(until(update->finish_ns), &finish);
    admitted.seed = update->resolved->params.seed;
    admitted.determinism = &determinism;
    admitted.queue_position = (uint32_t)update->total;
    admitted.estimated_start = update->start_ns ? &start : NULL;
    admitted.estimated_finish = update->finish_ns ? &finish : NULL;
    keep(record, DIPTYCH__V1__EVENT__KIND_ADMITTED, &admitted);
    d->stats.admitted += !record->is_check;
    dip_histogram_add(&d->stats.first_event, record->admitted_ns - record->received_ns);
}

static void on_progress(struct record *record, const struct dip_update *update)
{
    struct image_news *image = &record->images[update->image_index];
    if (record->state == RECORD_QUEUED)
        record->state = RECORD_RUNNING;
    record->has_queue = false;
    if (update->stage > record->stage)
        record->stage = update->stage;
    if (update->stage == DIP_STAGE_PREFILL || update->stage == DIP_STAGE_DECODE) {
        image->tokens_done = update->stage == DIP_STAGE_DECODE ? update->done : 0;
        image->has_tokens = true;
    } else if (update->stage == DIP_STAGE_DIFFUSION) {
        image->steps_done = update->done;
        image->has_tokens = false;
        image->has_steps = true;
    }
}

static void on_preview(struct record *record, const struct dip_update *update)
{
    struct image_news *image = &record->images[update->image_index];
    const struct dip_payload *png = &update->picture->png;
    int index =
        record->preview_every > 0 ? update->picture->steps_done / record->preview_every - 1 : 0;
    if (index < 0 || index >= record->previews || png->bytes == 0 || png->bytes > IMAGE_CHUNK_BYTES)
        return;
    void *copy = malloc(png->bytes);
    if (!copy)
        return; /* a look less */
    memcpy(copy, png->data, png->bytes);
    if (image->preview.data)
        record->daemon->stats.previews_dropped++;
    free(image->preview.data);
    image->preview.data = copy;
    image->preview.bytes = png->bytes;
    image->preview_index = index;
    image->preview_width = update->picture->width;
    image->preview_height = update->picture->height;
}

static void keep_chunks(struct record *record, int image_index, const struct dip_payload *png)
{
    for (size_t offset = 0; offset < png->bytes; offset += IMAGE_CHUNK_BYTES) {
        Diptych__V1__ImageChunk chunk = DIPTYCH__V1__IMAGE_CHUNK__INIT;
        size_t left = png->bytes - offset;
        chunk.image_index = (uint32_t)image_index;
        chunk.offset = offset;
        chunk.data.data = (unsigned char *)png->data + offset;
        chunk.data.len = left < IMAGE_CHUNK_BYTES ? left : IMAGE_CHUNK_BYTES;
        keep(record, DIPTYCH__V1__EVENT__KIND_CHUNK, &chunk);
    }
}

struct timing {
    Diptych__V1__Timing timing;
    Google__Protobuf__Duration stages[DIP_STAGE_COUNT], total;
};

/* Nothing is said of a stage that is not known. */
static Google__Protobuf__Duration *stage_of(const struct dip_timings *timings, struct timing *t,
                                            enum dip_stage stage)
{
    return timings->unknown >> stage & 1 ? NULL : &t->stages[stage];
}

static void timing_encode(const struct dip_timings *timings, struct timing *t)
{
    diptych__v1__timing__init(&t->timing);
    for (int i = 0; i < DIP_STAGE_COUNT; i++)
        dip_duration_encode(timings->stage_ns[i], &t->stages[i]);
    dip_duration_encode(timings->total_ns, &t->total);
    t->timing.queue = stage_of(timings, t, DIP_STAGE_QUEUE);
    t->timing.prefill = stage_of(timings, t, DIP_STAGE_PREFILL);
    t->timing.decode = stage_of(timings, t, DIP_STAGE_DECODE);
    t->timing.hinge = stage_of(timings, t, DIP_STAGE_HINGE);
    t->timing.diffusion = stage_of(timings, t, DIP_STAGE_DIFFUSION);
    t->timing.vae = stage_of(timings, t, DIP_STAGE_VAE);
    t->timing.encode = stage_of(timings, t, DIP_STAGE_ENCODE);
    t->timing.total = &t->total;
}

static void count_image(struct record *record, const struct dip_update *update)
{
    struct dip_front_stats *stats = &record->daemon->stats;
    stats->images++;
    stats->pixels += (uint64_t)record->width * (uint64_t)record->height;
    stats->image_tokens += (uint64_t)update->done;
    stats->diffusion_steps += (uint64_t)record->step_count;
    record->images_done++;
    record->image_tokens += (uint64_t)update->done;
    record->timings.unknown |= update->timings->unknown;
    for (int i = 0; i < DIP_STAGE_COUNT; i++) {
        record->timings.stage_ns[i] += update->timings->stage_ns[i];
        if (!(update->timings->unknown >> i & 1))
            dip_histogram_add(&stats->stages[i], update->timings->stage_ns[i]);
    }
}

static unsigned char from_hex(char c)
{
    return (unsigned char)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void on_image(struct record *record, const struct dip_update *update)
{
    const struct dip_payload *png = &update->picture->png;
    Diptych__V1__FinalImage image = DIPTYCH__V1__FINAL_IMAGE__INIT;
    unsigned char sha256[32];
    struct timing timing;
    for (size_t i = 0; i < sizeof sha256; i++)
        sha256[i] = (unsigned char)(from_hex(update->picture->sha256[2 * i]) << 4 |
                                    from_hex(update->picture->sha256[2 * i + 1]));
    timing_encode(update->timings, &timing);
    image.image_index = (uint32_t)update->image_index;
    image.format = DIPTYCH__V1__IMAGE_FORMAT__IMAGE_FORMAT_PNG;
    image.width = (uint32_t)record->width;
    image.height = (uint32_t)record->height;
    image.size_bytes = png->bytes;
    image.sha256 = (ProtobufCBinaryData){sizeof sha256, sha256};
    image.seed = record->seed;
    image.timing = &timing.timing;
    if (png->bytes > IMAGE_CHUNK_BYTES)
        keep_chunks(record, update->image_index, png);
    else
        image.data = (ProtobufCBinaryData){png->bytes, png->data};
    keep(record, DIPTYCH__V1__EVENT__KIND_FINAL_IMAGE, &image);
    count_image(record, update);
    struct image_news *news = &record->images[update->image_index];
    news->has_tokens = news->has_steps = false;
    news->steps_done = record->step_count;
    free(news->preview.data); /* nobody wants a look at what is finished */
    news->preview = (struct dip_payload){0};
}

static void on_retried(struct record *record, const struct dip_update *update)
{
    Diptych__V1__Retried retried = DIPTYCH__V1__RETRIED__INIT;
    struct image_news *image = &record->images[update->image_index];
    static const char *const reasons[] = {
        [DIP_SETBACK_LOST] = "a worker was lost",
        [DIP_SETBACK_HANDED_BACK] = "a worker handed its work back",
        [DIP_SETBACK_DEVICE] = "a worker's device failed",
    };
    image->attempts++;
    if (image->attempts + 1 > record->attempts)
        record->attempts = image->attempts + 1;
    retried.attempt = (uint32_t)image->attempts + 1;
    retried.reason = (char *)(uintptr_t)reasons[update->setback];
    retried.image_index = (uint32_t)update->image_index;
    keep(record, DIPTYCH__V1__EVENT__KIND_RETRIED, &retried);
    record->daemon->stats.replays[update->setback]++;
    image->tokens_done = image->steps_done = 0;
}

static void keep_completed(struct record *record)
{
    Diptych__V1__Completed completed = DIPTYCH__V1__COMPLETED__INIT;
    Diptych__V1__Usage usage = DIPTYCH__V1__USAGE__INIT;
    struct timing timing;
    int64_t now_ns = dip_clock_now_ns();
    record->timings.total_ns = now_ns - record->admitted_ns;
    timing_encode(&record->timings, &timing);
    usage.input_text_tokens = (uint32_t)record->prompt_tokens;
    usage.output_image_tokens = (uint32_t)record->image_tokens;
    usage.images = (uint32_t)record->images_done;
    usage.diffusion_steps = (uint64_t)record->images_done * (uint64_t)record->step_count;
    completed.usage = &usage;
    completed.timing = &timing.timing;
    keep(record, DIPTYCH__V1__EVENT__KIND_COMPLETED, &completed);
    record->daemon->stats.succeeded++;
    dip_histogram_add(&record->daemon->stats.request, now_ns - record->received_ns);
}

static void on_refused(struct record *record, const struct dip_update *update)
{
    struct dip_error error;
    int64_t retry_ns = update->retry_ns > 0 ? update->retry_ns : DIP_SECOND_NS;
    switch (update->refusal) {
    case DIP_REFUSAL_NO_WORKERS:
        dip_error_set(&error, DIP_REASON_NO_WORKERS, "%s", update->text);
        break;
    case DIP_REFUSAL_DRAINING:
        dip_error_set(&error, DIP_REASON_DRAINING, "this coordinator takes no new requests");
        break;
    case DIP_REFUSAL_TOO_LARGE:
        dip_error_set(&error, DIP_REASON_BAD_FIELD, "n: %s", update->text);
        dip_error_fact(&error, "field", "n");
        dip_error_field(&error, "n", "%s", update->text);
        break;
    case DIP_REFUSAL_DUPLICATE:
        dip__error_bug(record->daemon, &error, "a serial number was used twice");
        break;
    default: /* full, or late by the estimate */
        dip_error_set(&error, DIP_REASON_OVERLOADED, "%s; try again later", update->text);
        dip_error_retry(&error, retry_ns);
        dip_error_fact(&error, "retry_after_ms", "%lld", (long long)(retry_ns / DIP_MS_NS));
        break;
    }
    record->daemon->stats.refused[error.reason]++;
    dip__record_end(record, RECORD_FAILED, &error);
}

/* Until the scheduler says how a request ended, its status does. */
static enum dip_end end_of(const struct dip_update *update)
{
    if (update->end != DIP_END_DONE || update->status == DIP_OK)
        return update->end;
    switch (update->status) {
    case DIP_CANCELLED:
        return DIP_END_CANCELLED;
    case DIP_TIMEOUT:
        return DIP_END_DEADLINE;
    case DIP_UNREACHABLE:
        return DIP_END_WORKER_LOST;
    default:
        return DIP_END_FAILED;
    }
}

static void set_error(struct record *record, const struct dip_update *update,
                      struct dip_error *error)
{
    switch (end_of(update)) {
    case DIP_END_CANCELLED:
        dip_error_set(error, DIP_REASON_CANCELLED, "cancelled: %s",
                      record->cancel_reason[0] ? record->cancel_reason : "asked for");
        if (record->is_left) /* who comes back after all may ask again */
            dip_error_fact(error, "cause", "client_left");
        break;
    case DIP_END_DEADLINE:
        dip_error_set(error, DIP_REASON_DEADLINE, "the deadline has passed");
        break;
    case DIP_END_QUEUE_TIME:
        dip_error_set(error, DIP_REASON_QUEUE_TIME, "no worker began within max_queue_time");
        break;
    case DIP_END_NO_WORKERS:
        dip_error_set(error, DIP_REASON_NO_WORKERS, "%s", update->text);
        record->is_again = true;
        break;
    case DIP_END_WORKER_LOST:
        dip_error_set(error, DIP_REASON_WORKER_LOST,
                      "too many workers were lost under this request; send it again");
        dip_error_fact(error, "attempts", "%d", record->attempts);
        record->is_again = true;
        break;
    case DIP_END_POISONED:
        dip_error_set(error, DIP_REASON_POISONED,
                      "every worker that took this request went down; it is not tried again");
        dip_error_fact(error, "attempts", "%d", record->attempts);
        break;
    default:
        dip__error_bug(record->daemon, error, update->text);
        dip_error_fact(error, "status", "%s", dip_status_text(update->status));
        record->is_again = true;
        break;
    }
}

/* One line a request, with the time of all its stages and never its prompt. */
static void log_end(const struct record *record, const struct dip_error *error)
{
    static const char *const keys[DIP_STAGE_COUNT] = {
#define DIP_STAGE_KEY(name, text) text "_ms",
        DIP_STAGE_LIST(DIP_STAGE_KEY)
#undef DIP_STAGE_KEY
    };
    static const char *const adopted_keys[DIP_HELD_STAGE_COUNT] = {
#define DIP_ADOPTED_KEY(name, text) "adopted_" text,
        DIP_HELD_STAGE_LIST(DIP_ADOPTED_KEY)
#undef DIP_ADOPTED_KEY
    };
    struct dip_log_line line;
    char trace_id[33];
    bool is_bug = error && error->reason == DIP_REASON_BUG;
    dip_log_begin(&line, record->daemon->options.log, is_bug ? DIP_LOG_ERROR : DIP_LOG_INFO,
                  "request");
    dip_log_text(&line, "request_id", record->id);
    dip_log_text(&line, "code",
                 dip_rpc_code_name(error ? dip_reason_code(error->reason) : DIP_RPC_OK));
    if (error) {
        dip_log_text(&line, "reason", dip_reason_name(error->reason));
        dip_log_text(&line, "message", error->message);
    }
    dip_log_text(&line, "tenant", record->tenant);
    dip_log_int(&line, "images", record->images_done);
    for (int i = 0; i < DIP_STAGE_COUNT; i++)
        if (!(record->timings.unknown >> i & 1)) /* else "adopted_..." tells why it is not there */
            dip_log_ms(&line, keys[i], record->timings.stage_ns[i]);
    dip_log_ms(&line, "total_ms", dip_clock_now_ns() - record->admitted_ns);
    if (record->attempts > 1)
        dip_log_int(&line, "attempts", record->attempts);
    for (int i = 0; i < DIP_HELD_STAGE_COUNT; i++)
        if (record->adopted[i] > 0)
            dip_log_int(&line, adopted_keys[i], record->adopted[i]);
    if (record->traceparent[0]) {
        snprintf(trace_id, sizeof trace_id, "%.32s", record->traceparent + 3);
        dip_log_text(&line, "trace_id", trace_id);
    }
    dip_log_end(&line);
}

static void on_ended(struct record *record, const struct dip_update *update)
{
    struct dip_error error;
    if (update->is_refused) {
        on_refused(record, update);
        return;
    }
    if (update->status == DIP_OK && !record->error) {
        if (!record->is_check) {
            keep_completed(record);
            log_end(record, NULL);
        }
        dip__record_end(record, RECORD_SUCCEEDED, NULL);
        return;
    }
    bool is_cancelled = end_of(update) == DIP_END_CANCELLED && !record->error;
    if (record->error)
        error = *record->error;
    else
        set_error(record, update, &error);
    if (dip_reason_retry(error.reason) != DIP_RETRY_NEVER)
        record->is_again = true;
    record->daemon->stats.cancelled += is_cancelled;
    record->daemon->stats.failed[error.reason]++;
    log_end(record, &error);
    dip__record_end(record, is_cancelled ? RECORD_CANCELLED : RECORD_FAILED, &error);
}

void dip__event_update(void *context, const struct dip_update *update)
{
    struct record *record = context;
    switch (update->kind) {
    case DIP_UPDATE_ADMITTED:
        on_admitted(record, update);
        break;
    case DIP_UPDATE_QUEUE:
        record->queue_position = update->total;
        record->queue_start_ns = update->start_ns;
        record->has_queue = record->state == RECORD_QUEUED;
        break;
    case DIP_UPDATE_PROGRESS:
        on_progress(record, update);
        break;
    case DIP_UPDATE_PREVIEW:
        on_preview(record, update);
        break;
    case DIP_UPDATE_IMAGE:
        on_image(record, update);
        break;
    case DIP_UPDATE_RETRIED:
        on_retried(record, update);
        break;
    case DIP_UPDATE_ADOPTED:
        record->adopted[update->held_stage]++;
        record->daemon->stats.adopted[update->held_stage]++;
        break;
    case DIP_UPDATE_TRACE:
        break; /* never asked for here */
    case DIP_UPDATE_ENDED:
        on_ended(record, update);
        return; /* the record may be gone */
    }
    dip__record_pump(record);
    dip__event_news(record);
}
