/* model/ar.c - Qwen3 as a list of layers: bind the tensors, run a batch of rows through them.
 *
 * The two products that a tensor-parallel group splits along their reduced dimension (attention
 * output, MLP down) are summed in a canonical number of chunks, see dip_linear_args.chunk_count:
 * one process and any group give the same bits. */
#include "model/ar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/place.h"
#include "model/scratch.h"
#include "model/shard.h"

struct layer {
    struct dip_tensor norm; /* [H] */
    struct dip_tensor q, k, v, o;
    struct dip_tensor q_norm, k_norm; /* [head_dim] */
    struct dip_tensor mlp_norm;       /* [H] */
    struct dip_tensor gate, up, down;
};

struct dip_ar {
    struct dip_ar_config config;
    struct dip_shard shard;
    int heads, kv_heads, intermediate; /* of the shard */
    struct dip_tensor embedding;       /* [V, H] */
    struct dip_tensor head;            /* [V of the shard, H] */
    struct dip_tensor norm;            /* [H] */
    struct layer *layers;
    float *inv_freq; /* [head_dim / 2] */
    void *copies;    /* of a shard: its columns of every layer's o and down, and the norms */
    enum dip_dtype activation;     /* F32 until placed */
    struct dip__placed placed;     /* where the device has memory of its own */
    struct dip_tensor frequencies; /* inv_freq where the device reads it */
};

/* Working tensors of one call; attention's and the MLP's share memory. */
struct ar_scratch {
    struct dip_tensor x;         /* [R, H] F32 residual stream */
    struct dip_tensor h;         /* [R, H] normalised */
    struct dip_tensor partial;   /* [R, H] F32 of a rank's product; shares memory with h */
    struct dip_tensor qkv;       /* [R, (heads + 2 kv_heads) * head_dim] */
    struct dip_tensor q, k, v;   /* its columns */
    struct dip_tensor attention; /* as q */
    struct dip_tensor gate_up;   /* [R, 2F] */
    struct dip_tensor gate, up;  /* its columns */
};

/* ---- loading ---- */

static enum dip_status bind_layer(struct dip_weights *w, const struct dip_ar_config *c, int i,
                                  struct dip_why *why, struct layer *l)
{
    int64_t hidden = c->hidden;
    int64_t q_width = (int64_t)c->heads * c->head_dim;
    int64_t kv_width = (int64_t)c->kv_heads * c->head_dim;

    DIP_TRY(
        dip_weights_bind_1d(w, why, &l->norm, hidden, "model.layers.%d.input_layernorm.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->q, q_width, hidden,
                                "model.layers.%d.self_attn.q_proj.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->k, kv_width, hidden,
                                "model.layers.%d.self_attn.k_proj.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->v, kv_width, hidden,
                                "model.layers.%d.self_attn.v_proj.weight", i));
    DIP_TRY(dip_weights_bind_1d(w, why, &l->q_norm, c->head_dim,
                                "model.layers.%d.self_attn.q_norm.weight", i));
    DIP_TRY(dip_weights_bind_1d(w, why, &l->k_norm, c->head_dim,
                                "model.layers.%d.self_attn.k_norm.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->o, hidden, q_width,
                                "model.layers.%d.self_attn.o_proj.weight", i));
    DIP_TRY(dip_weights_bind_1d(w, why, &l->mlp_norm, hidden,
                                "model.layers.%d.post_attention_layernorm.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->gate, c->intermediate, hidden,
                                "model.layers.%d.mlp.gate_proj.weight", i));
    DIP_TRY(dip_weights_bind_2d(w, why, &l->up, c->intermediate, hidden,
                                "model.layers.%d.mlp.up_proj.weight", i));
    return dip_weights_bind_2d(w, why, &l->down, hidden, c->intermediate,
                               "model.layers.%d.mlp.down_proj.weight", i);
}

