/* kernels/avx2/linear.c - the linear product, weights used as they lie in the file.
 *
 * Dot form (kernels/avx2/dot.h): weights stay row-major [N, K] and are never transposed, so
 * decoding reads each byte of them once, in order. Two ways through the same arithmetic:
 *   direct  1..3 rows: four weight rows at a time, widened in registers. Bound by memory.
 *   panel   more rows: a block of 768 k of eight weight rows is widened once into a panel, then
 * tiles of 3 rows x 4 columns run over it: 7 loads for 12 fma, so bound by fma. Block sums of a
 * tile wait in `partial` while the next 768 k are done; chunks (row-parallel products) each end in
 * such a buffer and join pairwise as a binary counter carries. */
#include "base/assert.h"
#include "kernels/avx2/dot.h"
#include "kernels/avx2/inner.h"

enum {
    UNIT_ROWS_MAX = 128,
    UNIT_COLUMNS_MAX = DIP__PARTIAL_STRIDE,
    TREE_LEVELS_MAX = 11, /* log2(DIP_KERNEL_LINEAR_CHUNKS_MAX) + 1 */
    DIRECT_ROWS_MAX = 3,
    FEW_ROWS = 24,
};

/* Where a rectangle of outputs lies. */
struct tile {
    int64_t row, rows, column, columns;
};

static const void *weight_row(const struct dip_job_linear *j, int64_t column, int64_t k)
{
    /* Columns beyond the last repeat it: computed, never stored. */
    column = dip__min(column, j->out_count - 1);
    size_t bytes = j->weight.dtype == DIP_F32 ? 4 : 2;
    return (const char *)j->weight.data + (size_t)(column * j->weight_stride + k) * bytes;
}

/* out[r, c..] = act(sums + bias) (+ out) for up to 8 columns. */
DIP_INLINE void finish8(const struct dip_job_linear *j, int64_t row, int64_t column, int64_t count,
                        __m256 sums)
{
    if (j->bias.data) {
        __m256 bias = count >= 8 ? dip__load8(j->bias.dtype, j->bias.data, column)
                                 : dip__load8_part(j->bias.dtype, j->bias.data, column, count);
        sums = _mm256_add_ps(sums, bias);
    }
    sums = dip__activate8(j->act, sums);
    float *out = j->out + row * j->out_stride + column;
    if (j->is_added)
        sums = _mm256_add_ps(dip__get8(out, count), sums);
    dip__put8(out, count, sums);
}

/* ---- direct ---- */

/* Pushes a chunk's sums on the stack and carries: after an odd chunk the top two join, and so on.
 */
DIP_INLINE void push_chunk(int rows, __m128 (*stack)[DIRECT_ROWS_MAX], int *depth, int chunk,
                           const __m128 *sums)
{
    for (int r = 0; r < rows; r++)
        stack[*depth][r] = sums[r];
    for (int carry = chunk; carry & 1; carry >>= 1, --*depth)
        for (int r = 0; r < rows; r++)
            stack[*depth - 1][r] = _mm_add_ps(stack[*depth - 1][r], stack[*depth][r]);
    ++*depth;
}

DIP_INLINE void direct4(const struct dip_job_linear *j, enum dip_dtype dtype, int rows,
                        const float *const *a, const void *const *w, __m128 *ret_sums)
{
    __m128 stack[TREE_LEVELS_MAX][DIRECT_ROWS_MAX];
    int depth = 0;
    /* Dense rows: what follows the four rows is the next four, wanted in that order. */
    const int64_t size = dtype == DIP_F32 ? 4 : 2;
    const char *ahead = (const char *)w[3] + j->in_count * size;
    int64_t length = j->in_count / j->chunk_count;
    for (int chunk = 0; chunk < j->chunk_count; chunk++) {
        int64_t first = chunk * length;
        __m128 sums[DIRECT_ROWS_MAX] = {_mm_setzero_ps()};
        for (int64_t k = 0; k < length; k += DIP__DOT_BLOCK) {
            __m256 acc[DIRECT_ROWS_MAX * 4];
            for (int i = 0; i < rows * 4; i++)
                acc[i] = _mm256_setzero_ps();
            int64_t count = dip__min(length - k, DIP__DOT_BLOCK);
            dip__dot_direct(dtype, rows, 4, a, w, first + k, count, true, ahead, acc);
            ahead += 4 * count * size;
            for (int r = 0; r < rows; r++) {
                const __m256 *lanes = acc + 4 * r;
                __m128 block = dip__sum8x4(lanes[0], lanes[1], lanes[2], lanes[3]);
                sums[r] = k == 0 ? block : _mm_add_ps(sums[r], block);
            }
        }
        push_chunk(rows, stack, &depth, chunk, sums);
    }
    for (int r = 0; r < rows; r++)
        ret_sums[r] = stack[0][r];
}

DIP_INLINE void direct(const struct dip_job_linear *j, enum dip_dtype dtype, int rows,
                       const struct tile *t)
{
    const float *a[DIRECT_ROWS_MAX];
    for (int r = 0; r < rows; r++)
        a[r] = j->in + (t->row + r) * j->in_stride;
    for (int64_t c = 0; c < t->columns; c += 4) {
        const void *w[4];
        for (int i = 0; i < 4; i++)
            w[i] = weight_row(j, t->column + c + i, 0);
        __m128 sums[DIRECT_ROWS_MAX];
        direct4(j, dtype, rows, a, w, sums);
        for (int r = 0; r < rows; r++)
            finish8(j, t->row + r, t->column + c, dip__min(t->columns - c, 4),
                    _mm256_castps128_ps256(sums[r]));
    }
}

