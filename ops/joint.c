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

static enum dip_status sum_parts(struct dip_stream *s, const struct dip_outer_sum_args *a,
                                 int64_t rows)
{
    int64_t batch = dip_tensor_rows(a->in);
    for (int64_t t = 0; t < dip_tensor_rows(a->tables); t++) {
        for (int64_t row = 0; row < rows; row += batch)
            DIP_TRY(dip_copy(s, dip_rows_slice(a->out, t * rows + row, batch), a->in));
        DIP_TRY(dip_add(s, &(struct dip_add_args){.sum = dip_rows_slice(a->out, t * rows, rows),
                                                  .x = dip_rows_slice(a->tables, t, 1),
                                                  .rows_per_item = rows,
                                                  .is_broadcast = true}));
    }
    return DIP_OK;
}

enum dip_status dip_outer_sum(struct dip_stream *s, const struct dip_outer_sum_args *a)
{
    int64_t columns = dip_tensor_columns(a->out);
    int64_t rows = dip_tensor_rows(a->out) / dip_tensor_rows(a->tables);
    dip_assert(dip_tensor_columns(a->in) == columns);
    dip_assert(dip_tensor_columns(a->tables) == columns);
    dip_assert(rows % dip_tensor_rows(a->in) == 0);
    dip_assert(rows * dip_tensor_rows(a->tables) == dip_tensor_rows(a->out));
    dip_assert(a->out.dtype == DIP_F32 && a->in.dtype == DIP_F32 && a->tables.dtype == DIP_F32);
    dip_assert(dip_tensor_is_dense(a->out));
    return s->device->ops->outer_sum ? s->device->ops->outer_sum(s, a) : sum_parts(s, a, rows);
}

static enum dip_status attend_parts(struct dip_stream *s, const struct dip_attend_contexts_args *a,
                                    int64_t items)
{
    int64_t columns = dip_tensor_columns(a->q);
    for (int64_t i = 0; i < items; i++) {
        const struct dip_cross_context *c = &a->contexts[i];
        int64_t first = i * a->rows_per_item;
        int64_t rows = (a->block + 1) * c->row_count;
        struct dip_tensor k = dip_rows(c->k, a->q.dtype, rows, columns);
        struct dip_tensor v = dip_rows(c->v, a->q.dtype, rows, columns);
        DIP_TRY(
            dip_attend_cross(s, &(struct dip_attend_cross_args){
                                    .out = dip_rows_slice(a->out, first, a->rows_per_item),
                                    .q = dip_rows_slice(a->q, first, a->rows_per_item),
                                    .k = dip_rows_slice(k, a->block * c->row_count, c->row_count),
                                    .v = dip_rows_slice(v, a->block * c->row_count, c->row_count),
                                    .heads = a->heads,
                                    .head_dim = a->head_dim}));
    }
    return DIP_OK;
}

enum dip_status dip_attend_contexts(struct dip_stream *s, const struct dip_attend_contexts_args *a)
{
    dip_assert(a->rows_per_item > 0);
    int64_t items = dip_tensor_rows(a->q) / a->rows_per_item;
    dip_assert(items * a->rows_per_item == dip_tensor_rows(a->q));
    dip_assert(dip_tensor_rows(a->out) == dip_tensor_rows(a->q));
    dip_assert(dip_tensor_columns(a->q) == (int64_t)a->heads * a->head_dim);
    dip_assert(dip_tensor_columns(a->out) == dip_tensor_columns(a->q));
    dip_assert(a->contexts);
    dip_assert(a->block >= 0);
    return s->device->ops->attend_contexts ? s->device->ops->attend_contexts(s, a)
                                           : attend_parts(s, a, items);
}

/* ---- a sampler's step: the parts read what the host can, so they are for its memory alone ---- */

static struct dip_tensor row_of(struct dip_tensor t, int64_t row)
{
    return dip_rows_slice(t, row, 1);
}

static struct dip_tensor as_row(float *data, struct dip_tensor like)
{
    return dip_rows(data, DIP_F32, 1, dip_tensor_columns(like));
}

