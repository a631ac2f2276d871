/* worker/ar.c - AR jobs: commands in, the engine's events out, hinges kept until RELEASE. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

static struct ar_job *job_find(struct dip_worker *w, uint64_t id)
{
    for (int i = 0; i < w->options.hinge_slots; i++)
        if (w->ar_jobs[i].id == id)
            return &w->ar_jobs[i];
    return NULL;
}

static void job_free(struct ar_job *job)
{
    free(job->hinge.data);
    *job = (struct ar_job){0};
}

void dip__worker_ar_command(struct dip_worker *w, struct dip_message *message)
{
    const struct dip_message_ar *command = &message->as.ar;
    struct ar_job *job = job_find(w, 0);
    if (w->group && !w->ar && !w->is_device_dead) {
        dip__worker_fail(w, message->job_id, DIP_CANCELLED,
                         "handed back: the tensor-parallel group is not formed");
        return;
    }
    if (w->is_device_dead || !w->ar || !job) {
        dip__worker_fail(w, message->job_id, w->is_device_dead ? DIP_DEVICE : DIP_BUSY,
                         w->is_device_dead ? "the device failed before"
                                           : "the worker has no slot for this job");
        return;
    }
    struct dip_ar_job engine_job = {
        .id = message->job_id,
        .params = dip__worker_params(&command->params),
        .prompt_ids = command->prompt_ids.data,
        .prompt_count = (int)(command->prompt_ids.bytes / sizeof(int32_t)),
        .forced_ids = command->forced_ids.data,
        .forced_count = (int)(command->forced_ids.bytes / sizeof(int32_t)),
    };
    enum dip_status status = dip_ar_engine_admit(w->ar, &engine_job);
    if (status) {
        dip__worker_fail(w, message->job_id, status,
                         status == DIP_INVALID ? "a token id is outside the vocabulary"
                                               : "the AR engine cannot hold this job");
        return;
    }
    *job = (struct ar_job){.id = message->job_id,
                           .is_traced = command->params.is_traced,
                           .is_live = true,
                           .started_ns = dip_clock_now_ns()};
}

void dip__worker_ar_release(struct dip_worker *w, uint64_t job_id)
{
    struct ar_job *job = job_id != 0 ? job_find(w, job_id) : NULL;
    if (!job)
        return;
    if (job->is_live)
        dip_ar_engine_cancel(w->ar, job_id);
    job_free(job);
}

/* The keeper's copy stays: the receiver may die before the picture is final. */
void dip__worker_hand_over(struct dip_worker *w, const struct dip_message *message)
{
    const struct ar_job *job = job_find(w, message->job_id);
    if (!job || !job->hinge.data)
        return; /* released meanwhile */
    struct dip_message hinge = {.kind = DIP_MESSAGE_HINGE,
                                .from = w->endpoint->address,
                                .job_id = message->as.hand_over.to_job_id};
    hinge.as.hinge.hidden = dip__payload_copy(job->hinge.data, job->hinge.bytes);
    if (!hinge.as.hinge.hidden.data) {
        dip__worker_fail(w, job->id, DIP_NO_MEMORY, "no memory to send the hinge");
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
        dip__worker_fail(w, job->id, status, "the diffusion worker took no hinge");
}

/* ---- what a step did ---- */

/* Ids travel in batches: they are where a replay resumes, and progress. The first goes alone: it is
 * what somebody waits for. */
static void tokens_send(struct dip_worker *w, struct ar_job *job, const struct dip_ar_event *event,
                        bool is_last)
{
    int batch_min = is_last || job->tokens_sent == 0 ? 1 : DIP_TOKEN_BATCH_MAX / 2;
    while (event->tokens_done - job->tokens_sent >= batch_min) {
        struct dip_message message = {.kind = DIP_MESSAGE_TOKENS, .job_id = job->id};
        struct dip_message_tokens *tokens = &message.as.tokens;
        int count = event->tokens_done - job->tokens_sent;
        tokens->first = job->tokens_sent;
        tokens->count = count < DIP_TOKEN_BATCH_MAX ? count : DIP_TOKEN_BATCH_MAX;
        memcpy(tokens->ids, event->image_ids + tokens->first,
               (size_t)tokens->count * sizeof tokens->ids[0]);
        job->tokens_sent += tokens->count;
        dip__worker_post(w, &message);
    }
}

static void job_done(struct dip_worker *w, struct ar_job *job, const struct dip_ar_event *event)
{
    size_t row_bytes = (size_t)w->options.model->config.ar.hidden * sizeof(float);
    job->is_live = false;
    job->hinge = dip__payload_copy(event->hidden, (size_t)(event->tokens_done + 1) * row_bytes);
    bool is_kept = job->hinge.data != NULL;
    if (is_kept && job->is_traced)
        is_kept = dip__worker_trace(w, job->id, "image_ids", DIP_I32, event->image_ids,
                                    (int64_t[]){event->tokens_done}, 1);
    if (!is_kept) {
        dip__worker_fail(w, job->id, DIP_NO_MEMORY, "no memory to keep the hinge");
        job_free(job);
        return;
    }
    struct dip_message ready = {
        .kind = DIP_MESSAGE_HINGE_READY,
        .job_id = job->id,
        .as.hinge_ready = {.token_count = event->tokens_done,
                           .prefill_ns = job->prefilled_ns - job->started_ns,
                           .decode_ns = dip_clock_now_ns() - job->prefilled_ns}};
    dip__worker_post(w, &ready);
}

static void event_handle(struct dip_worker *w, const struct dip_ar_event *event)
{
    struct ar_job *job = job_find(w, event->id);
    dip_assert(job && job->is_live);
    switch (event->kind) {
    case DIP_AR_PREFILLED:
        job->prefilled_ns = dip_clock_now_ns();
        dip__worker_post(w,
                         &(struct dip_message){.kind = DIP_MESSAGE_PREFILLED, .job_id = job->id});
        break;
    case DIP_AR_TOKENS:
        tokens_send(w, job, event, false);
        break;
    case DIP_AR_DONE:
        tokens_send(w, job, event, true);
        job_done(w, job, event);
        break;
    case DIP_AR_FAILED:
        dip__worker_fail(w, job->id, event->status,
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
