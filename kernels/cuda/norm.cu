/* kernels/cuda/norm.cu - RMSNorm over runs of channels, and LayerNorm with modulation.
 *
 *   rms    y = act(x / sqrt(mean(x^2) + eps) weight + bias)              (Zhang & Sennrich 2019)
 *   layer  y = (x - mean) / sqrt(var + eps) (1 + scale[b]) + shift[b]    (Ba et al. 2016; adaLN:
 *          Peebles & Xie 2023, sec. 3.2)
 *
 * Bound by memory: a row is read once from far and again from the first cache, 4.5 KB for the 2,240
 * channels of SANA. A run of up to 1,024 channels belongs to a warp (eight runs a block: the pixels
 * of the autoencoder), a longer one to a block of 256 threads. Which of the two, and which lane
 * sums which channels in which order, follows from the run's length alone.
 *
 * A lane sums its channels in order (eight neighbours, then the next eight one stride on), lanes
 * join 16 apart first, warps in order. The variance is summed from (x - mean)^2, because residual
 * streams have means that would cancel in mean(x^2) - mean^2.
 *
 * Predicted on a H200: 75 to 85 % of copy rate at 2,048 rows of 2,240; a launch with one row lasts
 * 2.5 us, most of it latency. Tried: nothing yet on a GPU. */
#include "kernels/cuda/rms.h"

enum { BLOCK_THREADS = DIP__RMS_THREADS, WARP_RUN_MAX = DIP__RMS_WARP_MAX };

/* Where a thread stands: its run, its place in the team that owns the run, the team's size. */
struct team {
    int64_t run;
    int rank, size;
    bool is_block;
};

static __device__ __forceinline__ struct team team_of(bool is_block)
{
    struct team t = {blockIdx.x, (int)threadIdx.x, BLOCK_THREADS, true};
    if (is_block)
        return t;
    t.run = (int64_t)blockIdx.x * (BLOCK_THREADS / 32) + threadIdx.x / 32;
    t.rank = (int)threadIdx.x % 32;
    t.size = 32;
    t.is_block = false;
    return t;
}

static __device__ __forceinline__ float team_sum(const struct team &t, float x, float *room)
{
    return t.is_block ? dip__block_sum(x, room, BLOCK_THREADS / 32) : dip__warp_sum(x);
}

static dim3 grid_of(int64_t runs, bool is_block)
{
    return dim3((unsigned int)(is_block ? runs : dip__pieces(runs, BLOCK_THREADS / 32)));
}

/* ---- rms ---- */

static __device__ __forceinline__ void rms_chunk(const struct dip_cuda_norm_rms &j, float scale,
                                                 int64_t from, int64_t to, int64_t c, bool is_wide)
{
    float x[DIP__CHUNK], weight[DIP__CHUNK], bias[DIP__CHUNK], old[DIP__CHUNK];
    int count = (int)min((int64_t)DIP__CHUNK, j.group - c);
    dip__load8(x, j.in.data, j.in.dtype, from + c, count, is_wide);
    dip__load8(weight, j.weight.data, j.weight.dtype, c, count, is_wide);
    if (j.bias.data)
        dip__load8(bias, j.bias.data, j.bias.dtype, c, count, is_wide);
    if (j.is_added)
        dip__load8(old, j.out.data, j.out.dtype, to + c, count, is_wide);
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++) {
        float y = dip__rms_scaled(x[e], scale, weight[e]);
        if (j.bias.data)
            y += bias[e];
        y = dip__activate_f32(j.act, y);
        x[e] = j.is_added ? old[e] + y : y;
    }
    dip__store8(j.out.data, j.out.dtype, to + c, count, is_wide, x);
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    rms_kernel(struct dip_cuda_norm_rms j, bool is_block, bool is_wide)
{
    __shared__ float room[BLOCK_THREADS / 32];
    struct team t = team_of(is_block);
    int64_t runs_per_row = j.in.columns / j.group;
    if (t.run >= j.in.rows * runs_per_row)
        return; /* whole warps only: no block is cut */
    int64_t row = t.run / runs_per_row, column = t.run % runs_per_row * j.group;
    int64_t from = row * j.in.stride + column, to = row * j.out.stride + column;
    float squares = dip__rms_squares(j.in, from, j.group, t.rank, t.size, is_wide);
    float scale = dip__rms_scale(team_sum(t, squares, room), j.group, j.eps);
    for (int64_t c = t.rank * DIP__CHUNK; c < j.group; c += t.size * DIP__CHUNK)
        rms_chunk(j, scale, from, to, c, is_wide);
}

