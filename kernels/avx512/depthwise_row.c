/* kernels/avx512/depthwise_row.c - the words of kernels/avx2/depthwise_row.h, sixteen channels at a
 * time. */
#include "kernels/avx2/inner.h"
#include "kernels/avx512/simd.h"

typedef __m512 vec;
enum { LANES = 16 };

DIP_INLINE vec vec_load(const float *data)
{
    return _mm512_loadu_ps(data);
}

DIP_INLINE vec vec_load_aligned(const float *data)
{
    return _mm512_load_ps(data);
}

DIP_INLINE void vec_store(float *data, vec value)
{
    _mm512_store_ps(data, value);
}

DIP_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

DIP_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

DIP_INLINE vec vec_silu(vec x)
{
    return dip__silu16(x);
}

/* Streamed rows are aligned to 32 bytes only: halves. */
DIP_INLINE void vec_put(float *out, int64_t left, bool is_streamed, vec value)
{
    if (is_streamed && left >= 16) {
        _mm256_stream_ps(out, _mm512_castps512_ps256(value));
        _mm256_stream_ps(out + 8, _mm512_extractf32x8_ps(value, 1));
    } else if (left >= 16) {
        _mm512_storeu_ps(out, value); /* a full mask would cost more than none */
    } else {
        _mm512_mask_storeu_ps(out, dip__mask16(left), value);
    }
}

#include "kernels/avx2/depthwise_row.h"

void dip__avx512_depthwise_row(const struct dip__depthwise_row *j)
{
    depthwise_row(j);
}
