/* kernels/cuda/attend_linear.cu - ReLU linear attention with its state in f32.
 *
 *   S = sum_n v_n relu(k_n)^T, u = sum_n relu(k_n), out_n = S relu(q_n) / (u . relu(q_n) + 1e-15)
 *   (Katharopoulos et al. 2020; with ReLU: Cai et al. 2023, "EfficientViT"; in SANA and DC-AE)
 *
 * Three launches: an item's rows are cut into segments of 256, whose states are summed on their own
 * (gather), then joined in order (join), then applied (apply). Segments follow from the row's place
 * in its item, so neither the batch nor the grid appears in a bit. SANA at 1,024 tokens: 70 heads x
 * 4 segments x 2 branches = 560 blocks; DC-AE's 16,384 pixels of a 512-channel stage: 64 segments x
 * 16 heads or more.
 *
 * Bytes: q, k, v read and out written once; a state is (d + 1) d floats, 4.2 KB for d = 32, read by
 * each block of the last launch. Flops 4 N d^2 a head, on the f32 cores: 0.3 GFLOP a branch and
 * layer of SANA, 5 us at their rate, beside 18 MB that take 5 us. Predicted on a H200: 14 us for a
 * pair of branches (three launches).
 *
 * A thread has eight neighbouring k channels of one v channel (or of the norm u) and sums the rows
 * in order with fma. Tensor cores are not used: the reference does this in f32.
 * Tried: nothing yet on a GPU. */
#include "kernels/cuda/device.h"

enum {
    SEGMENT = 256, /* rows */
    TILE = 32,     /* rows in shared memory at a time */
    THREADS = 160, /* d = 32 has 33 x 4 units */
    DIM_MAX = 128,
};

static int64_t state_floats(int64_t dim)
{
    return (dim + 1) * dim;
}

static __device__ __forceinline__ float relu(float x)
{
    return x < 0.0f ? 0.0f : x; /* NaN stays NaN */
}

struct shared {
    float k[TILE][DIM_MAX + DIP__CHUNK]; /* relu(k), zeros beyond d */
    float v[TILE][DIM_MAX + DIP__CHUNK]; /* v, and at d a one: the norm is one more channel */
};

static __device__ __forceinline__ void load_tile(const struct dip_cuda_attend_linear &j,
                                                 struct shared *sh, int64_t row, int rows,
                                                 int64_t column)
{
    __syncthreads();
    int width = ((int)j.head_dim + DIP__CHUNK) / DIP__CHUNK * DIP__CHUNK; /* holds column d too */
    for (int i = (int)threadIdx.x; i < TILE * width; i += THREADS) {
        int r = i / width, c = i % width;
        bool is_there = r < rows && c < j.head_dim;
        int64_t at = column + c;
        sh->k[r][c] =
            is_there ? relu(dip__at(j.k.data, j.k.dtype, (row + r) * j.k.stride + at)) : 0.0f;
        sh->v[r][c] = is_there ? dip__at(j.v.data, j.v.dtype, (row + r) * j.v.stride + at)
                               : (c == j.head_dim ? 1.0f : 0.0f);
    }
    __syncthreads();
}

/* grid: segments, heads, items. states: [item][head][segment + 1][d + 1][d], the first free for the
 * joined one. */
