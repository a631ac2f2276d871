/* kernels/cuda/product.h - the tiles that linear products and convolutions share.
 *
 * A product has `row_count` rows (of activations, or output pixels of a convolution) and
 * `out_count` outputs each; output = sum over k < length of weight[out, k] in[row, k]. A
 * convolution is the same with in[row, k] found through its pixel: k = tap * channels + channel,
 * zero outside the image (implicit GEMM: nothing is unrolled in memory). The grid's z is a chunk of
 * a linear product's inner dimension, or a phase of an enlarging convolution.
 *
 * The order of summation, for every path:
 *   f32     k in order with fma inside a slice of SLICE; slices are added in order
 *   tensor  inside a slice 32 k at a time, two mma.sync of 16: of each eight neighbouring k the
 * first four are in one, the last four in the other; slices are added in order Chunks are joined
 * pairwise (kernels/kernels.h, dip_job_linear). Tile sizes, the number of rows and the number of
 * warps appear in none of this.
 *
 * The odd distribution of k lets a lane hold 16 neighbouring bytes of a row in both operands:
 * straight from memory where rows are few, and from shared memory without bank conflicts where they
 * are many, so both forms add the same numbers in the same order. */
#pragma once

#include "kernels/cuda/device.h"

enum { DIP__SLICE = 128 };

struct dip__product {
    struct dip_cuda_view out, in;
    struct dip_param weight, bias;
    int64_t weight_stride;
    int64_t row_count, out_count, length;
    enum dip_kernel_act act;
    bool is_added;
    bool is_weight_wide, is_in_wide, is_out_wide; /* 16-byte accesses are possible */
    float *parts; /* [z][row_count][out_count] instead of out, or NULL */
    /* convolutions: edge 0 for a linear product */
    int edge, stride, upsample, channels;
    int height, width;           /* of the input */
    int grid_height, grid_width; /* of the rows: the output, of one phase */
};

/* ---- where things are ---- */

/* Where a row begins: an element of `in`, or the pixel above and left of its first tap. */
struct dip__place {
    int64_t base; /* of the row; or the item's first pixel; -1: no such row */
    int y, x;
};

static __device__ __forceinline__ int dip__half_down(int n)
{
    return n >= 0 ? n / 2 : -((1 - n) / 2);
}

static __device__ __forceinline__ struct dip__place dip__place_of(const struct dip__product &p,
                                                                  int64_t row, int z)
{
    struct dip__place at = {-1, 0, 0};
    if (row >= p.row_count)
        return at;
    if (!p.edge) {
        at.base = row * p.in.stride + z * p.length;
        return at;
    }
    int64_t area = (int64_t)p.grid_height * p.grid_width;
    at.base = row / area * p.height * p.width;
    int y = (int)(row % area) / p.grid_width, x = (int)(row % area) % p.grid_width;
    /* A phase's taps are packed: edge is theirs, and z says which of the four. */
    int half = p.edge / 2;
    int of_y = p.upsample == 2 ? dip__half_down(z / 2 - (p.edge - 1)) : -half;
    int of_x = p.upsample == 2 ? dip__half_down(z % 2 - (p.edge - 1)) : -half;
    at.y = y * p.stride + of_y;
    at.x = x * p.stride + of_x;
    return at;
}

/* The element of `in` under k of a row, or -1 for a zero. */
static __device__ __forceinline__ int64_t dip__in_index(const struct dip__product &p,
                                                        const struct dip__place &at, int64_t k)
{
    if (at.base < 0 || k >= p.length)
        return -1;
    if (!p.edge)
        return at.base + k;
    int tap = (int)k / p.channels, channel = (int)k - tap * p.channels;
    int y = at.y + tap / p.edge, x = at.x + tap % p.edge;
    if (y < 0 || x < 0 || y >= p.height || x >= p.width)
        return -1;
    return (at.base + (int64_t)y * p.width + x) * p.in.stride + channel;
}

static __device__ __forceinline__ int64_t dip__weight_index(const struct dip__product &p,
                                                            int64_t out, int z, int64_t k)
{
    if (out >= p.out_count || k >= p.length)
        return -1;
    return p.edge ? (z * p.out_count + out) * p.length + k
                  : out * p.weight_stride + z * p.length + k;
}

