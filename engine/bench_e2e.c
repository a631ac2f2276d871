/* engine/bench_e2e.c - one picture from prompt ids to PNG bytes, through both engines.
 *
 * Opening the model and reserving the engines is not timed: a server does that once. Captions
 * alternate, so that no repeat finds its prompt in the cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/bench_private.h"

enum { PROMPT_MAX = 128, RANDOM_PROMPT = 40 };

static const char *const captions[] = {"a small red circle on a white background",
                                       "a large blue square on a black background"};

/* The picture's stages, timed in every repeat, and the size of what it made. */
enum stage { AR, DIFFUSION, DECODE, PNG, STAGES };
struct stages {
    struct dip__bench_times times[STAGES];
    int prompt, tokens;
};

struct e2e {
    struct dip__bench *bench;
    struct dip_ar_engine *ar;
    struct dip_diffusion_engine *diffusion;
    struct dip_image_params params;
    struct stages stages;
};

static void stage_start(struct e2e *e, enum stage stage)
{
    dip__bench_start(&e->stages.times[stage]);
}

static void stage_stop(struct e2e *e, enum stage stage)
{
    dip__bench_stop(&e->stages.times[stage]);
}

static double stage_ms(const struct e2e *e, enum stage stage)
{
    return dip__bench_best_s(&e->stages.times[stage]) * 1e3;
}

/* Ids of a caption, or as many random ones for a model without a tokenizer. */
static enum dip_status prompt_make(const struct e2e *e, int repeat, int32_t *ids, int *ret_count)
{
    const struct dip_model *m = e->bench->model;
    const char *caption = captions[repeat % 2];
    if (m->tokenizer)
        return dip_prompt_build(m->tokenizer, m->config.ar.vocab, caption, strlen(caption), ids,
                                PROMPT_MAX, e->bench->why, ret_count);
    struct dip_rng_key key = {.seed = (uint64_t)repeat, .purpose = DIP_RNG_TEST};
    for (int i = 0; i < RANDOM_PROMPT; i++)
        ids[i] = (int32_t)(dip_rng_uniform(&key, (uint64_t)i) * 0.999f * (float)m->config.ar.vocab);
    *ret_count = RANDOM_PROMPT;
    return DIP_OK;
}

/* event is DONE or FAILED on return. */
static enum dip_status ar_run(struct e2e *e, int repeat, struct dip_ar_event *event)
{
    int32_t ids[PROMPT_MAX];
    struct dip_ar_job job = {.id = 1, .params = e->params, .prompt_ids = ids};
    DIP_TRY(prompt_make(e, repeat, ids, &job.prompt_count));
    DIP_TRY(dip_ar_engine_admit(e->ar, &job));
    e->stages.prompt = job.prompt_count;
    do {
        int count = 0;
        DIP_TRY(dip_ar_engine_step(e->ar, event, 1, &count));
    } while (dip_ar_engine_live(e->ar) > 0);
    return event->kind == DIP_AR_DONE ? DIP_OK : event->status;
}

static enum dip_status diffusion_run(struct e2e *e, const struct dip_ar_event *hinge,
                                     struct dip_diffusion_event *event)
{
    struct dip_diffusion_job job = {.id = 1,
                                    .params = e->params,
                                    .hidden = hinge->hidden,
                                    .hidden_rows = hinge->tokens_done + 1};
    DIP_TRY(dip_diffusion_engine_admit(e->diffusion, &job));
    stage_start(e, DIFFUSION);
    do {
        int count = 0;
        if (event->steps_done == e->params.steps) {
            stage_stop(e, DIFFUSION);
            stage_start(e, DECODE);
        }
        DIP_TRY(dip_diffusion_engine_step(e->diffusion, event, 1, &count));
    } while (dip_diffusion_engine_live(e->diffusion) > 0);
    stage_stop(e, DECODE);
    return event->kind == DIP_DIFFUSION_DECODED ? DIP_OK : event->status;
}

static enum dip_status picture_make(struct e2e *e, int repeat)
{
    struct dip_ar_event hinge = {0};
    struct dip_diffusion_event picture = {0};
    unsigned char *png = NULL;
    size_t png_bytes = 0;
    stage_start(e, AR);
    DIP_TRY(ar_run(e, repeat, &hinge));
    stage_stop(e, AR);
    e->stages.tokens = hinge.tokens_done;
    DIP_TRY(diffusion_run(e, &hinge, &picture));
    stage_start(e, PNG);
    DIP_TRY(dip_png_encode(picture.rgb, picture.width, picture.height, NULL, 0, &png, &png_bytes));
    stage_stop(e, PNG);
    free(png);
    return DIP_OK;
}