/* From whole tensors to the rank's views of them: nothing is read. */
static void slice_layer(const struct dip_ar *ar, struct layer *l)
{
    const struct dip_shard *shard = &ar->shard;
    int64_t d = ar->config.head_dim;
    l->q = dip_rows_slice(l->q, shard->heads.first * d, shard->heads.count * d);
    l->k = dip_rows_slice(l->k, shard->kv_heads.first * d, shard->kv_heads.count * d);
    l->v = dip_rows_slice(l->v, shard->kv_heads.first * d, shard->kv_heads.count * d);
    l->o = dip_columns_slice(l->o, shard->heads.first * d, shard->heads.count * d);
    l->gate = dip_rows_slice(l->gate, shard->intermediate.first, shard->intermediate.count);
    l->up = dip_rows_slice(l->up, shard->intermediate.first, shard->intermediate.count);
    l->down = dip_columns_slice(l->down, shard->intermediate.first, shard->intermediate.count);
}

static size_t tensor_bytes(struct dip_tensor t)
{
    return dip_arena_round((size_t)dip_tensor_count(t) * dip_dtype_bytes(t.dtype));
}

/* From a view to the same values side by side, at *at. */
static void take(struct dip_tensor *t, unsigned char **at)
{
    struct dip_tensor view = *t;
    size_t element = dip_dtype_bytes(view.dtype);
    int64_t columns = dip_tensor_columns(view);
    size_t row_bytes = (size_t)columns * element;
    for (int64_t r = 0; r < dip_tensor_rows(view); r++)
        memcpy(*at + (size_t)r * row_bytes,
               (const char *)view.data + (size_t)(r * view.row_stride) * element, row_bytes);
    t->data = *at;
    t->row_stride = columns;
    *at += tensor_bytes(*t);
}

/* What a shard copies of a layer. Every page of a matrix holds some of a rank's columns, and the
 * kernel maps much around a small vector: views of them would keep what is not the rank's. */
enum { LAYER_COPIES = 6 };
static void list_copies(struct layer *l, struct dip_tensor *ret_list[LAYER_COPIES])
{
    struct dip_tensor *list[LAYER_COPIES] = {&l->o,      &l->down,   &l->norm,
                                             &l->q_norm, &l->k_norm, &l->mlp_norm};
    memcpy(ret_list, list, sizeof list);
}

static enum dip_status copy_layers(struct dip_ar *ar, struct dip_why *why)
{
    struct dip_tensor *list[LAYER_COPIES];
    size_t bytes = tensor_bytes(ar->norm);
    for (int i = 0; i < ar->config.layers; i++) {
        list_copies(&ar->layers[i], list);
        for (int t = 0; t < LAYER_COPIES; t++)
            bytes += tensor_bytes(*list[t]);
    }
    ar->copies = aligned_alloc(DIP_ARENA_ALIGN, bytes);
    if (!ar->copies)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the %zu bytes of a rank's columns",
                        bytes);
    unsigned char *at = ar->copies;
    take(&ar->norm, &at);
    for (int i = 0; i < ar->config.layers; i++) {
        list_copies(&ar->layers[i], list);
        for (int t = 0; t < LAYER_COPIES; t++)
            take(list[t], &at);
    }
    return DIP_OK;
}

/* Of the file, the rank's rows and no more: what binding looked at elsewhere may go. */
static void keep_rows(const struct dip_ar *ar, const struct dip_weights *w)
{
    dip_weights_rest(w);
    dip_weights_expect(w, ar->head);
    for (int i = 0; i < ar->config.layers; i++) {
        const struct layer *l = &ar->layers[i];
        const struct dip_tensor rows[] = {l->q, l->k, l->v, l->gate, l->up};
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            dip_weights_expect(w, rows[r]);
    }
}

static enum dip_status bind_all(struct dip_ar *ar, struct dip_weights *w, struct dip_why *why)
{
    const struct dip_ar_config *c = &ar->config;
    DIP_TRY(dip_weights_bind_2d(w, why, &ar->embedding, c->vocab, c->hidden,
                                "model.embed_tokens.weight"));
    for (int i = 0; i < c->layers; i++) {
        DIP_TRY(bind_layer(w, c, i, why, &ar->layers[i]));
        slice_layer(ar, &ar->layers[i]);
    }
    DIP_TRY(dip_weights_bind_1d(w, why, &ar->norm, c->hidden, "model.norm.weight"));
    if (c->is_tied) /* also when a stored copy differs: the reference re-ties */
        ar->head = ar->embedding;
    else
        DIP_TRY(dip_weights_bind_2d(w, why, &ar->head, c->vocab, c->hidden, "lm_head.weight"));
    ar->head = dip_rows_slice(ar->head, ar->shard.vocab.first, ar->shard.vocab.count);
    if (ar->shard.degree == 1)
        return DIP_OK;
    DIP_TRY(copy_layers(ar, why));
    keep_rows(ar, w);
    return DIP_OK;
}

