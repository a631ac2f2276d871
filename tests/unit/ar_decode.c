/* tests/unit/ar_decode.c - decoding without the host gives what the general step gives, bit for
 * bit, on the emulated GPU: jobs that join, share a prompt, end early, are cancelled and replaced
 * while steps are under way. */
#include "tests/engine_fixture.h"

#include "engine/ar_engine.h"
#include "tests/emulator.h"

enum { JOBS = 7, PROMPT_MAX = 6, TOKENS = 9, SLOTS = 4, HIDDEN_MAX = 80 };

struct result {
    bool is_done;
    int tokens;
    int32_t ids[TOKENS];
    float hidden[(TOKENS + 1) * HIDDEN_MAX];
};

/* When each job comes and, if ever, goes: in steps. */
static const struct {
    int admit_step, cancel_step, prompt, tokens;
    uint64_t seed;
} plan[JOBS] = {
    {0, -1, 0, TOKENS, 8},  {0, -1, 0, 5, 9}, /* the second takes over the first's prompt */
    {3, 8, 1, TOKENS, 10},  {4, -1, 2, TOKENS, 66},
    {9, -1, 1, TOKENS, 12}, /* a prompt that a free slot holds */
    {9, -1, 2, 1, 13},      {14, -1, 0, 7, 14},
};

static void admit(const struct fixture *f, struct dip_ar_engine *engine, int index)
{
    int32_t prompt[PROMPT_MAX];
    struct dip_ar_job job = {.id = (uint64_t)index + 1,
                             .params = fixture_params(f, plan[index].seed),
                             .prompt_ids = prompt,
                             .prompt_count = PROMPT_MAX - plan[index].prompt};
    fixture_prompt((uint64_t)plan[index].prompt, prompt, job.prompt_count);
    job.params.token_count = plan[index].tokens;
    job.params.temperature = 1.5f;
    job.params.top_k = index % 2 ? 40 : 0;
    assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_OK);
}

static void take(const struct fixture *f, const struct dip_ar_event *event, int *tokens_done,
                 struct result *results)
{
    int index = (int)event->id - 1;
    struct result *r = &results[index];
    assert_int_not_equal(event->kind, DIP_AR_FAILED);
    if (event->kind == DIP_AR_PREFILLED)
        return;
    assert_int_equal(event->tokens_done, ++tokens_done[index]); /* one token a step, none lost */
    if (event->kind != DIP_AR_DONE)
        return;
    r->is_done = true;
    r->tokens = event->tokens_done;
    memcpy(r->ids, event->image_ids, (size_t)r->tokens * sizeof *r->ids);
    memcpy(r->hidden, event->hidden,
           (size_t)(r->tokens + 1) * (size_t)f->config->ar.hidden * sizeof(float));
}

static void run(const struct fixture *f, bool is_stepwise, struct result *results)
{
    struct dip_ar_engine_options options = {.slot_count = SLOTS,
                                            .prompt_tokens_max = PROMPT_MAX,
                                            .image_tokens_max = TOKENS,
                                            .prefill_rows_max = 4,
                                            .is_stepwise = is_stepwise};
    struct dip_ar_engine *engine = NULL;
    int tokens_done[JOBS] = {0};
    assert_int_equal(dip_ar_engine_new(f->model, f->device, &options, NULL, &engine), DIP_OK);
    assert_int_equal(engine->decode == NULL, is_stepwise);
    for (int step = 0; step < 15 || dip_ar_engine_live(engine) > 0; step++) {
        struct dip_ar_event events[SLOTS];
        int count = 0;
        for (int i = 0; i < JOBS; i++) {
            if (plan[i].cancel_step == step)
                dip_ar_engine_cancel(engine, (uint64_t)i + 1);
            if (plan[i].admit_step == step)
                admit(f, engine, i);
        }
        assert_int_equal(dip_ar_engine_step(engine, events, SLOTS, &count), DIP_OK);
        for (int i = 0; i < count; i++)
            take(f, &events[i], tokens_done, results);
        assert_true(step < 200);
    }
    dip_ar_engine_free(engine);
}

static void check(const char *precision)
{
    struct fixture f;
    struct result *general = calloc(JOBS, sizeof *general);
    struct result *alone = calloc(JOBS, sizeof *alone);
    struct dip_device_options options = {
        .backend = "cuda", .precision = precision, .plugin = DIP_EMULATED_PLUGIN};
    assert_true(general && alone);
    fixture_open_on(&f, "tiny-c", &options);
    assert_in_range(f.config->ar.hidden, 1, HIDDEN_MAX);
    run(&f, true, general);
    run(&f, false, alone);
    fixture_close(&f);
    int early = 0;
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(general[i].is_done, plan[i].cancel_step < 0);
        early += general[i].is_done && general[i].tokens < plan[i].tokens;
        assert_memory_equal(&general[i], &alone[i], sizeof general[i]);
    }
    print_message("%s: %d of %d jobs ended early\n", precision, early, JOBS);
    assert_true(early > 0 || strcmp(precision, "f32") != 0); /* by an id that ends the sequence */
    free(general);
    free(alone);
}

static void full_precision(void **state)
{
    (void)state;
    check("f32");
}

static void half_precision(void **state)
{
    (void)state;
    check("bf16");
}

/* An error while steps are under way: the step says so, no id of it is reported, and for good. */
static void a_dead_gpu_ends_the_step(void **state)
{
    (void)state;
    struct fixture f;
    struct dip_device_options options = {.backend = "cuda", .plugin = DIP_EMULATED_PLUGIN};
    struct dip_ar_engine_options engine_options = {.slot_count = 1,
                                                   .prompt_tokens_max = PROMPT_MAX,
                                                   .image_tokens_max = TOKENS,
                                                   .prefill_rows_max = PROMPT_MAX};
    struct dip_ar_engine *engine = NULL;
    struct dip_ar_event event;
    int count = 0;
    void (*break_at)(int, int) = NULL;
    *(void **)&break_at = emulator_symbol("dip_emulator_fail");
    fixture_open_on(&f, "tiny-c", &options);
    assert_int_equal(dip_ar_engine_new(f.model, f.device, &engine_options, NULL, &engine), DIP_OK);
    admit(&f, engine, 0);
    for (int step = 0; step < 4; step++)
        assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_OK);
    break_at(1, 700); /* an illegal address */
    count = 0;
    assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_DEVICE);
    assert_int_equal(count, 0);
    assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_DEVICE);
    assert_non_null(strstr(dip_device_note(f.device), "GPU 0: "));
    dip_ar_engine_free(engine);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_precision), cmocka_unit_test(half_precision),
        cmocka_unit_test(
            a_dead_gpu_ends_the_step), /* the emulated GPU stays dead in this process */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
