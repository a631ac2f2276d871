/* tests/unit/cuda_steps.c - how many kernels a step is on a GPU, and how often the host calls for
 * it: what docs/performance.md says of launches, counted on the emulated one. */
#include "tests/engine_fixture.h"

#include "tests/cuda_emulator/cuda_runtime_api.h"
#include "tests/emulator.h"

enum { EVENTS_MAX = 8, PROMPT = 5, TOKENS = 9, AHEAD = 4 };

static void counts_take(struct dip_emulator_counts *ret_counts)
{
    void (*count)(struct dip_emulator_counts *) = NULL;
    *(void **)&count = emulator_symbol("dip_emulator_count");
    count(ret_counts);
}

static struct dip_emulator_counts counts_since(const struct dip_emulator_counts *before)
{
    struct dip_emulator_counts now;
    counts_take(&now);
    return (struct dip_emulator_counts){.kernels = now.kernels - before->kernels,
                                        .moves = now.moves - before->moves,
                                        .calls = now.calls - before->calls};
}

static void open_on_emulator(struct fixture *f, const char *model)
{
    struct dip_device_options options = {
        .backend = "cuda", .precision = "bf16", .plugin = DIP_EMULATED_PLUGIN};
    fixture_open_on(f, model, &options);
}

/* ---- decoding ---- */

static void ar_admit(const struct fixture *f, struct dip_ar_engine *engine, int jobs)
{
    for (int i = 0; i < jobs; i++) {
        int32_t prompt[PROMPT];
        struct dip_ar_job job = {.id = (uint64_t)i + 1,
                                 .params = fixture_params(f, (uint64_t)i),
                                 .prompt_ids = prompt,
                                 .prompt_count = PROMPT};
        fixture_prompt((uint64_t)i, prompt, PROMPT);
        job.params.token_count = TOKENS;
        assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_OK);
    }
}

static struct dip_emulator_counts ar_step(struct dip_ar_engine *engine)
{
    struct dip_emulator_counts before;
    struct dip_ar_event events[EVENTS_MAX];
    int count = 0;
    counts_take(&before);
    assert_int_equal(dip_ar_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
    return counts_since(&before);
}

/* Some general steps until all draw, then a run: its first step has AHEAD graphs under way, the
 * next hand one graph over each. */
static void check_ar(int jobs, unsigned long long kernels_of_layer)
{
    struct fixture f;
    struct dip_ar_engine *engine = NULL;
    struct dip_ar_engine_options options = {.slot_count = jobs,
                                            .prompt_tokens_max = PROMPT,
                                            .image_tokens_max = TOKENS,
                                            .prefill_rows_max = jobs * PROMPT};
    open_on_emulator(&f, "tiny-c");
    assert_int_equal(dip_ar_engine_new(f.model, f.device, &options, NULL, &engine), DIP_OK);
    ar_admit(&f, engine, jobs);
    unsigned long long layers = (unsigned long long)f.config->ar.layers;
    struct dip_emulator_counts c = {0};
    for (int i = 0; i < 8 && c.kernels < AHEAD * (10 + 5 * layers); i++)
        c = ar_step(engine); /* the prompts' are fewer */
    print_message("%d rows: %llu kernels a step of %llu layers\n", jobs, c.kernels / AHEAD, layers);
    assert_int_equal(c.kernels, AHEAD * (10 + kernels_of_layer * layers));
    for (int step = 1; step < AHEAD; step++) {
        c = ar_step(engine);
        assert_int_equal(c.calls, 1); /* a graph */
        assert_int_equal(c.moves, 0);
    }
    dip_ar_engine_free(engine);
    fixture_close(&f);
}

static void a_decode_step_is_one_graph(void **state)
{
    (void)state;
    check_ar(1, 7); /* q k v with its norm, rope, attention twice, out, gate and up, down */
    check_ar(8, 9); /* both norms apart */
}

/* ---- sampling ---- */

static struct dip_emulator_counts diffusion_step(struct dip_diffusion_engine *engine)
{
    struct dip_emulator_counts before;
    struct dip_diffusion_event events[EVENTS_MAX];
    int count = 0;
    counts_take(&before);
    assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
    return counts_since(&before);
}

static void diffusion_admit(const struct fixture *f, struct dip_diffusion_engine *engine, int jobs)
{
    float *hidden = fixture_hidden(f, 1, f->tokens + 1);
    for (int i = 0; i < jobs; i++) {
        struct dip_diffusion_job job = {.id = (uint64_t)i + 1,
                                        .params = fixture_params(f, (uint64_t)i),
                                        .hidden = hidden,
                                        .hidden_rows = f->tokens + 1};
        job.params.steps = 6 + i;
        assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    }
    free(hidden);
}

/* A step from the host, then a recorded one: the same kernels, whatever the number of pictures. */
static void check_diffusion(const char *model, int jobs)
{
    struct fixture f;
    struct dip_diffusion_engine *engine = NULL;
    open_on_emulator(&f, model);
    struct dip_diffusion_engine_options options = {
        .slot_count = jobs,
        .batch_max = jobs,
        .context_rows_max = f.tokens + 1,
        .latent_height_max = f.config->generation.latent_height,
        .latent_width_max = f.config->generation.latent_width};
    assert_int_equal(dip_diffusion_engine_new(f.model, f.device, &options, NULL, &engine), DIP_OK);
    diffusion_admit(&f, engine, jobs);
    for (int i = 0; i < jobs; i++)
        diffusion_step(engine); /* conditions */
    struct dip_emulator_counts first = diffusion_step(engine);
    struct dip_emulator_counts second = diffusion_step(engine);
    print_message("%s, %d pictures: %llu kernels and %llu moves a step of %d layers, %llu calls\n",
                  model, jobs, second.kernels, second.moves, f.config->dit.layers, second.calls);
    assert_int_equal(second.kernels, first.kernels);
    assert_int_equal(second.moves, first.moves);
    unsigned long long layers = (unsigned long long)f.config->dit.layers;
    unsigned long long patches = f.config->dit.patch > 1 ? 3 : 0; /* in, and out of both branches */
    assert_int_equal(second.kernels, 13 + patches + 19 * layers);
    assert_int_equal(second.moves, 3); /* one of them where the branches part */
    assert_int_equal(second.calls, 3); /* the plan there, a graph, the flags back */
    dip_diffusion_engine_free(engine);
    fixture_close(&f);
}

static void a_sampler_step_is_one_graph(void **state)
{
    (void)state;
    check_diffusion("tiny-a", 1);
    check_diffusion("tiny-a", 3);
    check_diffusion("tiny-b", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decode_step_is_one_graph),
        cmocka_unit_test(a_sampler_step_is_one_graph),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
