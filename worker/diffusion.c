/* worker/diffusion.c - diffusion jobs: a command and a hinge in, pictures to the file thread.
 *
 * The command comes from the coordinator and the hinge from another worker, in either order; the
 * job enters the engine when both are here. A finished picture's file stays with the file thread
 * for a while, under the job's name. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

static struct diffusion_job *job_find(struct dip_worker *w, uint64_t id)
{
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        if (w->diffusion_jobs[i].tag.handle != 0 && w->diffusion_jobs[i].tag.id == id)
            return &w->diffusion_jobs[i];
    return NULL;
}

static struct diffusion_job *job_of_handle(struct dip_worker *w, uint64_t handle)
{
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        if (w->diffusion_jobs[i].tag.handle == handle)
            return &w->diffusion_jobs[i];
    return NULL;
}

static void job_free(struct diffusion_job *job)
{
    dip_checkpoint_free(&job->resume);
    free(job->hidden.data);
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): a freed job is all zero, as memset leaves it */
    free(job->noise.data);
    memset(job, 0, sizeof *job);
}

void dip__worker_diffusion_drop(struct dip_worker *w, struct diffusion_job *job)
{
    if (job->is_live)
        dip_diffusion_engine_cancel(w->diffusion, job->tag.handle);
    job_free(job);
}

bool dip__worker_diffusion_release(struct dip_worker *w, uint64_t job_id)
{
    struct diffusion_job *job = job_id != 0 ? job_find(w, job_id) : NULL;
    bool was_live = job && job->is_live;
    if (job)
        dip__worker_diffusion_drop(w, job);
    return was_live;
}

/* Hinges whose command never came (their job was released before they arrived), or held jobs: the
 * oldest; NULL when there are none. */
static struct diffusion_job *oldest_of(struct dip_worker *w, bool is_held)
{
    struct diffusion_job *oldest = NULL;
    for (int i = 0; i < w->diffusion_job_count_max; i++) {
        struct diffusion_job *job = &w->diffusion_jobs[i];
        if (job->tag.handle != 0 && (is_held ? job->tag.id == 0 : !job->has_command) &&
            (!oldest || job->tag.handle < oldest->tag.handle))
            oldest = job;
    }
    return oldest;
}

/* A place for a job that is not known yet; what nobody has asked for gives way. */
static struct diffusion_job *job_take(struct dip_worker *w, uint64_t id)
{
    struct diffusion_job *job = job_of_handle(w, 0);
    if (!job)
        job = oldest_of(w, false);
    if (!job)
        job = oldest_of(w, true);
    if (!job)
        return NULL;
    dip__worker_diffusion_drop(w, job);
    job->tag = (struct tag){.handle = ++w->handle_last, .id = id};
    return job;
}

static void job_fail(struct dip_worker *w, struct diffusion_job *job, enum dip_status status,
                     const char *text)
{
    dip__worker_fail(w, job->tag.id, status, text);
    dip__worker_diffusion_drop(w, job);
}

/* dip_trace_fn: runs inside an engine step, so a failure is only noted here. */
static void trace(void *context, uint64_t id, const char *name, const float *data,
                  const int64_t *dims, int rank)
{
    struct dip_worker *w = context;
    struct diffusion_job *job = job_of_handle(w, id);
    if (job && !dip__worker_trace(w, job->tag.id, name, DIP_F32, data, dims, rank))
        w->traced_job = job;
}

