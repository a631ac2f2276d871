/* kernels/cuda/attend_cross.cu - attention without a mask: image tokens over the context's rows.
 *
 *   out = softmax(q k^T / sqrt(d)) v, q [N, heads d], k, v [M, heads d]
 *
 * Online softmax over blocks of 64 keys (Dao et al. 2022, "FlashAttention"; 2023, "-2"): nothing of
 * size N M is written. Flops 4 N M d a head: 6.7 GFLOP a layer and branch of SANA (1,024 x 730 x
 * 112, 20 heads), 8 us at 790 TFLOP/s; bytes 2 (2 N + 2 M) d a head, from the second cache after
 * the first block. Bound by tensor cores and, for a third, by exponentials.
 *
 *   tensor  BF16, d <= 128: a block of four warps has 64 queries of one head, a warp 16 of them.
 *           Queries stay in registers; keys and values come in two stages by cp.async; scores
 *           pass from the first product's result to the second's operand without leaving the
 *           lane, and values are transposed by ldmatrix. SANA: 16 x 20 = 320 blocks with 66 KB.
 *           Probabilities are rounded to BF16 for the product, unnormalised, their sum is f32:
 *           equal keys give exactly their value back, which is what makes the unconditional
 *           branch a constant.
 *   plain   any types, d <= 256: a warp a query, f32. For parity.
 *
 * A query's keys come in blocks of 64 in order, whatever is beside it. Items of a batch, each with
 * a context of its own length, are one launch: where a context lies is read from memory. Predicted
 * on a H200: 25 us a layer and request, 30 % of the bound, against 14 us for a warp-specialised
 * kernel with wgmma. Tried: nothing yet on a GPU. */
#include "kernels/cuda/device.h"

enum {
    KEYS = 64, /* of a block of keys */
    QUERIES = 64,
    THREADS = 128,
    DIM = 128, /* with zeros beyond the head's own */
    VALUE_LINE =
        DIM + 8, /* ldmatrix reads eight lines at one column: they lie in different banks */
    K_ELEMENTS = KEYS * DIM,
    V_ELEMENTS = KEYS * VALUE_LINE,
    STAGE = K_ELEMENTS + V_ELEMENTS,
    SHARED_BYTES = 2 * STAGE * 2,
};

/* From the job of a batch to that of the block's item. */
static __device__ __forceinline__ void pick_item(struct dip_cuda_attend_cross *j)
{
    if (!j->contexts)
        return;
    const struct dip_cuda_context c = j->contexts[blockIdx.z];
    int64_t columns = j->head_count * j->head_dim, size = j->q.dtype == DIP_F32 ? 4 : 2;
    int64_t first = blockIdx.z * j->rows_per_item, from = j->block * c.row_count * columns * size;
    struct dip_cuda_view k = {(char *)c.k + from, j->q.dtype, c.row_count, columns, columns};
    struct dip_cuda_view v = {(char *)c.v + from, j->q.dtype, c.row_count, columns, columns};
    j->k = k;
    j->v = v;
    j->q.data = (char *)j->q.data + first * j->q.stride * size;
    j->out.data = (char *)j->out.data + first * j->out.stride * (j->out.dtype == DIP_F32 ? 4 : 2);
    j->q.rows = j->out.rows = j->rows_per_item;
}

/* ---- tensor cores ---- */

/* Eight elements of a row of k or v, zeros outside the matrix. */
static __device__ __forceinline__ void fetch8(const struct dip_cuda_view &v, int64_t row,
                                              int64_t column, int left, bool is_wide, uint16_t *to)
{
    const uint16_t *data = (const uint16_t *)v.data;
    bool is_there = row < v.rows && left > 0;
    int64_t index = is_there ? row * v.stride + column : 0;
    if (is_wide) {
        dip__copy_async(to, data + index, is_there);
        return;
    }
    for (int e = 0; e < DIP__CHUNK; e++)
        to[e] = is_there && e < left ? data[index + e] : 0;
}

/* Keys as [32 channels][key][channel], the layout of a product's stage; values as they are. */
static __device__ __forceinline__ void fetch_stage(const struct dip_cuda_attend_cross &j,
                                                   uint16_t *stage, int64_t key, int64_t column,
                                                   bool is_wide)
{
    for (int i = (int)threadIdx.x; i < KEYS * DIM / DIP__CHUNK; i += THREADS) {
        int line = i / (DIM / DIP__CHUNK), c = i % (DIM / DIP__CHUNK) * DIP__CHUNK;
        int left = (int)j.head_dim - c;
        fetch8(j.k, key + line, column + c, left, is_wide,
               stage + (c / 32 * KEYS + line) * 32 + c % 32);
        fetch8(j.v, key + line, column + c, left, is_wide,
               stage + K_ELEMENTS + line * VALUE_LINE + c);
    }
}

/* A warp's 16 queries as operands: for each 32 channels two of them (see product.h). */
struct queries {
    uint4 low[DIM / 32], high[DIM / 32];
};

