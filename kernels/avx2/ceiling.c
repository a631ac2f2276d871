/* kernels/avx2/ceiling.c - what AVX2 code can get out of the machine: reads, copies, multiply-adds.
 */
#include "kernels/avx2/simd.h"

void dip_avx2_ceiling_read(const struct dip_job_ceiling_read *j, int64_t begin, int64_t end,
                           void *scratch)
{
    (void)scratch;
    for (int64_t unit = begin; unit < end; unit++) {
        const unsigned char *at = j->data + unit * j->unit_bytes;
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                           _mm256_setzero_si256()};
        for (int64_t i = 0; i < j->unit_bytes; i += 128)
            for (int n = 0; n < 4; n++)
                sums[n] = _mm256_xor_si256(
                    sums[n], _mm256_loadu_si256((const __m256i *)(at + i + 32 * (int64_t)n)));
        uint64_t lanes[4];
        _mm256_storeu_si256((__m256i *)lanes, _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]),
                                                               _mm256_xor_si256(sums[2], sums[3])));
        j->ret_sums[unit] = lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
    }
}

void dip_avx2_ceiling_copy(const struct dip_job_ceiling_copy *j, int64_t begin, int64_t end,
                           void *scratch)
{
    (void)scratch;
    const __m256i *from = (const __m256i *)(j->from + begin * j->unit_bytes);
    __m256i *to = (__m256i *)(j->to + begin * j->unit_bytes);
    for (int64_t i = 0; i < (end - begin) * j->unit_bytes / 32; i += 4)
        for (int n = 0; n < 4; n++)
            _mm256_storeu_si256(to + i + n, _mm256_loadu_si256(from + i + n));
}

void dip_avx2_ceiling_fma(const struct dip_job_ceiling_fma *j, int64_t begin, int64_t end,
                          void *scratch)
{
    (void)scratch;
    const __m256 factor = _mm256_set1_ps(0.999f);
    const __m256 term = _mm256_set1_ps(1e-4f);
    for (int64_t unit = begin; unit < end; unit++) {
        __m256 acc[12];
#pragma GCC unroll 12
        for (int n = 0; n < 12; n++)
            acc[n] = _mm256_set1_ps((float)n);
        for (int64_t i = 0; i < j->rounds; i++)
#pragma GCC unroll 12
            for (int n = 0; n < 12; n++)
                acc[n] = _mm256_fmadd_ps(acc[n], factor, term);
        float sum = 0.0f;
#pragma GCC unroll 12
        for (int n = 0; n < 12; n++)
            sum += dip__sum8(acc[n]);
        j->ret_sums[unit] = sum;
    }
}
