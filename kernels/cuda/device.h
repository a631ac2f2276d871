/* kernels/cuda/device.h - what kernels share: elements of any type, eight at a time; sums over a
 * warp and a block in a fixed order; activations.
 *
 * A type is looked at when an element is read, not compiled in: the branch is the same for the
 * whole grid, so it costs an instruction beside a memory access, and a kernel exists once. Kernels
 * bound by arithmetic (products, attention) are templates instead. */
#pragma once

#include "kernels/cuda/launch.h"

/* Elements a thread moves at once: 16 bytes of BF16, two times 16 of F32. */
enum { DIP__CHUNK = 8 };

static __device__ __forceinline__ float dip__f32_of_bf16(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

static __device__ __forceinline__ float dip__at(const void *data, enum dip_dtype dtype, int64_t i)
{
    if (dtype == DIP_F32)
        return ((const float *)data)[i];
    uint16_t bits = ((const uint16_t *)data)[i];
    return dtype == DIP_BF16 ? dip__f32_of_bf16(bits) : dip__f32_of_f16(bits);
}

static __device__ __forceinline__ void dip__put(void *data, enum dip_dtype dtype, int64_t i,
                                                float x)
{
    if (dtype == DIP_F32)
        ((float *)data)[i] = x;
    else
        ((uint16_t *)data)[i] =
            (uint16_t)(dtype == DIP_BF16 ? dip__bf16_bits(x) : dip__f16_bits(x));
}

/* x as it will be read again after a store in dtype. */
static __device__ __forceinline__ float dip__rounded(enum dip_dtype dtype, float x)
{
    return dtype == DIP_BF16 ? dip__f32_of_bf16(dip__bf16_bits(x)) : x;
}

static __device__ __forceinline__ void dip__unpack2(uint32_t pair, enum dip_dtype dtype, float x[2])
{
    bool is_bf16 = dtype == DIP_BF16;
    x[0] = is_bf16 ? __uint_as_float(pair << 16) : dip__f32_of_f16((uint16_t)pair);
    x[1] = is_bf16 ? __uint_as_float(pair & 0xffff0000u) : dip__f32_of_f16((uint16_t)(pair >> 16));
}

/* x[0..count) from element i on; the rest 0. is_wide: data and i allow 16-byte accesses. */
static __device__ __forceinline__ void dip__load8(float x[DIP__CHUNK], const void *data,
                                                  enum dip_dtype dtype, int64_t i, int count,
                                                  bool is_wide)
{
    if (is_wide && count >= DIP__CHUNK) {
        if (dtype == DIP_F32) {
            float4 low = ((const float4 *)((const float *)data + i))[0];
            float4 high = ((const float4 *)((const float *)data + i))[1];
            x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
            x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
            return;
        }
        uint4 v = *(const uint4 *)((const uint16_t *)data + i);
        dip__unpack2(v.x, dtype, x);
        dip__unpack2(v.y, dtype, x + 2);
        dip__unpack2(v.z, dtype, x + 4);
        dip__unpack2(v.w, dtype, x + 6);
        return;
    }
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        x[e] = e < count ? dip__at(data, dtype, i + e) : 0.0f;
}

static __device__ __forceinline__ void dip__store8(void *data, enum dip_dtype dtype, int64_t i,
                                                   int count, bool is_wide,
                                                   const float x[DIP__CHUNK])
{
    if (is_wide && count >= DIP__CHUNK && dtype == DIP_F32) {
        float4 *to = (float4 *)((float *)data + i);
        to[0] = make_float4(x[0], x[1], x[2], x[3]);
        to[1] = make_float4(x[4], x[5], x[6], x[7]);
        return;
    }
    if (is_wide && count >= DIP__CHUNK && dtype == DIP_BF16) {
        *(uint4 *)((uint16_t *)data + i) =
            make_uint4(dip__bf16x2(x[0], x[1]), dip__bf16x2(x[2], x[3]), dip__bf16x2(x[4], x[5]),
                       dip__bf16x2(x[6], x[7]));
        return;
    }
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        if (e < count)
            dip__put(data, dtype, i + e, x[e]);
}

/* ---- which chunk of which row a thread has ---- */

enum { DIP__SPOT_THREADS = 256 };

struct dip__spot {
    int64_t row, column;
    int count; /* 0: none */
};

static __device__ __forceinline__ struct dip__spot dip__spot_of(int64_t rows, int64_t columns)
{
    uint32_t chunks = (uint32_t)((columns + DIP__CHUNK - 1) / DIP__CHUNK);
    uint32_t index = blockIdx.x * DIP__SPOT_THREADS + threadIdx.x;
    struct dip__spot spot = {index / chunks, (int64_t)(index % chunks) * DIP__CHUNK, 0};
    if (spot.row < rows)
        spot.count = (int)min((int64_t)DIP__CHUNK, columns - spot.column);
    return spot;
}

static inline dim3 dip__spot_grid(int64_t rows, int64_t columns)
{
    return dim3(
        (unsigned int)dip__pieces(rows * dip__pieces(columns, DIP__CHUNK), DIP__SPOT_THREADS));
}

/* Whether the spots of a launch can be counted in 32 bits. */
static inline bool dip__are_spots_few(int64_t rows, int64_t columns)
{
    return rows * dip__pieces(columns, DIP__CHUNK) < (int64_t)UINT32_MAX - DIP__SPOT_THREADS;
}

/* ---- kernels of one shape: a thread does something to one chunk, and is done ---- */

template <class Work>
static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    dip__chunks_kernel(Work work, int64_t rows, int64_t columns)
{
    struct dip__spot at = dip__spot_of(rows, columns);
    if (at.count)
        work.run(at);
}

/* work.run(spot) on the device for every chunk of rows x columns. */
template <class Work>
static enum dip_status dip__run_chunks(struct CUstream_st *stream, const Work &work, int64_t rows,
                                       int64_t columns)
{
    if (!dip__are_spots_few(rows, columns))
        return DIP_UNSUPPORTED;
    return dip__launch(stream, dip__chunks_kernel<Work>, dip__spot_grid(rows, columns),
                       DIP__SPOT_THREADS, 0, work, rows, columns);
}

/* Eight elements of a view at a spot, there and back. */
static __device__ __forceinline__ void dip__load_spot(float x[DIP__CHUNK],
                                                      const struct dip_cuda_view &v,
                                                      const struct dip__spot &at, bool is_wide)
{
    dip__load8(x, v.data, v.dtype, at.row * v.stride + at.column, at.count, is_wide);
}

static __device__ __forceinline__ void dip__store_spot(const struct dip_cuda_view &v,
                                                       const struct dip__spot &at, bool is_wide,
                                                       const float x[DIP__CHUNK])
{
    dip__store8(v.data, v.dtype, at.row * v.stride + at.column, at.count, is_wide, x);
}

/* ---- sums ---- */

/* Over the lanes of a whole warp, the same bits in every lane: pairs 16 apart first. */
static __device__ __forceinline__ float dip__warp_sum(float x)
{
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

static __device__ __forceinline__ float dip__warp_max(float x)
{
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart));
    return x;
}

