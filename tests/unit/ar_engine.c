/* tests/unit/ar_engine.c - the autoregressive engine against the network driven by hand: which rows
 * the hinge holds, which ids are drawn, and what joins, leaves, ends early and fails. */
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/engine_fixture.h"

enum { PROMPT = 11, PROMPT_MAX = 40, TOKENS_MAX = 32, EVENTS_MAX = 16 };

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

static struct dip_ar_engine *engine_new(int slots, int prefill_rows)
{
    struct dip_ar_engine_options options = {.slot_count = slots,
                                            .prompt_tokens_max = PROMPT_MAX,
                                            .image_tokens_max = TOKENS_MAX,
                                            .prefill_rows_max = prefill_rows};
    struct dip_why why = {0};
    struct dip_ar_engine *engine = NULL;
    if (dip_ar_engine_new(f.model, f.device, &options, &why, &engine))
        fail_msg("%s", why.text);
    return engine;
}

static enum dip_status admit(struct dip_ar_engine *engine, uint64_t id, uint64_t seed,
                             const int32_t *prompt, int prompt_count, const int32_t *forced,
                             int forced_count)
{
    struct dip_ar_job job = {.id = id,
                             .params = fixture_params(&f, seed),
                             .prompt_ids = prompt,
                             .prompt_count = prompt_count,
                             .forced_ids = forced,
                             .forced_count = forced_count};
    return dip_ar_engine_admit(engine, &job);
}

/* What one job left behind. */
struct outcome {
    enum dip_ar_event_kind kind; /* DONE or FAILED */
    bool is_prefilled;
    int tokens;
    int32_t ids[TOKENS_MAX];
    float *hidden; /* [tokens + 1, H] */
};

static void outcome_take(struct outcome *o, const struct dip_ar_event *event)
{
    size_t bytes = ((size_t)event->tokens_done + 1) * (size_t)f.config->ar.hidden * sizeof(float);
    o->kind = event->kind;
    o->tokens = event->tokens_done;
    if (event->kind == DIP_AR_FAILED) {
        assert_int_equal(event->status, DIP_CORRUPT);
        return;
    }
    memcpy(o->ids, event->image_ids, (size_t)o->tokens * sizeof(int32_t));
    o->hidden = malloc(bytes);
    assert_non_null(o->hidden);
    memcpy(o->hidden, event->hidden, bytes);
}

/* Steps until nothing is live. outcomes is indexed by job id. Returns the steps taken. */
static int run(struct dip_ar_engine *engine, struct outcome *outcomes)
{
    int steps = 0;
    while (dip_ar_engine_live(engine) > 0) {
        struct dip_ar_event events[EVENTS_MAX];
        int count = 0;
        assert_int_equal(dip_ar_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
        for (int i = 0; i < count; i++)
            if (events[i].kind == DIP_AR_DONE || events[i].kind == DIP_AR_FAILED)
                outcome_take(&outcomes[events[i].id], &events[i]);
            else if (events[i].kind == DIP_AR_PREFILLED)
                outcomes[events[i].id].is_prefilled = true;
        assert_true(++steps < 1000);
    }
    return steps;
}

static void outcomes_equal(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->kind, DIP_AR_DONE);
    assert_int_equal(b->kind, DIP_AR_DONE);
    assert_int_equal(a->tokens, b->tokens);
    assert_memory_equal(a->ids, b->ids, (size_t)a->tokens * sizeof(int32_t));
    assert_memory_equal(a->hidden, b->hidden,
                        ((size_t)a->tokens + 1) * (size_t)f.config->ar.hidden * sizeof(float));
}

static struct outcome alone(uint64_t seed, const int32_t *prompt, int prompt_count,
                            const int32_t *forced, int forced_count)
{
    struct outcome o[2] = {{0}};
    struct dip_ar_engine *engine = engine_new(1, PROMPT_MAX);
    assert_int_equal(admit(engine, 1, seed, prompt, prompt_count, forced, forced_count), DIP_OK);
    run(engine, o);
    dip_ar_engine_free(engine);
    return o[1];
}

/* ---- the network by hand ---- */

