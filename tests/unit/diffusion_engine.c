/* tests/unit/diffusion_engine.c - the diffusion engine against its networks driven by hand: events,
 * traces, previews, injected noise, and jobs that fail alone. */
#include <math.h>

#include "tests/engine_fixture.h"
#include "tests/sampler.h"

enum { EVENTS_MAX = 16, NAMES_MAX = 64, VALUES_MAX = 4096, RGB_MAX = 256 * 256 * 3 };

static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f, "tiny-a", 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

static struct dip_diffusion_engine *engine_new(int slots, int batch)
{
    struct dip_diffusion_engine_options options = {.slot_count = slots,
                                                   .batch_max = batch,
                                                   .context_rows_max = f.tokens + 1,
                                                   .latent_height_max = 8,
                                                   .latent_width_max = 8};
    struct dip_why why = {0};
    struct dip_diffusion_engine *engine = NULL;
    if (dip_diffusion_engine_new(f.model, f.device, &options, &why, &engine))
        fail_msg("%s", why.text);
    return engine;
}

static struct dip_diffusion_job job_make(uint64_t id, const float *hidden)
{
    return (struct dip_diffusion_job){
        .id = id, .params = fixture_params(&f, id), .hidden = hidden, .hidden_rows = f.tokens + 1};
}

/* Steps until nothing is live; the picture of the last DECODED goes to rgb. */
static void run(struct dip_diffusion_engine *engine, unsigned char *rgb)
{
    for (int steps = 0; dip_diffusion_engine_live(engine) > 0; steps++) {
        struct dip_diffusion_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++) {
            assert_int_not_equal(events[i].kind, DIP_DIFFUSION_FAILED);
            if (events[i].kind == DIP_DIFFUSION_DECODED)
                memcpy(rgb, events[i].rgb, (size_t)(events[i].width * events[i].height) * 3);
        }
        assert_true(steps < 1000);
    }
}

/* ---- a trace kept for looking at ---- */

struct record {
    int count;
    char names[NAMES_MAX][32];
    int64_t dims[NAMES_MAX][3];
    float values[NAMES_MAX][VALUES_MAX];
};

static void record_add(void *context, uint64_t id, const char *name, const float *data,
                       const int64_t *dims, int rank)
{
    struct record *r = context;
    assert_int_equal(id, 5);
    assert_true(r->count < NAMES_MAX);
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= r->dims[r->count][i] = dims[i];
    assert_true(count <= VALUES_MAX);
    snprintf(r->names[r->count], sizeof r->names[0], "%s", name);
    memcpy(r->values[r->count++], data, (size_t)count * sizeof *data);
}

static const float *record_find(const struct record *r, const char *name)
{
    for (int i = 0; i < r->count; i++)
        if (strcmp(r->names[i], name) == 0)
            return r->values[i];
    fail_msg("the trace has no %s", name);
    return NULL;
}

/* ---- the networks by hand, one job, noise given ---- */

struct by_hand {
    struct dip_mem mem;
    struct dip_arena arena;
    struct dip_tensor latent, uncond, cond, velocity, clean[2];
    struct dip_cross_context context;
    struct dip_arena scratch;
    uint32_t *is_bad; /* device */
};

static struct dip_tensor by_hand_rows(struct by_hand *h, int64_t rows, int64_t columns)
{
    void *data = dip_arena_push(&h->arena, (size_t)(rows * columns) * sizeof(float));
    assert_non_null(data);
    return dip_rows(data, DIP_F32, rows, columns);
}

/* Host memory to the device, read before the call returns. */
static void by_hand_put(struct dip_tensor to, const float *from)
{
    struct dip_tensor host = to;
    host.data = (void *)(uintptr_t)from;
    assert_int_equal(dip_copy(f.stream, to, host), DIP_OK);
    assert_int_equal(dip_wait(f.stream), DIP_OK);
}

