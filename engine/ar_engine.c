/* engine/ar_engine.c - the autoregressive engine's life: reserve, admit, cancel, release.
 *
 * Everything a step needs is reserved here, from the options; ar_step.c only uses it. A free slot
 * keeps its prompt, its keys and values and its first hidden state until it is taken again, so the
 * same prompt may start from them. */
#include "engine/ar_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/assert.h"
#include "engine/place.h"

static bool in_range(int value, int min, int max)
{
    return value >= min && value <= max;
}

static enum dip_status options_check(const struct dip_model *model,
                                     const struct dip_ar_engine_options *o, struct dip_why *why)
{
    if (!model->ar)
        return dip_fail(why, DIP_INVALID, "the model has no autoregressive panel");
    int position_max = dip_ar_config(model->ar)->position_max;
    if (!in_range(o->slot_count, 1, DIP_SLOTS_MAX))
        return dip_fail(why, DIP_LIMIT, "%d slots, expected 1..%d", o->slot_count, DIP_SLOTS_MAX);
    if (!in_range(o->prompt_tokens_max, 1, DIP_PROMPT_TOKENS_MAX))
        return dip_fail(why, DIP_LIMIT, "prompts of up to %d tokens, expected 1..%d",
                        o->prompt_tokens_max, DIP_PROMPT_TOKENS_MAX);
    if (!in_range(o->image_tokens_max, 1, DIP_IMAGE_TOKENS_MAX))
        return dip_fail(why, DIP_LIMIT, "images of up to %d tokens, expected 1..%d",
                        o->image_tokens_max, DIP_IMAGE_TOKENS_MAX);
    if (o->prompt_tokens_max + o->image_tokens_max > position_max)
        return dip_fail(why, DIP_LIMIT, "%d prompt and %d image tokens, the model has %d positions",
                        o->prompt_tokens_max, o->image_tokens_max, position_max);
    if (o->prefill_rows_max < 1)
        return dip_fail(why, DIP_LIMIT, "%d prompt rows a step, expected 1 or more",
                        o->prefill_rows_max);
    return DIP_OK;
}

/* Of a forward pass or of a group's drawing, whose turns do not overlap. */
static size_t scratch_needed(const struct dip_ar_engine *engine)
{
    size_t forward = dip_ar_scratch_bytes(engine->ar, engine->rows_max);
    if (!engine->comm)
        return forward;
    size_t draw = dip_comm_sample_scratch_bytes(engine->comm, engine->options.slot_count,
                                                engine->config->vocab);
    return draw > forward ? draw : forward;
}

static enum dip_status device_reserve(struct dip_ar_engine *engine)
{
    const struct dip_ar_engine_options *o = &engine->options;
    int64_t slots = o->slot_count;
    int64_t H = engine->config->hidden;
    int64_t V = dip_ar_shard(engine->ar)->vocab.count;
    size_t ids_bytes = dip_arena_round((size_t)engine->rows_max * sizeof(int32_t));
    size_t scratch_bytes = dip_arena_round(scratch_needed(engine));
    size_t bytes = ids_bytes + dip__rows_bytes(engine->rows_max, H) +
                   2 * dip__rows_bytes(slots, H) + dip__rows_bytes(slots, V) + scratch_bytes;
    DIP_TRY(dip_ar_cache_init(engine->ar, engine->device, o->slot_count,
                              o->prompt_tokens_max + o->image_tokens_max, &engine->cache));
    DIP_TRY(dip_reserve(engine->device, bytes, &engine->mem));

    struct dip_arena arena;
    dip_arena_init(&arena, engine->mem.base, engine->mem.bytes);
    engine->ids = dip_tensor_1d(dip__place(&arena, ids_bytes), DIP_I32, engine->rows_max);
    engine->hidden = dip__place_rows(&arena, engine->rows_max, H);
    engine->last = dip__place_rows(&arena, slots, H);
    engine->drawing = dip__place_rows(&arena, slots, H);
    engine->drawing.dtype = dip_device_activation(engine->device);
    engine->logits = dip__place_rows(&arena, slots, V);
    dip_arena_init(&engine->scratch, dip__place(&arena, scratch_bytes), scratch_bytes);
    return DIP_OK;
}