static enum dip_status begin_parts(struct dip_stream *s, const struct dip_sampler_begin_args *a)
{
    for (int64_t b = 0; b < dip_tensor_rows(a->latent); b++) {
        DIP_TRY(dip_copy(s, row_of(a->latent, b), as_row(a->items[b].latent, a->latent)));
        a->t[b] = a->items[b].timestep;
        a->is_bad[b] = 0;
    }
    return DIP_OK;
}

enum dip_status dip_sampler_begin(struct dip_stream *s, const struct dip_sampler_begin_args *a)
{
    dip_assert(a->latent.dtype == DIP_F32);
    dip_assert(dip_tensor_is_dense(a->latent));
    dip_assert(a->items);
    dip_assert(a->t);
    dip_assert(a->is_bad);
    if (s->device->ops->sampler_begin)
        return s->device->ops->sampler_begin(s, a);
    return dip_device_reads_host(s->device) ? begin_parts(s, a) : DIP_UNSUPPORTED;
}

static enum dip_status blend(struct dip_stream *s, struct dip_tensor out, int count,
                             const struct dip_tensor *in, const float *coefficients)
{
    struct dip_blend_args args = {
        .out = out, .coefficients = coefficients, .count = count, .items = 1};
    for (int i = 0; i < count; i++)
        args.in[i] = in[i];
    return dip_blend(s, &args);
}

static enum dip_status step_parts(struct dip_stream *s, const struct dip_sampler_item *item,
                                  struct dip_tensor velocity, bool *ret_is_finite)
{
    struct dip_tensor latent = as_row(item->latent, velocity);
    struct dip_tensor clean = as_row(item->clean, velocity);
    const struct dip_tensor flow[] = {latent, velocity};
    const struct dip_tensor estimates[] = {latent, clean, as_row(item->clean_previous, velocity)};
    const float to_clean[] = {1.0f, item->to_clean};
    DIP_TRY(blend(s, clean, 2, flow, to_clean));
    if (item->rule == DIP_SAMPLER_STRAIGHT)
        DIP_TRY(blend(s, latent, 2, flow, item->c));
    else
        DIP_TRY(blend(s, latent, item->rule == DIP_SAMPLER_SECOND ? 3 : 2, estimates, item->c));
    return dip_check_finite(s, latent, ret_is_finite);
}

static enum dip_status end_parts(struct dip_stream *s, const struct dip_sampler_end_args *a)
{
    for (int64_t b = 0; b < dip_tensor_rows(a->velocity); b++) {
        const struct dip_sampler_item *item = &a->items[b];
        struct dip_tensor velocity = row_of(a->velocity, b);
        bool is_finite = true;
        if (item->guidance == 1.0f) {
            DIP_TRY(dip_copy(s, velocity, row_of(a->cond, b)));
        } else {
            dip_assert(a->uncond.data);
            DIP_TRY(dip_guide(s, &(struct dip_guide_args){.out = velocity,
                                                          .uncond = row_of(a->uncond, b),
                                                          .cond = row_of(a->cond, b),
                                                          .scale = item->guidance}));
        }
        DIP_TRY(step_parts(s, item, velocity, &is_finite));
        a->is_bad[b] = !is_finite;
    }
    return DIP_OK;
}

enum dip_status dip_sampler_end(struct dip_stream *s, const struct dip_sampler_end_args *a)
{
    int64_t count = dip_tensor_count(a->velocity);
    dip_assert(a->velocity.dtype == DIP_F32 && a->cond.dtype == DIP_F32);
    dip_assert(dip_tensor_is_dense(a->velocity) && dip_tensor_is_dense(a->cond));
    dip_assert(dip_tensor_count(a->cond) == count);
    if (a->uncond.data) {
        dip_assert(a->uncond.dtype == DIP_F32 && dip_tensor_is_dense(a->uncond));
        dip_assert(dip_tensor_count(a->uncond) == count);
    }
    dip_assert(a->items);
    dip_assert(a->is_bad);
    if (s->device->ops->sampler_end)
        return s->device->ops->sampler_end(s, a);
    return dip_device_reads_host(s->device) ? end_parts(s, a) : DIP_UNSUPPORTED;
}