static bool trace_hidden(struct dip_worker *w, const struct diffusion_job *job)
{
    int64_t H = w->options.model->config.ar.hidden;
    int64_t rows = (int64_t)(job->hidden.bytes / sizeof(float)) / H;
    return dip__worker_trace(w, job->tag.id, "hidden", DIP_F32, job->hidden.data,
                             (int64_t[]){rows, H}, 2);
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

/* Of the latent of a job, in bytes. */
static size_t latent_bytes(const struct dip_worker *w, const struct dip_job_params *params)
{
    return (size_t)w->options.model->config.dit.latent_channels * (size_t)params->latent_height *
           (size_t)params->latent_width * sizeof(float);
}

static void job_admit(struct dip_worker *w, struct diffusion_job *job)
{
    if (!job->has_command || !job->hidden.data)
        return;
    /* What is no latent of this job's is of no use: it begins with noise. */
    if (job->resume.latent.bytes != latent_bytes(w, &job->params) ||
        job->resume.history.bytes != job->resume.latent.bytes ||
        job->resume.steps_done >= job->params.steps)
        dip_checkpoint_free(&job->resume);
    int64_t H = w->options.model->config.ar.hidden;
    struct dip_diffusion_job engine_job = {
        .id = job->tag.handle,
        .params = dip__worker_params(&job->params),
        .hidden = job->hidden.data,
        .hidden_rows = (int)((int64_t)(job->hidden.bytes / sizeof(float)) / H),
        .noise = job->noise.data,
        .resume_steps = job->resume.steps_done,
        .resume_latent = job->resume.latent.data,
        .resume_history = job->resume.history.data,
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
    struct diffusion_job *held;
    while (status == DIP_BUSY && (held = oldest_of(w, true)) != NULL) {
        dip__worker_diffusion_drop(w, held); /* it gives way to what is asked for */
        status = dip_diffusion_engine_admit(w->diffusion, &engine_job);
    }
    if (status) {
        job_fail(w, job, status, "the diffusion engine cannot hold this job");
        return;
    }
    job->is_live = true;
    job->token_count = engine_job.hidden_rows - 1;
    job->started_ns = dip_clock_now_ns();
    free(job->hidden.data); /* the engine has its own copy */
    job->hidden = (struct dip_payload){0};
    dip_checkpoint_free(&job->resume);
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
    job->tag.image_index = command->params.image_index;
    job->tag.origin = command->origin;
    job->noise = command->noise;
    job->resume = command->resume;
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

/* ---- pictures ---- */

/* The file thread forgets what is pushed out; a mailbox that is full has that many such words in
 * it, and the file thread's own bounds do the rest. */
void dip__worker_picture_drop(struct dip_worker *w, struct picture *picture)
{
    struct file_work work = {.kind = FILE_FORGET, .handle = picture->tag.handle};
    if (picture->tag.handle != 0 && dip_mailbox_push(w->file_work, &work))
        return; /* next time */
    *picture = (struct picture){.token_count = 0};
}

/* From now on the picture's file answers to the job's name; 0 = it is not kept. */
static uint64_t picture_keep(struct dip_worker *w, const struct diffusion_job *job)
{
    struct picture *place = &w->pictures[0];
    if (!dip__tag_may_be_held(w, &job->tag))
        return 0;
    for (int i = 0; i < PICTURES_MAX; i++)
        if (w->pictures[i].tag.handle < place->tag.handle)
            place = &w->pictures[i]; /* free, or the oldest */
    dip__worker_picture_drop(w, place);
    if (place->tag.handle != 0)
        return 0;
    *place = (struct picture){.tag = job->tag, .token_count = job->token_count};
    place->tag.until_ns = dip_clock_now_ns() + w->options.hold_ns;
    return job->tag.handle;
}

static unsigned char *buffer_take(struct dip_worker *w)
{
    unsigned char *rgb = NULL;
    enum dip_status status = dip_mailbox_pop(w->rgb_buffers, -1, &rgb);
    dip_assert(status == DIP_OK);
    return rgb;
}

static void file_work_push(struct dip_worker *w, const struct file_work *work)
{
    enum dip_status status;
    while ((status = dip_mailbox_push(w->file_work, work)) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS); /* files to forget are before it */
    dip_assert(status == DIP_OK);
}

void dip__worker_picture_resume(struct dip_worker *w, struct picture *picture)
{
    struct file_work work = {.kind = FILE_AGAIN,
                             .job_id = picture->tag.id,
                             .handle = picture->tag.handle,
                             .rgb = buffer_take(w)};
    dip__worker_say(w, &picture->tag, &(struct dip_message){.kind = DIP_MESSAGE_DECODED});
    file_work_push(w, &work);
}

/* Copies the engine's picture into a buffer of the file thread. All buffers being in use means that
 * the file thread is behind: the device waits for it here, which bounds the memory. */
static void picture_send(struct dip_worker *w, enum file_work_kind kind, struct diffusion_job *job,
                         const struct dip_diffusion_event *event)
{
    struct file_work work = {.kind = kind,
                             .job_id = job->tag.id,
                             .width = event->width,
                             .height = event->height,
                             .steps_done = event->steps_done};
    if (kind == FILE_IMAGE) {
        work.handle = picture_keep(w, job);
        work.diffusion_ns = job->last_step_ns - job->conditioned_ns;
        work.vae_ns = dip_clock_now_ns() - job->last_step_ns;
    } else if (job->tag.id == 0) {
        return; /* nobody looks */
    }
    work.rgb = buffer_take(w);
    memcpy(work.rgb, event->rgb, (size_t)event->width * (size_t)event->height * 3);
    file_work_push(w, &work);
}

/* ---- what a step did ---- */

/* One advance of the engine: what it was made of, and what it says of the device. */
struct advance {
    int64_t kind; /* what steps are like, of a sampler step; 0 = it was none */
    int count;
    int64_t each_ns; /* what a step of one job costs in such company; 0 = not known */
    int room;        /* jobs at a time that are worth it */
};

static void say_step(struct dip_worker *w, const struct diffusion_job *job,
                     const struct advance *advance)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_STEP,
        .as.step = {.steps_done = job->steps_done,
                    .step_ns = advance->each_ns,
                    .batch = advance->count,
                    .room = advance->room},
    };
    dip__worker_say(w, &job->tag, &message);
}

void dip__worker_diffusion_resume(struct dip_worker *w, struct diffusion_job *job)
{
    if (job->conditioned_ns > 0)
        dip__worker_say(w, &job->tag, &(struct dip_message){.kind = DIP_MESSAGE_CONDITIONED});
    if (job->steps_done > 0)
        say_step(w, job, &(struct advance){.count = 0});
}

/* Where another worker could go on, every so many steps. Nobody's result hangs on it. */
static enum dip_status checkpoint_send(struct dip_worker *w, const struct diffusion_job *job)
{
    int every = job->params.checkpoint_every, done = job->steps_done;
    size_t bytes = latent_bytes(w, &job->params);
    if (every == 0 || done % every != 0 || done == job->params.steps || job->tag.id == 0 ||
        2 * bytes > DIP_CHECKPOINT_BYTES_MAX)
        return DIP_OK;
    struct dip_message message = {.kind = DIP_MESSAGE_CHECKPOINT,
                                  .as.checkpoint = {.steps_done = done,
                                                    .latent = {malloc(bytes), bytes},
                                                    .history = {malloc(bytes), bytes}}};
    struct dip_checkpoint *c = &message.as.checkpoint;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the message carries both, or frees them below */
    enum dip_status status = DIP_OK;
    bool has_memory = c->latent.data && c->history.data;
    if (has_memory)
        status = dip_diffusion_engine_checkpoint(w->diffusion, job->tag.handle, c->latent.data,
                                                 c->history.data);
    if (has_memory && !status)
        dip__worker_say(w, &job->tag, &message);
    else
        dip_message_release(&message);
    return status;
}

static void job_step(struct dip_worker *w, struct diffusion_job *job,
                     const struct dip_diffusion_event *event, const struct advance *advance)
{
    job->last_step_ns = dip_clock_now_ns();
    job->steps_done = event->steps_done;
    w->has_held_news = w->has_held_news || job->tag.id == 0;
    say_step(w, job, advance);
    if (event->rgb)
        picture_send(w, FILE_PREVIEW, job, event);
}

static void job_decoded(struct dip_worker *w, struct diffusion_job *job,
                        const struct dip_diffusion_event *event)
{
    job->is_live = false;
    if (job->params.is_traced &&
        !dip__worker_trace(w, job->tag.id, "image", DIP_U8, event->rgb,
                           (int64_t[]){event->height, event->width, 3}, 3)) {
        job_fail(w, job, DIP_NO_MEMORY, "no memory for the trace");
        return;
    }
    w->has_held_news = w->has_held_news || job->tag.id == 0;
    dip__worker_say(w, &job->tag, &(struct dip_message){.kind = DIP_MESSAGE_DECODED});
    dip__worker_log(w, &job->tag, "painted", dip_clock_now_ns() - job->started_ns);
    picture_send(w, FILE_IMAGE, job, event);
    job_free(job);
}

static void event_handle(struct dip_worker *w, const struct dip_diffusion_event *event,
                         const struct advance *advance)
{
    struct diffusion_job *job = job_of_handle(w, event->id);
    dip_assert(job && job->is_live);
    switch (event->kind) {
    case DIP_DIFFUSION_CONDITIONED:
        job->conditioned_ns = job->last_step_ns = dip_clock_now_ns();
        dip__worker_say(w, &job->tag, &(struct dip_message){.kind = DIP_MESSAGE_CONDITIONED});
        break;
    case DIP_DIFFUSION_STEP:
        job_step(w, job, event, advance);
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

/* Whether the step did nothing beside: no preview was painted, no trace written. */
static bool is_plain_step(struct dip_worker *w, int event_count)
{
    for (int i = 0; i < event_count; i++) {
        const struct diffusion_job *job = job_of_handle(w, w->diffusion_events[i].id);
        if (w->diffusion_events[i].kind != DIP_DIFFUSION_STEP || w->diffusion_events[i].rgb ||
            (job && job->params.is_traced))
            return false;
    }
    return event_count > 0;
}

static void advance_measure(struct dip_worker *w, struct advance *advance, int64_t took_ns)
{
    int count = advance->count;
    if (advance->kind == 0 || count == 0)
        return;
    advance->each_ns = took_ns / count;
    if (is_plain_step(w, count))
        dip_batch_add(&w->batch, advance->kind, count, took_ns);
    else if (dip_batch_step_ns(&w->batch, advance->kind, count) > 0)
        advance->each_ns = dip_batch_step_ns(&w->batch, advance->kind, count) / count;
    advance->room = dip_batch_room(&w->batch, advance->kind, w->options.diffusion_batch_max);
}

/* For the metrics page. */
static void costs_show(struct dip_worker *w, const struct advance *advance)
{
    struct dip_member_load *load = w->options.load;
    if (!load || advance->room == 0)
        return;
    for (int i = 0; i < DIP_BATCH_MAX; i++)
        dip_counter_set(&load->batch_step_ns[i],
                        (uint64_t)dip_batch_step_ns(&w->batch, advance->kind, i + 1));
    dip_counter_set(&load->batch_room, (uint64_t)advance->room);
}

enum dip_status dip__worker_diffusion_step(struct dip_worker *w, int *ret_images)
{
    struct advance advance = {.kind = 0};
    int event_count = 0;
    int ready = dip_diffusion_engine_due(w->diffusion, &advance.kind);
    if (ready > 0)
        dip_diffusion_engine_set_batch(w->diffusion,
                                       dip_batch_next(&w->batch, advance.kind, ready));
    int64_t begin_ns = dip_clock_now_ns();
    w->traced_job = NULL;
    DIP_TRY(dip_diffusion_engine_step(w->diffusion, w->diffusion_events, w->options.diffusion_slots,
                                      &event_count));
    advance.count = ready > 0 ? event_count : 0;
    advance_measure(w, &advance, dip_clock_now_ns() - begin_ns);
    costs_show(w, &advance);
    for (int i = 0; i < event_count; i++)
        event_handle(w, &w->diffusion_events[i], &advance);
    for (int i = 0; i < event_count; i++) {
        const struct diffusion_job *job = job_of_handle(w, w->diffusion_events[i].id);
        if (w->diffusion_events[i].kind == DIP_DIFFUSION_STEP && job)
            DIP_TRY(checkpoint_send(w, job));
    }
    if (w->traced_job && w->traced_job->tag.handle != 0)
        job_fail(w, w->traced_job, DIP_NO_MEMORY, "no memory for the trace");
    *ret_images = event_count;
    return DIP_OK;
}
