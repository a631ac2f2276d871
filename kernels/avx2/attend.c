/* kernels/avx2/attend.c - causal attention of one row over its cached keys.
 *
 * A unit is one key head with the query heads that share it, so keys and values are read once for
 * the group. Keys come in blocks of 32, each with its own softmax relative to the running maximum
 * (online softmax, Milakov and Gimelshein 2018); the blocks start at key 0, so the order of
 * everything depends on the position alone. Scores: dot form. Values: one chain per output over a
 * block's keys. Bound by memory while decoding: 8 head_dim bytes a key. */
#include "base/assert.h"
#include "kernels/avx2/dot.h"

enum { KEYS = 32, QUERIES = 2, VALUE_VECTORS = 4 };

/* Up to QUERIES query heads on their way through the keys. */
struct pass {
    const struct dip_job_attend *j;
    int count;
    const float *q[QUERIES];
    float *out[QUERIES];
    float *sums[QUERIES]; /* [head_dim], padded: unnormalised output */
    float highest[QUERIES];
    float total[QUERIES];
    float p[QUERIES][KEYS]; /* scores, then probabilities, of a block */
    float rescale[QUERIES];
};

/* The next block's rows lie kv_head_count heads apart, which no hardware prefetcher follows. */
DIP_INLINE void fetch(const float *row, int64_t count)
{
    for (int64_t c = 0; c < count; c += 16)
        _mm_prefetch((const char *)(row + c), _MM_HINT_T0);
}

DIP_INLINE void scores_of(struct pass *pass, int queries, const float *k, const float *v,
                          int64_t keys)
{
    const struct dip_job_attend *j = pass->j;
    __m128 scale = _mm_set1_ps(1.0f / __builtin_sqrtf((float)j->head_dim));
    for (int64_t m = 0; m < keys; m += 4) {
        const void *w[4];
        for (int i = 0; i < 4; i++) {
            fetch(v + (m + i) * j->v_cache_stride, j->head_dim);
            fetch(k + (m + i + KEYS) * j->k_cache_stride, j->head_dim);
        }
        for (int i = 0; i < 4; i++) /* keys beyond the last repeat it and are masked below */
            w[i] = k + dip__min(m + i, keys - 1) * j->k_cache_stride;
        __m256 acc[QUERIES * 4];
        for (int i = 0; i < queries * 4; i++)
            acc[i] = _mm256_setzero_ps();
        dip__dot_direct(DIP_F32, queries, 4, pass->q, w, 0, j->head_dim, false, NULL, acc);
        for (int i = 0; i < queries; i++) {
            const __m256 *lanes = acc + 4 * i;
            __m128 score = dip__sum8x4(lanes[0], lanes[1], lanes[2], lanes[3]);
            _mm_storeu_ps(pass->p[i] + m, _mm_mul_ps(score, scale));
        }
    }
}

/* Turns the block's scores of query i into probabilities relative to the new maximum. */
static void soften(struct pass *pass, int i, int64_t keys)
{
    const __m256 lowest = _mm256_set1_ps(-__builtin_inff());
    float *p = pass->p[i];
    __m256 top = lowest;
    for (int64_t m = 0; m < keys; m += 8) {
        __m256 mask = _mm256_castsi256_ps(dip__mask8(keys - m));
        __m256 s = _mm256_blendv_ps(lowest, _mm256_loadu_ps(p + m), mask);
        _mm256_storeu_ps(p + m, s);
        top = _mm256_max_ps(top, s);
    }
    float before = pass->highest[i];
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
    pass->rescale[i] = rescale;
    pass->total[i] = pass->total[i] * rescale + dip__sum8(total);
    pass->highest[i] = highest;
}

