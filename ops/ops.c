/* ops/ops.c - the checks in front of every backend: shapes, dtypes, aliasing.
 *
 * What fails here is a mistake in our own model code, so it asserts; nothing that comes from
 * outside the process reaches these functions unchecked. */
#include "base/assert.h"
#include "ops/device.h"

/* ---- what checks are made of ---- */

static bool is_view(struct dip_tensor t)
{
    if (!t.data || t.rank < 1 || t.rank > DIP_TENSOR_RANK_MAX)
        return false;
    for (int i = 0; i < t.rank; i++)
        if (t.dims[i] < 1)
            return false;
    return t.row_stride >= dip_tensor_columns(t) || dip_tensor_rows(t) == 1;
}

static bool is_f32(struct dip_tensor t)
{
    return is_view(t) && t.dtype == DIP_F32;
}

/* F32, or what the device keeps between operations. */
static bool is_real(const struct dip_stream *s, struct dip_tensor t)
{
    return is_view(t) && (t.dtype == DIP_F32 || t.dtype == s->device->activation);
}

static bool is_matrix(const struct dip_stream *s, struct dip_tensor t, int64_t rows,
                      int64_t columns)
{
    return is_real(s, t) && dip_tensor_rows(t) == rows && dip_tensor_columns(t) == columns;
}

/* A weight in a stored dtype, `count` elements, dense. */
static bool is_weight(struct dip_tensor t, int64_t count)
{
    bool is_known = t.dtype == DIP_F32 || t.dtype == DIP_BF16 || t.dtype == DIP_F16;
    return is_view(t) && is_known && dip_tensor_is_dense(t) && dip_tensor_count(t) == count;
}

static bool is_optional_weight(const struct dip_tensor *t, int64_t count)
{
    return !t || is_weight(*t, count);
}

static bool is_image(const struct dip_stream *s, struct dip_tensor t, int64_t batch, int64_t height,
                     int64_t width, int64_t channels)
{
    return is_real(s, t) && t.rank == 4 && t.dims[0] == batch && t.dims[1] == height &&
           t.dims[2] == width && t.dims[3] == channels;
}

static bool is_same_view(struct dip_tensor a, struct dip_tensor b)
{
    return a.data == b.data && a.row_stride == b.row_stride;
}

/* Whether two views share an element. Views of one wide buffer that take different columns of the
 * same rows do not. */
static bool is_shared(struct dip_tensor a, struct dip_tensor b)
{
    int64_t size = (int64_t)dip_dtype_bytes(a.dtype);
    int64_t apart = (int64_t)((uintptr_t)b.data - (uintptr_t)a.data);
    int64_t a_bytes = ((dip_tensor_rows(a) - 1) * a.row_stride + dip_tensor_columns(a)) * size;
    int64_t b_bytes = ((dip_tensor_rows(b) - 1) * b.row_stride + dip_tensor_columns(b)) *
                      (int64_t)dip_dtype_bytes(b.dtype);
    if (apart >= a_bytes || -apart >= b_bytes)
        return false;
    if (a.row_stride != b.row_stride || a.dtype != b.dtype)
        return true;
    int64_t stride = a.row_stride * size;
    int64_t offset = (apart % stride + stride) % stride; /* where b's rows start within a's */
    return offset < dip_tensor_columns(a) * size || offset + dip_tensor_columns(b) * size > stride;
}

static bool is_apart_or_same(struct dip_tensor out, struct dip_tensor in)
{
    return is_same_view(out, in) || !is_shared(out, in);
}

static bool is_power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

static int64_t items_of(int64_t rows, int64_t rows_per_item)
{
    dip_assert(rows_per_item > 0);
    return (rows + rows_per_item - 1) / rows_per_item;
}

/* Memory that this function may look into. */
static bool is_host(const struct dip_stream *s, const void *data)
{
    return !s->device->ops->owns || !s->device->ops->owns(s->device, data);
}

/* NULL entries of the table are operations this backend does not have. */
#define DISPATCH(s, op, a) ((s)->device->ops->op ? (s)->device->ops->op(s, a) : DIP_UNSUPPORTED)

/* ---- memory ---- */

enum dip_status dip_wait(struct dip_stream *s)
{
    return s->device->ops->wait(s);
}