/* Of a stage on the device. */
static double bound_s(const struct e2e *e, enum stage stage)
{
    const struct dip__bench *bench = e->bench;
    const struct dip_model *m = bench->model;
    const struct dip_image_params *p = &e->params;
    int tokens = e->stages.tokens;
    int prompt = e->stages.prompt;
    int keys = prompt + tokens / 2;
    double kv = dip__cost_kv_bytes(bench);
    if (stage == AR)
        return dip__cost_s(bench, dip__cost_ar(m, prompt, 0, prompt / 2, kv)) +
               tokens * dip__cost_s(bench, dip__cost_ar(m, 1, 1, keys, kv));
    if (stage == DECODE)
        return dip__cost_s(bench, dip__cost_vae(m, p->latent_height, p->latent_width));
    double step_s =
        dip__cost_s(bench, dip__cost_dit_step(m, 1, p->latent_height, p->latent_width, tokens + 1));
    return dip__cost_s(bench, dip__cost_context(m, tokens + 1)) + p->steps * step_s;
}

static void report_stages(const struct e2e *e)
{
    static const struct {
        enum stage stage;
        const char *name, *note;
    } rows[] = {{AR, "e2e.ar", "prompt and tokens of one picture"},
                {DIFFUSION, "e2e.diffusion", "condition and all guided steps of one picture"},
                {DECODE, "e2e.decode", "latent to 8-bit RGB on the host"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        dip__bench_report_time(e->bench, rows[i].name, &e->stages.times[rows[i].stage],
                               bound_s(e, rows[i].stage), "%s", rows[i].note);
}

static enum dip_status time_pictures(struct e2e *e)
{
    struct dip__bench *bench = e->bench;
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        dip__bench_start(&times);
        DIP_TRY(picture_make(e, times.count));
        dip__bench_stop(&times);
    }
    char name[80];
    int factor = bench->model->config.vae.factor;
    snprintf(name, sizeof name, "e2e.%s", bench->model_name);
    double all_s = bound_s(e, AR) + bound_s(e, DIFFUSION) + bound_s(e, DECODE);
    dip__bench_report_time(bench, name, &times, all_s,
                           "%d tokens, %d steps, %d x %d; best: ar %.1f, diffusion %.1f, vae %.1f, "
                           "png %.1f ms",
                           e->stages.tokens, e->params.steps, e->params.latent_width * factor,
                           e->params.latent_height * factor, stage_ms(e, AR),
                           stage_ms(e, DIFFUSION), stage_ms(e, DECODE), stage_ms(e, PNG));
    report_stages(e);
    return DIP_OK;
}

enum dip_status dip__bench_e2e(struct dip__bench *bench)
{
    const struct dip_model *m = bench->model;
    const struct dip_generation_config *g = &m->config.generation;
    if (!m->ar || !m->connector || !m->dit || !m->vae)
        return dip_fail(bench->why, DIP_INVALID, "%s is not a complete model", bench->model_name);
    struct e2e e = {.bench = bench,
                    .params = {.seed = 1,
                               .temperature = (float)g->temperature,
                               .top_k = g->top_k,
                               .top_p = (float)g->top_p,
                               .steps = g->steps,
                               .guidance = (float)g->guidance,
                               .sampler = g->sampler,
                               .latent_height = g->latent_height,
                               .latent_width = g->latent_width,
                               .token_count = g->grid_height * g->grid_width}};
    struct dip_ar_engine_options ar = {.slot_count = 1,
                                       .prompt_tokens_max = PROMPT_MAX,
                                       .image_tokens_max = e.params.token_count,
                                       .prefill_rows_max = PROMPT_MAX};
    struct dip_diffusion_engine_options diffusion = {.slot_count = 1,
                                                     .batch_max = 1,
                                                     .context_rows_max = e.params.token_count + 1,
                                                     .latent_height_max = g->latent_height,
                                                     .latent_width_max = g->latent_width};
    enum dip_status status = dip_ar_engine_new(m, bench->device, &ar, bench->why, &e.ar);
    if (!status)
        status = dip_diffusion_engine_new(m, bench->device, &diffusion, bench->why, &e.diffusion);
    if (!status)
        status = time_pictures(&e);
    dip_ar_engine_free(e.ar);
    dip_diffusion_engine_free(e.diffusion);
    return status;
}
