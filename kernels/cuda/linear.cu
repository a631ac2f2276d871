/* kernels/cuda/linear.cu - the linear product, from one row to thousands, and the grouped one.
 *
 *   out[R, N] = act(tree over chunks(in[R, K] weight[N, K]^T) + bias) (+ out)
 *
 * Bytes: 2 N K of weights once, 2 R (N + K) of activations. Flops 2 R N K. Bound by memory up to
 * some 180 rows on a H200 (790 TFLOP/s over 4.3 TB/s), by tensor cores above. A row's bits may not
 * depend on R, so few rows use the same instruction in the same order as many (product.h), with
 * the weights as the operand of 16 lines. R of the other's eight columns are used and nothing is
 * lost: the tensor cores idle at one instruction for 512 bytes.
 *
 *   few    R <= 16. A block has 16 outputs and eight warps, warp w the slices w, w + 8, ... of K.
 *          A warp has 4 KB of weights in flight, as 16-byte loads that pass by the first cache,
 *          and the next slice's behind them: two blocks a multiprocessor are 64 to 128 KB against
 *          the 26 KB that rate times latency ask for. Slice sums meet in shared memory, where one
 *          thread an output adds them in order. A norm in front is done again by every block
 *          for up to 4 rows (8 KB a row from the second cache), a gate behind takes eight
 *          outputs of both halves into one block: three launches of 2 us a layer less.
 *   many   tiles of 64 or 128 (product.cu). With chunks, each is a block of its own and a second
 *          kernel joins them, which gives the products of 64 rows enough blocks.
 *   plain  everything that is not BF16 times BF16: fma in f32. For parity, not speed.
 *
 * Predicted on a H200: few 85 % of copy rate from 8 MB of weights up (qkv of 1.7B, 16.8 MB: 4.6
 * us); 64 rows 50 to 60 % of copy rate, because a tile of 64 outputs reads as many bytes of
 * activations from the second cache as of weights. Adding slices costs some 3 % of issue slots and
 * makes the sum better than one long chain.
 *
 * Tried on paper: splitting K over warps inside a slice needs a sum that no tile of many rows
 * could reproduce; fma for one row and mma for many give different bits. */
#include "kernels/cuda/product.h"
#include "kernels/cuda/rms.h"

enum {
    FEW_ROWS = 16,
    FEW_OUTS = 16,
    FEW_WARPS = 8,
    FEW_THREADS = FEW_WARPS * 32,
    FEW_ROUND = 32,    /* slices whose sums wait in shared memory */
    FEW_NORM_ROWS = 4, /* rows whose norm is worth doing again in every block */
    TREE_LEVELS = 11,
};

/* ---- few rows ---- */

/* What a product does beside multiplying. */
struct folded {
    int chunk_count;
    bool is_gated; /* a block's lines 0..7 are of the first half of the weights, 8..15 of the second
                    */
    struct dip_param norm_weight;
    float norm_eps;
};

/* A block's line in the weights, or -1. */
static __device__ __forceinline__ int64_t line_of(const struct dip__product &p,
                                                  const struct folded &f, int line)
{
    int64_t out = f.is_gated ? (int64_t)blockIdx.x * (FEW_OUTS / 2) + line % 8
                             : (int64_t)blockIdx.x * FEW_OUTS + line;
    if (out >= p.out_count)
        return -1;
    return f.is_gated && line >= 8 ? p.out_count + out : out;
}

/* A warp's part of one slice: 4 x 32 k; of weights the lines g and g + 8, of rows g and g + 8. */
struct fragments {
    uint4 low[4], high[4];
};

