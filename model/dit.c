/* model/dit.c - SANA-1.5: bind the tensors, prepare contexts, predict a guided velocity pair.
 *
 * Rows of every activation are ordered branch, job, token, the unconditional branch first:
 *
 *     branch 0 (unconditional)            branch 1 (conditional)
 *     job 0 | job 1 | ... | job B-1       job 0 | job 1 | ... | job B-1        N tokens each
 *
 * so that the two halves are plain row slices and an item of a modulation is one job of one branch.
 * Without guidance there is the second branch alone.
 * Both branches are equal until the first cross-attention: everything before it is computed for the
 * first half and copied. */
#include "model/dit.h"

#include <stdlib.h>

#include "base/assert.h"
#include "model/place.h"
#include "model/scratch.h"

enum { TIME_FEATURES = 256, TABLE_ROWS = 6, HEAD_TABLE_ROWS = 2 };
/* Rows of a block's scale_shift_table and of the time embedding m. */
enum { SHIFT_ATTN, SCALE_ATTN, GATE_ATTN, SHIFT_FF, SCALE_FF, GATE_FF };
static const float QK_EPS = 1e-5f;
static const float CAPTION_EPS = 1e-5f;

struct projection {
    struct dip_tensor weight, bias;
    bool has_bias;
};

struct attention {
    struct projection q, k, v, out;
    struct dip_tensor q_norm, k_norm;
};

struct block {
    struct dip_tensor table; /* [6, D] as stored */
    struct attention self, cross;
    struct projection inverted;          /* [2F, D, 1, 1] */
    struct dip_tensor depth, depth_bias; /* [2F, 1, 3, 3], [2F] */
    struct projection point;             /* [D, F, 1, 1] */
};

struct dip_dit {
    struct dip_dit_config config;
    struct projection patch; /* [D, c, p, p] */
    struct projection time_in, time_out, time_mod;
    struct projection caption_in, caption_out;
    struct dip_tensor caption_norm;
    struct dip_tensor table; /* [2, D] as stored */
    struct projection head;  /* [p * p * c, D] */
    struct block *blocks;
    enum dip_dtype activation; /* F32 until placed */
    struct dip__placed placed;

    /* Made by dip_dit_prepare, f32 on the device. */
    struct dip_device *device;
    struct dip_mem constants;
    struct dip_tensor null_cross;  /* [layers, D] unconditional cross-attention output */
    struct dip_tensor tables;      /* [layers, 6D] the blocks' tables, widened */
    struct dip_tensor head_tables; /* [1, 2D] shift, scale */
};

/* ---- loading ---- */

static enum dip_status bind_projection(struct dip_weights *w, const char *name, int64_t out,
                                       int64_t in, bool has_bias, struct dip_why *why,
                                       struct projection *p)
{
    p->has_bias = has_bias;
    DIP_TRY(dip_weights_bind_2d(w, why, &p->weight, out, in, "model.sana.%s.weight", name));
    if (!has_bias)
        return DIP_OK;
    return dip_weights_bind_1d(w, why, &p->bias, out, "model.sana.%s.bias", name);
}

/* attn1 has no bias on q, k and v; attn2 has one everywhere. Both norms span all heads. */
static enum dip_status bind_attention(struct dip_weights *w, int64_t width, int index,
                                      const char *name, bool has_bias, struct dip_why *why,
                                      struct attention *a)
{
    struct {
        struct projection *projection;
        const char *name;
        bool has_bias;
    } parts[] = {{&a->q, "to_q", has_bias},
                 {&a->k, "to_k", has_bias},
                 {&a->v, "to_v", has_bias},
                 {&a->out, "to_out.0", true}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        struct projection *p = parts[i].projection;
        p->has_bias = parts[i].has_bias;
        DIP_TRY(dip_weights_bind_2d(w, why, &p->weight, width, width,
                                    "model.sana.transformer_blocks.%d.%s.%s.weight", index, name,
                                    parts[i].name));
        if (p->has_bias)
            DIP_TRY(dip_weights_bind_1d(w, why, &p->bias, width,
                                        "model.sana.transformer_blocks.%d.%s.%s.bias", index, name,
                                        parts[i].name));
    }
    DIP_TRY(dip_weights_bind_1d(w, why, &a->q_norm, width,
                                "model.sana.transformer_blocks.%d.%s.norm_q.weight", index, name));
    return dip_weights_bind_1d(w, why, &a->k_norm, width,
                               "model.sana.transformer_blocks.%d.%s.norm_k.weight", index, name);
}

