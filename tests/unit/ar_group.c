/* tests/unit/ar_group.c - the autoregressive engine over several ranks, each a process: the jobs of
 * one alone, in all bits, whenever they come and go; and an end in time when a rank is lost.
 *
 * `test_unit_ar_group bench SHAPE` measures decoding instead (SHAPE: see dip_config_shape). */
#include "engine/engine.h"
#include "tests/ranks.h"

enum { SLOTS = 3, PROMPT_MAX = 40, TOKENS = 16, JOBS = 8, IDLE_MS = 20 };

static const char *directory; /* of the model, for the ranks */

static struct dip_model *model_open(void)
{
    struct dip_why why = {0};
    struct dip_model *model = NULL;
    if (dip_model_open(directory, &why, &model))
        rank_fail(__FILE__, __LINE__, directory, why.text);
    return model;
}

static struct dip_ar_engine *engine_new(struct rank_context *c, const struct dip_model *model,
                                        struct dip_comm *comm)
{
    struct dip_ar_engine_options options = {.slot_count = SLOTS,
                                            .prompt_tokens_max = PROMPT_MAX,
                                            .image_tokens_max = TOKENS,
                                            .prefill_rows_max = 16,
                                            .comm = comm};
    struct dip_why why = {0};
    struct dip_ar_engine *engine = NULL;
    if (dip_ar_engine_new(model, c->device, &options, &why, &engine))
        rank_fail(__FILE__, __LINE__, "dip_ar_engine_new", why.text);
    return engine;
}

/* ---- jobs ---- */

struct outcome {
    bool is_done;
    int events, tokens;
    int32_t ids[TOKENS];
    float *hidden; /* [tokens + 1, H] */
};

struct side {
    struct dip_ar_engine *engine;
    const struct dip_ar_config *config;
    struct outcome outcomes[JOBS]; /* by id - 1 */
};

static void outcome_take(struct side *side, const struct dip_ar_event *event)
{
    struct outcome *o = &side->outcomes[event->id - 1];
    o->events++;
    need(event->kind != DIP_AR_FAILED);
    if (event->kind != DIP_AR_DONE)
        return;
    need(!o->is_done);
    size_t count = ((size_t)event->tokens_done + 1) * (size_t)side->config->hidden;
    o->is_done = true;
    o->tokens = event->tokens_done;
    memcpy(o->ids, event->image_ids, (size_t)o->tokens * sizeof o->ids[0]);
    o->hidden = malloc(count * sizeof *o->hidden);
    need(o->hidden);
    memcpy(o->hidden, event->hidden, count * sizeof *o->hidden);
}

static enum dip_status step(struct side *side)
{
    struct dip_ar_event events[SLOTS];
    int count = 0;
    enum dip_status status = dip_ar_engine_step(side->engine, events, SLOTS, &count);
    for (int i = 0; i < count && !status; i++)
        outcome_take(side, &events[i]);
    return status;
}

/* Jobs 2 and 3 share a prompt; 4 is greedy; 5 keeps every id; 6 begins with given ids. */
static enum dip_status admit(struct side *side, uint64_t id)
{
    int32_t prompt[PROMPT_MAX];
    int32_t forced[5];
    int count = id == 7 ? 30 : 11 + (int)id % 2;
    for (int i = 0; i < count; i++)
        prompt[i] = 3 + (int32_t)(i * 7 + (id == 3 ? 2 : (int)id) * 13) % 200;
    for (int i = 0; i < 5; i++)
        forced[i] = 5 + i;
    struct dip_ar_job job = {.id = id,
                             .params = {.seed = 40 + id,
                                        .temperature = id % 2 ? 1.0f : 0.8f,
                                        .top_k = id == 4   ? 1
                                                 : id == 5 ? 0
                                                           : 50,
                                        .top_p = id == 5 ? 1.0f : 0.95f,
                                        .token_count = TOKENS - (int)id % 3},
                             .prompt_ids = prompt,
                             .prompt_count = id == 3 ? 11 : count,
                             .forced_ids = forced,
                             .forced_count = id == 6 ? 5 : 0};
    if (id == 2)
        job.prompt_count = 11;
    return dip_ar_engine_admit(side->engine, &job);
}

static void finish(struct side *side)
{
    while (dip_ar_engine_live(side->engine) > 0)
        need_ok(step(side));
}

