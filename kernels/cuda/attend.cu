/* kernels/cuda/attend.cu - causal attention over the cache, for rows that stand anywhere in it.
 *
 *   out = softmax(q K^T / sqrt(d)) V over keys 0..position of the row's slot
 *
 * Bound by memory while decoding: 4 (position + 1) d bytes of BF16 keys and values per kv head,
 * once for all query heads of its group; at the mean context of 493 keys 56 MB a sequence and step
 * over 28 layers of Qwen3-1.7B. Flops are 4 an element and head: nothing.
 *
 * Split over keys (Dao et al. 2023, "Flash-Decoding"): the cache is cut at every SPAN-th position,
 * whatever the row's position, and a block has one span of one kv head of one row, so one row alone
 * gives 8 x 14 blocks. Spans beyond the position end at once. Each leaves its largest score, its
 * sum of exponentials and its unnormalised output; a second kernel joins them in the order of the
 * spans. Nothing in this depends on the other rows: prefill and decode give a position the same
 * bits.
 *
 *   scores   half a warp a key, eight channels a lane (16 bytes of BF16); lanes join 8 apart first
 *   softmax  a warp a query head
 *   output   16 threads hold the channels, keys k, k + 8, ... go to one of eight such groups, which
 *            join in order
 *
 * 128 threads, about 60 registers, 18 KB of shared memory: eight blocks and 64 KB of loads in
 * flight a multiprocessor. Predicted on a H200, 1.7B: 4.5 us a layer at one row (two launches and
 * two round trips to memory), 85 % of copy rate at 64 rows. Joining in the kernel that finishes
 * last would save a launch of 2 us and needs a counter that survives between launches; not done. */
#include "kernels/cuda/device.h"

enum {
    SPAN = 64, /* keys of a block */
    THREADS = 128,
    LANES = 16, /* that share a key: 8 channels each, twice for heads over 128 */
    SLICES = DIP_CUDA_HEAD_DIM_MAX / (LANES * DIP__CHUNK),
    SUBSETS = THREADS / LANES,
    GROUP_MAX = 8, /* query heads of a kv head */
};

/* What a span leaves in scratch: highest score, sum, then head_dim outputs. */
static __device__ __forceinline__ int64_t part_floats(const struct dip_cuda_attend &j)
{
    return j.head_dim + 2;
}

struct shared {
    float q[GROUP_MAX][DIP_CUDA_HEAD_DIM_MAX];
    float scores[GROUP_MAX][SPAN];
    float sums[SUBSETS][DIP_CUDA_HEAD_DIM_MAX];
};

static __device__ __forceinline__ void load_queries(const struct dip_cuda_attend &j,
                                                    struct shared *sh, int64_t row, int64_t kv_head,
                                                    int group)
{
    int64_t from = row * j.q.stride + kv_head * group * j.head_dim;
    float scale = 1.0f / sqrtf((float)j.head_dim);
    for (int i = (int)threadIdx.x; i < group * DIP_CUDA_HEAD_DIM_MAX; i += THREADS) {
        int g = i / DIP_CUDA_HEAD_DIM_MAX, c = i % DIP_CUDA_HEAD_DIM_MAX;
        bool is_there = c < j.head_dim;
        sh->q[g][c] =
            is_there ? dip__at(j.q.data, j.q.dtype, from + g * j.head_dim + c) * scale : 0.0f;
    }
}

/* Scores of keys first + 0 .. count - 1; the rest of the span stays at minus infinity. */
static __device__ __forceinline__ void score_keys(const struct dip_cuda_attend &j,
                                                  struct shared *sh, int64_t first_row,
                                                  int64_t kv_head, int count, int group,
                                                  bool is_wide)
{
    int lane = (int)threadIdx.x % LANES;
    for (int key = (int)threadIdx.x / LANES; key < SPAN; key += SUBSETS) {
        float k[SLICES][DIP__CHUNK];
        bool is_there = key < count; /* both halves of a warp go through the shuffles */
#pragma unroll
        for (int s = 0; s < SLICES; s++) {
            int64_t c = (s * LANES + lane) * DIP__CHUNK;
            int width = is_there ? (int)min((int64_t)DIP__CHUNK, j.head_dim - c) : 0;
            dip__load8(k[s], j.kv.k.data, j.kv.k.dtype,
                       (first_row + key) * j.kv.k.stride + kv_head * j.head_dim + c, width,
                       is_wide);
        }
        for (int g = 0; g < group; g++) {
            float sum = 0.0f;
#pragma unroll
            for (int s = 0; s < SLICES; s++)
#pragma unroll
                for (int e = 0; e < DIP__CHUNK; e++)
                    sum = fmaf(sh->q[g][(s * LANES + lane) * DIP__CHUNK + e], k[s][e], sum);
#pragma unroll
            for (int apart = LANES / 2; apart > 0; apart /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, apart);
            if (lane == 0)
                sh->scores[g][key] = is_there ? sum : -INFINITY;
        }
    }
}

/* Scores become exponentials relative to the span's highest. */
static __device__ __forceinline__ void soften(struct shared *sh, int group, float *part,
                                              int64_t part_stride)
{
    int lane = (int)threadIdx.x % 32;
    for (int g = (int)threadIdx.x / 32; g < group; g += THREADS / 32) {
        float *scores = sh->scores[g];
        float high = dip__warp_max(fmaxf(scores[lane], scores[lane + 32]));
        float low = expf(scores[lane] - high), up = expf(scores[lane + 32] - high);
        scores[lane] = low;
        scores[lane + 32] = up;
        float sum = dip__warp_sum(low + up);
        if (lane == 0) {
            part[g * part_stride] = high;
            part[g * part_stride + 1] = sum;
        }
    }
}