static enum dip_status bind_block(struct dip_weights *w, const struct dip_dit_config *c, int i,
                                  struct dip_why *why, struct block *b)
{
    int64_t width = c->width, wide = 2 * (int64_t)c->ffn;
    DIP_TRY(dip_weights_bind_2d(w, why, &b->table, TABLE_ROWS, width,
                                "model.sana.transformer_blocks.%d.scale_shift_table", i));
    DIP_TRY(bind_attention(w, width, i, "attn1", false, why, &b->self));
    DIP_TRY(bind_attention(w, width, i, "attn2", true, why, &b->cross));
    b->inverted.has_bias = true;
    DIP_TRY(dip_weights_bind_4d(w, why, &b->inverted.weight, wide, width, 1, 1,
                                "model.sana.transformer_blocks.%d.ff.conv_inverted.weight", i));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->inverted.bias, wide,
                                "model.sana.transformer_blocks.%d.ff.conv_inverted.bias", i));
    DIP_TRY(dip_weights_bind_4d(w, why, &b->depth, wide, 1, 3, 3,
                                "model.sana.transformer_blocks.%d.ff.conv_depth.weight", i));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->depth_bias, wide,
                                "model.sana.transformer_blocks.%d.ff.conv_depth.bias", i));
    return dip_weights_bind_4d(w, why, &b->point.weight, width, c->ffn, 1, 1,
                               "model.sana.transformer_blocks.%d.ff.conv_point.weight", i);
}

static enum dip_status bind_all(struct dip_dit *d, struct dip_weights *w, struct dip_why *why)
{
    const struct dip_dit_config *c = &d->config;
    int64_t width = c->width;
    int64_t head = (int64_t)c->patch * c->patch * c->latent_channels;

    d->patch.has_bias = true;
    DIP_TRY(dip_weights_bind_4d(w, why, &d->patch.weight, width, c->latent_channels, c->patch,
                                c->patch, "model.sana.patch_embed.proj.weight"));
    DIP_TRY(dip_weights_bind_1d(w, why, &d->patch.bias, width, "model.sana.patch_embed.proj.bias"));
    DIP_TRY(bind_projection(w, "time_embed.emb.timestep_embedder.linear_1", width, TIME_FEATURES,
                            true, why, &d->time_in));
    DIP_TRY(bind_projection(w, "time_embed.emb.timestep_embedder.linear_2", width, width, true, why,
                            &d->time_out));
    DIP_TRY(bind_projection(w, "time_embed.linear", TABLE_ROWS * width, width, true, why,
                            &d->time_mod));
    DIP_TRY(bind_projection(w, "caption_projection.linear_1", width, c->caption_channels, true, why,
                            &d->caption_in));
    DIP_TRY(bind_projection(w, "caption_projection.linear_2", width, width, true, why,
                            &d->caption_out));
    DIP_TRY(dip_weights_bind_1d(w, why, &d->caption_norm, width, "model.sana.caption_norm.weight"));
    DIP_TRY(dip_weights_bind_2d(w, why, &d->table, HEAD_TABLE_ROWS, width,
                                "model.sana.scale_shift_table"));
    for (int i = 0; i < c->layers; i++)
        DIP_TRY(bind_block(w, c, i, why, &d->blocks[i]));
    return bind_projection(w, "proj_out", head, width, true, why, &d->head);
}

enum dip_status dip_dit_new(const struct dip_dit_config *config, struct dip_weights *weights,
                            struct dip_why *why, struct dip_dit **ret_dit)
{
    dip_assert(config->heads * config->head_dim == config->width);
    dip_assert(config->cross_heads * config->cross_head_dim == config->width);
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_dit *dit = calloc(1, sizeof *dit);
    if (!dit)
        goto out;
    dit->config = *config;
    dit->activation = DIP_F32;
    dit->blocks = calloc((size_t)config->layers, sizeof *dit->blocks);
    if (!dit->blocks)
        goto out;
    status = bind_all(dit, weights, why);
    if (status)
        goto out;
    *ret_dit = dit;
    dit = NULL;
out:
    dip_dit_free(dit);
    return status;
}

static void constants_release(struct dip_dit *dit)
{
    if (dit->device)
        dip_release(dit->device, &dit->constants);
    dit->device = NULL;
}

void dip_dit_free(struct dip_dit *dit)
{
    if (!dit)
        return;
    constants_release(dit);
    dip__place_release(&dit->placed);
    free(dit->blocks);
    free(dit);
}

/* ---- placing ---- */

