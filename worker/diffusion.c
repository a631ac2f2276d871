/* worker/diffusion.c - diffusion jobs: a command and a hinge in, pictures to the file thread.
 *
 * The command comes from the coordinator and the hinge from another worker, in either order; the
 * job enters the engine when both are here. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

static struct diffusion_job *job_find(struct dip_worker *w, uint64_t id)
{
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        if (w->diffusion_jobs[i].id == id)
            return &w->diffusion_jobs[i];
    return NULL;
}

static void job_free(struct diffusion_job *job)
{
    free(job->hidden.data);
    free(job->noise.data);
    memset(job, 0, sizeof *job);
}

/* A place for a job that is not known yet; hinges whose command never came give way, oldest first:
 * their job was released before they arrived. */
static struct diffusion_job *job_take(struct dip_worker *w, uint64_t id)
{
    struct diffusion_job *job = job_find(w, 0);
    for (int i = 0; i < w->diffusion_job_count_max && !(job && job->id == 0); i++) {
        struct diffusion_job *orphan = &w->diffusion_jobs[i];
        if (!orphan->has_command && (!job || orphan->turn < job->turn))
            job = orphan;
    }
    if (!job)
        return NULL;
    job_free(job);
    job->id = id;
    job->turn = ++w->turn;
    return job;
}

static void job_fail(struct dip_worker *w, struct diffusion_job *job, enum dip_status status,
                     const char *text)
{
    dip__worker_fail(w, job->id, status, text);
    if (job->is_live)
        dip_diffusion_engine_cancel(w->diffusion, job->id);
    job_free(job);
}

/* dip_trace_fn: runs inside an engine step, so a failure is only noted here. */
static void trace(void *context, uint64_t id, const char *name, const float *data,
                  const int64_t *dims, int rank)
{
    struct dip_worker *w = context;
    if (!dip__worker_trace(w, id, name, DIP_F32, data, dims, rank))
        w->traced_job = job_find(w, id);
}

static bool trace_hidden(struct dip_worker *w, const struct diffusion_job *job)
{
    int64_t H = w->options.model->config.ar.hidden;
    int64_t rows = (int64_t)(job->hidden.bytes / sizeof(float)) / H;
    return dip__worker_trace(w, job->id, "hidden", DIP_F32, job->hidden.data, (int64_t[]){rows, H},
                             2);
}

static enum dip_preview_kind preview_kind(const struct dip_job_params *params)
{
    switch (params->preview) {
    case DIP_JOB_PREVIEW_LINEAR:
        return DIP_PREVIEW_LINEAR;
    case DIP_JOB_PREVIEW_DECODED:
        return DIP_PREVIEW_DECODED;
    default:
        return DIP_PREVIEW_NONE;
    }
}

static void job_admit(struct dip_worker *w, struct diffusion_job *job)
{
    if (!job->has_command || !job->hidden.data)
        return;
    int64_t H = w->options.model->config.ar.hidden;
    struct dip_diffusion_job engine_job = {
        .id = job->id,
        .params = dip__worker_params(&job->params),
        .hidden = job->hidden.data,
        .hidden_rows = (int)((int64_t)(job->hidden.bytes / sizeof(float)) / H),
        .noise = job->noise.data,
        .preview = preview_kind(&job->params),
        .preview_every = job->params.preview_every,
        .trace = job->params.is_traced ? trace : NULL,
        .trace_context = w,
    };
    if (job->params.is_traced && !trace_hidden(w, job)) {
        job_fail(w, job, DIP_NO_MEMORY, "no memory for the trace");
        return;
    }
    enum dip_status status = dip_diffusion_engine_admit(w->diffusion, &engine_job);
    if (status) {
        job_fail(w, job, status, "the diffusion engine cannot hold this job");
        return;
    }
    job->is_live = true;
    free(job->hidden.data); /* the engine has its own copy */
    job->hidden = (struct dip_payload){0};
}

void dip__worker_diffusion_command(struct dip_worker *w, struct dip_message *message)
{
    struct dip_message_diffusion *command = &message->as.diffusion;
    struct diffusion_job *job = NULL;
    if (w->diffusion && !w->is_device_dead)
        job = job_find(w, message->job_id);
    if (w->diffusion && !w->is_device_dead && !job)
        job = job_take(w, message->job_id);
    if (!job) {
        dip__worker_fail(w, message->job_id, w->is_device_dead ? DIP_DEVICE : DIP_BUSY,
                         w->is_device_dead ? "the device failed before"
                                           : "the worker has no slot for this job");
        return;
    }
    job->has_command = true;
    job->params = command->params;
    job->noise = command->noise;
    if (command->hidden.data)
        job->hidden = command->hidden;
    *command = (struct dip_message_diffusion){0}; /* the job owns the payloads now */
    job_admit(w, job);
}

