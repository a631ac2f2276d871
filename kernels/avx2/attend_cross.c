/* kernels/avx2/attend_cross.c - softmax(q k^T / sqrt(d)) v without a mask.
 *
 * Per head, keys and values are repacked once into panels of 16 (keys across for the scores,
 * channels across for the output), then 48 queries at a time: scores (outer form over d), softmax
 * of whole rows, output (outer form over keys, blocks of 256), divided by the row's sum at the end.
 * With equal scores every probability is exp(0) = 1, so equal values come out exactly as they went
 * in whenever their sums are exact.
 *
 * More than 1024 keys are taken in blocks of 1024 with a running maximum. Bound by fma. */
#include "base/assert.h"
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum { ROWS_MAX = 48, KEYS_MAX = 1024, SUM_BLOCK = 256 };

struct state {
    const struct dip__inner *inner;
    const struct dip_job_attend_cross *j;
    int64_t padded; /* head_dim rounded up to 16 */
    int64_t head;   /* whose keys are packed, from packed_first on; -1: none */
    int64_t packed_first;
    float *k_panels; /* [KEYS_MAX / 16][head_dim][16] */
    float *v_panels; /* [padded / 16][KEYS_MAX][16] */
    float *scores;   /* [ROWS_MAX][KEYS_MAX] */
    float *sums;     /* [ROWS_MAX][padded] */
    float highest[ROWS_MAX];
    float total[ROWS_MAX];
};

static void pack_keys(struct state *s, const float *k, int64_t keys)
{
    const struct dip_job_attend_cross *j = s->j;
    for (int64_t m = 0; m < keys; m += 16) {
        float *panel = s->k_panels + m * j->head_dim;
        for (int64_t i = 0; i < 16; i++) {
            const float *row = k + dip__min(m + i, keys - 1) * j->k_stride;
            for (int64_t c = 0; c < j->head_dim; c++)
                panel[c * 16 + i] = row[c];
        }
    }
}

static void pack_values(struct state *s, const float *v, int64_t keys)
{
    const struct dip_job_attend_cross *j = s->j;
    for (int64_t m = 0; m < keys; m++) {
        for (int64_t c = 0; c < s->padded; c += 8) {
            float *to = s->v_panels + (c / 16 * KEYS_MAX + m) * 16 + c % 16;
            _mm256_storeu_ps(to, dip__get8(v + m * j->v_stride + c, j->head_dim - c));
        }
    }
}

static void pack(struct state *s, int64_t head, int64_t first, int64_t keys)
{
    if (s->head == head && s->packed_first == first)
        return;
    const struct dip_job_attend_cross *j = s->j;
    pack_keys(s, j->k + first * j->k_stride + head * j->head_dim, keys);
    pack_values(s, j->v + first * j->v_stride + head * j->head_dim, keys);
    s->head = head;
    s->packed_first = first;
}

/* Probabilities of row r relative to the new maximum; returns by how much older sums shrink. */
static float soften(struct state *s, int64_t r, int64_t keys)
{
    __m256 scale = _mm256_set1_ps(1.0f / __builtin_sqrtf((float)s->j->head_dim));
    const __m256 lowest = _mm256_set1_ps(-__builtin_inff());
    float *p = s->scores + r * KEYS_MAX;
    __m256 top = lowest;
    for (int64_t m = 0; m < keys; m += 8) {
        __m256 mask = _mm256_castsi256_ps(dip__mask8(keys - m));
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(p + m), scale);
        x = _mm256_blendv_ps(lowest, x, mask);
        _mm256_storeu_ps(p + m, x);
        top = _mm256_max_ps(top, x);
    }
    float before = s->highest[r];
    float highest = dip__max8(top);
    highest = highest > before ? highest : before;
    __m256 shift = _mm256_set1_ps(highest);
    __m256 total = _mm256_setzero_ps();
    for (int64_t m = 0; m < keys; m += 8) {
        __m256 e = dip__exp8(_mm256_sub_ps(_mm256_loadu_ps(p + m), shift));
        _mm256_storeu_ps(p + m, e);
        total = _mm256_add_ps(total, e);
    }
    float rescale = _mm256_cvtss_f32(dip__exp8(_mm256_set1_ps(before - highest)));
    s->total[r] = s->total[r] * rescale + dip__sum8(total);
    s->highest[r] = highest;
    return rescale;
}

