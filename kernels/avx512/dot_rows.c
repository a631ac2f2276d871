/* kernels/avx512/dot_rows.c - tiles of the dot form: 6 rows x 4 columns.
 *
 * A register holds the eight lanes of two neighbouring columns of the panel; a row's eight values
 * are broadcast to both halves. 6 broadcasts and 2 loads feed 12 fma of 16 lanes; each lane sums
 * what it sums in the AVX2 form, and the join of the lanes is the same tree:
 *
 *   z01 = [a0..a7 | b0..b7]   z23 = [c0..c7 | d0..d7]   ->   a, b, c, d
 *
 * The first tile widens bf16 as it goes, as in kernels/avx2/dot_rows.c: one permutation puts every
 * half into the upper part of a word. Up to six rows are one tile, which reads the weights as they
 * lie and leaves no panel, so that they cost what one row costs while memory is the bound.
 * Qwen3-0.6B's products, 3072 x 1024, one core of a Sapphire Rapids, from memory: 4 rows 8.6 ->
 * 14.0 GB/s (one row: 14.5), 6 rows 9.9 -> 11.6; 16 rows 91 of 134 GFLOP/s. Tried: all tiles of
 * more rows fetching the next weights in turn (5 to 12 % slower), fetching them into the second
 * level (+-3 %), the same for AVX2 over two columns (4 rows 3 % faster, 5 rows slower: there
 * the multiply-adds are the bound). */
#include "kernels/avx2/inner.h"
#include "kernels/avx512/simd.h"

enum { ROWS = 6, PAIRS = DIP__DOT_COLUMNS / 2 };

/* ---- panels ---- */

/* Eight k of two columns, as they lie in the panel. */
DIP_INLINE __m512 widen_pair(enum dip_dtype dtype, const void *w0, const void *w1, int64_t i)
{
    if (dtype == DIP_F32)
        return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps((const float *)w0 + i)),
                                  _mm256_loadu_ps((const float *)w1 + i), 1);
    __m256i halves = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)((const uint16_t *)w0 + i))),
        _mm_loadu_si128((const __m128i *)((const uint16_t *)w1 + i)), 1);
    if (dtype == DIP_F16)
        return _mm512_cvtph_ps(halves);
    /* Every half to the upper part of its word in one instruction, zeros below. */
    const __m512i spread = _mm512_slli_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 16);
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaa, spread, _mm512_castsi256_si512(halves)));
}

DIP_INLINE void pack(const struct dip__dot_rows *j, enum dip_dtype dtype)
{
    const int64_t step_bytes = 8 * (dtype == DIP_F32 ? 4 : 2);
    int columns = j->columns > DIP__DOT_COLUMNS / 2 ? DIP__DOT_COLUMNS : DIP__DOT_COLUMNS / 2;
    for (int c = 0; c < columns; c += 2) {
        float *to = j->panel + 8 * (int64_t)c;
        int64_t i = 0;
        for (; i + 8 <= j->k; i += 8, to += 8 * DIP__DOT_COLUMNS) {
            if (i / 8 * step_bytes % 64 == 0) {
                int64_t at = j->ahead + i / 8 * step_bytes;
                _mm_prefetch((const char *)j->w[c] + at, _MM_HINT_T0);
                _mm_prefetch((const char *)j->w[c + 1] + at, _MM_HINT_T0);
            }
            _mm512_storeu_ps(to, widen_pair(dtype, j->w[c], j->w[c + 1], i));
        }
        if (i < j->k) {
            _mm256_storeu_ps(to, dip__load8_part(dtype, j->w[c], i, j->k - i));
            _mm256_storeu_ps(to + 8, dip__load8_part(dtype, j->w[c + 1], i, j->k - i));
        }
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

/* ((0+2)+(1+3)) + ((4+6)+(5+7)) of four columns. */
DIP_INLINE __m128 join(__m512 z01, __m512 z23)
{
    /* quarters: [a0+a2 c0+c2 a1+a3 c1+c3] [.. 4 .. 7] [b, d] [b, d] */
    __m512 t = _mm512_add_ps(_mm512_unpacklo_ps(z01, z23), _mm512_unpackhi_ps(z01, z23));
    __m512 u = _mm512_add_ps(t, _mm512_permute_ps(t, _MM_SHUFFLE(1, 0, 3, 2)));
    /* quarters: [a c ..] of lanes 0..3, of 4..7, [b d ..] of 0..3, of 4..7 */
    __m128 ac = _mm_add_ps(_mm512_extractf32x4_ps(u, 0), _mm512_extractf32x4_ps(u, 1));
    __m128 bd = _mm_add_ps(_mm512_extractf32x4_ps(u, 2), _mm512_extractf32x4_ps(u, 3));
    return _mm_unpacklo_ps(ac, bd);
}

/* acc[r][pair] += lanes of a[r] . two columns, for the eight k at a[r][i], `count` of which exist.
 */
DIP_INLINE void multiply(int rows, int pairs, const float *const *a, int64_t i, int64_t count,
                         const __m512 *w, __m512 *acc)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        __m512 x = _mm512_broadcast_f32x8(dip__get8(a[r] + i, count));
#pragma GCC unroll 4
        for (int p = 0; p < pairs; p++)
            acc[r * pairs + p] = _mm512_fmadd_ps(x, w[p], acc[r * pairs + p]);
    }
}