/* Where row `row` of phase z goes. */
static __device__ __forceinline__ int64_t dip__out_row(const struct dip__product &p, int64_t row,
                                                       int z)
{
    if (p.upsample != 2)
        return row;
    int64_t area = (int64_t)p.grid_height * p.grid_width;
    int64_t item = row / area, y = row % area / p.grid_width, x = row % area % p.grid_width;
    return (item * 2 * p.grid_height + 2 * y + z / 2) * 2 * p.grid_width + 2 * x + z % 2;
}

/* Eight sums of one row from `out` on: bias, activation, residual, and their store. */
static __device__ __forceinline__ void dip__finish8(const struct dip__product &p, int64_t row,
                                                    int z, int64_t out, float x[DIP__CHUNK])
{
    int count = (int)min((int64_t)DIP__CHUNK, p.out_count - out);
    if (p.parts) {
        float *to = p.parts + (z * p.row_count + row) * p.out_count + out;
        dip__store8(to, DIP_F32, 0, count, p.out_count % 4 == 0, x);
        return;
    }
    float bias[DIP__CHUNK] = {0}, old[DIP__CHUNK] = {0};
    int64_t to = dip__out_row(p, row, z) * p.out.stride + out;
    if (p.bias.data)
        dip__load8(bias, p.bias.data, p.bias.dtype, out, count, p.is_out_wide);
    if (p.is_added)
        dip__load8(old, p.out.data, p.out.dtype, to, count, p.is_out_wide);
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++) {
        float y = dip__activate_f32(p.act, p.bias.data ? x[e] + bias[e] : x[e]);
        x[e] = p.is_added ? old[e] + y : y;
    }
    dip__store8(p.out.data, p.out.dtype, to, count, p.is_out_wide, x);
}

/* ---- f32, any types: 64 outputs of 64 rows by 256 threads, 4 x 4 each ---- */

enum { DIP__PLAIN_EDGE = 64, DIP__PLAIN_K = 16, DIP__PLAIN_THREADS = 256 };

struct dip__plain_shared {
    float weight[DIP__PLAIN_K][DIP__PLAIN_EDGE + 4];
    float in[DIP__PLAIN_K][DIP__PLAIN_EDGE + 4];
};

static __device__ __forceinline__ void dip__plain_load(const struct dip__product &p,
                                                       struct dip__plain_shared *sh,
                                                       const struct dip__place &place,
                                                       int64_t first_k)
{
    int z = (int)blockIdx.z;
    int line = (int)threadIdx.x / 4, quarter = (int)threadIdx.x % 4 * 4;
    int64_t out = (int64_t)blockIdx.y * DIP__PLAIN_EDGE + line;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t k = first_k + quarter + i;
        int64_t of_weight = dip__weight_index(p, out, z, k), of_in = dip__in_index(p, place, k);
        sh->weight[quarter + i][line] =
            of_weight < 0 ? 0.0f : dip__at(p.weight.data, p.weight.dtype, of_weight);
        sh->in[quarter + i][line] = of_in < 0 ? 0.0f : dip__at(p.in.data, p.in.dtype, of_in);
    }
}

static __global__ void __launch_bounds__(DIP__PLAIN_THREADS)
    dip__plain_kernel(struct dip__product p)
{
    __shared__ struct dip__plain_shared sh;
    int64_t row = (int64_t)blockIdx.x * DIP__PLAIN_EDGE;
    struct dip__place place = dip__place_of(p, row + threadIdx.x / 4, (int)blockIdx.z);
    int ty = (int)threadIdx.x / 8, tx = (int)threadIdx.x % 8; /* 2 rows of 8 outputs */
    float sum[2][DIP__CHUNK] = {}, slice[2][DIP__CHUNK] = {};
    for (int64_t k = 0; k < p.length; k += DIP__PLAIN_K) {
        __syncthreads();
        dip__plain_load(p, &sh, place, k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DIP__PLAIN_K; i++)
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int e = 0; e < DIP__CHUNK; e++)
                    slice[r][e] =
                        fmaf(sh.in[i][2 * ty + r], sh.weight[i][DIP__CHUNK * tx + e], slice[r][e]);
        if ((k + DIP__PLAIN_K) % DIP__SLICE && k + DIP__PLAIN_K < p.length)
            continue;
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++) {
                sum[r][e] += slice[r][e];
                slice[r][e] = 0.0f;
            }
    }
    int64_t out = (int64_t)blockIdx.y * DIP__PLAIN_EDGE + DIP__CHUNK * tx;
#pragma unroll
    for (int r = 0; r < 2; r++)
        if (row + 2 * ty + r < p.row_count && out < p.out_count)
            dip__finish8(p, row + 2 * ty + r, (int)blockIdx.z, out, sum[r]);
}