static __device__ __forceinline__ uint4 eight_of(const uint16_t *data, int64_t index, int64_t left,
                                                 bool is_wide, bool is_stream)
{
    if (left <= 0)
        return make_uint4(0, 0, 0, 0);
    if (is_wide)
        return is_stream ? dip__load_stream(data + index) : *(const uint4 *)(data + index);
    uint32_t pair[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] = (2 * i < left ? data[index + 2 * i] : 0u) |
                  (2 * i + 1 < left ? (uint32_t)data[index + 2 * i + 1] : 0u) << 16;
    return make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

/* Where a slice of the whole inner dimension begins and how much of its chunk is left there. */
struct slice {
    int64_t k, left;
};

static __device__ __forceinline__ struct slice slice_of(const struct dip__product &p, int index,
                                                        int per_chunk)
{
    int64_t within = (int64_t)(index % per_chunk) * DIP__SLICE;
    struct slice s = {index / per_chunk * p.length + within, p.length - within};
    return s;
}

static __device__ __forceinline__ struct fragments
load_weights(const struct dip__product &p, const struct folded &f, const struct slice &s)
{
    struct fragments w;
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    int64_t low = line_of(p, f, g), high = line_of(p, f, g + 8);
    const uint16_t *data = (const uint16_t *)p.weight.data;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t at = 32 * i + 8 * t;
        w.low[i] = eight_of(data, low * p.weight_stride + s.k + at, low < 0 ? 0 : s.left - at,
                            p.is_weight_wide, true);
        w.high[i] = eight_of(data, high * p.weight_stride + s.k + at, high < 0 ? 0 : s.left - at,
                             p.is_weight_wide, true);
    }
    return w;
}

/* Rows normalised as dip_cuda_norm_rms would, side by side in shared memory. */
static __device__ __forceinline__ void
normalise(const struct dip__product &p, const struct folded &f, uint16_t *rows, float *room)
{
    bool is_block = p.length > DIP__RMS_WARP_MAX;
    int rank = is_block ? (int)threadIdx.x : (int)threadIdx.x % 32;
    int size = is_block ? (int)FEW_THREADS : 32;
    int row = is_block ? 0 : (int)threadIdx.x / 32, step = is_block ? 1 : (int)FEW_WARPS;
    bool is_even = p.length % DIP__CHUNK == 0 && (uintptr_t)f.norm_weight.data % 16 == 0;
    for (; row < p.row_count; row += step) {
        int64_t from = row * p.in.stride;
        float squares = dip__rms_squares(p.in, from, p.length, rank, size, p.is_in_wide);
        squares = is_block ? dip__block_sum(squares, room, FEW_WARPS) : dip__warp_sum(squares);
        float scale = dip__rms_scale(squares, p.length, f.norm_eps);
        for (int64_t c = rank * DIP__CHUNK; c < p.length; c += size * DIP__CHUNK) {
            float x[DIP__CHUNK], weight[DIP__CHUNK];
            int count = (int)min((int64_t)DIP__CHUNK, p.length - c);
            dip__load8(x, p.in.data, p.in.dtype, from + c, count, p.is_in_wide);
            dip__load8(weight, f.norm_weight.data, f.norm_weight.dtype, c, count, is_even);
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++)
                x[e] = dip__rms_scaled(x[e], scale, weight[e]);
            dip__store8(rows, DIP_BF16, row * p.length + c, count, p.length % DIP__CHUNK == 0, x);
        }
    }
    __syncthreads();
}

/* Sums of a slice for rows 0..7 and 8..15 of the launch. */
static __device__ __forceinline__ void multiply(const struct dip__product &p,
                                                const struct fragments &w, const struct slice &s,
                                                float acc[2][4])
{
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const uint16_t *data = (const uint16_t *)p.in.data;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t at = 32 * i + 8 * t;
        const uint32_t first[4] = {w.low[i].x, w.high[i].x, w.low[i].y, w.high[i].y};
        const uint32_t second[4] = {w.low[i].z, w.high[i].z, w.low[i].w, w.high[i].w};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            int row = 8 * n + g;
            if (8 * n >= p.row_count) /* the same for the whole launch */
                continue;
            uint4 x = eight_of(data, row * p.in.stride + s.k + at,
                               row < p.row_count ? s.left - at : 0, p.is_in_wide, false);
            const uint32_t b_first[2] = {x.x, x.y}, b_second[2] = {x.z, x.w};
            dip__mma(acc[n], first, b_first);
            dip__mma(acc[n], second, b_second);
        }
    }
}

/* [slice of the round][row][output]. */
static __device__ __forceinline__ void leave_sums(float *sums, int slot, const float acc[2][4])
{
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    float *to = sums + slot * FEW_ROWS * FEW_OUTS;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[(8 * n + 2 * t + i % 2) * FEW_OUTS + g + i / 2 * 8] = acc[n][i];
}

