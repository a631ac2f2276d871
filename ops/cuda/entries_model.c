/* ops/cuda/entries_model.c - CUDA entries: norms, elementwise, the autoregressive panel.
 *
 * Each writes a launcher's job. Arrays that callers keep on the host go through the stream's ring;
 * products are in linear.c. */
#include "ops/cuda/entries.h"

enum dip_status dip__cuda_launched(struct dip_stream *s, enum dip_status status, const char *op)
{
    if (status != DIP_DEVICE)
        return status;
    return dip__cuda_check(s->device, cudaGetLastError(), op);
}

/* ---- memory ---- */

enum dip_status dip__cuda_fill(struct dip_stream *s, struct dip_tensor to, float value)
{
    return DIP__CUDA_LAUNCH(s, fill, .out = dip__cuda_view(to), .value = value);
}

enum dip_status dip__cuda_cast(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from)
{
    return DIP__CUDA_LAUNCH(s, cast, .out = dip__cuda_view(to), .in = dip__cuda_view(from));
}

/* The answer travels with the copies to the host: it is known after the wait. */
enum dip_status dip__cuda_check_finite(struct dip_stream *s, struct dip_tensor t,
                                       bool *ret_is_finite)
{
    uint32_t *flag = NULL;
    DIP_TRY(dip__cuda_flag(s, ret_is_finite, &flag));
    return DIP__CUDA_LAUNCH(s, check_finite, .in = dip__cuda_view(t), .flag = flag);
}

/* ---- linear algebra ---- */

enum dip_status dip__cuda_linear_grouped(struct dip_stream *s,
                                         const struct dip_linear_grouped_args *a)
{
    return DIP__CUDA_LAUNCH(s, linear_grouped, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in), .weight = dip__cuda_param(&a->weight),
                            .group_count = a->groups);
}

enum dip_status dip__cuda_embed(struct dip_stream *s, const struct dip_embed_args *a)
{
    return DIP__CUDA_LAUNCH(s, embed, .out = dip__cuda_view(a->out),
                            .table = dip__cuda_param(&a->table), .ids = a->ids.data,
                            .table_rows = dip_tensor_rows(a->table),
                            .table_stride = a->table.row_stride);
}

/* ---- normalisation, modulation, elementwise ---- */

enum dip_status dip__cuda_norm_rms(struct dip_stream *s, const struct dip_norm_rms_args *a)
{
    int64_t group = a->group ? a->group : dip_tensor_columns(a->in);
    return DIP__CUDA_LAUNCH(s, norm_rms, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .weight = dip__cuda_param(&a->weight), .bias = dip__cuda_param(a->bias),
                            .group = group, .eps = a->eps, .act = (enum dip_kernel_act)a->act,
                            .is_added = a->is_added);
}

enum dip_status dip__cuda_norm_layer(struct dip_stream *s, const struct dip_norm_layer_args *a)
{
    return DIP__CUDA_LAUNCH(s, norm_layer, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in), .scale = dip__cuda_view(a->scale),
                            .shift = dip__cuda_view(a->shift), .rows_per_item = a->rows_per_item,
                            .eps = a->eps);
}

enum dip_status dip__cuda_add(struct dip_stream *s, const struct dip_add_args *a)
{
    struct dip_cuda_view none = {0};
    bool is_per_item = a->gate || a->is_broadcast;
    return DIP__CUDA_LAUNCH(s, add, .sum = dip__cuda_view(a->sum), .x = dip__cuda_view(a->x),
                            .gate = a->gate ? dip__cuda_view(*a->gate) : none,
                            .rows_per_item = is_per_item ? a->rows_per_item : 1,
                            .x_rows_per_item = a->is_broadcast ? a->rows_per_item : 1);
}

enum dip_status dip__cuda_outer_sum(struct dip_stream *s, const struct dip_outer_sum_args *a)
{
    return DIP__CUDA_LAUNCH(s, outer_sum, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in), .tables = dip__cuda_view(a->tables));
}

enum dip_status dip__cuda_silu_mul(struct dip_stream *s, const struct dip_silu_mul_args *a)
{
    return DIP__CUDA_LAUNCH(s, silu_mul, .out = dip__cuda_view(a->out),
                            .gate = dip__cuda_view(a->gate), .up = dip__cuda_view(a->up));
}

enum dip_status dip__cuda_activate(struct dip_stream *s, const struct dip_activate_args *a)
{
    return DIP__CUDA_LAUNCH(s, activate, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .act = (enum dip_kernel_act)a->act);
}

/* Dense views of any rank as one row. */
static struct dip_cuda_view flat(struct dip_tensor t)
{
    int64_t count = dip_tensor_count(t);
    return (struct dip_cuda_view){
        .data = t.data, .dtype = t.dtype, .rows = 1, .columns = count, .stride = count};
}

enum dip_status dip__cuda_blend(struct dip_stream *s, const struct dip_blend_args *a)
{
    int items = a->items > 1 ? a->items : 1;
    STAGE(s, coefficients, a->coefficients, sizeof(float) * (size_t)(a->count * items));
    struct dip_cuda_blend job = {
        .out = flat(a->out), .coefficients = coefficients, .count = a->count, .item_count = items};
    for (int i = 0; i < a->count; i++)
        job.in[i] = flat(a->in[i]);
    return dip__cuda_launched(s, dip_cuda_blend(dip__cuda_stream(s)->stream, &job), "blend");
}