static enum dip_status place(struct dip__placer *p, struct projection *projection)
{
    DIP_TRY(dip__place_tensor(p, &projection->weight, DIP_WEIGHT_PLAIN));
    return projection->has_bias ? dip__place_tensor(p, &projection->bias, DIP_WEIGHT_PLAIN)
                                : DIP_OK;
}

static enum dip_status place_attention(struct dip__placer *p, struct attention *a)
{
    if (a->q.has_bias) {
        DIP_TRY(place(p, &a->q));
        DIP_TRY(place(p, &a->k));
        DIP_TRY(place(p, &a->v));
    } else {
        DIP_TRY(place(p, &a->q));
        DIP_TRY(dip__place_joined(p, &a->k.weight));
        DIP_TRY(dip__place_joined(p, &a->v.weight));
    }
    DIP_TRY(place(p, &a->out));
    DIP_TRY(dip__place_tensor(p, &a->q_norm, DIP_WEIGHT_PLAIN));
    return dip__place_tensor(p, &a->k_norm, DIP_WEIGHT_PLAIN);
}

static enum dip_status place_block(struct dip__placer *p, struct block *b)
{
    DIP_TRY(dip__place_tensor(p, &b->table, DIP_WEIGHT_PLAIN));
    DIP_TRY(place_attention(p, &b->self));
    DIP_TRY(place_attention(p, &b->cross));
    DIP_TRY(place(p, &b->inverted));
    DIP_TRY(dip__place_tensor(p, &b->depth, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &b->depth_bias, DIP_WEIGHT_PLAIN));
    return place(p, &b->point);
}

static enum dip_status list_all(void *network, struct dip__placer *p)
{
    struct dip_dit *d = network;
    struct projection *list[] = {&d->patch,      &d->time_in,     &d->time_out, &d->time_mod,
                                 &d->caption_in, &d->caption_out, &d->head};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        DIP_TRY(place(p, list[i]));
    DIP_TRY(dip__place_tensor(p, &d->caption_norm, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &d->table, DIP_WEIGHT_PLAIN));
    for (int i = 0; i < d->config.layers; i++)
        DIP_TRY(place_block(p, &d->blocks[i]));
    return DIP_OK;
}

enum dip_status dip_dit_place(struct dip_dit *dit, struct dip_stream *s, struct dip_why *why)
{
    DIP_TRY(dip__place_all(s, list_all, dit, "diffusion panel", why, &dit->placed));
    dit->activation = dip_device_activation(dip_stream_device(s));
    return DIP_OK;
}

/* ---- small steps ---- */

/* rows_per_item: the tokens of a picture or the rows of a context, which are never cut apart. */
static enum dip_status project_items(struct dip_stream *s, struct dip_tensor out,
                                     struct dip_tensor in, const struct projection *p,
                                     enum dip_act act, int64_t rows_per_item)
{
    return dip_linear(s, &(struct dip_linear_args){.out = out,
                                                   .in = in,
                                                   .weight = p->weight,
                                                   .bias = p->has_bias ? &p->bias : NULL,
                                                   .act = act,
                                                   .rows_per_item = rows_per_item});
}

/* Rows that may come alone. */
static enum dip_status project(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                               const struct projection *p, enum dip_act act)
{
    return project_items(s, out, in, p, act, 1);
}

static enum dip_status project_added(struct dip_stream *s, struct dip_tensor out,
                                     struct dip_tensor in, const struct projection *p,
                                     int64_t rows_per_item)
{
    return dip_linear(s, &(struct dip_linear_args){.out = out,
                                                   .in = in,
                                                   .weight = p->weight,
                                                   .bias = p->has_bias ? &p->bias : NULL,
                                                   .is_added = true,
                                                   .rows_per_item = rows_per_item});
}

static enum dip_status norm(struct dip_stream *s, struct dip_tensor x, struct dip_tensor weight,
                            float eps)
{
    return dip_norm_rms(
        s, &(struct dip_norm_rms_args){.out = x, .in = x, .weight = weight, .eps = eps});
}

/* The matrix [rows, columns] seen as one row. */
static struct dip_tensor as_one_row(struct dip_tensor t)
{
    return dip_rows(t.data, t.dtype, 1, dip_tensor_count(t));
}

/* ---- contexts: once per image ---- */

/* Working tensors of a context, M rows. */
struct caption {
    struct dip_tensor cast;  /* [M, caption channels] the condition in the dtype of activations */
    struct dip_tensor inner; /* [M, D] */
    struct dip_tensor out;   /* [M, D] */
};

