/* ops/cuda/missing.c - launchers that kernels/cuda does not have yet: not supported until it does.
 */
#include "kernels/cuda/cuda.h"

#define MISSING(op)                                                                                \
    __attribute__((weak)) enum dip_status dip_cuda_##op(struct CUstream_st *stream,                \
                                                        const struct dip_cuda_##op *job)           \
    {                                                                                              \
        (void)stream;                                                                              \
        (void)job;                                                                                 \
        return DIP_UNSUPPORTED;                                                                    \
    }
MISSING(linear)
MISSING(linear_grouped)
MISSING(tree_sum)
MISSING(attend_cross)
MISSING(attend_linear)
MISSING(conv)
MISSING(conv_pack)
MISSING(conv_depthwise)
MISSING(pixel_shuffle)
MISSING(repeat_add)
MISSING(patch)
MISSING(layout)
MISSING(rgb8)

__attribute__((weak)) size_t dip_cuda_conv_packed_bytes(const struct dip_cuda_conv_pack *job)
{
    return (size_t)(job->out_channels * job->in_channels * job->edge * job->edge) * sizeof(float);
}
