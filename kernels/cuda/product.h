/* kernels/cuda/product.h - what linear products and convolutions share; the tiles are in
 * product.cu.
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

/* Enqueues a product whose grid has `z` chunks or phases. is_tensor: both operands are BF16. */
enum dip_status dip__product_run(struct CUstream_st *stream, const struct dip__product *product,
                                 int z, bool is_tensor);
