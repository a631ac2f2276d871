/* engine/bench_diffusion.c - the diffusion rows: its largest product, its two memory-bound
 * operations, and whole guided forward passes.
 *
 * A step is bound by arithmetic: at the published size both branches of one picture are 5.3 TFLOP
 * (bench_cost.c). The forward pass is driven without the engine, whose share of a step is a few
 * latent-sized copies. */
#include <stdio.h>

#include "base/assert.h"
#include "engine/bench_private.h"
#include "engine/place.h"
#include "ops/bench.h"

enum { BATCH_MAX = 4, EDGE_DEFAULT = 16, GEMM_ROWS = 1024, MAP_EDGE = 32 };

static int latent_edge(const struct dip__bench *bench)
{
    const struct dip_generation_config *g = &bench->model->config.generation;
    int edge = g->latent_height < g->latent_width ? g->latent_height : g->latent_width;
    if (edge > EDGE_DEFAULT && !dip__bench_is_on_gpu(bench))
        edge = EDGE_DEFAULT;
    edge = bench->options->latent_edge ? bench->options->latent_edge : edge;
    int patch = bench->model->config.dit.patch;
    return (edge + patch - 1) / patch * patch;
}

static enum dip_status bench_gemm(struct dip__bench *bench)
{
    const struct dip_dit_config *c = &bench->model->config.dit;
    struct dip_bench_linear shape = {GEMM_ROWS, 2 * (int64_t)c->ffn, c->width,
                                     dip_device_activation(bench->device), 0};
    struct dip_bench_result result;
    DIP_TRY(dip_bench_linear(bench->device, &shape, &result));
    struct dip__bench_times times = dip__bench_times_best(result.seconds);
    struct dip__bench_rate rate = {"GFLOP/s", 1e9, result.flops, bench->machine.fma_flops_s};
    dip__bench_report_rate(bench, "dit.gemm", &times, &rate, "[%d, %d] x [%d, %d]^T, %s; bound: %s",
                           GEMM_ROWS, c->width, 2 * c->ffn, c->width, dip_dtype_name(shape.dtype),
                           dip__bench_is_on_gpu(bench) ? "the largest product"
                                                       : "multiply-adds in registers");
    return DIP_OK;
}

static enum dip_status bench_depthwise(struct dip__bench *bench)
{
    const struct dip_dit_config *c = &bench->model->config.dit;
    struct dip_bench_depthwise shape = {1, MAP_EDGE, MAP_EDGE, 2 * (int64_t)c->ffn, 3, true};
    struct dip_bench_result result;
    DIP_TRY(dip_bench_depthwise(bench->device, &shape, &result));
    struct dip__bench_times times = dip__bench_times_best(result.seconds);
    struct dip__bench_rate rate = {"GB/s", 1e9, result.bytes, bench->machine.copy_bytes_s};
    dip__bench_report_rate(bench, "dit.depthwise", &times, &rate,
                           "3x3 gated, %d x %d x %d; bound: copying", MAP_EDGE, MAP_EDGE,
                           2 * c->ffn);
    return DIP_OK;
}

static enum dip_status bench_norm(struct dip__bench *bench)
{
    int width = bench->model->config.dit.width;
    int rows = 8 * GEMM_ROWS;
    struct dip_bench_result result;
    DIP_TRY(dip_bench_norm(bench->device, DIP_BENCH_NORM_LAYER, rows, width, &result));
    struct dip__bench_times times = dip__bench_times_best(result.seconds);
    struct dip__bench_rate rate = {"GB/s", 1e9, result.bytes, bench->machine.copy_bytes_s};
    dip__bench_report_rate(bench, "dit.norm", &times, &rate, "[%d, %d]; bound: copying", rows,
                           width);
    return DIP_OK;
}

/* ---- whole steps ---- */

struct step_run {
    int edge;
    int context_rows;
    struct dip_cross_context context; /* one, read by every job of the batch */
    struct dip_tensor latent, uncond, cond;
    struct dip_arena scratch;
};

