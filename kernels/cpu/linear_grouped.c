/* kernels/cpu/linear_grouped.c - the definition of the grouped 1x1 convolution. */
#include "kernels/cpu/plain.h"

static void row(const struct dip_job_linear_grouped *j, const float *in, float *out)
{
    for (int64_t n = 0; n < j->group_count * j->out_per_group; n++) {
        const float *group = in + n / j->out_per_group * j->in_per_group;
        double sum = 0.0;
        for (int64_t k = 0; k < j->in_per_group; k++)
            sum += (double)group[k] * dip__param_at(j->weight, n * j->in_per_group + k);
        out[n] = (float)sum;
    }
}

void dip_cpu_linear_grouped(const struct dip_job_linear_grouped *j, int64_t begin, int64_t end,
                            void *scratch)
{
    (void)scratch;
    int64_t row_end = dip__min(end * j->unit_rows, j->row_count);
    for (int64_t r = begin * j->unit_rows; r < row_end; r++)
        row(j, j->in + r * j->in_stride, j->out + r * j->out_stride);
}
