/* kernels/cuda/product.cu - tiles of a product: what linear.cu and conv.cu run for many rows.
 *
 *   tensor  32 MT outputs of 32 NT rows by eight warps, 16 MT x 8 NT each. Three stages of 64 k
 *           come by cp.async, 16 bytes a thread. A stage is two halves of 32 k, so that a line is
 *           64 bytes and the 16-byte reads of a quarter warp cover all banks once. A warp reads
 *           (2 MT + NT) times 512 bytes for 2 MT NT instructions: 12 for 32 with 4 x 4 tiles. The
 *           sums of a slice and of the row are apart, 128 of the large tile's 226 registers: one
 *           block a multiprocessor. The small one has 79: three blocks.
 *   plain   64 x 64 outputs by 256 threads, f32, any types.
 *
 * Flops 2 R N K; an operand is read once for every tile of the other. Bound by tensor cores from
 * some 180 rows up. mma.sync reaches all of Ampere's rate and about 62 % of Hopper's: predicted
 * 45 % of a H200's 790 TFLOP/s at 2,048 x 11,200 x 2,240. wgmma with TMA is what would go further;
 * it would need an order of summation that few rows can follow.
 *
 * Results pass through shared memory so that a row's outputs are stored 16 bytes at a time.
 * Tried: nothing yet on a GPU. */
#include "kernels/cuda/product.h"

/* ---- f32, any types: 64 outputs of 64 rows by 256 threads, 4 x 4 each ---- */

enum { PLAIN_EDGE = 64, PLAIN_K = 16, PLAIN_THREADS = 256 };

struct plain_shared {
    float weight[PLAIN_K][PLAIN_EDGE + 4];
    float in[PLAIN_K][PLAIN_EDGE + 4];
};

static __device__ __forceinline__ void plain_load(const struct dip__product &p,
                                                  struct plain_shared *sh,
                                                  const struct dip__place &place, int64_t first_k)
{
    int z = (int)blockIdx.z;
    int line = (int)threadIdx.x / 4, quarter = (int)threadIdx.x % 4 * 4;
    int64_t out = (int64_t)blockIdx.y * PLAIN_EDGE + line;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t k = first_k + quarter + i;
        int64_t of_weight = dip__weight_index(p, out, z, k), of_in = dip__in_index(p, place, k);
        sh->weight[quarter + i][line] =
            of_weight < 0 ? 0.0f : dip__at(p.weight.data, p.weight.dtype, of_weight);
        sh->in[quarter + i][line] = of_in < 0 ? 0.0f : dip__at(p.in.data, p.in.dtype, of_in);
    }
}

static __global__ void __launch_bounds__(PLAIN_THREADS) plain_kernel(struct dip__product p)
{
    __shared__ struct plain_shared sh;
    int64_t row = (int64_t)blockIdx.x * PLAIN_EDGE;
    struct dip__place place = dip__place_of(p, row + threadIdx.x / 4, (int)blockIdx.z);
    int ty = (int)threadIdx.x / 8, tx = (int)threadIdx.x % 8; /* 2 rows of 8 outputs */
    float sum[2][DIP__CHUNK] = {}, slice[2][DIP__CHUNK] = {};
    for (int64_t k = 0; k < p.length; k += PLAIN_K) {
        __syncthreads();
        plain_load(p, &sh, place, k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PLAIN_K; i++)
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int e = 0; e < DIP__CHUNK; e++)
                    slice[r][e] =
                        fmaf(sh.in[i][2 * ty + r], sh.weight[i][DIP__CHUNK * tx + e], slice[r][e]);
        if ((k + PLAIN_K) % DIP__SLICE && k + PLAIN_K < p.length)
            continue;
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++) {
                sum[r][e] += slice[r][e];
                slice[r][e] = 0.0f;
            }
    }
    int64_t out = (int64_t)blockIdx.y * PLAIN_EDGE + DIP__CHUNK * tx;
#pragma unroll
    for (int r = 0; r < 2; r++)
        if (row + 2 * ty + r < p.row_count && out < p.out_count)
            dip__finish8(p, row + 2 * ty + r, (int)blockIdx.z, out, sum[r]);
}

/* ---- tensor cores: 32 MT outputs of 32 NT rows by eight warps, 16 MT x 8 NT each ---- */

enum {
    TILE_THREADS = 256,
    TILE_K = 64, /* of a stage, in two halves of 32 so that shared memory has no conflicts */
    TILE_STAGES = 3,
};

static constexpr size_t tile_shared_bytes(int mt, int nt)
{
    size_t stages = (size_t)TILE_STAGES * 32 * (mt + nt) * TILE_K * sizeof(uint16_t);
    size_t results = (size_t)(32 * nt) * (32 * mt + 4) * sizeof(float);
    return stages > results ? stages : results;
}

/* Eight elements from index on, or zeros, to `to`; element by element where they are not aligned or
 * do not lie side by side. */