static enum dip_status host_reserve(struct dip_ar_engine *engine)
{
    const struct dip_ar_engine_options *o = &engine->options;
    size_t ids_max = (size_t)o->prompt_tokens_max + (size_t)o->image_tokens_max;
    size_t hidden_count = (size_t)engine->hinge_rows * (size_t)engine->config->hidden;
    engine->slots = calloc((size_t)o->slot_count, sizeof *engine->slots);
    engine->rows = calloc((size_t)engine->rows_max, sizeof *engine->rows);
    engine->row_ids = calloc((size_t)engine->rows_max, sizeof *engine->row_ids);
    engine->draws = calloc((size_t)o->slot_count, sizeof *engine->draws);
    if (!engine->slots || !engine->rows || !engine->row_ids || !engine->draws)
        return DIP_NO_MEMORY;
    for (int i = 0; i < o->slot_count; i++) {
        engine->slots[i].ids = calloc(ids_max, sizeof(int32_t));
        engine->slots[i].hidden = calloc(hidden_count, sizeof(float));
        if (!engine->slots[i].ids || !engine->slots[i].hidden)
            return DIP_NO_MEMORY;
    }
    return DIP_OK;
}

/* The whole panel, or of a group's the rank's part. */
static enum dip_status panel_bind(struct dip_ar_engine *engine, const struct dip_model *model,
                                  struct dip_why *why)
{
    engine->ar = model->ar;
    if (!engine->comm || dip_comm_count(engine->comm) == 1)
        return dip_ar_place(model->ar, engine->stream, why);
    int degree = dip_comm_count(engine->comm);
    engine->ar = NULL;
    DIP_TRY(dip_shard_check(engine->config, degree, why));
    struct dip_shard shard = dip_shard_of(engine->config, dip_comm_rank(engine->comm), degree);
    DIP_TRY(dip_ar_shard_new(engine->config, &shard, model->weights, why, &engine->shard));
    engine->ar = engine->shard;
    return dip_ar_place(engine->shard, engine->stream, why);
}

enum dip_status dip_ar_engine_new(const struct dip_model *model, struct dip_device *device,
                                  const struct dip_ar_engine_options *options, struct dip_why *why,
                                  struct dip_ar_engine **ret_engine)
{
    DIP_TRY(options_check(model, options, why));
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_ar_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        goto out;
    engine->config = dip_ar_config(model->ar);
    engine->device = device;
    engine->options = *options;
    engine->comm = options->comm;
    bool is_rank_0 = !engine->comm || dip_comm_rank(engine->comm) == 0;
    engine->hinge_rows = is_rank_0 ? options->image_tokens_max + 1 : 1;
    int ids_max = options->prompt_tokens_max + options->image_tokens_max;
    if (engine->options.prefill_rows_max > ids_max)
        engine->options.prefill_rows_max = ids_max;
    engine->rows_max = engine->options.prefill_rows_max + options->slot_count;
    status = dip_stream_open(device, &engine->stream);
    if (!status && engine->comm) /* before the weights, which take ranks unequal times */
        status = dip_comm_attach(engine->comm, engine->stream,
                                 dip__rows_bytes(engine->rows_max, engine->config->hidden));
    if (!status)
        status = panel_bind(engine, model, why);
    if (status)
        goto out;
    status = host_reserve(engine);
    if (!status && engine->comm)
        status = dip__ar_group_reserve(engine);
    if (!status)
        status = device_reserve(engine);
    if (!status)
        status = dip__ar_decode_new(engine);
    if (status)
        goto out;
    *ret_engine = engine;
    engine = NULL; /* ownership has moved to the caller */
out:
    dip_ar_engine_free(engine);
    if (status == DIP_NO_MEMORY && why && !why->text[0])
        return dip_fail(why, status, "no memory for %d autoregressive slots%s%s",
                        options->slot_count, dip__memory_note(device)[0] ? ": " : "",
                        dip__memory_note(device));
    return status;
}

void dip_ar_engine_free(struct dip_ar_engine *engine)
{
    if (!engine)
        return;
    dip__ar_decode_free(engine);
    if (engine->comm)
        dip_comm_detach(engine->comm);
    if (engine->ar)
        dip_ar_cache_deinit(engine->ar, engine->device, &engine->cache);
    dip_release(engine->device, &engine->mem);
    dip_stream_close(engine->stream);
    for (int i = 0; engine->slots && i < engine->options.slot_count; i++) {
        free(engine->slots[i].ids);
        free(engine->slots[i].hidden);
    }
    free(engine->slots);
    free(engine->rows);
    free(engine->row_ids);
    free(engine->draws);
    free(engine->control.data);
    dip_ar_free(engine->shard);
    free(engine);
}

struct dip__ar_slot *dip__ar_slot_find(const struct dip_ar_engine *engine, uint64_t id)
{
    for (int i = 0; i < engine->options.slot_count; i++)
        if (engine->slots[i].is_live && engine->slots[i].id == id)
            return &engine->slots[i];
    return NULL;
}

static bool ids_are_known(const int32_t *ids, int count, int vocab)
{
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return false;
    return true;
}

