/* kernels/cuda/elementwise.cu - what works on one element at a time.
 *
 *   add       sum += gate[b] x; product and sum rounded apart in f32, then once to sum's type
 *   silu_mul  out = gate / (1 + exp(-gate)) up
 *   activate, blend, guide, cast, fill, check_finite, tree_sum
 *
 * Bound by memory: bytes are those of the operands, flops do not count. A thread has eight
 * neighbouring elements of a row, so a warp moves 512 bytes of BF16 by one 16-byte access a thread;
 * 256 threads and under 40 registers leave eight blocks to a multiprocessor, which is more loads in
 * flight than its share of the memory's rate times latency (about 26 KB) needs. Predicted, on a
 * H200: 80 to 90 % of copy rate above some 8 MB; below that a launch lasts its 2 us.
 *
 * Tried: nothing yet on a GPU. */
#include "kernels/cuda/device.h"

static enum dip_status too_large(void)
{
    return DIP_UNSUPPORTED;
}

/* ---- add ---- */

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    add_kernel(struct dip_cuda_add j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.sum.rows, j.sum.columns);
    if (!at.count)
        return;
    float sum[DIP__CHUNK], x[DIP__CHUNK], gate[DIP__CHUNK];
    int64_t to = at.row * j.sum.stride + at.column;
    int64_t x_row = at.row / j.x_rows_per_item;
    dip__load8(sum, j.sum.data, j.sum.dtype, to, at.count, is_wide);
    dip__load8(x, j.x.data, j.x.dtype, x_row * j.x.stride + at.column, at.count, is_wide);
    if (j.gate.data) {
        int64_t item = at.row / j.rows_per_item;
        dip__load8(gate, j.gate.data, j.gate.dtype, item * j.gate.stride + at.column, at.count,
                   is_wide);
    }
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        sum[e] = __fadd_rn(sum[e], j.gate.data ? __fmul_rn(gate[e], x[e]) : x[e]);
    dip__store8(j.sum.data, j.sum.dtype, to, at.count, is_wide, sum);
}

enum dip_status dip_cuda_add(struct CUstream_st *stream, const struct dip_cuda_add *job)
{
    if (!dip__are_spots_few(job->sum.rows, job->sum.columns))
        return too_large();
    bool is_wide = dip__is_view_aligned(&job->sum) && dip__is_view_aligned(&job->x) &&
                   dip__is_view_aligned(&job->gate);
    return dip__launch(stream, add_kernel, dip__spot_grid(job->sum.rows, job->sum.columns),
                       DIP__SPOT_THREADS, 0, *job, is_wide);
}

/* ---- silu_mul, activate ---- */

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    silu_mul_kernel(struct dip_cuda_silu_mul j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.out.rows, j.out.columns);
    if (!at.count)
        return;
    float gate[DIP__CHUNK], up[DIP__CHUNK];
    dip__load8(gate, j.gate.data, j.gate.dtype, at.row * j.gate.stride + at.column, at.count,
               is_wide);
    dip__load8(up, j.up.data, j.up.dtype, at.row * j.up.stride + at.column, at.count, is_wide);
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        up[e] = dip__silu_f32(gate[e]) * up[e];
    dip__store8(j.out.data, j.out.dtype, at.row * j.out.stride + at.column, at.count, is_wide, up);
}

enum dip_status dip_cuda_silu_mul(struct CUstream_st *stream, const struct dip_cuda_silu_mul *job)
{
    if (!dip__are_spots_few(job->out.rows, job->out.columns))
        return too_large();
    bool is_wide = dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->gate) &&
                   dip__is_view_aligned(&job->up);
    return dip__launch(stream, silu_mul_kernel, dip__spot_grid(job->out.rows, job->out.columns),
                       DIP__SPOT_THREADS, 0, *job, is_wide);
}

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    activate_kernel(struct dip_cuda_activate j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.out.rows, j.out.columns);
    if (!at.count)
        return;
    float x[DIP__CHUNK];
    dip__load8(x, j.in.data, j.in.dtype, at.row * j.in.stride + at.column, at.count, is_wide);
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        x[e] = dip__activate_f32(j.act, x[e]);
    dip__store8(j.out.data, j.out.dtype, at.row * j.out.stride + at.column, at.count, is_wide, x);
}

enum dip_status dip_cuda_activate(struct CUstream_st *stream, const struct dip_cuda_activate *job)
{
    if (!dip__are_spots_few(job->out.rows, job->out.columns))
        return too_large();
    bool is_wide = dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in);
    return dip__launch(stream, activate_kernel, dip__spot_grid(job->out.rows, job->out.columns),
                       DIP__SPOT_THREADS, 0, *job, is_wide);
}