static __global__ void __launch_bounds__(THREADS) gather_kernel(struct dip_cuda_attend_linear j)
{
    __shared__ struct shared sh;
    int dim = (int)j.head_dim, chunks = (dim + DIP__CHUNK - 1) / DIP__CHUNK;
    int64_t first = blockIdx.z * j.rows_per_item + (int64_t)blockIdx.x * SEGMENT;
    int64_t last = min(first + SEGMENT, (blockIdx.z + 1) * j.rows_per_item);
    int64_t column = blockIdx.y * j.head_stride;
    float *state = (float *)j.scratch +
                   ((blockIdx.z * gridDim.y + blockIdx.y) * (gridDim.x + 1) + blockIdx.x + 1) *
                       ((int64_t)(dim + 1) * dim);
    int units = (dim + 1) * chunks;
    for (int base = 0; base < units; base += THREADS) {
        int unit = base + (int)threadIdx.x, d = unit / chunks, e = unit % chunks * DIP__CHUNK;
        float sums[DIP__CHUNK] = {0};
        for (int64_t row = first; row < last; row += TILE) {
            int rows = (int)min((int64_t)TILE, last - row);
            load_tile(j, &sh, row, rows, column);
            for (int r = 0; r < rows && unit < units; r++) {
                float k[DIP__CHUNK], v = sh.v[r][d];
                dip__load8(k, sh.k[r], DIP_F32, e, DIP__CHUNK, true);
#pragma unroll
                for (int i = 0; i < DIP__CHUNK; i++)
                    sums[i] = fmaf(v, k[i], sums[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < DIP__CHUNK; i++)
            if (unit < units && e + i < dim)
                state[d * dim + e + i] = sums[i];
    }
}

/* Segments in order. grid: pieces of the state, heads, items. */
static __global__ void __launch_bounds__(THREADS)
    join_kernel(float *states, int64_t floats, int segment_count)
{
    int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= floats)
        return;
    float *state =
        states + (blockIdx.z * gridDim.y + blockIdx.y) * (segment_count + 1) * floats + index;
    float sum = 0.0f;
    for (int i = 1; i <= segment_count; i++)
        sum += state[i * floats];
    state[0] = sum;
}

/* Rows and states in shared memory: [d + 1][d] and [TILE][d]. grid as in gather. */
static __global__ void __launch_bounds__(THREADS)
    apply_kernel(struct dip_cuda_attend_linear j, int64_t segment_count)
{
    int dim = (int)j.head_dim, line = dim + 1; /* an odd line keeps rows on different banks */
    float *state = (float *)dip__shared(), *q = state + (dim + 1) * line, *norm = q + TILE * line;
    int64_t floats = (int64_t)(dim + 1) * dim;
    const float *from = (const float *)j.scratch +
                        (blockIdx.z * gridDim.y + blockIdx.y) * (segment_count + 1) * floats;
    for (int i = (int)threadIdx.x; i < floats; i += THREADS)
        state[i / dim * line + i % dim] = from[i];
    int64_t first = blockIdx.z * j.rows_per_item + (int64_t)blockIdx.x * SEGMENT;
    int64_t last = min(first + SEGMENT, (blockIdx.z + 1) * j.rows_per_item);
    for (int64_t row = first; row < last; row += TILE) {
        int rows = (int)min((int64_t)TILE, last - row);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * dim; i += THREADS)
            q[i / dim * line + i % dim] =
                relu(dip__at(j.q.data, j.q.dtype,
                             (row + i / dim) * j.q.stride + blockIdx.y * j.head_stride + i % dim));
        __syncthreads();
        for (int r = (int)threadIdx.x; r < rows; r += THREADS) {
            float sum = 0.0f;
            for (int e = 0; e < dim; e++)
                sum = fmaf(state[dim * line + e], q[r * line + e], sum);
            norm[r] = sum + 1e-15f;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * dim; i += THREADS) {
            int r = i / dim, d = i % dim;
            float sum = 0.0f;
            for (int e = 0; e < dim; e++)
                sum = fmaf(state[d * line + e], q[r * line + e], sum);
            dip__put(j.out.data, j.out.dtype, (row + r) * j.out.stride + blockIdx.y * dim + d,
                     sum / norm[r]);
        }
    }
}

enum dip_status dip_cuda_attend_linear(struct CUstream_st *stream,
                                       const struct dip_cuda_attend_linear *job)
{
    int64_t dim = job->head_dim, items = job->q.rows / job->rows_per_item;
    int64_t segments = dip__pieces(job->rows_per_item, SEGMENT), floats = state_floats(dim);
    int64_t item_floats = job->head_count * (segments + 1) * floats;
    int64_t items_max = DIP_CUDA_SCRATCH_BYTES / (item_floats * (int64_t)sizeof(float));
    if (dim > DIM_MAX || items_max < 1 || job->head_count > 65535)
        return DIP_UNSUPPORTED;
    items_max = items_max > 65535 ? 65535 : items_max;
    size_t shared_bytes = (size_t)((dim + 1 + TILE) * (dim + 1) + TILE) * sizeof(float);
    for (int64_t item = 0; item < items; item += items_max) {
        int64_t count = items - item < items_max ? items - item : items_max;
        struct dip_cuda_attend_linear part = *job;
        struct dip_cuda_view *views[] = {&part.out, &part.q, &part.k, &part.v};
        for (int i = 0; i < 4; i++)
            views[i]->data =
                (char *)views[i]->data + (size_t)(item * job->rows_per_item * views[i]->stride) *
                                             dip__dtype_size(views[i]->dtype);
        dim3 grid((unsigned int)segments, (unsigned int)job->head_count, (unsigned int)count);
        dim3 states((unsigned int)dip__pieces(floats, THREADS), grid.y, grid.z);
        DIP_TRY(dip__launch(stream, gather_kernel, grid, THREADS, 0, part));
        DIP_TRY(dip__launch(stream, join_kernel, states, THREADS, 0, (float *)job->scratch, floats,
                            (int)segments));
        DIP_TRY(dip__launch(stream, apply_kernel, grid, THREADS, shared_bytes, part, segments));
    }
    return DIP_OK;
}
