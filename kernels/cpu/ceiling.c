/* kernels/cpu/ceiling.c - what plain code can get out of the machine: reads, copies, multiply-adds.
 */
#include <string.h>

#include "kernels/cpu/plain.h"

void dip_cpu_ceiling_read(const struct dip_job_ceiling_read *j, int64_t begin, int64_t end,
                          void *scratch)
{
    (void)scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        const unsigned char *at = j->data + unit * j->unit_bytes;
        uint64_t sum = 0;
        for (int64_t i = 0; i < j->unit_bytes; i += (int64_t)sizeof sum) {
            uint64_t word;
            memcpy(&word, at + i, sizeof word);
            sum ^= word;
        }
        j->ret_sums[unit] = sum;
    }
}

void dip_cpu_ceiling_copy(const struct dip_job_ceiling_copy *j, int64_t begin, int64_t end,
                          void *scratch)
{
    (void)scratch;
    memcpy(j->to + begin * j->unit_bytes, j->from + begin * j->unit_bytes,
           (size_t)((end - begin) * j->unit_bytes));
}

void dip_cpu_ceiling_fma(const struct dip_job_ceiling_fma *j, int64_t begin, int64_t end,
                         void *scratch)
{
    (void)scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        float sums[DIP_KERNEL_CEILING_FMA_FLOPS / 2] = {0};
        for (int64_t i = 0; i < j->rounds; i++)
            for (int lane = 0; lane < DIP_KERNEL_CEILING_FMA_FLOPS / 2; lane++)
                sums[lane] = sums[lane] * 0.999f + 1e-4f;
        j->ret_sums[unit] = sums[unit % (DIP_KERNEL_CEILING_FMA_FLOPS / 2)];
    }
}