static __device__ __forceinline__ void sum_values(const struct dip_cuda_attend &j,
                                                  struct shared *sh, int64_t first_row,
                                                  int64_t kv_head, int count, int g, float *part,
                                                  bool is_wide)
{
    int lane = (int)threadIdx.x % LANES, subset = (int)threadIdx.x / LANES;
#pragma unroll
    for (int s = 0; s < SLICES; s++) {
        int64_t c = (s * LANES + lane) * DIP__CHUNK;
        float sums[DIP__CHUNK] = {0}, v[DIP__CHUNK];
        for (int key = subset; key < count && c < j.head_dim; key += SUBSETS) {
            dip__load8(v, j.kv.v.data, j.kv.v.dtype,
                       (first_row + key) * j.kv.v.stride + kv_head * j.head_dim + c,
                       (int)min((int64_t)DIP__CHUNK, j.head_dim - c), is_wide);
#pragma unroll
            for (int e = 0; e < DIP__CHUNK; e++)
                sums[e] = fmaf(sh->scores[g][key], v[e], sums[e]);
        }
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            sh->sums[subset][c + e] = sums[e];
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < j.head_dim; c += THREADS) {
        float sum = sh->sums[0][c];
        for (int i = 1; i < SUBSETS; i++)
            sum += sh->sums[i][c];
        part[2 + c] = sum;
    }
    __syncthreads();
}

/* grid: spans, kv heads, rows. parts: [row][head][span][part_floats]. */
static __global__ void __launch_bounds__(THREADS, 8)
    span_kernel(struct dip_cuda_attend j, int64_t row_first, bool is_wide)
{
    __shared__ struct shared sh;
    int64_t row = row_first + blockIdx.z, kv_head = blockIdx.y;
    int group = (int)(j.head_count / j.kv_head_count);
    struct dip_kernel_row place = j.rows[row];
    int first = (int)blockIdx.x * SPAN;
    int count = min((int)SPAN, place.position + 1 - first);
    if (count <= 0)
        return;
    int64_t first_row = place.slot * j.kv.capacity + first;
    int64_t part_stride = gridDim.x * part_floats(j); /* from head to head */
    float *part = (float *)j.scratch + (blockIdx.z * j.head_count + kv_head * group) * part_stride +
                  blockIdx.x * part_floats(j);
    load_queries(j, &sh, row, kv_head, group);
    __syncthreads();
    score_keys(j, &sh, first_row, kv_head, count, group, is_wide);
    __syncthreads();
    soften(&sh, group, part, part_stride);
    __syncthreads();
    for (int g = 0; g < group; g++)
        sum_values(j, &sh, first_row, kv_head, count, g, part + g * part_stride, is_wide);
}

/* grid: heads, rows. */
static __global__ void __launch_bounds__(THREADS)
    join_kernel(struct dip_cuda_attend j, int64_t row_first, int64_t span_count)
{
    int64_t row = row_first + blockIdx.y, head = blockIdx.x;
    dip__let_next_begin(); /* the output product's weights may come meanwhile */
    int used = j.rows[row].position / SPAN + 1;
    const float *part =
        (const float *)j.scratch + (blockIdx.y * j.head_count + head) * span_count * part_floats(j);
    float high = -INFINITY, total = 0.0f;
    for (int i = 0; i < used; i++)
        high = fmaxf(high, part[i * part_floats(j)]);
    for (int i = 0; i < used; i++)
        total = fmaf(expf(part[i * part_floats(j)] - high), part[i * part_floats(j) + 1], total);
    for (int64_t c = threadIdx.x; c < j.head_dim; c += THREADS) {
        float sum = 0.0f;
        for (int i = 0; i < used; i++)
            sum =
                fmaf(expf(part[i * part_floats(j)] - high), part[i * part_floats(j) + 2 + c], sum);
        dip__put(j.out.data, j.out.dtype, row * j.out.stride + head * j.head_dim + c, sum / total);
    }
}

enum dip_status dip_cuda_attend(struct CUstream_st *stream, const struct dip_cuda_attend *job)
{
    int64_t spans = dip__pieces(job->kv.capacity, SPAN);
    int64_t row_bytes = job->head_count * spans * (job->head_dim + 2) * (int64_t)sizeof(float);
    int64_t rows_at_once = DIP_CUDA_SCRATCH_BYTES / row_bytes;
    if (job->head_dim > DIP_CUDA_HEAD_DIM_MAX || rows_at_once < 1 ||
        job->head_count / job->kv_head_count > GROUP_MAX)
        return DIP_UNSUPPORTED;
    rows_at_once = rows_at_once > 32768 ? 32768 : rows_at_once;
    bool is_wide = dip__is_view_aligned(&job->kv.k) && dip__is_view_aligned(&job->kv.v) &&
                   job->head_dim % DIP__CHUNK == 0;
    for (int64_t row = 0; row < job->q.rows; row += rows_at_once) {
        int64_t left = job->q.rows - row;
        unsigned int count = (unsigned int)(left < rows_at_once ? left : rows_at_once);
        dim3 spans_of((unsigned int)spans, (unsigned int)job->kv_head_count, count);
        DIP_TRY(dip__launch(stream, span_kernel, spans_of, THREADS, 0, *job, row, is_wide));
        DIP_TRY(dip__launch(stream, join_kernel, dim3((unsigned int)job->head_count, count),
                            THREADS, 0, *job, row, spans));
    }
    return DIP_OK;
}
