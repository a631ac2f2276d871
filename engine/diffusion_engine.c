/* engine/diffusion_engine.c - the diffusion engine's life: reserve, admit, cancel, release.
 *
 * Device memory is one block: what the slots keep (the context's keys and values are by far the
 * most), what a batch needs, and one work area as large as the hungriest of the calls that take
 * turns in it. */
#include "engine/diffusion_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "engine/place.h"

static bool in_range(int value, int min, int max)
{
    return value >= min && value <= max;
}

static enum dip_status options_check(const struct dip_model *model,
                                     const struct dip_diffusion_engine_options *o,
                                     struct dip_why *why)
{
    if (!model->connector || !model->dit || !model->vae)
        return dip_fail(why, DIP_INVALID, "the model has no complete diffusion panel");
    int edge_max = DIP_IMAGE_EDGE_MAX / model->config.vae.factor;
    edge_max = edge_max < DIP_LATENT_EDGE_MAX ? edge_max : DIP_LATENT_EDGE_MAX;
    if (!in_range(o->slot_count, 1, DIP_SLOTS_MAX))
        return dip_fail(why, DIP_LIMIT, "%d slots, expected 1..%d", o->slot_count, DIP_SLOTS_MAX);
    if (!in_range(o->batch_max, 1, o->slot_count))
        return dip_fail(why, DIP_LIMIT, "batches of up to %d, expected 1..%d (the slots)",
                        o->batch_max, o->slot_count);
    if (!in_range(o->context_rows_max, 1, DIP_IMAGE_TOKENS_MAX + 1))
        return dip_fail(why, DIP_LIMIT, "%d context rows, expected 1..%d", o->context_rows_max,
                        DIP_IMAGE_TOKENS_MAX + 1);
    if (!in_range(o->latent_height_max, 1, edge_max) || !in_range(o->latent_width_max, 1, edge_max))
        return dip_fail(why, DIP_LIMIT, "latents of up to %d x %d, expected 1..%d a side",
                        o->latent_width_max, o->latent_height_max, edge_max);
    return DIP_OK;
}

static size_t size_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The work area: conditioning, a forward pass, a decode and a trace take turns in it. */
static size_t work_bytes(const struct dip_diffusion_engine *engine)
{
    const struct dip_model *m = engine->model;
    const struct dip_diffusion_engine_options *o = &engine->options;
    int64_t M = o->context_rows_max;
    size_t condition = dip__rows_bytes(M, m->config.ar.hidden) +
                       dip__rows_bytes(M, m->config.dit.caption_channels) +
                       size_max(dip_connector_scratch_bytes(m->connector, M),
                                dip_dit_context_scratch_bytes(m->dit, M));
    size_t forward =
        dip_dit_scratch_bytes(m->dit, o->batch_max, o->latent_height_max, o->latent_width_max, M);
    size_t decode = dip__rows_bytes(engine->pixels_max, 3) +
                    dip_arena_round((size_t)engine->pixels_max * 3) +
                    dip_vae_scratch_bytes(m->vae, o->latent_height_max, o->latent_width_max);
    size_t trace = dip__rows_bytes(1, engine->latent_count_max);
    return dip_arena_round(size_max(size_max(condition, forward), size_max(decode, trace)));
}

size_t dip__diffusion_plan_bytes(int batch_max)
{
    return (size_t)batch_max * (sizeof(struct dip_sampler_item) + sizeof(struct dip_cross_context));
}

static struct dip__diffusion_plan plan_at(void *memory, int batch_max)
{
    struct dip_sampler_item *items = memory;
    return (struct dip__diffusion_plan){items, (void *)(items + batch_max)};
}

static enum dip_status device_reserve(struct dip_diffusion_engine *engine)
{
    const struct dip_diffusion_engine_options *o = &engine->options;
    size_t latent_bytes = dip__rows_bytes(1, engine->latent_count_max);
    size_t batch_bytes = dip__rows_bytes(o->batch_max, engine->latent_count_max);
    size_t context_bytes =
        dip_arena_round(dip_dit_context_bytes(engine->model->dit, o->context_rows_max));
    size_t scratch_bytes = work_bytes(engine);
    size_t plan_bytes = dip_arena_round(dip__diffusion_plan_bytes(o->batch_max));
    size_t word_bytes = dip__rows_bytes(1, o->batch_max);
    size_t bytes = (size_t)o->slot_count * (context_bytes + 3 * latent_bytes) + 4 * batch_bytes +
                   plan_bytes + 2 * word_bytes + scratch_bytes;
    DIP_TRY(dip_reserve(engine->device, bytes, &engine->mem));

