/* kernels/cpu/embed.c - rows of a table, widened. */
#include "kernels/cpu/plain.h"

void dip_cpu_embed(const struct dip_job_embed *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        size_t first = (size_t)(j->ids[r] * j->table_stride);
        float *out = j->out + r * j->out_stride;
        for (int64_t c = 0; c < j->column_count; c++)
            out[c] = dip_f32_at(j->table.dtype, j->table.data, first + (size_t)c);
    }
}
