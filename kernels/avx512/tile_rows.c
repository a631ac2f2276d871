/* kernels/avx512/tile_rows.c - tiles of the outer form: 6 rows x 32 columns.
 *
 * 2 loads and 6 broadcasts feed 12 fma of 16 lanes; an output is the chain that it is in the AVX2
 * form. */
#include "kernels/avx2/inner.h"
#include "kernels/avx512/simd.h"

DIP_INLINE void step(int rows, int panels, const float *const *a, const float *panel,
                     int64_t panel_next, int64_t count, __m512 *acc)
{
    for (int64_t k = 0; k < count; k++, panel += DIP__PANEL) {
        __m512 left = _mm512_loadu_ps(panel);
        __m512 right = panels == 2 ? _mm512_loadu_ps(panel + panel_next) : left;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512 x = _mm512_set1_ps(a[r][k]);
            acc[r * panels] = _mm512_fmadd_ps(x, left, acc[r * panels]);
            if (panels == 2)
                acc[r * panels + 1] = _mm512_fmadd_ps(x, right, acc[r * panels + 1]);
        }
    }
}

DIP_INLINE void zero(int rows, int panels, __m512 *acc)
{
#pragma GCC unroll 12
    for (int i = 0; i < rows * panels; i++)
        acc[i] = _mm512_setzero_ps();
}

/* Rows of `to` are padded to whole vectors of eight, not sixteen: the last half may not be ours. */
DIP_INLINE void put(float *to, int64_t columns, __m512 sum, bool is_first)
{
    if (columns > 8) {
        _mm512_storeu_ps(to, is_first ? sum : _mm512_add_ps(_mm512_loadu_ps(to), sum));
        return;
    }
    __m256 half = _mm512_castps512_ps256(sum);
    _mm256_storeu_ps(to, is_first ? half : _mm256_add_ps(_mm256_loadu_ps(to), half));
}

DIP_INLINE void store(int rows, int panels, const __m512 *acc, float *to, int64_t stride,
                      int64_t columns, bool is_first)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int p = 0; p < panels; p++)
            put(to + r * stride + (int64_t)p * DIP__PANEL, columns - (int64_t)p * DIP__PANEL,
                acc[r * panels + p], is_first);
}

DIP_INLINE void tile(const struct dip__tile_rows *j, int64_t row, int rows, int panels)
{
    const float *a[DIP__TILE_ROWS];
    __m512 acc[DIP__TILE_ROWS * 2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        a[r] = j->a + (row + r) * j->a_stride;
    zero(rows, panels, acc);
    step(rows, panels, a, j->panels, j->panel_next, j->count, acc);
    store(rows, panels, acc, j->to + row * j->to_stride, j->to_stride, j->columns, j->is_first);
}

DIP_INLINE void rows_of(const struct dip__tile_rows *j, int panels)
{
    int64_t r = 0;
    for (; r + DIP__TILE_ROWS <= j->rows; r += DIP__TILE_ROWS)
        tile(j, r, DIP__TILE_ROWS, panels);
    if (j->rows - r >= 3) {
        tile(j, r, 3, panels);
        r += 3;
    }
    for (; r < j->rows; r++)
        tile(j, r, 1, panels);
}

void dip__avx512_tile_rows(const struct dip__tile_rows *j)
{
    if (j->columns > DIP__PANEL)
        rows_of(j, 2);
    else
        rows_of(j, 1);
}

DIP_INLINE void pieces_of(const struct dip__tile_pieces *j, int panels)
{
    __m512 acc[DIP__TILE_ROWS * 2];
    zero(DIP__TILE_ROWS, panels, acc);
    for (int t = 0; t < j->piece_count; t++) {
        const float *a[DIP__TILE_ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < DIP__TILE_ROWS; r++)
            a[r] = j->at[t * DIP__TILE_ROWS + r] + j->first;
        step(DIP__TILE_ROWS, panels, a, j->panels + t * j->panel_piece, j->panel_next, j->count,
             acc);
    }
    store(DIP__TILE_ROWS, panels, acc, j->to, j->to_stride, j->columns, j->is_first);
}

void dip__avx512_tile_pieces(const struct dip__tile_pieces *j)
{
    if (j->columns > DIP__PANEL)
        pieces_of(j, 2);
    else
        pieces_of(j, 1);
}
