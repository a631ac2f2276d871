/* kernels/avx2/norm.c - RMSNorm and LayerNorm, row by row.
 *
 * Sums run in four accumulators of eight lanes over strides of 32, joined as (0+1)+(2+3) and then
 * over lanes: an order set by the row's length alone, and short enough chains (70 additions for
 * 2240 channels) to cost no accuracy. A row is read from memory once, from the first-level cache
 * after that; weights are widened once per call. Bound by memory. */
#include "kernels/avx2/simd.h"

/* Sum of f(x) over the row: f is the square of x - centre, or x itself when is_plain. */
DIP_INLINE float row_sum(const float *x, int64_t count, __m256 centre, bool is_plain)
{
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps()};
    int64_t c = 0;
    for (; c + 32 <= count; c += 32) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + c + 8 * i), centre);
            acc[i] = is_plain ? _mm256_add_ps(acc[i], y) : _mm256_fmadd_ps(y, y, acc[i]);
        }
    }
    for (; c < count; c += 8) {
        __m256 mask = _mm256_castsi256_ps(dip__mask8(count - c));
        __m256 y = _mm256_and_ps(_mm256_sub_ps(dip__get8(x + c, count - c), centre), mask);
        acc[0] = is_plain ? _mm256_add_ps(acc[0], y) : _mm256_fmadd_ps(y, y, acc[0]);
    }
    return dip__sum8(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
}

static __m256 inverse_root(float mean, float eps)
{
    __m128 root = _mm_sqrt_ss(_mm_set_ss(mean + eps));
    return _mm256_broadcastss_ps(_mm_div_ss(_mm_set_ss(1.0f), root));
}

/* weight and bias are widened; bias may be NULL. */
static void rms_group(const struct dip_job_norm_rms *j, const float *in, const float *weight,
                      const float *bias, float *out)
{
    float squares = row_sum(in, j->group, _mm256_setzero_ps(), false);
    __m256 scale = inverse_root(squares / (float)j->group, j->eps);
    for (int64_t c = 0; c < j->group; c += 8) {
        int64_t left = j->group - c;
        __m256 y = _mm256_mul_ps(_mm256_mul_ps(dip__get8(in + c, left), scale),
                                 _mm256_loadu_ps(weight + c));
        if (bias)
            y = _mm256_add_ps(y, _mm256_loadu_ps(bias + c));
        if (j->act == DIP_KERNEL_ACT_RELU)
            y = dip__relu8(y);
        if (j->is_added)
            y = _mm256_add_ps(dip__get8(out + c, left), y);
        dip__put8(out + c, left, y);
    }
}

void dip_avx2_norm_rms(const struct dip_job_norm_rms *j, int64_t begin, int64_t end, void *scratch)
{
    float *weight = scratch;
    float *bias = weight + ((j->group + 15) & ~(int64_t)15);
    dip__widen(j->weight.dtype, j->weight.data, 0, j->group, weight);
    if (j->bias.data)
        dip__widen(j->bias.dtype, j->bias.data, 0, j->group, bias);
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < j->column_count; c += j->group)
            rms_group(j, j->in + r * j->in_stride + c, weight, j->bias.data ? bias : NULL,
                      j->out + r * j->out_stride + c);
}

static void layer_row(const struct dip_job_norm_layer *j, const float *in, const float *scale,
                      const float *shift, float *out)
{
    float count = (float)j->column_count;
    __m256 mean = _mm256_set1_ps(row_sum(in, j->column_count, _mm256_setzero_ps(), true) / count);
    float squares = row_sum(in, j->column_count, mean, false);
    __m256 factor = inverse_root(squares / count, j->eps);
    const __m256 one = _mm256_set1_ps(1.0f);
    for (int64_t c = 0; c < j->column_count; c += 8) {
        int64_t left = j->column_count - c;
        __m256 y = _mm256_mul_ps(_mm256_sub_ps(dip__get8(in + c, left), mean), factor);
        y = _mm256_mul_ps(y, _mm256_add_ps(one, dip__get8(scale + c, left)));
        dip__put8(out + c, left, _mm256_add_ps(y, dip__get8(shift + c, left)));
    }
}

void dip_avx2_norm_layer(const struct dip_job_norm_layer *j, int64_t begin, int64_t end,
                         void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        int64_t item = r / j->rows_per_item;
        layer_row(j, j->in + r * j->in_stride, j->scale + item * j->scale_stride,
                  j->shift + item * j->shift_stride, j->out + r * j->out_stride);
    }
}
