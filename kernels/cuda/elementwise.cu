/* kernels/cuda/elementwise.cu - what works on one element at a time.
 *
 *   add        sum += gate[b] x; product and sum rounded apart in f32, then once to sum's type
 *   outer_sum  out = in + tables[t], for each t
 *   silu_mul   out = gate / (1 + exp(-gate)) up
 *   activate, blend, guide, cast, fill, check_finite, tree_sum
 *
 * Bound by memory: bytes are those of the operands, flops do not count. A thread has eight
 * neighbouring elements of a row, so a warp moves 512 bytes of BF16 by one 16-byte access a thread;
 * 256 threads and under 40 registers leave eight blocks to a multiprocessor, which is more loads in
 * flight than its share of the memory's rate times latency (about 26 KB) needs. Predicted, on a
 * H200: 80 to 90 % of copy rate above some 8 MB; below that a launch lasts its 2 us.
 *
 * Each operation is a struct whose run() is what one thread does to its chunk (device.h).
 * Tried: nothing yet on a GPU. */
#include "kernels/cuda/device.h"

/* ---- add ---- */

struct add {
    struct dip_cuda_add j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float sum[DIP__CHUNK], x[DIP__CHUNK], gate[DIP__CHUNK];
        struct dip__spot from = {at.row / j.x_rows_per_item, at.column, at.count};
        struct dip__spot item = {at.row / j.rows_per_item, at.column, at.count};
        dip__load_spot(sum, j.sum, at, is_wide);
        dip__load_spot(x, j.x, from, is_wide);
        if (j.gate.data)
            dip__load_spot(gate, j.gate, item, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            sum[e] = __fadd_rn(sum[e], j.gate.data ? __fmul_rn(gate[e], x[e]) : x[e]);
        dip__store_spot(j.sum, at, is_wide, sum);
    }
};

enum dip_status dip_cuda_add(struct CUstream_st *stream, const struct dip_cuda_add *job)
{
    struct add work = {*job, dip__is_view_aligned(&job->sum) && dip__is_view_aligned(&job->x) &&
                                 dip__is_view_aligned(&job->gate)};
    return dip__run_chunks(stream, work, job->sum.rows, job->sum.columns);
}

/* ---- outer_sum ---- */

struct outer_sum {
    struct dip_cuda_outer_sum j;
    int64_t rows_per_table;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float sum[DIP__CHUNK], table[DIP__CHUNK];
        struct dip__spot from = {at.row % rows_per_table % j.in.rows, at.column, at.count};
        struct dip__spot of_table = {at.row / rows_per_table, at.column, at.count};
        dip__load_spot(sum, j.in, from, is_wide);
        dip__load_spot(table, j.tables, of_table, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            sum[e] = __fadd_rn(sum[e], table[e]);
        dip__store_spot(j.out, at, is_wide, sum);
    }
};