static struct caption carve_caption(const struct dip_dit *d, int64_t rows,
                                    struct dip_arena *scratch)
{
    struct caption t;
    t.cast = dip__scratch_cast(scratch, d->activation, rows, d->config.caption_channels);
    t.inner = dip__scratch_of(scratch, d->activation, rows, d->config.width);
    t.out = dip__scratch_of(scratch, d->activation, rows, d->config.width);
    return t;
}

/* t->out from condition [M, caption channels]. */
static enum dip_status project_caption(const struct dip_dit *d, struct dip_stream *s,
                                       const struct caption *t, struct dip_tensor condition)
{
    int64_t rows = dip_tensor_rows(condition);
    DIP_TRY(dip__cast(s, t->cast, &condition));
    DIP_TRY(project_items(s, t->inner, condition, &d->caption_in, DIP_ACT_GELU_TANH, rows));
    DIP_TRY(project_items(s, t->out, t->inner, &d->caption_out, DIP_ACT_NONE, rows));
    return norm(s, t->out, d->caption_norm, CAPTION_EPS);
}

size_t dip_dit_context_bytes(const struct dip_dit *dit, int64_t row_count)
{
    const struct dip_dit_config *c = &dit->config;
    struct dip_arena meter = dip__scratch_meter();
    dip__scratch_of(&meter, dit->activation, c->layers * row_count, c->width);
    dip__scratch_of(&meter, dit->activation, c->layers * row_count, c->width);
    return meter.peak_bytes;
}

size_t dip_dit_context_scratch_bytes(const struct dip_dit *dit, int64_t row_count)
{
    struct dip_arena meter = dip__scratch_meter();
    carve_caption(dit, row_count, &meter);
    return meter.peak_bytes;
}

static enum dip_status context_fill(const struct dip_dit *dit, struct dip_stream *s,
                                    struct dip_tensor all_k, struct dip_tensor all_v,
                                    struct dip_tensor c)
{
    int64_t rows = dip_tensor_rows(c);
    for (int i = 0; i < dit->config.layers; i++) {
        const struct attention *a = &dit->blocks[i].cross;
        struct dip_tensor k = dip_rows_slice(all_k, i * rows, rows);
        struct dip_tensor v = dip_rows_slice(all_v, i * rows, rows);
        DIP_TRY(project_items(s, k, c, &a->k, DIP_ACT_NONE, rows));
        DIP_TRY(norm(s, k, a->k_norm, QK_EPS));
        DIP_TRY(project_items(s, v, c, &a->v, DIP_ACT_NONE, rows));
    }
    return DIP_OK;
}

enum dip_status dip_dit_context_init(const struct dip_dit *dit, struct dip_stream *s, void *memory,
                                     struct dip_tensor condition, struct dip_arena *scratch,
                                     struct dip_cross_context *ret_context)
{
    int64_t width = dit->config.width, rows = dip_tensor_rows(condition);
    dip_assert(dip_tensor_columns(condition) == dit->config.caption_channels);
    struct dip_arena carver;
    dip_arena_init(&carver, memory, dip_dit_context_bytes(dit, rows));
    struct dip_tensor k, v;
    k = dip__scratch_of(&carver, dit->activation, dit->config.layers * rows, width);
    v = dip__scratch_of(&carver, dit->activation, dit->config.layers * rows, width);

    size_t mark = dip_arena_mark(scratch);
    struct caption t = carve_caption(dit, rows, scratch);
    enum dip_status status = project_caption(dit, s, &t, condition);
    if (!status)
        status = context_fill(dit, s, k, v, t.out);
    dip_arena_reset(scratch, mark);
    if (!status)
        *ret_context = (struct dip_cross_context){.k = k.data, .v = v.data, .row_count = rows};
    return status;
}

/* ---- constants: once after load ---- */

/* What dip_dit_prepare works in; only the first three stay. */
struct constants {
    struct dip_tensor null_cross, tables, head_tables;
    struct dip_tensor zero_id; /* i32[1] */
    struct caption caption;
    struct dip_tensor value;
};

static struct constants carve_constants(const struct dip_dit *d, struct dip_arena *memory)
{
    const struct dip_dit_config *c = &d->config;
    struct constants t;
    t.null_cross = dip__scratch_rows(memory, c->layers, c->width);
    t.tables = dip__scratch_rows(memory, c->layers, (int64_t)TABLE_ROWS * c->width);
    t.head_tables = dip__scratch_rows(memory, 1, (int64_t)HEAD_TABLE_ROWS * c->width);
    t.zero_id = dip__scratch_rows(memory, 1, 1);
    t.zero_id = dip_tensor_1d(t.zero_id.data, DIP_I32, 1);
    t.caption = carve_caption(d, 1, memory);
    t.value = dip__scratch_of(memory, d->activation, 1, c->width);
    return t;
}