/* Jobs one after another, by one engine that holds the whole panel. */
static void run_alone(struct rank_context *c, const struct dip_model *model, struct side *side)
{
    *side = (struct side){.engine = engine_new(c, model, NULL), .config = &model->config.ar};
    for (uint64_t id = 1; id <= JOBS; id++) {
        need_ok(admit(side, id));
        finish(side);
    }
    dip_ar_engine_free(side->engine);
}

static void compare(const struct side *group, const struct side *alone, uint64_t id)
{
    const struct outcome *a = &group->outcomes[id - 1];
    const struct outcome *b = &alone->outcomes[id - 1];
    need(a->is_done && b->is_done);
    need(a->tokens == b->tokens);
    need(memcmp(a->ids, b->ids, (size_t)a->tokens * sizeof a->ids[0]) == 0);
    size_t count = ((size_t)a->tokens + 1) * (size_t)alone->config->hidden;
    need(memcmp(a->hidden, b->hidden, count * sizeof *a->hidden) == 0);
}

static void side_deinit(struct side *side)
{
    for (int i = 0; i < JOBS; i++)
        free(side->outcomes[i].hidden);
}

/* ---- same bits ---- */

static void follow(struct dip_ar_engine *engine)
{
    enum dip_status status;
    do
        status = dip_ar_engine_follow(engine, IDLE_MS * DIP_MS_NS);
    while (!status || status == DIP_BUSY);
    need(status == DIP_UNREACHABLE); /* rank 0 has left */
}

static void lead(struct side *side)
{
    need_ok(admit(side, 1));
    need_ok(step(side));
    need_ok(admit(side, 2)); /* joins in mid-decode, with another beside it */
    need_ok(admit(side, 3));
    need(admit(side, 4) == DIP_BUSY); /* queued jobs count */
    need(admit(side, 3) == DIP_INVALID);
    need_ok(step(side));
    need_ok(step(side));
    need(dip_ar_engine_live(side->engine) == 3);
    dip_ar_engine_cancel(side->engine, 1); /* in mid-decode; its slot is taken at once */
    int events = side->outcomes[0].events;
    need(dip_ar_engine_free_slots(side->engine) == 1);
    need_ok(admit(side, 4));
    need_ok(step(side));
    need_ok(step(side));
    need(side->outcomes[0].events == events);
    finish(side);
    need(!side->outcomes[0].is_done);

    dip_clock_sleep(3 * IDLE_MS * DIP_MS_NS); /* the others wait, and are not late */
    need_ok(admit(side, 5));
    dip_ar_engine_cancel(side->engine, 5); /* before anybody heard of it */
    need_ok(admit(side, 5));
    need_ok(admit(side, 6));
    need_ok(admit(side, 1));
    dip_ar_engine_cancel(side->engine, 99); /* nobody's */
    need_ok(step(side));
    dip_ar_engine_cancel(side->engine, 1);
    need_ok(step(side));
    need_ok(step(side));
    need_ok(admit(side, 1));
    finish(side);
    need_ok(admit(side, 7));
    need_ok(admit(side, 8));
    dip_ar_engine_cancel(side->engine, 8);
    need(dip_ar_engine_free_slots(side->engine) == 2);
    finish(side);
    need(side->outcomes[7].events == 0);
    need_ok(admit(side, 8));
    finish(side);
}

static void run_group(struct rank_context *c)
{
    struct dip_model *model = model_open();
    struct side group = {.engine = engine_new(c, model, c->comm), .config = &model->config.ar};
    if (c->rank == 0) {
        lead(&group);
    } else {
        follow(group.engine);
    }
    dip_ar_engine_free(group.engine);
    dip_comm_close(c->comm); /* the others end with it, not after the comparison */
    c->comm = NULL;
    if (c->rank == 0) {
        struct side alone;
        run_alone(c, model, &alone);
        for (uint64_t id = 1; id <= JOBS; id++)
            compare(&group, &alone, id);
        need(memcmp(alone.outcomes[1].ids, alone.outcomes[2].ids, sizeof alone.outcomes[1].ids));
        side_deinit(&alone);
    }
    side_deinit(&group);
    dip_model_close(model);
}

