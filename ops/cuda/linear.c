/* ops/cuda/linear.c - matrix products on a GPU: our own kernels, and cuBLASLt for many rows. */
#include "ops/cuda/entries.h"

enum dip_status dip__cuda_linear(struct dip_stream *s, const struct dip_linear_args *a)
{
    int64_t in_count = dip_tensor_columns(a->in);
    return DIP__CUDA_LAUNCH(s, linear, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .weight = dip__cuda_param(&a->weight), .bias = dip__cuda_param(a->bias),
                            .weight_stride = a->weight.rank == 2 ? a->weight.row_stride : in_count,
                            .chunk_count = a->chunk_count ? a->chunk_count : 1,
                            .act = (enum dip_kernel_act)a->act, .is_added = a->is_added,
                            .scratch = dip__cuda_stream(s)->scratch);
}
