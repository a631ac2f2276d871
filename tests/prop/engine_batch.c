/* tests/prop/engine_batch.c - the law of batching: a job's ids, hidden states and pixels have the
 * same bits alone and beside up to 16 others that join and leave at any step, on any number of
 * threads, in any batch size, with or without previews and traces. */
#include "tests/engine_fixture.h"

enum { OTHERS = 16, ROUNDS = 6, PROMPT_MAX = 30, EVENTS_MAX = OTHERS + 1, TARGET = 1 };
enum { RGB_BYTES_MAX = 256 * 256 * 3 };

static const char *const models[] = {"tiny-a", "tiny-b", "tiny-c"};

/* ---- autoregressive ---- */

struct ar_result {
    int tokens;
    int32_t ids[64];
    float hidden[65 * 256];
};

static struct dip_ar_job ar_job(const struct fixture *f, uint64_t id, uint64_t seed,
                                int32_t prompt[PROMPT_MAX])
{
    struct dip_ar_job job = {.id = id, .params = fixture_params(f, seed)};
    job.prompt_count = 1 + (int)pick(seed, 1000, PROMPT_MAX);
    /* A few distinct prompts, so that some are shared. */
    fixture_prompt(pick(seed, 1001, 3), prompt, job.prompt_count);
    job.prompt_ids = prompt;
    job.params.image_index = pick(seed, 1002, 3);
    job.params.temperature = 0.5f + 0.25f * (float)pick(seed, 1003, 5);
    job.params.top_k = (int32_t)pick(seed, 1004, 100);
    return job;
}

/* Runs the target among `others` jobs admitted and cancelled at random steps; `mix` seeds them. */
static void ar_run(const struct fixture *f, int slots, int prefill_rows, int others, uint64_t mix,
                   struct ar_result *result)
{
    int32_t prompt[PROMPT_MAX];
    struct dip_ar_engine_options options = {.slot_count = slots,
                                            .prompt_tokens_max = PROMPT_MAX,
                                            .image_tokens_max = f->tokens,
                                            .prefill_rows_max = prefill_rows};
    struct dip_ar_engine *engine = NULL;
    assert_int_equal(dip_ar_engine_new(f->model, f->device, &options, NULL, &engine), DIP_OK);
    int target_step = (int)pick(mix, 0, 12);
    int admitted = 0;
    bool is_done = false;
    for (int step = 0; !is_done; step++) {
        if (step == target_step) {
            struct dip_ar_job job = ar_job(f, TARGET, 4711, prompt);
            assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_OK);
        }
        int free_slots = dip_ar_engine_free_slots(engine) - (step < target_step);
        for (; free_slots > 0 && admitted < others && pick(mix, (uint64_t)step + 50, 2);
             free_slots--) {
            uint64_t id = 100 + (uint64_t)admitted++;
            struct dip_ar_job job = ar_job(f, id, mix * 1000 + id, prompt);
            assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_OK);
        }
        if (pick(mix, (uint64_t)step + 5000, 4) == 0)
            dip_ar_engine_cancel(engine, 100 + pick(mix, (uint64_t)step + 9000, OTHERS));
        struct dip_ar_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_ar_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++) {
            assert_int_not_equal(events[i].kind, DIP_AR_FAILED);
            if (events[i].id != TARGET || events[i].kind != DIP_AR_DONE)
                continue;
            size_t tokens = (size_t)events[i].tokens_done;
            size_t hidden_count = (tokens + 1) * (size_t)f->config->ar.hidden;
            assert_true(tokens <= 64 && hidden_count <= 65 * 256);
            result->tokens = (int)tokens;
            memcpy(result->ids, events[i].image_ids, tokens * sizeof(int32_t));
            memcpy(result->hidden, events[i].hidden, hidden_count * sizeof(float));
            is_done = true;
        }
        assert_true(step < 1000);
    }
    dip_ar_engine_free(engine);
}

static void sequences_do_not_feel_their_neighbours(void **state)
{
    (void)state;
    struct ar_result *alone = calloc(1, sizeof *alone);
    struct ar_result *mixed = calloc(1, sizeof *mixed);
    assert_true(alone && mixed);
    for (int m = 0; m < 3; m++)
        for (int threads = 1; threads <= 3; threads++) {
            struct fixture f;
            fixture_open(&f, models[m], threads);
            if (threads == 1) {
                memset(alone, 0, sizeof *alone);
                ar_run(&f, 1, PROMPT_MAX, 0, 0, alone);
            }
            for (uint64_t mix = 0; mix < ROUNDS; mix++) {
                memset(mixed, 0, sizeof *mixed);
                ar_run(&f, 2 + (int)pick(mix, 1, OTHERS), 1 + (int)pick(mix, 2, 40), OTHERS, mix,
                       mixed);
                assert_memory_equal(alone, mixed, sizeof *alone);
            }
            fixture_close(&f);
        }
    free(alone);
    free(mixed);
}

/* ---- diffusion ---- */

