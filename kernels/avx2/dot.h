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
 * by itself for rows of a few KB (16 against 30 GB/s on one core). */
DIP_INLINE void dip__dot_direct(enum dip_dtype dtype, int rows, int columns, const float *const *a,
                                const void *const *w, int64_t first, int64_t k, bool is_fetching,
                                const char *ahead, __m256 *acc)
{
    const int64_t line = 64;
    const int64_t step_bytes = 32 * columns * (dtype == DIP_F32 ? 4 : 2);
    int64_t i = first;
    for (; i + 32 <= first + k; i += 32) {
        if (is_fetching)
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