/* ---- tensor cores: 32 MT outputs of 32 NT rows by eight warps, 16 MT x 8 NT each ---- */

enum {
    DIP__TILE_THREADS = 256,
    DIP__TILE_K = 64, /* of a stage, in two halves of 32 so that shared memory has no conflicts */
    DIP__TILE_STAGES = 3,
};

static constexpr size_t dip__tile_shared_bytes(int mt, int nt)
{
    size_t stages = (size_t)DIP__TILE_STAGES * 32 * (mt + nt) * DIP__TILE_K * sizeof(uint16_t);
    size_t results = (size_t)(32 * nt) * (32 * mt + 4) * sizeof(float);
    return stages > results ? stages : results;
}

/* Eight elements from index on, or zeros, to `to`; element by element where they are not aligned or
 * do not lie side by side. */
static __device__ __forceinline__ void dip__fetch_weight(const struct dip__product &p, uint16_t *to,
                                                         int64_t out, int z, int64_t k)
{
    const uint16_t *data = (const uint16_t *)p.weight.data;
    if (p.is_weight_wide) { /* length is a multiple of eight */
        int64_t index = dip__weight_index(p, out, z, k);
        dip__copy_async(to, data + (index < 0 ? 0 : index), index >= 0);
        return;
    }
    for (int e = 0; e < DIP__CHUNK; e++) {
        int64_t index = dip__weight_index(p, out, z, k + e);
        to[e] = index < 0 ? 0 : data[index];
    }
}

static __device__ __forceinline__ void dip__fetch_in(const struct dip__product &p, uint16_t *to,
                                                     const struct dip__place &at, int64_t k)
{
    const uint16_t *data = (const uint16_t *)p.in.data;
    if (p.is_in_wide) { /* eight neighbouring k are in one tap */
        int64_t index = dip__in_index(p, at, k);
        dip__copy_async(to, data + (index < 0 ? 0 : index), index >= 0);
        return;
    }
    for (int e = 0; e < DIP__CHUNK; e++) {
        int64_t index = dip__in_index(p, at, k + e);
        to[e] = index < 0 ? 0 : data[index];
    }
}

/* Stage layout: [half][32 MT weight lines, then 32 NT row lines][32 k]. */
template <int MT, int NT>
static __device__ __forceinline__ uint16_t *dip__stage_line(uint16_t *stages, int stage, int half,
                                                            int line)
{
    return stages + (((stage * 2 + half) * 32 * (MT + NT)) + line) * 32;
}

/* A thread fetches the same eighth of a line, MT lines of weights and NT rows apart by 32. */
template <int MT, int NT>
static __device__ __forceinline__ void dip__tile_fetch(const struct dip__product &p,
                                                       uint16_t *stages, int step,
                                                       const struct dip__place places[NT])
{
    int unit = (int)threadIdx.x % 8, line = (int)threadIdx.x / 8, stage = step % DIP__TILE_STAGES;
    int64_t k = (int64_t)step * DIP__TILE_K + unit * DIP__CHUNK;
    int64_t out = (int64_t)blockIdx.y * (32 * MT) + line;
#pragma unroll
    for (int i = 0; i < MT; i++)
        dip__fetch_weight(
            p, dip__stage_line<MT, NT>(stages, stage, unit / 4, line + 32 * i) + unit % 4 * 8,
            out + 32 * i, (int)blockIdx.z, k);
#pragma unroll
    for (int i = 0; i < NT; i++)
        dip__fetch_in(p,
                      dip__stage_line<MT, NT>(stages, stage, unit / 4, 32 * (MT + i) + line) +
                          unit % 4 * 8,
                      places[i], k);
}

/* 32 k of a warp's tile. */
template <int MT, int NT>
static __device__ __forceinline__ void dip__tile_multiply(float acc[MT][NT][4], uint16_t *stages,
                                                          int stage, int half)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int g = lane / 4, t = lane % 4;
    int out = warp / 4 * 16 * MT, row = 32 * MT + warp % 4 * 8 * NT;
    uint4 b[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        b[n] =
            *(const uint4 *)(dip__stage_line<MT, NT>(stages, stage, half, row + 8 * n + g) + 8 * t);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint16_t *line =
            dip__stage_line<MT, NT>(stages, stage, half, out + 16 * m + g) + 8 * t;
        uint4 low = *(const uint4 *)line, high = *(const uint4 *)(line + 8 * 32);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const uint32_t b_first[2] = {b[n].x, b[n].y}, b_second[2] = {b[n].z, b[n].w};
            dip__mma(acc[m][n], first, b_first);
            dip__mma(acc[m][n], second, b_second);
        }
    }
}

