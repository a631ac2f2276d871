/* kernels/avx2/attend_linear.c - ReLU linear attention of one head: gather a state, apply it.
 *
 *   state[e][d] = sum_n relu(k_n[e]) v_n[d]    norm[e] = sum_n relu(k_n[e])
 *   out_n[d] = (sum_e relu(q_n[e]) state[e][d]) / (norm . relu(q_n) + 1e-15)
 *
 * Rows come in chunks of 256: keys transposed and rectified, values as panels of 16 columns, then
 * the outer form over n; chunk sums are added in order, so long images lose no accuracy. The state
 * is kept as panels, ready to be the right side of the second product. Flops 4 N d^2 a head, a
 * hundredth of the projections around it; bound by reading q, k, v. */
#include "base/assert.h"
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum { ROWS = 256 };

struct state {
    const struct dip__inner *inner;
    const struct dip_job_attend_linear *j;
    int64_t padded; /* head_dim rounded up to 16 */
    float *k;       /* [head_dim][ROWS] rectified keys, transposed */
    float *v;       /* [padded / 16][ROWS][16] */
    float *state;   /* [padded / 16][head_dim][16] */
    float *norm;    /* [padded] */
    float *part;    /* [padded] norm of a chunk; later rectified queries [ROWS][padded] */
    float *out;     /* [ROWS][padded] */
};

static void pack_chunk(const struct state *s, const float *k, const float *v, int64_t rows)
{
    const struct dip_job_attend_linear *j = s->j;
    memset(s->part, 0, (size_t)s->padded * sizeof(float));
    for (int64_t n = 0; n < rows; n++) {
        for (int64_t c = 0; c < s->padded; c += 8) {
            int64_t left = j->head_dim - c;
            __m256 key = dip__relu8(dip__get8(k + n * j->k_stride + c, left));
            _mm256_storeu_ps(s->part + c, _mm256_add_ps(_mm256_loadu_ps(s->part + c), key));
            float lanes[8];
            _mm256_storeu_ps(lanes, key);
            for (int64_t i = 0; i < dip__min(left, 8); i++)
                s->k[(c + i) * ROWS + n] = lanes[i];
            _mm256_storeu_ps(s->v + (c / 16 * ROWS + n) * 16 + c % 16,
                             dip__get8(v + n * j->v_stride + c, left));
        }
    }
}

static void gather(const struct state *s, const float *k, const float *v)
{
    const struct dip_job_attend_linear *j = s->j;
    memset(s->norm, 0, (size_t)s->padded * sizeof(float));
    for (int64_t n = 0; n < j->rows_per_item; n += ROWS) {
        int64_t rows = dip__min(j->rows_per_item - n, ROWS);
        pack_chunk(s, k + n * j->k_stride, v + n * j->v_stride, rows);
        for (int64_t c = 0; c < s->padded; c += 8)
            _mm256_storeu_ps(s->norm + c, _mm256_add_ps(_mm256_loadu_ps(s->norm + c),
                                                        _mm256_loadu_ps(s->part + c)));
        for (int64_t d = 0; d < s->padded; d += DIP__PANEL)
            s->inner->tile_rows(&(struct dip__tile_rows){.a = s->k,
                                                         .a_stride = ROWS,
                                                         .rows = j->head_dim,
                                                         .panels = s->v + d * ROWS,
                                                         .count = rows,
                                                         .columns = DIP__PANEL,
                                                         .to = s->state + d * j->head_dim,
                                                         .to_stride = DIP__PANEL,
                                                         .is_first = n == 0});
    }
}

/* Rectifies a query row into place and returns its denominator. */
static float rectify(const struct state *s, const float *q, float *to)
{
    int64_t dim = s->j->head_dim;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t c = 0; c < s->padded; c += 8) {
        __m256 x = dip__relu8(dip__get8(q + c, dim - c));
        _mm256_storeu_ps(to + c, x);
        sum = _mm256_fmadd_ps(x, _mm256_loadu_ps(s->norm + c), sum);
    }
    return dip__sum8(sum) + 1e-15f;
}

static void apply_chunk(const struct state *s, const float *q, int64_t rows, float *out)
{
    const struct dip_job_attend_linear *j = s->j;
    float below[ROWS];
    for (int64_t n = 0; n < rows; n++)
        below[n] = rectify(s, q + n * j->q_stride, s->part + n * s->padded);
    const int64_t wide = DIP__PANELS_MAX * DIP__PANEL;
    for (int64_t d = 0; d < j->head_dim; d += wide)
        s->inner->tile_rows(&(struct dip__tile_rows){.a = s->part,
                                                     .a_stride = s->padded,
                                                     .rows = rows,
                                                     .panels = s->state + d * j->head_dim,
                                                     .panel_next = DIP__PANEL * j->head_dim,
                                                     .count = j->head_dim,
                                                     .columns = dip__min(j->head_dim - d, wide),
                                                     .to = s->out + d,
                                                     .to_stride = s->padded,
                                                     .is_first = true});
    for (int64_t n = 0; n < rows; n++) {
        __m256 divisor = _mm256_set1_ps(below[n]);
        for (int64_t c = 0; c < j->head_dim; c += 8) {
            __m256 sum = _mm256_loadu_ps(s->out + n * s->padded + c);
            dip__put8(out + n * j->out_stride + c, j->head_dim - c, _mm256_div_ps(sum, divisor));
        }
    }
}

void dip__attend_linear(const struct dip__inner *inner, const struct dip_job_attend_linear *j,
                        int64_t begin, int64_t end, void *scratch)
{
    dip_assert(j->head_dim <= DIP_KERNEL_HEAD_DIM_MAX);
    struct state s = {.inner = inner, .j = j, .padded = (j->head_dim + 15) & ~(int64_t)15};
    s.k = scratch;
    s.v = s.k + s.padded * ROWS;
    s.state = s.v + s.padded * ROWS;
    s.norm = s.state + s.padded * s.padded;
    s.part = s.norm + s.padded;
    s.out = s.part + s.padded * ROWS;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t head = unit % j->head_count;
        int64_t row = unit / j->head_count * j->rows_per_item;
        int64_t column = head * j->head_stride;
        gather(&s, j->k + row * j->k_stride + column, j->v + row * j->v_stride + column);
        for (int64_t n = 0; n < j->rows_per_item; n += ROWS)
            apply_chunk(&s, j->q + (row + n) * j->q_stride + column,
                        dip__min(j->rows_per_item - n, ROWS),
                        j->out + (row + n) * j->out_stride + head * j->head_dim);
    }
}