/* theta^(-2j/d) with the reference's roundings: exponent and power each rounded to f32, then the
 * reciprocal. */
static void fill_inv_freq(const struct dip_ar_config *c, float *inv_freq)
{
    for (int j = 0; j < c->head_dim / 2; j++) {
        float exponent = (float)(2 * j) / (float)c->head_dim;
        inv_freq[j] = 1.0f / (float)pow(c->rope_theta, exponent);
    }
}

enum dip_status dip_ar_new(const struct dip_ar_config *config, struct dip_weights *weights,
                           struct dip_why *why, struct dip_ar **ret_ar)
{
    struct dip_shard whole = dip_shard_of(config, 0, 1);
    return dip_ar_shard_new(config, &whole, weights, why, ret_ar);
}

enum dip_status dip_ar_shard_new(const struct dip_ar_config *config, const struct dip_shard *shard,
                                 struct dip_weights *weights, struct dip_why *why,
                                 struct dip_ar **ret_ar)
{
    dip_assert(config->heads % config->kv_heads == 0);
    dip_assert(config->head_dim % 2 == 0);
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_ar *ar = calloc(1, sizeof *ar);
    if (!ar)
        goto out;
    ar->config = *config;
    ar->shard = *shard;
    ar->heads = (int)shard->heads.count;
    ar->kv_heads = (int)shard->kv_heads.count;
    ar->intermediate = (int)shard->intermediate.count;
    ar->layers = calloc((size_t)config->layers, sizeof *ar->layers);
    ar->inv_freq = calloc((size_t)config->head_dim / 2, sizeof *ar->inv_freq);
    if (!ar->layers || !ar->inv_freq)
        goto out;
    fill_inv_freq(config, ar->inv_freq);
    ar->frequencies = dip_tensor_1d(ar->inv_freq, DIP_F32, config->head_dim / 2);
    ar->activation = DIP_F32;
    status = bind_all(ar, weights, why);
    if (status)
        goto out;
    *ret_ar = ar;
    ar = NULL;
out:
    dip_ar_free(ar);
    return status;
}

void dip_ar_free(struct dip_ar *ar)
{
    if (!ar)
        return;
    dip__place_release(&ar->placed);
    free(ar->layers);
    free(ar->inv_freq);
    free(ar->copies);
    free(ar);
}

/* ---- placing ---- */

