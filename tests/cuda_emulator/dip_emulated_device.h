/* tests/cuda_emulator/dip_emulated_device.h - the language of kernels/cuda in plain C++.
 *
 * A kernel is a function; a block is run thread by thread, each on a stack of its own, and a thread
 * runs until it must wait for others. What waits and what wakes is in fibers.cpp. Blocks run one
 * after another, so threadIdx and its kin are plain variables and __shared__ is `static`.
 *
 * What a GPU would get wrong silently ends the process here with a sentence: a barrier that not all
 * threads of the block reach, a warp operation whose mask names a lane that is elsewhere. Dynamic
 * shared memory is filled with NaN before every block, device memory when it is allocated. Under
 * the address sanitizer both have red zones; under the thread sanitizer every emulated thread is
 * one of its fibers, so that a missing barrier is reported as the race it is.
 *
 * Sums of warp operations, barriers and shuffles behave as on a GPU; the order in which threads
 * and blocks run changes from launch to launch, so that a result which depends on it does not
 * repeat. Tensor cores: exact products
 * summed in order of k, each sum rounded (a GPU adds some at once and truncates: tolerances must
 * allow for both). */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DIP_CUDA_EMULATED 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__      static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_), y(y_), z(z_)
    {
    }
};
struct uint3 {
    unsigned int x, y, z;
};
struct __align__(8) int2
{
    int x, y;
};
struct __align__(8) uint2
{
    unsigned int x, y;
};
struct __align__(8) float2
{
    float x, y;
};
struct __align__(16) int4
{
    int x, y, z, w;
};
struct __align__(16) uint4
{
    unsigned int x, y, z, w;
};
struct __align__(16) float4
{
    float x, y, z, w;
};
struct __align__(16) double2
{
    double x, y;
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
static inline uint2 make_uint2(unsigned int x, unsigned int y)
{
    return {x, y};
}
static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w)
{
    return {x, y, z, w};
}

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* ---- what fibers.cpp gives ---- */

typedef void (*dip_emulator_body)(const void *closure);
/* Runs every thread of every block. */
void dip_emulator_run(dim3 grid, dim3 block, size_t shared_bytes, dip_emulator_body body,
                      const void *closure);
void *dip_emulator_shared(void); /* dynamic shared memory of the block */
void dip_emulator_block_barrier(void);
/* Waits for all lanes of `mask`; returns 32 slots of 64 bytes, lane l's holding what it gave. Good
 * until the second warp operation from here. */
void *dip_emulator_exchange(unsigned int mask, const void *given, size_t bytes, const char *what);

/* ---- barriers and warp operations ---- */

static inline void __syncthreads(void)
{
    dip_emulator_block_barrier();
}
static inline void __syncwarp(unsigned int mask = 0xffffffffu)
{
    (void)dip_emulator_exchange(mask, NULL, 0, "__syncwarp");
}
static inline void __threadfence(void)
{
}
static inline void __threadfence_block(void)
{
}

static inline unsigned int dip_emulator_lane(void)
{
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

template <typename T>
static inline T dip_emulator_from_lane(unsigned int mask, T value, unsigned int lane,
                                       const char *what)
{
    const char *slots = (const char *)dip_emulator_exchange(mask, &value, sizeof value, what);
    if (!(mask >> lane & 1))
        return value; /* undefined on a GPU; nobody may look at it */
    T result;
    memcpy(&result, slots + lane * 64, sizeof result);
    return result;
}

template <typename T> static inline T __shfl_sync(unsigned int mask, T value, int lane)
{
    return dip_emulator_from_lane(mask, value, (unsigned int)lane & 31, "__shfl_sync");
}
template <typename T> static inline T __shfl_xor_sync(unsigned int mask, T value, int lanes)
{
    return dip_emulator_from_lane(mask, value, (dip_emulator_lane() ^ (unsigned int)lanes) & 31,
                                  "__shfl_xor_sync");
}
template <typename T> static inline T __shfl_up_sync(unsigned int mask, T value, unsigned int delta)
{
    unsigned int lane = dip_emulator_lane();
    return dip_emulator_from_lane(mask, value, lane >= delta ? lane - delta : lane,
                                  "__shfl_up_sync");
}
template <typename T>
static inline T __shfl_down_sync(unsigned int mask, T value, unsigned int delta)
{
    unsigned int lane = dip_emulator_lane();
    return dip_emulator_from_lane(mask, value, lane + delta < 32 ? lane + delta : lane,
                                  "__shfl_down_sync");
}
static inline unsigned int __ballot_sync(unsigned int mask, int predicate)
{
    int given = predicate != 0;
    const char *slots =
        (const char *)dip_emulator_exchange(mask, &given, sizeof given, "__ballot_sync");
    unsigned int votes = 0;
    for (unsigned int lane = 0; lane < 32; lane++) {
        memcpy(&given, slots + lane * 64, sizeof given);
        votes |= (mask >> lane & 1) && given ? 1u << lane : 0;
    }
    return votes;
}
static inline int __any_sync(unsigned int mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned int mask, int predicate)
{
    return __ballot_sync(mask, predicate) == mask;
}

static inline int dip_emulator_votes(int predicate)
{
    static int votes;
    if (predicate)
        __atomic_fetch_add(&votes, 1, __ATOMIC_RELAXED);
    dip_emulator_block_barrier();
    int result = __atomic_load_n(&votes, __ATOMIC_RELAXED);
    dip_emulator_block_barrier();
    __atomic_store_n(&votes, 0, __ATOMIC_RELAXED);
    dip_emulator_block_barrier();
    return result;
}
static inline int __syncthreads_or(int predicate)
{
    return dip_emulator_votes(predicate) > 0;
}
static inline int __syncthreads_count(int predicate)
{
    return dip_emulator_votes(predicate);
}

/* ---- atomics ---- */

template <typename T> static inline T atomicAdd(T *at, T value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicOr(T *at, T value)
{
    return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicExch(T *at, T value)
{
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicMax(T *at, T value)
{
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);
    if (value > old)
        __atomic_store_n(at, value, __ATOMIC_RELAXED);
    return old;
}

/* ---- arithmetic ---- */

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dsub_rn(double a, double b)
{
    return a - b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __uint_as_float(unsigned int bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned int __float_as_uint(float value)
{
    unsigned int bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline double __longlong_as_double(long long bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b)
{
    return (unsigned int)((uint64_t)a * b >> 32);
}
static inline int __popc(unsigned int x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned int)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
template <typename T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

/* ---- launches: what kernels/cuda/launch.h makes of <<<>>> here ---- */

struct CUstream_st;
/* Enqueues a launch on the emulated stream. `closure` is copied. Returns a cudaError_t. */
int dip_emulator_launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st *stream,
                        dip_emulator_body body, const void *closure, size_t closure_bytes);
