/* kernels/cuda/layout.cu - what only moves pixels: shuffles, patches, layouts, 8-bit colours.
 *
 * Bound by memory and exact but for the type a result is stored in. One thread an output element,
 * except where eight neighbours move together; the gathers of the shuffles read whole pixels within
 * a warp, so the second cache sees every byte once. At 1,024 px the largest of them moves 400 MB:
 * predicted 0.15 ms on a H200. Patches and layouts touch latents of 64 KB: one launch. */
#include "kernels/cuda/device.h"

enum { THREADS = 256 };

static bool are_threads_few(int64_t count)
{
    return dip__pieces(count, THREADS) <= INT32_MAX;
}

static dim3 grid_of(int64_t count)
{
    return dim3((unsigned int)dip__pieces(count, THREADS));
}

static __device__ __forceinline__ int64_t thread_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* ---- pixel_shuffle: out(2i+a, 2j+b, c) (+)= in(i, j, (4c + 2a + b) / repeat) ---- */

struct shuffle {
    struct dip_cuda_pixel_shuffle j;
    int64_t repeat;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        int64_t width = 2 * j.width, y = at.row / width,
                x = at.row % width; /* y counts through the batch */
        int64_t from = (y / 2 * j.width + x / 2) * j.in.stride;
        int corner = (int)(y % 2 * 2 + x % 2);
        float out[DIP__CHUNK] = {0};
        if (j.is_added)
            dip__load_spot(out, j.out, at, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++) {
            if (e >= at.count)
                continue;
            float in =
                dip__at(j.in.data, j.in.dtype, from + (4 * (at.column + e) + corner) / repeat);
            out[e] = j.is_added ? out[e] + in : in;
        }
        dip__store_spot(j.out, at, is_wide, out);
    }
};

enum dip_status dip_cuda_pixel_shuffle(struct CUstream_st *stream,
                                       const struct dip_cuda_pixel_shuffle *job)
{
    struct shuffle work = {*job, 4 * job->out.columns / job->in.columns,
                           dip__is_view_aligned(&job->out)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

/* ---- repeat_add: out(c) += in(c / repeat) ---- */

struct repeat_add {
    struct dip_cuda_repeat_add j;
    int64_t repeat;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        int64_t from = at.row * j.in.stride;
        float out[DIP__CHUNK];
        dip__load_spot(out, j.out, at, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            if (e < at.count)
                out[e] += dip__at(j.in.data, j.in.dtype, from + (at.column + e) / repeat);
        dip__store_spot(j.out, at, is_wide, out);
    }
};

enum dip_status dip_cuda_repeat_add(struct CUstream_st *stream,
                                    const struct dip_cuda_repeat_add *job)
{
    struct repeat_add work = {*job, job->out.columns / job->in.columns,
                              dip__is_view_aligned(&job->out)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

/* ---- patch: one thread an element of the image ---- */

static __global__ void __launch_bounds__(THREADS) patch_kernel(struct dip_cuda_patch j)
{
    int64_t index = thread_index(), channel = index % j.channels, pixel = index / j.channels;
    if (pixel >= j.batch * j.height * j.width)
        return;
    int64_t line = pixel / j.width, x = pixel % j.width; /* lines count through the batch */
    int64_t token = line / j.patch * (j.width / j.patch) + x / j.patch;
    int64_t a = line % j.patch, b = x % j.patch;
    if (j.is_to_tokens)
        dip__put(j.out.data, j.out.dtype,
                 token * j.out.stride + (channel * j.patch + a) * j.patch + b,
                 dip__at(j.in.data, j.in.dtype, pixel * j.in.stride + channel));
    else
        dip__put(j.out.data, j.out.dtype, pixel * j.out.stride + channel,
                 dip__at(j.in.data, j.in.dtype,
                         token * j.in.stride + (a * j.patch + b) * j.channels + channel));
}

enum dip_status dip_cuda_patch(struct CUstream_st *stream, const struct dip_cuda_patch *job)
{
    int64_t count = job->batch * job->height * job->width * job->channels;
    if (!are_threads_few(count))
        return DIP_UNSUPPORTED;
    return dip__launch(stream, patch_kernel, grid_of(count), THREADS, 0, *job);
}

/* ---- layout ---- */

static __global__ void __launch_bounds__(THREADS) layout_kernel(struct dip_cuda_layout j)
{
    int64_t to = thread_index();
    if (to >= j.batch * j.pixels * j.channels)
        return;
    int64_t item = to / (j.pixels * j.channels), rest = to % (j.pixels * j.channels);
    int64_t minor = j.is_to_nchw ? j.pixels : j.channels; /* of the output */
    int64_t major = j.is_to_nchw ? j.channels : j.pixels;
    int64_t from = item * j.pixels * j.channels + rest % minor * major + rest / minor;
    dip__put(j.out.data, j.out.dtype, to, dip__at(j.in.data, j.in.dtype, from));
}

enum dip_status dip_cuda_layout(struct CUstream_st *stream, const struct dip_cuda_layout *job)
{
    int64_t count = job->batch * job->pixels * job->channels;
    if (!are_threads_few(count))
        return DIP_UNSUPPORTED;
    return dip__launch(stream, layout_kernel, grid_of(count), THREADS, 0, *job);
}

/* ---- rgb8 ---- */

static __device__ __forceinline__ unsigned char rgb8(float x)
{
    float y = __fadd_rn(__fmul_rn(x, 0.5f), 0.5f);
    if (!(y > 0.0f)) /* also NaN */
        return 0;
    return (unsigned char)rintf(__fmul_rn(y > 1.0f ? 1.0f : y, 255.0f)); /* half to even */
}

static __global__ void __launch_bounds__(THREADS) rgb8_kernel(struct dip_cuda_rgb8 j)
{
    int64_t index = thread_index(), row = index / 3, c = index % 3;
    if (row >= j.out.rows)
        return;
    ((unsigned char *)j.out.data)[row * j.out.stride + c] =
        rgb8(dip__at(j.in.data, j.in.dtype, row * j.in.stride + c));
}

enum dip_status dip_cuda_rgb8(struct CUstream_st *stream, const struct dip_cuda_rgb8 *job)
{
    if (!are_threads_few(job->out.rows * 3))
        return DIP_UNSUPPORTED;
    return dip__launch(stream, rgb8_kernel, grid_of(job->out.rows * 3), THREADS, 0, *job);
}