enum dip_status dip_copy(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from)
{
    dip_assert(is_view(to));
    dip_assert(is_view(from));
    dip_assert(to.dtype == from.dtype);
    dip_assert(dip_tensor_count(to) == dip_tensor_count(from));
    dip_assert(is_apart_or_same(to, from));
    return s->device->ops->copy(s, to, from);
}

enum dip_status dip_cast(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from)
{
    if (to.dtype == from.dtype)
        return dip_copy(s, to, from);
    dip_assert(is_real(s, to));
    dip_assert(is_real(s, from));
    dip_assert(dip_tensor_rows(to) == dip_tensor_rows(from));
    dip_assert(dip_tensor_columns(to) == dip_tensor_columns(from));
    dip_assert(!is_shared(to, from));
    return s->device->ops->cast ? s->device->ops->cast(s, to, from) : DIP_UNSUPPORTED;
}

const void *dip_stage(struct dip_stream *s, const void *data, size_t bytes)
{
    return s->device->ops->stage ? s->device->ops->stage(s, data, bytes) : data;
}

enum dip_status dip_fill(struct dip_stream *s, struct dip_tensor to, float value)
{
    dip_assert(is_real(s, to));
    return s->device->ops->fill(s, to, value);
}

enum dip_status dip_check_finite(struct dip_stream *s, struct dip_tensor t, bool *ret_is_finite)
{
    dip_assert(is_view(t));
    dip_assert(t.dtype == DIP_F32 || t.dtype == DIP_BF16 || t.dtype == DIP_F16);
    return s->device->ops->check_finite(s, t, ret_is_finite);
}

/* ---- weights ---- */

bool dip_device_reads_host(const struct dip_device *device)
{
    return !device->ops->owns;
}

size_t dip_weight_bytes(const struct dip_device *device, struct dip_tensor weight,
                        enum dip_weight_use use)
{
    dip_assert(is_view(weight));
    dip_assert(device->ops->weight_bytes);
    return device->ops->weight_bytes(device, weight, use);
}

enum dip_status dip_weight_place(struct dip_stream *s, enum dip_weight_use use, void *at,
                                 struct dip_tensor *weight)
{
    dip_assert(is_view(*weight));
    dip_assert(is_host(s, weight->data));
    dip_assert(!is_host(s, at));
    dip_assert(use == DIP_WEIGHT_PLAIN || weight->rank == 4);
    return s->device->ops->weight_place(s, use, at, weight);
}

/* ---- linear algebra ---- */

enum dip_status dip_linear(struct dip_stream *s, const struct dip_linear_args *a)
{
    int64_t rows = dip_tensor_rows(a->in);
    int64_t in_count = dip_tensor_columns(a->in);
    int64_t out_count = a->weight.dims[0];
    int chunk_count = a->chunk_count ? a->chunk_count : 1;
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, rows, out_count));
    dip_assert(is_view(a->weight));
    dip_assert(a->weight.dtype == DIP_F32 || a->weight.dtype == DIP_BF16 ||
               a->weight.dtype == DIP_F16);
    dip_assert(dip_tensor_count(a->weight) == out_count * in_count);
    dip_assert(a->weight.rank == 2 || dip_tensor_is_dense(a->weight));
    dip_assert(is_optional_weight(a->bias, out_count));
    dip_assert(is_power_of_two(chunk_count));
    dip_assert(in_count % chunk_count == 0);
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, linear, a);
}

enum dip_status dip_linear_grouped(struct dip_stream *s, const struct dip_linear_grouped_args *a)
{
    int64_t in_count = dip_tensor_columns(a->in);
    int64_t out_count = dip_tensor_columns(a->out);
    dip_assert(a->groups > 0);
    dip_assert(in_count % a->groups == 0);
    dip_assert(out_count % a->groups == 0);
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, dip_tensor_rows(a->in), out_count));
    dip_assert(is_weight(a->weight, out_count * (in_count / a->groups)));
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, linear_grouped, a);
}

enum dip_status dip_embed(struct dip_stream *s, const struct dip_embed_args *a)
{
    int64_t columns = dip_tensor_columns(a->table);
    dip_assert(is_weight(a->table, dip_tensor_rows(a->table) * columns));
    dip_assert(is_view(a->ids));
    dip_assert(a->ids.dtype == DIP_I32);
    dip_assert(dip_tensor_is_dense(a->ids));
    dip_assert(is_matrix(s, a->out, dip_tensor_count(a->ids), columns));
    return DISPATCH(s, embed, a);
}