struct by_hand {
    struct dip_mem mem;
    struct dip_arena scratch;
    struct dip_ar_cache cache;
    struct dip_tensor ids, hidden, logits, drawn;
    struct dip_row rows[PROMPT_MAX + TOKENS_MAX];
    int row_count;
};

static void by_hand_forward(struct by_hand *h, const int32_t *ids, int count)
{
    int H = f.config->ar.hidden;
    size_t scratch = dip_ar_scratch_bytes(f.model->ar, count);
    size_t parts[] = {(size_t)count * sizeof(int32_t), (size_t)count * (size_t)H * sizeof(float),
                      (size_t)f.config->ar.vocab * sizeof(float), sizeof(int32_t), scratch};
    size_t bytes = 0;
    for (int i = 0; i < 5; i++)
        bytes += dip_arena_round(parts[i]);
    assert_int_equal(dip_reserve(f.device, bytes, &h->mem), DIP_OK);
    struct dip_arena arena;
    dip_arena_init(&arena, h->mem.base, h->mem.bytes);
    h->ids = dip_tensor_1d(dip_arena_push(&arena, parts[0]), DIP_I32, count);
    h->hidden = dip_rows(dip_arena_push(&arena, parts[1]), DIP_F32, count, H);
    h->logits = dip_rows(dip_arena_push(&arena, parts[2]), DIP_F32, 1, f.config->ar.vocab);
    h->drawn = dip_tensor_1d(dip_arena_push(&arena, parts[3]), DIP_I32, 1);
    dip_arena_init(&h->scratch, dip_arena_push(&arena, scratch), scratch);

    memcpy(h->ids.data, ids, (size_t)count * sizeof(int32_t));
    for (int i = 0; i < count; i++)
        h->rows[i] = (struct dip_row){0, i};
    assert_int_equal(dip_ar_cache_init(f.model->ar, f.device, 1, count, &h->cache), DIP_OK);
    struct dip_ar_args args = {
        .hidden = h->hidden, .ids = h->ids, .rows = h->rows, .cache = &h->cache};
    assert_int_equal(dip_ar_forward(f.model->ar, f.stream, &args, &h->scratch), DIP_OK);
    assert_int_equal(dip_wait(f.stream), DIP_OK);
}

static int32_t by_hand_draw(struct by_hand *h, const struct dip_image_params *p, int position,
                            int k)
{
    struct dip_rng_key key = {p->seed, p->image_index, DIP_RNG_TOKEN};
    struct dip_draw draw = {p->temperature, p->top_k, p->top_p, dip_rng_uniform(&key, (uint64_t)k)};
    assert_int_equal(
        dip_ar_logits(f.model->ar, f.stream, h->logits, dip_rows_slice(h->hidden, position, 1)),
        DIP_OK);
    struct dip_sample_args args = {.ids = h->drawn, .logits = h->logits, .draws = &draw};
    assert_int_equal(dip_sample(f.stream, &args), DIP_OK);
    assert_int_equal(dip_wait(f.stream), DIP_OK);
    return *(int32_t *)h->drawn.data;
}

static void by_hand_free(struct by_hand *h)
{
    dip_ar_cache_deinit(f.model->ar, f.device, &h->cache);
    dip_release(f.device, &h->mem);
}

/* Row 0 of the hinge is the state of the prompt's last id, row k that of the k-th image id, the
 * last included; id k+1 is what the sampler draws from row k with the k-th uniform. */
static void matches_the_network(const struct outcome *o, uint64_t seed, const int32_t *prompt,
                                int prompt_count, int forced_count)
{
    int32_t ids[PROMPT_MAX + TOKENS_MAX];
    size_t H = (size_t)f.config->ar.hidden;
    struct dip_image_params params = fixture_params(&f, seed);
    memcpy(ids, prompt, (size_t)prompt_count * sizeof(int32_t));
    memcpy(ids + prompt_count, o->ids, (size_t)o->tokens * sizeof(int32_t));
    struct by_hand hand = {0};
    by_hand_forward(&hand, ids, prompt_count + o->tokens);
    assert_memory_equal((const float *)hand.hidden.data + (size_t)(prompt_count - 1) * H, o->hidden,
                        ((size_t)o->tokens + 1) * H * sizeof(float));
    for (int k = forced_count; k < o->tokens; k++)
        assert_int_equal(by_hand_draw(&hand, &params, prompt_count - 1 + k, k), o->ids[k]);
    by_hand_free(&hand);
}