static void shrink(struct state *s, int64_t r, float factor)
{
    float *sums = s->sums + r * s->padded;
    for (int64_t c = 0; c < s->padded; c += 8)
        _mm256_storeu_ps(sums + c,
                         _mm256_mul_ps(_mm256_loadu_ps(sums + c), _mm256_set1_ps(factor)));
}

/* One block of keys for `rows` queries. */
static void attend_block(struct state *s, const float *q, int64_t rows, int64_t keys, bool is_first)
{
    const struct dip_job_attend_cross *j = s->j;
    const int64_t wide = DIP__PANELS_MAX * DIP__PANEL;
    for (int64_t m = 0; m < keys; m += wide)
        s->inner->tile_rows(&(struct dip__tile_rows){.a = q,
                                                     .a_stride = j->q_stride,
                                                     .rows = rows,
                                                     .panels = s->k_panels + m * j->head_dim,
                                                     .panel_next = DIP__PANEL * j->head_dim,
                                                     .count = j->head_dim,
                                                     .columns = dip__min(keys - m, wide),
                                                     .to = s->scores + m,
                                                     .to_stride = KEYS_MAX,
                                                     .is_first = true});
    for (int64_t r = 0; r < rows; r++) {
        float factor = soften(s, r, keys);
        if (!is_first)
            shrink(s, r, factor);
    }
    for (int64_t c = 0; c < j->head_dim; c += wide)
        for (int64_t m = 0; m < keys; m += SUM_BLOCK)
            s->inner->tile_rows(
                &(struct dip__tile_rows){.a = s->scores + m,
                                         .a_stride = KEYS_MAX,
                                         .rows = rows,
                                         .panels = s->v_panels + c * KEYS_MAX + m * DIP__PANEL,
                                         .panel_next = DIP__PANEL * KEYS_MAX,
                                         .count = dip__min(keys - m, SUM_BLOCK),
                                         .columns = dip__min(j->head_dim - c, wide),
                                         .to = s->sums + c,
                                         .to_stride = s->padded,
                                         .is_first = is_first && m == 0});
}

static void attend_rows(struct state *s, int64_t head, int64_t row, int64_t rows)
{
    const struct dip_job_attend_cross *j = s->j;
    const float *q = j->q + row * j->q_stride + head * j->head_dim;
    for (int64_t r = 0; r < rows; r++) {
        s->highest[r] = -__builtin_inff();
        s->total[r] = 0.0f;
    }
    for (int64_t first = 0; first < j->key_count; first += KEYS_MAX) {
        int64_t keys = dip__min(j->key_count - first, KEYS_MAX);
        pack(s, head, first, keys);
        attend_block(s, q, rows, keys, first == 0);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *out = j->out + (row + r) * j->out_stride + head * j->head_dim;
        __m256 total = _mm256_set1_ps(s->total[r]);
        for (int64_t c = 0; c < j->head_dim; c += 8) {
            __m256 sum = _mm256_loadu_ps(s->sums + r * s->padded + c);
            dip__put8(out + c, j->head_dim - c, _mm256_div_ps(sum, total));
        }
    }
}

void dip__attend_cross(const struct dip__inner *inner, const struct dip_job_attend_cross *j,
                       int64_t begin, int64_t end, void *scratch)
{
    dip_assert(j->unit_rows <= ROWS_MAX);
    dip_assert(j->head_dim <= DIP_KERNEL_HEAD_DIM_MAX);
    struct state s = {
        .inner = inner, .j = j, .padded = (j->head_dim + 15) & ~(int64_t)15, .head = -1};
    s.k_panels = scratch;
    s.v_panels = s.k_panels + KEYS_MAX * j->head_dim;
    s.scores = s.v_panels + KEYS_MAX * s.padded;
    s.sums = s.scores + ROWS_MAX * KEYS_MAX;
    int64_t row_blocks = (j->row_count + j->unit_rows - 1) / j->unit_rows;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row = unit % row_blocks * j->unit_rows;
        attend_rows(&s, unit / row_blocks, row, dip__min(j->unit_rows, j->row_count - row));
    }
}
