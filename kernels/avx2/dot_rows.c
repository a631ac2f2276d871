/* kernels/avx2/dot_rows.c - tiles of the dot form: 3 rows x 4 columns, 12 accumulators of 8 lanes.
 *
 * 3 + 4 loads feed 12 fma. Other shapes (4 x 3, 2 x 6, 1 x 12) load as much or more. */
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum { ROWS = 3, COLUMNS = 4 };

/* ---- panels ---- */

DIP_INLINE void pack(const struct dip__dot_pack *j, enum dip_dtype dtype, int columns)
{
    const int64_t step_bytes = 8 * (dtype == DIP_F32 ? 4 : 2);
    float *panel = j->panel;
    int64_t whole = j->k & ~(int64_t)7;
    for (int64_t i = 0; i < whole; i += 8, panel += 8 * DIP__DOT_COLUMNS) {
        bool is_line = i / 8 * step_bytes % 64 == 0;
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            if (is_line)
                _mm_prefetch((const char *)j->w[c] + j->ahead + i / 8 * step_bytes, _MM_HINT_T0);
            _mm256_storeu_ps(panel + 8 * c, dip__load8(dtype, j->w[c], i));
        }
    }
    if (whole < j->k)
        for (int c = 0; c < columns; c++)
            _mm256_storeu_ps(panel + 8 * c, dip__load8_part(dtype, j->w[c], whole, j->k - whole));
}

DIP_INLINE void pack_columns(const struct dip__dot_pack *j, enum dip_dtype dtype)
{
    if (j->columns == DIP__DOT_COLUMNS)
        pack(j, dtype, DIP__DOT_COLUMNS);
    else
        pack(j, dtype, COLUMNS);
}

void dip__avx2_dot_pack(const struct dip__dot_pack *j)
{
    if (j->dtype == DIP_F32)
        pack_columns(j, DIP_F32);
    else if (j->dtype == DIP_BF16)
        pack_columns(j, DIP_BF16);
    else
        pack_columns(j, DIP_F16);
}

/* ---- tiles ---- */

/* acc[r][c] += lanes of a[r] . column c, for the eight k at a[r][i]. */
DIP_INLINE void step(int rows, const float *const *a, int64_t i, int64_t count, const float *panel,
                     __m256 *acc)
{
    __m256 x[ROWS];
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
        x[r] = dip__get8(a[r] + i, count);
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++) {
        __m256 y = _mm256_loadu_ps(panel + 8 * c);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++)
            acc[r * COLUMNS + c] = _mm256_fmadd_ps(x[r], y, acc[r * COLUMNS + c]);
    }
}

DIP_INLINE void tile(const struct dip__dot_rows *j, int64_t column, int64_t row, int rows)
{
    const float *a[ROWS];
    __m256 acc[ROWS * COLUMNS];
    for (int r = 0; r < rows; r++)
        a[r] = j->in + (row + r) * j->in_stride;
    for (int i = 0; i < rows * COLUMNS; i++)
        acc[i] = _mm256_setzero_ps();
    const float *panel = j->panel + 8 * column;
    int64_t whole = j->k & ~(int64_t)7;
    for (int64_t i = 0; i < whole; i += 8, panel += 8 * DIP__DOT_COLUMNS)
        step(rows, a, i, 8, panel, acc);
    if (whole < j->k)
        step(rows, a, whole, j->k - whole, panel, acc);
    for (int r = 0; r < rows; r++) {
        float *to = j->partial + (row + r) * DIP__PARTIAL_STRIDE + column;
        const __m256 *lanes = acc + COLUMNS * r;
        __m128 block = dip__sum8x4(lanes[0], lanes[1], lanes[2], lanes[3]);
        _mm_store_ps(to, j->is_first ? block : _mm_add_ps(_mm_load_ps(to), block));
    }
}

/* Four rows left over are two and two, because a tile of one row waits for its own sums. */
static void columns_of(const struct dip__dot_rows *j, int64_t column)
{
    int64_t r = 0;
    for (; j->rows - r == 3 || j->rows - r >= 5; r += 3)
        tile(j, column, r, 3);
    for (; j->rows - r >= 2; r += 2)
        tile(j, column, r, 2);
    if (j->rows - r == 1)
        tile(j, column, r, 1);
}

void dip__avx2_dot_rows(const struct dip__dot_rows *j)
{
    for (int64_t c = 0; c < j->columns; c += COLUMNS)
        columns_of(j, c);
}
