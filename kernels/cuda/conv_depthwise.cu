/* kernels/cuda/conv_depthwise.cu - depthwise convolution, and its product with a gate.
 *
 *   y = bias + sum over taps of weight[c, tap] in[pixel under tap, c]
 *   gated: out[.., c] = y[c] silu(y[c + C/2])            (the GLU of SANA's Mix-FFN, Xie et al.
 * 2024)
 *
 * Bound by memory: 2 C bytes read and C written a pixel of BF16 when gated, 9 or 25 fma an input.
 * NHWC is tokens x channels, so nothing is transposed. A thread has eight channels of two
 * neighbouring pixels: a row of taps is read as 2 + edge - 1 chunks of 16 bytes and used for both,
 * weights come from shared memory once for both; the rows above and below come from the first
 * cache, since blocks go over a row first. Value and gate of a channel are in one thread, so the
 * result is written once, half as wide.
 *
 * 256 threads as 8 chunks by 32 runs; two blocks a multiprocessor (under 128 registers) have 32 KB
 * of loads in flight. Predicted on a H200: 65 % of copy rate for 1,024 x 11,200 (0.016 ms a
 * branch). Tried, by what the compiler says: four pixels a thread take 160 registers and leave one
 * block.
 *
 * Taps are added in raster order, whatever the size of the image.
 */
#include "kernels/cuda/device.h"

enum {
    THREADS = 256,
    CHUNKS = 8, /* of eight channels, a block */
    CHANNELS = CHUNKS * DIP__CHUNK,
    RUN = 2, /* pixels of a thread */
    RUNS = THREADS / CHUNKS,
    EDGE_MAX = 7,
};

struct shared {
    float weight[2][EDGE_MAX * EDGE_MAX][CHANNELS]; /* of values, of gates */
};

struct spot {
    int64_t item, y, x; /* x of the first pixel */
    int64_t channel;    /* of the input */
    int count;          /* channels */
};

/* sums[pixel][channel] of one half; edge is a constant so that everything stays in registers. */
template <int EDGE>
static __device__ __forceinline__ void
convolve(const struct dip_cuda_conv_depthwise &j, const struct spot &at,
         const float (*weight)[CHANNELS], bool is_wide, float sums[RUN][DIP__CHUNK])
{
    int lane = (int)threadIdx.x % CHUNKS * DIP__CHUNK;
    float bias[DIP__CHUNK] = {0};
    if (j.bias.data)
        dip__load8(bias, j.bias.data, j.bias.dtype, at.channel, at.count, false);
#pragma unroll
    for (int p = 0; p < RUN; p++)
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            sums[p][e] = bias[e];
#pragma unroll 1
    for (int dy = 0; dy < EDGE; dy++) {
        int64_t y = at.y + dy - EDGE / 2;
        if (y < 0 || y >= j.height)
            continue;
        float in[RUN + EDGE - 1][DIP__CHUNK];
#pragma unroll
        for (int i = 0; i < RUN + EDGE - 1; i++) {
            int64_t x = at.x + i - EDGE / 2;
            bool is_there = x >= 0 && x < j.width;
            int64_t pixel = (at.item * j.height + y) * j.width + x;
            dip__load8(in[i], j.in.data, j.in.dtype, pixel * j.in.stride + at.channel,
                       is_there ? at.count : 0, is_wide);
        }
#pragma unroll
        for (int dx = 0; dx < EDGE; dx++) {
            float w[DIP__CHUNK];
            dip__load8(w, weight[dy * EDGE + dx], DIP_F32, lane, DIP__CHUNK, true);
#pragma unroll
            for (int p = 0; p < RUN; p++)
#pragma unroll
                for (int e = 0; e < DIP__CHUNK; e++)
                    sums[p][e] = fmaf(in[p + dx][e], w[e], sums[p][e]);
        }
    }
}

static __device__ __forceinline__ void load_weights(const struct dip_cuda_conv_depthwise &j,
                                                    struct shared *sh, int64_t outputs)
{
    int taps = j.edge * j.edge;
    for (int half = 0; half < (j.is_gated ? 2 : 1); half++) {
        for (int i = (int)threadIdx.x; i < taps * CHANNELS; i += THREADS) {
            int64_t channel = (int64_t)blockIdx.y * CHANNELS + i / taps;
            if (channel < outputs)
                sh->weight[half][i % taps][i / taps] = dip__at(
                    j.weight.data, j.weight.dtype, (channel + half * outputs) * taps + i % taps);
        }
    }
    __syncthreads();
}

/* grid: blocks of runs, blocks of channels. */
template <int EDGE>
static __global__ void __launch_bounds__(THREADS, 2)
    depthwise_kernel(struct dip_cuda_conv_depthwise j, bool is_wide)
{
    __shared__ struct shared sh;
    int64_t outputs = j.out.columns;
    load_weights(j, &sh, outputs);
    int64_t runs_across = (j.width + RUN - 1) / RUN;
    int64_t run = (int64_t)blockIdx.x * RUNS + threadIdx.x / CHUNKS;
    int64_t channel = (int64_t)blockIdx.y * CHANNELS + threadIdx.x % CHUNKS * DIP__CHUNK;
    if (run >= j.batch * j.height * runs_across || channel >= outputs)
        return;
    struct spot at = {run / runs_across / j.height, run / runs_across % j.height,
                      run % runs_across * RUN, channel,
                      (int)min((int64_t)DIP__CHUNK, outputs - channel)};
    float sums[RUN][DIP__CHUNK], gates[RUN][DIP__CHUNK];
    convolve<EDGE>(j, at, sh.weight[0], is_wide, sums);
    if (j.is_gated) {
        at.channel += outputs;
        convolve<EDGE>(j, at, sh.weight[1], is_wide, gates);
    }
#pragma unroll
    for (int p = 0; p < RUN; p++) {
        if (at.x + p >= j.width)
            continue;
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            if (j.is_gated)
                sums[p][e] *= dip__silu_f32(gates[p][e]);
        int64_t pixel = (at.item * j.height + at.y) * j.width + at.x + p;
        dip__store8(j.out.data, j.out.dtype, pixel * j.out.stride + channel, at.count, is_wide,
                    sums[p]);
    }
}

enum dip_status dip_cuda_conv_depthwise(struct CUstream_st *stream,
                                        const struct dip_cuda_conv_depthwise *job)
{
    int64_t runs = job->batch * job->height * dip__pieces(job->width, RUN);
    int64_t blocks = dip__pieces(runs, RUNS);
    if (blocks > INT32_MAX || dip__pieces(job->out.columns, CHANNELS) > 65535)
        return DIP_UNSUPPORTED;
    bool is_wide = dip__is_view_aligned(&job->in) && dip__is_view_aligned(&job->out) &&
                   job->out.columns % DIP__CHUNK == 0;
    dim3 grid((unsigned int)blocks, (unsigned int)dip__pieces(job->out.columns, CHANNELS));
    switch (job->edge) {
    case 1:
        return dip__launch(stream, depthwise_kernel<1>, grid, THREADS, 0, *job, is_wide);
    case 3:
        return dip__launch(stream, depthwise_kernel<3>, grid, THREADS, 0, *job, is_wide);
    case 5:
        return dip__launch(stream, depthwise_kernel<5>, grid, THREADS, 0, *job, is_wide);
    case 7:
        return dip__launch(stream, depthwise_kernel<7>, grid, THREADS, 0, *job, is_wide);
    default:
        return DIP_UNSUPPORTED;
    }
}