DIP_INLINE void step(int rows, int pairs, const float *const *a, int64_t i, int64_t count,
                     const float *panel, __m512 *acc)
{
    __m512 w[PAIRS];
#pragma GCC unroll 4
    for (int p = 0; p < pairs; p++)
        w[p] = _mm512_loadu_ps(panel + 16 * (int64_t)p);
    multiply(rows, pairs, a, i, count, w, acc);
}

DIP_INLINE void finish(const struct dip__dot_rows *j, int64_t row, int rows, int pairs,
                       const __m512 *acc)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
        for (int p = 0; p < pairs; p += 2) {
            float *to = j->partial + (row + r) * DIP__PARTIAL_STRIDE + 2 * p;
            __m128 block = join(acc[r * pairs + p], acc[r * pairs + p + 1]);
            _mm_store_ps(to, j->is_first ? block : _mm_add_ps(_mm_load_ps(to), block));
        }
    }
}

/* The same part of the next tile's rows; a line every other step. */
DIP_INLINE void fetch_next(const float *const *a, int64_t in_stride, int64_t i)
{
    if (i % 16 == 0)
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
            _mm_prefetch((const char *)(a[r] + ROWS * in_stride + i), _MM_HINT_T0);
}

DIP_INLINE void tile(const struct dip__dot_rows *j, int64_t row, int rows, int pairs, bool is_cold)
{
    const float *a[ROWS];
    __m512 acc[ROWS * PAIRS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        a[r] = j->in + (row + r) * j->in_stride;
#pragma GCC unroll 24
    for (int i = 0; i < rows * pairs; i++)
        acc[i] = _mm512_setzero_ps();
    const float *panel = j->panel;
    int64_t whole = j->k & ~(int64_t)7;
    int64_t in_stride = j->in_stride;
    for (int64_t i = 0; i < whole; i += 8, panel += 8 * DIP__DOT_COLUMNS) {
        if (is_cold)
            fetch_next(a, in_stride, i);
        step(rows, pairs, a, i, 8, panel, acc);
    }
    if (whole < j->k)
        step(rows, pairs, a, whole, j->k - whole, panel, acc);
    finish(j, row, rows, pairs, acc);
}

/* The first rows against eight columns, widened on the way; left in the panel when others follow.
 * k is a multiple of eight. */
DIP_INLINE void widening_tile(const struct dip__dot_rows *j, enum dip_dtype dtype, int rows,
                              bool is_kept)
{
    const int64_t step_bytes = 8 * (dtype == DIP_F32 ? 4 : 2);
    const float *a[ROWS];
    const void *w[DIP__DOT_COLUMNS];
    __m512 acc[ROWS * PAIRS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        a[r] = j->in + r * j->in_stride;
#pragma GCC unroll 8
    for (int c = 0; c < DIP__DOT_COLUMNS; c++)
        w[c] = j->w[c];
#pragma GCC unroll 24
    for (int i = 0; i < rows * PAIRS; i++)
        acc[i] = _mm512_setzero_ps();
    float *panel = j->panel;
    int64_t ahead = j->ahead;
    int64_t in_stride = j->in_stride;
    bool is_cold = is_kept && rows == ROWS && j->is_cold;
    int64_t k = j->k;
    for (int64_t i = 0; i < k; i += 8, panel += 8 * DIP__DOT_COLUMNS, ahead += step_bytes) {
        if (i / 8 * step_bytes % 64 == 0)
#pragma GCC unroll 8
            for (int c = 0; c < DIP__DOT_COLUMNS; c++)
                _mm_prefetch((const char *)w[c] + ahead, _MM_HINT_T0);
        if (is_cold)
            fetch_next(a, in_stride, i);
        __m512 wide[PAIRS];
#pragma GCC unroll 4
        for (int p = 0; p < PAIRS; p++) {
            wide[p] = widen_pair(dtype, w[2 * p], w[2 * p + 1], i);
            if (is_kept)
                _mm512_storeu_ps(panel + 16 * (int64_t)p, wide[p]);
        }
        multiply(rows, PAIRS, a, i, 8, wide, acc);
    }
    finish(j, 0, rows, PAIRS, acc);
}

DIP_INLINE void few(const struct dip__dot_rows *j, int64_t row, int64_t rows, int pairs)
{
    switch (rows) {
    case 1:
        tile(j, row, 1, pairs, false);
        break;
    case 2:
        tile(j, row, 2, pairs, false);
        break;
    case 3:
        tile(j, row, 3, pairs, false);
        break;
    case 4:
        tile(j, row, 4, pairs, false);
        break;
    default:
        tile(j, row, 5, pairs, false);
        break;
    }
}

/* Seven to nine rows left over are two tiles of about half, so that none is left with so few sums
 * that it waits for them. */
DIP_INLINE void rows_of(const struct dip__dot_rows *j, int64_t r, int pairs)
{
    if (j->is_cold)
        for (; j->rows - r >= 10; r += ROWS)
            tile(j, r, ROWS, pairs, true);
    for (; j->rows - r == ROWS || j->rows - r >= 10; r += ROWS)
        tile(j, r, ROWS, pairs, false);
    if (j->rows - r > ROWS) {
        int64_t half = (j->rows - r + 1) / 2;
        few(j, r, half, pairs);
        r += half;
    }
    if (r < j->rows)
        few(j, r, j->rows - r, pairs);
}

/* A tile's rows or fewer: nobody comes back for the panel, so none is written. */
DIP_INLINE void only(const struct dip__dot_rows *j, enum dip_dtype dtype)
{
    switch (j->rows) {
    case 1:
        widening_tile(j, dtype, 1, false);
        break;
    case 2:
        widening_tile(j, dtype, 2, false);
        break;
    case 3:
        widening_tile(j, dtype, 3, false);
        break;
    case 4:
        widening_tile(j, dtype, 4, false);
        break;
    case 5:
        widening_tile(j, dtype, 5, false);
        break;
    default:
        widening_tile(j, dtype, ROWS, false);
        break;
    }
}

static void only_bf16(const struct dip__dot_rows *j)
{
    only(j, DIP_BF16);
}

static void only_f32(const struct dip__dot_rows *j)
{
    only(j, DIP_F32);
}

/* Returns how many rows it has done. */
static int64_t widening(const struct dip__dot_rows *j)
{
    if (j->rows <= ROWS) {
        if (j->dtype == DIP_BF16)
            only_bf16(j);
        else
            only_f32(j);
        return j->rows;
    }
    if (j->dtype == DIP_BF16)
        widening_tile(j, DIP_BF16, ROWS, true);
    else
        widening_tile(j, DIP_F32, ROWS, true);
    return ROWS;
}

void dip__avx512_dot_rows(const struct dip__dot_rows *j)
{
    bool is_full = j->columns > DIP__DOT_COLUMNS / 2;
    if (is_full && j->dtype != DIP_F16 && j->k % 8 == 0) {
        rows_of(j, widening(j), PAIRS);
        return;
    }
    pack_any(j);
    if (is_full)
        rows_of(j, 0, PAIRS);
    else
        rows_of(j, 0, PAIRS / 2);
}