void dip__worker_hinge(struct dip_worker *w, struct dip_message *message)
{
    if (!w->diffusion || message->job_id == 0)
        return;
    struct diffusion_job *job = job_find(w, message->job_id);
    if (!job)
        job = job_take(w, message->job_id);
    if (!job || job->hidden.data || job->is_live)
        return; /* a second copy changes nothing */
    job->hidden = message->as.hinge.hidden;
    message->as.hinge.hidden = (struct dip_payload){0};
    job_admit(w, job);
}

void dip__worker_diffusion_release(struct dip_worker *w, uint64_t job_id)
{
    struct diffusion_job *job = job_id != 0 ? job_find(w, job_id) : NULL;
    if (!job)
        return;
    if (job->is_live)
        dip_diffusion_engine_cancel(w->diffusion, job_id);
    job_free(job);
}

/* ---- what a step did ---- */

/* Copies the engine's picture into a buffer of the file thread. All buffers being in use means that
 * the file thread is behind: the device waits for it here, which bounds the memory. */
static void picture_send(struct dip_worker *w, enum file_work_kind kind, struct diffusion_job *job,
                         const struct dip_diffusion_event *event)
{
    struct file_work work = {.kind = kind,
                             .job_id = job->id,
                             .width = event->width,
                             .height = event->height,
                             .steps_done = event->steps_done};
    if (kind == FILE_IMAGE) {
        work.diffusion_ns = job->last_step_ns - job->conditioned_ns;
        work.vae_ns = dip_clock_now_ns() - job->last_step_ns;
    }
    enum dip_status status = dip_mailbox_pop(w->rgb_buffers, -1, &work.rgb);
    dip_assert(status == DIP_OK);
    memcpy(work.rgb, event->rgb, (size_t)event->width * (size_t)event->height * 3);
    status = dip_mailbox_push(w->file_work, &work);
    dip_assert(status == DIP_OK); /* there are as many places as buffers */
}

static void job_step(struct dip_worker *w, struct diffusion_job *job,
                     const struct dip_diffusion_event *event, int64_t step_ns)
{
    job->last_step_ns = dip_clock_now_ns();
    struct dip_message message = {.kind = DIP_MESSAGE_STEP,
                                  .job_id = job->id,
                                  .as.step = {.steps_done = event->steps_done, .step_ns = step_ns}};
    dip__worker_post(w, &message);
    if (event->rgb)
        picture_send(w, FILE_PREVIEW, job, event);
}

static void job_decoded(struct dip_worker *w, struct diffusion_job *job,
                        const struct dip_diffusion_event *event)
{
    job->is_live = false;
    if (job->params.is_traced &&
        !dip__worker_trace(w, job->id, "image", DIP_U8, event->rgb,
                           (int64_t[]){event->height, event->width, 3}, 3)) {
        job_fail(w, job, DIP_NO_MEMORY, "no memory for the trace");
        return;
    }
    dip__worker_post(w, &(struct dip_message){.kind = DIP_MESSAGE_DECODED, .job_id = job->id});
    picture_send(w, FILE_IMAGE, job, event);
    job_free(job);
}

static void event_handle(struct dip_worker *w, const struct dip_diffusion_event *event,
                         int64_t step_ns)
{
    struct diffusion_job *job = job_find(w, event->id);
    dip_assert(job && job->is_live);
    switch (event->kind) {
    case DIP_DIFFUSION_CONDITIONED:
        job->conditioned_ns = job->last_step_ns = dip_clock_now_ns();
        dip__worker_post(w,
                         &(struct dip_message){.kind = DIP_MESSAGE_CONDITIONED, .job_id = job->id});
        break;
    case DIP_DIFFUSION_STEP:
        job_step(w, job, event, step_ns);
        break;
    case DIP_DIFFUSION_DECODED:
        job_decoded(w, job, event);
        break;
    case DIP_DIFFUSION_FAILED:
        job->is_live = false; /* the engine has freed its slot */
        job_fail(w, job, event->status, "the diffusion panel produced values that are no numbers");
        break;
    }
}

enum dip_status dip__worker_diffusion_step(struct dip_worker *w)
{
    int event_count = 0;
    int64_t begin_ns = dip_clock_now_ns();
    w->traced_job = NULL;
    DIP_TRY(dip_diffusion_engine_step(w->diffusion, w->diffusion_events, w->options.diffusion_slots,
                                      &event_count));
    int64_t step_ns = (dip_clock_now_ns() - begin_ns) / (event_count > 0 ? event_count : 1);
    for (int i = 0; i < event_count; i++)
        event_handle(w, &w->diffusion_events[i], step_ns);
    if (w->traced_job && w->traced_job->id != 0)
        job_fail(w, w->traced_job, DIP_NO_MEMORY, "no memory for the trace");
    return DIP_OK;
}