/* A stored table as one f32 row: picking row 0 of a one-row table widens it where it lies. */
static enum dip_status widen(struct dip_stream *s, struct dip_tensor out, struct dip_tensor table,
                             struct dip_tensor zero_id)
{
    return dip_embed(
        s, &(struct dip_embed_args){.out = out, .table = as_one_row(table), .ids = zero_id});
}

/* All context rows of the unconditional branch are equal, so its softmax is uniform over equal
 * values and the attention output is that value, whatever the query. */
static enum dip_status constants_fill(struct dip_dit *d, struct dip_stream *s,
                                      struct dip_tensor null_context, const struct constants *t)
{
    DIP_TRY(widen(s, t->head_tables, d->table, t->zero_id));
    DIP_TRY(project_caption(d, s, &t->caption, null_context));
    for (int i = 0; i < d->config.layers; i++) {
        const struct attention *a = &d->blocks[i].cross;
        DIP_TRY(widen(s, dip_rows_slice(t->tables, i, 1), d->blocks[i].table, t->zero_id));
        DIP_TRY(project(s, t->value, t->caption.out, &a->v, DIP_ACT_NONE));
        DIP_TRY(project(s, dip_rows_slice(t->null_cross, i, 1), t->value, &a->out, DIP_ACT_NONE));
    }
    return dip_wait(s);
}

enum dip_status dip_dit_prepare(struct dip_dit *dit, struct dip_stream *s,
                                struct dip_tensor null_context, struct dip_why *why)
{
    constants_release(dit);
    struct dip_arena meter = dip__scratch_meter();
    carve_constants(dit, &meter);

    struct dip_device *device = dip_stream_device(s);
    enum dip_status status = dip_reserve(device, meter.peak_bytes, &dit->constants);
    if (status)
        return dip_fail(why, status, "no memory for %zu bytes of diffusion constants",
                        meter.peak_bytes);
    dit->device = device;
    struct dip_arena memory;
    dip_arena_init(&memory, dit->constants.base, dit->constants.bytes);
    struct constants t = carve_constants(dit, &memory); /* zeroed: so is the id */
    status = constants_fill(dit, s, null_context, &t);
    if (status) {
        constants_release(dit);
        return dip_fail(why, status, "computing the diffusion constants: %s",
                        dip_status_text(status));
    }
    dit->null_cross = t.null_cross;
    dit->tables = t.tables;
    dit->head_tables = t.head_tables;
    return DIP_OK;
}

/* ---- forward ---- */

/* Sizes and working tensors of one call. Rows: half = B * N of one branch, all = branches * half;
 * items: branches * B. */
struct pass {
    int branches;                 /* 2, or 1: the conditional one alone */
    int64_t batch, height, width; /* in tokens */
    int64_t tokens, half, rows, items;
    struct dip_tensor h, z; /* [rows, D] F32 residual stream, normalised or result */
    struct dip_tensor features, silu, e, m; /* [B, 256], [B, D], [B, D], [B, 6D] */
    struct dip_tensor mod;                  /* [layers * items, 6D] */
    struct dip_tensor shift, scale;         /* [items, D] of the head; its halves */
    struct dip_tensor shift_scale;          /* [2 * items, D] */
    struct dip_tensor patches;              /* [BN, p * p * c], patch > 1 only */
    struct dip_tensor qkv;                  /* [rows, 3D] */
    struct dip_tensor q, k, v;              /* its columns */
    struct dip_tensor wide, gated;          /* [rows, 2F], [rows, F]; share memory with q, k, v */
};

static struct pass carve(const struct dip_dit *dit, int branches, const int64_t *dims,
                         struct dip_arena *scratch)
{
    const struct dip_dit_config *c = &dit->config;
    struct pass p = {.branches = branches,
                     .batch = dims[0],
                     .height = dims[1] / c->patch,
                     .width = dims[2] / c->patch};
    p.tokens = p.height * p.width;
    p.half = p.batch * p.tokens;
    p.rows = branches * p.half;
    p.items = branches * p.batch;
    int64_t D = c->width;