enum dip_status dip__ar_job_check(const struct dip_ar_engine *engine, const struct dip_ar_job *job)
{
    const struct dip_image_params *p = &job->params;
    if (!in_range(job->prompt_count, 1, engine->options.prompt_tokens_max) ||
        !in_range(p->token_count, 1, engine->options.image_tokens_max) ||
        !in_range(job->forced_count, 0, p->token_count))
        return DIP_LIMIT;
    if (!isfinite(p->temperature) || p->temperature <= 0 || p->top_k < 0 || !(p->top_p > 0) ||
        p->top_p > 1)
        return DIP_INVALID;
    if (!ids_are_known(job->prompt_ids, job->prompt_count, engine->config->vocab) ||
        !ids_are_known(job->forced_ids, job->forced_count, engine->config->vocab))
        return DIP_INVALID;
    const struct dip__ar_slot *slot = dip__ar_slot_find(engine, job->id);
    return slot && !slot->is_muted ? DIP_INVALID : DIP_OK;
}

/* A free slot, by preference one that last held the same prompt. */
static struct dip__ar_slot *slot_pick(const struct dip_ar_engine *engine,
                                      const struct dip_ar_job *job)
{
    struct dip__ar_slot *pick = NULL;
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__ar_slot *slot = &engine->slots[i];
        if (slot->is_live)
            continue;
        if (dip__ar_slot_holds(slot, job->prompt_ids, job->prompt_count))
            return slot;
        if (!pick)
            pick = slot;
    }
    return pick;
}

enum dip_status dip_ar_engine_admit(struct dip_ar_engine *engine, const struct dip_ar_job *job)
{
    dip_assert(!engine->comm || dip_comm_rank(engine->comm) == 0);
    DIP_TRY(dip__ar_job_check(engine, job));
    if (engine->comm && dip__ar_group_holds(engine, job->id))
        return DIP_INVALID;
    if (dip_ar_engine_free_slots(engine) == 0)
        return DIP_BUSY;
    if (engine->comm)
        dip__ar_group_admit(engine, job);
    else
        dip__ar_slot_admit(engine, job);
    return DIP_OK;
}

void dip__ar_slot_admit(struct dip_ar_engine *engine, const struct dip_ar_job *job)
{
    struct dip__ar_slot *slot = slot_pick(engine, job);
    dip_assert(slot);
    bool is_cached = dip__ar_slot_holds(slot, job->prompt_ids, job->prompt_count);
    size_t prompt_count = (size_t)job->prompt_count;
    int eos_index = dip__ar_eos_index(engine->config, job->forced_ids, job->forced_count);
    int forced_count = eos_index < 0 ? job->forced_count : eos_index + 1;

    slot->is_live = true;
    slot->is_prefilled = false;
    slot->has_failed = false;
    slot->is_muted = false;
    slot->id = job->id;
    slot->turn = engine->turn_next++;
    slot->params = job->params;
    memcpy(slot->ids, job->prompt_ids, prompt_count * sizeof(int32_t));
    if (forced_count > 0)
        memcpy(slot->ids + prompt_count, job->forced_ids, (size_t)forced_count * sizeof(int32_t));
    slot->prompt_count = job->prompt_count;
    slot->known_count = job->prompt_count + forced_count;
    slot->fed_count = is_cached ? job->prompt_count : 0;
    slot->end_count =
        eos_index < 0 ? job->prompt_count + job->params.token_count : slot->known_count;
    slot->row_count = 0;
    dip_assert(slot->known_count <= slot->end_count);
}

void dip_ar_engine_cancel(struct dip_ar_engine *engine, uint64_t id)
{
    if (engine->comm)
        dip__ar_group_cancel(engine, id);
    else
        dip__ar_slot_cancel(engine, id);
}

void dip__ar_slot_cancel(struct dip_ar_engine *engine, uint64_t id)
{
    struct dip__ar_slot *slot = dip__ar_slot_find(engine, id);
    if (slot)
        slot->is_live = false;
}

/* A muted slot is live until all ranks have let go of it. */
int dip_ar_engine_live(const struct dip_ar_engine *engine)
{
    return dip__ar_slots_live(engine) + engine->control.admit_count;
}

int dip__ar_slots_live(const struct dip_ar_engine *engine)
{
    int count = 0;
    for (int i = 0; i < engine->options.slot_count; i++)
        count += engine->slots[i].is_live;
    return count;
}

int dip_ar_engine_free_slots(const struct dip_ar_engine *engine)
{
    int free_count = engine->options.slot_count - engine->control.admit_count;
    for (int i = 0; i < engine->options.slot_count; i++)
        free_count -= engine->slots[i].is_live && !engine->slots[i].is_muted;
    return free_count;
}
