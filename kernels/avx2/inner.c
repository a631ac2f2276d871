/* kernels/avx2/inner.c - the AVX2 width of the operations that exist in two. */
#include "kernels/avx2/inner.h"

static const struct dip__inner inner = {
    .dot_rows = dip__avx2_dot_rows,
    .tile_rows = dip__avx2_tile_rows,
    .tile_pieces = dip__avx2_tile_pieces,
    .depthwise_row = dip__avx2_depthwise_row,
};

#define ENTRY(op)                                                                                  \
    void dip_avx2_##op(const struct dip_job_##op *job, int64_t begin, int64_t end, void *scratch)  \
    {                                                                                              \
        dip__##op(&inner, job, begin, end, scratch);                                               \
    }
DIP_KERNEL_WIDE_LIST(ENTRY)