static __device__ __forceinline__ void fetch_weight(const struct dip__product &p, uint16_t *to,
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

static __device__ __forceinline__ void fetch_in(const struct dip__product &p, uint16_t *to,
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
static __device__ __forceinline__ uint16_t *stage_line(uint16_t *stages, int stage, int half,
                                                       int line)
{
    return stages + (((stage * 2 + half) * 32 * (MT + NT)) + line) * 32;
}

/* A thread fetches the same eighth of a line, MT lines of weights and NT rows apart by 32. */
template <int MT, int NT>
static __device__ __forceinline__ void tile_fetch(const struct dip__product &p, uint16_t *stages,
                                                  int step, const struct dip__place places[NT])
{
    int unit = (int)threadIdx.x % 8, line = (int)threadIdx.x / 8, stage = step % TILE_STAGES;
    int64_t k = (int64_t)step * TILE_K + unit * DIP__CHUNK;
    int64_t out = (int64_t)blockIdx.y * (32 * MT) + line;
#pragma unroll
    for (int i = 0; i < MT; i++)
        fetch_weight(p, stage_line<MT, NT>(stages, stage, unit / 4, line + 32 * i) + unit % 4 * 8,
                     out + 32 * i, (int)blockIdx.z, k);
#pragma unroll
    for (int i = 0; i < NT; i++)
        fetch_in(p,
                 stage_line<MT, NT>(stages, stage, unit / 4, 32 * (MT + i) + line) + unit % 4 * 8,
                 places[i], k);
}

/* 32 k of a warp's tile. */
template <int MT, int NT>
static __device__ __forceinline__ void tile_multiply(float acc[MT][NT][4], uint16_t *stages,
                                                     int stage, int half)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int g = lane / 4, t = lane % 4;
    int out = warp / 4 * 16 * MT, row = 32 * MT + warp % 4 * 8 * NT;
    uint4 b[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        b[n] = *(const uint4 *)(stage_line<MT, NT>(stages, stage, half, row + 8 * n + g) + 8 * t);
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const uint16_t *line = stage_line<MT, NT>(stages, stage, half, out + 16 * m + g) + 8 * t;
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
static __device__ __forceinline__ void tile_store(const struct dip__product &p, float *results,
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
    for (int i = (int)threadIdx.x; i < 32 * NT * OUTS / DIP__CHUNK; i += TILE_THREADS) {
        int r = i / (OUTS / DIP__CHUNK), c = i % (OUTS / DIP__CHUNK) * DIP__CHUNK;
        float x[DIP__CHUNK];
        if (first_row + r >= p.row_count || first_out + c >= p.out_count)
            continue;
        dip__load8(x, results, DIP_F32, r * LINE + c, DIP__CHUNK, true);
        dip__finish8(p, first_row + r, (int)blockIdx.z, first_out + c, x);
    }
}

template <int MT, int NT>
static __global__ void __launch_bounds__(TILE_THREADS) tile_kernel(struct dip__product p)
{
    uint16_t *stages = (uint16_t *)dip__shared();
    struct dip__place places[NT];
    for (int i = 0; i < NT; i++)
        places[i] = dip__place_of(p, (int64_t)blockIdx.x * (32 * NT) + 32 * i + threadIdx.x / 8,
                                  (int)blockIdx.z);
    int steps = (int)((p.length + TILE_K - 1) / TILE_K);
    float acc[MT][NT][4] = {}, sum[MT][NT][4] = {};
    for (int step = 0; step < TILE_STAGES - 1; step++) {
        if (step < steps)
            tile_fetch<MT, NT>(p, stages, step, places);
        dip__copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        dip__copy_wait<TILE_STAGES - 2>();
        __syncthreads(); /* the stage is here for all, and the one to be filled is no longer read */
        if (step + TILE_STAGES - 1 < steps)
            tile_fetch<MT, NT>(p, stages, step + TILE_STAGES - 1, places);
        dip__copy_commit();
        tile_multiply<MT, NT>(acc, stages, step % TILE_STAGES, 0);
        tile_multiply<MT, NT>(acc, stages, step % TILE_STAGES, 1);
        if ((step + 1) * TILE_K % DIP__SLICE && step + 1 < steps)
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
    tile_store<MT, NT>(p, (float *)stages, sum);
}

/* Large tiles where they fill the machine, small ones elsewhere: the bits are the same. */
static enum dip_status tile_launch(struct CUstream_st *stream, const struct dip__product *p, int z)
{
    int64_t outs = dip__pieces(p->out_count, 128), rows = dip__pieces(p->row_count, 128);
    if (outs * rows * z >= 96 && p->row_count > 64)
        return dip__launch(stream, tile_kernel<4, 4>,
                           dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z),
                           TILE_THREADS, tile_shared_bytes(4, 4), *p);
    outs = dip__pieces(p->out_count, 64);
    rows = dip__pieces(p->row_count, 64);
    return dip__launch(stream, tile_kernel<2, 2>,
                       dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z), TILE_THREADS,
                       tile_shared_bytes(2, 2), *p);
}

enum dip_status dip__product_run(struct CUstream_st *stream, const struct dip__product *p, int z,
                                 bool is_tensor)
{
    if (is_tensor)
        return tile_launch(stream, p, z);
    int64_t outs = dip__pieces(p->out_count, PLAIN_EDGE),
            rows = dip__pieces(p->row_count, PLAIN_EDGE);
    return dip__launch(stream, plain_kernel,
                       dim3((unsigned int)rows, (unsigned int)outs, (unsigned int)z), PLAIN_THREADS,
                       0, *p);
}
