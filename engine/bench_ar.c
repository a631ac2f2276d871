/* engine/bench_ar.c - the autoregressive rows: prefill, lockstep decoding at several widths, one
 * draw.
 *
 * Prefill and decode are timed through the engine, so its own cost is inside the figure. A decode
 * step reads every weight once, whatever the number of sequences; that is its bound until the
 * arithmetic of many rows takes longer. Each width gives two rows: what a step takes, and how many
 * tokens come in a second, with what company gains over one sequence. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "engine/bench_private.h"
#include "ops/bench.h"

enum { PROMPT = 128, TOKENS = 48, SLOTS = 16 };
/* On a GPU: a picture's tokens, so that the mean context is a picture's; steps of one sample. */
enum { GPU_TOKENS = 729, GPU_SLOTS = 64, GPU_STEPS = 24 };

struct ar_run {
    const struct dip__bench *bench;
    struct dip_ar_engine *engine;
    int slots, tokens, steps;
    uint64_t id_next;
    uint64_t prompt_next;
    double alone_s; /* a step of one sequence, once that is measured */
};

static enum dip_status run_step(struct ar_run *run, int *ret_prefilled)
{
    struct dip_ar_event events[GPU_SLOTS];
    int count = 0;
    DIP_TRY(dip_ar_engine_step(run->engine, events, run->slots, &count));
    for (int i = 0; i < count; i++) {
        if (events[i].kind == DIP_AR_FAILED)
            return dip_fail(run->bench->why, DIP_CORRUPT, "%s: what it computes are no numbers",
                            run->bench->model_name);
        *ret_prefilled += events[i].kind == DIP_AR_PREFILLED;
    }
    return DIP_OK;
}

/* Empties the engine and admits `jobs` with a prompt it has not seen. */
static enum dip_status run_admit(struct ar_run *run, int jobs)
{
    int32_t prompt[PROMPT];
    struct dip_rng_key key = {.seed = run->prompt_next++, .purpose = DIP_RNG_TEST};
    int vocab = run->bench->model->config.ar.vocab;
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = (int32_t)(dip_rng_uniform(&key, (uint64_t)i) * (float)vocab * 0.999f);
    for (uint64_t i = 1; i <= (uint64_t)run->slots && i <= run->id_next; i++)
        dip_ar_engine_cancel(run->engine, run->id_next - i);
    for (int i = 0; i < jobs; i++) {
        struct dip_ar_job job = {
            .id = run->id_next++,
            .params = {.seed = 1,
                       .image_index = (uint32_t)i,
                       .temperature = 1,
                       .top_k = 1200,
                       .top_p = 0.95f,
                       .token_count = run->tokens},
            .prompt_ids = prompt,
            .prompt_count = PROMPT,
        };
        DIP_TRY(dip_ar_engine_admit(run->engine, &job));
    }
    return DIP_OK;
}

static enum dip_status bench_prefill(struct ar_run *run)
{
    const struct dip__bench *bench = run->bench;
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        int prefilled = 0;
        DIP_TRY(run_admit(run, 1));
        dip__bench_start(&times);
        DIP_TRY(run_step(run, &prefilled));
        dip__bench_stop(&times);
        dip_assert(prefilled == 1);
    }
    double bound_s = dip__cost_s(
        bench, dip__cost_ar(bench->model, PROMPT, 0, PROMPT / 2, dip__cost_kv_bytes(bench)));
    dip__bench_report_time(bench, "ar.prefill", &times, bound_s, "%s, %d tokens", bench->model_name,
                           PROMPT);
    return DIP_OK;
}

/* Of the contexts that the steps of a sample see the mean; on a CPU the prompt, which is most. */
static int run_keys(const struct ar_run *run)
{
    return dip__bench_is_on_gpu(run->bench) ? PROMPT + run->tokens / 2 : PROMPT;
}

