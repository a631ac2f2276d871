/* engine/bench_limits.c - what this machine can do: memory read rate and multiply-adds.
 *
 * Both use every thread the device has and report the best of several rounds, the same way the rows
 * are timed, so that a share compares like with like. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/pool.h"
#include "engine/bench_private.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BUFFER_BYTES = 256 << 20, ROUNDS = 40, FMA_CHAINS = 12, FMA_LOOPS = 400000 };

struct limit_run {
    const uint64_t *words; /* [BUFFER_BYTES / 8] */
    uint64_t *sums;        /* [parts]; written so that the reads cannot be left out */
    float *products;       /* [parts] */
};

static void part_read(void *context, int part_index, int part_count)
{
    struct limit_run *run = context;
    size_t words = BUFFER_BYTES / sizeof(uint64_t) / (size_t)part_count / 8 * 8;
    const uint64_t *from = run->words + words * (size_t)part_index;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < words; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] += from[i + (size_t)lane];
    for (int lane = 1; lane < 8; lane++)
        sum[0] += sum[lane];
    run->sums[part_index] = sum[0];
}

#if defined(__x86_64__)
/* Twelve independent chains of eight lanes: enough to cover the latency of two units. */
__attribute__((target("avx2,fma"))) static float fma_chains(void)
{
    __m256 sum[FMA_CHAINS];
    __m256 factor = _mm256_set1_ps(0.999f);
    __m256 term = _mm256_set1_ps(0.001f);
    for (int c = 0; c < FMA_CHAINS; c++)
        sum[c] = _mm256_set1_ps((float)c);
    for (int i = 0; i < FMA_LOOPS; i++)
#pragma GCC unroll 12
        for (int c = 0; c < FMA_CHAINS; c++)
            sum[c] = _mm256_fmadd_ps(sum[c], factor, term);
    for (int c = 1; c < FMA_CHAINS; c++)
        sum[0] = _mm256_add_ps(sum[0], sum[c]);
    return _mm256_cvtss_f32(sum[0]);
}

static bool fma_is_wide(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
static float fma_chains(void)
{
    return 0;
}

static bool fma_is_wide(void)
{
    return false;
}
#endif

static float fma_chains_plain(void)
{
    float sum[FMA_CHAINS] = {0};
    for (int i = 0; i < FMA_LOOPS; i++)
        for (int c = 0; c < FMA_CHAINS; c++)
            sum[c] = sum[c] * 0.999f + 0.001f;
    for (int c = 1; c < FMA_CHAINS; c++)
        sum[0] += sum[c];
    return sum[0];
}

static void part_fma(void *context, int part_index, int part_count)
{
    struct limit_run *run = context;
    (void)part_count;
    run->products[part_index] = fma_is_wide() ? fma_chains() : fma_chains_plain();
}

static double best_s(struct dip_pool *pool, dip_pool_part_fn part, struct limit_run *run)
{
    int64_t best_ns = INT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t start_ns = dip_clock_now_ns();
        dip_pool_run(pool, part, run, dip_pool_threads(pool));
        int64_t ns = dip_clock_now_ns() - start_ns;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    return (double)(best_ns > 0 ? best_ns : 1) * 1e-9;
}

static void rates_measure(struct dip__bench *bench, struct dip_pool *pool, struct limit_run *run)
{
    double lanes = fma_is_wide() ? 8 : 1;
    double flops = 2.0 * lanes * FMA_CHAINS * FMA_LOOPS * dip_pool_threads(pool);
    bench->machine.read_bytes_s = (double)BUFFER_BYTES / best_s(pool, part_read, run);
    bench->machine.fma_flops_s = flops / best_s(pool, part_fma, run);
}

enum dip_status dip__bench_limits(struct dip__bench *bench)
{
    int threads = dip_device_threads(bench->device);
    bench->machine.backend = dip_device_backend(bench->device);
    bench->machine.device_class = dip_device_class(bench->device);
    bench->machine.threads = threads;

    enum dip_status status = DIP_NO_MEMORY;
    struct dip_pool *pool = NULL;
    uint64_t *words = malloc(BUFFER_BYTES);
    uint64_t *sums = calloc((size_t)threads, sizeof *sums);
    float *products = calloc((size_t)threads, sizeof *products);
    if (!words || !sums || !products)
        goto out;
    status = dip_pool_new(threads, &pool);
    if (status)
        goto out;
    for (size_t i = 0; i < BUFFER_BYTES / sizeof *words; i++)
        words[i] = i; /* touched: untouched pages are all one */
    struct limit_run run = {words, sums, products};
    rates_measure(bench, pool, &run);
out:
    dip_pool_free(pool);
    free(words);
    free(sums);
    free(products);
    return status;
}
