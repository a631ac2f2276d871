/* engine/diffusion_record.c - a sampler step of a batch, and steps that a device repeats by itself.
 *
 * A step is the same operations on the same addresses for every batch of so many pictures of one
 * size: their latents side by side, both branches of the network, guidance, each picture's update.
 * Which pictures, and at which of their steps, is in the plan, which the device reads:
 *
 *     host     plan | copy, launch, copy back, wait | plan | ...
 *     device        | begin - network - end         |      | the same with other pictures
 *
 * The first step of a kind runs from the host, as everywhere where nothing can be recorded:
 * whatever libraries make at first sight is made there. The second is recorded, from then on one
 * launch does it. Kinds in use are few; beyond DIP__DIFFUSION_RECORDINGS the one that was idle
 * longest goes. */
#include "engine/diffusion_engine.h"

#include <stdlib.h>

#include "base/assert.h"

static struct dip_tensor batch_rows(const struct dip_diffusion_engine *engine, float *data)
{
    const struct dip_image_params *p = &engine->batch[0]->params;
    int64_t c = engine->model->config.dit.latent_channels;
    return dip_rows(data, DIP_F32, engine->batch_count,
                    (int64_t)p->latent_height * p->latent_width * c);
}

static struct dip_tensor batch_image(const struct dip_diffusion_engine *engine, float *data)
{
    const struct dip_image_params *p = &engine->batch[0]->params;
    return dip_image(data, DIP_F32, engine->batch_count, p->latent_height, p->latent_width,
                     engine->model->config.dit.latent_channels);
}

static enum dip_status enqueue(struct dip_diffusion_engine *engine)
{
    struct dip_stream *s = engine->stream;
    struct dip_tensor none = {0};
    bool is_guided = dip__diffusion_is_guided(engine->batch[0]);
    DIP_TRY(dip_sampler_begin(
        s, &(struct dip_sampler_begin_args){.latent = batch_rows(engine, engine->batch_latent),
                                            .items = engine->plan.items,
                                            .t = engine->batch_t,
                                            .is_bad = engine->batch_is_bad}));
    struct dip_dit_args args = {
        .velocity_uncond = is_guided ? batch_image(engine, engine->batch_uncond) : none,
        .velocity_cond = batch_image(engine, engine->batch_cond),
        .latent = batch_image(engine, engine->batch_latent),
        .t = engine->batch_t,
        .contexts = engine->plan.contexts,
    };
    dip_arena_reset(&engine->work, 0);
    DIP_TRY(dip_dit_forward(engine->model->dit, s, &args, &engine->work));
    return dip_sampler_end(
        s, &(struct dip_sampler_end_args){
               .velocity = batch_rows(engine, engine->batch_velocity),
               .uncond = is_guided ? batch_rows(engine, engine->batch_uncond) : none,
               .cond = batch_rows(engine, engine->batch_cond),
               .items = engine->plan.items,
               .is_bad = engine->batch_is_bad});
}

/* ---- recordings ---- */

static bool is_of_batch(const struct dip__diffusion_recording *r,
                        const struct dip_diffusion_engine *engine)
{
    const struct dip__diffusion_slot *first = engine->batch[0];
    return r->turn > 0 && r->batch_count == engine->batch_count &&
           r->latent_height == first->params.latent_height &&
           r->latent_width == first->params.latent_width &&
           r->is_guided == dip__diffusion_is_guided(first);
}

/* That of the batch's kind, or a new one in the place of the one idle longest. */
static struct dip__diffusion_recording *recording_pick(struct dip_diffusion_engine *engine)
{
    struct dip__diffusion_recording *oldest = &engine->recordings[0];
    for (int i = 0; i < DIP__DIFFUSION_RECORDINGS; i++) {
        struct dip__diffusion_recording *r = &engine->recordings[i];
        if (is_of_batch(r, engine))
            return r;
        if (r->turn < oldest->turn)
            oldest = r;
    }
    const struct dip__diffusion_slot *first = engine->batch[0];
    dip_graph_free(engine->stream, oldest->graph);
    *oldest = (struct dip__diffusion_recording){
        .batch_count = engine->batch_count,
        .latent_height = first->params.latent_height,
        .latent_width = first->params.latent_width,
        .is_guided = dip__diffusion_is_guided(first),
    };
    return oldest;
}

static enum dip_status record(struct dip_diffusion_engine *engine, struct dip_graph **ret_graph)
{
    struct dip_graph *graph = NULL;
    DIP_TRY(dip_graph_begin(engine->stream));
    enum dip_status status = enqueue(engine);
    enum dip_status ended = dip_graph_end(engine->stream, &graph);
    if (!status)
        status = ended;
    if (status)
        dip_graph_free(engine->stream, graph);
    else
        *ret_graph = graph;
    return status;
}

enum dip_status dip__diffusion_run(struct dip_diffusion_engine *engine)
{
    dip_assert(engine->batch_count > 0);
    if (!dip_can_capture(engine->stream) || engine->options.is_stepwise)
        return enqueue(engine);
    struct dip__diffusion_recording *r = recording_pick(engine);
    bool is_first = r->turn == 0;
    r->turn = ++engine->recording_turn;
    if (is_first)
        return enqueue(engine);
    if (!r->graph)
        DIP_TRY(record(engine, &r->graph));
    return dip_graph_launch(engine->stream, r->graph);
}

void dip__diffusion_recordings_free(struct dip_diffusion_engine *engine)
{
    for (int i = 0; engine->recordings && i < DIP__DIFFUSION_RECORDINGS; i++)
        dip_graph_free(engine->stream, engine->recordings[i].graph);
    free(engine->recordings);
    engine->recordings = NULL;
}
