/* tests/golden/pipeline.c - from given ids and noise to a picture, nothing of the reference in
 * between: what the stages' errors add up to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"
#include "tests/sampler.h"

static const double LIMIT = 1e-5; /* derivation: tests/golden/tiny-a/golden.md */

/* Hidden states [N + 1, H] of the forced scenario in one teacher-forced call. */
static struct dip_tensor hidden_states(struct golden *g)
{
    const struct dip_ar *ar = g->model->ar;
    int prompt = golden_dim(g, "forced/prompt_ids", 0),
        image = golden_dim(g, "forced/image_ids", 0);
    int count = prompt + image;
    struct dip_tensor ids = golden_rows(g, 1, count);
    ids = dip_tensor_1d(ids.data, DIP_I32, count);
    int32_t *host = calloc((size_t)count, sizeof *host);
    struct dip_row *rows = calloc((size_t)count, sizeof *rows);
    assert_non_null(host);
    assert_non_null(rows);
    memcpy(host, golden_i32(g, "forced/prompt_ids"), (size_t)prompt * sizeof *host);
    memcpy(host + prompt, golden_i32(g, "forced/image_ids"), (size_t)image * sizeof *host);
    for (int i = 0; i < count; i++)
        rows[i].position = i;
    golden_ok(dip_copy(g->s, ids, dip_tensor_1d(host, DIP_I32, count)), "ids");

    struct dip_ar_cache cache;
    golden_ok(dip_ar_cache_init(ar, g->device, 1, count, &cache), "cache");
    struct dip_tensor hidden = golden_rows(g, count, dip_ar_config(ar)->hidden);
    struct dip_arena scratch = golden_scratch(g, dip_ar_scratch_bytes(ar, count));
    struct dip_ar_args args = {.hidden = hidden, .ids = ids, .rows = rows, .cache = &cache};
    golden_ok(dip_ar_forward(ar, g->s, &args, &scratch), "forward");
    golden_ok(dip_wait(g->s), "wait");
    dip_ar_cache_deinit(ar, g->device, &cache);
    free(host);
    free(rows);
    return dip_rows_slice(hidden, prompt - 1, image + 1);
}

static struct dip_cross_context make_context(struct golden *g)
{
    const struct dip_dit *dit = g->model->dit;
    const struct dip_connector *connector = g->model->connector;
    struct dip_tensor hidden = hidden_states(g);
    int64_t rows = dip_tensor_rows(hidden);
    struct dip_tensor condition = golden_rows(g, rows, g->model->config.dit.caption_channels);
    struct dip_arena scratch = golden_scratch(g, dip_connector_scratch_bytes(connector, rows));
    golden_ok(dip_connector_forward(connector, g->s, condition, hidden, &scratch), "connector");

    struct dip_cross_context context;
    scratch = golden_scratch(g, dip_dit_context_scratch_bytes(dit, rows));
    void *memory = dip_arena_push(&g->memory, dip_dit_context_bytes(dit, rows));
    assert_non_null(memory);
    golden_ok(dip_dit_context_init(dit, g->s, memory, condition, &scratch, &context), "context");
    return context;
}

static struct dip_tensor image_like(struct golden *g, struct dip_tensor like)
{
    const int64_t *d = like.dims;
    like.data = golden_rows(g, d[0] * d[1] * d[2], d[3]).data;
    return like;
}

/* The final latent of one guided run. */
static struct dip_tensor denoise(struct golden *g, const char *scenario, enum dip_sampler sampler,
                                 int steps, const struct dip_cross_context *context)
{
    static struct dip_schedule schedule;
    char key[64];
    (void)snprintf(key, sizeof key, "%s/noise", scenario);
    struct dip_tensor latent = golden_load_image(g, key);
    (void)snprintf(key, sizeof key, "%s/guidance", scenario);
    float guidance = golden_f32(g, key)[0];
    struct dip_tensor uncond = image_like(g, latent), cond = image_like(g, latent);
    struct dip_tensor clean[2] = {image_like(g, latent), image_like(g, latent)};
    uint32_t *is_bad = golden_rows(g, 1, 1).data;
    struct dip_arena scratch =
        golden_scratch(g, dip_dit_scratch_bytes(g->model->dit, 1, latent.dims[1], latent.dims[2],
                                                context->row_count));
    golden_ok(dip_schedule_init(&schedule, sampler, steps, &g->model->config.scheduler, NULL),
              "schedule");
    for (int k = 0; k < steps; k++) {
        struct dip_dit_args args = {.velocity_uncond = uncond,
                                    .velocity_cond = cond,
                                    .latent = latent,
                                    .t = &schedule.timesteps[k],
                                    .contexts = context};
        golden_ok(dip_dit_forward(g->model->dit, g->s, &args, &scratch), "forward");
        golden_ok(dip_guide(g->s,
                            &(struct dip_guide_args){
                                .out = uncond, .uncond = uncond, .cond = cond, .scale = guidance}),
                  "guide");
        golden_ok(sampler_step(&schedule, k, g->s, latent, uncond, clean[k % 2], clean[(k + 1) % 2],
                               is_bad),
                  "step");
    }
    (void)snprintf(key, sizeof key, "%s/latent", scenario);
    golden_close_image(g, key, latent, LIMIT);
    return latent;
}

static void check_picture(struct golden *g, const char *key, struct dip_tensor latent)
{
    const struct dip_vae *vae = g->model->vae;
    int64_t h = latent.dims[1], w = latent.dims[2], f = g->model->config.vae.factor;
    int64_t rows = h * f * w * f;
    struct dip_tensor image = golden_rows(g, rows, 3), rgb = golden_rows(g, rows, 1);
    struct dip_arena scratch = golden_scratch(g, dip_vae_scratch_bytes(vae, h, w));
    rgb = dip_rows(rgb.data, DIP_U8, rows, 3);
    golden_ok(dip_vae_decode(vae, g->s, dip_image(image.data, DIP_F32, 1, h * f, w * f, 3), latent,
                             &scratch),
              "decode");
    golden_ok(dip_rgb8(g->s, &(struct dip_rgb8_args){.out = rgb, .in = image}), "rgb8");
    unsigned char *got = calloc((size_t)rows, 3);
    assert_non_null(got);
    golden_ok(dip_copy(g->s, dip_rows(got, DIP_U8, rows, 3), rgb), "copy");
    golden_ok(dip_wait(g->s), "wait");
    const unsigned char *want = golden_find(g->file, key, "U8")->data;
    int worst = 0;
    for (int64_t i = 0; i < rows * 3; i++)
        worst = abs(got[i] - want[i]) > worst ? abs(got[i] - want[i]) : worst;
    print_message("%s %s: worst %d levels\n", g->variant, key, worst);
    assert_in_range(worst, 0, 1);
    free(got);
}

static void ids_to_picture(void **state)
{
    struct golden *g = *state;
    struct dip_cross_context context = make_context(g);
    check_picture(g, "euler4/image", denoise(g, "euler4", DIP_SAMPLER_EULER, 4, &context));
    check_picture(g, "euler30/image", denoise(g, "euler30", DIP_SAMPLER_EULER, 30, &context));
    (void)denoise(g, "dpm4", DIP_SAMPLER_DPM, 4, &context);
    (void)denoise(g, "dpm20", DIP_SAMPLER_DPM, 20, &context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {GOLDEN_TESTS(ids_to_picture)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
