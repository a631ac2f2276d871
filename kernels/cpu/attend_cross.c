/* kernels/cpu/attend_cross.c - the definition of attention without a mask. */
#include "kernels/cpu/plain.h"

static double score(const struct dip_job_attend_cross *j, const float *q, const float *k)
{
    double sum = 0.0;
    for (int64_t c = 0; c < j->head_dim; c++)
        sum += (double)q[c] * k[c];
    return sum / sqrt((double)j->head_dim);
}

static void attend_row(const struct dip_job_attend_cross *j, int64_t row, int64_t head)
{
    const float *q = j->q + row * j->q_stride + head * j->head_dim;
    const float *k = j->k + head * j->head_dim;
    const float *v = j->v + head * j->head_dim;
    float *out = j->out + row * j->out_stride + head * j->head_dim;
    double sums[DIP_KERNEL_HEAD_DIM_MAX] = {0};
    double highest = -INFINITY;
    for (int64_t m = 0; m < j->key_count; m++)
        highest = fmax(highest, score(j, q, k + m * j->k_stride));
    double total = 0.0;
    for (int64_t m = 0; m < j->key_count; m++) {
        double p = exp(score(j, q, k + m * j->k_stride) - highest);
        total += p;
        for (int64_t c = 0; c < j->head_dim; c++)
            sums[c] += p * v[m * j->v_stride + c];
    }
    for (int64_t c = 0; c < j->head_dim; c++)
        out[c] = (float)(sums[c] / total);
}

void dip_cpu_attend_cross(const struct dip_job_attend_cross *j, int64_t begin, int64_t end,
                          void *scratch)
{
    (void)scratch;
    int64_t row_blocks = (j->row_count + j->unit_rows - 1) / j->unit_rows;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t first = unit % row_blocks * j->unit_rows;
        int64_t last = dip__min(first + j->unit_rows, j->row_count);
        for (int64_t row = first; row < last; row++)
            attend_row(j, row, unit / row_blocks);
    }
}
