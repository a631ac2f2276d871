/* tests/unit/ar_group_record.c - the ranks of a group repeat recorded steps, cut where they
 * exchange something through the host, and draw what one engine alone draws, bit for bit, on
 * emulated GPUs: jobs that join and leave, and ids that a recorded step cannot draw. */
#include "tests/ranks.h"

#include "engine/ar_engine.h"
#include "tests/cuda_emulator/cuda_runtime_api.h"
#include "tests/emulator.h"

enum { SLOTS = 2, PROMPT = 4, TOKENS = 8, JOBS = 4, IDLE_MS = 20 };

static const struct dip_ar_engine_options limits = {.slot_count = SLOTS,
                                                    .prompt_tokens_max = PROMPT,
                                                    .image_tokens_max = TOKENS,
                                                    .prefill_rows_max = PROMPT};
static struct dip_ar_engine_options options; /* of the ranks that are forked next */
static const char *transport;

/* What rank 0 leaves on the board, in its row of results. */
struct outcome {
    int32_t tokens[JOBS], ids[JOBS][TOKENS];
    float hidden[JOBS][(TOKENS + 1) * 96];
    uint32_t steps, calls_min; /* calls of the host in the step that had fewest */
};

static const struct {
    int admit_step, cancel_step, tokens, top_k;
} plan[JOBS] = {{0, -1, TOKENS, 50}, {2, 5, TOKENS, 40}, {6, -1, 6, 1}, {12, -1, 3, 0}};

static void admit(struct dip_ar_engine *engine, int index)
{
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = 3 + 7 * i + 13 * index;
    struct dip_ar_job job = {.id = (uint64_t)index + 1,
                             .params = {.seed = 40 + (uint64_t)index,
                                        .temperature = 1.2f,
                                        .top_k = plan[index].top_k,
                                        .top_p = 0.95f,
                                        .token_count = plan[index].tokens},
                             .prompt_ids = prompt,
                             .prompt_count = PROMPT};
    need_ok(dip_ar_engine_admit(engine, &job));
}

static uint32_t calls(void)
{
    struct dip_emulator_counts counts;
    void (*count)(struct dip_emulator_counts *) = NULL;
    *(void **)&count = emulator_symbol("dip_emulator_count");
    count(&counts);
    return (uint32_t)counts.calls;
}

static void take(const struct dip_ar_event *event, int64_t H, struct outcome *o)
{
    int index = (int)event->id - 1;
    need(event->kind != DIP_AR_FAILED);
    if (event->kind != DIP_AR_DONE)
        return;
    o->tokens[index] = event->tokens_done;
    memcpy(o->ids[index], event->image_ids, (size_t)event->tokens_done * sizeof(int32_t));
    memcpy(o->hidden[index], event->hidden,
           (size_t)(event->tokens_done + 1) * (size_t)H * sizeof(float));
}

static void lead(struct dip_ar_engine *engine, struct outcome *o)
{
    int next = 0;
    o->calls_min = UINT32_MAX;
    for (int step = 0; next < JOBS || dip_ar_engine_live(engine) > 0; step++) {
        struct dip_ar_event events[SLOTS];
        int count = 0;
        for (int i = 0; i < JOBS; i++)
            if (plan[i].cancel_step == step)
                dip_ar_engine_cancel(engine, (uint64_t)i + 1);
        if (next < JOBS && plan[next].admit_step <= step && dip_ar_engine_free_slots(engine) > 0)
            admit(engine, next++);
        uint32_t before = calls();
        need_ok(dip_ar_engine_step(engine, events, SLOTS, &count));
        uint32_t made = calls() - before;
        if (count > 0)
            o->calls_min = made < o->calls_min ? made : o->calls_min;
        for (int i = 0; i < count; i++)
            take(&events[i], engine->config->hidden, o);
        o->steps++;
        need(o->steps < 100);
    }
}

static struct dip_ar_engine *open_rank(struct rank_context *c, struct dip_model **ret_model)
{
    struct dip_why why = {0};
    struct dip_ar_engine *engine = NULL;
    if (dip_model_open("tests/golden/tiny-a/model", &why, ret_model))
        rank_fail(__FILE__, __LINE__, "dip_model_open", why.text);
    need((*ret_model)->config.ar.hidden <= 96);
    options.comm = c->ranks->count > 1 ? c->comm : NULL;
    if (dip_ar_engine_new(*ret_model, c->device, &options, &why, &engine))
        rank_fail(__FILE__, __LINE__, "dip_ar_engine_new", why.text);
    return engine;
}

static void run_rank(struct rank_context *c)
{
    struct dip_model *model = NULL;
    struct dip_ar_engine *engine = open_rank(c, &model);
    struct outcome *o = (struct outcome *)(void *)c->ranks->board->results[0];
    enum dip_status status = DIP_OK;
    need(!engine->decode == options.is_stepwise);
    need(c->ranks->count == 1 || strcmp(dip_comm_transport(c->comm), transport) == 0);
    if (c->rank == 0)
        lead(engine, o);
    while (c->rank > 0 && (!status || status == DIP_BUSY))
        status = dip_ar_engine_follow(engine, IDLE_MS * DIP_MS_NS);
    need(c->rank == 0 || status == DIP_UNREACHABLE); /* rank 0 has left */
    dip_ar_engine_free(engine);
    dip_model_close(model);
}