/* ---- blend, guide: dense, as one row ---- */

static int64_t count_of(const struct dip_cuda_view *v)
{
    return v->rows * v->columns;
}

static bool is_dense_aligned(const struct dip_cuda_view *v)
{
    return (uintptr_t)v->data % 16 == 0;
}

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    blend_kernel(struct dip_cuda_blend j, int64_t count, bool is_wide)
{
    struct dip__spot at = dip__spot_of(1, count);
    if (!at.count)
        return;
    int64_t item_elements = count / j.item_count;
    float sum[DIP__CHUNK], x[DIP__CHUNK];
    for (int i = 0; i < j.count; i++) {
        dip__load8(x, j.in[i].data, j.in[i].dtype, at.column, at.count, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++) {
            if (e >= at.count)
                continue;
            int64_t item = (at.column + e) / item_elements;
            float product = __fmul_rn(j.coefficients[i * j.item_count + item], x[e]);
            sum[e] = i == 0 ? product : __fadd_rn(sum[e], product);
        }
    }
    dip__store8(j.out.data, j.out.dtype, at.column, at.count, is_wide, sum);
}

enum dip_status dip_cuda_blend(struct CUstream_st *stream, const struct dip_cuda_blend *job)
{
    int64_t count = count_of(&job->out);
    bool is_wide = is_dense_aligned(&job->out);
    for (int i = 0; i < job->count; i++)
        is_wide = is_wide && is_dense_aligned(&job->in[i]);
    if (!dip__are_spots_few(1, count))
        return too_large();
    return dip__launch(stream, blend_kernel, dip__spot_grid(1, count), DIP__SPOT_THREADS, 0, *job,
                       count, is_wide);
}

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    guide_kernel(struct dip_cuda_guide j, int64_t count, bool is_wide)
{
    struct dip__spot at = dip__spot_of(1, count);
    if (!at.count)
        return;
    float uncond[DIP__CHUNK], cond[DIP__CHUNK];
    dip__load8(uncond, j.uncond.data, j.uncond.dtype, at.column, at.count, is_wide);
    dip__load8(cond, j.cond.data, j.cond.dtype, at.column, at.count, is_wide);
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        cond[e] = __fadd_rn(uncond[e], __fmul_rn(j.scale, __fsub_rn(cond[e], uncond[e])));
    dip__store8(j.out.data, j.out.dtype, at.column, at.count, is_wide, cond);
}

enum dip_status dip_cuda_guide(struct CUstream_st *stream, const struct dip_cuda_guide *job)
{
    int64_t count = count_of(&job->out);
    bool is_wide = is_dense_aligned(&job->out) && is_dense_aligned(&job->uncond) &&
                   is_dense_aligned(&job->cond);
    if (!dip__are_spots_few(1, count))
        return too_large();
    return dip__launch(stream, guide_kernel, dip__spot_grid(1, count), DIP__SPOT_THREADS, 0, *job,
                       count, is_wide);
}

/* ---- cast, fill ---- */

static __device__ __forceinline__ bool is_float(enum dip_dtype dtype)
{
    return dtype == DIP_F32 || dtype == DIP_BF16 || dtype == DIP_F16;
}

/* Elements of equal types move as bits. */
static __device__ void move_bits(const struct dip_cuda_cast &j, const struct dip__spot &at,
                                 int64_t to, int64_t from)
{
    for (int e = 0; e < at.count; e++) {
        if (j.out.dtype == DIP_U8)
            ((uint8_t *)j.out.data)[to + e] = ((const uint8_t *)j.in.data)[from + e];
        else if (j.out.dtype == DIP_I32 || j.out.dtype == DIP_F32)
            ((uint32_t *)j.out.data)[to + e] = ((const uint32_t *)j.in.data)[from + e];
        else
            ((uint16_t *)j.out.data)[to + e] = ((const uint16_t *)j.in.data)[from + e];
    }
}

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    cast_kernel(struct dip_cuda_cast j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.out.rows, j.out.columns);
    if (!at.count)
        return;
    int64_t to = at.row * j.out.stride + at.column, from = at.row * j.in.stride + at.column;
    if (j.out.dtype == j.in.dtype &&
        !(is_wide && at.count == DIP__CHUNK && j.out.dtype == DIP_F32)) {
        move_bits(j, at, to, from);
        return;
    }
    float x[DIP__CHUNK];
    dip__load8(x, j.in.data, j.in.dtype, from, at.count, is_wide);
    dip__store8(j.out.data, j.out.dtype, to, at.count, is_wide, x);
}

