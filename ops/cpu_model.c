/* ops/cpu_model.c - CPU entries: products, norms, elementwise, the autoregressive panel.
 *
 * Each entry writes a job, says how many units it has and roughly what one costs. */
#include "ops/cpu.h"

#include <assert.h>

static_assert((int)DIP_KERNEL_ACT_NONE == (int)DIP_ACT_NONE, "activations agree");
static_assert((int)DIP_KERNEL_ACT_SILU == (int)DIP_ACT_SILU, "activations agree");
static_assert((int)DIP_KERNEL_ACT_GELU_TANH == (int)DIP_ACT_GELU_TANH, "activations agree");
static_assert((int)DIP_KERNEL_ACT_RELU == (int)DIP_ACT_RELU, "activations agree");
static_assert(sizeof(struct dip_kernel_row) == sizeof(struct dip_row), "rows agree");
static_assert(sizeof(struct dip_kernel_draw) == sizeof(struct dip_draw), "draws agree");
static_assert((int)DIP_KERNEL_BLEND_MAX == (int)DIP_BLEND_MAX, "blends agree");
static_assert((int)DIP_KERNEL_VOCAB_MAX == (int)DIP_VOCAB_MAX, "vocabularies agree");

/* ---- linear algebra ---- */

enum { LINEAR_UNIT_ROWS = 96, LINEAR_UNIT_COLUMNS = 128, LINEAR_DIRECT_ROWS = 3 };

/* Rows in equal blocks of a multiple of three, the height of a tile; then columns as wide as leaves
 * a few units to every thread. */
static void cut_linear(struct dip_job_linear *job, int threads)
{
    int64_t blocks = dip__pieces(job->row_count, LINEAR_UNIT_ROWS);
    int64_t rows = dip__pieces(job->row_count, blocks);
    if (blocks > 1)
        rows = dip__pieces(rows, 3) * 3 > LINEAR_UNIT_ROWS ? LINEAR_UNIT_ROWS
                                                           : dip__pieces(rows, 3) * 3;
    job->unit_rows = rows;
    job->unit_columns = LINEAR_UNIT_COLUMNS;
    blocks = dip__pieces(job->row_count, rows);
    while (job->unit_columns > 8 &&
           blocks * dip__pieces(job->out_count, job->unit_columns) < 8 * (int64_t)threads)
        job->unit_columns /= 2;
}