static __device__ __forceinline__ uint4 query8(const struct dip_cuda_view &q, int64_t row,
                                               int64_t column, int left)
{
    uint32_t pair[4];
    const uint16_t *data = (const uint16_t *)q.data + row * q.stride + column;
    bool is_there = row < q.rows;
#pragma unroll
    for (int i = 0; i < 4; i++)
        pair[i] = (is_there && 2 * i < left ? data[2 * i] : 0u) |
                  (is_there && 2 * i + 1 < left ? (uint32_t)data[2 * i + 1] : 0u) << 16;
    return make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

static __device__ __forceinline__ struct queries load_queries(const struct dip_cuda_view &q,
                                                              int64_t row, int64_t column, int dim)
{
    struct queries of;
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < DIM / 32; i++) {
        int c = 32 * i + 8 * t;
        of.low[i] = query8(q, row + g, column + c, dim - c);
        of.high[i] = query8(q, row + g + 8, column + c, dim - c);
    }
    return of;
}

static __device__ __forceinline__ void score(const struct queries &q, const uint16_t *keys, int dim,
                                             float scores[KEYS / 8][4])
{
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores[n][i] = 0.0f;
#pragma unroll
        for (int c = 0; c < DIM / 32; c++) {
            if (32 * c >= dim) /* the same for the whole launch */
                continue;
            uint4 k = *(const uint4 *)(keys + (c * KEYS + 8 * n + g) * 32 + 8 * t);
            const uint32_t first[4] = {q.low[c].x, q.high[c].x, q.low[c].y, q.high[c].y};
            const uint32_t second[4] = {q.low[c].z, q.high[c].z, q.low[c].w, q.high[c].w};
            const uint32_t k_first[2] = {k.x, k.y}, k_second[2] = {k.z, k.w};
            dip__mma(scores[n], first, k_first);
            dip__mma(scores[n], second, k_second);
        }
    }
}

/* What a lane knows of its two queries, g and g + 8: highest score so far and the lane's share of
 * the sum of exponentials. */
struct softmax {
    float high[2], sum[2];
};

/* Scores become exponentials; returns by how much what was summed before must shrink. `scale` turns
 * scores into exponents of two. */
static __device__ __forceinline__ void soften(float scores[KEYS / 8][4], int left, float scale,
                                              struct softmax *s, float ret_shrink[2])
{
    int t = (int)threadIdx.x % 4;
    float high[2] = {s->high[0], s->high[1]};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = 8 * n + 2 * t + i % 2 < left ? scores[n][i] * scale : -INFINITY;
            high[i / 2] = fmaxf(high[i / 2], scores[n][i]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) { /* the four lanes of a query */
        high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 1));
        high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 2));
        ret_shrink[r] = exp2f(s->high[r] - high[r]);
        s->high[r] = high[r];
        s->sum[r] *= ret_shrink[r];
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = exp2f(scores[n][i] - high[i / 2]);
            s->sum[i / 2] += scores[n][i];
        }
}

/* sums += probabilities times values. */
static __device__ __forceinline__ void weigh(const float p[KEYS / 8][4], const uint16_t *values,
                                             int dim, float sums[DIM / 8][4])
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const uint32_t a[4] = {dip__bf16x2(p[2 * k][0], p[2 * k][1]),
                               dip__bf16x2(p[2 * k][2], p[2 * k][3]),
                               dip__bf16x2(p[2 * k + 1][0], p[2 * k + 1][1]),
                               dip__bf16x2(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            if (16 * n >= dim)
                continue;
            /* Matrices: keys 0-7 and 8-15 of channels 0-7, then of channels 8-15. */
            uint32_t v[4];
            dip__load_transposed(v, values + (16 * k + lane % 16) * VALUE_LINE + 16 * n +
                                        lane / 16 * 8);
            const uint32_t left[2] = {v[0], v[1]}, right[2] = {v[2], v[3]};
            dip__mma(sums[2 * n], a, left);
            dip__mma(sums[2 * n + 1], a, right);
        }
    }
}

