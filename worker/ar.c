/* worker/ar.c - AR jobs: commands in, the engine's events out, hinges kept until RELEASE.
 *
 * What is held (held.c) gives way to what is asked for: the oldest gives up its slot first, and its
 * place when that is wanted, too. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

static struct ar_job *job_find(struct dip_worker *w, uint64_t id)
{
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].tag.handle != 0 && w->ar_jobs[i].tag.id == id)
            return &w->ar_jobs[i];
    return NULL;
}

static struct ar_job *job_of_handle(struct dip_worker *w, uint64_t handle)
{
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].tag.handle == handle)
            return &w->ar_jobs[i];
    return NULL;
}

static void job_free(struct ar_job *job)
{
    free(job->hinge.data);
    free(job->prompt_ids.data);
    *job = (struct ar_job){.ids = job->ids};
}

void dip__worker_ar_drop(struct dip_worker *w, struct ar_job *job)
{
    if (job->is_live)
        dip_ar_engine_cancel(w->ar, job->tag.handle);
    job_free(job);
}

bool dip__worker_ar_release(struct dip_worker *w, uint64_t job_id)
{
    struct ar_job *job = job_id != 0 ? job_find(w, job_id) : NULL;
    bool was_live = job && job->is_live;
    if (job)
        dip__worker_ar_drop(w, job);
    return was_live;
}

/* What is asked for stays until it is known that the coordinator lives to hear of the group's end:
 * when it went at the same time, the next one finds the tokens here. */
void dip__worker_ar_part(struct dip_worker *w)
{
    for (int i = 0; i < w->options.hinge_slots; i++) {
        struct ar_job *job = &w->ar_jobs[i];
        job->is_parted = job->tag.id != 0;
        job->is_live = false;
    }
}

void dip__worker_ar_forget_parted(struct dip_worker *w)
{
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].is_parted)
            job_free(&w->ar_jobs[i]);
}

/* The one that has been held longest; NULL when none is. */
static struct ar_job *held_oldest(struct dip_worker *w, bool is_live)
{
    struct ar_job *oldest = NULL;
    for (int i = 0; i < w->options.hinge_slots; i++) {
        struct ar_job *job = &w->ar_jobs[i];
        if (job->tag.handle != 0 && job->tag.id == 0 && (job->is_live || !is_live) &&
            (!oldest || job->tag.handle < oldest->tag.handle))
            oldest = job;
    }
    return oldest;
}

/* ---- commands ---- */

static struct ar_job *place_take(struct dip_worker *w)
{
    struct ar_job *job = job_of_handle(w, 0);
    if (!job && (job = held_oldest(w, false)) != NULL)
        dip__worker_ar_drop(w, job);
    return job;
}

/* Into the engine, with what has been drawn; a held job gives up its slot for it. */
static enum dip_status job_admit(struct dip_worker *w, struct ar_job *job)
{
    struct dip_ar_job engine_job = {
        .id = job->tag.handle,
        .params = dip__worker_params(&job->params),
        .prompt_ids = job->prompt_ids.data,
        .prompt_count = (int)(job->prompt_ids.bytes / sizeof(int32_t)),
        .forced_ids = job->ids,
        .forced_count = job->id_count,
    };
    enum dip_status status = dip_ar_engine_admit(w->ar, &engine_job);
    struct ar_job *held;
    while (status == DIP_BUSY && (held = held_oldest(w, true)) != NULL) {
        dip_ar_engine_cancel(w->ar, held->tag.handle);
        held->is_live = false;
        status = dip_ar_engine_admit(w->ar, &engine_job);
    }
    job->is_live = !status;
    job->started_ns = dip_clock_now_ns();
    return status;
}

static void job_fill(struct dip_worker *w, struct ar_job *job, struct dip_message *message)
{
    struct dip_message_ar *command = &message->as.ar;
    job->tag = (struct tag){.handle = ++w->handle_last,
                            .id = message->job_id,
                            .image_index = command->params.image_index,
                            .origin = command->origin};
    job->params = command->params;
    job->prompt_ids = command->prompt_ids;
    command->prompt_ids = (struct dip_payload){0};
    job->id_count = (int)(command->forced_ids.bytes / sizeof(int32_t));
    if (job->id_count > 0)
        memcpy(job->ids, command->forced_ids.data, command->forced_ids.bytes);
}