/* Joins neighbours, then pairs: a finished sub-tree per set bit of `chunk`. */
static __device__ __forceinline__ void push_chunk(float stack[TREE_LEVELS], int *depth, int chunk,
                                                  float sum)
{
    for (int carry = chunk; carry & 1; carry >>= 1)
        sum = __fadd_rn(stack[--*depth], sum);
    stack[(*depth)++] = sum;
}

static __device__ __forceinline__ void finish_one(const struct dip__product &p, int64_t row,
                                                  int64_t out, float sum)
{
    if (row >= p.row_count || out >= p.out_count)
        return;
    int64_t to = row * p.out.stride + out;
    if (p.bias.data)
        sum += dip__at(p.bias.data, p.bias.dtype, out);
    sum = dip__activate_f32(p.act, sum);
    if (p.is_added)
        sum = dip__at(p.out.data, p.out.dtype, to) + sum;
    dip__put(p.out.data, p.out.dtype, to, sum);
}

/* Sums of a gate and of what it lets through, eight outputs apart, become one output. */
static __device__ __forceinline__ void finish_gated(const struct dip__product &p, float *sums,
                                                    int row, int of_tile, float sum)
{
    int64_t out = (int64_t)blockIdx.x * (FEW_OUTS / 2) + of_tile;
    sum = dip__rounded(p.out.dtype, sum);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (of_tile >= 8 || row >= p.row_count || out >= p.out_count)
        return;
    dip__put(p.out.data, p.out.dtype, row * p.out.stride + out,
             dip__silu_f32(sum) * sums[threadIdx.x + 8]);
}

static size_t few_shared_bytes(const struct dip__product &p, bool is_normed)
{
    size_t sums = (size_t)FEW_ROUND * FEW_ROWS * FEW_OUTS * sizeof(float);
    return sums + (is_normed ? (size_t)(p.row_count * p.length) * sizeof(uint16_t) : 0);
}

static __global__ void __launch_bounds__(FEW_THREADS, 2)
    few_kernel(struct dip__product p, struct folded f)
{
    __shared__ float room[FEW_WARPS];
    float *sums = (float *)dip__shared();
    uint16_t *rows = (uint16_t *)(sums + FEW_ROUND * FEW_ROWS * FEW_OUTS);
    int warp = (int)threadIdx.x / 32;
    int per_chunk = (int)((p.length + DIP__SLICE - 1) / DIP__SLICE);
    int slices = per_chunk * f.chunk_count;
    int row = (int)threadIdx.x / FEW_OUTS, of_tile = (int)threadIdx.x % FEW_OUTS;
    float stack[TREE_LEVELS], sum = 0.0f;
    int depth = 0;
    struct fragments next = {};
    if (warp < slices)
        next = load_weights(p, f, slice_of(p, warp, per_chunk));
    dip__let_next_begin();
    dip__wait_inputs(); /* weights are under way while the rows are still being computed */
    if (f.norm_weight.data) {
        normalise(p, f, rows, room);
        p.in.data = rows;
        p.in.stride = p.length;
        p.is_in_wide = p.length % DIP__CHUNK == 0;
    }
    for (int round = 0; round < slices; round += FEW_ROUND) {
        int end = min(round + (int)FEW_ROUND, slices);
        for (int i = round + warp; i < end; i += FEW_WARPS) {
            struct fragments now = next;
            if (i + FEW_WARPS < slices)
                next = load_weights(p, f, slice_of(p, i + FEW_WARPS, per_chunk));
            float acc[2][4] = {};
            multiply(p, now, slice_of(p, i, per_chunk), acc);
            leave_sums(sums, i - round, acc);
        }
        __syncthreads();
        for (int i = round; i < end; i++) {
            sum += sums[(i - round) * FEW_ROWS * FEW_OUTS + row * FEW_OUTS + of_tile];
            if ((i + 1) % per_chunk)
                continue;
            push_chunk(stack, &depth, i / per_chunk, sum);
            sum = 0.0f;
        }
        __syncthreads();
    }
    if (f.is_gated)
        finish_gated(p, sums, row, of_tile, stack[0]);
    else
        finish_one(p, row, (int64_t)blockIdx.x * FEW_OUTS + of_tile, stack[0]);
}

