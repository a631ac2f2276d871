/* engine/diffusion_step.c - one step of the diffusion engine: a decode, a conditioning or a batched
 * sampler step, whichever is due first.
 *
 * Finished pictures leave first (their clients wait and their slots are wanted), then new jobs are
 * made ready, then everything else advances. A batch is the job longest unserved and the next
 * longest of the same size, whatever their step, step count, guidance or sampler: those enter per
 * job, before and after the shared forward pass (only who asks for no guidance keeps to its like).
 * A job's velocity does not depend on its neighbours (model/dit.h), so batching changes nothing but
 * the speed. */
#include "engine/diffusion_engine.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "engine/place.h"

/* The slot in `stage` that has waited longest, or NULL. */
static struct dip__diffusion_slot *slot_oldest(const struct dip_diffusion_engine *engine,
                                               enum dip__diffusion_stage stage)
{
    struct dip__diffusion_slot *oldest = NULL;
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__diffusion_slot *slot = &engine->slots[i];
        if (slot->stage == stage && (!oldest || slot->turn < oldest->turn))
            oldest = slot;
    }
    return oldest;
}

/* Ends a job whose numbers ran away: it alone fails. */
static void slot_fail(struct dip__diffusion_slot *slot, struct dip_diffusion_event *event)
{
    *event = (struct dip_diffusion_event){.kind = DIP_DIFFUSION_FAILED,
                                          .id = slot->id,
                                          .status = DIP_CORRUPT,
                                          .steps_done = slot->step_index};
    slot->stage = DIP__DIFFUSION_FREE;
}

/* ---- conditioning ---- */

/* [c, h, w] in host memory to latent-shaped device memory, channels last. */
static enum dip_status planes_place(struct dip_diffusion_engine *engine,
                                    const struct dip__diffusion_slot *slot, float *planes,
                                    float *ret_data)
{
    struct dip_stream *s = engine->stream;
    int64_t h = slot->params.latent_height;
    int64_t w = slot->params.latent_width;
    int64_t c = engine->model->config.dit.latent_channels;
    dip_arena_reset(&engine->work, 0);
    struct dip_tensor in =
        dip_image(dip__place(&engine->work, dip__rows_bytes(c, h * w)), DIP_F32, 1, c, h, w);
    DIP_TRY(dip_copy(s, in, dip_image(planes, DIP_F32, 1, c, h, w)));
    return dip_layout(
        s, &(struct dip_layout_args){.out = dip_image(ret_data, DIP_F32, 1, h, w, c), .in = in});
}

/* What the sampler begins with: noise, given or drawn, or what a checkpoint remembers of a step. */
static enum dip_status latent_place(struct dip_diffusion_engine *engine,
                                    struct dip__diffusion_slot *slot)
{
    const int64_t dims[] = {engine->model->config.dit.latent_channels, slot->params.latent_height,
                            slot->params.latent_width};
    int k = slot->step_index;
    if (!slot->has_noise) {
        struct dip_rng_key key = {slot->params.seed, slot->params.image_index, DIP_RNG_NOISE};
        dip_rng_normals(&key, slot->noise, (size_t)(dims[0] * dims[1] * dims[2]));
    }
    DIP_TRY(planes_place(engine, slot, slot->noise, slot->latent));
    if (k > 0) {
        DIP_TRY(dip_wait(engine->stream)); /* the scratch memory is used again */
        return planes_place(engine, slot, slot->history, slot->clean[(k + 1) % 2]);
    }
    if (slot->trace)
        slot->trace(slot->trace_context, slot->id, "noise", slot->noise, dims, 3);
    return DIP_OK;
}

/* The connector's output and from it the context's keys and values, once per picture. */
static enum dip_status context_place(struct dip_diffusion_engine *engine,
                                     struct dip__diffusion_slot *slot)
{
    const struct dip_model *m = engine->model;
    struct dip_stream *s = engine->stream;
    int64_t M = slot->hidden_rows;
    int64_t H = m->config.ar.hidden;
    int64_t C = m->config.dit.caption_channels;
    dip_arena_reset(&engine->work, 0);
    struct dip_tensor hidden = dip__place_rows(&engine->work, M, H);
    struct dip_tensor condition = dip__place_rows(&engine->work, M, C);
    DIP_TRY(dip_copy(s, hidden, dip_rows(slot->hidden, DIP_F32, M, H)));
    DIP_TRY(dip_connector_forward(m->connector, s, condition, hidden, &engine->work));
    DIP_TRY(dip_check_finite(s, condition, &slot->is_finite));
    DIP_TRY(dip_dit_context_init(m->dit, s, slot->context_memory, condition, &engine->work,
                                 &slot->context));
    if (slot->trace)
        DIP_TRY(dip_copy(s, dip_rows(engine->staging, DIP_F32, M, C), condition));
    DIP_TRY(dip_wait(s));
    if (slot->trace)
        slot->trace(slot->trace_context, slot->id, "condition", engine->staging, (int64_t[]){M, C},
                    2);
    return DIP_OK;
}

