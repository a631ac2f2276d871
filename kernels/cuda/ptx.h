/* kernels/cuda/ptx.h - the instructions CUDA C++ has no name for, one function each.
 *
 * Every function has a twin for a machine without a GPU (tests/cuda_emulator), so no other file of
 * this folder knows which of the two it is compiled for. */
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef DIP_CUDA_EMULATED
#include <dip_emulated_ptx.h>
#else

/* Dynamic shared memory of the block. */
static __device__ __forceinline__ void *dip__shared(void)
{
    extern __shared__ uint4 dip__dynamic_shared[];
    return dip__dynamic_shared;
}

/* Returns once what earlier launches of the stream wrote can be read; what stands before it may run
 * while they still do (programmatic dependent launch), so only weights may be touched there. */
static __device__ __forceinline__ void dip__wait_inputs(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next launch of the stream, if it was asked to be early, may begin once every block of this
 * one has come here: in what room is left beside them. It waits for this one's end by itself. */
static __device__ __forceinline__ void dip__let_next_begin(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

static __device__ __forceinline__ uint32_t dip__bf16x2(float low, float high)
{
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

static __device__ __forceinline__ uint32_t dip__bf16_bits(float x)
{
    return dip__bf16x2(x, 0.0f) & 0xffff;
}

static __device__ __forceinline__ float dip__f32_of_f16(uint16_t bits)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

static __device__ __forceinline__ uint16_t dip__f16_bits(float x)
{
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

/* 16 bytes that are read once: they pass the caches without staying in the first. */
static __device__ __forceinline__ uint4 dip__load_stream(const void *from)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

/* 16 bytes from global to shared memory on their own way; zeros when !is_there. */
static __device__ __forceinline__ void dip__copy_async(void *to, const void *from, bool is_there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void dip__copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All groups but the youngest LEFT have arrived, for the calling thread. */
template <int LEFT> static __device__ __forceinline__ void dip__copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* c[16 x 8] += a[16 x 16] b[16 x 8]. lane = 4 g + t holds of a the rows g and g + 8, columns 2t,
 * 2t+1 (a[0], a[1]), 2t+8, 2t+9 (a[2], a[3]); of b those rows of column g; of c the rows g (c[0],
 * c[1]) and g + 8 of columns 2t, 2t+1. */
static __device__ __forceinline__ void dip__mma(float c[4], const uint32_t a[4],
                                                const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory, transposed: lane l gives the address
 * of row l % 8 of matrix l / 8 and gets, of each matrix, elements (2t, g) and (2t + 1, g). */
static __device__ __forceinline__ void dip__load_transposed(uint32_t to[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

#endif