void dip__worker_ar_command(struct dip_worker *w, struct dip_message *message)
{
    size_t forced_max = (size_t)w->options.image_tokens_max * sizeof(int32_t);
    if (w->group && !w->ar && !w->is_device_dead) {
        dip__worker_fail(w, message->job_id, DIP_CANCELLED,
                         "handed back: the tensor-parallel group is not formed");
        return;
    }
    if (message->as.ar.forced_ids.bytes > forced_max) {
        dip__worker_fail(w, message->job_id, DIP_LIMIT, "more tokens than an image has here");
        return;
    }
    struct ar_job *job = !w->is_device_dead && w->ar ? place_take(w) : NULL;
    if (!job) {
        dip__worker_fail(w, message->job_id, w->is_device_dead ? DIP_DEVICE : DIP_BUSY,
                         w->is_device_dead ? "the device failed before"
                                           : "the worker has no slot for this job");
        return;
    }
    job_fill(w, job, message);
    enum dip_status status = job_admit(w, job);
    if (!status)
        return;
    dip__worker_fail(w, message->job_id, status,
                     status == DIP_INVALID ? "a token id is outside the vocabulary"
                                           : "the AR engine cannot hold this job");
    job_free(job);
}

/* The keeper's copy stays: the receiver may die before the picture is final. */
void dip__worker_hand_over(struct dip_worker *w, const struct dip_message *message)
{
    const struct ar_job *job = message->job_id != 0 ? job_find(w, message->job_id) : NULL;
    if (!job || !job->hinge.data)
        return; /* released meanwhile */
    struct dip_message hinge = {.kind = DIP_MESSAGE_HINGE,
                                .from = w->endpoint->address,
                                .job_id = message->as.hand_over.to_job_id};
    hinge.as.hinge.hidden = dip__payload_copy(job->hinge.data, job->hinge.bytes);
    if (!hinge.as.hinge.hidden.data) {
        dip__worker_fail(w, job->tag.id, DIP_NO_MEMORY, "no memory to send the hinge");
        return;
    }
    if (message->as.hand_over.to == w->endpoint->address) {
        dip__worker_hinge(w, &hinge); /* both panels live here */
        dip_message_release(&hinge);
        return;
    }
    enum dip_status status = dip_endpoint_send(w->endpoint, message->as.hand_over.to, &hinge);
    if (status)
        dip_message_release(&hinge);
    /* A receiver that is gone is the coordinator's to notice: it places the image elsewhere, and
     * the copy kept here is what it will be made of. Only a living one that has no room is a
     * failure. */
    if (status && status != DIP_CANCELLED && status != DIP_UNREACHABLE)
        dip__worker_fail(w, job->tag.id, status, "the diffusion worker took no hinge");
}

/* ---- what a step did ---- */

/* Ids travel in batches: they are where a replay resumes, and progress. The first goes alone: it is
 * what somebody waits for. */
static void tokens_send(struct dip_worker *w, struct ar_job *job, bool is_last)
{
    int batch_min = is_last || job->ids_sent == 0 ? 1 : DIP_TOKEN_BATCH_MAX / 2;
    while (job->tag.id != 0 && job->id_count - job->ids_sent >= batch_min) {
        struct dip_message message = {.kind = DIP_MESSAGE_TOKENS};
        struct dip_message_tokens *tokens = &message.as.tokens;
        int count = job->id_count - job->ids_sent;
        tokens->first = job->ids_sent;
        tokens->count = count < DIP_TOKEN_BATCH_MAX ? count : DIP_TOKEN_BATCH_MAX;
        memcpy(tokens->ids, job->ids + tokens->first,
               (size_t)tokens->count * sizeof tokens->ids[0]);
        job->ids_sent += tokens->count;
        dip__worker_say(w, &job->tag, &message);
    }
}