/* ---- joining chunks ---- */

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    join_kernel(struct dip__product p, int chunk_count)
{
    struct dip__spot at = dip__spot_of(p.row_count, p.out_count);
    if (!at.count)
        return;
    float x[DIP__CHUNK];
    for (int e = 0; e < at.count; e++) {
        float stack[TREE_LEVELS];
        int depth = 0;
        for (int chunk = 0; chunk < chunk_count; chunk++)
            push_chunk(
                stack, &depth, chunk,
                p.parts[((int64_t)chunk * p.row_count + at.row) * p.out_count + at.column + e]);
        x[e] = stack[0];
    }
    p.parts = NULL;
    dip__finish8(p, at.row, 0, at.column, x);
}

/* ---- launching ---- */

static struct dip__product product_of(const struct dip_cuda_linear *job, int chunk_count)
{
    struct dip__product p = {};
    p.out = job->out;
    p.in = job->in;
    p.weight = job->weight;
    p.bias = job->bias;
    p.weight_stride = job->weight_stride;
    p.row_count = job->in.rows;
    p.out_count = job->out.columns;
    p.length = job->in.columns / chunk_count;
    p.act = job->act;
    p.is_added = job->is_added;
    p.stride = p.upsample = 1;
    bool is_even = p.length % DIP__CHUNK == 0;
    p.is_weight_wide =
        is_even && dip__is_aligned(job->weight.data, job->weight_stride, job->weight.dtype);
    p.is_in_wide = is_even && dip__is_view_aligned(&job->in);
    p.is_out_wide = dip__is_view_aligned(&job->out) && (uintptr_t)job->bias.data % 16 == 0;
    return p;
}

/* More than a few rows: chunks as blocks of their own when there are several, as many rows at once
 * as their sums have room in scratch. */
static enum dip_status run_many(struct CUstream_st *stream, struct dip__product p, int chunk_count,
                                bool is_tensor, void *scratch)
{
    int64_t rows = p.row_count, rows_max = INT32_MAX;
    size_t size = dip__dtype_size(p.in.dtype), out_size = dip__dtype_size(p.out.dtype);
    if (chunk_count > 1) {
        int64_t row_bytes = (int64_t)chunk_count * p.out_count * (int64_t)sizeof(float);
        rows_max = DIP_CUDA_SCRATCH_BYTES / row_bytes;
        p.parts = (float *)scratch;
    }
    if (rows_max < 1)
        return DIP_UNSUPPORTED;
    for (int64_t row = 0; row < rows; row += rows_max) {
        struct dip__product part = p;
        part.row_count = rows - row < rows_max ? rows - row : rows_max;
        part.in.data = (char *)p.in.data + (size_t)(row * p.in.stride) * size;
        part.out.data = (char *)p.out.data + (size_t)(row * p.out.stride) * out_size;
        DIP_TRY(dip__product_run(stream, &part, chunk_count, is_tensor));
        if (chunk_count > 1)
            DIP_TRY(dip__launch(stream, join_kernel, dip__spot_grid(part.row_count, part.out_count),
                                DIP__SPOT_THREADS, 0, part, chunk_count));
    }
    return DIP_OK;
}

static enum dip_status run_few(struct CUstream_st *stream, const struct dip_cuda_linear *job,
                               const struct dip__product &p, int chunk_count)
{
    struct folded f = {chunk_count, job->is_gated, job->norm_weight, job->norm_eps};
    int64_t outs = job->is_gated ? FEW_OUTS / 2 : FEW_OUTS;
    return dip__launch_when(job->is_early, stream, few_kernel,
                            dim3((unsigned int)dip__pieces(p.out_count, outs)), FEW_THREADS,
                            few_shared_bytes(p, job->norm_weight.data != NULL), p, f);
}

/* Whether one launch for few rows computes the whole job. operand: what is multiplied. */
static bool is_few(const struct dip_cuda_linear *job, enum dip_dtype operand)
{
    return operand == DIP_BF16 && job->weight.dtype == DIP_BF16 &&
           job->in.rows <= (job->norm_weight.data ? FEW_NORM_ROWS : FEW_ROWS);
}

