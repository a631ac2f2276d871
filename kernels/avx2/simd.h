/* kernels/avx2/simd.h - the vector words of the fast kernels: loads that widen, masks for tails,
 * sums over lanes, exponentials.
 *
 * Everything here treats each lane alone, except the sums, whose order is fixed. A value therefore
 * never depends on the lane it sits in: tails go through the same code under a mask. */
#pragma once

#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define DIP_INLINE static inline __attribute__((always_inline))

DIP_INLINE int64_t dip__min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- loads and stores ---- */

/* All ones in lanes 0..count-1; count may be anything. */
DIP_INLINE __m256i dip__mask8(int64_t count)
{
    int n = count > 8 ? 8 : count < 0 ? 0 : (int)count;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

DIP_INLINE __m256 dip__widen8(enum dip_dtype dtype, __m128i half)
{
    if (dtype == DIP_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Eight elements from `index` on as f32. */
DIP_INLINE __m256 dip__load8(enum dip_dtype dtype, const void *data, int64_t index)
{
    if (dtype == DIP_F32)
        return _mm256_loadu_ps((const float *)data + index);
    return dip__widen8(dtype, _mm_loadu_si128((const __m128i *)((const uint16_t *)data + index)));
}

/* The first `count` (1..8) elements from `index` on, zeros behind them; reads nothing beyond. */
DIP_INLINE __m256 dip__load8_part(enum dip_dtype dtype, const void *data, int64_t index,
                                  int64_t count)
{
    if (dtype == DIP_F32)
        return _mm256_maskload_ps((const float *)data + index, dip__mask8(count));
    uint16_t part[8] = {0};
    memcpy(part, (const uint16_t *)data + index, (size_t)count * sizeof part[0]);
    return dip__widen8(dtype, _mm_loadu_si128((const __m128i *)part));
}

/* f32 loads and stores of min(count, 8) elements. */
DIP_INLINE __m256 dip__get8(const float *data, int64_t count)
{
    return count >= 8 ? _mm256_loadu_ps(data) : _mm256_maskload_ps(data, dip__mask8(count));
}

DIP_INLINE void dip__put8(float *data, int64_t count, __m256 value)
{
    if (count >= 8)
        _mm256_storeu_ps(data, value);
    else
        _mm256_maskstore_ps(data, dip__mask8(count), value);
}

/* Widens `count` elements into out. */
static inline void dip__widen(enum dip_dtype dtype, const void *data, int64_t index, int64_t count,
                              float *out)
{
    for (int64_t i = 0; i < count; i += 8) {
        int64_t left = count - i;
        __m256 value = left >= 8 ? dip__load8(dtype, data, index + i)
                                 : dip__load8_part(dtype, data, index + i, left);
        dip__put8(out + i, left, value);
    }
}

/* ---- sums over lanes: ((0+2)+(1+3)) + ((4+6)+(5+7)) ---- */

DIP_INLINE __m128 dip__sum8x4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256 lo = _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0));
    __m256 hi = _mm256_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2));
    __m256 sum = _mm256_add_ps(lo, hi);
    return _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
}

DIP_INLINE float dip__sum8(__m256 a)
{
    return _mm_cvtss_f32(dip__sum8x4(a, a, a, a));
}

DIP_INLINE float dip__max8(__m256 a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* ---- exponentials ---- */

/* exp(x) for x in -87.33..88.37 (beyond, the nearer end's), relative error below 1.2e-7, NaN stays
 * NaN: x = n ln 2 + r, Taylor in r to degree 7 (remainder 5e-9 at |r| = ln 2 / 2), times 2^n.
 * Adding 1.5 2^23 rounds to an integer and leaves it in the low bits, from where it is shifted into
 * an exponent. */
DIP_INLINE __m256 dip__exp_clamped8(__m256 x)
{
    const __m256 rounder = _mm256_set1_ps(0x1.8p23f);
    /* min and max return their second operand when either is NaN */
    x = _mm256_max_ps(_mm256_set1_ps(-87.33f), _mm256_min_ps(_mm256_set1_ps(88.37f), x));
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504f), rounder);
    __m256 n = _mm256_sub_ps(shifted, rounder);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x); /* 15 bits: exact product */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i power = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23),
                                     _mm256_set1_epi32(127 << 23));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

/* The same, but zero below -87.33. */
DIP_INLINE __m256 dip__exp8(__m256 x)
{
    __m256 is_zero = _mm256_cmp_ps(x, _mm256_set1_ps(-87.33f), _CMP_LT_OQ);
    return _mm256_andnot_ps(is_zero, dip__exp_clamped8(x));
}

DIP_INLINE __m256 dip__negate8(__m256 x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

/* x / (1 + exp(-x)) */
DIP_INLINE __m256 dip__silu8(__m256 x)
{
    __m256 e = dip__exp_clamped8(dip__negate8(x));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3). The right side
 * loses nothing to cancellation where tanh is near -1. */
DIP_INLINE __m256 dip__gelu8(__m256 x)
{
    __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.0713548162726f),
                                   _mm256_set1_ps(-1.5957691216057f));
    __m256 e = dip__exp_clamped8(_mm256_mul_ps(x, cubic));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

DIP_INLINE __m256 dip__relu8(__m256 x)
{
    return _mm256_max_ps(_mm256_setzero_ps(), x); /* NaN stays NaN */
}

DIP_INLINE __m256 dip__activate8(enum dip_kernel_act act, __m256 x)
{
    switch (act) {
    case DIP_KERNEL_ACT_SILU:
        return dip__silu8(x);
    case DIP_KERNEL_ACT_GELU_TANH:
        return dip__gelu8(x);
    case DIP_KERNEL_ACT_RELU:
        return dip__relu8(x);
    case DIP_KERNEL_ACT_NONE:
        break;
    }
    return x;
}