static void by_hand_begin(struct by_hand *h, const float *hidden, const float *noise)
{
    const struct dip_config *c = f.config;
    int64_t height = c->generation.latent_height;
    int64_t width = c->generation.latent_width;
    int64_t rows = f.tokens + 1;
    size_t scratch_bytes = 8 << 20;
    assert_int_equal(dip_reserve(f.device, 2 * scratch_bytes, &h->mem), DIP_OK);
    dip_arena_init(&h->arena, h->mem.base, h->mem.bytes);
    dip_arena_init(&h->scratch, dip_arena_push(&h->arena, scratch_bytes), scratch_bytes);
    struct dip_tensor *latents[] = {&h->latent,   &h->uncond, &h->cond,
                                    &h->velocity, h->clean,   &h->clean[1]};
    for (int i = 0; i < 6; i++)
        *latents[i] = by_hand_rows(h, height * width, c->dit.latent_channels);
    h->is_bad = by_hand_rows(h, 1, 1).data;
    float *latent = calloc((size_t)(height * width * c->dit.latent_channels), sizeof *latent);
    assert_non_null(latent);
    for (int64_t i = 0; i < height * width; i++)
        for (int64_t k = 0; k < c->dit.latent_channels; k++)
            latent[i * c->dit.latent_channels + k] = noise[k * height * width + i];
    by_hand_put(h->latent, latent);
    free(latent);
    struct dip_tensor states = by_hand_rows(h, rows, c->ar.hidden);
    struct dip_tensor condition = by_hand_rows(h, rows, c->dit.caption_channels);
    by_hand_put(states, hidden);
    void *memory = dip_arena_push(&h->arena, dip_dit_context_bytes(f.model->dit, rows));
    assert_non_null(memory);
    assert_int_equal(
        dip_connector_forward(f.model->connector, f.stream, condition, states, &h->scratch),
        DIP_OK);
    assert_int_equal(
        dip_dit_context_init(f.model->dit, f.stream, memory, condition, &h->scratch, &h->context),
        DIP_OK);
}

static struct dip_tensor as_image(struct dip_tensor t, int64_t height, int64_t width)
{
    return dip_image(t.data, DIP_F32, 1, height, width, dip_tensor_columns(t));
}

static void by_hand_step(struct by_hand *h, const struct dip_schedule *schedule, int k,
                         const struct dip_image_params *p)
{
    struct dip_dit_args args = {
        .velocity_uncond = as_image(h->uncond, p->latent_height, p->latent_width),
        .velocity_cond = as_image(h->cond, p->latent_height, p->latent_width),
        .latent = as_image(h->latent, p->latent_height, p->latent_width),
        .t = &schedule->timesteps[k],
        .contexts = &h->context,
    };
    assert_int_equal(dip_dit_forward(f.model->dit, f.stream, &args, &h->scratch), DIP_OK);
    struct dip_guide_args guide = {
        .out = h->velocity, .uncond = h->uncond, .cond = h->cond, .scale = p->guidance};
    assert_int_equal(dip_guide(f.stream, &guide), DIP_OK);
    assert_int_equal(sampler_step(schedule, k, f.stream, h->latent, h->velocity, h->clean[k % 2],
                                  h->clean[(k + 1) % 2], h->is_bad),
                     DIP_OK);
    assert_int_equal(dip_wait(f.stream), DIP_OK);
}

static void assert_planes_equal(const float *planes, struct dip_tensor rows)
{
    int64_t cells = dip_tensor_rows(rows);
    int64_t channels = dip_tensor_columns(rows);
    struct dip_tensor host = rows;
    host.data = calloc((size_t)(cells * channels), sizeof(float));
    assert_non_null(host.data);
    assert_int_equal(dip_copy(f.stream, host, rows), DIP_OK);
    assert_int_equal(dip_wait(f.stream), DIP_OK);
    for (int64_t i = 0; i < cells; i++)
        for (int64_t k = 0; k < channels; k++)
            assert_memory_equal(&planes[k * cells + i], (float *)host.data + i * channels + k,
                                sizeof(float));
    free(host.data);
}

/* ---- tests ---- */

static void steps_are_the_networks(enum dip_sampler sampler)
{
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(1, 1);
    struct dip_diffusion_job job = job_make(5, hidden);
    job.params.sampler = sampler;
    job.params.steps = 5;
    job.trace = record_add;
    job.trace_context = record;
    unsigned char rgb[256 * 256 * 3];
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    run(engine, rgb);

    struct by_hand hand = {0};
    struct dip_schedule schedule;
    assert_int_equal(dip_schedule_init(&schedule, sampler, 5, &f.config->scheduler, NULL), DIP_OK);
    by_hand_begin(&hand, hidden, record_find(record, "noise"));
    for (int k = 0; k < 5; k++) {
        char name[32];
        by_hand_step(&hand, &schedule, k, &job.params);
        snprintf(name, sizeof name, "velocity.%d", k);
        assert_planes_equal(record_find(record, name), hand.velocity);
        snprintf(name, sizeof name, "latent.%d", k);
        assert_planes_equal(record_find(record, name), hand.latent);
    }
    assert_planes_equal(record_find(record, "latent"), hand.latent);
    dip_release(f.device, &hand.mem);
    dip_diffusion_engine_free(engine);
    free(hidden);
    free(record);
}