/* Sums go through shared memory so that a row's outputs are stored side by side. */
template <int MT, int NT>
static __device__ __forceinline__ void dip__tile_store(const struct dip__product &p, float *results,
                                                       const float sum[MT][NT][4])
{
    enum { OUTS = 32 * MT, LINE = OUTS + 4 };
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int out = warp / 4 * 16 * MT + lane / 4, row = warp % 4 * 8 * NT + lane % 4 * 2;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                results[(row + 8 * n + i % 2) * LINE + out + 16 * m + i / 2 * 8] = sum[m][n][i];
    __syncthreads();
    int64_t first_row = (int64_t)blockIdx.x * (32 * NT), first_out = (int64_t)blockIdx.y * OUTS;
    for (int i = (int)threadIdx.x; i < 32 * NT * OUTS / DIP__CHUNK; i += DIP__TILE_THREADS) {
        int r = i / (OUTS / DIP__CHUNK), c = i % (OUTS / DIP__CHUNK) * DIP__CHUNK;
        float x[DIP__CHUNK];
        if (first_row + r >= p.row_count || first_out + c >= p.out_count)
            continue;
        dip__load8(x, results, DIP_F32, r * LINE + c, DIP__CHUNK, true);
        dip__finish8(p, first_row + r, (int)blockIdx.z, first_out + c, x);
    }
}

template <int MT, int NT>
static __global__ void __launch_bounds__(DIP__TILE_THREADS) dip__tile_kernel(struct dip__product p)
{
    uint16_t *stages = (uint16_t *)dip__shared();
    struct dip__place places[NT];
    for (int i = 0; i < NT; i++)
        places[i] = dip__place_of(p, (int64_t)blockIdx.x * (32 * NT) + 32 * i + threadIdx.x / 8,
                                  (int)blockIdx.z);
    int steps = (int)((p.length + DIP__TILE_K - 1) / DIP__TILE_K);
    float acc[MT][NT][4] = {}, sum[MT][NT][4] = {};
    for (int step = 0; step < DIP__TILE_STAGES - 1; step++) {
        if (step < steps)
            dip__tile_fetch<MT, NT>(p, stages, step, places);
        dip__copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        dip__copy_wait<DIP__TILE_STAGES - 2>();
        __syncthreads(); /* the stage is here for all, and the one to be filled is no longer read */
        if (step + DIP__TILE_STAGES - 1 < steps)
            dip__tile_fetch<MT, NT>(p, stages, step + DIP__TILE_STAGES - 1, places);
        dip__copy_commit();
        dip__tile_multiply<MT, NT>(acc, stages, step % DIP__TILE_STAGES, 0);
        dip__tile_multiply<MT, NT>(acc, stages, step % DIP__TILE_STAGES, 1);
        if ((step + 1) * DIP__TILE_K % DIP__SLICE && step + 1 < steps)
            continue;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    sum[m][n][i] += acc[m][n][i];
                    acc[m][n][i] = 0.0f;
                }
    }
    dip__tile_store<MT, NT>(p, (float *)stages, sum);
}

/* Large tiles where they fill the machine, small ones elsewhere: the bits are the same. */
static enum dip_status dip__tile_launch(struct CUstream_st *stream, const struct dip__product &p,
                                        int z)
{
    int64_t outs = dip__pieces(p.out_count, 128), rows = dip__pieces(p.row_count, 128);
    if (outs * rows * z >= 96 && p.row_count > 64)
        return dip__launch(stream, dip__tile_kernel<4, 4>,
                           dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z),
                           DIP__TILE_THREADS, dip__tile_shared_bytes(4, 4), p);
    outs = dip__pieces(p.out_count, 64);
    rows = dip__pieces(p.row_count, 64);
    return dip__launch(stream, dip__tile_kernel<2, 2>,
                       dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z),
                       DIP__TILE_THREADS, dip__tile_shared_bytes(2, 2), p);
}

static enum dip_status dip__plain_launch(struct CUstream_st *stream, const struct dip__product &p,
                                         int z)
{
    int64_t outs = dip__pieces(p.out_count, DIP__PLAIN_EDGE);
    int64_t rows = dip__pieces(p.row_count, DIP__PLAIN_EDGE);
    return dip__launch(stream, dip__plain_kernel,
                       dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z),
                       DIP__PLAIN_THREADS, 0, p);
}