    p.h = dip__scratch_rows(scratch, p.rows, D);
    p.z = dip__scratch_of(scratch, dit->activation, p.rows, D);
    p.features = dip__scratch_rows(scratch, p.batch, TIME_FEATURES);
    p.silu = dip__scratch_rows(scratch, p.batch, D);
    p.e = dip__scratch_rows(scratch, p.batch, D);
    p.m = dip__scratch_rows(scratch, p.batch, TABLE_ROWS * D);
    p.mod = dip__scratch_rows(scratch, c->layers * p.items, TABLE_ROWS * D);
    p.shift_scale = dip__scratch_rows(scratch, HEAD_TABLE_ROWS * p.items, D);
    p.shift = dip_rows_slice(p.shift_scale, 0, p.items);
    p.scale = dip_rows_slice(p.shift_scale, p.items, p.items);
    if (c->patch > 1)
        p.patches =
            dip__scratch_rows(scratch, p.half, (int64_t)c->patch * c->patch * c->latent_channels);
    size_t mark = dip_arena_mark(scratch);
    p.qkv = dip__scratch_of(scratch, dit->activation, p.rows, 3 * D);
    p.q = dip_columns_slice(p.qkv, 0, D);
    p.k = dip_columns_slice(p.qkv, D, D);
    p.v = dip_columns_slice(p.qkv, 2 * D, D);
    dip_arena_reset(scratch, mark);
    p.wide = dip__scratch_of(scratch, dit->activation, p.rows, 2 * (int64_t)c->ffn);
    p.gated = dip__scratch_of(scratch, dit->activation, p.rows, c->ffn);
    return p;
}

size_t dip_dit_scratch_bytes(const struct dip_dit *dit, int batch, int64_t height, int64_t width,
                             int64_t context_rows)
{
    (void)context_rows; /* keys and values are the context's; attention reads them row by row */
    const int64_t dims[] = {batch, height, width};
    struct dip_arena meter = dip__scratch_meter();
    carve(dit, 2, dims, &meter);
    return meter.peak_bytes;
}

/* Tokens of the latents, into the first branch of h. */
static enum dip_status embed_patches(const struct dip_dit *d, struct dip_stream *s,
                                     struct dip_tensor latent, const struct pass *p)
{
    struct dip_tensor tokens = dip__as_rows(latent);
    if (d->config.patch > 1) {
        tokens = p->patches;
        DIP_TRY(dip_patch(
            s, &(struct dip_patch_args){
                   .out = tokens, .in = latent, .patch = d->config.patch, .is_to_tokens = true}));
    }
    struct projection patch = d->patch; /* the convolution is a product over whole patches */
    patch.weight = dip_rows(patch.weight.data, patch.weight.dtype, patch.weight.dims[0],
                            dip_tensor_columns(tokens));
    return project(s, dip_rows_slice(p->h, 0, p->half), tokens, &patch, DIP_ACT_NONE);
}

/* Of every item of both branches, for each row of the tables: to = from + the row. */
static enum dip_status spread(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from,
                              struct dip_tensor tables)
{
    return dip_outer_sum(s, &(struct dip_outer_sum_args){.out = to, .in = from, .tables = tables});
}

/* From the timesteps the modulation of all blocks, and the head's, which is of e and not of m. */
static enum dip_status embed_time(const struct dip_dit *d, struct dip_stream *s, const float *t,
                                  const struct pass *p)
{
    struct dip_tensor head =
        dip_rows(d->head_tables.data, DIP_F32, HEAD_TABLE_ROWS, d->config.width);
    DIP_TRY(dip_sinusoid(s, &(struct dip_sinusoid_args){.out = p->features, .t = t}));
    DIP_TRY(project(s, p->silu, p->features, &d->time_in, DIP_ACT_SILU));
    DIP_TRY(project(s, p->e, p->silu, &d->time_out, DIP_ACT_NONE));
    DIP_TRY(dip_activate(
        s, &(struct dip_activate_args){.out = p->silu, .in = p->e, .act = DIP_ACT_SILU}));
    DIP_TRY(project(s, p->m, p->silu, &d->time_mod, DIP_ACT_NONE));
    DIP_TRY(spread(s, p->mod, p->m, d->tables));
    return spread(s, p->shift_scale, p->e, head);
}

/* One D-wide part of block `index`'s modulation for the first `items` items. */
static struct dip_tensor mod_part(const struct dip_dit *d, const struct pass *p, int index,
                                  int part, int64_t items)
{
    int64_t D = d->config.width;
    return dip_rows_slice(dip_columns_slice(p->mod, part * D, D), index * p->items, items);
}