/* What `times` says, as time and as rate. */
static void report_decode(struct ar_run *run, int jobs, const struct dip__bench_times *times)
{
    const struct dip__bench *bench = run->bench;
    struct dip__cost cost =
        dip__cost_ar(bench->model, jobs, jobs, run_keys(run), dip__cost_kv_bytes(bench));
    double bound_s = dip__cost_s(bench, cost);
    bool is_memory = bound_s * bench->machine.read_bytes_s <= cost.bytes * 1.000001;
    char name[32];
    snprintf(name, sizeof name, "ar.decode.b%d", jobs);
    dip__bench_report_time(bench, name, times, bound_s,
                           "%s, %d sequences, %d keys each, a step; bound: %s", bench->model_name,
                           jobs, run_keys(run), is_memory ? "reading once" : "multiply-adds");
    if (jobs == 1)
        run->alone_s = dip__bench_best_s(times);
    struct dip__bench_rate rate = {
        .unit = "tokens/s", .scale = 1, .work = jobs, .bound = jobs / bound_s};
    snprintf(name, sizeof name, "ar.tokens.b%d", jobs);
    dip__bench_report_rate(bench, name, times, &rate, "%.2f times one sequence's",
                           jobs * run->alone_s / dip__bench_best_s(times));
}

static enum dip_status bench_decode(struct ar_run *run, int jobs)
{
    const struct dip__bench *bench = run->bench;
    struct dip__bench_times times = dip__bench_times(bench);
    int left = 0; /* steps until the first job would be done */
    while (dip__bench_more(&times)) {
        int prefilled = 0;
        if (left <= run->steps || dip_ar_engine_live(run->engine) < jobs) {
            DIP_TRY(run_admit(run, jobs));
            while (prefilled < jobs)
                DIP_TRY(run_step(run, &prefilled));
            left = run->tokens;
        }
        dip__bench_start(&times);
        for (int i = 0; i < run->steps; i++)
            DIP_TRY(run_step(run, &prefilled));
        dip__bench_stop(&times);
        times.ns[times.count - 1] /= run->steps;
        left -= run->steps;
    }
    report_decode(run, jobs, &times);
    return DIP_OK;
}

static enum dip_status bench_sample(struct dip__bench *bench)
{
    int64_t V = bench->model->config.ar.vocab;
    struct dip_bench_result result;
    DIP_TRY(dip_bench_sample(bench->device, 1, V, &result));
    struct dip__bench_times times = dip__bench_times_best(result.seconds);
    double bytes = (double)V * sizeof(float);
    dip__bench_report_time(bench, "ar.sample", &times, bytes / bench->machine.read_bytes_s,
                           "%lld logits, top-k 1200, top-p 0.95; bound: reading them once",
                           (long long)V);
    return DIP_OK;
}

static enum dip_status engine_rows(struct ar_run *run)
{
    DIP_TRY(bench_prefill(run));
    DIP_TRY(bench_decode(run, 1));
    DIP_TRY(bench_decode(run, 4));
    DIP_TRY(bench_decode(run, SLOTS));
    return run->slots > SLOTS ? bench_decode(run, run->slots) : DIP_OK;
}

enum dip_status dip__bench_ar(struct dip__bench *bench)
{
    if (!bench->model->ar)
        return dip_fail(bench->why, DIP_INVALID, "%s has no autoregressive panel",
                        bench->model_name);
    bool is_on_gpu = dip__bench_is_on_gpu(bench);
    struct ar_run run = {.bench = bench,
                         .slots = is_on_gpu ? GPU_SLOTS : SLOTS,
                         .tokens = is_on_gpu ? GPU_TOKENS : TOKENS,
                         .steps = is_on_gpu ? GPU_STEPS : 1};
    struct dip_ar_engine_options options = {.slot_count = run.slots,
                                            .prompt_tokens_max = PROMPT,
                                            .image_tokens_max = run.tokens,
                                            .prefill_rows_max = PROMPT};
    DIP_TRY(dip_ar_engine_new(bench->model, bench->device, &options, bench->why, &run.engine));
    enum dip_status status = engine_rows(&run);
    dip_ar_engine_free(run.engine);
    return status ? status : bench_sample(bench);
}