static enum dip_status place_layer(struct dip__placer *p, struct layer *l)
{
    DIP_TRY(dip__place_tensor(p, &l->norm, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &l->q, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_joined(p, &l->k));
    DIP_TRY(dip__place_joined(p, &l->v));
    DIP_TRY(dip__place_tensor(p, &l->o, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &l->q_norm, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &l->k_norm, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &l->mlp_norm, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &l->gate, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_joined(p, &l->up));
    return dip__place_tensor(p, &l->down, DIP_WEIGHT_PLAIN);
}

static enum dip_status list_all(void *network, struct dip__placer *p)
{
    struct dip_ar *ar = network;
    DIP_TRY(dip__place_tensor(p, &ar->frequencies, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &ar->embedding, DIP_WEIGHT_PLAIN));
    if (!ar->config.is_tied)
        DIP_TRY(dip__place_tensor(p, &ar->head, DIP_WEIGHT_PLAIN));
    for (int i = 0; i < ar->config.layers; i++)
        DIP_TRY(place_layer(p, &ar->layers[i]));
    return dip__place_tensor(p, &ar->norm, DIP_WEIGHT_PLAIN);
}

enum dip_status dip_ar_place(struct dip_ar *ar, struct dip_stream *s, struct dip_why *why)
{
    DIP_TRY(dip__place_all(s, list_all, ar, "autoregressive panel", why, &ar->placed));
    ar->activation = dip_device_activation(dip_stream_device(s));
    if (!ar->placed.device)
        return DIP_OK;
    if (ar->config.is_tied)
        ar->head = dip_rows_slice(ar->embedding, ar->shard.vocab.first, ar->shard.vocab.count);
    free(ar->copies);
    ar->copies = NULL;
    return DIP_OK;
}

const struct dip_ar_config *dip_ar_config(const struct dip_ar *ar)
{
    return &ar->config;
}

const struct dip_shard *dip_ar_shard(const struct dip_ar *ar)
{
    return &ar->shard;
}

/* ---- cache ---- */

/* Where the keys (half 0) or values (half 1) of a layer start. */
static struct dip_tensor cache_half(const struct dip_ar_cache *cache, enum dip_dtype dtype,
                                    int64_t kv_width, int layer, int half)
{
    int64_t elements = (int64_t)cache->slot_count * cache->capacity * kv_width;
    char *data = (char *)cache->mem.base +
                 (size_t)(((int64_t)layer * 2 + half) * elements) * dip_dtype_bytes(dtype);
    return (struct dip_tensor){.data = data,
                               .dtype = dtype,
                               .rank = 3,
                               .dims = {cache->slot_count, cache->capacity, kv_width, 1},
                               .row_stride = kv_width};
}

enum dip_status dip_ar_cache_init(const struct dip_ar *ar, struct dip_device *device,
                                  int slot_count, int capacity, struct dip_ar_cache *ret_cache)
{
    const struct dip_ar_config *c = &ar->config;
    int64_t kv_width = (int64_t)ar->kv_heads * c->head_dim;
    struct dip_ar_cache cache = {.slot_count = slot_count, .capacity = capacity};

    cache.layers = calloc((size_t)c->layers, sizeof *cache.layers);
    if (!cache.layers)
        return DIP_NO_MEMORY;
    size_t bytes = (size_t)c->layers * 2 * (size_t)slot_count * (size_t)capacity *
                   (size_t)kv_width * dip_dtype_bytes(ar->activation);
    enum dip_status status = dip_reserve(device, bytes, &cache.mem);
    if (status) {
        free(cache.layers);
        return status;
    }
    for (int i = 0; i < c->layers; i++) {
        cache.layers[i].k = cache_half(&cache, ar->activation, kv_width, i, 0);
        cache.layers[i].v = cache_half(&cache, ar->activation, kv_width, i, 1);
    }
    *ret_cache = cache;
    return DIP_OK;
}

void dip_ar_cache_deinit(const struct dip_ar *ar, struct dip_device *device,
                         struct dip_ar_cache *cache)
{
    (void)ar;
    if (!cache->layers)
        return;
    dip_release(device, &cache->mem);
    free(cache->layers);
    *cache = (struct dip_ar_cache){0};
}

/* Positions 0..count-1 of one slot. */
static struct dip_tensor cache_rows(struct dip_tensor half, int slot, int count)
{
    int64_t width = half.dims[2];
    char *data = (char *)half.data +
                 (size_t)((int64_t)slot * half.dims[1] * width) * dip_dtype_bytes(half.dtype);
    return dip_rows(data, half.dtype, count, width);
}

enum dip_status dip_ar_cache_share(const struct dip_ar *ar, struct dip_stream *s,
                                   struct dip_ar_cache *cache, int from_slot, int to_slot,
                                   int count)
{
    dip_assert(count <= cache->capacity);
    dip_assert(from_slot != to_slot);
    for (int i = 0; i < ar->config.layers && count > 0; i++) {
        const struct dip_kv *kv = &cache->layers[i];
        DIP_TRY(
            dip_copy(s, cache_rows(kv->k, to_slot, count), cache_rows(kv->k, from_slot, count)));
        DIP_TRY(
            dip_copy(s, cache_rows(kv->v, to_slot, count), cache_rows(kv->v, from_slot, count)));
    }
    return DIP_OK;
}

/* ---- forward ---- */

static struct ar_scratch carve(const struct dip_ar *ar, int64_t rows, struct dip_arena *scratch)
{
    const struct dip_ar_config *c = &ar->config;
    int64_t q_width = (int64_t)ar->heads * c->head_dim;
    int64_t kv_width = (int64_t)ar->kv_heads * c->head_dim;
    int64_t F = ar->intermediate;
    struct ar_scratch t;

    t.x = dip__scratch_rows(scratch, rows, c->hidden);
    t.partial = dip__scratch_rows(scratch, rows, c->hidden);
    t.h = dip_rows(t.partial.data, ar->activation, rows, c->hidden);
    size_t mark = dip_arena_mark(scratch);
    t.qkv = dip__scratch_of(scratch, ar->activation, rows, q_width + 2 * kv_width);
    t.q = dip_columns_slice(t.qkv, 0, q_width);
    t.k = dip_columns_slice(t.qkv, q_width, kv_width);
    t.v = dip_columns_slice(t.qkv, q_width + kv_width, kv_width);
    t.attention = dip__scratch_of(scratch, ar->activation, rows, q_width);
    dip_arena_reset(scratch, mark);
    t.gate_up = dip__scratch_of(scratch, ar->activation, rows, 2 * F);
    t.gate = dip_columns_slice(t.gate_up, 0, F);
    t.up = dip_columns_slice(t.gate_up, F, F);
    return t;
}

size_t dip_ar_scratch_bytes(const struct dip_ar *ar, int row_count)
{
    struct dip_arena meter = dip__scratch_meter();
    carve(ar, row_count, &meter);
    return meter.peak_bytes;
}

static enum dip_status linear(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                              struct dip_tensor weight)
{
    return dip_linear(s, &(struct dip_linear_args){.out = out, .in = in, .weight = weight});
}

/* x += in weight^T, summed the canonical way: at once, or this rank's sub-tree, then the others'.
 * h is free by then: its products are done. */
static enum dip_status linear_reduced(const struct dip_ar *ar, struct dip_stream *s,
                                      struct dip_comm *comm, const struct ar_scratch *t,
                                      struct dip_tensor in, struct dip_tensor weight)
{
    int degree = ar->shard.degree;
    int chunk_count = dip_shard_chunks(&ar->config, dip_tensor_columns(in) * degree) / degree;
    struct dip_linear_args a = {.out = degree == 1 ? t->x : t->partial,
                                .in = in,
                                .weight = weight,
                                .chunk_count = chunk_count,
                                .is_added = degree == 1};
    DIP_TRY(dip_linear(s, &a));
    if (degree == 1)
        return DIP_OK;
    DIP_TRY(dip_comm_sum(comm, s, t->partial));
    return dip_add(s, &(struct dip_add_args){.sum = t->x, .x = t->partial});
}

static enum dip_status norm(const struct dip_ar *ar, struct dip_stream *s, struct dip_tensor out,
                            struct dip_tensor in, struct dip_tensor weight)
{
    return dip_norm_rms(s, &(struct dip_norm_rms_args){
                               .out = out, .in = in, .weight = weight, .eps = ar->config.norm_eps});
}

/* From x, normalised on the way; at one stroke where the weights lie side by side. */
static enum dip_status project_qkv(const struct dip_ar *ar, struct dip_stream *s,
                                   const struct layer *l, const struct ar_scratch *t)
{
    const struct dip_tensor *const parts[] = {&l->q, &l->k, &l->v};
    struct dip_linear_normed_args all = {
        .out = t->qkv, .in = t->x, .norm = l->norm, .normed = t->h, .eps = ar->config.norm_eps};
    if (dip__join(parts, 3, &all.weight))
        return dip_linear_normed(s, &all);
    DIP_TRY(norm(ar, s, t->h, t->x, l->norm));
    DIP_TRY(linear(s, t->q, t->h, l->q));
    DIP_TRY(linear(s, t->k, t->h, l->k));
    return linear(s, t->v, t->h, l->v);
}

/* The same of the MLP: what the gate lets through, in gate. */
static enum dip_status project_gated(const struct dip_ar *ar, struct dip_stream *s,
                                     const struct layer *l, const struct ar_scratch *t)
{
    const struct dip_tensor *const parts[] = {&l->gate, &l->up};
    struct dip_linear_normed_args both = {.out = t->gate,
                                          .in = t->x,
                                          .norm = l->mlp_norm,
                                          .normed = t->h,
                                          .pair = t->gate_up,
                                          .eps = ar->config.norm_eps,
                                          .is_gated = true};
    if (dip__join(parts, 2, &both.weight))
        return dip_linear_normed(s, &both);
    DIP_TRY(norm(ar, s, t->h, t->x, l->mlp_norm));
    DIP_TRY(linear(s, t->gate, t->h, l->gate));
    DIP_TRY(linear(s, t->up, t->h, l->up));
    return dip_silu_mul(s,
                        &(struct dip_silu_mul_args){.out = t->gate, .gate = t->gate, .up = t->up});
}

static enum dip_status attend(const struct dip_ar *ar, struct dip_stream *s, const struct layer *l,
                              const struct dip_ar_args *args, int layer, const struct ar_scratch *t)
{
    const struct dip_ar_config *c = &ar->config;
    struct dip_kv kv = args->cache->layers[layer];
    DIP_TRY(project_qkv(ar, s, l, t));
    DIP_TRY(dip_qkv_rope(s, &(struct dip_qkv_rope_args){.qkv = t->qkv,
                                                        .q_norm = l->q_norm,
                                                        .k_norm = l->k_norm,
                                                        .kv = kv,
                                                        .rows = args->rows,
                                                        .inv_freq = ar->frequencies.data,
                                                        .heads = ar->heads,
                                                        .kv_heads = ar->kv_heads,
                                                        .head_dim = c->head_dim,
                                                        .eps = c->norm_eps}));
    DIP_TRY(dip_attend(s, &(struct dip_attend_args){.out = t->attention,
                                                    .q = t->q,
                                                    .kv = kv,
                                                    .rows = args->rows,
                                                    .heads = ar->heads,
                                                    .kv_heads = ar->kv_heads,
                                                    .head_dim = c->head_dim}));
    return linear_reduced(ar, s, args->comm, t, t->attention, l->o);
}

static enum dip_status feed_forward(const struct dip_ar *ar, struct dip_stream *s,
                                    const struct layer *l, struct dip_comm *comm,
                                    const struct ar_scratch *t)
{
    DIP_TRY(project_gated(ar, s, l, t));
    return linear_reduced(ar, s, comm, t, t->gate, l->down);
}

static void check_rows(const struct dip_ar_args *args, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++) {
        dip_assert(args->rows[r].slot >= 0 && args->rows[r].slot < args->cache->slot_count);
        dip_assert(args->rows[r].position >= 0 && args->rows[r].position < args->cache->capacity);
    }
}

enum dip_status dip_ar_forward(const struct dip_ar *ar, struct dip_stream *s,
                               const struct dip_ar_args *args, struct dip_arena *scratch)
{
    int64_t rows = dip_tensor_rows(args->hidden);
    dip_assert((args->comm ? dip_comm_count(args->comm) : 1) == ar->shard.degree);
    dip_assert((args->comm ? dip_comm_rank(args->comm) : 0) == ar->shard.rank);
    struct dip_ar_args staged = *args;
    staged.rows = dip_stage(s, args->rows, (size_t)rows * sizeof *args->rows);
    if (!staged.rows)
        return DIP_DEVICE;
    if (staged.rows != args->rows || dip_device_reads_host(dip_stream_device(s)))
        check_rows(args, rows);
    size_t mark = dip_arena_mark(scratch);
    struct ar_scratch t = carve(ar, rows, scratch);

    enum dip_status status = dip_embed(
        s, &(struct dip_embed_args){.out = t.x, .table = ar->embedding, .ids = args->ids});
    for (int i = 0; i < ar->config.layers && !status; i++) {
        const struct layer *l = &ar->layers[i];
        status = attend(ar, s, l, &staged, i, &t);
        if (!status)
            status = feed_forward(ar, s, l, args->comm, &t);
    }
    if (!status)
        status = norm(ar, s, args->hidden, t.x, ar->norm);
    dip_arena_reset(scratch, mark);
    return status;
}

enum dip_status dip_ar_logits(const struct dip_ar *ar, struct dip_stream *s,
                              struct dip_tensor logits, struct dip_tensor hidden)
{
    return linear(s, logits, hidden, ar->head);
}
