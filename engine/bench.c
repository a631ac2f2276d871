/* engine/bench.c - the frame of the benchmark: device, limits, models, timing and rows. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "engine/bench_private.h"
#include "engine/place.h"
#include "ops/bench.h"

/* ---- timing ---- */

struct dip__bench_times dip__bench_times(const struct dip__bench *bench)
{
    return (struct dip__bench_times){.row_ns = bench->options->row_ns};
}

/* At least one repeat; five if they fit in four times the row's time; more while it lasts. */
bool dip__bench_more(struct dip__bench_times *times)
{
    int64_t now = dip_clock_now_ns();
    if (times->count == 0) {
        times->first_ns = now;
        return true;
    }
    int64_t spent_ns = now - times->first_ns;
    if (times->count < DIP__BENCH_REPEATS_MIN)
        return spent_ns < 4 * times->row_ns;
    return spent_ns < times->row_ns && times->count < DIP__BENCH_REPEATS_MAX;
}

void dip__bench_start(struct dip__bench_times *times)
{
    times->start_ns = dip_clock_now_ns();
}

void dip__bench_stop(struct dip__bench_times *times)
{
    dip_assert(times->count < DIP__BENCH_REPEATS_MAX);
    times->ns[times->count++] = dip_clock_now_ns() - times->start_ns;
}

static int compare_ns(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a;
    int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* Best and median in seconds; a clock that did not move counts as one nanosecond. */
static void times_settle(const struct dip__bench_times *times, double *best_s, double *median_s)
{
    dip_assert(times->count > 0);
    struct dip__bench_times sorted = *times;
    qsort(sorted.ns, (size_t)sorted.count, sizeof *sorted.ns, compare_ns);
    int64_t best = sorted.ns[0] > 0 ? sorted.ns[0] : 1;
    int64_t median = sorted.ns[sorted.count / 2];
    *best_s = (double)best * 1e-9;
    *median_s = (double)(median > best ? median : best) * 1e-9;
}

struct dip__bench_times dip__bench_times_best(double seconds)
{
    return (struct dip__bench_times){
        .is_best_only = true, .count = 1, .ns = {(int64_t)(seconds * 1e9 + 0.5)}};
}

double dip__bench_best_s(const struct dip__bench_times *times)
{
    double best_s;
    double median_s;
    times_settle(times, &best_s, &median_s);
    return best_s;
}

bool dip__bench_is_on_gpu(const struct dip__bench *bench)
{
    return !dip_device_reads_host(bench->device);
}

/* ---- rows ---- */

static void row_send(const struct dip__bench *bench, struct dip_bench_row *row, const char *format,
                     va_list arguments)
{
    char note[160];
    vsnprintf(note, sizeof note, format, arguments);
    row->note = note;
    bench->options->on_row(bench->options->context, row);
}

void dip__bench_report_time(const struct dip__bench *bench, const char *name,
                            const struct dip__bench_times *times, double bound_s,
                            const char *format, ...)
{
    double best_s;
    double median_s;
    times_settle(times, &best_s, &median_s);
    struct dip_bench_row row = {.name = name,
                                .value = best_s * 1e3,
                                .unit = "ms",
                                .bound = bound_s * 1e3,
                                .share = bound_s / best_s,
                                .median = median_s * 1e3,
                                .repeats = times->is_best_only ? 0 : times->count};
    va_list arguments;
    va_start(arguments, format);
    row_send(bench, &row, format, arguments);
    va_end(arguments);
}

void dip__bench_report_rate(const struct dip__bench *bench, const char *name,
                            const struct dip__bench_times *times,
                            const struct dip__bench_rate *rate, const char *format, ...)
{
    double best_s;
    double median_s;
    times_settle(times, &best_s, &median_s);
    struct dip_bench_row row = {.name = name,
                                .value = rate->work / best_s / rate->scale,
                                .unit = rate->unit,
                                .bound = rate->bound / rate->scale,
                                .share = rate->work / best_s / rate->bound,
                                .median = rate->work / median_s / rate->scale,
                                .repeats = times->is_best_only ? 0 : times->count};
    va_list arguments;
    va_start(arguments, format);
    row_send(bench, &row, format, arguments);
    va_end(arguments);
}

/* ---- memory ---- */

enum dip_status dip__bench_reserve(const struct dip__bench *bench, size_t bytes,
                                   struct dip_mem *ret_mem, struct dip_arena *ret_arena)
{
    if (dip_reserve(bench->device, bytes, ret_mem))
        return dip_fail(bench->why, DIP_NO_MEMORY, "no memory for %zu bytes to measure with",
                        bytes);
    dip_arena_init(ret_arena, ret_mem->base, ret_mem->bytes);
    return DIP_OK;
}

enum dip_status dip__bench_normals(const struct dip__bench *bench, struct dip_arena *arena,
                                   int64_t rows, int64_t columns, struct dip_tensor *ret_tensor)
{
    struct dip_tensor t = dip__place_rows(arena, rows, columns);
    struct dip_tensor host = t;
    struct dip_rng_key key = {.seed = arena->used_bytes, .purpose = DIP_RNG_TEST};
    host.data = calloc((size_t)(rows * columns), sizeof(float));
    if (!host.data)
        return DIP_NO_MEMORY;
    dip_rng_normals(&key, host.data, (size_t)(rows * columns));
    enum dip_status status = dip_copy(bench->stream, t, host);
    if (!status)
        status = dip_wait(bench->stream);
    free(host.data);
    *ret_tensor = t;
    return status;
}

/* ---- parts ---- */

struct part {
    enum dip_bench_part part;
    const char *shape; /* when the caller names none */
    enum dip_status (*run)(struct dip__bench *bench);
};

static const struct part parts[] = {
    {DIP_BENCH_AR, "qwen3-0.6b", dip__bench_ar},
    {DIP_BENCH_DIFFUSION, "sana-1.6b", dip__bench_diffusion},
    {DIP_BENCH_DECODE, "dcae", dip__bench_decode},
    {DIP_BENCH_E2E, NULL, dip__bench_e2e},
};

/* The last component of a directory's path, without slashes behind it. */
static void name_of(const char *directory, char *name, size_t bytes)
{
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && directory[start - 1] != '/')
        start--;
    snprintf(name, bytes, "%.*s", (int)(end - start), directory + start);
}