enum dip_status dip_cuda_cast(struct CUstream_st *stream, const struct dip_cuda_cast *job)
{
    if (!dip__are_spots_few(job->out.rows, job->out.columns))
        return too_large();
    bool is_wide = dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in);
    return dip__launch(stream, cast_kernel, dip__spot_grid(job->out.rows, job->out.columns),
                       DIP__SPOT_THREADS, 0, *job, is_wide);
}

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    fill_kernel(struct dip_cuda_fill j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.out.rows, j.out.columns);
    if (!at.count)
        return;
    int64_t to = at.row * j.out.stride + at.column;
    float x[DIP__CHUNK];
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        x[e] = j.value;
    if (is_float(j.out.dtype)) {
        dip__store8(j.out.data, j.out.dtype, to, at.count, is_wide, x);
        return;
    }
    for (int e = 0; e < at.count; e++) {
        if (j.out.dtype == DIP_I32)
            ((int32_t *)j.out.data)[to + e] = (int32_t)j.value;
        else
            ((uint8_t *)j.out.data)[to + e] = (uint8_t)j.value;
    }
}

enum dip_status dip_cuda_fill(struct CUstream_st *stream, const struct dip_cuda_fill *job)
{
    if (!dip__are_spots_few(job->out.rows, job->out.columns))
        return too_large();
    return dip__launch(stream, fill_kernel, dip__spot_grid(job->out.rows, job->out.columns),
                       DIP__SPOT_THREADS, 0, *job, dip__is_view_aligned(&job->out));
}

/* ---- check_finite ---- */

static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    check_finite_kernel(struct dip_cuda_check_finite j, bool is_wide)
{
    struct dip__spot at = dip__spot_of(j.in.rows, j.in.columns);
    if (!at.count)
        return;
    float x[DIP__CHUNK];
    dip__load8(x, j.in.data, j.in.dtype, at.row * j.in.stride + at.column, at.count, is_wide);
    bool is_bad = false;
#pragma unroll
    for (int e = 0; e < DIP__CHUNK; e++)
        is_bad = is_bad || (__float_as_uint(x[e]) & 0x7f800000u) == 0x7f800000u;
    if (is_bad)
        atomicOr(j.flag, 1u);
}

enum dip_status dip_cuda_check_finite(struct CUstream_st *stream,
                                      const struct dip_cuda_check_finite *job)
{
    if (!dip__are_spots_few(job->in.rows, job->in.columns))
        return too_large();
    return dip__launch(stream, check_finite_kernel, dip__spot_grid(job->in.rows, job->in.columns),
                       DIP__SPOT_THREADS, 0, *job, dip__is_view_aligned(&job->in));
}

/* ---- tree_sum ---- */

/* Neighbours join, then pairs: one finished sub-tree per set bit of the parts so far. */
static __device__ float tree_of(const float *parts, int64_t part_count, int64_t part_stride)
{
    float stack[12];
    int depth = 0;
    for (int64_t part = 0; part < part_count; part++) {
        float x = parts[part * part_stride];
        for (int64_t carry = part; carry & 1; carry >>= 1)
            x = __fadd_rn(stack[--depth], x);
        stack[depth++] = x;
    }
    return stack[0];
}

/* Parts are dense: element (row, column) of out is row * columns + column of each. */
static __global__ void __launch_bounds__(DIP__SPOT_THREADS)
    tree_sum_kernel(struct dip_cuda_tree_sum j)
{
    int64_t index = (int64_t)blockIdx.x * DIP__SPOT_THREADS + threadIdx.x;
    if (index >= j.out.rows * j.out.columns)
        return;
    float sum = tree_of(j.parts + index, j.part_count, j.part_stride);
    int64_t to = index / j.out.columns * j.out.stride + index % j.out.columns;
    if (j.is_added)
        sum = __fadd_rn(dip__at(j.out.data, j.out.dtype, to), sum);
    dip__put(j.out.data, j.out.dtype, to, sum);
}

enum dip_status dip_cuda_tree_sum(struct CUstream_st *stream, const struct dip_cuda_tree_sum *job)
{
    int64_t blocks = dip__pieces(count_of(&job->out), DIP__SPOT_THREADS);
    if (job->part_count > 1024 || blocks > INT32_MAX)
        return too_large();
    return dip__launch(stream, tree_sum_kernel, dim3((unsigned int)blocks), DIP__SPOT_THREADS, 0,
                       *job);
}