/* A seed whose image has all its tokens (`is_early` false) or an early end (true). */
static uint64_t seed_find(bool is_early, const int32_t *prompt)
{
    for (uint64_t seed = 1; seed < 1000; seed++) {
        struct outcome o = alone(seed, prompt, PROMPT, NULL, 0);
        free(o.hidden);
        if ((o.tokens < f.tokens) == is_early)
            return seed;
    }
    fail_msg("no such seed");
    return 0;
}

/* ---- tests ---- */

static void events_come_in_order(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    uint64_t seed = seed_find(false, prompt);
    struct dip_ar_engine *engine = engine_new(1, 4);
    struct dip_ar_event event;
    int count = -1;
    assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_OK);
    assert_int_equal(count, 0);
    assert_int_equal(admit(engine, 7, seed, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(dip_ar_engine_live(engine), 1);
    assert_int_equal(dip_ar_engine_free_slots(engine), 0);
    /* 11 prompt rows in chunks of 4: silent twice, then PREFILLED. */
    for (int step = 0; step < 3; step++) {
        assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_OK);
        assert_int_equal(count, step == 2);
    }
    assert_int_equal(event.kind, DIP_AR_PREFILLED);
    for (int k = 1; k <= f.tokens; k++) {
        assert_int_equal(dip_ar_engine_step(engine, &event, 1, &count), DIP_OK);
        assert_int_equal(count, 1);
        assert_int_equal(event.id, 7);
        assert_int_equal(event.tokens_done, k);
        assert_int_equal(event.kind, k < f.tokens ? DIP_AR_TOKENS : DIP_AR_DONE);
    }
    assert_int_equal(dip_ar_engine_live(engine), 0);
    dip_ar_engine_free(engine);
}

static void hinge_and_ids_are_the_networks(void **state)
{
    (void)state;
    int32_t prompt[PROMPT_MAX];
    fixture_prompt(2, prompt, PROMPT_MAX);
    for (int prompt_count = 1; prompt_count <= PROMPT_MAX; prompt_count += 13) {
        struct outcome o = alone(3, prompt, prompt_count, NULL, 0);
        assert_int_equal(o.kind, DIP_AR_DONE);
        matches_the_network(&o, 3, prompt, prompt_count, 0);
        free(o.hidden);
    }
}

static void end_of_sequence_ends_early(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    uint64_t seed = seed_find(true, prompt);
    struct outcome drawn = alone(seed, prompt, PROMPT, NULL, 0);
    assert_true(drawn.tokens < f.tokens);
    int32_t last = drawn.ids[drawn.tokens - 1];
    assert_true(last == f.config->ar.eos_ids[0] || last == f.config->ar.eos_ids[1]);
    matches_the_network(&drawn, seed, prompt, PROMPT, 0);

    int32_t forced[] = {5, 6, f.config->ar.eos_ids[0], 7, 8};
    struct outcome injected = alone(1, prompt, PROMPT, forced, 5);
    assert_int_equal(injected.tokens, 3);
    matches_the_network(&injected, 1, prompt, PROMPT, 3);
    free(drawn.hidden);
    free(injected.hidden);
}

static void forced_ids_replace_draws(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    uint64_t seed = seed_find(false, prompt);
    struct outcome whole = alone(seed, prompt, PROMPT, NULL, 0);
    for (int forced = 1; forced <= f.tokens; forced += 5) {
        struct outcome resumed = alone(seed, prompt, PROMPT, whole.ids, forced);
        outcomes_equal(&whole, &resumed);
        free(resumed.hidden);
    }
    int32_t other[TOKENS_MAX];
    fixture_prompt(77, other, f.tokens);
    struct outcome taught = alone(seed, prompt, PROMPT, other, f.tokens);
    assert_memory_equal(taught.ids, other, (size_t)f.tokens * sizeof(int32_t));
    matches_the_network(&taught, seed, prompt, PROMPT, f.tokens);
    free(taught.hidden);
    free(whole.hidden);
}