static void euler_steps_are_the_networks(void **state)
{
    (void)state;
    steps_are_the_networks(DIP_SAMPLER_EULER);
}

static void dpm_steps_are_the_networks(void **state)
{
    (void)state;
    steps_are_the_networks(DIP_SAMPLER_DPM);
}

static void events_come_in_order(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(1, 1);
    struct dip_diffusion_job job = job_make(9, hidden);
    struct dip_diffusion_event event;
    int count = -1;
    assert_int_equal(dip_diffusion_engine_step(engine, &event, 1, &count), DIP_OK);
    assert_int_equal(count, 0);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    assert_int_equal(dip_diffusion_engine_free_slots(engine), 0);
    for (int step = 0; step < job.params.steps + 2; step++) {
        assert_int_equal(dip_diffusion_engine_step(engine, &event, 1, &count), DIP_OK);
        assert_int_equal(count, 1);
        assert_int_equal(event.id, 9);
        bool is_last = step == job.params.steps + 1;
        assert_int_equal(event.kind, step == 0 ? DIP_DIFFUSION_CONDITIONED
                                     : is_last ? DIP_DIFFUSION_DECODED
                                               : DIP_DIFFUSION_STEP);
        assert_int_equal(event.steps_done, is_last ? step - 1 : step);
        assert_int_equal(event.rgb != NULL, is_last);
    }
    assert_int_equal(event.width, f.config->generation.latent_width * f.config->vae.factor);
    assert_int_equal(event.height, f.config->generation.latent_height * f.config->vae.factor);
    assert_int_equal(dip_diffusion_engine_live(engine), 0);
    dip_diffusion_engine_free(engine);
    free(hidden);
}

/* Three jobs, two places in a batch: nobody falls behind by more than one step. */
static void turns_are_taken(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(4, 2);
    int done[3] = {0};
    for (uint64_t id = 0; id < 3; id++) {
        struct dip_diffusion_job job = job_make(id, hidden);
        job.params.steps = 12;
        assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    }
    for (int step = 0; step < 3 + 15; step++) {
        struct dip_diffusion_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        assert_int_equal(count, step < 3 ? 1 : 2);
        for (int i = 0; i < count; i++)
            done[events[i].id] = events[i].steps_done;
        for (int i = 0; i < 3; i++)
            assert_in_range(done[i] - done[(i + 1) % 3] + 1, 0, 2);
    }
    dip_diffusion_engine_free(engine);
    free(hidden);
}

/* The noise a trace shows, injected, gives the same picture under any seed. */
static void injected_noise_replaces_the_drawn(void **state)
{
    (void)state;
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(1, 1);
    unsigned char drawn[256 * 256 * 3] = {0};
    unsigned char injected[256 * 256 * 3] = {0};
    unsigned char other[256 * 256 * 3] = {0};
    struct dip_diffusion_job job = job_make(5, hidden);
    job.trace = record_add;
    job.trace_context = record;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    run(engine, drawn);

    job = job_make(6, hidden);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    run(engine, other);
    job.noise = record_find(record, "noise");
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    run(engine, injected);
    assert_memory_equal(drawn, injected, sizeof drawn);
    assert_memory_not_equal(drawn, other, sizeof drawn);
    dip_diffusion_engine_free(engine);
    free(hidden);
    free(record);
}

static void previews_come_when_asked(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(1, 1);
    struct dip_diffusion_job job = job_make(1, hidden);
    job.params.steps = 7;
    job.preview = DIP_PREVIEW_DECODED;
    job.preview_every = 2;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    while (dip_diffusion_engine_live(engine) > 0) {
        struct dip_diffusion_event event = {0};
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, &event, 1, &count), DIP_OK);
        bool is_due = event.steps_done == 2 || event.steps_done == 4 || event.steps_done == 6;
        if (event.kind == DIP_DIFFUSION_STEP)
            assert_int_equal(event.rgb != NULL, is_due);
        if (event.rgb)
            assert_int_equal(event.width, f.config->generation.latent_width * f.config->vae.factor);
    }
    dip_diffusion_engine_free(engine);
    free(hidden);
}

