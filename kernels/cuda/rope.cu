/* kernels/cuda/rope.cu - timestep features; rotary embedding with the norm of each head; the cache.
 *
 *   rope      per head: y = x / sqrt(mean(x^2) + eps) weight, then the pairs (j, j + d/2) turned by
 *             f32(position inv_freq[j])                                           Su et al. 2021
 *   qkv_rope  the same on the q and k columns of one product [R, q + 2 kv], k and v straight into
 *             the cache: what were two ropes and an append in one launch, with their bits
 *   sinusoid  cos(t f_j), sin(t f_j), f_j = exp(-ln(10000) j / half)
 *
 * A warp has one head: a lane the pairs j = lane, lane + 32, ..., so both halves are read 32
 * elements at a time, the sum of squares needs no shared memory, and a position's angles are
 * computed where they are used (about 60 instructions; a table would be another 220 KB to read).
 * Squares are summed per lane over its pairs in order, lanes join 16 apart first.
 *
 * A decode step's launch is latency: predicted 2.5 us, and two of them saved by qkv_rope. */
#include "kernels/cuda/device.h"

enum { THREADS = 256, WARPS = THREADS / 32, PAIRS_MAX = DIP_CUDA_HEAD_DIM_MAX / 64 };

/* One head: where it is read, where it goes, and what is done to it. */
struct head {
    const void *in;
    void *out;
    enum dip_dtype in_dtype, out_dtype;
    int64_t from, to;
    int64_t dim;
};

static __device__ __forceinline__ void turn_head(const struct head &h,
                                                 const struct dip_param &weight,
                                                 const float *inv_freq, float position, float eps)
{
    int lane = (int)threadIdx.x % 32;
    int half = (int)h.dim / 2;
    float a[PAIRS_MAX], b[PAIRS_MAX], squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS_MAX; i++) {
        int pair = lane + 32 * i;
        a[i] = pair < half ? dip__at(h.in, h.in_dtype, h.from + pair) : 0.0f;
        b[i] = pair < half ? dip__at(h.in, h.in_dtype, h.from + half + pair) : 0.0f;
        squares = fmaf(a[i], a[i], squares);
        squares = fmaf(b[i], b[i], squares);
    }
    float scale = 1.0f / sqrtf(dip__warp_sum(squares) / (float)h.dim + eps);
#pragma unroll
    for (int i = 0; i < PAIRS_MAX; i++) {
        int pair = lane + 32 * i;
        if (pair >= half)
            continue;
        float sine, cosine;
        sincosf(__fmul_rn(position, inv_freq[pair]), &sine, &cosine);
        float x = a[i] * scale * dip__at(weight.data, weight.dtype, pair);
        float y = b[i] * scale * dip__at(weight.data, weight.dtype, half + pair);
        dip__put(h.out, h.out_dtype, h.to + pair, x * cosine - y * sine);
        dip__put(h.out, h.out_dtype, h.to + half + pair, y * cosine + x * sine);
    }
}

static __device__ __forceinline__ void move_head(const struct head &h)
{
    for (int64_t c = threadIdx.x % 32; c < h.dim; c += 32)
        dip__put(h.out, h.out_dtype, h.to + c, dip__at(h.in, h.in_dtype, h.from + c));
}

static __global__ void __launch_bounds__(THREADS) rope_kernel(struct dip_cuda_rope j)
{
    int64_t heads = j.x.columns / j.head_dim;
    int64_t unit = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (unit >= j.x.rows * heads)
        return;
    int64_t row = unit / heads;
    int64_t at = row * j.x.stride + unit % heads * j.head_dim;
    struct head h = {j.x.data, j.x.data, j.x.dtype, j.x.dtype, at, at, j.head_dim};
    turn_head(h, j.weight, j.inv_freq, (float)j.rows[row].position, j.eps);
}

enum dip_status dip_cuda_rope(struct CUstream_st *stream, const struct dip_cuda_rope *job)
{
    int64_t units = job->x.rows * (job->x.columns / job->head_dim);
    if (job->head_dim > DIP_CUDA_HEAD_DIM_MAX || units > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, rope_kernel, dim3((unsigned int)dip__pieces(units, WARPS)), THREADS,
                       0, *job);
}

