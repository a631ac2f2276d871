/* kernels/avx2/depthwise_row.c - the words of kernels/avx2/depthwise_row.h, eight channels at a
 * time. */
#include "kernels/avx2/simd.h"

typedef __m256 vec;
enum { LANES = 8 };

DIP_INLINE vec vec_load(const float *data)
{
    return _mm256_loadu_ps(data);
}

DIP_INLINE vec vec_load_aligned(const float *data)
{
    return _mm256_load_ps(data);
}

DIP_INLINE void vec_store(float *data, vec value)
{
    _mm256_store_ps(data, value);
}

DIP_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

DIP_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

DIP_INLINE vec vec_silu(vec x)
{
    return dip__silu8(x);
}

/* Streaming stores skip the read that an ordinary store to a missing line starts with. */
DIP_INLINE void vec_put(float *out, int64_t left, bool is_streamed, vec value)
{
    if (is_streamed && left >= 8)
        _mm256_stream_ps(out, value);
    else
        dip__put8(out, left, value);
}

#include "kernels/avx2/depthwise_row.h"

void dip__avx2_depthwise_row(const struct dip__depthwise_row *j)
{
    depthwise_row(j);
}