static int prefilled_after_one_step(struct dip_ar_engine *engine)
{
    struct dip_ar_event events[EVENTS_MAX];
    int count = 0;
    int prefilled = 0;
    assert_int_equal(dip_ar_engine_step(engine, events, EVENTS_MAX, &count), DIP_OK);
    for (int i = 0; i < count; i++)
        prefilled += events[i].kind == DIP_AR_PREFILLED;
    return prefilled;
}

/* The budget is one prompt a step: only sharing can prefill four jobs in one. */
static void equal_prompts_are_prefilled_once(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    struct dip_ar_engine *engine = engine_new(4, PROMPT);
    for (uint64_t id = 0; id < 3; id++)
        assert_int_equal(admit(engine, id, 100 + id, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(prefilled_after_one_step(engine), 3);
    assert_int_equal(admit(engine, 3, 103, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(prefilled_after_one_step(engine), 1);
    struct outcome together[5] = {{0}};
    run(engine, together);
    /* A free slot still holds the prompt. */
    assert_int_equal(admit(engine, 4, 104, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(prefilled_after_one_step(engine), 1);
    run(engine, together);
    for (uint64_t id = 0; id < 5; id++) {
        struct outcome single = alone(100 + id, prompt, PROMPT, NULL, 0);
        outcomes_equal(&together[id], &single);
        free(single.hidden);
        free(together[id].hidden);
    }
    dip_ar_engine_free(engine);
}

static void siblings_survive_a_cancelled_elder(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    struct dip_ar_engine *engine = engine_new(3, 3);
    for (uint64_t id = 0; id < 3; id++)
        assert_int_equal(admit(engine, id, 50 + id, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(prefilled_after_one_step(engine), 0);
    dip_ar_engine_cancel(engine, 0);
    dip_ar_engine_cancel(engine, 99); /* unknown: ignored */
    assert_int_equal(dip_ar_engine_live(engine), 2);
    struct outcome left[3] = {{0}};
    run(engine, left);
    assert_null(left[0].hidden);
    for (uint64_t id = 1; id < 3; id++) {
        struct outcome single = alone(50 + id, prompt, PROMPT, NULL, 0);
        outcomes_equal(&left[id], &single);
        free(single.hidden);
        free(left[id].hidden);
    }
    dip_ar_engine_free(engine);
}

/* The weight at `offset` bytes, its page of the read-only map replaced by a copy of our own. */
static uint16_t *writable(void *data, size_t offset)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *at = (unsigned char *)data + offset;
    unsigned char *page = at - (uintptr_t)at % page_bytes;
    unsigned char *copy = malloc(page_bytes);
    assert_non_null(copy);
    memcpy(copy, page, page_bytes);
    void *mapped = mmap(page, page_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_ptr_equal(mapped, page);
    memcpy(page, copy, page_bytes);
    free(copy);
    return (uint16_t *)(void *)at;
}

/* An infinity in one embedding row reaches every state of a job that reads it, and no other job. */
static void runaway_numbers_fail_their_job_only(void **state)
{
    (void)state;
    int32_t prompt[PROMPT];
    int32_t poisoned[PROMPT];
    fixture_prompt(1, prompt, PROMPT);
    memcpy(poisoned, prompt, sizeof prompt);
    poisoned[PROMPT / 2] = 301; /* a control token that no prompt of this test holds */
    uint64_t seed = seed_find(false, prompt);
    struct outcome healthy = alone(seed, prompt, PROMPT, NULL, 0);

    const struct dip_weight *table =
        dip_weights_find(f.model->weights, "model.embed_tokens.weight");
    assert_string_equal(table->dtype_name, "BF16");
    uint16_t *value = writable((void *)(uintptr_t)table->data, 301 * (size_t)table->dims[1] * 2);
    uint16_t kept = *value;
    *value = 0x7f80; /* infinity */

    struct dip_ar_engine *engine = engine_new(3, PROMPT);
    struct outcome o[3] = {{0}};
    assert_int_equal(admit(engine, 0, seed, poisoned, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(admit(engine, 1, seed, poisoned, PROMPT, NULL, 0), DIP_OK);
    /* The head is the same table: a draw would meet the infinity too. */
    assert_int_equal(admit(engine, 2, seed, prompt, PROMPT, healthy.ids, f.tokens), DIP_OK);
    run(engine, o);
    assert_int_equal(o[0].kind, DIP_AR_FAILED);
    assert_int_equal(o[1].kind, DIP_AR_FAILED);
    assert_false(o[0].is_prefilled || o[1].is_prefilled);
    outcomes_equal(&o[2], &healthy);
    *value = kept;
    free(o[2].hidden);
    free(healthy.hidden);
    dip_ar_engine_free(engine);
}

static void bad_jobs_are_refused(void **state)
{
    (void)state;
    struct dip_ar_engine *engine = engine_new(2, PROMPT);
    int32_t prompt[PROMPT_MAX + 1];
    fixture_prompt(1, prompt, PROMPT_MAX + 1);
    int32_t outside[] = {1, f.config->ar.vocab};
    int32_t negative[] = {-1};
    assert_int_equal(admit(engine, 1, 1, prompt, 0, NULL, 0), DIP_LIMIT);
    assert_int_equal(admit(engine, 1, 1, prompt, PROMPT_MAX + 1, NULL, 0), DIP_LIMIT);
    assert_int_equal(admit(engine, 1, 1, prompt, PROMPT, prompt, f.tokens + 1), DIP_LIMIT);
    assert_int_equal(admit(engine, 1, 1, outside, 2, NULL, 0), DIP_INVALID);
    assert_int_equal(admit(engine, 1, 1, prompt, PROMPT, negative, 1), DIP_INVALID);
    struct dip_ar_job job = {
        .params = fixture_params(&f, 1), .prompt_ids = prompt, .prompt_count = 1};
    job.params.token_count = TOKENS_MAX + 1;
    assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_LIMIT);
    const float bad[] = {0, -1, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        job.params = fixture_params(&f, 1);
        job.params.temperature = bad[i];
        assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_INVALID);
        job.params = fixture_params(&f, 1);
        job.params.top_p = bad[i];
        assert_int_equal(dip_ar_engine_admit(engine, &job), DIP_INVALID);
    }
    assert_int_equal(dip_ar_engine_live(engine), 0);
    assert_int_equal(admit(engine, 1, 1, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(admit(engine, 1, 1, prompt, PROMPT, NULL, 0), DIP_INVALID); /* same id */
    assert_int_equal(admit(engine, 2, 1, prompt, PROMPT, NULL, 0), DIP_OK);
    assert_int_equal(admit(engine, 3, 1, prompt, PROMPT, NULL, 0), DIP_BUSY);
    dip_ar_engine_free(engine);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    const struct dip_ar_engine_options bad[] = {
        {0, 8, 8, 8, NULL, false, 0},
        {257, 8, 8, 8, NULL, false, 0},
        {1, 0, 8, 8, NULL, false, 0},
        {1, 2049, 8, 8, NULL, false, 0},
        {1, 8, 0, 8, NULL, false, 0},
        {1, 8, 8, 0, NULL, false, 0},
        {1, 8, (1 << 14) + 1, 8, NULL, false, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dip_why why = {0};
        struct dip_ar_engine *engine = NULL;
        assert_int_equal(dip_ar_engine_new(f.model, f.device, &bad[i], &why, &engine), DIP_LIMIT);
        assert_null(engine);
        assert_true(strlen(why.text) > 0);
    }
    dip_ar_engine_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_in_order),
        cmocka_unit_test(hinge_and_ids_are_the_networks),
        cmocka_unit_test(end_of_sequence_ends_early),
        cmocka_unit_test(forced_ids_replace_draws),
        cmocka_unit_test(equal_prompts_are_prefilled_once),
        cmocka_unit_test(siblings_survive_a_cancelled_elder),
        cmocka_unit_test(runaway_numbers_fail_their_job_only),
        cmocka_unit_test(bad_jobs_are_refused),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
