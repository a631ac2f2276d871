/* kernels/avx2/dot_rows.c - tiles of the dot form: 3 rows x 4 columns, 12 accumulators of 8 lanes.
 *
 * 3 + 4 loads feed 12 fma. Other shapes (4 x 3, 2 x 6, 1 x 12) load as much or more. With few rows
 * the widening of the weights would be a fifth of the time if it came first: so the first tile of
 * three widens bf16 as it goes, between the fma, and leaves the panel behind for the others. */
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum { ROWS = 3, COLUMNS = 4 };

/* ---- panels ---- */

DIP_INLINE void pack(const struct dip__dot_rows *j, enum dip_dtype dtype)
{
    const int64_t step_bytes = 8 * (dtype == DIP_F32 ? 4 : 2);
    int columns = j->columns > COLUMNS ? 2 * COLUMNS : COLUMNS;
    for (int c = 0; c < columns; c++) {
        float *to = j->panel + 8 * (int64_t)c;
        int64_t i = 0;
        for (; i + 8 <= j->k; i += 8, to += 8 * DIP__DOT_COLUMNS) {
            if (i / 8 * step_bytes % 64 == 0)
                _mm_prefetch((const char *)j->w[c] + j->ahead + i / 8 * step_bytes, _MM_HINT_T0);
            _mm256_storeu_ps(to, dip__load8(dtype, j->w[c], i));
        }
        if (i < j->k)
            _mm256_storeu_ps(to, dip__load8_part(dtype, j->w[c], i, j->k - i));
    }
}

static void pack_any(const struct dip__dot_rows *j)
{
    if (j->dtype == DIP_F32)
        pack(j, DIP_F32);
    else if (j->dtype == DIP_BF16)
        pack(j, DIP_BF16);
    else
        pack(j, DIP_F16);
}

/* ---- tiles ---- */

/* acc[r][c] += lanes of a[r] . y[c] for the eight k at a[r][i], `count` of which exist. */
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

/* The same for ROWS rows, the weights widened here and left in the panel. */
DIP_INLINE void widening_step(const uint16_t *const *w, const float *const *a, int64_t i,
                              float *panel, __m256 *acc)
{
    __m256 x[ROWS];
#pragma GCC unroll 3
    for (int r = 0; r < ROWS; r++)
        x[r] = _mm256_loadu_ps(a[r] + i);
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++) {
        __m256 y = dip__load8(DIP_BF16, w[c], i);
        _mm256_storeu_ps(panel + 8 * c, y);
#pragma GCC unroll 3
        for (int r = 0; r < ROWS; r++)
            acc[r * COLUMNS + c] = _mm256_fmadd_ps(x[r], y, acc[r * COLUMNS + c]);
    }
}

DIP_INLINE void finish(const struct dip__dot_rows *j, int64_t column, int64_t row, int rows,
                       const __m256 *acc)
{
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++) {
        float *to = j->partial + (row + r) * DIP__PARTIAL_STRIDE + column;
        const __m256 *lanes = acc + COLUMNS * r;
        __m128 block = dip__sum8x4(lanes[0], lanes[1], lanes[2], lanes[3]);
        _mm_store_ps(to, j->is_first ? block : _mm_add_ps(_mm_load_ps(to), block));
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
    finish(j, column, row, rows, acc);
}

/* k is a multiple of eight. */
static void widening_tile(const struct dip__dot_rows *j, int64_t column)
{
    const float *a[ROWS];
    const uint16_t *w[COLUMNS];
    __m256 acc[ROWS * COLUMNS];
    for (int r = 0; r < ROWS; r++)
        a[r] = j->in + r * j->in_stride;
    for (int c = 0; c < COLUMNS; c++)
        w[c] = j->w[column + c];
    for (int i = 0; i < ROWS * COLUMNS; i++)
        acc[i] = _mm256_setzero_ps();
    float *panel = j->panel + 8 * column;
    int64_t ahead = j->ahead / (int64_t)sizeof *w[0];
    int64_t k = j->k;
    for (int64_t i = 0; i < k; i += 8, panel += 8 * DIP__DOT_COLUMNS) {
        if (i % 32 == 0)
            for (int c = 0; c < COLUMNS; c++)
                _mm_prefetch((const char *)(w[c] + ahead + i), _MM_HINT_T0);
        widening_step(w, a, i, panel, acc);
    }
    finish(j, column, 0, ROWS, acc);
}

/* Four rows left over are two and two, because a tile of one row waits for its own sums. */
static void columns_of(const struct dip__dot_rows *j, int64_t column, int64_t r)
{
    for (; j->rows - r == 3 || j->rows - r >= 5; r += 3)
        tile(j, column, r, 3);
    for (; j->rows - r >= 2; r += 2)
        tile(j, column, r, 2);
    if (j->rows - r == 1)
        tile(j, column, r, 1);
}

void dip__avx2_dot_rows(const struct dip__dot_rows *j)
{
    bool is_widening = j->dtype == DIP_BF16 && j->rows >= ROWS && j->k % 8 == 0;
    if (!is_widening)
        pack_any(j);
    for (int64_t c = 0; c < j->columns; c += COLUMNS) {
        if (is_widening)
            widening_tile(j, c);
        columns_of(j, c, is_widening ? ROWS : 0);
    }
}
