/* kernels/cpu/attend.c - the cache of keys and values, and the definition of causal attention. */
#include <string.h>

#include "kernels/cpu/plain.h"

void dip_cpu_kv_append(const struct dip_job_kv_append *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    size_t bytes = (size_t)j->column_count * sizeof(float);
    for (int64_t r = begin; r < end; r++) {
        int64_t at = j->rows[r].slot * j->capacity + j->rows[r].position;
        memcpy(j->k_cache + at * j->k_cache_stride, j->k + r * j->k_stride, bytes);
        memcpy(j->v_cache + at * j->v_cache_stride, j->v + r * j->v_stride, bytes);
    }
}

static double score(const float *q, const float *k, int64_t head_dim)
{
    double sum = 0.0;
    for (int64_t c = 0; c < head_dim; c++)
        sum += (double)q[c] * k[c];
    return sum / sqrt((double)head_dim);
}

/* Scores are computed twice rather than stored: the definition needs no memory. */
static void attend_head(const struct dip_job_attend *j, const float *q, const float *k,
                        const float *v, int64_t key_count, float *out)
{
    double sums[DIP_KERNEL_HEAD_DIM_MAX] = {0};
    double highest = -INFINITY;
    for (int64_t m = 0; m < key_count; m++)
        highest = fmax(highest, score(q, k + m * j->k_cache_stride, j->head_dim));
    double total = 0.0;
    for (int64_t m = 0; m < key_count; m++) {
        double p = exp(score(q, k + m * j->k_cache_stride, j->head_dim) - highest);
        total += p;
        for (int64_t c = 0; c < j->head_dim; c++)
            sums[c] += p * v[m * j->v_cache_stride + c];
    }
    for (int64_t c = 0; c < j->head_dim; c++)
        out[c] = (float)(sums[c] / total);
}

void dip_cpu_attend(const struct dip_job_attend *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    int64_t group = j->head_count / j->kv_head_count;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t r = unit / j->kv_head_count;
        int64_t kv_head = unit % j->kv_head_count;
        int64_t first = j->rows[r].slot * j->capacity;
        const float *k = j->k_cache + first * j->k_cache_stride + kv_head * j->head_dim;
        const float *v = j->v_cache + first * j->v_cache_stride + kv_head * j->head_dim;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
            attend_head(j, j->q + r * j->q_stride + head * j->head_dim, k, v,
                        j->rows[r].position + 1, j->out + r * j->out_stride + head * j->head_dim);
    }
}