/* ---- normalisation, modulation, elementwise ---- */

enum dip_status dip_norm_rms(struct dip_stream *s, const struct dip_norm_rms_args *a)
{
    int64_t columns = dip_tensor_columns(a->in);
    int64_t group = a->group ? a->group : columns;
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, dip_tensor_rows(a->in), columns));
    dip_assert(group > 0);
    dip_assert(columns % group == 0);
    dip_assert(is_weight(a->weight, group));
    dip_assert(is_optional_weight(a->bias, group));
    dip_assert(a->act == DIP_ACT_NONE || a->act == DIP_ACT_RELU);
    dip_assert(a->is_added ? !is_shared(a->out, a->in) : is_apart_or_same(a->out, a->in));
    return DISPATCH(s, norm_rms, a);
}

enum dip_status dip_norm_layer(struct dip_stream *s, const struct dip_norm_layer_args *a)
{
    int64_t rows = dip_tensor_rows(a->in);
    int64_t columns = dip_tensor_columns(a->in);
    int64_t items = items_of(rows, a->rows_per_item);
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, rows, columns));
    dip_assert(is_matrix(s, a->scale, items, columns));
    dip_assert(is_matrix(s, a->shift, items, columns));
    dip_assert(is_apart_or_same(a->out, a->in));
    return DISPATCH(s, norm_layer, a);
}

enum dip_status dip_add(struct dip_stream *s, const struct dip_add_args *a)
{
    int64_t rows = dip_tensor_rows(a->sum);
    int64_t columns = dip_tensor_columns(a->sum);
    bool is_per_item = a->gate || a->is_broadcast;
    int64_t items = is_per_item ? items_of(rows, a->rows_per_item) : 1;
    dip_assert(is_real(s, a->sum));
    dip_assert(is_matrix(s, a->x, a->is_broadcast ? items : rows, columns));
    dip_assert(!a->gate || is_matrix(s, *a->gate, items, columns));
    dip_assert(a->is_broadcast ? !is_shared(a->sum, a->x) : is_apart_or_same(a->sum, a->x));
    return DISPATCH(s, add, a);
}

enum dip_status dip_silu_mul(struct dip_stream *s, const struct dip_silu_mul_args *a)
{
    int64_t rows = dip_tensor_rows(a->out);
    int64_t columns = dip_tensor_columns(a->out);
    dip_assert(is_real(s, a->out));
    dip_assert(is_matrix(s, a->gate, rows, columns));
    dip_assert(is_matrix(s, a->up, rows, columns));
    dip_assert(is_apart_or_same(a->out, a->gate));
    dip_assert(is_apart_or_same(a->out, a->up));
    return DISPATCH(s, silu_mul, a);
}

enum dip_status dip_activate(struct dip_stream *s, const struct dip_activate_args *a)
{
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, dip_tensor_rows(a->in), dip_tensor_columns(a->in)));
    dip_assert(is_apart_or_same(a->out, a->in));
    return DISPATCH(s, activate, a);
}

static bool is_dense_f32(struct dip_tensor t, int64_t count)
{
    return is_f32(t) && dip_tensor_is_dense(t) && dip_tensor_count(t) == count;
}

enum dip_status dip_blend(struct dip_stream *s, const struct dip_blend_args *a)
{
    int64_t count = dip_tensor_count(a->out);
    dip_assert(is_real(s, a->out));
    dip_assert(dip_tensor_is_dense(a->out));
    dip_assert(a->count >= 1);
    dip_assert(a->count <= DIP_BLEND_MAX);
    dip_assert(a->coefficients);
    dip_assert(a->items <= 1 || count % a->items == 0);
    for (int i = 0; i < a->count; i++) {
        dip_assert(is_dense_f32(a->in[i], count));
        dip_assert(a->in[i].data == a->out.data || !is_shared(a->out, a->in[i]));
    }
    return DISPATCH(s, blend, a);
}

enum dip_status dip_guide(struct dip_stream *s, const struct dip_guide_args *a)
{
    int64_t count = dip_tensor_count(a->out);
    dip_assert(is_dense_f32(a->out, count));
    dip_assert(is_dense_f32(a->uncond, count));
    dip_assert(is_dense_f32(a->cond, count));
    dip_assert(a->out.data == a->uncond.data || !is_shared(a->out, a->uncond));
    dip_assert(a->out.data == a->cond.data || !is_shared(a->out, a->cond));
    return DISPATCH(s, guide, a);
}