static bool is_param_aligned(const struct dip_param *p)
{
    return (uintptr_t)p->data % 16 == 0;
}

enum dip_status dip_cuda_norm_rms(struct CUstream_st *stream, const struct dip_cuda_norm_rms *job)
{
    int64_t runs = job->in.rows * (job->in.columns / job->group);
    bool is_block = job->group > WARP_RUN_MAX;
    bool is_wide = dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in) &&
                   is_param_aligned(&job->weight) && is_param_aligned(&job->bias) &&
                   job->group % DIP__CHUNK == 0;
    if (runs > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, rms_kernel, grid_of(runs, is_block), BLOCK_THREADS, 0, *job,
                       is_block, is_wide);
}

/* ---- layer ---- */

/* Sum of x - shift, or of its square, over the thread's channels. */
static __device__ __forceinline__ float layer_sum(const struct dip_cuda_norm_layer &j,
                                                  const struct team &t, int64_t from, float shift,
                                                  bool is_square, bool is_wide)
{
    float x[DIP__CHUNK], sum = 0.0f;
    for (int64_t c = t.rank * DIP__CHUNK; c < j.in.columns; c += t.size * DIP__CHUNK) {
        int count = (int)min((int64_t)DIP__CHUNK, j.in.columns - c);
        dip__load8(x, j.in.data, j.in.dtype, from + c, count, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++) {
            float d = e < count ? x[e] - shift : 0.0f;
            sum = is_square ? fmaf(d, d, sum) : sum + d;
        }
    }
    return sum;
}

static __global__ void __launch_bounds__(BLOCK_THREADS)
    layer_kernel(struct dip_cuda_norm_layer j, bool is_block, bool is_wide)
{
    __shared__ float room[BLOCK_THREADS / 32];
    struct team t = team_of(is_block);
    if (t.run >= j.in.rows)
        return;
    int64_t from = t.run * j.in.stride, to = t.run * j.out.stride, item = t.run / j.rows_per_item;
    float columns = (float)j.in.columns;
    float mean = team_sum(t, layer_sum(j, t, from, 0.0f, false, is_wide), room) / columns;
    float squares = team_sum(t, layer_sum(j, t, from, mean, true, is_wide), room);
    float factor = 1.0f / sqrtf(squares / columns + j.eps);
    for (int64_t c = t.rank * DIP__CHUNK; c < j.in.columns; c += t.size * DIP__CHUNK) {
        float x[DIP__CHUNK], scale[DIP__CHUNK], shift[DIP__CHUNK];
        int count = (int)min((int64_t)DIP__CHUNK, j.in.columns - c);
        dip__load8(x, j.in.data, j.in.dtype, from + c, count, is_wide);
        dip__load8(scale, j.scale.data, j.scale.dtype, item * j.scale.stride + c, count, is_wide);
        dip__load8(shift, j.shift.data, j.shift.dtype, item * j.shift.stride + c, count, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            x[e] = (x[e] - mean) * factor * (1.0f + scale[e]) + shift[e];
        dip__store8(j.out.data, j.out.dtype, to + c, count, is_wide, x);
    }
}

enum dip_status dip_cuda_norm_layer(struct CUstream_st *stream,
                                    const struct dip_cuda_norm_layer *job)
{
    bool is_block = job->in.columns > WARP_RUN_MAX;
    bool is_wide = dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in) &&
                   dip__is_view_aligned(&job->scale) && dip__is_view_aligned(&job->shift);
    if (job->in.rows > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, layer_kernel, grid_of(job->in.rows, is_block), BLOCK_THREADS, 0,
                       *job, is_block, is_wide);
}
