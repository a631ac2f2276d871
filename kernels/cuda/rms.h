/* kernels/cuda/rms.h - RMSNorm's arithmetic, for the norm itself and for products that begin with
 * it.
 *
 * Both must give one row the same bits, so who sums which channels is decided here: a warp for runs
 * of up to DIP__RMS_WARP_MAX channels, else a block of DIP__RMS_THREADS. A thread sums chunks of
 * eight neighbours, one team's width apart, in order. */
#pragma once

#include "kernels/cuda/device.h"

enum { DIP__RMS_THREADS = 256, DIP__RMS_WARP_MAX = 1024 };

/* The thread's part of the sum of squares of in[from .. from + count). */
static __device__ __forceinline__ float dip__rms_squares(const struct dip_cuda_view &in,
                                                         int64_t from, int64_t count, int rank,
                                                         int size, bool is_wide)
{
    float x[DIP__CHUNK], squares = 0.0f;
    for (int64_t c = rank * DIP__CHUNK; c < count; c += size * DIP__CHUNK) {
        dip__load8(x, in.data, in.dtype, from + c, (int)min((int64_t)DIP__CHUNK, count - c),
                   is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            squares = fmaf(x[e], x[e], squares);
    }
    return squares;
}

static __device__ __forceinline__ float dip__rms_scale(float squares, int64_t count, float eps)
{
    return 1.0f / sqrtf(squares / (float)count + eps);
}

static __device__ __forceinline__ float dip__rms_scaled(float x, float scale, float weight)
{
    return x * scale * weight;
}