/* The rows [row, row + count) of a view. */
static struct dip_cuda_view rows_of(struct dip_cuda_view v, int64_t row, int64_t count)
{
    v.data = (char *)v.data + (size_t)(row * v.stride) * dip__dtype_size(v.dtype);
    v.rows = count;
    return v;
}

static struct dip_cuda_view dense_at(void *data, enum dip_dtype dtype, int64_t rows,
                                     int64_t columns)
{
    struct dip_cuda_view v = {data, dtype, rows, columns, columns};
    return v;
}

/* The launches that a folded product stands for. normed, pair: where their results wait. */
static enum dip_status run_parts(struct CUstream_st *stream, struct dip_cuda_linear part,
                                 void *normed, void *pair)
{
    struct dip_cuda_view out = part.out;
    if (part.norm_weight.data) {
        struct dip_cuda_norm_rms norm = {};
        norm.in = part.in;
        norm.out = dense_at(normed, part.operand_dtype, part.in.rows, part.in.columns);
        norm.weight = part.norm_weight;
        norm.group = part.in.columns;
        norm.eps = part.norm_eps;
        DIP_TRY(dip_cuda_norm_rms(stream, &norm));
        part.in = norm.out;
        part.norm_weight.data = NULL;
    }
    if (!part.is_gated || is_few(&part, part.in.dtype))
        return dip_cuda_linear(stream, &part);
    part.is_gated = false;
    part.out = dense_at(pair, out.dtype, out.rows, 2 * out.columns);
    DIP_TRY(dip_cuda_linear(stream, &part));
    struct dip_cuda_silu_mul mul = {out, part.out, part.out};
    mul.gate.columns = mul.up.columns = out.columns;
    mul.up.data = (char *)pair + (size_t)out.columns * dip__dtype_size(out.dtype);
    return dip_cuda_silu_mul(stream, &mul);
}

/* As many rows at once as scratch holds. */
static enum dip_status run_apart(struct CUstream_st *stream, const struct dip_cuda_linear *job)
{
    size_t normed_bytes =
        job->norm_weight.data ? (size_t)job->in.columns * dip__dtype_size(job->operand_dtype) : 0;
    size_t pair_bytes =
        job->is_gated ? 2 * (size_t)job->out.columns * dip__dtype_size(job->out.dtype) : 0;
    int64_t rows_max = (int64_t)((DIP_CUDA_SCRATCH_BYTES - 256) / (normed_bytes + pair_bytes));
    if (rows_max < 1)
        return DIP_UNSUPPORTED;
    for (int64_t row = 0; row < job->in.rows; row += rows_max) {
        int64_t count = job->in.rows - row < rows_max ? job->in.rows - row : rows_max;
        size_t offset = ((size_t)count * normed_bytes + 255) / 256 * 256;
        struct dip_cuda_linear part = *job;
        part.in = rows_of(job->in, row, count);
        part.out = rows_of(job->out, row, count);
        DIP_TRY(run_parts(stream, part, job->scratch, (char *)job->scratch + offset));
    }
    return DIP_OK;
}

/* Whether the job is one that can be run: what is folded in needs one chunk, a gate nothing else.
 */
static bool is_possible(const struct dip_cuda_linear *job, int chunk_count)
{
    bool is_folded = job->norm_weight.data || job->is_gated;
    bool is_plain = !job->is_added && !job->bias.data && job->act == DIP_KERNEL_ACT_NONE;
    return chunk_count <= DIP_KERNEL_LINEAR_CHUNKS_MAX && job->in.columns <= INT32_MAX &&
           dip__are_spots_few(job->out.rows, job->out.columns) && !(is_folded && chunk_count > 1) &&
           (is_plain || !job->is_gated);
}

enum dip_status dip_cuda_linear(struct CUstream_st *stream, const struct dip_cuda_linear *job)
{
    int chunk_count = job->chunk_count > 1 ? job->chunk_count : 1;
    if (!is_possible(job, chunk_count))
        return DIP_UNSUPPORTED;
    struct dip__product p = product_of(job, chunk_count);
    bool is_normed = job->norm_weight.data != NULL;
    if (is_few(job, is_normed ? job->operand_dtype : job->in.dtype))
        return run_few(stream, job, p, chunk_count);
    if (is_normed || job->is_gated)
        return run_apart(stream, job);
    bool is_tensor = job->in.dtype == DIP_BF16 && job->weight.dtype == DIP_BF16;
    return run_many(stream, p, chunk_count, is_tensor, job->scratch);
}