enum dip_status dip_sinusoid(struct dip_stream *s, const struct dip_sinusoid_args *a)
{
    dip_assert(is_real(s, a->out));
    dip_assert(dip_tensor_columns(a->out) % 2 == 0);
    dip_assert(a->t);
    return DISPATCH(s, sinusoid, a);
}

/* ---- autoregressive attention ---- */

enum dip_status dip_rope(struct dip_stream *s, const struct dip_rope_args *a)
{
    dip_assert(is_real(s, a->x));
    dip_assert(a->head_dim > 0);
    dip_assert(a->head_dim % 2 == 0);
    dip_assert(dip_tensor_columns(a->x) % a->head_dim == 0);
    dip_assert(is_weight(a->weight, a->head_dim));
    dip_assert(a->rows);
    dip_assert(a->inv_freq);
    return DISPATCH(s, rope, a);
}

static bool is_cache(const struct dip_stream *s, const struct dip_kv *kv, int64_t columns)
{
    return is_real(s, kv->k) && is_real(s, kv->v) && kv->k.rank == 3 && kv->v.rank == 3 &&
           kv->k.dims[0] == kv->v.dims[0] && kv->k.dims[1] == kv->v.dims[1] &&
           kv->k.dims[2] == columns && kv->v.dims[2] == columns;
}

static bool are_rows_inside(const struct dip_stream *s, const struct dip_kv *kv,
                            const struct dip_row *rows, int64_t count)
{
    if (!is_host(s, rows))
        return rows != NULL; /* who staged them has checked them */
    for (int64_t r = 0; r < count; r++)
        if (rows[r].slot < 0 || rows[r].slot >= kv->k.dims[0] || rows[r].position < 0 ||
            rows[r].position >= kv->k.dims[1])
            return false;
    return true;
}

enum dip_status dip_kv_append(struct dip_stream *s, const struct dip_kv_append_args *a)
{
    int64_t rows = dip_tensor_rows(a->k);
    int64_t columns = dip_tensor_columns(a->k);
    dip_assert(is_real(s, a->k));
    dip_assert(is_matrix(s, a->v, rows, columns));
    dip_assert(is_cache(s, &a->kv, columns));
    dip_assert(are_rows_inside(s, &a->kv, a->rows, rows));
    return DISPATCH(s, kv_append, a);
}

enum dip_status dip_attend(struct dip_stream *s, const struct dip_attend_args *a)
{
    int64_t rows = dip_tensor_rows(a->q);
    int64_t columns = (int64_t)a->heads * a->head_dim;
    dip_assert(a->kv_heads > 0);
    dip_assert(a->heads % a->kv_heads == 0);
    dip_assert(is_matrix(s, a->q, rows, columns));
    dip_assert(is_matrix(s, a->out, rows, columns));
    dip_assert(is_cache(s, &a->kv, (int64_t)a->kv_heads * a->head_dim));
    dip_assert(are_rows_inside(s, &a->kv, a->rows, rows));
    dip_assert(!is_shared(a->out, a->q));
    return DISPATCH(s, attend, a);
}

static void check_ids(struct dip_tensor ids, int64_t rows)
{
    dip_assert(is_view(ids));
    dip_assert(ids.dtype == DIP_I32);
    dip_assert(dip_tensor_is_dense(ids));
    dip_assert(dip_tensor_count(ids) == rows);
}

static void check_draws(const struct dip_stream *s, const struct dip_draw *draws, int64_t rows)
{
    if (!is_host(s, draws))
        return;
    for (int64_t r = 0; r < rows; r++) {
        dip_assert(draws[r].temperature > 0.0f);
        dip_assert(draws[r].top_k >= 0);
        dip_assert(draws[r].top_p > 0.0f);
        dip_assert(draws[r].uniform >= 0.0f);
        dip_assert(draws[r].uniform < 1.0f);
    }
}

enum dip_status dip_sample(struct dip_stream *s, const struct dip_sample_args *a)
{
    int64_t rows = dip_tensor_rows(a->logits);
    int64_t vocab = dip_tensor_columns(a->logits);
    dip_assert(is_f32(a->logits));
    dip_assert(vocab <= DIP_VOCAB_MAX);
    check_ids(a->ids, rows);
    check_draws(s, a->draws, rows);
    return DISPATCH(s, sample, a);
}

