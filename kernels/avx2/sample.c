/* kernels/avx2/sample.c - finding the candidates of a draw without sorting the vocabulary.
 *
 * Only the top k values and their ties can be drawn, so everything below a bound is left out first:
 *   1. the vocabulary is cut into groups of 16 values (lanes of 16 vectors); their maxima are taken
 *   2. the k-th largest maximum bounds the k-th largest value from below: k groups reach it, so at
 *      least k values do. It is found to 22 bits by two histograms over the bits of the maxima
 *   3. one pass collects all values at or above the bound, in order of id
 *   4. a stable radix sort by value, then the shared rule picks (kernels/cpu/sample.c)
 * The bound only decides how much is sorted, never what is drawn. For 217,210 values and k = 1200
 * about 1,300 candidates remain. When k is not small against the number of groups everything is
 * sorted. Reads 8 bytes a value. */
#include "base/assert.h"
#include "kernels/avx2/simd.h"
#include "kernels/cpu/draw.h"

enum { GROUP_VECTORS = 16, BINS = 1 << 11 };

/* Eight draw values (kernels/cpu/draw.h) from position i on; lanes beyond the end are -infinity. */
DIP_INLINE __m256 values8(const float *logits, int64_t i, int64_t count, float temperature)
{
    const __m256 lowest = _mm256_set1_ps(-__builtin_inff());
    __m256 x = dip__get8(logits + i, count - i);
    if (temperature != 1.0f)
        x = _mm256_div_ps(x, _mm256_set1_ps(temperature));
    x = _mm256_add_ps(x, _mm256_setzero_ps());
    __m256 keep =
        _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), _mm256_castsi256_ps(dip__mask8(count - i)));
    return _mm256_blendv_ps(lowest, x, keep);
}

/* A key whose unsigned order is the descending order of values. */
static uint32_t key_of(float value)
{
    uint32_t bits = dip_f32_bits(value);
    return bits & 0x80000000 ? bits : ~bits & 0x7fffffff;
}

static float value_of(uint32_t key)
{
    return dip_f32_from_bits(key & 0x80000000 ? key : ~key & 0x7fffffff);
}

static int64_t group_maxima(const float *logits, int64_t count, float temperature, float *maxima)
{
    int64_t groups = 0;
    for (int64_t i = 0; i < count; i += 8 * GROUP_VECTORS, groups += 8) {
        __m256 top = values8(logits, i, count, temperature);
        for (int v = 1; v < GROUP_VECTORS && i + 8 * v < count; v++)
            top = _mm256_max_ps(top, values8(logits, i + 8 * v, count, temperature));
        _mm256_storeu_ps(maxima + groups, top);
    }
    return groups;
}

/* The first bin at which the running count of bins reaches `rank`; *rank becomes the rank inside.
 */
static uint32_t find_bin(const uint32_t *bins, int64_t *rank)
{
    uint32_t bin = 0;
    while (bins[bin] < *rank)
        *rank -= bins[bin++];
    return bin;
}

/* A value not above the rank-th largest of `values` (rank from 1), and close to it. */
static float lower_bound(const float *values, int64_t count, int64_t rank, uint32_t *bins)
{
    memset(bins, 0, BINS * sizeof *bins);
    for (int64_t i = 0; i < count; i++)
        bins[key_of(values[i]) >> 21]++;
    uint32_t high = find_bin(bins, &rank);
    memset(bins, 0, BINS * sizeof *bins);
    for (int64_t i = 0; i < count; i++)
        if (key_of(values[i]) >> 21 == high)
            bins[key_of(values[i]) >> 10 & (BINS - 1)]++;
    uint32_t low = find_bin(bins, &rank);
    return value_of(high << 21 | low << 10 | 0x3ff); /* the bin's smallest value */
}

static int64_t collect(const float *logits, int64_t count, float temperature, float bound,
                       struct dip__candidate *candidates)
{
    int64_t found = 0;
    __m256 limit = _mm256_set1_ps(bound);
    for (int64_t i = 0; i < count; i += 8) {
        __m256 x = values8(logits, i, count, temperature);
        unsigned hits = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ));
        if (i + 8 > count)
            hits &= (1u << (count - i)) - 1; /* -infinity beyond the end reaches a bound of that */
        float lanes[8];
        if (hits)
            _mm256_storeu_ps(lanes, x);
        for (; hits; hits &= hits - 1) {
            int lane = __builtin_ctz(hits);
            candidates[found++] =
                (struct dip__candidate){.value = lanes[lane], .id = (int32_t)(i + lane)};
        }
    }
    return found;
}

/* Stable, least significant digit first; three passes leave the result in `to`. */
static void sort(struct dip__candidate *from, struct dip__candidate *to, int64_t count,
                 uint32_t *bins)
{
    for (int shift = 0; shift < 33; shift += 11) {
        memset(bins, 0, BINS * sizeof *bins);
        for (int64_t i = 0; i < count; i++)
            bins[key_of(from[i].value) >> shift & (BINS - 1)]++;
        uint32_t start = 0;
        for (int bin = 0; bin < BINS; bin++) {
            uint32_t size = bins[bin];
            bins[bin] = start;
            start += size;
        }
        for (int64_t i = 0; i < count; i++)
            to[bins[key_of(from[i].value) >> shift & (BINS - 1)]++] = from[i];
        struct dip__candidate *swap = from;
        from = to;
        to = swap;
    }
}

/* A row's candidates in drawing order. spare is room for as many, free on return. */
struct row {
    struct dip__candidate *sorted, *spare;
    int64_t count;
};

static struct row sort_row(const float *logits, int64_t count, const struct dip_kernel_draw *draw,
                           void *scratch)
{
    uint32_t *bins = scratch;
    struct dip__candidate *found = (struct dip__candidate *)(bins + BINS);
    struct dip__candidate *sorted = found + count;
    float bound = -__builtin_inff();
    if (draw->top_k > 0 && draw->top_k < count / (2 * GROUP_VECTORS)) {
        float *maxima = (float *)sorted; /* not needed yet */
        int64_t groups = group_maxima(logits, count, draw->temperature, maxima);
        bound = lower_bound(maxima, groups, draw->top_k, bins);
    }
    int64_t candidates = collect(logits, count, draw->temperature, bound, found);
    sort(found, sorted, candidates, bins);
    return (struct row){.sorted = sorted, .spare = found, .count = candidates};
}

void dip_avx2_sample(const struct dip_job_sample *j, int64_t begin, int64_t end, void *scratch)
{
    dip_assert(j->vocab_count <= DIP_KERNEL_VOCAB_MAX);
    for (int64_t r = begin; r < end; r++) {
        const float *logits = j->logits + r * j->logits_stride;
        struct row row = sort_row(logits, j->vocab_count, &j->draws[r], scratch);
        j->ids[r] =
            dip__draw_pick(row.sorted, row.count, &j->draws[r], (double *)(void *)row.spare);
    }
}

void dip_avx2_sample_select(const struct dip_job_sample_select *j, int64_t begin, int64_t end,
                            void *scratch)
{
    dip_assert(j->vocab_count <= DIP_KERNEL_VOCAB_MAX);
    for (int64_t r = begin; r < end; r++) {
        const float *logits = j->logits + r * j->logits_stride;
        struct row row = sort_row(logits, j->vocab_count, &j->draws[r], scratch);
        dip__draw_tell(row.sorted, row.count, j, r);
    }
}