/* ---- grouped ---- */

enum { GROUP_THREADS = 256, GROUP_ROWS = 32, GROUP_IN_MAX = 64, GROUP_OUT_MAX = 64 };

struct group_shared {
    float weight[GROUP_IN_MAX][GROUP_OUT_MAX + 1]; /* [k][output] */
    float in[GROUP_ROWS][GROUP_IN_MAX + 1];
};

/* One group of 32 rows a block: 32 x 32 weights of the autoencoder's heads, read once a block.
 * Bound by memory. k in order with fma. grid: groups, blocks of rows. */
static __global__ void __launch_bounds__(GROUP_THREADS)
    grouped_kernel(struct dip_cuda_linear_grouped j, int in_count, int out_count)
{
    __shared__ struct group_shared sh;
    int64_t group = blockIdx.x, first = (int64_t)blockIdx.y * GROUP_ROWS;
    for (int i = (int)threadIdx.x; i < out_count * in_count; i += GROUP_THREADS)
        sh.weight[i % in_count][i / in_count] =
            dip__at(j.weight.data, j.weight.dtype, group * out_count * in_count + i);
    for (int i = (int)threadIdx.x; i < GROUP_ROWS * in_count; i += GROUP_THREADS) {
        int64_t row = first + i / in_count;
        if (row < j.in.rows)
            sh.in[i / in_count][i % in_count] =
                dip__at(j.in.data, j.in.dtype, row * j.in.stride + group * in_count + i % in_count);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < GROUP_ROWS * out_count; i += GROUP_THREADS) {
        int r = i / out_count, n = i % out_count;
        if (first + r >= j.in.rows)
            return;
        float sum = 0.0f;
        for (int k = 0; k < in_count; k++)
            sum = fmaf(sh.in[r][k], sh.weight[k][n], sum);
        dip__put(j.out.data, j.out.dtype, (first + r) * j.out.stride + group * out_count + n, sum);
    }
}

/* Groups too wide for shared memory: each is a linear product. */
static enum dip_status run_wide_groups(struct CUstream_st *stream,
                                       const struct dip_cuda_linear_grouped *job)
{
    int64_t in_count = job->in.columns / job->group_count;
    int64_t out_count = job->out.columns / job->group_count;
    size_t in_size = dip__dtype_size(job->in.dtype), out_size = dip__dtype_size(job->out.dtype);
    size_t weight_size = dip__dtype_size(job->weight.dtype);
    for (int64_t group = 0; group < job->group_count; group++) {
        struct dip_cuda_linear one = {};
        one.in = job->in;
        one.in.columns = in_count;
        one.in.data = (char *)job->in.data + (size_t)(group * in_count) * in_size;
        one.out = job->out;
        one.out.columns = out_count;
        one.out.data = (char *)job->out.data + (size_t)(group * out_count) * out_size;
        one.weight = job->weight;
        one.weight.data =
            (const char *)job->weight.data + (size_t)(group * out_count * in_count) * weight_size;
        one.weight_stride = in_count;
        DIP_TRY(dip_cuda_linear(stream, &one));
    }
    return DIP_OK;
}

enum dip_status dip_cuda_linear_grouped(struct CUstream_st *stream,
                                        const struct dip_cuda_linear_grouped *job)
{
    int64_t in_count = job->in.columns / job->group_count;
    int64_t out_count = job->out.columns / job->group_count;
    int64_t blocks = dip__pieces(job->in.rows, GROUP_ROWS);
    if (in_count > GROUP_IN_MAX || out_count > GROUP_OUT_MAX || blocks > 65535)
        return run_wide_groups(stream, job);
    return dip__launch(stream, grouped_kernel,
                       dim3((unsigned int)job->group_count, (unsigned int)blocks), GROUP_THREADS, 0,
                       *job, (int)in_count, (int)out_count);
}
