/* kernels/avx2/tile.h - outer products: a few rows against a packed panel of 16 columns.
 *
 * acc[row][0..16) += a[row][k] * panel[k][0..16), k in order, one fma chain per output. Six rows
 * make 12 chains: 2 loads and 6 broadcasts for 12 fma. A chain depends on k alone, so which rows
 * share a tile, and how wide the panel is, changes no bits. */
#pragma once

#include "kernels/avx2/simd.h"

enum { DIP__TILE_ROWS = 6, DIP__TILE_COLUMNS = 16 };

/* vectors: 2 for a full panel, 1 when only its first eight columns are wanted. */
DIP_INLINE void dip__tile_step(int rows, int vectors, const float *const *a, const float *panel,
                               int64_t count, __m256 *acc)
{
    for (int64_t k = 0; k < count; k++, panel += DIP__TILE_COLUMNS) {
        __m256 low = _mm256_loadu_ps(panel);
        __m256 high = vectors == 2 ? _mm256_loadu_ps(panel + 8) : low;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m256 x = _mm256_broadcast_ss(a[r] + k);
            acc[r * vectors] = _mm256_fmadd_ps(x, low, acc[r * vectors]);
            if (vectors == 2)
                acc[r * vectors + 1] = _mm256_fmadd_ps(x, high, acc[r * vectors + 1]);
        }
    }
}

DIP_INLINE void dip__tile_zero(int rows, int vectors, __m256 *acc)
{
#pragma GCC unroll 12
    for (int i = 0; i < rows * vectors; i++)
        acc[i] = _mm256_setzero_ps();
}

/* to[row][..] = acc, or += acc; rows are `stride` apart and padded to whole vectors. */
DIP_INLINE void dip__tile_store(int rows, int vectors, const __m256 *acc, float *to, int64_t stride,
                                bool is_first)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *at = to + r * stride + 8 * v;
            __m256 sum = acc[r * vectors + v];
            _mm256_storeu_ps(at, is_first ? sum : _mm256_add_ps(_mm256_loadu_ps(at), sum));
        }
    }
}

/* to[rows][16] (+)= a[rows][count] panel[count][16]; rows of a are a_stride apart. */
DIP_INLINE void dip__tile_run(int rows, int vectors, const float *a, int64_t a_stride,
                              const float *panel, int64_t count, float *to, int64_t to_stride,
                              bool is_first)
{
    const float *at[DIP__TILE_ROWS];
    __m256 acc[DIP__TILE_ROWS * 2];
    for (int r = 0; r < rows; r++)
        at[r] = a + r * a_stride;
    dip__tile_zero(rows, vectors, acc);
    dip__tile_step(rows, vectors, at, panel, count, acc);
    dip__tile_store(rows, vectors, acc, to, to_stride, is_first);
}

/* Any number of rows of one panel, `columns` (1..16) of which are wanted. */
static inline void dip__tile_rows(const float *a, int64_t a_stride, int64_t rows,
                                  const float *panel, int64_t count, int64_t columns, float *to,
                                  int64_t to_stride, bool is_first)
{
    int64_t r = 0;
    if (columns > 8)
        for (; r + 6 <= rows; r += 6)
            dip__tile_run(6, 2, a + r * a_stride, a_stride, panel, count, to + r * to_stride,
                          to_stride, is_first);
    else
        for (; r + 6 <= rows; r += 6)
            dip__tile_run(6, 1, a + r * a_stride, a_stride, panel, count, to + r * to_stride,
                          to_stride, is_first);
    for (; r < rows; r++)
        dip__tile_run(1, 2, a + r * a_stride, a_stride, panel, count, to + r * to_stride, to_stride,
                      is_first);
}