    struct dip_arena arena;
    dip_arena_init(&arena, engine->mem.base, engine->mem.bytes);
    for (int i = 0; i < o->slot_count; i++) {
        struct dip__diffusion_slot *slot = &engine->slots[i];
        slot->context_memory = dip__place(&arena, context_bytes);
        slot->latent = dip__place(&arena, latent_bytes);
        slot->clean[0] = dip__place(&arena, latent_bytes);
        slot->clean[1] = dip__place(&arena, latent_bytes);
    }
    engine->batch_latent = dip__place(&arena, batch_bytes);
    engine->batch_uncond = dip__place(&arena, batch_bytes);
    engine->batch_cond = dip__place(&arena, batch_bytes);
    engine->batch_velocity = dip__place(&arena, batch_bytes);
    engine->plan = plan_at(dip__place(&arena, plan_bytes), o->batch_max);
    engine->batch_t = dip__place(&arena, word_bytes);
    engine->batch_is_bad = dip__place(&arena, word_bytes);
    dip_arena_init(&engine->work, dip__place(&arena, scratch_bytes), scratch_bytes);
    return DIP_OK;
}

static enum dip_status host_reserve(struct dip_diffusion_engine *engine)
{
    const struct dip_diffusion_engine_options *o = &engine->options;
    const struct dip_config *config = &engine->model->config;
    size_t rows = (size_t)o->context_rows_max;
    size_t latent_count = (size_t)engine->latent_count_max;
    size_t condition_count = rows * (size_t)config->dit.caption_channels;
    engine->slots = calloc((size_t)o->slot_count, sizeof *engine->slots);
    engine->batch = calloc((size_t)o->batch_max, sizeof(struct dip__diffusion_slot *));
    void *plan = calloc(1, dip__diffusion_plan_bytes(o->batch_max));
    engine->plan_host = plan_at(plan, o->batch_max);
    engine->is_bad = calloc((size_t)o->batch_max, sizeof *engine->is_bad);
    engine->recordings = calloc(DIP__DIFFUSION_RECORDINGS, sizeof *engine->recordings);
    engine->staging = calloc(size_max(condition_count, latent_count), sizeof(float));
    engine->cells = calloc((size_t)o->latent_height_max * (size_t)o->latent_width_max, 3);
    if (!engine->slots || !engine->batch || !plan || !engine->is_bad || !engine->recordings ||
        !engine->staging || !engine->cells)
        return DIP_NO_MEMORY;
    for (int i = 0; i < o->slot_count; i++) {
        struct dip__diffusion_slot *slot = &engine->slots[i];
        slot->hidden = calloc(rows * (size_t)config->ar.hidden, sizeof(float));
        slot->noise = calloc(latent_count, sizeof(float));
        slot->history = calloc(latent_count, sizeof(float));
        slot->rgb = calloc((size_t)engine->pixels_max, 3);
        if (!slot->hidden || !slot->noise || !slot->history || !slot->rgb)
            return DIP_NO_MEMORY;
    }
    return DIP_OK;
}

/* A device that convolves by plans sees the decoder once before the first job, at the size that the
 * model's pictures have unless a request says otherwise: a plan may take it seconds. */
static enum dip_status decoder_plan(struct dip_diffusion_engine *engine)
{
    const struct dip_generation_config *g = &engine->model->config.generation;
    const struct dip_diffusion_engine_options *o = &engine->options;
    struct dip__diffusion_slot *slot = &engine->slots[0];
    int width = 0;
    int height = 0;
    if (g->latent_height > o->latent_height_max || g->latent_width > o->latent_width_max ||
        !dip_plans_begin(engine->stream))
        return DIP_OK;
    slot->params.latent_height = g->latent_height;
    slot->params.latent_width = g->latent_width;
    enum dip_status status = dip__diffusion_decode(engine, slot, slot->latent, &width, &height);
    dip_plans_end(engine->stream);
    return status;
}

enum dip_status dip_diffusion_engine_new(const struct dip_model *model, struct dip_device *device,
                                         const struct dip_diffusion_engine_options *options,
                                         struct dip_why *why,
                                         struct dip_diffusion_engine **ret_engine)
{
    DIP_TRY(options_check(model, options, why));
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_diffusion_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        goto out;
    int64_t cells_max = (int64_t)options->latent_height_max * options->latent_width_max;
    int64_t factor = model->config.vae.factor;
    engine->model = model;
    engine->device = device;
    engine->options = *options;
    engine->batch_limit = options->batch_max;
    engine->latent_count_max = cells_max * model->config.dit.latent_channels;
    engine->pixels_max = cells_max * factor * factor;
    status = host_reserve(engine);
    if (!status)
        status = dip_stream_open(device, &engine->stream);
    if (!status)
        status = device_reserve(engine);
    if (!status)
        status = decoder_plan(engine);
    if (status)
        goto out;
    *ret_engine = engine;
    engine = NULL; /* ownership has moved to the caller */
out:
    dip_diffusion_engine_free(engine);
    if (status == DIP_NO_MEMORY)
        return dip_fail(why, status, "no memory for %d diffusion slots%s%s", options->slot_count,
                        dip__memory_note(device)[0] ? ": " : "", dip__memory_note(device));
    return status;
}

