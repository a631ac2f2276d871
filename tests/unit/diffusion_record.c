/* tests/unit/diffusion_record.c - recorded steps of the diffusion panel give what steps from the
 * host give, and a picture in company what it gives alone, bit for bit, on the emulated GPU:
 * pictures that join at different times, so that every step finds them at timesteps of their own,
 * with different samplers, guidance, sizes and previews. */
#include "tests/engine_fixture.h"

#include "engine/diffusion_engine.h"
#include "tests/emulator.h"

enum { JOBS = 6, SLOTS = JOBS, BATCH = 3, EDGE = 4 };

static const struct {
    int admit_step, steps, width, preview_every;
    enum dip_sampler sampler;
    float guidance;
} plan[JOBS] = {
    {0, 5, EDGE, 0, DIP_SAMPLER_EULER, 2.0f}, {0, 4, EDGE, 0, DIP_SAMPLER_DPM, 4.5f},
    {3, 6, EDGE, 4, DIP_SAMPLER_DPM, 2.0f},   {4, 3, EDGE, 0, DIP_SAMPLER_EULER, 1.0f},
    {6, 4, 2, 0, DIP_SAMPLER_EULER, 2.0f},    {7, 4, EDGE, 0, DIP_SAMPLER_DPM, 1.0f},
};

struct result {
    int steps, previews;
    uint64_t hash; /* of every velocity, latent and picture */
};

static void hash_add(uint64_t *hash, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        *hash = (*hash ^ ((const unsigned char *)data)[i]) * UINT64_C(0x100000001b3);
}

static void trace_add(void *context, uint64_t id, const char *name, const float *data,
                      const int64_t *dims, int rank)
{
    struct result *r = &((struct result *)context)[id - 1];
    size_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= (size_t)dims[i];
    hash_add(&r->hash, name, strlen(name));
    hash_add(&r->hash, data, count * sizeof *data);
}

static void admit(const struct fixture *f, struct dip_diffusion_engine *engine, int index,
                  struct result *results)
{
    float *hidden = fixture_hidden(f, (uint64_t)index, f->tokens + 1 - index % 3);
    struct dip_diffusion_job job = {.id = (uint64_t)index + 1,
                                    .params = fixture_params(f, (uint64_t)index + 40),
                                    .hidden = hidden,
                                    .hidden_rows = f->tokens + 1 - index % 3};
    job.params.steps = plan[index].steps;
    job.params.sampler = plan[index].sampler;
    job.params.guidance = plan[index].guidance;
    job.params.latent_height = EDGE;
    job.params.latent_width = plan[index].width;
    job.preview = plan[index].preview_every ? DIP_PREVIEW_DECODED : DIP_PREVIEW_NONE;
    job.preview_every = plan[index].preview_every;
    job.trace = trace_add;
    job.trace_context = results;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    free(hidden);
}

/* A picture that has made its steps is not waited for: decoding it would show nothing new. */
static void take(struct dip_diffusion_engine *engine, const struct dip_diffusion_event *event,
                 struct result *results)
{
    assert_int_not_equal(event->kind, DIP_DIFFUSION_FAILED);
    struct result *r = &results[event->id - 1];
    if (event->rgb) {
        r->previews++;
        hash_add(&r->hash, event->rgb, (size_t)(event->width * event->height) * 3);
    }
    if (event->kind != DIP_DIFFUSION_STEP)
        return;
    assert_int_equal(event->steps_done, ++r->steps);
    if (r->steps == plan[event->id - 1].steps)
        dip_diffusion_engine_cancel(engine, event->id);
}

static int recorded(const struct dip_diffusion_engine *engine)
{
    int count = 0;
    for (int i = 0; i < DIP__DIFFUSION_RECORDINGS; i++)
        count += engine->recordings[i].graph != NULL;
    return count;
}

