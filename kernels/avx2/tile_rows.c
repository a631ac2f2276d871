/* kernels/avx2/tile_rows.c - tiles of the outer form: 6 rows x 16 columns.
 *
 * 2 loads and 6 broadcasts feed 12 fma, all chains independent. */
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

/* vectors: 2 for a full panel, 1 when only its first eight columns are wanted. */
DIP_INLINE void step(int rows, int vectors, const float *const *a, const float *panel,
                     int64_t count, __m256 *acc)
{
    for (int64_t k = 0; k < count; k++, panel += DIP__PANEL) {
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

DIP_INLINE void zero(int rows, int vectors, __m256 *acc)
{
#pragma GCC unroll 12
    for (int i = 0; i < rows * vectors; i++)
        acc[i] = _mm256_setzero_ps();
}

DIP_INLINE void store(int rows, int vectors, const __m256 *acc, float *to, int64_t stride,
                      bool is_first)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *at = to + r * stride + 8 * (int64_t)v;
            __m256 sum = acc[r * vectors + v];
            _mm256_storeu_ps(at, is_first ? sum : _mm256_add_ps(_mm256_loadu_ps(at), sum));
        }
    }
}

DIP_INLINE void tile(const struct dip__tile_rows *j, int64_t row, int rows, int vectors,
                     int64_t panel)
{
    const float *a[DIP__TILE_ROWS];
    __m256 acc[DIP__TILE_ROWS * 2];
    for (int r = 0; r < rows; r++)
        a[r] = j->a + (row + r) * j->a_stride;
    zero(rows, vectors, acc);
    step(rows, vectors, a, j->panels + panel * j->panel_next, j->count, acc);
    store(rows, vectors, acc, j->to + row * j->to_stride + panel * DIP__PANEL, j->to_stride,
          j->is_first);
}

/* Not inlined: in a function of its own the six pointers stay in registers. */
static __attribute__((noinline)) void rows_of(const struct dip__tile_rows *j, int64_t panel,
                                              bool is_half)
{
    int64_t r = 0;
    if (is_half)
        for (; r + DIP__TILE_ROWS <= j->rows; r += DIP__TILE_ROWS)
            tile(j, r, DIP__TILE_ROWS, 1, panel);
    for (; r + DIP__TILE_ROWS <= j->rows; r += DIP__TILE_ROWS)
        tile(j, r, DIP__TILE_ROWS, 2, panel);
    if (j->rows - r >= 3) {
        tile(j, r, 3, 2, panel);
        r += 3;
    }
    for (; r < j->rows; r++)
        tile(j, r, 1, 2, panel);
}

void dip__avx2_tile_rows(const struct dip__tile_rows *j)
{
    for (int64_t c = 0; c < j->columns; c += DIP__PANEL)
        rows_of(j, c / DIP__PANEL, j->columns - c <= 8);
}

DIP_INLINE void pieces_of(const struct dip__tile_pieces *j, int64_t panel, int vectors)
{
    __m256 acc[DIP__TILE_ROWS * 2];
    zero(DIP__TILE_ROWS, vectors, acc);
    for (int t = 0; t < j->piece_count; t++) {
        const float *a[DIP__TILE_ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < DIP__TILE_ROWS; r++)
            a[r] = j->at[t * DIP__TILE_ROWS + r] + j->first;
        step(DIP__TILE_ROWS, vectors, a, j->panels + panel * j->panel_next + t * j->panel_piece,
             j->count, acc);
    }
    store(DIP__TILE_ROWS, vectors, acc, j->to + panel * DIP__PANEL, j->to_stride, j->is_first);
}

void dip__avx2_tile_pieces(const struct dip__tile_pieces *j)
{
    for (int64_t c = 0; c < j->columns; c += DIP__PANEL) {
        if (j->columns - c > 8)
            pieces_of(j, c / DIP__PANEL, 2);
        else
            pieces_of(j, c / DIP__PANEL, 1);
    }
}
