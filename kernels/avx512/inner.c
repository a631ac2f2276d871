/* kernels/avx512/inner.c - the AVX-512 width of the operations that exist in two. */
#include "kernels/avx512/simd.h"

#include "kernels/avx2/inner.h"

static const struct dip__inner inner = {
    .dot_rows = dip__avx512_dot_rows,
    .tile_rows = dip__avx512_tile_rows,
    .tile_pieces = dip__avx512_tile_pieces,
    .depthwise_row = dip__avx512_depthwise_row,
};

#define ENTRY(op)                                                                                  \
    void dip_avx512_##op(const struct dip_job_##op *job, int64_t begin, int64_t end,               \
                         void *scratch)                                                            \
    {                                                                                              \
        dip__##op(&inner, job, begin, end, scratch);                                               \
    }
DIP_KERNEL_WIDE_LIST(ENTRY)

/* Twice the work of a narrow round in a round: the count of rounds is halved. */
void dip_avx512_ceiling_fma(const struct dip_job_ceiling_fma *j, int64_t begin, int64_t end,
                            void *scratch)
{
    (void)scratch;
    const __m512 factor = _mm512_set1_ps(0.999f);
    const __m512 term = _mm512_set1_ps(1e-4f);
    for (int64_t unit = begin; unit < end; unit++) {
        __m512 acc[12];
#pragma GCC unroll 12
        for (int n = 0; n < 12; n++)
            acc[n] = _mm512_set1_ps((float)n);
        for (int64_t i = 0; i < j->rounds / 2; i++)
#pragma GCC unroll 12
            for (int n = 0; n < 12; n++)
                acc[n] = _mm512_fmadd_ps(acc[n], factor, term);
        float sum = 0.0f;
#pragma GCC unroll 12
        for (int n = 0; n < 12; n++)
            sum += dip__sum8(
                _mm256_add_ps(_mm512_castps512_ps256(acc[n]), _mm512_extractf32x8_ps(acc[n], 1)));
        j->ret_sums[unit] = sum;
    }
}
