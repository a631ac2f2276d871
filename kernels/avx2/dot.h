/* kernels/avx2/dot.h - dot products of row-major rows in one fixed order.
 *
 *   lane l of an accumulator sums a[k] w[k] for k = l, l + 8, ... with fma, inside a block of
 *   DIP__DOT_BLOCK; at the block's end the eight lanes are joined by dip__sum8x4; block sums are
 *   added in order.
 *
 * One row or three, a widened panel or weights widened in registers, any split over threads: each
 * output sees the same operations in the same order, so all paths give the same bits. */
#pragma once

#include "kernels/avx2/simd.h"

/* A block of four weight rows (8 KB as f32) stays in the first-level cache while rows of
 * activations stream past it; 64 steps also hide the join of the lanes. */
enum { DIP__DOT_BLOCK = 512 };

/* A panel is [ceil(k / 8)][columns][8] f32: the order in which the tile reads it, tail zeroed. The
 * same stretch of the rows `ahead` bytes further on is fetched meanwhile. */
DIP_INLINE void dip__dot_pack(enum dip_dtype dtype, int columns, const void *const *w, int64_t k,
                              int64_t ahead, float *panel)
{
    const int64_t size = dtype == DIP_F32 ? 4 : 2;
    int64_t whole = k & ~(int64_t)7;
    for (int j = 0; j < columns; j++) {
        float *out = panel + 8 * j;
        for (int64_t i = 0; i < whole; i += 8, out += 8 * columns) {
            if (i * size % 64 == 0)
                _mm_prefetch((const char *)w[j] + ahead + i * size, _MM_HINT_T0);
            _mm256_storeu_ps(out, dip__load8(dtype, w[j], i));
        }
        if (whole < k)
            _mm256_storeu_ps(out, dip__load8_part(dtype, w[j], whole, k - whole));
    }
}

/* acc[i * columns + j] += lanes of a[i] . panel column j over k elements. */
DIP_INLINE void dip__dot_panel(int rows, int columns, const float *const *a, const float *panel,
                               int64_t k, __m256 *acc)
{
    int64_t whole = k & ~(int64_t)7;
    for (int64_t i = 0; i < whole; i += 8, panel += 8 * columns) {
        __m256 x[4];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            x[r] = _mm256_loadu_ps(a[r] + i);
#pragma GCC unroll 4
        for (int j = 0; j < columns; j++) {
            __m256 y = _mm256_loadu_ps(panel + 8 * j);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                acc[r * columns + j] = _mm256_fmadd_ps(x[r], y, acc[r * columns + j]);
        }
    }
    if (whole == k)
        return;
    __m256i mask = dip__mask8(k - whole);
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
        __m256 y = _mm256_loadu_ps(panel + 8 * j);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            acc[r * columns + j] =
                _mm256_fmadd_ps(_mm256_maskload_ps(a[r] + whole, mask), y, acc[r * columns + j]);
    }
}

/* One step of eight k for the direct form. */
DIP_INLINE void dip__dot_step(enum dip_dtype dtype, int rows, int columns, const float *const *a,
                              const void *const *w, int64_t i, __m256 *acc)
{
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
        __m256 y = dip__load8(dtype, w[j], i);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            acc[r * columns + j] =
                _mm256_fmadd_ps(_mm256_loadu_ps(a[r] + i), y, acc[r * columns + j]);
    }
}

/* acc += lanes of a[i] . w[j] over k elements from `first` on, weights widened in registers: w[j]
 * are rows of `dtype`. `ahead` is a place in memory that will be wanted next: as many bytes from
 * there on as this call reads are fetched meanwhile, in order, which the hardware does not manage
 * by itself for rows of a few KB (16 against 30 GB/s on one core). NULL fetches nothing. */
DIP_INLINE void dip__dot_direct(enum dip_dtype dtype, int rows, int columns, const float *const *a,
                                const void *const *w, int64_t first, int64_t k, const char *ahead,
                                __m256 *acc)
{
    const int64_t line = 64;
    const int64_t step_bytes = 32 * columns * (dtype == DIP_F32 ? 4 : 2);
    int64_t i = first;
    for (; i + 32 <= first + k; i += 32) {
        if (ahead)
            for (int64_t byte = 0; byte < step_bytes; byte += line, ahead += line)
                _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int64_t step = 0; step < 32; step += 8)
            dip__dot_step(dtype, rows, columns, a, w, i + step, acc);
    }
    int64_t whole = first + (k & ~(int64_t)7);
    for (; i < whole; i += 8)
        dip__dot_step(dtype, rows, columns, a, w, i, acc);
    int64_t left = first + k - whole;
    if (left == 0)
        return;
    __m256i mask = dip__mask8(left);
#pragma GCC unroll 4
    for (int j = 0; j < columns; j++) {
        __m256 y = dip__load8_part(dtype, w[j], whole, left);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            acc[r * columns + j] =
                _mm256_fmadd_ps(_mm256_maskload_ps(a[r] + whole, mask), y, acc[r * columns + j]);
    }
}