enum dip_status dip__cuda_guide(struct dip_stream *s, const struct dip_guide_args *a)
{
    return DIP__CUDA_LAUNCH(s, guide, .out = flat(a->out), .uncond = flat(a->uncond),
                            .cond = flat(a->cond), .scale = a->scale);
}

enum dip_status dip__cuda_sinusoid(struct dip_stream *s, const struct dip_sinusoid_args *a)
{
    STAGE(s, t, a->t, sizeof(float) * (size_t)dip_tensor_rows(a->out));
    return DIP__CUDA_LAUNCH(s, sinusoid, .out = dip__cuda_view(a->out), .t = t);
}

/* ---- autoregressive attention ---- */

static struct dip_cuda_kv kv_of(const struct dip_kv *kv)
{
    return (struct dip_cuda_kv){
        .k = dip__cuda_view(kv->k), .v = dip__cuda_view(kv->v), .capacity = kv->k.dims[1]};
}

static size_t rows_bytes(struct dip_tensor t)
{
    return sizeof(struct dip_row) * (size_t)dip_tensor_rows(t);
}

enum dip_status dip__cuda_rope(struct dip_stream *s, const struct dip_rope_args *a)
{
    STAGE(s, rows, a->rows, rows_bytes(a->x));
    STAGE(s, inv_freq, a->inv_freq, sizeof(float) * (size_t)(a->head_dim / 2));
    return DIP__CUDA_LAUNCH(s, rope, .x = dip__cuda_view(a->x),
                            .weight = dip__cuda_param(&a->weight), .rows = rows,
                            .inv_freq = inv_freq, .head_dim = a->head_dim, .eps = a->eps);
}

enum dip_status dip__cuda_kv_append(struct dip_stream *s, const struct dip_kv_append_args *a)
{
    STAGE(s, rows, a->rows, rows_bytes(a->k));
    return DIP__CUDA_LAUNCH(s, kv_append, .kv = kv_of(&a->kv), .k = dip__cuda_view(a->k),
                            .v = dip__cuda_view(a->v), .rows = rows);
}

enum dip_status dip__cuda_qkv_rope(struct dip_stream *s, const struct dip_qkv_rope_args *a)
{
    STAGE(s, rows, a->rows, rows_bytes(a->qkv));
    STAGE(s, inv_freq, a->inv_freq, sizeof(float) * (size_t)(a->head_dim / 2));
    return DIP__CUDA_LAUNCH(s, qkv_rope, .qkv = dip__cuda_view(a->qkv), .kv = kv_of(&a->kv),
                            .q_weight = dip__cuda_param(&a->q_norm),
                            .k_weight = dip__cuda_param(&a->k_norm), .rows = rows,
                            .inv_freq = inv_freq, .head_count = a->heads,
                            .kv_head_count = a->kv_heads, .head_dim = a->head_dim, .eps = a->eps);
}

enum dip_status dip__cuda_attend(struct dip_stream *s, const struct dip_attend_args *a)
{
    STAGE(s, rows, a->rows, rows_bytes(a->q));
    return DIP__CUDA_LAUNCH(s, attend, .out = dip__cuda_view(a->out), .q = dip__cuda_view(a->q),
                            .kv = kv_of(&a->kv), .rows = rows, .head_count = a->heads,
                            .kv_head_count = a->kv_heads, .head_dim = a->head_dim,
                            .scratch = dip__cuda_stream(s)->scratch);
}

/* ---- sampling ---- */

enum dip_status dip__cuda_sample(struct dip_stream *s, const struct dip_sample_args *a)
{
    STAGE(s, draws, a->draws, sizeof *a->draws * (size_t)dip_tensor_rows(a->logits));
    return DIP__CUDA_LAUNCH(s, sample, .ids = a->ids.data, .logits = dip__cuda_view(a->logits),
                            .draws = draws, .scratch = dip__cuda_stream(s)->scratch);
}

enum dip_status dip__cuda_sample_select(struct dip_stream *s,
                                        const struct dip_sample_select_args *a)
{
    STAGE(s, draws, a->draws, sizeof *a->draws * (size_t)dip_tensor_rows(a->logits));
    return DIP__CUDA_LAUNCH(s, sample_select, .found = a->found.data,
                            .logits = dip__cuda_view(a->logits), .draws = draws,
                            .room = dip_tensor_columns(a->found) / 2,
                            .found_stride = a->found.row_stride, .first_id = a->first_id,
                            .scratch = dip__cuda_stream(s)->scratch);
}

enum dip_status dip__cuda_sample_merge(struct dip_stream *s, const struct dip_sample_merge_args *a)
{
    int64_t rows = dip_tensor_count(a->ids);
    STAGE(s, draws, a->draws, sizeof *a->draws * (size_t)rows);
    return DIP__CUDA_LAUNCH(
        s, sample_merge, .ids = a->ids.data, .found = a->found.data, .draws = draws,
        .row_count = rows, .rank_count = dip_tensor_rows(a->found),
        .rank_stride = a->found.row_stride, .room = dip_tensor_columns(a->found) / rows / 2,
        .scratch = dip__cuda_stream(s)->scratch);
}