static enum dip_status part_run(struct dip__bench *bench, const struct part *part)
{
    const struct dip_bench_options *o = bench->options;
    const char *shape = o->shape ? o->shape : part->shape;
    char name[64];
    if (!o->directory && !shape)
        return dip_fail(bench->why, DIP_INVALID,
                        "an end-to-end benchmark needs a model directory or a complete shape");
    struct dip_model *model = NULL;
    enum dip_status status =
        o->directory ? dip_status_of_file(dip_model_open(o->directory, bench->why, &model))
                     : dip_model_random(shape, 1, bench->why, &model);
    if (status)
        goto out;
    name_of(o->directory ? o->directory : shape, name, sizeof name);
    status = dip_model_prepare(model, bench->stream, bench->why);
    if (status)
        goto out;
    bench->model = model;
    bench->model_name = name;
    status = part->run(bench);
out:
    bench->model = NULL;
    bench->model_name = NULL;
    dip_model_close(model);
    return status;
}

static enum dip_status options_check(const struct dip_bench_options *o, struct dip_why *why)
{
    const unsigned all = DIP_BENCH_AR | DIP_BENCH_DIFFUSION | DIP_BENCH_DECODE | DIP_BENCH_E2E;
    if (o->parts == 0 || (o->parts & ~all))
        return dip_fail(why, DIP_INVALID, "no such part of the benchmark");
    if (o->directory && o->shape)
        return dip_fail(why, DIP_INVALID, "a model directory and a shape: give one of them");
    if (o->latent_edge < 0 || o->latent_edge > DIP_LATENT_EDGE_MAX)
        return dip_fail(why, DIP_LIMIT, "latent edge %d, expected 0 to %d", o->latent_edge,
                        DIP_LATENT_EDGE_MAX);
    return DIP_OK;
}

static enum dip_status limits_measure(struct dip__bench *bench)
{
    struct dip_bench_machine rates;
    if (dip_bench_machine(bench->device, bench->options->product_edge, &rates))
        return dip_fail(bench->why, DIP_NO_MEMORY, "no memory to measure the machine with");
    bench->machine = (struct dip_bench_limits){
        .backend = dip_device_backend(bench->device),
        .device_class = dip_device_class(bench->device),
        .threads = rates.threads,
        .read_bytes_s = rates.read_bytes_per_s,
        .copy_bytes_s = rates.copy_bytes_per_s,
        .fma_flops_s = rates.flops_per_s,
        .launch_s = rates.launch_s,
    };
    return DIP_OK;
}

enum dip_status dip_bench_run(const struct dip_bench_options *options, struct dip_why *why)
{
    DIP_TRY(options_check(options, why));
    struct dip__bench bench = {.options = options, .why = why};
    enum dip_status status = dip_device_open(&options->device, why, &bench.device);
    if (status)
        goto out;
    status = dip_stream_open(bench.device, &bench.stream);
    if (status)
        goto out;
    status = limits_measure(&bench);
    if (status)
        goto out;
    if (options->on_machine)
        options->on_machine(options->context, &bench.machine);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !status; i++)
        if (options->parts & parts[i].part)
            status = part_run(&bench, &parts[i]);
out:
    dip_stream_close(bench.stream);
    dip_device_close(bench.device);
    if (status && why)
        return dip_fail(why, status, "the benchmark stopped: %s", dip_status_text(status));
    return status;
}