/* Over a block of `warps` whole warps: warps in order. `room` holds a float for each; the caller
 * has not written it since the last barrier. */
static __device__ __forceinline__ float dip__block_sum(float x, float *room, int warps)
{
    x = dip__warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = room[0];
    for (int i = 1; i < warps; i++)
        sum += room[i];
    return sum;
}

/* ---- activations ---- */

static __device__ __forceinline__ float dip__silu_f32(float x)
{
    return x / (1.0f + expf(-x));
}

static __device__ __forceinline__ float dip__activate_f32(enum dip_kernel_act act, float x)
{
    if (act == DIP_KERNEL_ACT_SILU)
        return dip__silu_f32(x);
    if (act == DIP_KERNEL_ACT_RELU)
        return x < 0.0f ? 0.0f : x; /* NaN stays NaN */
    if (act == DIP_KERNEL_ACT_GELU_TANH) {
        /* 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), which does not cancel where tanh nears -1 */
        float u = 0.79788456080286535588f * (x + 0.044715f * x * x * x);
        return x / (1.0f + expf(-2.0f * u));
    }
    return x;
}

/* ---- what several files say of a number ---- */

static __device__ __forceinline__ float dip__guided(float uncond, float cond, float scale)
{
    return __fadd_rn(uncond, __fmul_rn(scale, __fsub_rn(cond, uncond)));
}

/* Whether a NaN or an infinity is among them. */
static __device__ __forceinline__ bool dip__is_any_bad(const float x[DIP__CHUNK])
{
    bool is_bad = false;
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        is_bad = is_bad || (__float_as_uint(x[e]) & 0x7f800000u) == 0x7f800000u;
    return is_bad;
}