/* One instance per number of rows and dtype: everything above folds into straight code. */
#define DIRECT(name, dtype)                                                                        \
    static void name(const struct dip_job_linear *j, const struct tile *t)                         \
    {                                                                                              \
        if (t->rows == 1)                                                                          \
            direct(j, dtype, 1, t);                                                                \
        else if (t->rows == 2)                                                                     \
            direct(j, dtype, 2, t);                                                                \
        else                                                                                       \
            direct(j, dtype, 3, t);                                                                \
    }
DIRECT(direct_f32, DIP_F32)
DIRECT(direct_bf16, DIP_BF16)
DIRECT(direct_f16, DIP_F16)

/* ---- panel ---- */

struct product {
    const struct dip__inner *inner;
    const struct dip_job_linear *j;
    struct tile t;
    float *panel; /* eight columns over a block of k */
    float *stack; /* [TREE_LEVELS_MAX][UNIT_ROWS_MAX][UNIT_COLUMNS_MAX] sums of sub-trees */
};

/* Columns from c on, as many as a panel holds, over one block of k. */
static void block_sums(const struct product *p, int64_t c, int64_t k, int64_t count, float *partial,
                       bool is_first)
{
    const struct dip_job_linear *j = p->j;
    struct dip__dot_rows job = {.in = j->in + p->t.row * j->in_stride + k,
                                .in_stride = j->in_stride,
                                .rows = p->t.rows,
                                .dtype = j->weight.dtype,
                                .k = count,
                                .columns = dip__min(p->t.columns - c, DIP__DOT_COLUMNS),
                                .panel = p->panel,
                                .partial = partial + c,
                                .is_first = is_first,
                                .is_cold = c == 0 && p->t.rows > FEW_ROWS};
    job.ahead = job.columns * j->weight_stride * (job.dtype == DIP_F32 ? 4 : 2);
    for (int i = 0; i < DIP__DOT_COLUMNS; i++)
        job.w[i] = weight_row(j, p->t.column + c + i, k);
    p->inner->dot_rows(&job);
}

/* With few rows all of k stays in cache for them, so weight rows are read to their end; with many,
 * a block of k of all rows stays in cache while the columns pass. */
static void chunk_sums(const struct product *p, int64_t first, int64_t length, float *partial)
{
    if (p->t.rows <= FEW_ROWS) {
        for (int64_t c = 0; c < p->t.columns; c += DIP__DOT_COLUMNS)
            for (int64_t k = 0; k < length; k += DIP__DOT_BLOCK)
                block_sums(p, c, first + k, dip__min(length - k, DIP__DOT_BLOCK), partial, k == 0);
        return;
    }
    for (int64_t k = 0; k < length; k += DIP__DOT_BLOCK)
        for (int64_t c = 0; c < p->t.columns; c += DIP__DOT_COLUMNS)
            block_sums(p, c, first + k, dip__min(length - k, DIP__DOT_BLOCK), partial, k == 0);
}

static void add_partial(float *to, const float *from, int64_t rows)
{
    for (int64_t i = 0; i < rows * UNIT_COLUMNS_MAX; i += 8)
        _mm256_store_ps(to + i, _mm256_add_ps(_mm256_load_ps(to + i), _mm256_load_ps(from + i)));
}

static void panel(const struct product *p)
{
    const struct dip_job_linear *j = p->j;
    const int64_t level = UNIT_ROWS_MAX * UNIT_COLUMNS_MAX;
    int64_t length = j->in_count / j->chunk_count;
    int depth = 0;
    for (int chunk = 0; chunk < j->chunk_count; chunk++, depth++) {
        chunk_sums(p, chunk * length, length, p->stack + depth * level);
        for (int carry = chunk; carry & 1; carry >>= 1, depth--)
            add_partial(p->stack + (depth - 1) * level, p->stack + depth * level, p->t.rows);
    }
    for (int64_t r = 0; r < p->t.rows; r++)
        for (int64_t c = 0; c < p->t.columns; c += 8)
            finish8(j, p->t.row + r, p->t.column + c, dip__min(p->t.columns - c, 8),
                    _mm256_load_ps(p->stack + r * UNIT_COLUMNS_MAX + c));
}

static void run_tile(const struct product *p)
{
    if (p->t.rows > DIRECT_ROWS_MAX)
        panel(p);
    else if (p->j->weight.dtype == DIP_F32)
        direct_f32(p->j, &p->t);
    else if (p->j->weight.dtype == DIP_BF16)
        direct_bf16(p->j, &p->t);
    else
        direct_f16(p->j, &p->t);
}

void dip__linear(const struct dip__inner *inner, const struct dip_job_linear *j, int64_t begin,
                 int64_t end, void *scratch)
{
    dip_assert(j->unit_rows <= UNIT_ROWS_MAX);
    dip_assert(j->unit_columns <= UNIT_COLUMNS_MAX);
    dip_assert(j->chunk_count <= DIP_KERNEL_LINEAR_CHUNKS_MAX);
    struct product p = {.inner = inner, .j = j, .panel = scratch};
    p.stack = p.panel + DIP__DOT_COLUMNS * DIP__DOT_BLOCK;
    int64_t row_blocks = (j->row_count + j->unit_rows - 1) / j->unit_rows;
    for (int64_t unit = begin; unit < end; unit++) {
        p.t.row = unit % row_blocks * j->unit_rows;
        p.t.column = unit / row_blocks * j->unit_columns;
        p.t.rows = dip__min(j->unit_rows, j->row_count - p.t.row);
        p.t.columns = dip__min(j->unit_columns, j->out_count - p.t.column);
        run_tile(&p);
    }
}