/* FNV-1a over everything a trace shows; context is the hash so far. */
static void trace_hash(void *context, uint64_t id, const char *name, const float *data,
                       const int64_t *dims, int rank)
{
    uint64_t hash = *(uint64_t *)context;
    assert_int_equal(id, TARGET);
    int64_t count = 1;
    for (int i = 0; i < rank; i++)
        count *= dims[i];
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    for (int64_t i = 0; i < count; i++)
        hash = (hash ^ dip_f32_bits(data[i])) * UINT64_C(0x100000001b3);
    *(uint64_t *)context = hash;
}

/* What one picture left behind; even mixes have no trace. */
struct picture {
    uint64_t trace;
    unsigned char rgb[RGB_BYTES_MAX];
};

static struct dip_diffusion_job diffusion_job(const struct fixture *f, uint64_t id, uint64_t seed,
                                              const float *hidden)
{
    struct dip_diffusion_job job = {.id = id, .params = fixture_params(f, seed)};
    job.hidden = hidden;
    job.hidden_rows = f->tokens + 1 - (int)pick(seed, 1, 3);
    job.params.steps = 3 + (int)pick(seed, 2, 5);
    job.params.guidance = 0.5f * (float)pick(seed, 3, 9);
    job.params.sampler = pick(seed, 4, 2) ? DIP_SAMPLER_DPM : DIP_SAMPLER_EULER;
    if (pick(seed, 5, 3) == 0) {
        job.params.latent_height = 4;
        job.params.latent_width = 2;
    }
    return job;
}

static void diffusion_run(const struct fixture *f, int slots, int batch, int others, uint64_t mix,
                          struct picture *picture)
{
    float *hidden = fixture_hidden(f, 3, f->tokens + 1);
    struct dip_diffusion_engine_options options = {slots, batch, f->tokens + 1, 8, 8, false};
    struct dip_diffusion_engine *engine = NULL;
    assert_int_equal(dip_diffusion_engine_new(f->model, f->device, &options, NULL, &engine),
                     DIP_OK);
    int target_step = (int)pick(mix, 0, 12);
    int admitted = 0;
    bool is_done = false;
    for (int step = 0; !is_done; step++) {
        if (step == target_step) {
            struct dip_diffusion_job job = diffusion_job(f, TARGET, 8, hidden);
            job.params.steps = 6;
            job.params.sampler = DIP_SAMPLER_DPM;
            job.trace = mix % 2 ? trace_hash : NULL;
            job.trace_context = &picture->trace;
            job.preview = mix % 3 ? DIP_PREVIEW_DECODED : DIP_PREVIEW_NONE;
            job.preview_every = 2;
            assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
        }
        int free_slots = dip_diffusion_engine_free_slots(engine) - (step < target_step);
        for (; free_slots > 0 && admitted < others && pick(mix, (uint64_t)step + 50, 2);
             free_slots--) {
            uint64_t id = 100 + (uint64_t)admitted++;
            struct dip_diffusion_job job = diffusion_job(f, id, mix * 1000 + id, hidden);
            assert_int_equal(dip_diffusion_engine_admit(engine, &job), DIP_OK);
        }
        if (pick(mix, (uint64_t)step + 5000, 4) == 0)
            dip_diffusion_engine_cancel(engine, 100 + pick(mix, (uint64_t)step + 9000, OTHERS));
        struct dip_diffusion_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_diffusion_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++) {
            assert_int_not_equal(events[i].kind, DIP_DIFFUSION_FAILED);
            if (events[i].id != TARGET || events[i].kind != DIP_DIFFUSION_DECODED)
                continue;
            size_t bytes = (size_t)(events[i].width * events[i].height) * 3;
            assert_true(bytes <= RGB_BYTES_MAX);
            memcpy(picture->rgb, events[i].rgb, bytes);
            is_done = true;
        }
        assert_true(step < 1000);
    }
    dip_diffusion_engine_free(engine);
    free(hidden);
}

static void pictures_do_not_feel_their_neighbours(void **state)
{
    (void)state;
    struct picture *alone = calloc(1, sizeof *alone);
    struct picture *mixed = calloc(1, sizeof *mixed);
    assert_true(alone && mixed);
    for (int m = 0; m < 3; m++)
        for (int threads = 1; threads <= 3; threads++) {
            struct fixture f;
            fixture_open(&f, models[m], threads);
            if (threads == 1) {
                memset(alone, 0, sizeof *alone);
                diffusion_run(&f, 1, 1, 0, 1, alone);
                assert_true(alone->trace != 0);
            }
            for (uint64_t mix = 0; mix < ROUNDS; mix++) {
                int slots = 2 + (int)pick(mix, 1, OTHERS);
                int batch = 1 + (int)pick(mix, 2, (uint32_t)slots);
                memset(mixed, 0, sizeof *mixed);
                diffusion_run(&f, slots, batch, OTHERS, mix, mixed);
                assert_memory_equal(alone->rgb, mixed->rgb, RGB_BYTES_MAX);
                assert_true(mixed->trace == (mix % 2 ? alone->trace : 0));
            }
            fixture_close(&f);
        }
    free(alone);
    free(mixed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_do_not_feel_their_neighbours),
        cmocka_unit_test(pictures_do_not_feel_their_neighbours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