/* z = LN(h) * (1 + scale) + shift over the first `rows` rows. */
static enum dip_status modulate(const struct dip_dit *d, struct dip_stream *s, const struct pass *p,
                                int64_t rows, struct dip_tensor shift, struct dip_tensor scale)
{
    return dip_norm_layer(s, &(struct dip_norm_layer_args){.out = dip_rows_slice(p->z, 0, rows),
                                                           .in = dip_rows_slice(p->h, 0, rows),
                                                           .scale = scale,
                                                           .shift = shift,
                                                           .rows_per_item = p->tokens,
                                                           .eps = d->config.norm_eps});
}

/* h += gate * x over the rows of x. */
static enum dip_status add_gated(struct dip_stream *s, const struct pass *p, struct dip_tensor x,
                                 struct dip_tensor gate)
{
    return dip_add(s, &(struct dip_add_args){.sum = dip_rows_slice(p->h, 0, dip_tensor_rows(x)),
                                             .x = x,
                                             .gate = &gate,
                                             .rows_per_item = p->tokens});
}

/* Of the rows of z, at one stroke where the weights lie side by side. */
static enum dip_status project_qkv(struct dip_stream *s, const struct attention *a,
                                   const struct pass *p, struct dip_tensor z)
{
    const struct dip_tensor *const parts[] = {&a->q.weight, &a->k.weight, &a->v.weight};
    int64_t rows = dip_tensor_rows(z);
    struct projection all = {0};
    if (dip__join(parts, 3, &all.weight))
        return project_items(s, dip_rows_slice(p->qkv, 0, rows), z, &all, DIP_ACT_NONE, p->tokens);
    DIP_TRY(project_items(s, dip_rows_slice(p->q, 0, rows), z, &a->q, DIP_ACT_NONE, p->tokens));
    DIP_TRY(project_items(s, dip_rows_slice(p->k, 0, rows), z, &a->k, DIP_ACT_NONE, p->tokens));
    return project_items(s, dip_rows_slice(p->v, 0, rows), z, &a->v, DIP_ACT_NONE, p->tokens);
}

/* Linear attention over the first `rows` rows: all, or one branch. */
static enum dip_status attend_self(const struct dip_dit *d, struct dip_stream *s, int index,
                                   const struct pass *p, int64_t rows)
{
    const struct dip_dit_config *c = &d->config;
    const struct attention *a = &d->blocks[index].self;
    int64_t items = rows / p->tokens;
    struct dip_tensor z = dip_rows_slice(p->z, 0, rows);
    struct dip_tensor q = dip_rows_slice(p->q, 0, rows);
    struct dip_tensor k = dip_rows_slice(p->k, 0, rows);
    struct dip_tensor v = dip_rows_slice(p->v, 0, rows);

    DIP_TRY(modulate(d, s, p, rows, mod_part(d, p, index, SHIFT_ATTN, items),
                     mod_part(d, p, index, SCALE_ATTN, items)));
    DIP_TRY(project_qkv(s, a, p, z));
    DIP_TRY(norm(s, q, a->q_norm, QK_EPS));
    DIP_TRY(norm(s, k, a->k_norm, QK_EPS));
    DIP_TRY(dip_attend_linear(s, &(struct dip_attend_linear_args){.out = z,
                                                                  .q = q,
                                                                  .k = k,
                                                                  .v = v,
                                                                  .heads = c->heads,
                                                                  .head_dim = c->head_dim,
                                                                  .head_stride = c->head_dim,
                                                                  .rows_per_item = p->tokens}));
    DIP_TRY(project_items(s, q, z, &a->out, DIP_ACT_NONE, p->tokens));
    return add_gated(s, p, q, mod_part(d, p, index, GATE_ATTN, items));
}

/* The raw residual stream attends to the context: no norm, no modulation, no gate. */
static enum dip_status attend_context(const struct dip_dit *d, struct dip_stream *s, int index,
                                      const struct dip_cross_context *contexts,
                                      const struct pass *p)
{
    const struct dip_dit_config *c = &d->config;
    const struct attention *a = &d->blocks[index].cross;
    struct dip_tensor h = dip_rows_slice(p->h, p->rows - p->half, p->half);
    struct dip_tensor q = dip_rows_slice(p->q, 0, p->half);
    struct dip_tensor out = dip_rows_slice(p->z, 0, p->half);

    if (p->branches == 2)
        DIP_TRY(dip_add(s, &(struct dip_add_args){.sum = dip_rows_slice(p->h, 0, p->half),
                                                  .x = dip_rows_slice(d->null_cross, index, 1),
                                                  .rows_per_item = p->half,
                                                  .is_broadcast = true}));
    DIP_TRY(project_items(s, q, h, &a->q, DIP_ACT_NONE, p->tokens));
    DIP_TRY(norm(s, q, a->q_norm, QK_EPS));
    DIP_TRY(
        dip_attend_contexts(s, &(struct dip_attend_contexts_args){.out = out,
                                                                  .q = q,
                                                                  .contexts = contexts,
                                                                  .rows_per_item = p->tokens,
                                                                  .block = index,
                                                                  .heads = c->cross_heads,
                                                                  .head_dim = c->cross_head_dim}));
    return project_added(s, h, out, &a->out, p->tokens);
}