static __global__ void __launch_bounds__(THREADS) qkv_rope_kernel(struct dip_cuda_qkv_rope j)
{
    int64_t heads = j.head_count + 2 * j.kv_head_count;
    int64_t unit = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (unit >= j.qkv.rows * heads)
        return;
    int64_t row = unit / heads, head = unit % heads;
    struct dip_kernel_row place = j.rows[row];
    int64_t at = row * j.qkv.stride + head * j.head_dim;
    struct head h = {j.qkv.data, j.qkv.data, j.qkv.dtype, j.qkv.dtype, at, at, j.head_dim};
    if (head < j.head_count) {
        turn_head(h, j.q_weight, j.inv_freq, (float)place.position, j.eps);
        return;
    }
    int64_t kv_head = (head - j.head_count) % j.kv_head_count;
    bool is_key = head < j.head_count + j.kv_head_count;
    const struct dip_cuda_view &cache = is_key ? j.kv.k : j.kv.v;
    h.out = cache.data;
    h.out_dtype = cache.dtype;
    h.to = (place.slot * j.kv.capacity + place.position) * cache.stride + kv_head * j.head_dim;
    if (is_key)
        turn_head(h, j.k_weight, j.inv_freq, (float)place.position, j.eps);
    else
        move_head(h);
}

enum dip_status dip_cuda_qkv_rope(struct CUstream_st *stream, const struct dip_cuda_qkv_rope *job)
{
    int64_t units = job->qkv.rows * (job->head_count + 2 * job->kv_head_count);
    if (job->head_dim > DIP_CUDA_HEAD_DIM_MAX || units > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, qkv_rope_kernel, dim3((unsigned int)dip__pieces(units, WARPS)),
                       THREADS, 0, *job);
}

/* ---- kv_append ---- */

struct kv_append {
    struct dip_cuda_kv_append j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        struct dip_kernel_row place = j.rows[at.row];
        struct dip__spot to = {place.slot * j.kv.capacity + place.position, at.column, at.count};
        float x[DIP__CHUNK];
        dip__load_spot(x, j.k, at, is_wide);
        dip__store_spot(j.kv.k, to, is_wide, x);
        dip__load_spot(x, j.v, at, is_wide);
        dip__store_spot(j.kv.v, to, is_wide, x);
    }
};

enum dip_status dip_cuda_kv_append(struct CUstream_st *stream, const struct dip_cuda_kv_append *job)
{
    struct kv_append work = {*job, dip__is_view_aligned(&job->k) && dip__is_view_aligned(&job->v) &&
                                       dip__is_view_aligned(&job->kv.k) &&
                                       dip__is_view_aligned(&job->kv.v)};
    return dip__run_chunks(stream, work, job->k.rows, job->k.columns);
}

/* ---- sinusoid ---- */

/* The reference's roundings: exponent, frequency and angle are f32; what follows is exact enough.
 */
static __global__ void __launch_bounds__(THREADS) sinusoid_kernel(struct dip_cuda_sinusoid j)
{
    int64_t half = j.out.columns / 2;
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= j.out.rows * half)
        return;
    int64_t row = index / half, i = index % half;
    float exponent = __fdiv_rn(__fmul_rn(-9.210340371976184f, (float)i), (float)half);
    float angle = __fmul_rn(j.t[row], (float)exp((double)exponent));
    dip__put(j.out.data, j.out.dtype, row * j.out.stride + i, (float)cos((double)angle));
    dip__put(j.out.data, j.out.dtype, row * j.out.stride + half + i, (float)sin((double)angle));
}

enum dip_status dip_cuda_sinusoid(struct CUstream_st *stream, const struct dip_cuda_sinusoid *job)
{
    int64_t blocks = dip__pieces(job->out.rows * (job->out.columns / 2), THREADS);
    if (blocks > INT32_MAX)
        return DIP_UNSUPPORTED;
    return dip__launch(stream, sinusoid_kernel, dim3((unsigned int)blocks), THREADS, 0, *job);
}