/* sums[c..] = sums * rescale + p v over the block, VALUE_VECTORS vectors at a time. */
DIP_INLINE void values_of(struct pass *pass, int queries, int vectors, const float *v, int64_t keys,
                          int64_t c)
{
    __m256 acc[QUERIES * VALUE_VECTORS];
    for (int i = 0; i < queries * vectors; i++)
        acc[i] = _mm256_setzero_ps();
    const float *row = v + c;
    for (int64_t m = 0; m < keys; m++, row += pass->j->v_cache_stride) {
        __m256 value[VALUE_VECTORS];
#pragma GCC unroll 4
        for (int n = 0; n < vectors; n++)
            value[n] = vectors == VALUE_VECTORS ? _mm256_loadu_ps(row + 8 * n)
                                                : dip__get8(row, pass->j->head_dim - c);
#pragma GCC unroll 2
        for (int i = 0; i < queries; i++) {
            __m256 p = _mm256_broadcast_ss(pass->p[i] + m);
#pragma GCC unroll 4
            for (int n = 0; n < vectors; n++)
                acc[i * vectors + n] = _mm256_fmadd_ps(p, value[n], acc[i * vectors + n]);
        }
    }
    for (int i = 0; i < queries; i++) {
        __m256 rescale = _mm256_set1_ps(pass->rescale[i]);
        for (int n = 0; n < vectors; n++) {
            float *sum = pass->sums[i] + c + 8 * n;
            _mm256_storeu_ps(sum,
                             _mm256_fmadd_ps(_mm256_loadu_ps(sum), rescale, acc[i * vectors + n]));
        }
    }
}

DIP_INLINE void blocks_of(struct pass *pass, int queries, const float *k, const float *v,
                          int64_t key_count)
{
    const struct dip_job_attend *j = pass->j;
    for (int64_t first = 0; first < key_count; first += KEYS) {
        int64_t keys = dip__min(key_count - first, KEYS);
        const float *values = v + first * j->v_cache_stride;
        scores_of(pass, queries, k + first * j->k_cache_stride, values, keys);
        for (int i = 0; i < queries; i++)
            soften(pass, i, keys);
        int64_t c = 0;
        for (; c + 8 * VALUE_VECTORS <= j->head_dim; c += 8 * VALUE_VECTORS)
            values_of(pass, queries, VALUE_VECTORS, values, keys, c);
        for (; c < j->head_dim; c += 8)
            values_of(pass, queries, 1, values, keys, c);
    }
}

static void attend(struct pass *pass, const float *k, const float *v, int64_t key_count)
{
    int64_t head_dim = pass->j->head_dim;
    for (int i = 0; i < pass->count; i++) {
        memset(pass->sums[i], 0, (size_t)(head_dim + 8) * sizeof(float));
        pass->highest[i] = -__builtin_inff();
        pass->total[i] = 0.0f;
    }
    if (pass->count == QUERIES)
        blocks_of(pass, QUERIES, k, v, key_count);
    else
        blocks_of(pass, 1, k, v, key_count);
    for (int i = 0; i < pass->count; i++) {
        __m256 total = _mm256_set1_ps(pass->total[i]);
        for (int64_t c = 0; c < head_dim; c += 8)
            dip__put8(pass->out[i] + c, head_dim - c,
                      _mm256_div_ps(_mm256_loadu_ps(pass->sums[i] + c), total));
    }
}

void dip_avx2_attend(const struct dip_job_attend *j, int64_t begin, int64_t end, void *scratch)
{
    dip_assert(j->head_dim <= DIP_KERNEL_HEAD_DIM_MAX);
    struct pass pass = {.j = j};
    for (int i = 0; i < QUERIES; i++)
        pass.sums[i] = (float *)scratch + (int64_t)i * 2 * DIP_KERNEL_HEAD_DIM_MAX;
    int64_t group = j->head_count / j->kv_head_count;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t r = unit / j->kv_head_count;
        int64_t kv_head = unit % j->kv_head_count;
        int64_t first = j->rows[r].slot * j->capacity;
        const float *k = j->k_cache + first * j->k_cache_stride + kv_head * j->head_dim;
        const float *v = j->v_cache + first * j->v_cache_stride + kv_head * j->head_dim;
        for (int64_t g = 0; g < group; g += QUERIES) {
            pass.count = (int)dip__min(group - g, QUERIES);
            for (int i = 0; i < pass.count; i++) {
                int64_t column = (kv_head * group + g + i) * j->head_dim;
                pass.q[i] = j->q + r * j->q_stride + column;
                pass.out[i] = j->out + r * j->out_stride + column;
            }
            attend(&pass, k, v, j->rows[r].position + 1);
        }
    }
}