/* A preview map of one grey per channel: the sketch is enlarged to at most the picture's size. */
static void linear_previews_need_a_map(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(1, 1);
    struct dip_diffusion_job job = job_make(1, hidden);
    job.preview = DIP_PREVIEW_LINEAR;
    job.preview_every = 1;
    struct dip_generation_config kept = f.model->config.generation;
    f.model->config.generation.has_preview = false;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_UNSUPPORTED);
    f.model->config.generation.has_preview = true;
    for (int i = 0; i < f.config->dit.latent_channels; i++)
        for (int c = 0; c < 3; c++)
            f.model->config.generation.preview_rgb[i][c] = 0.1f * (float)(c + 1);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    struct dip_diffusion_event event = {0};
    int count = 0;
    while (!event.rgb)
        assert_int_equal(dip_diffusion_engine_step(engine, &event, 1, &count), DIP_OK);
    assert_int_equal(event.kind, DIP_DIFFUSION_STEP);
    assert_int_equal(event.width, f.config->generation.latent_width * f.config->vae.factor);
    assert_int_equal(event.height, f.config->generation.latent_height * f.config->vae.factor);
    f.model->config.generation = kept;
    dip_diffusion_engine_free(engine);
    free(hidden);
}

static void runaway_numbers_fail_their_job_only(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    float *broken = fixture_hidden(&f, 1, f.tokens + 1);
    broken[3] = NAN;
    unsigned char single[256 * 256 * 3] = {0};
    unsigned char beside[256 * 256 * 3] = {0};
    float *loud = calloc(8 * 8 * 64, sizeof *loud);
    assert_non_null(loud);
    for (int i = 0; i < 8 * 8 * 64; i++)
        loud[i] = 3e38f;
    struct dip_diffusion_engine *engine = engine_new(3, 3);
    struct dip_diffusion_job job = job_make(1, hidden);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    run(engine, single);

    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    struct dip_diffusion_job bad_context = job_make(2, broken);
    struct dip_diffusion_job bad_noise = job_make(3, hidden);
    bad_noise.noise = loud;
    assert_int_equal(dip_diffusion_engine_admit(engine, &bad_context), DIP_OK);
    assert_int_equal(dip_diffusion_engine_admit(engine, &bad_noise), DIP_OK);
    int failed = 0;
    while (dip_diffusion_engine_live(engine) > 0) {
        struct dip_diffusion_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++) {
            if (events[i].kind == DIP_DIFFUSION_FAILED) {
                assert_int_equal(events[i].status, DIP_CORRUPT);
                assert_int_not_equal(events[i].id, 1);
                failed++;
            } else if (events[i].kind == DIP_DIFFUSION_DECODED) {
                assert_int_equal(events[i].id, 1);
                memcpy(beside, events[i].rgb, (size_t)(events[i].width * events[i].height) * 3);
            }
        }
    }
    assert_int_equal(failed, 2);
    assert_memory_equal(single, beside, sizeof single);
    dip_diffusion_engine_free(engine);
    free(loud);
    free(broken);
    free(hidden);
}

static void bad_jobs_are_refused(void **state)
{
    (void)state;
    float *hidden = fixture_hidden(&f, 1, f.tokens + 1);
    struct dip_diffusion_engine *engine = engine_new(2, 2);
    const struct {
        int rows, height, width, steps, every;
        float guidance;
        enum dip_status expected;
    } bad[] = {
        {0, 4, 4, 4, 0, 2, DIP_LIMIT},     {f.tokens + 2, 4, 4, 4, 0, 2, DIP_LIMIT},
        {1, 9, 4, 4, 0, 2, DIP_LIMIT},     {1, 4, 9, 4, 0, 2, DIP_LIMIT},
        {1, 0, 4, 4, 0, 2, DIP_LIMIT},     {1, 4, 4, 0, 0, 2, DIP_LIMIT},
        {1, 4, 4, 1001, 0, 2, DIP_LIMIT},  {1, 4, 4, 4, -1, 2, DIP_INVALID},
        {1, 4, 4, 4, 0, NAN, DIP_INVALID},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dip_diffusion_job job = job_make(1, hidden);
        job.hidden_rows = bad[i].rows;
        job.params.latent_height = bad[i].height;
        job.params.latent_width = bad[i].width;
        job.params.steps = bad[i].steps;
        job.params.guidance = bad[i].guidance;
        job.preview_every = bad[i].every;
        assert_int_equal(dip_diffusion_engine_admit(engine, &job), bad[i].expected);
    }
    struct dip_diffusion_job job = job_make(1, hidden);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_INVALID); /* same id */
    job.id = 2;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    job.id = 3;
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_BUSY);
    dip_diffusion_engine_cancel(engine, 2);
    dip_diffusion_engine_cancel(engine, 77);
    assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
    dip_diffusion_engine_free(engine);
    dip_diffusion_engine_free(NULL);
    free(hidden);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    const struct dip_diffusion_engine_options bad[] = {
        {0, 1, 5, 4, 4, false},   {257, 1, 5, 4, 4, false}, {2, 3, 5, 4, 4, false},
        {2, 0, 5, 4, 4, false},   {1, 1, 0, 4, 4, false},   {1, 1, 5, 0, 4, false},
        {1, 1, 5, 4, 513, false},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dip_why why = {0};
        struct dip_diffusion_engine *engine = NULL;
        assert_int_equal(dip_diffusion_engine_new(f.model, f.device, &bad[i], &why, &engine),
                         DIP_LIMIT);
        assert_null(engine);
        assert_true(strlen(why.text) > 0);
    }
}