enum dip_status dip_cuda_outer_sum(struct CUstream_st *stream, const struct dip_cuda_outer_sum *job)
{
    struct outer_sum work = {*job, job->out.rows / job->tables.rows,
                             dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in) &&
                                 dip__is_view_aligned(&job->tables)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

/* ---- silu_mul, activate ---- */

struct silu_mul {
    struct dip_cuda_silu_mul j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float gate[DIP__CHUNK], up[DIP__CHUNK];
        dip__load_spot(gate, j.gate, at, is_wide);
        dip__load_spot(up, j.up, at, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            up[e] = dip__silu_f32(gate[e]) * up[e];
        dip__store_spot(j.out, at, is_wide, up);
    }
};

enum dip_status dip_cuda_silu_mul(struct CUstream_st *stream, const struct dip_cuda_silu_mul *job)
{
    struct silu_mul work = {*job, dip__is_view_aligned(&job->out) &&
                                      dip__is_view_aligned(&job->gate) &&
                                      dip__is_view_aligned(&job->up)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

struct activate {
    struct dip_cuda_activate j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float x[DIP__CHUNK];
        dip__load_spot(x, j.in, at, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            x[e] = dip__activate_f32(j.act, x[e]);
        dip__store_spot(j.out, at, is_wide, x);
    }
};

enum dip_status dip_cuda_activate(struct CUstream_st *stream, const struct dip_cuda_activate *job)
{
    struct activate work = {*job,
                            dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
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

struct blend {
    struct dip_cuda_blend j;
    int64_t item_elements;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
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
};

enum dip_status dip_cuda_blend(struct CUstream_st *stream, const struct dip_cuda_blend *job)
{
    int64_t count = count_of(&job->out);
    struct blend work = {*job, count / job->item_count, is_dense_aligned(&job->out)};
    for (int i = 0; i < job->count; i++)
        work.is_wide = work.is_wide && is_dense_aligned(&job->in[i]);
    return dip__run_chunks(stream, work, 1, count);
}

struct guide {
    struct dip_cuda_guide j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float uncond[DIP__CHUNK], cond[DIP__CHUNK];
        dip__load8(uncond, j.uncond.data, j.uncond.dtype, at.column, at.count, is_wide);
        dip__load8(cond, j.cond.data, j.cond.dtype, at.column, at.count, is_wide);
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            cond[e] = dip__guided(uncond[e], cond[e], j.scale);
        dip__store8(j.out.data, j.out.dtype, at.column, at.count, is_wide, cond);
    }
};

enum dip_status dip_cuda_guide(struct CUstream_st *stream, const struct dip_cuda_guide *job)
{
    struct guide work = {*job, is_dense_aligned(&job->out) && is_dense_aligned(&job->uncond) &&
                                   is_dense_aligned(&job->cond)};
    return dip__run_chunks(stream, work, 1, count_of(&job->out));
}

/* ---- cast, fill ---- */

struct cast {
    struct dip_cuda_cast j;
    bool is_wide;

    /* Elements of equal types move as bits. */
    __device__ void move_bits(const struct dip__spot &at, int64_t to, int64_t from) const
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

    __device__ void run(const struct dip__spot &at) const
    {
        bool is_whole = is_wide && at.count == DIP__CHUNK && j.out.dtype == DIP_F32;
        if (j.out.dtype == j.in.dtype && !is_whole) {
            move_bits(at, at.row * j.out.stride + at.column, at.row * j.in.stride + at.column);
            return;
        }
        float x[DIP__CHUNK];
        dip__load_spot(x, j.in, at, is_wide);
        dip__store_spot(j.out, at, is_wide, x);
    }
};

enum dip_status dip_cuda_cast(struct CUstream_st *stream, const struct dip_cuda_cast *job)
{
    struct cast work = {*job, dip__is_view_aligned(&job->out) && dip__is_view_aligned(&job->in)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

struct fill {
    struct dip_cuda_fill j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        int64_t to = at.row * j.out.stride + at.column;
        float x[DIP__CHUNK];
        if (j.out.dtype == DIP_I32 || j.out.dtype == DIP_U8) {
            for (int e = 0; e < at.count; e++) {
                if (j.out.dtype == DIP_I32)
                    ((int32_t *)j.out.data)[to + e] = (int32_t)j.value;
                else
                    ((uint8_t *)j.out.data)[to + e] = (uint8_t)j.value;
            }
            return;
        }
#pragma unroll
        for (int e = 0; e < DIP__CHUNK; e++)
            x[e] = j.value;
        dip__store8(j.out.data, j.out.dtype, to, at.count, is_wide, x);
    }
};

enum dip_status dip_cuda_fill(struct CUstream_st *stream, const struct dip_cuda_fill *job)
{
    struct fill work = {*job, dip__is_view_aligned(&job->out)};
    return dip__run_chunks(stream, work, job->out.rows, job->out.columns);
}

/* ---- check_finite ---- */

struct check_finite {
    struct dip_cuda_check_finite j;
    bool is_wide;

    __device__ void run(const struct dip__spot &at) const
    {
        float x[DIP__CHUNK];
        dip__load_spot(x, j.in, at, is_wide);
        if (dip__is_any_bad(x))
            atomicOr(j.flag, 1u);
    }
};

enum dip_status dip_cuda_check_finite(struct CUstream_st *stream,
                                      const struct dip_cuda_check_finite *job)
{
    struct check_finite work = {*job, dip__is_view_aligned(&job->in)};
    return dip__run_chunks(stream, work, job->in.rows, job->in.columns);
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
        return DIP_UNSUPPORTED;
    return dip__launch(stream, tree_sum_kernel, dim3((unsigned int)blocks), DIP__SPOT_THREADS, 0,
                       *job);
}