void dip_diffusion_engine_free(struct dip_diffusion_engine *engine)
{
    if (!engine)
        return;
    dip__diffusion_recordings_free(engine);
    dip_release(engine->device, &engine->mem);
    dip_stream_close(engine->stream);
    for (int i = 0; engine->slots && i < engine->options.slot_count; i++) {
        free(engine->slots[i].hidden);
        free(engine->slots[i].noise);
        free(engine->slots[i].history);
        free(engine->slots[i].rgb);
    }
    free(engine->slots);
    free(engine->batch);
    free(engine->plan_host.items);
    free(engine->is_bad);
    free(engine->staging);
    free(engine->cells);
    free(engine);
}

static struct dip__diffusion_slot *slot_find(const struct dip_diffusion_engine *engine, uint64_t id)
{
    for (int i = 0; i < engine->options.slot_count; i++)
        if (engine->slots[i].stage != DIP__DIFFUSION_FREE && engine->slots[i].id == id)
            return &engine->slots[i];
    return NULL;
}

static struct dip__diffusion_slot *slot_pick(const struct dip_diffusion_engine *engine)
{
    for (int i = 0; i < engine->options.slot_count; i++)
        if (engine->slots[i].stage == DIP__DIFFUSION_FREE)
            return &engine->slots[i];
    return NULL;
}

static enum dip_status job_check(const struct dip_diffusion_engine *engine,
                                 const struct dip_diffusion_job *job)
{
    const struct dip_image_params *p = &job->params;
    const struct dip_diffusion_engine_options *o = &engine->options;
    int patch = engine->model->config.dit.patch;
    if (!in_range(job->hidden_rows, 1, o->context_rows_max) ||
        !in_range(p->latent_height, 1, o->latent_height_max) ||
        !in_range(p->latent_width, 1, o->latent_width_max) || !in_range(p->steps, 1, DIP_STEPS_MAX))
        return DIP_LIMIT;
    if (p->latent_height % patch || p->latent_width % patch || !isfinite(p->guidance) ||
        job->preview_every < 0 || slot_find(engine, job->id))
        return DIP_INVALID;
    if (!in_range(job->resume_steps, 0, p->steps - 1) ||
        (job->resume_steps > 0 && (!job->resume_latent || !job->resume_history)))
        return DIP_INVALID;
    if (job->preview == DIP_PREVIEW_LINEAR && !engine->model->config.generation.has_preview)
        return DIP_UNSUPPORTED;
    return DIP_OK;
}

enum dip_status dip_diffusion_engine_admit(struct dip_diffusion_engine *engine,
                                           const struct dip_diffusion_job *job)
{
    DIP_TRY(job_check(engine, job));
    struct dip__diffusion_slot *slot = slot_pick(engine);
    if (!slot)
        return DIP_BUSY;
    const struct dip_config *config = &engine->model->config;
    const struct dip_image_params *p = &job->params;
    DIP_TRY(dip_schedule_init(&slot->schedule, p->sampler, p->steps, &config->scheduler, NULL));
    size_t hidden_count = (size_t)job->hidden_rows * (size_t)config->ar.hidden;
    size_t noise_count =
        (size_t)p->latent_height * (size_t)p->latent_width * (size_t)config->dit.latent_channels;
    memcpy(slot->hidden, job->hidden, hidden_count * sizeof(float));
    slot->hidden_rows = job->hidden_rows;
    const float *begin = job->resume_steps > 0 ? job->resume_latent : job->noise;
    slot->has_noise = begin != NULL;
    if (begin)
        memcpy(slot->noise, begin, noise_count * sizeof(float));
    if (job->resume_steps > 0)
        memcpy(slot->history, job->resume_history, noise_count * sizeof(float));

    slot->stage = DIP__DIFFUSION_ADMITTED;
    slot->id = job->id;
    slot->turn = engine->turn_next++;
    slot->params = *p;
    slot->step_index = job->resume_steps;
    slot->preview = job->preview_every > 0 ? job->preview : DIP_PREVIEW_NONE;
    slot->preview_every = job->preview_every;
    slot->trace = job->trace;
    slot->trace_context = job->trace_context;
    dip_assert(noise_count <= (size_t)engine->latent_count_max);
    return DIP_OK;
}

void dip_diffusion_engine_cancel(struct dip_diffusion_engine *engine, uint64_t id)
{
    struct dip__diffusion_slot *slot = slot_find(engine, id);
    if (slot)
        slot->stage = DIP__DIFFUSION_FREE;
}

int dip_diffusion_engine_live(const struct dip_diffusion_engine *engine)
{
    int count = 0;
    for (int i = 0; i < engine->options.slot_count; i++)
        count += engine->slots[i].stage != DIP__DIFFUSION_FREE;
    return count;
}

int dip_diffusion_engine_free_slots(const struct dip_diffusion_engine *engine)
{
    return engine->options.slot_count - dip_diffusion_engine_live(engine);
}