struct kind {
    int degree;
    bool is_stepwise;
    bool is_linked; /* each rank has a GPU of its own, and NCCL between them is played */
    int candidates_max;
};

static void run(const struct kind *kind, struct outcome *ret_outcome)
{
    struct ranks ranks = {.backend = "shm",
                          .count = kind->degree,
                          .silence_ns_max = 60 * DIP_SECOND_NS,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    options = limits;
    options.is_stepwise = kind->is_stepwise;
    options.candidates_max = kind->candidates_max;
    transport = kind->is_linked ? "nccl" : "shm";
    if (kind->is_linked)
        setenv("DIPTYCH_EMULATED_APART", "1", 1);
    ranks_start(&ranks, run_rank);
    unsetenv("DIPTYCH_EMULATED_APART");
    for (int r = 0; r < kind->degree; r++)
        assert_int_equal(ranks_wait(&ranks, r), 0);
    memcpy(ret_outcome, (const void *)(uintptr_t)ranks.board->results[0], sizeof *ret_outcome);
    ranks_end(&ranks);
    print_message("degree %d, %s%s: %u steps, %u calls in the shortest\n", kind->degree, transport,
                  kind->is_stepwise ? ", stepwise" : "", ret_outcome->steps,
                  ret_outcome->calls_min);
}

static void assert_equal(const struct outcome *a, const struct outcome *b)
{
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(a->tokens[i] > 0, plan[i].cancel_step < 0);
    assert_memory_equal(a, b, offsetof(struct outcome, steps));
}

static void recorded_steps_draw_the_same(void **state)
{
    (void)state;
    static struct outcome alone, stepwise, recorded, starved, linked;
    run(&(struct kind){.degree = 1}, &alone);
    run(&(struct kind){.degree = 2, .is_stepwise = true}, &stepwise);
    run(&(struct kind){.degree = 2}, &recorded);
    run(&(struct kind){.degree = 2, .candidates_max = 4}, &starved);
    run(&(struct kind){.degree = 2, .is_linked = true}, &linked);
    assert_equal(&alone, &stepwise);
    assert_equal(&alone, &recorded);
    assert_equal(&alone, &starved);
    assert_equal(&alone, &linked);
    assert_int_equal(recorded.steps, stepwise.steps);
    assert_int_equal(linked.steps, stepwise.steps);
    assert_true(starved.steps > recorded.steps); /* what could not be drawn took a general step */
    assert_true(recorded.calls_min < stepwise.calls_min);
    assert_int_equal(linked.calls_min, 3); /* the note there, a graph, the notes back */
}

/* ---- a lost rank ---- */

static void run_lost(struct rank_context *c)
{
    struct dip_model *model = NULL;
    struct dip_ar_engine *engine = open_rank(c, &model);
    struct dip_ar_event events[SLOTS];
    enum dip_status status = DIP_OK;
    int count = 0;
    if (c->rank == 0)
        admit(engine, 0);
    for (int turn = 0; c->rank == 1; turn++) { /* the prompt, then recorded steps */
        if (turn == 6)
            raise(SIGKILL);
        status = dip_ar_engine_follow(engine, IDLE_MS * DIP_MS_NS);
        need(!status || status == DIP_BUSY);
    }
    while (!status)
        status = dip_ar_engine_step(engine, events, SLOTS, &count);
    need(status == DIP_UNREACHABLE);
    need(dip_ar_engine_step(engine, events, SLOTS, &count) == status); /* for good */
    dip_ar_engine_free(engine);
    dip_model_close(model);
}

static void check_lost(bool is_linked)
{
    struct ranks ranks = {.backend = "shm",
                          .count = 2,
                          .silence_ns_max = 60 * DIP_SECOND_NS,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    options = limits;
    if (is_linked)
        setenv("DIPTYCH_EMULATED_APART", "1", 1);
    ranks_start(&ranks, run_lost);
    unsetenv("DIPTYCH_EMULATED_APART");
    assert_int_equal(ranks_wait(&ranks, 0), 0);
    assert_true(WIFSIGNALED(ranks_wait(&ranks, 1)));
    ranks_end(&ranks);
}

static void a_lost_rank_ends_recorded_steps(void **state)
{
    (void)state;
    check_lost(false);
    check_lost(true);
}

int main(void)
{
    setenv("DIPTYCH_TEST_BACKEND", "cuda", 1);
    setenv("DIPTYCH_TEST_PLUGIN", DIP_EMULATED_PLUGIN, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_steps_draw_the_same),
        cmocka_unit_test(a_lost_rank_ends_recorded_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