/* All jobs, or one (`only`), for which nobody is waited for; returns the number of recordings. */
static int run(const struct fixture *f, bool is_stepwise, int only, struct result *results)
{
    struct dip_diffusion_engine_options options = {.slot_count = SLOTS,
                                                   .batch_max = BATCH,
                                                   .context_rows_max = f->tokens + 1,
                                                   .latent_height_max = EDGE,
                                                   .latent_width_max = EDGE,
                                                   .is_stepwise = is_stepwise};
    struct dip_diffusion_engine *engine = NULL;
    int admitted = 0;
    assert_int_equal(dip_diffusion_engine_new(f->model, f->device, &options, NULL, &engine),
                     DIP_OK);
    for (int step = 0; admitted < (only < 0 ? JOBS : 1) || dip_diffusion_engine_live(engine) > 0;
         step++) {
        struct dip_diffusion_event events[SLOTS];
        int count = 0;
        for (int i = 0; i < JOBS; i++)
            if (i == only ? step == 0 : only < 0 && plan[i].admit_step == step) {
                admit(f, engine, i, results);
                admitted++;
            }
        assert_int_equal(dip_diffusion_engine_step(engine, events, SLOTS, &count), DIP_OK);
        for (int i = 0; i < count; i++)
            take(engine, &events[i], results);
        assert_true(step < 100);
    }
    int recordings = recorded(engine);
    dip_diffusion_engine_free(engine);
    return recordings;
}

static void check(const char *precision, bool is_alone)
{
    struct fixture f;
    struct result host[JOBS] = {{0}};
    struct result device[JOBS] = {{0}};
    struct result alone[JOBS] = {{0}};
    struct dip_device_options options = {
        .backend = "cuda", .precision = precision, .plugin = DIP_EMULATED_PLUGIN};
    fixture_open_on(&f, "tiny-a", &options);
    assert_int_equal(run(&f, true, -1, host), 0);
    assert_in_range(run(&f, false, -1, device), 3, 6); /* three sizes of batch at least */
    for (int i = 0; i < JOBS && is_alone; i++)
        assert_int_equal(run(&f, false, i, alone), 1);
    fixture_close(&f);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(host[i].steps, plan[i].steps);
        assert_int_equal(host[i].previews, plan[i].preview_every > 0);
        assert_memory_equal(&host[i], &device[i], sizeof host[i]);
        if (is_alone)
            assert_memory_equal(&host[i], &alone[i], sizeof host[i]);
        for (int k = 0; k < i; k++)
            assert_true(host[k].hash != host[i].hash);
    }
}

static void full_precision(void **state)
{
    (void)state;
    check("f32", false);
}

static void half_precision(void **state)
{
    (void)state;
    check("bf16", true);
}

/* What is recorded fails as what is not: a picture whose numbers run away, alone. */
static void a_recorded_step_tells_whose_numbers_ran_away(void **state)
{
    (void)state;
    struct fixture f;
    struct dip_device_options options = {.backend = "cuda", .plugin = DIP_EMULATED_PLUGIN};
    struct dip_diffusion_engine_options engine_options = {
        .slot_count = 2, .batch_max = 2, .latent_height_max = EDGE, .latent_width_max = EDGE};
    struct dip_diffusion_engine *engine = NULL;
    struct dip_diffusion_event events[2];
    struct result results[2] = {{0}};
    int count = 0;
    fixture_open_on(&f, "tiny-a", &options);
    engine_options.context_rows_max = f.tokens + 1;
    assert_int_equal(dip_diffusion_engine_new(f.model, f.device, &engine_options, NULL, &engine),
                     DIP_OK);
    admit(&f, engine, 0, results);
    admit(&f, engine, 1, results);
    for (int step = 0; step < 4; step++)
        assert_int_equal(dip_diffusion_engine_step(engine, events, 2, &count), DIP_OK);
    assert_int_equal(recorded(engine), 1);
    struct dip_diffusion_engine *e = engine;
    assert_int_equal(dip_fill(e->stream, dip_rows(e->slots[1].latent, DIP_F32, 1, 1), 3e38f),
                     DIP_OK);
    e->slots[1].params.guidance = 3e38f;
    assert_int_equal(dip_diffusion_engine_step(engine, events, 2, &count), DIP_OK);
    assert_int_equal(count, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(events[i].kind,
                         events[i].id == 2 ? DIP_DIFFUSION_FAILED : DIP_DIFFUSION_STEP);
    dip_diffusion_engine_free(engine);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_precision),
        cmocka_unit_test(half_precision),
        cmocka_unit_test(a_recorded_step_tells_whose_numbers_ran_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