static enum dip_status slot_condition(struct dip_diffusion_engine *engine,
                                      struct dip__diffusion_slot *slot,
                                      struct dip_diffusion_event *event)
{
    DIP_TRY(latent_place(engine, slot));
    DIP_TRY(context_place(engine, slot));
    if (!slot->is_finite) {
        slot_fail(slot, event);
        return DIP_OK;
    }
    slot->stage = DIP__DIFFUSION_STEPPING;
    *event = (struct dip_diffusion_event){.kind = DIP_DIFFUSION_CONDITIONED, .id = slot->id};
    return DIP_OK;
}

/* ---- sampler steps ---- */

bool dip__diffusion_is_guided(const struct dip__diffusion_slot *slot)
{
    return slot->params.guidance != 1.0f;
}

/* Whether one forward pass can serve both. */
static bool kinds_equal(const struct dip__diffusion_slot *a, const struct dip__diffusion_slot *b)
{
    return a->params.latent_height == b->params.latent_height &&
           a->params.latent_width == b->params.latent_width &&
           dip__diffusion_is_guided(a) == dip__diffusion_is_guided(b);
}

int dip_diffusion_engine_due(const struct dip_diffusion_engine *engine, int64_t *ret_kind)
{
    const struct dip__diffusion_slot *next = slot_oldest(engine, DIP__DIFFUSION_STEPPING);
    int count = 0;
    if (!next || slot_oldest(engine, DIP__DIFFUSION_STEPPED) ||
        slot_oldest(engine, DIP__DIFFUSION_ADMITTED))
        return 0;
    for (int i = 0; i < engine->options.slot_count; i++)
        count += engine->slots[i].stage == DIP__DIFFUSION_STEPPING &&
                 kinds_equal(&engine->slots[i], next);
    *ret_kind = 2 * (int64_t)next->params.latent_height * next->params.latent_width +
                dip__diffusion_is_guided(next);
    return count < engine->options.batch_max ? count : engine->options.batch_max;
}

void dip_diffusion_engine_set_batch(struct dip_diffusion_engine *engine, int count)
{
    dip_assert(count >= 1 && count <= engine->options.batch_max);
    engine->batch_limit = count;
}

/* Fills engine->batch; the turns it hands out put the chosen behind everyone else. */
static void batch_gather(struct dip_diffusion_engine *engine)
{
    uint64_t turn_first = engine->turn_next;
    struct dip__diffusion_slot *next = slot_oldest(engine, DIP__DIFFUSION_STEPPING);
    engine->batch_count = 0;
    while (next && engine->batch_count < engine->batch_limit) {
        engine->batch[engine->batch_count++] = next;
        next->turn = engine->turn_next++;
        next = NULL;
        for (int i = 0; i < engine->options.slot_count; i++) {
            struct dip__diffusion_slot *slot = &engine->slots[i];
            if (slot->stage == DIP__DIFFUSION_STEPPING && slot->turn < turn_first &&
                kinds_equal(slot, engine->batch[0]) && (!next || slot->turn < next->turn))
                next = slot;
        }
    }
}

/* What the device must know of the batch's pictures, in one copy. */
static enum dip_status batch_plan(struct dip_diffusion_engine *engine)
{
    for (int b = 0; b < engine->batch_count; b++) {
        const struct dip__diffusion_slot *slot = engine->batch[b];
        int k = slot->step_index;
        struct dip_sampler_item item = {.latent = slot->latent,
                                        .clean = slot->clean[k % 2],
                                        .clean_previous = slot->clean[(k + 1) % 2],
                                        .guidance = slot->params.guidance};
        dip_schedule_item(&slot->schedule, k, &item);
        engine->plan_host.items[b] = item;
        engine->plan_host.contexts[b] = slot->context;
    }
    int64_t count = (int64_t)dip__diffusion_plan_bytes(engine->options.batch_max);
    return dip_copy(engine->stream, dip_tensor_1d(engine->plan.items, DIP_U8, count),
                    dip_tensor_1d(engine->plan_host.items, DIP_U8, count));
}

/* The host learns in one wait whose numbers ran away. */
static enum dip_status batch_advance(struct dip_diffusion_engine *engine)
{
    int count = engine->batch_count;
    DIP_TRY(batch_plan(engine));
    DIP_TRY(dip__diffusion_run(engine));
    DIP_TRY(dip_copy(engine->stream, dip_tensor_1d(engine->is_bad, DIP_I32, count),
                     dip_tensor_1d(engine->batch_is_bad, DIP_I32, count)));
    DIP_TRY(dip_wait(engine->stream));
    for (int b = 0; b < count; b++) {
        engine->batch[b]->is_finite = !engine->is_bad[b];
        engine->batch[b]->step_index++;
    }
    return DIP_OK;
}