enum dip_status dip_sample_select(struct dip_stream *s, const struct dip_sample_select_args *a)
{
    int64_t rows = dip_tensor_rows(a->logits);
    dip_assert(is_f32(a->logits));
    dip_assert(a->first_id >= 0);
    dip_assert(a->first_id + dip_tensor_columns(a->logits) <= DIP_VOCAB_MAX);
    dip_assert(is_view(a->found));
    dip_assert(a->found.dtype == DIP_I32);
    dip_assert(dip_tensor_rows(a->found) == rows);
    dip_assert(dip_tensor_columns(a->found) % 2 == 1);
    dip_assert(dip_tensor_columns(a->found) > 1);
    check_draws(s, a->draws, rows);
    return DISPATCH(s, sample_select, a);
}

enum dip_status dip_sample_merge(struct dip_stream *s, const struct dip_sample_merge_args *a)
{
    int64_t rows = dip_tensor_count(a->ids);
    int64_t columns = dip_tensor_columns(a->found);
    check_ids(a->ids, rows);
    dip_assert(is_view(a->found));
    dip_assert(a->found.dtype == DIP_I32);
    dip_assert(dip_tensor_rows(a->found) <= DIP_SAMPLE_RANKS_MAX);
    dip_assert(columns % rows == 0);
    dip_assert(columns / rows % 2 == 1);
    dip_assert(columns / rows > 1);
    check_draws(s, a->draws, rows);
    return DISPATCH(s, sample_merge, a);
}

/* ---- attention of the diffusion half ---- */

enum dip_status dip_attend_cross(struct dip_stream *s, const struct dip_attend_cross_args *a)
{
    int64_t columns = (int64_t)a->heads * a->head_dim;
    int64_t rows = dip_tensor_rows(a->q);
    int64_t keys = dip_tensor_rows(a->k);
    dip_assert(is_matrix(s, a->q, rows, columns));
    dip_assert(is_matrix(s, a->out, rows, columns));
    dip_assert(is_matrix(s, a->k, keys, columns));
    dip_assert(is_matrix(s, a->v, keys, columns));
    dip_assert(!is_shared(a->out, a->q));
    dip_assert(!is_shared(a->out, a->k));
    dip_assert(!is_shared(a->out, a->v));
    return DISPATCH(s, attend_cross, a);
}

enum dip_status dip_attend_linear(struct dip_stream *s, const struct dip_attend_linear_args *a)
{
    int64_t rows = dip_tensor_rows(a->q);
    int64_t columns = (int64_t)(a->heads - 1) * a->head_stride + a->head_dim;
    dip_assert(a->heads > 0);
    dip_assert(a->head_stride >= a->head_dim);
    dip_assert(a->rows_per_item > 0);
    dip_assert(rows % a->rows_per_item == 0);
    dip_assert(is_real(s, a->q));
    dip_assert(is_real(s, a->k));
    dip_assert(is_real(s, a->v));
    dip_assert(dip_tensor_rows(a->k) == rows);
    dip_assert(dip_tensor_rows(a->v) == rows);
    dip_assert(dip_tensor_columns(a->q) >= columns);
    dip_assert(dip_tensor_columns(a->k) >= columns);
    dip_assert(dip_tensor_columns(a->v) >= columns);
    dip_assert(is_matrix(s, a->out, rows, (int64_t)a->heads * a->head_dim));
    dip_assert(!is_shared(a->out, a->q));
    dip_assert(!is_shared(a->out, a->k));
    dip_assert(!is_shared(a->out, a->v));
    return DISPATCH(s, attend_linear, a);
}

/* ---- convolutions and image layout ---- */

enum dip_status dip_conv(struct dip_stream *s, const struct dip_conv_args *a)
{
    const int64_t *in = a->in.dims;
    const int64_t *w = a->weight.dims;
    dip_assert(a->upsample == 1 || a->upsample == 2);
    dip_assert(a->stride == 1 || a->stride == 2);
    dip_assert(a->upsample == 1 || a->stride == 1);
    dip_assert(a->weight.rank == 4);
    dip_assert(w[1] == in[3]);
    dip_assert(w[2] == w[3]);
    dip_assert(w[2] % 2 == 1);
    dip_assert(is_weight(a->weight, w[0] * w[1] * w[2] * w[3]));
    dip_assert(is_image(s, a->in, in[0], in[1], in[2], in[3]));
    int64_t height = (in[1] * a->upsample + a->stride - 1) / a->stride;
    int64_t width = (in[2] * a->upsample + a->stride - 1) / a->stride;
    dip_assert(is_image(s, a->out, in[0], height, width, w[0]));
    dip_assert(is_optional_weight(a->bias, w[0]));
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, conv, a);
}