static size_t step_bytes(const struct dip__bench *bench, const struct step_run *run)
{
    const struct dip_model *m = bench->model;
    int64_t cells = (int64_t)run->edge * run->edge * m->config.dit.latent_channels;
    size_t forward =
        dip_dit_scratch_bytes(m->dit, BATCH_MAX, run->edge, run->edge, run->context_rows);
    size_t context = dip_dit_context_scratch_bytes(m->dit, run->context_rows);
    return 3 * dip__rows_bytes(BATCH_MAX, cells) +
           dip__rows_bytes(run->context_rows, m->config.dit.caption_channels) +
           dip_arena_round(dip_dit_context_bytes(m->dit, run->context_rows)) +
           dip_arena_round(forward > context ? forward : context);
}

static enum dip_status step_prepare(const struct dip__bench *bench, struct dip_arena *arena,
                                    struct step_run *run)
{
    const struct dip_model *m = bench->model;
    int64_t cells = (int64_t)run->edge * run->edge * m->config.dit.latent_channels;
    struct dip_tensor condition;
    DIP_TRY(dip__bench_normals(bench, arena, BATCH_MAX, cells, &run->latent));
    run->uncond = dip__place_rows(arena, BATCH_MAX, cells);
    run->cond = dip__place_rows(arena, BATCH_MAX, cells);
    DIP_TRY(dip__bench_normals(bench, arena, run->context_rows, m->config.dit.caption_channels,
                               &condition));
    void *memory = dip__place(arena, dip_dit_context_bytes(m->dit, run->context_rows));
    size_t left = arena->bytes - arena->used_bytes;
    dip_arena_init(&run->scratch, dip__place(arena, left), left);
    return dip_dit_context_init(m->dit, bench->stream, memory, condition, &run->scratch,
                                &run->context);
}

static enum dip_status time_step(struct dip__bench *bench, struct step_run *run, int batch)
{
    const struct dip_model *m = bench->model;
    struct dip_cross_context contexts[BATCH_MAX];
    float t[BATCH_MAX];
    for (int b = 0; b < batch; b++) {
        contexts[b] = run->context;
        t[b] = 900.0f - 100.0f * (float)b;
    }
    int64_t e = run->edge;
    int64_t c = m->config.dit.latent_channels;
    struct dip_dit_args args = {
        .velocity_uncond = dip_image(run->uncond.data, DIP_F32, batch, e, e, c),
        .velocity_cond = dip_image(run->cond.data, DIP_F32, batch, e, e, c),
        .latent = dip_image(run->latent.data, DIP_F32, batch, e, e, c),
        .t = t,
        .contexts = contexts,
    };
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        dip__bench_start(&times);
        DIP_TRY(dip_dit_forward(m->dit, bench->stream, &args, &run->scratch));
        DIP_TRY(dip_wait(bench->stream));
        dip__bench_stop(&times);
    }
    char name[32];
    snprintf(name, sizeof name, "dit.step.b%d", batch);
    struct dip__cost cost = dip__cost_dit_step(m, batch, run->edge, run->edge, run->context_rows);
    dip__bench_report_time(bench, name, &times, dip__cost_s(bench, cost),
                           "%s, both branches, latent %d x %d, %d context rows, %.3g TFLOP",
                           bench->model_name, run->edge, run->edge, run->context_rows,
                           cost.flops * 1e-12);
    return DIP_OK;
}

/* ---- the part ---- */

static enum dip_status bench_steps(struct dip__bench *bench)
{
    const struct dip_generation_config *g = &bench->model->config.generation;
    struct step_run run = {.edge = latent_edge(bench),
                           .context_rows = g->grid_height * g->grid_width + 1};
    struct dip_mem mem = {0};
    struct dip_arena arena;
    DIP_TRY(dip__bench_reserve(bench, step_bytes(bench, &run), &mem, &arena));
    enum dip_status status = step_prepare(bench, &arena, &run);
    if (!status)
        status = time_step(bench, &run, 1);
    if (!status)
        status = time_step(bench, &run, BATCH_MAX);
    dip_release(bench->device, &mem);
    return status;
}

enum dip_status dip__bench_diffusion(struct dip__bench *bench)
{
    if (!bench->model->dit)
        return dip_fail(bench->why, DIP_INVALID, "%s has no diffusion panel", bench->model_name);
    DIP_TRY(bench_gemm(bench));
    DIP_TRY(bench_depthwise(bench));
    DIP_TRY(bench_norm(bench));
    return bench_steps(bench);
}