/* The picture of one job, and how many steps it took here; others run beside it. */
static int run_one(struct dip_diffusion_engine *engine, uint64_t id, unsigned char *rgb)
{
    int steps = 0;
    while (dip_diffusion_engine_live(engine) > 0) {
        struct dip_diffusion_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++) {
            assert_int_not_equal(events[i].kind, DIP_DIFFUSION_FAILED);
            steps += events[i].id == id && events[i].kind == DIP_DIFFUSION_STEP;
            if (events[i].id == id && events[i].kind == DIP_DIFFUSION_DECODED)
                memcpy(rgb, events[i].rgb, (size_t)(events[i].width * events[i].height) * 3);
        }
    }
    return steps;
}

/* A job that stops after some step and goes on in another engine, with other company, ends with the
 * same picture: for both samplers, whatever the step. */
static void a_checkpoint_is_where_another_engine_goes_on(void **state)
{
    (void)state;
    struct dip_diffusion_engine *first = engine_new(1, 1), *second = engine_new(2, 2);
    float *hidden = fixture_hidden(&f, 3, f.tokens + 1);
    float latent[VALUES_MAX], history[VALUES_MAX];
    unsigned char *expected = calloc(1, RGB_MAX), *rgb = calloc(1, RGB_MAX);
    assert_true(hidden && expected && rgb);
    for (int sampler = 0; sampler < 2; sampler++) {
        struct dip_diffusion_job job = job_make(1, hidden);
        job.params.sampler = sampler ? DIP_SAMPLER_DPM : DIP_SAMPLER_EULER;
        job.params.steps = 6;
        assert_int_equal(dip_diffusion_engine_admit(first, &job), DIP_OK);
        run(first, expected);
        for (int stop = 1; stop < job.params.steps; stop++) {
            assert_int_equal(dip_diffusion_engine_admit(first, &job), DIP_OK);
            assert_int_equal(dip_diffusion_engine_checkpoint(first, 1, latent, history),
                             DIP_INVALID); /* no step has been made */
            for (int done = -1; done < stop; done++) {
                struct dip_diffusion_event event;
                int count = 0;
                assert_int_equal(dip_diffusion_engine_step(first, &event, 1, &count), DIP_OK);
            }
            assert_int_equal(dip_diffusion_engine_checkpoint(first, 1, latent, history), DIP_OK);
            dip_diffusion_engine_cancel(first, 1);
            struct dip_diffusion_job other = job_make(9, hidden), rest = job;
            rest.resume_steps = stop;
            rest.resume_latent = latent;
            rest.resume_history = history;
            assert_int_equal(dip_diffusion_engine_admit(second, &other), DIP_OK);
            assert_int_equal(dip_diffusion_engine_admit(second, &rest), DIP_OK);
            assert_int_equal(run_one(second, 1, rgb), job.params.steps - stop);
            assert_memory_equal(rgb, expected, RGB_MAX);
        }
    }
    struct dip_diffusion_job bad = job_make(1, hidden);
    bad.resume_steps = bad.params.steps; /* nothing would be left to do */
    bad.resume_latent = bad.resume_history = latent;
    assert_int_equal(dip_diffusion_engine_admit(first, &bad), DIP_INVALID);
    bad.resume_steps = 1;
    bad.resume_history = NULL;
    assert_int_equal(dip_diffusion_engine_admit(first, &bad), DIP_INVALID);
    free(hidden);
    free(expected);
    free(rgb);
    dip_diffusion_engine_free(first);
    dip_diffusion_engine_free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(euler_steps_are_the_networks),
        cmocka_unit_test(dpm_steps_are_the_networks),
        cmocka_unit_test(events_come_in_order),
        cmocka_unit_test(turns_are_taken),
        cmocka_unit_test(injected_noise_replaces_the_drawn),
        cmocka_unit_test(previews_come_when_asked),
        cmocka_unit_test(linear_previews_need_a_map),
        cmocka_unit_test(runaway_numbers_fail_their_job_only),
        cmocka_unit_test(a_checkpoint_is_where_another_engine_goes_on),
        cmocka_unit_test(bad_jobs_are_refused),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
