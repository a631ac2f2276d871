/* worker/worker.c - starting, stopping, and the device thread's loop. */
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "worker/state.h"

/* How often one that leaves looks whether it may, and one that holds something whether it is due.
 */
#define LEAVE_LOOK_NS (INT64_C(10) * DIP_MS_NS)
#define HELD_LOOK_NS  (INT64_C(200) * DIP_MS_NS)

/* What the device thread tells dip_worker_start. */
struct start_report {
    enum dip_status status;
    struct dip_why why;
};

void dip__worker_post(struct dip_worker *worker, struct dip_message *message)
{
    message->from = worker->endpoint->address;
    enum dip_status status;
    /* The coordinator never waits for a worker, so a full inbox empties. */
    while ((status = dip_endpoint_send(worker->endpoint, worker->options.coordinator, message)) ==
           DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
    if (status)
        dip_message_release(message); /* nobody is listening any more */
}

void dip__worker_fail(struct dip_worker *worker, uint64_t job_id, enum dip_status status,
                      const char *text)
{
    struct dip_message message = {
        .kind = DIP_MESSAGE_FAILED, .job_id = job_id, .as.failed.status = status};
    if (job_id == 0)
        return; /* held: nobody hears of it */
    snprintf(message.as.failed.text, sizeof message.as.failed.text, "%s", text);
    dip__worker_post(worker, &message);
}

void dip__worker_say(struct dip_worker *worker, const struct tag *tag, struct dip_message *message)
{
    message->job_id = tag->id;
    if (tag->id != 0)
        dip__worker_post(worker, message);
    else
        dip_message_release(message);
}

void dip__worker_log(struct dip_worker *worker, const struct tag *tag, const char *what,
                     int64_t took_ns)
{
    struct dip_log_line line;
    char trace_id[33];
    if (!worker->options.log || !tag->origin.request_id[0])
        return;
    dip_log_begin(&line, worker->options.log, DIP_LOG_INFO, what);
    dip_log_text(&line, "request_id", tag->origin.request_id);
    dip_log_int(&line, "image", tag->image_index);
    dip_log_ms(&line, "took_ms", took_ns);
    if (tag->origin.traceparent[0]) {
        snprintf(trace_id, sizeof trace_id, "%.32s", tag->origin.traceparent + 3);
        dip_log_text(&line, "trace_id", trace_id);
    }
    dip_log_end(&line);
}

struct dip_payload dip__payload_copy(const void *data, size_t bytes)
{
    struct dip_payload payload = {0};
    if (bytes > 0)
        payload.data = malloc(bytes);
    if (payload.data) {
        memcpy(payload.data, data, bytes);
        payload.bytes = bytes;
    }
    return payload;
}

bool dip__worker_trace(struct dip_worker *worker, uint64_t job_id, const char *name,
                       enum dip_dtype dtype, const void *data, const int64_t *dims, int rank)
{
    dip_assert(rank >= 1 && rank <= DIP_TENSOR_RANK_MAX);
    struct dip_message message = {
        .kind = DIP_MESSAGE_TRACE, .job_id = job_id, .as.trace = {.dtype = dtype, .rank = rank}};
    struct dip_message_trace *trace = &message.as.trace;
    size_t bytes = dip_dtype_bytes(dtype);
    for (int i = 0; i < DIP_TENSOR_RANK_MAX; i++) {
        trace->dims[i] = i < rank ? dims[i] : 1;
        bytes *= (size_t)trace->dims[i];
    }
    snprintf(trace->name, sizeof trace->name, "%s", name);
    trace->data = dip__payload_copy(data, bytes);
    if (bytes > 0 && !trace->data.data)
        return false;
    dip__worker_post(worker, &message);
    return true;
}

struct dip_image_params dip__worker_params(const struct dip_job_params *params)
{
    return (struct dip_image_params){
        .seed = params->seed,
        .image_index = params->image_index,
        .temperature = params->temperature,
        .top_k = params->top_k,
        .top_p = params->top_p,
        .steps = params->steps,
        .guidance = params->guidance,
        .sampler = params->sampler == DIP_JOB_DPM ? DIP_SAMPLER_DPM : DIP_SAMPLER_EULER,
        .latent_height = params->latent_height,
        .latent_width = params->latent_width,
        .token_count = params->token_count,
    };
}

/* ---- the device thread ---- */

static enum dip_status model_prepare(struct dip_worker *w, struct dip_why *why)
{
    struct dip_stream *stream = NULL;
    enum dip_status status = dip_stream_open(w->device, &stream);
    if (status)
        return dip_fail(
            why, status, "cannot open a stream on %s: %s", dip_device_backend(w->device),
            dip_device_note(w->device)[0] ? dip_device_note(w->device) : dip_status_text(status));
    status = dip_model_prepare(w->options.model, stream, why);
    dip_stream_close(stream);
    return status;
}

static enum dip_status engines_open(struct dip_worker *w, struct dip_why *why)
{
    const struct dip_worker_options *o = &w->options;
    DIP_TRY(dip_device_open(&o->device, why, &w->device));
    DIP_TRY(model_prepare(w, why));
    if (o->ar_group)
        DIP_TRY(dip__worker_group_new(w));
    else if (o->roles & DIP_ROLE_AR) {
        struct dip_ar_engine_options options = {.slot_count = o->ar_slots,
                                                .prompt_tokens_max = o->prompt_tokens_max,
                                                .image_tokens_max = o->image_tokens_max,
                                                .prefill_rows_max = PREFILL_ROWS_MAX};
        DIP_TRY(dip_ar_engine_new(o->model, w->device, &options, why, &w->ar));
    }
    if (o->roles & DIP_ROLE_DIFFUSION) {
        struct dip_diffusion_engine_options options = {.slot_count = o->diffusion_slots,
                                                       .batch_max = o->diffusion_batch_max,
                                                       .context_rows_max = o->image_tokens_max + 1,
                                                       .latent_height_max = o->latent_height_max,
                                                       .latent_width_max = o->latent_width_max};
        DIP_TRY(dip_diffusion_engine_new(o->model, w->device, &options, why, &w->diffusion));
    }
    const char *remark = dip_device_remark(w->device);
    if (remark[0])
        dip_log_say(o->log, DIP_LOG_WARNING, "%s", remark);
    return DIP_OK;
}

/* Equal fingerprint and equal request mean equal bytes: weights, build, device class. */
void dip__worker_join(struct dip_worker *w)
{
    const struct dip_worker_options *o = &w->options;
    struct dip_message message = {.kind = DIP_MESSAGE_JOINED, .as.joined.roles = o->roles};
    if (w->is_leaving || w->is_device_dead || (w->group && !w->ar))
        return;
    if (o->roles & DIP_ROLE_AR) {
        message.as.joined.ar_slots = o->ar_slots;
        message.as.joined.hinge_slots = o->hinge_slots;
    }
    if (o->roles & DIP_ROLE_DIFFUSION)
        message.as.joined.diffusion_slots = o->diffusion_slots;
    char text[256];
    int bytes = snprintf(text, sizeof text, "diptych %s|%s|%s|strict", DIP_VERSION,
                         w->options.model->digest, dip_device_class(w->device));
    dip_assert(bytes > 0 && (size_t)bytes < sizeof text);
    enum dip_status status = dip_sha256_hex(text, (size_t)bytes, message.as.joined.fingerprint);
    dip_assert(status == DIP_OK); /* of a library that has hashed the weights before */
    dip__worker_post(w, &message);
}

/* Whatever a step failed of, to its jobs it is the device: another one can do them. */
static void jobs_fail(struct dip_worker *w)
{
    char text[DIP_FAILURE_BYTES];
    const char *note = dip_device_note(w->device); /* a GPU's own words */
    bool has_note = !dip_device_reads_host(w->device) && note[0];
    snprintf(text, sizeof text, "the %s device failed: %s", dip_device_backend(w->device),
             has_note ? note : dip_status_text(w->device_status));
    dip_log_say(w->options.log, DIP_LOG_ERROR, "%s", text);
    for (int i = 0; i < w->options.hinge_slots; i++)
        dip__worker_fail(w, w->ar_jobs[i].tag.id, DIP_DEVICE, text);
    for (int i = 0; i < w->diffusion_job_count_max; i++)
        dip__worker_fail(w, w->diffusion_jobs[i].tag.id, DIP_DEVICE, text);
}

/* A job that was in a slot is not wanted any more; the others were done with theirs. */
static void release(struct dip_worker *w, const struct dip_message *message)
{
    int64_t told_ns = message->as.release.told_ns;
    bool was_ar_live = dip__worker_ar_release(w, message->job_id);
    bool was_diffusion_live = dip__worker_diffusion_release(w, message->job_id);
    dip__worker_picture_release(w, message->job_id);
    struct dip_member_load *load = told_ns > 0 ? w->options.load : NULL;
    if (load && was_ar_live)
        dip_times_add(&load->ar_stops, dip_clock_now_ns() - told_ns);
    if (load && was_diffusion_live)
        dip_times_add(&load->diffusion_stops, dip_clock_now_ns() - told_ns);
}

void dip__worker_handle(struct dip_worker *w, struct dip_message *message)
{
    switch (message->kind) {
    case DIP_MESSAGE_STOP:
        w->is_stopping = true;
        break;
    case DIP_MESSAGE_AR:
        dip__worker_ar_command(w, message);
        break;
    case DIP_MESSAGE_HAND_OVER:
        dip__worker_hand_over(w, message);
        break;
    case DIP_MESSAGE_DIFFUSION:
        dip__worker_diffusion_command(w, message);
        break;
    case DIP_MESSAGE_HINGE:
        dip__worker_hinge(w, message);
        break;
    case DIP_MESSAGE_RELEASE:
        release(w, message);
        break;
    case DIP_MESSAGE_ADOPT:
        dip__worker_adopt(w, message);
        break;
    case DIP_MESSAGE_RESET:
        dip__worker_reset(w, message);
        break;
    case DIP_MESSAGE_DRAIN:
        dip__worker_drain(w, message);
        break;
    case DIP_MESSAGE_UNDRAIN:
        dip__worker_undrain(w);
        break;
    case DIP_MESSAGE_LEAVING:
        dip__worker_leave(w, message);
        break;
    case DIP_MESSAGE_PREPARE_GROUP:
    case DIP_MESSAGE_FORM_GROUP:
    case DIP_MESSAGE_DISSOLVE_GROUP:
        dip__worker_group_command(w, message);
        break;
    default: /* not for a worker */
        break;
    }
    dip_message_release(message); /* what a handler kept, it has taken out */
}

static bool has_live_job(const struct dip_worker *w)
{
    return !w->is_device_dead && ((w->ar && dip_ar_engine_live(w->ar) > 0) ||
                                  (w->diffusion && dip_diffusion_engine_live(w->diffusion) > 0));
}

/* Something whose time will be over. */
static bool has_kept(const struct dip_worker *w)
{
    bool has = w->is_holding;
    for (int i = 0; i < PICTURES_MAX && !has; i++)
        has = w->pictures[i].tag.handle != 0;
    return has;
}

static void count_step(struct dip_worker *w, bool is_ar, int images, int64_t took_ns)
{
    struct dip_member_load *load = w->options.load;
    if (!load)
        return;
    dip_times_add(is_ar ? &load->ar_steps : &load->diffusion_steps, took_ns);
    dip_sizes_add(is_ar ? &load->ar_batches : &load->diffusion_batches, (uint64_t)images);
    dip_counter_add(&load->steps, 1);
}

static enum dip_status steps(struct dip_worker *w)
{
    int64_t begin_ns = dip_clock_now_ns();
    int images = w->ar ? dip_ar_engine_live(w->ar) : 0;
    if (w->group) {
        bool is_step = false;
        DIP_TRY(dip__worker_group_turn(w, &is_step, &images));
        if (is_step)
            count_step(w, true, images, dip_clock_now_ns() - begin_ns);
    } else if (images > 0) {
        DIP_TRY(dip__worker_ar_step(w));
        count_step(w, true, images, dip_clock_now_ns() - begin_ns);
    }
    images = w->diffusion ? dip_diffusion_engine_live(w->diffusion) : 0;
    if (images > 0) {
        begin_ns = dip_clock_now_ns();
        DIP_TRY(dip__worker_diffusion_step(w, &images));
        count_step(w, false, images, dip_clock_now_ns() - begin_ns);
    }
    return DIP_OK;
}

/* Everything that has come, then one step of each panel: a command waits for one step at most. */
static void turn(struct dip_worker *w)
{
    struct dip_message message;
    bool is_watching = w->is_leaving || w->hand_back_ns != 0;
    int64_t idle_ns = is_watching ? LEAVE_LOOK_NS : has_kept(w) ? HELD_LOOK_NS : -1;
    int64_t wait_ns = has_live_job(w) ? 0 : idle_ns;
    wait_ns = dip__worker_group_wait_ns(w, wait_ns);
    enum dip_status status = DIP_OK;
    while (!w->is_stopping && (dip__worker_group_pending(w, &message) ||
                               !(status = dip_endpoint_receive(w->endpoint, wait_ns, &message)))) {
        dip__worker_handle(w, &message);
        wait_ns = 0;
    }
    if (!w->is_stopping && status == DIP_CANCELLED)
        w->is_stopping = true;
    dip__worker_held_step(w);
    dip__worker_leave_step(w);
    dip__worker_load_show(w);
    if (w->is_stopping || w->is_device_dead)
        return;
    status = steps(w);
    if (status) {
        w->is_device_dead = true;
        w->device_status = status;
        dip_flag_raise(&w->is_failed);
        jobs_fail(w);
    }
    dip__worker_load_show(w);
}

static void *device_main(void *argument)
{
    struct dip_worker *w = argument;
    struct start_report report = {0};
    report.status = engines_open(w, &report.why);
    if (!report.status)
        dip__worker_join(w);
    bool is_ready = report.status == DIP_OK;
    enum dip_status pushed = dip_mailbox_push(w->started, &report);
    dip_assert(pushed == DIP_OK); /* the box holds one report and gets one */
    while (is_ready && !w->is_stopping)
        turn(w);
    dip__worker_group_free(w);
    dip_ar_engine_free(w->ar);
    dip_diffusion_engine_free(w->diffusion);
    dip_model_close(w->options.model); /* holds device memory since it was prepared */
    dip_device_close(w->device);
    return NULL;
}

/* ---- start and stop ---- */

static bool ids_reserve(struct dip_worker *w)
{
    for (int i = 0; i < w->options.hinge_slots; i++) {
        w->ar_jobs[i].ids = calloc((size_t)w->options.image_tokens_max, sizeof(int32_t));
        if (!w->ar_jobs[i].ids)
            return false;
    }
    return true;
}

static enum dip_status buffers_reserve(struct dip_worker *w)
{
    const struct dip_worker_options *o = &w->options;
    size_t factor = (size_t)o->model->config.vae.factor;
    size_t rgb_bytes =
        (size_t)o->latent_height_max * factor * (size_t)o->latent_width_max * factor * 3;
    /* Early hinges of jobs to come have a place beside the live jobs. */
    w->diffusion_job_count_max = 2 * o->diffusion_slots;
    w->ar_jobs = calloc((size_t)o->hinge_slots, sizeof *w->ar_jobs);
    w->ar_events = calloc((size_t)o->ar_slots, sizeof *w->ar_events);
    w->diffusion_jobs = calloc((size_t)w->diffusion_job_count_max, sizeof *w->diffusion_jobs);
    w->diffusion_events = calloc((size_t)o->diffusion_slots, sizeof *w->diffusion_events);
    if (!w->ar_jobs || !w->ar_events || !w->diffusion_jobs || !w->diffusion_events ||
        !ids_reserve(w))
        return DIP_NO_MEMORY;
    DIP_TRY(dip_mailbox_new(sizeof(struct start_report), 1, &w->started));
    DIP_TRY(
        dip_mailbox_new(sizeof(struct file_work), FILE_BUFFERS + 1 + PICTURES_MAX, &w->file_work));
    DIP_TRY(dip_mailbox_new(sizeof w->rgb[0], FILE_BUFFERS, &w->rgb_buffers));
    for (int i = 0; i < FILE_BUFFERS; i++) {
        w->rgb[i] = malloc(rgb_bytes);
        if (!w->rgb[i])
            return DIP_NO_MEMORY;
        DIP_TRY(dip_mailbox_push(w->rgb_buffers, &w->rgb[i]));
    }
    return DIP_OK;
}

static void worker_free(struct dip_worker *w)
{
    for (int i = 0; w->ar_jobs && i < w->options.hinge_slots; i++) {
        free(w->ar_jobs[i].hinge.data);
        free(w->ar_jobs[i].prompt_ids.data);
        free(w->ar_jobs[i].ids);
    }
    for (int i = 0; w->diffusion_jobs && i < w->diffusion_job_count_max; i++) {
        free(w->diffusion_jobs[i].hidden.data);
        free(w->diffusion_jobs[i].noise.data);
    }
    free(w->ar_jobs);
    free(w->ar_events);
    free(w->diffusion_jobs);
    free(w->diffusion_events);
    dip_mailbox_free(w->started);
    dip_mailbox_free(w->file_work);
    dip_mailbox_free(w->rgb_buffers);
    for (int i = 0; i < FILE_BUFFERS; i++)
        free(w->rgb[i]);
    free(w);
}

static void file_thread_stop(struct dip_worker *w)
{
    struct file_work stop = {.kind = FILE_STOP};
    enum dip_status status = dip_mailbox_push(w->file_work, &stop);
    while (status == DIP_BUSY) { /* files to forget are before it */
        dip_clock_sleep(DIP_MS_NS);
        status = dip_mailbox_push(w->file_work, &stop);
    }
    dip_assert(status == DIP_OK);
    pthread_join(w->file_thread, NULL);
}

enum dip_status dip_worker_start(const struct dip_worker_options *options, struct dip_why *why,
                                 struct dip_worker **ret_worker)
{
    struct dip_worker *w = calloc(1, sizeof *w);
    if (!w) {
        dip_model_close(options->model);
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a worker");
    }
    w->options = *options;
    w->endpoint = options->endpoint;
    bool has_file_thread = false;
    struct start_report report = {0};
    enum dip_status status = buffers_reserve(w);
    if (!status && pthread_create(&w->file_thread, NULL, dip__worker_file_main, w) != 0)
        status = DIP_NO_MEMORY;
    else
        has_file_thread = !status;
    if (!status && pthread_create(&w->device_thread, NULL, device_main, w) != 0)
        status = DIP_NO_MEMORY;
    if (status) {
        status = dip_fail(why, status, "cannot start a worker: %s", dip_status_text(status));
        dip_model_close(options->model); /* no device thread to do it */
        goto fail;
    }
    status = dip_mailbox_pop(w->started, -1, &report);
    dip_assert(status == DIP_OK);
    if (report.status) {
        pthread_join(w->device_thread, NULL);
        status = dip_fail(why, report.status, "%s",
                          report.why.text[0] ? report.why.text : dip_status_text(report.status));
        goto fail;
    }
    *ret_worker = w;
    return DIP_OK;
fail:
    if (has_file_thread)
        file_thread_stop(w);
    worker_free(w);
    return status;
}

void dip_worker_stop(struct dip_worker *worker)
{
    if (!worker)
        return;
    struct dip_message stop = {.kind = DIP_MESSAGE_STOP, .from = worker->endpoint->address};
    while (dip_endpoint_send(worker->endpoint, worker->endpoint->address, &stop) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
    pthread_join(worker->device_thread, NULL);
    file_thread_stop(worker);
    dip_endpoint_close(worker->endpoint);
    struct dip_message message;
    while (!dip_endpoint_receive(worker->endpoint, 0, &message))
        dip_message_release(&message);
    worker_free(worker);
}

void dip_worker_drain(struct dip_worker *worker, int64_t grace_ns)
{
    struct dip_message leaving = {.kind = DIP_MESSAGE_LEAVING,
                                  .from = worker->endpoint->address,
                                  .as.grace.grace_ns = grace_ns};
    while (dip_endpoint_send(worker->endpoint, worker->endpoint->address, &leaving) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
}

bool dip_worker_is_drained(struct dip_worker *worker)
{
    return dip_flag_is_raised(&worker->is_drained);
}

bool dip_worker_is_failed(struct dip_worker *worker)
{
    return dip_flag_is_raised(&worker->is_failed);
}

const char *dip_worker_backend(const struct dip_worker *worker)
{
    return dip_device_backend(worker->device);
}

const char *dip_worker_device_class(const struct dip_worker *worker)
{
    return dip_device_class(worker->device);
}

int dip_worker_threads(const struct dip_worker *worker)
{
    return dip_device_threads(worker->device);
}
