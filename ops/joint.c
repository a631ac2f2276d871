/* ops/joint.c - neighbouring operations that a backend may run at one stroke, out of their parts.
 *
 * Who has an entry gets the call as it is; for who has none it is the plain operations in order, so
 * that a model says once what belongs together and every backend computes the same bits. The parts
 * check what they are given. */
#include "base/assert.h"
#include "ops/device.h"

static enum dip_status normed_parts(struct dip_stream *s, const struct dip_linear_normed_args *a)
{
    int64_t F = dip_tensor_columns(a->out);
    DIP_TRY(dip_norm_rms(s, &(struct dip_norm_rms_args){
                                .out = a->normed, .in = a->in, .weight = a->norm, .eps = a->eps}));
    DIP_TRY(dip_linear(s, &(struct dip_linear_args){.out = a->is_gated ? a->pair : a->out,
                                                    .in = a->normed,
                                                    .weight = a->weight}));
    if (!a->is_gated)
        return DIP_OK;
    return dip_silu_mul(s, &(struct dip_silu_mul_args){.out = a->out,
                                                       .gate = dip_columns_slice(a->pair, 0, F),
                                                       .up = dip_columns_slice(a->pair, F, F)});
}

enum dip_status dip_linear_normed(struct dip_stream *s, const struct dip_linear_normed_args *a)
{
    int64_t rows = dip_tensor_rows(a->in);
    dip_assert(dip_tensor_rows(a->out) == rows);
    dip_assert(dip_tensor_rows(a->normed) == rows);
    dip_assert(dip_tensor_columns(a->normed) == dip_tensor_columns(a->in));
    dip_assert(dip_tensor_columns(a->weight) == dip_tensor_columns(a->in));
    dip_assert(a->weight.dims[0] == dip_tensor_columns(a->out) * (a->is_gated ? 2 : 1));
    if (a->is_gated) {
        dip_assert(dip_tensor_rows(a->pair) == rows);
        dip_assert(dip_tensor_columns(a->pair) == a->weight.dims[0]);
        dip_assert(a->pair.dtype == a->out.dtype);
    }
    return s->device->ops->linear_normed ? s->device->ops->linear_normed(s, a) : normed_parts(s, a);
}

static enum dip_status rope_parts(struct dip_stream *s, const struct dip_qkv_rope_args *a)
{
    int64_t q_width = (int64_t)a->heads * a->head_dim;
    int64_t kv_width = (int64_t)a->kv_heads * a->head_dim;
    struct dip_tensor k = dip_columns_slice(a->qkv, q_width, kv_width);
    struct dip_tensor v = dip_columns_slice(a->qkv, q_width + kv_width, kv_width);
    struct dip_rope_args turn = {.x = dip_columns_slice(a->qkv, 0, q_width),
                                 .weight = a->q_norm,
                                 .rows = a->rows,
                                 .inv_freq = a->inv_freq,
                                 .head_dim = a->head_dim,
                                 .eps = a->eps};
    DIP_TRY(dip_rope(s, &turn));
    turn.x = k;
    turn.weight = a->k_norm;
    DIP_TRY(dip_rope(s, &turn));
    return dip_kv_append(
        s, &(struct dip_kv_append_args){.kv = a->kv, .k = k, .v = v, .rows = a->rows});
}

enum dip_status dip_qkv_rope(struct dip_stream *s, const struct dip_qkv_rope_args *a)
{
    int64_t heads = (int64_t)a->heads + 2 * (int64_t)a->kv_heads;
    dip_assert(dip_tensor_columns(a->qkv) == heads * a->head_dim);
    dip_assert(a->kv.k.dims[2] == (int64_t)a->kv_heads * a->head_dim);
    dip_assert(a->rows);
    dip_assert(a->inv_freq);
    return s->device->ops->qkv_rope ? s->device->ops->qkv_rope(s, a) : rope_parts(s, a);
}