static enum dip_status feed_forward(const struct dip_dit *d, struct dip_stream *s, int index,
                                    const struct pass *p)
{
    const struct block *b = &d->blocks[index];
    DIP_TRY(modulate(d, s, p, p->rows, mod_part(d, p, index, SHIFT_FF, p->items),
                     mod_part(d, p, index, SCALE_FF, p->items)));
    DIP_TRY(project_items(s, p->wide, p->z, &b->inverted, DIP_ACT_SILU, p->tokens));
    DIP_TRY(dip_conv_depthwise(s, &(struct dip_conv_depthwise_args){
                                      .out = dip__as_image(p->gated, p->items, p->height, p->width),
                                      .in = dip__as_image(p->wide, p->items, p->height, p->width),
                                      .weight = b->depth,
                                      .bias = &b->depth_bias,
                                      .is_gated = true}));
    DIP_TRY(project_items(s, p->z, p->gated, &b->point, DIP_ACT_NONE, p->tokens));
    return add_gated(s, p, p->z, mod_part(d, p, index, GATE_FF, p->items));
}

static enum dip_status run_blocks(const struct dip_dit *d, struct dip_stream *s,
                                  const struct dip_cross_context *contexts, const struct pass *p)
{
    for (int i = 0; i < d->config.layers; i++) {
        DIP_TRY(attend_self(d, s, i, p, i == 0 ? p->half : p->rows));
        if (i == 0 && p->branches == 2) /* here the branches part */
            DIP_TRY(dip_copy(s, dip_rows_slice(p->h, p->half, p->half),
                             dip_rows_slice(p->h, 0, p->half)));
        DIP_TRY(attend_context(d, s, i, contexts, p));
        DIP_TRY(feed_forward(d, s, i, p));
    }
    return DIP_OK;
}

/* The velocity of one branch from its rows of z. */
static enum dip_status project_head(const struct dip_dit *d, struct dip_stream *s,
                                    struct dip_tensor velocity, struct dip_tensor z,
                                    const struct pass *p)
{
    if (d->config.patch == 1)
        return project(s, dip__as_rows(velocity), z, &d->head, DIP_ACT_NONE);
    DIP_TRY(project(s, p->patches, z, &d->head, DIP_ACT_NONE));
    return dip_patch(
        s, &(struct dip_patch_args){.out = velocity, .in = p->patches, .patch = d->config.patch});
}

enum dip_status dip_dit_forward(const struct dip_dit *dit, struct dip_stream *s,
                                const struct dip_dit_args *args, struct dip_arena *scratch)
{
    dip_assert(dit->device); /* dip_dit_prepare has run */
    const int64_t *dims = args->latent.dims;
    bool is_guided = args->velocity_uncond.data != NULL;
    dip_assert(dims[1] % dit->config.patch == 0);
    dip_assert(dims[2] % dit->config.patch == 0);
    dip_assert(dims[3] == dit->config.latent_channels);
    size_t mark = dip_arena_mark(scratch);
    struct pass p = carve(dit, is_guided ? 2 : 1, dims, scratch);
    struct dip_tensor cond = dip_rows_slice(p.z, p.rows - p.half, p.half);

    enum dip_status status = embed_patches(dit, s, args->latent, &p);
    if (!status)
        status = embed_time(dit, s, args->t, &p);
    if (!status)
        status = run_blocks(dit, s, args->contexts, &p);
    if (!status)
        status = modulate(dit, s, &p, p.rows, p.shift, p.scale);
    if (!status && is_guided)
        status = project_head(dit, s, args->velocity_uncond, dip_rows_slice(p.z, 0, p.half), &p);
    if (!status)
        status = project_head(dit, s, args->velocity_cond, cond, &p);
    dip_arena_reset(scratch, mark);
    return status;
}