static __device__ __forceinline__ void store_queries(const struct dip_cuda_attend_cross &j,
                                                     int64_t row, int64_t column,
                                                     const float sums[DIM / 8][4],
                                                     const struct softmax &s)
{
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    float total[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] = s.sum[r] + __shfl_xor_sync(0xffffffffu, s.sum[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t at = row + g + i / 2 * 8, c = 8 * n + 2 * t + i % 2;
            if (at < j.out.rows && c < j.head_dim)
                dip__put(j.out.data, j.out.dtype, at * j.out.stride + column + c,
                         sums[n][i] / total[i / 2]);
        }
}

/* grid: blocks of queries, heads, items. */
static __global__ void __launch_bounds__(THREADS)
    tensor_kernel(struct dip_cuda_attend_cross j, bool is_wide)
{
    pick_item(&j);
    uint16_t *stages = (uint16_t *)dip__shared();
    int dim = (int)j.head_dim;
    int64_t column = blockIdx.y * j.head_dim;
    int64_t row = (int64_t)blockIdx.x * QUERIES + threadIdx.x / 32 * 16;
    float scale = 1.44269504088896340736f / sqrtf((float)dim);
    int blocks = (int)((j.k.rows + KEYS - 1) / KEYS);
    struct queries q = load_queries(j.q, row, column, dim);
    struct softmax s = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
    float sums[DIM / 8][4] = {};
    fetch_stage(j, stages, 0, column, is_wide);
    dip__copy_commit();
    for (int block = 0; block < blocks; block++) {
        if (block + 1 < blocks)
            fetch_stage(j, stages + (block + 1) % 2 * STAGE, (int64_t)(block + 1) * KEYS, column,
                        is_wide);
        dip__copy_commit();
        dip__copy_wait<1>();
        __syncthreads();
        const uint16_t *stage = stages + block % 2 * STAGE;
        float scores[KEYS / 8][4], shrink[2];
        score(q, stage, dim, scores);
        soften(scores, (int)min((int64_t)KEYS, j.k.rows - (int64_t)block * KEYS), scale, &s,
               shrink);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sums[n][i] *= shrink[i / 2];
        weigh(scores, stage + K_ELEMENTS, dim, sums);
        __syncthreads(); /* the stage may be filled again */
    }
    store_queries(j, row, column, sums, s);
}

/* ---- plain ---- */

enum { PLAIN_WARPS = THREADS / 32 };

/* Lane l has channels 8 l ... and, of each 32 keys, the score of the l-th. */
static __global__ void __launch_bounds__(THREADS)
    plain_kernel(struct dip_cuda_attend_cross j, bool is_wide)
{
    pick_item(&j);
    int lane = (int)threadIdx.x % 32, c = lane * DIP__CHUNK;
    int64_t row = (int64_t)blockIdx.x * PLAIN_WARPS + threadIdx.x / 32;
    if (row >= j.q.rows)
        return;
    int width = (int)max((int64_t)0, min((int64_t)DIP__CHUNK, j.head_dim - c));
    int64_t column = blockIdx.y * j.head_dim + c;
    float q[DIP__CHUNK], x[DIP__CHUNK], sums[DIP__CHUNK] = {0}, high = -INFINITY, total = 0.0f;
    float scale = 1.0f / sqrtf((float)j.head_dim);
    dip__load8(q, j.q.data, j.q.dtype, row * j.q.stride + column, width, is_wide);
    for (int64_t first = 0; first < j.k.rows; first += 32) {
        int count = (int)min((int64_t)32, j.k.rows - first);
        float own = -INFINITY;
        for (int i = 0; i < count; i++) {
            dip__load8(x, j.k.data, j.k.dtype, (first + i) * j.k.stride + column, width, is_wide);
            float dot = 0.0f;
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++)
                dot = fmaf(q[e], x[e], dot);
            dot = dip__warp_sum(dot) * scale;
            own = lane == i ? dot : own;
        }
        float higher = fmaxf(high, dip__warp_max(own)), shrink = expf(high - higher);
        own = expf(own - higher);
        total = fmaf(total, shrink, dip__warp_sum(own));
        high = higher;
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            sums[e] *= shrink;
        for (int i = 0; i < count; i++) {
            float p = __shfl_sync(0xffffffffu, own, i);
            dip__load8(x, j.v.data, j.v.dtype, (first + i) * j.v.stride + column, width, is_wide);
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++)
                sums[e] = fmaf(p, x[e], sums[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        sums[e] /= total;
    dip__store8(j.out.data, j.out.dtype, row * j.out.stride + column, width, is_wide, sums);
}

enum dip_status dip_cuda_attend_cross(struct CUstream_st *stream,
                                      const struct dip_cuda_attend_cross *job)
{
    bool is_wide =
        job->head_dim % DIP__CHUNK == 0 &&
        (job->contexts || (dip__is_view_aligned(&job->k) && dip__is_view_aligned(&job->v)));
    bool is_bf16 = job->q.dtype == DIP_BF16 &&
                   (job->contexts || (job->k.dtype == DIP_BF16 && job->v.dtype == DIP_BF16));
    int64_t rows = job->contexts ? job->rows_per_item : job->q.rows;
    int64_t items = job->q.rows / rows;
    if (job->head_dim > DIP_CUDA_HEAD_DIM_MAX || job->head_count > 65535 || items > 65535)
        return DIP_UNSUPPORTED;
    bool is_tensor = is_bf16 && job->head_dim <= DIM;
    dim3 grid((unsigned int)dip__pieces(rows, is_tensor ? (int)QUERIES : (int)PLAIN_WARPS),
              (unsigned int)job->head_count, (unsigned int)items);
    if (is_tensor)
        return dip__launch(stream, tensor_kernel, grid, THREADS, SHARED_BYTES, *job, is_wide);
    is_wide = is_wide && dip__is_view_aligned(&job->q) && dip__is_view_aligned(&job->out);
    return dip__launch(stream, plain_kernel, grid, THREADS, 0, *job, is_wide);
}
