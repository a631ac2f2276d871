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

enum { BATCH_MAX = 4, EDGE_DEFAULT = 16, GEMM_ROWS = 1024 };

static int latent_edge(const struct dip__bench *bench)
{
    const struct dip_generation_config *g = &bench->model->config.generation;
    int edge = g->latent_height < g->latent_width ? g->latent_height : g->latent_width;
    if (edge > EDGE_DEFAULT)
        edge = EDGE_DEFAULT;
    edge = bench->options->latent_edge ? bench->options->latent_edge : edge;
    int patch = bench->model->config.dit.patch;
    return (edge + patch - 1) / patch * patch;
}

static enum dip_status time_gemm(struct dip__bench *bench, struct dip_arena *arena)
{
    const struct dip_dit_config *c = &bench->model->config.dit;
    int64_t D = c->width;
    int64_t N = 2 * (int64_t)c->ffn;
    struct dip_tensor in = dip__bench_normals(arena, GEMM_ROWS, D);
    struct dip_tensor weight = dip__bench_normals(arena, N, D);
    struct dip_tensor out = dip__place_rows(arena, GEMM_ROWS, N);
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        dip__bench_start(&times);
        DIP_TRY(dip_linear(bench->stream,
                           &(struct dip_linear_args){.out = out, .in = in, .weight = weight}));
        DIP_TRY(dip_wait(bench->stream));
        dip__bench_stop(&times);
    }
    dip__bench_report_rate(bench, "dit.gemm", &times,
                           &(struct dip__bench_rate){.unit = "GFLOP/s",
                                                     .scale = 1e9,
                                                     .work = 2.0 * GEMM_ROWS * (double)(N * D),
                                                     .bound = bench->machine.fma_flops_s},
                           "[%d, %lld] x [%lld, %lld]^T, f32; bound: multiply-adds in registers",
                           GEMM_ROWS, (long long)D, (long long)N, (long long)D);
    return DIP_OK;
}

static enum dip_status time_depthwise(struct dip__bench *bench, struct dip_arena *arena)
{
    int64_t C = 2 * (int64_t)bench->model->config.dit.ffn;
    int64_t edge = latent_edge(bench) < 32 ? 32 : latent_edge(bench);
    struct dip_tensor weight_rows = dip__bench_normals(arena, C, 9);
    struct dip_tensor weight = {.data = weight_rows.data,
                                .dtype = DIP_F32,
                                .rank = 4,
                                .dims = {C, 1, 3, 3},
                                .row_stride = 3};
    struct dip_tensor in = dip__bench_normals(arena, edge * edge, C);
    struct dip_tensor out = dip__place_rows(arena, edge * edge, C / 2);
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        dip__bench_start(&times);
        DIP_TRY(dip_conv_depthwise(bench->stream,
                                   &(struct dip_conv_depthwise_args){
                                       .out = dip_image(out.data, DIP_F32, 1, edge, edge, C / 2),
                                       .in = dip_image(in.data, DIP_F32, 1, edge, edge, C),
                                       .weight = weight,
                                       .is_gated = true}));
        DIP_TRY(dip_wait(bench->stream));
        dip__bench_stop(&times);
    }
    double bytes = (double)(edge * edge) * (double)C * 1.5 * sizeof(float);
    dip__bench_report_rate(
        bench, "dit.depthwise", &times,
        &(struct dip__bench_rate){
            .unit = "GB/s", .scale = 1e9, .work = bytes, .bound = bench->machine.read_bytes_s},
        "3x3 gated, %lld x %lld x %lld; bound: read rate, writes counted too", (long long)edge,
        (long long)edge, (long long)C);
    return DIP_OK;
}

static enum dip_status time_norm(struct dip__bench *bench, struct dip_arena *arena)
{
    int64_t D = bench->model->config.dit.width;
    int64_t rows = 8 * GEMM_ROWS;
    struct dip_tensor in = dip__bench_normals(arena, rows, D);
    struct dip_tensor out = dip__place_rows(arena, rows, D);
    struct dip_tensor weight = dip__bench_normals(arena, 1, D);
    weight = dip_tensor_1d(weight.data, DIP_F32, D);
    struct dip__bench_times times = dip__bench_times(bench);
    while (dip__bench_more(&times)) {
        dip__bench_start(&times);
        DIP_TRY(dip_norm_rms(
            bench->stream,
            &(struct dip_norm_rms_args){.out = out, .in = in, .weight = weight, .eps = 1e-5f}));
        DIP_TRY(dip_wait(bench->stream));
        dip__bench_stop(&times);
    }
    dip__bench_report_rate(bench, "dit.norm", &times,
                           &(struct dip__bench_rate){.unit = "GB/s",
                                                     .scale = 1e9,
                                                     .work = (double)(2 * rows * D) * sizeof(float),
                                                     .bound = bench->machine.read_bytes_s},
                           "RMSNorm of [%lld, %lld]; bound: read rate, writes counted too",
                           (long long)rows, (long long)D);
    return DIP_OK;
}

/* ---- whole steps ---- */

struct step_run {
    int edge;
    int context_rows;
    struct dip_dit_context context; /* one, read by every job of the batch */
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
    run->latent = dip__bench_normals(arena, BATCH_MAX, cells);
    run->uncond = dip__place_rows(arena, BATCH_MAX, cells);
    run->cond = dip__place_rows(arena, BATCH_MAX, cells);
    struct dip_tensor condition =
        dip__bench_normals(arena, run->context_rows, m->config.dit.caption_channels);
    void *memory = dip__place(arena, dip_dit_context_bytes(m->dit, run->context_rows));
    size_t left = arena->bytes - arena->used_bytes;
    dip_arena_init(&run->scratch, dip__place(arena, left), left);
    return dip_dit_context_init(m->dit, bench->stream, memory, condition, &run->scratch,
                                &run->context);
}

static enum dip_status time_step(struct dip__bench *bench, struct step_run *run, int batch)
{
    const struct dip_model *m = bench->model;
    const struct dip_dit_context *contexts[BATCH_MAX];
    float t[BATCH_MAX];
    for (int b = 0; b < batch; b++) {
        contexts[b] = &run->context;
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

static enum dip_status bench_ops(struct dip__bench *bench)
{
    const struct dip_dit_config *c = &bench->model->config.dit;
    int64_t D = c->width;
    int64_t F = c->ffn;
    int64_t edge = latent_edge(bench) < 32 ? 32 : latent_edge(bench);
    size_t gemm = dip__rows_bytes(GEMM_ROWS, D) + dip__rows_bytes(2 * F, D) +
                  dip__rows_bytes(GEMM_ROWS, 2 * F);
    size_t depthwise = dip__rows_bytes(2 * F, 9) + dip__rows_bytes(edge * edge, 2 * F) +
                       dip__rows_bytes(edge * edge, F);
    size_t norm = 2 * dip__rows_bytes(8 * (int64_t)GEMM_ROWS, D) + dip__rows_bytes(1, D);
    size_t bytes = gemm > depthwise ? gemm : depthwise;
    struct dip_mem mem = {0};
    struct dip_arena arena;
    DIP_TRY(dip__bench_reserve(bench, bytes > norm ? bytes : norm, &mem, &arena));
    enum dip_status status = time_gemm(bench, &arena);
    dip_arena_reset(&arena, 0);
    if (!status)
        status = time_depthwise(bench, &arena);
    dip_arena_reset(&arena, 0);
    if (!status)
        status = time_norm(bench, &arena);
    dip_release(bench->device, &mem);
    return status;
}

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
    DIP_TRY(bench_ops(bench));
    return bench_steps(bench);
}
