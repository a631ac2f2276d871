/* engine/bench_private.h - what the files of the benchmark share; private to engine/. */
#pragma once

#include "engine/engine.h"

struct dip__bench {
    const struct dip_bench_options *options;
    struct dip_why *why;
    struct dip_device *device;
    struct dip_stream *stream;
    struct dip_bench_limits machine;
    const struct dip_model *model; /* of the part that runs */
    const char *model_name;
};

/* ---- timing (bench.c) ---- */

enum { DIP__BENCH_REPEATS_MIN = 5, DIP__BENCH_REPEATS_MAX = 200 };

struct dip__bench_times {
    bool is_best_only; /* ns[0] is the best of unknown repeats */
    int64_t row_ns;
    int64_t first_ns, start_ns;
    int64_t ns[DIP__BENCH_REPEATS_MAX];
    int count;
};

/* while (dip__bench_more(t)) { dip__bench_start(t); work; dip__bench_stop(t); } What stands outside
 * start and stop is not timed. */
struct dip__bench_times dip__bench_times(const struct dip__bench *bench);
bool dip__bench_more(struct dip__bench_times *times);
void dip__bench_start(struct dip__bench_times *times);
void dip__bench_stop(struct dip__bench_times *times);
double dip__bench_best_s(const struct dip__bench_times *times);
/* One result of ops/bench.h, which keeps the best only. */
struct dip__bench_times dip__bench_times_best(double seconds);

/* Whether the device is one that is fed: then sizes are the published ones, and a step is the mean
 * of several, because the host runs ahead of it. */
bool dip__bench_is_on_gpu(const struct dip__bench *bench);

/* A row in ms against a bound in seconds; a row as a rate: work per second over scale. */
void dip__bench_report_time(const struct dip__bench *bench, const char *name,
                            const struct dip__bench_times *times, double bound_s,
                            const char *format, ...) DIP_PRINTF(5, 6);
struct dip__bench_rate {
    const char *unit;
    double scale; /* 1e9 for G */
    double work;  /* bytes or operations of one repeat */
    double bound; /* per second */
};
void dip__bench_report_rate(const struct dip__bench *bench, const char *name,
                            const struct dip__bench_times *times,
                            const struct dip__bench_rate *rate, const char *format, ...)
    DIP_PRINTF(5, 6);

/* ---- memory (bench.c) ---- */

/* An arena over fresh device memory; release with dip_release. */
DIP_MUST_USE enum dip_status dip__bench_reserve(const struct dip__bench *bench, size_t bytes,
                                                struct dip_mem *ret_mem,
                                                struct dip_arena *ret_arena);
/* Rows of standard normals: what a benchmark computes on is random, never zero. */
DIP_MUST_USE enum dip_status dip__bench_normals(const struct dip__bench *bench,
                                                struct dip_arena *arena, int64_t rows,
                                                int64_t columns, struct dip_tensor *ret_tensor);

/* ---- parts ---- */

DIP_MUST_USE enum dip_status dip__bench_ar(struct dip__bench *bench);
DIP_MUST_USE enum dip_status dip__bench_diffusion(struct dip__bench *bench);
DIP_MUST_USE enum dip_status dip__bench_decode(struct dip__bench *bench);
DIP_MUST_USE enum dip_status dip__bench_e2e(struct dip__bench *bench);

/* ---- costs (bench_cost.c) ---- */

/* What a computation must move and do at least. */
struct dip__cost {
    double bytes; /* weights, once each */
    double flops;
};
/* Seconds at the machine's measured limits: memory and arithmetic may overlap. */
double dip__cost_s(const struct dip__bench *bench, struct dip__cost cost);

/* rows through the layers, draws of them through the head; `keys` cached positions per row, with
 * elements of `kv_bytes`. */
struct dip__cost dip__cost_ar(const struct dip_model *model, int rows, int draws, int keys,
                              double kv_bytes);
double dip__cost_kv_bytes(const struct dip__bench *bench);
struct dip__cost dip__cost_context(const struct dip_model *model, int rows);
struct dip__cost dip__cost_dit_step(const struct dip_model *model, int batch, int height, int width,
                                    int context_rows);
struct dip__cost dip__cost_vae(const struct dip_model *model, int height, int width);