static enum dip_status slot_trace_step(struct dip_diffusion_engine *engine,
                                       struct dip__diffusion_slot *slot, int64_t batch_index)
{
    char name[32];
    int k = slot->step_index - 1;
    int64_t count = dip_tensor_count(dip__diffusion_rows(engine, slot, slot->latent));
    snprintf(name, sizeof name, "velocity.%d", k);
    DIP_TRY(dip__diffusion_trace(engine, slot, name, engine->batch_velocity + batch_index * count));
    snprintf(name, sizeof name, "latent.%d", k);
    DIP_TRY(dip__diffusion_trace(engine, slot, name, slot->latent));
    if (slot->step_index < slot->params.steps)
        return DIP_OK;
    return dip__diffusion_trace(engine, slot, "latent", slot->latent);
}

/* The picture of the clean estimate, when one is due. The last step owes none: the decode follows.
 */
static enum dip_status slot_preview(struct dip_diffusion_engine *engine,
                                    struct dip__diffusion_slot *slot,
                                    struct dip_diffusion_event *event)
{
    int done = slot->step_index;
    if (slot->preview == DIP_PREVIEW_NONE || done % slot->preview_every != 0 ||
        done == slot->params.steps)
        return DIP_OK;
    float *clean = slot->clean[(done - 1) % 2];
    if (slot->preview == DIP_PREVIEW_LINEAR)
        DIP_TRY(dip__diffusion_sketch(engine, slot, clean, &event->width, &event->height));
    else
        DIP_TRY(dip__diffusion_decode(engine, slot, clean, &event->width, &event->height));
    event->rgb = slot->rgb;
    return DIP_OK;
}

static enum dip_status slot_report(struct dip_diffusion_engine *engine,
                                   struct dip__diffusion_slot *slot, int64_t batch_index,
                                   struct dip_diffusion_event *event)
{
    if (!slot->is_finite) {
        slot_fail(slot, event);
        return DIP_OK;
    }
    *event = (struct dip_diffusion_event){
        .kind = DIP_DIFFUSION_STEP, .id = slot->id, .steps_done = slot->step_index};
    if (slot->trace)
        DIP_TRY(slot_trace_step(engine, slot, batch_index));
    DIP_TRY(slot_preview(engine, slot, event));
    if (slot->step_index == slot->params.steps)
        slot->stage = DIP__DIFFUSION_STEPPED;
    return DIP_OK;
}

static enum dip_status batch_step(struct dip_diffusion_engine *engine,
                                  struct dip_diffusion_event *events, int *ret_event_count)
{
    batch_gather(engine);
    if (engine->batch_count > 0)
        DIP_TRY(batch_advance(engine));
    for (int b = 0; b < engine->batch_count; b++)
        DIP_TRY(slot_report(engine, engine->batch[b], b, &events[b]));
    *ret_event_count = engine->batch_count;
    return DIP_OK;
}

/* After step k the estimate of step k is at k % 2: what the next step looks back at. */
enum dip_status dip_diffusion_engine_checkpoint(struct dip_diffusion_engine *engine, uint64_t id,
                                                float *ret_latent, float *ret_history)
{
    for (int i = 0; i < engine->options.slot_count; i++) {
        struct dip__diffusion_slot *slot = &engine->slots[i];
        if (slot->id != id || slot->stage != DIP__DIFFUSION_STEPPING || slot->step_index == 0)
            continue;
        DIP_TRY(dip__diffusion_planes(engine, slot, slot->latent, ret_latent));
        return dip__diffusion_planes(engine, slot, slot->clean[(slot->step_index - 1) % 2],
                                     ret_history);
    }
    return DIP_INVALID;
}

/* ---- decoding ---- */

static enum dip_status slot_decode(struct dip_diffusion_engine *engine,
                                   struct dip__diffusion_slot *slot,
                                   struct dip_diffusion_event *event)
{
    struct dip_diffusion_event done = {.kind = DIP_DIFFUSION_DECODED,
                                       .id = slot->id,
                                       .steps_done = slot->step_index,
                                       .rgb = slot->rgb};
    DIP_TRY(dip__diffusion_decode(engine, slot, slot->latent, &done.width, &done.height));
    if (!slot->is_finite) {
        slot_fail(slot, event);
        return DIP_OK;
    }
    slot->stage = DIP__DIFFUSION_FREE;
    *event = done;
    return DIP_OK;
}

enum dip_status dip_diffusion_engine_step(struct dip_diffusion_engine *engine,
                                          struct dip_diffusion_event *events, int event_count_max,
                                          int *ret_event_count)
{
    dip_assert(event_count_max >= dip_diffusion_engine_live(engine));
    struct dip__diffusion_slot *stepped = slot_oldest(engine, DIP__DIFFUSION_STEPPED);
    struct dip__diffusion_slot *admitted = slot_oldest(engine, DIP__DIFFUSION_ADMITTED);
    if (!stepped && !admitted)
        return batch_step(engine, events, ret_event_count);
    if (stepped)
        DIP_TRY(slot_decode(engine, stepped, &events[0]));
    else
        DIP_TRY(slot_condition(engine, admitted, &events[0]));
    *ret_event_count = 1;
    return DIP_OK;
}