static void tokens_keep(struct dip_worker *w, struct ar_job *job, const struct dip_ar_event *event)
{
    dip_assert(event->tokens_done <= w->options.image_tokens_max);
    if (event->tokens_done > job->id_count) {
        memcpy(job->ids + job->id_count, event->image_ids + job->id_count,
               (size_t)(event->tokens_done - job->id_count) * sizeof(int32_t));
        w->has_held_news = w->has_held_news || job->tag.id == 0;
    }
    if (event->tokens_done > job->id_count || event->kind == DIP_AR_DONE)
        job->id_count =
            event->tokens_done; /* at the end also fewer: what was forced may end early */
}

static void say_ready(struct dip_worker *w, const struct ar_job *job)
{
    struct dip_message ready = {
        .kind = DIP_MESSAGE_HINGE_READY,
        .as.hinge_ready = {.token_count = job->id_count,
                           .prefill_ns = job->prefilled_ns - job->started_ns,
                           .decode_ns = job->done_ns - job->prefilled_ns}};
    dip__worker_say(w, &job->tag, &ready);
}

static void job_done(struct dip_worker *w, struct ar_job *job, const struct dip_ar_event *event)
{
    size_t row_bytes = (size_t)w->options.model->config.ar.hidden * sizeof(float);
    job->is_live = false;
    job->done_ns = dip_clock_now_ns();
    job->hinge = dip__payload_copy(event->hidden, (size_t)(event->tokens_done + 1) * row_bytes);
    bool is_kept = job->hinge.data != NULL;
    if (is_kept && job->params.is_traced)
        is_kept = dip__worker_trace(w, job->tag.id, "image_ids", DIP_I32, event->image_ids,
                                    (int64_t[]){event->tokens_done}, 1);
    if (!is_kept) {
        dip__worker_fail(w, job->tag.id, DIP_NO_MEMORY, "no memory to keep the hinge");
        job_free(job);
        return;
    }
    say_ready(w, job);
    dip__worker_log(w, &job->tag, "drawn", job->done_ns - job->started_ns);
    w->has_held_news = w->has_held_news || job->tag.id == 0;
}

void dip__worker_ar_resume(struct dip_worker *w, struct ar_job *job)
{
    enum dip_status status = DIP_OK;
    job->ids_sent = 0;
    if (job->prefilled_ns > 0)
        dip__worker_say(w, &job->tag, &(struct dip_message){.kind = DIP_MESSAGE_PREFILLED});
    tokens_send(w, job, true);
    if (job->hinge.data)
        say_ready(w, job);
    else if (!job->is_live)
        status = w->ar ? job_admit(w, job) : DIP_CANCELLED;
    if (!status)
        return;
    dip__worker_fail(w, job->tag.id, DIP_CANCELLED, "handed back: there is no slot to draw on");
    job_free(job);
}

static void event_handle(struct dip_worker *w, const struct dip_ar_event *event)
{
    struct ar_job *job = job_of_handle(w, event->id);
    dip_assert(job && job->is_live);
    switch (event->kind) {
    case DIP_AR_PREFILLED:
        job->prefilled_ns = dip_clock_now_ns();
        dip__worker_say(w, &job->tag, &(struct dip_message){.kind = DIP_MESSAGE_PREFILLED});
        break;
    case DIP_AR_TOKENS:
        tokens_keep(w, job, event);
        tokens_send(w, job, false);
        break;
    case DIP_AR_DONE:
        tokens_keep(w, job, event);
        tokens_send(w, job, true);
        job_done(w, job, event);
        break;
    case DIP_AR_FAILED:
        dip__worker_fail(w, job->tag.id, event->status,
                         "the AR panel produced values that are no numbers");
        job_free(job);
        break;
    }
}

enum dip_status dip__worker_ar_step(struct dip_worker *w)
{
    int event_count = 0;
    DIP_TRY(dip_ar_engine_step(w->ar, w->ar_events, w->options.ar_slots, &event_count));
    for (int i = 0; i < event_count; i++)
        event_handle(w, &w->ar_events[i]);
    return DIP_OK;
}
