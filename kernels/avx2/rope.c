/* kernels/avx2/rope.c - per-head RMSNorm and rotation in place.
 *
 * Cosines and sines of a row's position are shared by its heads. They are our own: the angle in
 * f64, reduced by multiples of pi / 2 in three parts, series to 1e-16, rounded once to f32; so they
 * depend on no C library. */
#include "kernels/avx2/simd.h"

/* |angle| < 2^20 */
static void cos_sin(double angle, float *ret_cos, float *ret_sin)
{
    /* pi / 2 in pieces of 33 bits: n times the first two is exact */
    double n = __builtin_rint(angle * 0.63661977236758134308);
    double r = angle - n * 1.57079632673412561417;
    r -= n * 6.07710050630396597660e-11;
    r -= n * 2.02226624879595063154e-21;
    double z = r * r;
    double s = -1.0 / 1307674368000.0; /* 15! */
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = r + r * z * s;
    double c = 1.0 / 20922789888000.0; /* 16! */
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = 1.0 - 0.5 * z + z * z * c;
    int quarter = (int)(int64_t)n & 3;
    double cosine = quarter & 1 ? s : c;
    double sine = quarter & 1 ? c : s;
    *ret_cos = (float)(quarter == 1 || quarter == 2 ? -cosine : cosine);
    *ret_sin = (float)(quarter >= 2 ? -sine : sine);
}

/* 1 / sqrt(mean of squares + eps); lanes as in the dot form. */
static __m256 inverse_rms(const float *x, int64_t count, float eps)
{
    __m256 squares = _mm256_setzero_ps();
    for (int64_t c = 0; c < count; c += 8) {
        __m256 y = dip__get8(x + c, count - c);
        squares = _mm256_fmadd_ps(y, y, squares);
    }
    float mean = dip__sum8(squares) / (float)count;
    return _mm256_broadcastss_ps(_mm_div_ss(_mm_set_ss(1.0f), _mm_sqrt_ss(_mm_set_ss(mean + eps))));
}

static void rotate(float *x, int64_t head_dim, const float *weight, const float *cosines,
                   const float *sines, float eps)
{
    int64_t half = head_dim / 2;
    __m256 scale = inverse_rms(x, head_dim, eps);
    for (int64_t c = 0; c < half; c += 8) {
        int64_t left = half - c;
        __m256 cosine = _mm256_loadu_ps(cosines + c);
        __m256 sine = _mm256_loadu_ps(sines + c);
        __m256 a = _mm256_mul_ps(_mm256_mul_ps(dip__get8(x + c, left), scale),
                                 dip__get8(weight + c, left));
        __m256 b = _mm256_mul_ps(_mm256_mul_ps(dip__get8(x + half + c, left), scale),
                                 dip__get8(weight + half + c, left));
        dip__put8(x + c, left, _mm256_sub_ps(_mm256_mul_ps(a, cosine), _mm256_mul_ps(b, sine)));
        dip__put8(x + half + c, left,
                  _mm256_add_ps(_mm256_mul_ps(b, cosine), _mm256_mul_ps(a, sine)));
    }
}

void dip_avx2_rope(const struct dip_job_rope *j, int64_t begin, int64_t end, void *scratch)
{
    float *weight = scratch;
    float *cosines = weight + DIP_KERNEL_HEAD_DIM_MAX;
    float *sines = cosines + DIP_KERNEL_HEAD_DIM_MAX;
    dip__widen(j->weight.dtype, j->weight.data, 0, j->head_dim, weight);
    for (int64_t r = begin; r < end; r++) {
        for (int64_t c = 0; c < j->head_dim / 2; c++)
            cos_sin((double)((float)j->rows[r].position * j->inv_freq[c]), cosines + c, sines + c);
        for (int64_t head = 0; head < j->head_count; head++)
            rotate(j->x + r * j->x_stride + head * j->head_dim, j->head_dim, weight, cosines, sines,
                   j->eps);
    }
}