bool dip_plans_begin(struct dip_stream *s)
{
    return s->device->ops->plans_begin && s->device->ops->plans_begin(s);
}

void dip_plans_end(struct dip_stream *s)
{
    s->device->ops->plans_end(s);
}

enum dip_status dip_conv_depthwise(struct dip_stream *s, const struct dip_conv_depthwise_args *a)
{
    const int64_t *in = a->in.dims;
    const int64_t *w = a->weight.dims;
    dip_assert(a->weight.rank == 4);
    dip_assert(w[0] == in[3]);
    dip_assert(w[1] == 1);
    dip_assert(w[2] == w[3]);
    dip_assert(w[2] % 2 == 1);
    dip_assert(!a->is_gated || in[3] % 2 == 0);
    dip_assert(is_weight(a->weight, w[0] * w[2] * w[3]));
    dip_assert(is_image(s, a->in, in[0], in[1], in[2], in[3]));
    dip_assert(is_image(s, a->out, in[0], in[1], in[2], a->is_gated ? in[3] / 2 : in[3]));
    dip_assert(is_optional_weight(a->bias, w[0]));
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, conv_depthwise, a);
}

enum dip_status dip_pixel_shuffle(struct dip_stream *s, const struct dip_pixel_shuffle_args *a)
{
    const int64_t *in = a->in.dims;
    int64_t channels = dip_tensor_columns(a->out);
    dip_assert(is_image(s, a->in, in[0], in[1], in[2], in[3]));
    dip_assert(is_image(s, a->out, in[0], 2 * in[1], 2 * in[2], channels));
    dip_assert(4 * channels % in[3] == 0);
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, pixel_shuffle, a);
}

enum dip_status dip_repeat_add(struct dip_stream *s, const struct dip_repeat_add_args *a)
{
    dip_assert(is_real(s, a->in));
    dip_assert(is_matrix(s, a->out, dip_tensor_rows(a->in), dip_tensor_columns(a->out)));
    dip_assert(dip_tensor_columns(a->out) % dip_tensor_columns(a->in) == 0);
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, repeat_add, a);
}

enum dip_status dip_patch(struct dip_stream *s, const struct dip_patch_args *a)
{
    struct dip_tensor image = a->is_to_tokens ? a->in : a->out;
    struct dip_tensor tokens = a->is_to_tokens ? a->out : a->in;
    const int64_t *d = image.dims;
    int64_t p = a->patch;
    dip_assert(p > 0);
    dip_assert(is_image(s, image, d[0], d[1], d[2], d[3]));
    dip_assert(d[1] % p == 0);
    dip_assert(d[2] % p == 0);
    dip_assert(is_matrix(s, tokens, d[0] * (d[1] / p) * (d[2] / p), p * p * d[3]));
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, patch, a);
}

enum dip_status dip_layout(struct dip_stream *s, const struct dip_layout_args *a)
{
    const int64_t *in = a->in.dims;
    dip_assert(is_image(s, a->in, in[0], in[1], in[2], in[3]));
    if (a->is_to_nchw)
        dip_assert(is_image(s, a->out, in[0], in[3], in[1], in[2]));
    else
        dip_assert(is_image(s, a->out, in[0], in[2], in[3], in[1]));
    dip_assert(dip_tensor_is_dense(a->in));
    dip_assert(dip_tensor_is_dense(a->out));
    dip_assert(!is_shared(a->out, a->in));
    return DISPATCH(s, layout, a);
}

enum dip_status dip_rgb8(struct dip_stream *s, const struct dip_rgb8_args *a)
{
    dip_assert(is_real(s, a->in));
    dip_assert(dip_tensor_columns(a->in) == 3);
    dip_assert(is_view(a->out));
    dip_assert(a->out.dtype == DIP_U8);
    dip_assert(dip_tensor_columns(a->out) == 3);
    dip_assert(dip_tensor_rows(a->out) == dip_tensor_rows(a->in));
    return DISPATCH(s, rgb8, a);
}
