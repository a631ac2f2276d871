/* kernels/cuda/launch.h - how a launcher starts its kernel.
 *
 * One function stands for <<<>>>: on a GPU it is that, with more than 48 KB of shared memory asked
 * for where needed; in the tests' emulator it enqueues the same call. */
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ptx.h"

/* Workers per launch are counted in 32 bits. */
static inline int64_t dip__pieces(int64_t count, int64_t size)
{
    return (count + size - 1) / size;
}

static inline size_t dip__dtype_size(enum dip_dtype dtype)
{
    return dtype == DIP_F32 || dtype == DIP_I32 ? 4 : dtype == DIP_U8 ? 1 : 2;
}

static inline bool dip__is_aligned(const void *data, int64_t stride, enum dip_dtype dtype)
{
    int64_t bytes = (int64_t)dip__dtype_size(dtype);
    return (uintptr_t)data % 16 == 0 && stride * bytes % 16 == 0;
}

static inline bool dip__is_view_aligned(const struct dip_cuda_view *v)
{
    return !v->data || dip__is_aligned(v->data, v->stride, v->dtype);
}

template <class... Formal, class... Actual>
static enum dip_status dip__launch(struct CUstream_st *stream, void (*kernel)(Formal...), dim3 grid,
                                   unsigned int threads, size_t shared_bytes, Actual... actual)
{
#ifdef DIP_CUDA_EMULATED
    auto call = [=] { kernel(static_cast<Formal>(actual)...); };
    auto body = [](const void *closure) { (*static_cast<const decltype(call) *>(closure))(); };
    int error =
        dip_emulator_launch(grid, dim3(threads), shared_bytes, stream, body, &call, sizeof call);
#else
    cudaError_t error = cudaSuccess;
    if (shared_bytes > 48 << 10)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared_bytes);
    if (error == cudaSuccess) {
        kernel<<<grid, threads, shared_bytes, stream>>>(actual...);
        error = cudaPeekAtLastError();
    }
#endif
    return error ? DIP_DEVICE : DIP_OK;
}
