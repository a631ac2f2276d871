/* kernels/cuda/launch.h - how a launcher starts its kernel.
 *
 * One function stands for <<<>>>: on a GPU it is that, with more than 48 KB of shared memory asked
 * for where needed; in the tests' emulator it enqueues the same call. A kernel may be launched
 * early (programmatic dependent launch) if every thread of it calls dip__wait_inputs before it
 * touches what an earlier launch reads or writes. */
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
static enum dip_status dip__launch_when(bool is_early, struct CUstream_st *stream,
                                        void (*kernel)(Formal...), dim3 grid, unsigned int threads,
                                        size_t shared_bytes, Actual... actual)
{
#ifdef DIP_CUDA_EMULATED
    (void)is_early;
    auto call = [=] { kernel(static_cast<Formal>(actual)...); };
    auto body = [](const void *closure) { (*static_cast<const decltype(call) *>(closure))(); };
    int error =
        dip_emulator_launch(grid, dim3(threads), shared_bytes, stream, body, &call, sizeof call);
#else
    cudaError_t error = cudaSuccess;
    if (shared_bytes > 48 << 10)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)shared_bytes);
    if (error != cudaSuccess)
        return DIP_DEVICE;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = is_early ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(actual)...);
#endif
    return error ? DIP_DEVICE : DIP_OK;
}

/* A launch that begins when all before it have ended. */
template <class... Formal, class... Actual>
static enum dip_status dip__launch(struct CUstream_st *stream, void (*kernel)(Formal...), dim3 grid,
                                   unsigned int threads, size_t shared_bytes, Actual... actual)
{
    return dip__launch_when(false, stream, kernel, grid, threads, shared_bytes, actual...);
}