enum dip_status dip__cpu_linear(struct dip_stream *s, const struct dip_linear_args *a)
{
    struct dip_job_linear job = {
        .out = a->out.data,
        .in = a->in.data,
        .weight = dip__param(&a->weight),
        .bias = dip__param(a->bias),
        .row_count = dip_tensor_rows(a->in),
        .out_count = a->weight.dims[0],
        .in_count = dip_tensor_columns(a->in),
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .chunk_count = a->chunk_count ? a->chunk_count : 1,
        .act = (enum dip_kernel_act)a->act,
        .is_added = a->is_added,
    };
    if (job.chunk_count > DIP_KERNEL_LINEAR_CHUNKS_MAX)
        return DIP_UNSUPPORTED;
    job.weight_stride = a->weight.rank == 2 ? a->weight.row_stride : job.in_count;
    cut_linear(&job, s->device->threads);
    double weights = (double)(job.unit_columns * job.in_count);
    double unit_ns = dip__flops_ns(2.0 * weights * (double)job.unit_rows) +
                     dip__bytes_ns(weights * (double)dip_dtype_bytes(a->weight.dtype));
    int64_t units =
        dip__pieces(job.row_count, job.unit_rows) * dip__pieces(job.out_count, job.unit_columns);
    dip__cpu_run(s, s->device->kernels->linear, &job, units, unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_linear_grouped(struct dip_stream *s,
                                        const struct dip_linear_grouped_args *a)
{
    struct dip_job_linear_grouped job = {
        .out = a->out.data,
        .in = a->in.data,
        .weight = dip__param(&a->weight),
        .row_count = dip_tensor_rows(a->in),
        .group_count = a->groups,
        .out_per_group = dip_tensor_columns(a->out) / a->groups,
        .in_per_group = dip_tensor_columns(a->in) / a->groups,
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .unit_rows = 48,
    };
    /* Weights too many for the fast kernel's panels: decided by sizes alone. */
    int64_t panels = job.group_count * dip__pieces(job.out_per_group, 16) * 16 * job.in_per_group;
    const struct dip__cpu_kernels *kernels = panels > DIP_KERNEL_GROUPED_PANELS_MAX
                                                 ? dip__cpu_kernels(DIP__CPU_PLAIN)
                                                 : s->device->kernels;
    double unit_ns = dip__flops_ns(2.0 * (double)(job.unit_rows * dip_tensor_columns(a->out)) *
                                   (double)job.in_per_group);
    int64_t units = dip__pieces(job.row_count, job.unit_rows);
    dip__cpu_run(s, kernels->linear_grouped, &job, units, unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_embed(struct dip_stream *s, const struct dip_embed_args *a)
{
    struct dip_job_embed job = {
        .out = a->out.data,
        .table = dip__param(&a->table),
        .ids = a->ids.data,
        .column_count = dip_tensor_columns(a->table),
        .out_stride = a->out.row_stride,
        .table_stride = a->table.row_stride,
    };
    dip__cpu_run(s, s->device->kernels->embed, &job, dip_tensor_count(a->ids),
                 dip__bytes_ns(8.0 * (double)job.column_count));
    return DIP_OK;
}

/* ---- normalisation, modulation, elementwise ---- */

enum dip_status dip__cpu_norm_rms(struct dip_stream *s, const struct dip_norm_rms_args *a)
{
    int64_t columns = dip_tensor_columns(a->in);
    struct dip_job_norm_rms job = {
        .out = a->out.data,
        .in = a->in.data,
        .weight = dip__param(&a->weight),
        .bias = dip__param(a->bias),
        .column_count = columns,
        .group = a->group ? a->group : columns,
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .eps = a->eps,
        .act = (enum dip_kernel_act)a->act,
        .is_added = a->is_added,
    };
    dip__cpu_run(s, s->device->kernels->norm_rms, &job, dip_tensor_rows(a->in),
                 dip__bytes_ns(8.0 * (double)columns));
    return DIP_OK;
}

enum dip_status dip__cpu_norm_layer(struct dip_stream *s, const struct dip_norm_layer_args *a)
{
    struct dip_job_norm_layer job = {
        .out = a->out.data,
        .in = a->in.data,
        .scale = a->scale.data,
        .shift = a->shift.data,
        .column_count = dip_tensor_columns(a->in),
        .rows_per_item = a->rows_per_item,
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .scale_stride = a->scale.row_stride,
        .shift_stride = a->shift.row_stride,
        .eps = a->eps,
    };
    dip__cpu_run(s, s->device->kernels->norm_layer, &job, dip_tensor_rows(a->in),
                 dip__bytes_ns(8.0 * (double)job.column_count));
    return DIP_OK;
}

enum dip_status dip__cpu_add(struct dip_stream *s, const struct dip_add_args *a)
{
    bool is_per_item = a->gate || a->is_broadcast;
    struct dip_job_add job = {
        .sum = a->sum.data,
        .x = a->x.data,
        .gate = a->gate ? a->gate->data : NULL,
        .column_count = dip_tensor_columns(a->sum),
        .rows_per_item = is_per_item ? a->rows_per_item : 1,
        .x_rows_per_item = a->is_broadcast ? a->rows_per_item : 1,
        .sum_stride = a->sum.row_stride,
        .x_stride = a->x.row_stride,
        .gate_stride = a->gate ? a->gate->row_stride : 0,
    };
    dip__cpu_run(s, s->device->kernels->add, &job, dip_tensor_rows(a->sum),
                 dip__bytes_ns(12.0 * (double)job.column_count));
    return DIP_OK;
}

enum dip_status dip__cpu_silu_mul(struct dip_stream *s, const struct dip_silu_mul_args *a)
{
    struct dip_job_silu_mul job = {
        .out = a->out.data,
        .gate = a->gate.data,
        .up = a->up.data,
        .column_count = dip_tensor_columns(a->out),
        .out_stride = a->out.row_stride,
        .gate_stride = a->gate.row_stride,
        .up_stride = a->up.row_stride,
    };
    dip__cpu_run(s, s->device->kernels->silu_mul, &job, dip_tensor_rows(a->out),
                 dip__bytes_ns(16.0 * (double)job.column_count));
    return DIP_OK;
}

enum dip_status dip__cpu_activate(struct dip_stream *s, const struct dip_activate_args *a)
{
    struct dip_job_activate job = {
        .out = a->out.data,
        .in = a->in.data,
        .column_count = dip_tensor_columns(a->in),
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .act = (enum dip_kernel_act)a->act,
    };
    dip__cpu_run(s, s->device->kernels->activate, &job, dip_tensor_rows(a->in),
                 dip__bytes_ns(12.0 * (double)job.column_count));
    return DIP_OK;
}

enum dip_status dip__cpu_blend(struct dip_stream *s, const struct dip_blend_args *a)
{
    int64_t count = dip_tensor_count(a->out);
    int items = a->items > 1 ? a->items : 1;
    struct dip_job_blend job = {
        .out = a->out.data,
        .coefficients = a->coefficients,
        .item_elements = count / items,
        .count = a->count,
        .item_count = items,
    };
    for (int i = 0; i < a->count; i++)
        job.in[i] = a->in[i].data;
    dip__cpu_run(s, s->device->kernels->blend, &job, count, dip__bytes_ns(4.0 * (a->count + 1)));
    return DIP_OK;
}

enum dip_status dip__cpu_guide(struct dip_stream *s, const struct dip_guide_args *a)
{
    struct dip_job_guide job = {
        .out = a->out.data, .uncond = a->uncond.data, .cond = a->cond.data, .scale = a->scale};
    dip__cpu_run(s, s->device->kernels->guide, &job, dip_tensor_count(a->out), dip__bytes_ns(12.0));
    return DIP_OK;
}

enum dip_status dip__cpu_sinusoid(struct dip_stream *s, const struct dip_sinusoid_args *a)
{
    struct dip_job_sinusoid job = {.out = a->out.data,
                                   .t = a->t,
                                   .half = dip_tensor_columns(a->out) / 2,
                                   .out_stride = a->out.row_stride};
    dip__cpu_run(s, s->device->kernels->sinusoid, &job, dip_tensor_rows(a->out),
                 40.0 * (double)job.half);
    return DIP_OK;
}

/* ---- autoregressive attention ---- */

enum dip_status dip__cpu_rope(struct dip_stream *s, const struct dip_rope_args *a)
{
    struct dip_job_rope job = {
        .x = a->x.data,
        .weight = dip__param(&a->weight),
        .rows = (const struct dip_kernel_row *)a->rows,
        .inv_freq = a->inv_freq,
        .head_count = dip_tensor_columns(a->x) / a->head_dim,
        .head_dim = a->head_dim,
        .x_stride = a->x.row_stride,
        .eps = a->eps,
    };
    if (job.head_dim > DIP_KERNEL_HEAD_DIM_MAX)
        return DIP_UNSUPPORTED;
    dip__cpu_run(s, s->device->kernels->rope, &job, dip_tensor_rows(a->x),
                 10.0 * (double)a->head_dim +
                     dip__bytes_ns(8.0 * (double)dip_tensor_columns(a->x)));
    return DIP_OK;
}

enum dip_status dip__cpu_kv_append(struct dip_stream *s, const struct dip_kv_append_args *a)
{
    struct dip_job_kv_append job = {
        .k_cache = a->kv.k.data,
        .v_cache = a->kv.v.data,
        .k = a->k.data,
        .v = a->v.data,
        .rows = (const struct dip_kernel_row *)a->rows,
        .column_count = dip_tensor_columns(a->k),
        .k_stride = a->k.row_stride,
        .v_stride = a->v.row_stride,
        .k_cache_stride = a->kv.k.row_stride,
        .v_cache_stride = a->kv.v.row_stride,
        .capacity = a->kv.k.dims[1],
    };
    dip__cpu_run(s, s->device->kernels->kv_append, &job, dip_tensor_rows(a->k),
                 dip__bytes_ns(16.0 * (double)job.column_count));
    return DIP_OK;
}

enum dip_status dip__cpu_attend(struct dip_stream *s, const struct dip_attend_args *a)
{
    int64_t rows = dip_tensor_rows(a->q);
    struct dip_job_attend job = {
        .out = a->out.data,
        .q = a->q.data,
        .k_cache = a->kv.k.data,
        .v_cache = a->kv.v.data,
        .rows = (const struct dip_kernel_row *)a->rows,
        .head_count = a->heads,
        .kv_head_count = a->kv_heads,
        .head_dim = a->head_dim,
        .out_stride = a->out.row_stride,
        .q_stride = a->q.row_stride,
        .k_cache_stride = a->kv.k.row_stride,
        .v_cache_stride = a->kv.v.row_stride,
        .capacity = a->kv.k.dims[1],
    };
    if (job.head_dim > DIP_KERNEL_HEAD_DIM_MAX)
        return DIP_UNSUPPORTED;
    double keys = 0.0;
    for (int64_t r = 0; r < rows; r++)
        keys += a->rows[r].position + 1;
    double unit_ns = keys / (double)rows * dip__bytes_ns(8.0 * (double)job.head_dim);
    dip__cpu_run(s, s->device->kernels->attend, &job, rows * a->kv_heads, unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_sample(struct dip_stream *s, const struct dip_sample_args *a)
{
    struct dip_job_sample job = {
        .ids = a->ids.data,
        .logits = a->logits.data,
        .draws = (const struct dip_kernel_draw *)a->draws,
        .vocab_count = dip_tensor_columns(a->logits),
        .logits_stride = a->logits.row_stride,
    };
    dip__cpu_run(s, s->device->kernels->sample, &job, dip_tensor_rows(a->logits),
                 dip__bytes_ns(8.0 * (double)job.vocab_count));
    return DIP_OK;
}

static_assert((int)DIP_SAMPLE_RANKS_MAX <= (int)DIP_KERNEL_SAMPLE_RANKS_MAX, "a merge holds them");

enum dip_status dip__cpu_sample_select(struct dip_stream *s, const struct dip_sample_select_args *a)
{
    struct dip_job_sample_select job = {
        .found = a->found.data,
        .logits = a->logits.data,
        .draws = (const struct dip_kernel_draw *)a->draws,
        .vocab_count = dip_tensor_columns(a->logits),
        .logits_stride = a->logits.row_stride,
        .room = dip_tensor_columns(a->found) / 2,
        .found_stride = a->found.row_stride,
        .first_id = a->first_id,
    };
    dip__cpu_run(s, s->device->kernels->sample_select, &job, dip_tensor_rows(a->logits),
                 dip__bytes_ns(8.0 * (double)job.vocab_count));
    return DIP_OK;
}

enum dip_status dip__cpu_sample_merge(struct dip_stream *s, const struct dip_sample_merge_args *a)
{
    int64_t rows = dip_tensor_count(a->ids);
    struct dip_job_sample_merge job = {
        .ids = a->ids.data,
        .found = a->found.data,
        .draws = (const struct dip_kernel_draw *)a->draws,
        .rank_count = dip_tensor_rows(a->found),
        .rank_stride = a->found.row_stride,
        .room = dip_tensor_columns(a->found) / rows / 2,
    };
    /* Candidates with their weights must fit in a kernel's scratch. */
    if (job.rank_count * job.room > DIP_KERNEL_VOCAB_MAX)
        return DIP_UNSUPPORTED;
    dip__cpu_run(s, s->device->kernels->sample_merge, &job, rows,
                 dip__bytes_ns(16.0 * (double)(job.rank_count * job.room)));
    return DIP_OK;
}