static void check_degree(const char *model, int degree, const char *backend)
{
    directory = model;
    struct ranks ranks = {.backend = backend,
                          .count = degree,
                          .silence_ns_max = 20 * DIP_SECOND_NS,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    ranks_run(&ranks, run_group);
    ranks_end(&ranks);
}

static void every_degree_draws_the_same(void **state)
{
    (void)state;
    check_degree("tests/golden/tiny-b/model", 1, "shm");
    check_degree("tests/golden/tiny-b/model", 2, "shm");
    check_degree("tests/golden/tiny-b/model", 4, "shm");
    check_degree("tests/golden/tiny-a/model", 2, "shm");
    check_degree("tests/golden/tiny-b/model", 2, "tcp");
}

/* ---- lost ranks ---- */

static int lost_signal;

static void run_lost(struct rank_context *c)
{
    struct dip_model *model = model_open();
    struct side side = {.engine = engine_new(c, model, c->comm), .config = &model->config.ar};
    enum dip_status status = DIP_OK;
    if (c->rank == 0) {
        uint64_t id = 0;
        while (!status) { /* jobs without end: the loss comes in the middle of something */
            if (dip_ar_engine_free_slots(side.engine) > 0)
                need_ok(admit(&side, id++ % JOBS + 1));
            struct dip_ar_event events[SLOTS];
            int count = 0;
            status = dip_ar_engine_step(side.engine, events, SLOTS, &count);
        }
        need(dip_ar_engine_step(side.engine, NULL, SLOTS, &(int){0}) == status); /* for good */
    } else {
        for (int turns = 0; !status || status == DIP_BUSY; turns++) {
            if (c->rank == c->ranks->count - 1 && turns == 30) {
                c->ranks->board->lost_ns = dip_clock_now_ns();
                raise(lost_signal);
            }
            status = dip_ar_engine_follow(side.engine, IDLE_MS * DIP_MS_NS);
        }
    }
    c->ranks->board->seen_ns[c->rank] = dip_clock_now_ns();
    need(status == (lost_signal == SIGKILL ? DIP_UNREACHABLE : DIP_TIMEOUT));
    dip_ar_engine_free(side.engine);
    dip_model_close(model);
}

static void check_lost(int degree, int sig, int64_t silence_ns, int64_t bound_ns)
{
    directory = "tests/golden/tiny-b/model";
    lost_signal = sig;
    struct ranks ranks = {.backend = "shm",
                          .count = degree,
                          .silence_ns_max = silence_ns,
                          .wait_ns_max = 60 * DIP_SECOND_NS};
    ranks_start(&ranks, run_lost);
    for (int r = 0; r < degree - 1; r++)
        assert_int_equal(ranks_wait(&ranks, r), 0);
    for (int r = 0; r < degree - 1; r++)
        assert_true(ranks.board->seen_ns[r] - ranks.board->lost_ns < bound_ns);
    if (sig == SIGSTOP)
        kill(ranks.pids[degree - 1], SIGKILL);
    assert_true(WIFSIGNALED(ranks_wait(&ranks, degree - 1)));
    ranks_end(&ranks);
}

/* Bounds with room for a busy machine; alone it is milliseconds. */
static void a_killed_rank_ends_the_step(void **state)
{
    (void)state;
    check_lost(2, SIGKILL, 60 * DIP_SECOND_NS, DIP_SECOND_NS);
    check_lost(4, SIGKILL, 60 * DIP_SECOND_NS, DIP_SECOND_NS);
}

static void a_stopped_rank_ends_the_step(void **state)
{
    (void)state;
    check_lost(2, SIGSTOP, 0, 3 * DIP_SECOND_NS); /* the default silence is a second */
}

/* ---- refused ---- */

static void run_refused(struct rank_context *c)
{
    struct dip_model *model = model_open();
    struct dip_why why = {0};
    struct dip_ar_engine *engine = NULL;
    struct dip_ar_engine_options options = {.slot_count = 1,
                                            .prompt_tokens_max = PROMPT_MAX,
                                            .image_tokens_max = TOKENS,
                                            .prefill_rows_max = 16,
                                            .comm = c->comm};
    need(dip_ar_engine_new(model, c->device, &options, &why, &engine) == DIP_UNSUPPORTED);
    need(strstr(why.text, "key/value heads"));
    dip_model_close(model);
}

static void a_model_that_cannot_be_cut_is_refused(void **state)
{
    (void)state;
    directory = "tests/golden/tiny-c/model";
    struct ranks ranks = {.backend = "shm", .count = 2, .silence_ns_max = 20 * DIP_SECOND_NS};
    ranks_run(&ranks, run_refused);
    ranks_end(&ranks);
}

/* ---- measuring ---- */

enum { BENCH_SLOTS = 16, BENCH_PROMPT = 16, BENCH_TOKENS = 160, BENCH_STEPS = 40 };

static struct dip_model *bench_model; /* made before the ranks are forked, so that they share it */
static int bench_jobs;

static void bench_admit(struct dip_ar_engine *engine, uint64_t id)
{
    int32_t prompt[BENCH_PROMPT];
    for (int i = 0; i < BENCH_PROMPT; i++)
        prompt[i] = 100 + 17 * i;
    struct dip_ar_job job = {.id = id,
                             .params = {.seed = id,
                                        .temperature = 1,
                                        .top_k = 1200,
                                        .top_p = 0.95f,
                                        .token_count = BENCH_TOKENS},
                             .prompt_ids = prompt,
                             .prompt_count = BENCH_PROMPT};
    need_ok(dip_ar_engine_admit(engine, &job));
}

static void run_bench(struct rank_context *c)
{
    alarm(900);
    struct dip_ar_engine_options options = {.slot_count = BENCH_SLOTS,
                                            .prompt_tokens_max = BENCH_PROMPT,
                                            .image_tokens_max = BENCH_TOKENS,
                                            .prefill_rows_max = BENCH_PROMPT,
                                            .comm = c->comm};
    struct dip_why why = {0};
    struct dip_ar_engine *engine = NULL;
    if (dip_ar_engine_new(bench_model, c->device, &options, &why, &engine))
        rank_fail(__FILE__, __LINE__, "dip_ar_engine_new", why.text);
    if (c->rank > 0) {
        enum dip_status status;
        do
            status = dip_ar_engine_follow(engine, IDLE_MS * DIP_MS_NS);
        while (!status || status == DIP_BUSY);
        dip_ar_engine_free(engine);
        return;
    }
    struct dip_ar_event events[BENCH_SLOTS];
    int64_t best_ns = INT64_MAX;
    int count = 0;
    for (int i = 0; i < bench_jobs; i++)
        bench_admit(engine, (uint64_t)i + 1);
    for (int decoding = 0; decoding < BENCH_STEPS;) {
        int64_t begin_ns = dip_clock_now_ns();
        need_ok(dip_ar_engine_step(engine, events, BENCH_SLOTS, &count));
        int64_t step_ns = dip_clock_now_ns() - begin_ns;
        int tokens = 0;
        for (int i = 0; i < count; i++)
            tokens += events[i].kind == DIP_AR_TOKENS;
        if (tokens < bench_jobs)
            continue;
        decoding++;
        best_ns = step_ns < best_ns ? step_ns : best_ns;
    }
    printf("TP %d, %d threads each, %2d sequences: %7.1f ms a step, %7.1f tokens/s\n",
           c->ranks->count, dip_device_threads(c->device), bench_jobs, (double)best_ns * 1e-6,
           (double)bench_jobs * 1e9 / (double)best_ns);
    dip_ar_engine_free(engine);
}

static int bench_main(const char *shape)
{
    struct dip_why why = {0};
    if (dip_model_random(shape, 1, &why, &bench_model)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int degree = 1;
         dip_shard_check(&bench_model->config.ar, degree, NULL) == DIP_OK && degree <= 2 * cores;
         degree *= 2) {
        for (bench_jobs = 1; bench_jobs <= BENCH_SLOTS; bench_jobs *= 4) {
            struct ranks ranks = {.backend = "shm",
                                  .count = degree,
                                  .threads = degree < cores ? cores / degree : 1,
                                  .silence_ns_max = 60 * DIP_SECOND_NS,
                                  .wait_ns_max = 60 * DIP_SECOND_NS};
            ranks_run(&ranks, run_bench);
            ranks_end(&ranks);
        }
    }
    dip_model_close(bench_model);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "bench") == 0)
        return bench_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_degree_draws_the_same),
        cmocka_unit_test(a_killed_rank_ends_the_step),
        cmocka_unit_test(a_stopped_rank_ends_the_step),
        cmocka_unit_test(a_model_that_cannot_be_cut_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
