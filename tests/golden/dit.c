/* tests/golden/dit.c - velocities of SanaTransformer2DModel at three timesteps, both branches, and
 * the law that a job's bits do not depend on the rest of the batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"

static const double LIMIT = 1e-5; /* derivation: tests/golden/tiny-a/golden.md */
enum { TIMES = 3 };

static struct dip_cross_context context_of(struct golden *g, const char *key)
{
    const struct dip_dit *dit = g->model->dit;
    struct dip_tensor condition = golden_load(g, key);
    int64_t rows = dip_tensor_rows(condition);
    void *memory = dip_arena_push(&g->memory, dip_dit_context_bytes(dit, rows));
    assert_non_null(memory);
    struct dip_arena scratch = golden_scratch(g, dip_dit_context_scratch_bytes(dit, rows));
    struct dip_cross_context context;
    golden_ok(dip_dit_context_init(dit, g->s, memory, condition, &scratch, &context), "context");
    return context;
}

struct velocities {
    struct dip_tensor uncond, cond; /* [B, h, w, c] */
};

/* latent [B, h, w, c]. */
static struct velocities forward(struct golden *g, struct dip_tensor latent, const float *t,
                                 const struct dip_cross_context *contexts)
{
    const struct dip_dit *dit = g->model->dit;
    const int64_t *d = latent.dims;
    struct velocities v = {latent, latent};
    v.uncond.data = golden_rows(g, d[0] * d[1] * d[2], d[3]).data;
    v.cond.data = golden_rows(g, d[0] * d[1] * d[2], d[3]).data;
    struct dip_arena scratch =
        golden_scratch(g, dip_dit_scratch_bytes(dit, (int)d[0], d[1], d[2], contexts[0].row_count));
    struct dip_dit_args args = {.velocity_uncond = v.uncond,
                                .velocity_cond = v.cond,
                                .latent = latent,
                                .t = t,
                                .contexts = contexts};
    golden_ok(dip_dit_forward(dit, g->s, &args, &scratch), "forward");
    golden_ok(dip_wait(g->s), "wait");
    return v;
}

/* Without guidance: the conditional velocity, and half of the work. */
static struct dip_tensor forward_unguided(struct golden *g, struct dip_tensor latent,
                                          const float *t, const struct dip_cross_context *contexts)
{
    const struct dip_dit *dit = g->model->dit;
    const int64_t *d = latent.dims;
    struct dip_tensor cond = latent;
    cond.data = golden_rows(g, d[0] * d[1] * d[2], d[3]).data;
    struct dip_arena scratch =
        golden_scratch(g, dip_dit_scratch_bytes(dit, (int)d[0], d[1], d[2], contexts[0].row_count));
    struct dip_dit_args args = {
        .velocity_cond = cond, .latent = latent, .t = t, .contexts = contexts};
    golden_ok(dip_dit_forward(dit, g->s, &args, &scratch), "forward");
    golden_ok(dip_wait(g->s), "wait");
    return cond;
}

static void velocities(void **state)
{
    struct golden *g = *state;
    struct dip_tensor latent = golden_load_image(g, "dit/noise");
    struct dip_cross_context context = context_of(g, "forced/condition");
    const float *t = golden_f32(g, "dit/timesteps");
    for (int i = 0; i < TIMES; i++) {
        char key[64];
        struct velocities v = forward(g, latent, &t[i], &context);
        (void)snprintf(key, sizeof key, "dit/%d/velocity", i);
        golden_close_image(g, key, v.cond, LIMIT);
        (void)snprintf(key, sizeof key, "dit/%d/velocity_uncond", i);
        golden_close_image(g, key, v.uncond, LIMIT);
    }
}

static void same_bits(struct golden *g, struct dip_tensor a, struct dip_tensor b)
{
    float *x = golden_read(g, a), *y = golden_read(g, b);
    assert_memory_equal(x, y, (size_t)dip_tensor_count(a) * sizeof *x);
    free(x);
    free(y);
}

static struct dip_tensor image_of(struct dip_tensor batch, int64_t b)
{
    const int64_t *d = batch.dims;
    float *data = (float *)batch.data + b * d[1] * d[2] * d[3];
    return dip_image(data, DIP_F32, 1, d[1], d[2], d[3]);
}

/* Five jobs with different latents, timesteps and contexts of different length. */
static void neighbours_do_not_change_a_job(void **state)
{
    enum { JOBS = 5 };
    static const char *const keys[JOBS] = {"dit/noise", "euler4/noise", "euler30/noise",
                                           "dpm4/noise", "dpm20/noise"};
    struct golden *g = *state;
    struct dip_cross_context given = context_of(g, "forced/condition");
    struct dip_tensor condition = golden_load(g, "greedy/condition");
    struct dip_tensor shorter = dip_rows_slice(condition, 0, dip_tensor_rows(condition) - 3);
    const struct dip_dit *dit = g->model->dit;
    int64_t rows = dip_tensor_rows(shorter);
    struct dip_arena scratch = golden_scratch(g, dip_dit_context_scratch_bytes(dit, rows));
    struct dip_cross_context other;
    void *memory = dip_arena_push(&g->memory, dip_dit_context_bytes(dit, rows));
    golden_ok(dip_dit_context_init(dit, g->s, memory, shorter, &scratch, &other), "context");

    const struct dip_cross_context contexts[JOBS] = {given, other, given, other, given};
    static const float t[JOBS] = {1000.0f, 33.333332f, 500.0f, 999.0f, 0.5f};
    struct dip_tensor first = golden_load_image(g, keys[0]);
    const int64_t *d = first.dims;
    struct dip_tensor all = golden_rows(g, JOBS * d[1] * d[2], d[3]);
    all = dip_image(all.data, DIP_F32, JOBS, d[1], d[2], d[3]);
    for (int b = 0; b < JOBS; b++)
        golden_ok(dip_copy(g->s, image_of(all, b), golden_load_image(g, keys[b])), "copy");

    struct velocities together = forward(g, all, t, contexts);
    same_bits(g, forward_unguided(g, all, t, contexts), together.cond);
    for (int b = 0; b < JOBS; b++) {
        struct velocities alone = forward(g, image_of(all, b), &t[b], &contexts[b]);
        same_bits(g, alone.cond, image_of(together.cond, b));
        same_bits(g, alone.uncond, image_of(together.uncond, b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN_TESTS(velocities),
        GOLDEN_TESTS(neighbours_do_not_change_a_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
