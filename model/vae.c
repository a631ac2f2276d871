/* model/vae.c - DC-AE decoder: bind the tensors, run the stages from the smallest to the largest.
 *
 * Activations are [pixels, channels]; two buffers of the largest stage's size are used in turns,
 * and a third region of the arena serves one block at a time. Stages are stored in the encoder's
 * order, so they run from the last index to 0; every stage but the last begins with an enlarging
 * convolution. */
#include "model/vae.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "model/place.h"
#include "model/scratch.h"

enum { FFN_EXPANSION = 4 };
static const float VAE_EPS = 1e-5f;

struct res_block {
    struct dip_tensor conv1, conv1_bias, conv2; /* [C, C, 3, 3], [C], [C, C, 3, 3] */
    struct dip_tensor norm, norm_bias;          /* [C] */
};

struct vit_block {
    struct dip_tensor qkv[3];                  /* [C, C] thirds of one projection, not q, k, v */
    struct dip_tensor scale_in;                /* [3C, 1, 5, 5] */
    struct dip_tensor scale_out;               /* [3C, head_dim, 1, 1] */
    struct dip_tensor out;                     /* [C, 2C] */
    struct dip_tensor norm, norm_bias;         /* [C] */
    struct dip_tensor inverted, inverted_bias; /* [8C, C, 1, 1], [8C] */
    struct dip_tensor depth, depth_bias;       /* [8C, 1, 3, 3], [8C] */
    struct dip_tensor point;                   /* [C, 4C, 1, 1] */
    struct dip_tensor ffn_norm, ffn_norm_bias; /* [C] */
};

union block {
    struct res_block res;
    struct vit_block vit;
};

struct stage {
    struct dip_tensor up, up_bias; /* [Cout or 4 Cout, Cin, 3, 3]; absent in the last stage */
    union block *blocks;           /* [layers] */
};

struct dip_vae {
    struct dip_vae_config config;
    struct dip_tensor conv_in, conv_in_bias;
    struct dip_tensor norm_out, norm_out_bias;
    struct dip_tensor conv_out, conv_out_bias;
    struct stage stages[DIP_VAE_STAGES_MAX];
    enum dip_dtype activation; /* F32 until placed */
    struct dip__placed placed;
};

/* ---- loading ---- */

static enum dip_status bind_res(struct dip_weights *w, const char *prefix, int64_t C,
                                struct dip_why *why, struct res_block *b)
{
    DIP_TRY(dip_weights_bind_4d(w, why, &b->conv1, C, C, 3, 3, "%s.conv1.weight", prefix));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->conv1_bias, C, "%s.conv1.bias", prefix));
    DIP_TRY(dip_weights_bind_4d(w, why, &b->conv2, C, C, 3, 3, "%s.conv2.weight", prefix));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->norm, C, "%s.norm.weight", prefix));
    return dip_weights_bind_1d(w, why, &b->norm_bias, C, "%s.norm.bias", prefix);
}

static enum dip_status bind_vit_attention(struct dip_weights *w, const char *prefix, int64_t C,
                                          int64_t head_dim, int64_t kernel, struct dip_why *why,
                                          struct vit_block *b)
{
    static const char *const thirds[3] = {"to_q", "to_k", "to_v"};
    for (int i = 0; i < 3; i++)
        DIP_TRY(
            dip_weights_bind_2d(w, why, &b->qkv[i], C, C, "%s.attn.%s.weight", prefix, thirds[i]));
    if (kernel) {
        DIP_TRY(dip_weights_bind_4d(w, why, &b->scale_in, 3 * C, 1, kernel, kernel,
                                    "%s.attn.to_qkv_multiscale.0.proj_in.weight", prefix));
        DIP_TRY(dip_weights_bind_4d(w, why, &b->scale_out, 3 * C, head_dim, 1, 1,
                                    "%s.attn.to_qkv_multiscale.0.proj_out.weight", prefix));
    }
    DIP_TRY(dip_weights_bind_2d(w, why, &b->out, C, kernel ? 2 * C : C, "%s.attn.to_out.weight",
                                prefix));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->norm, C, "%s.attn.norm_out.weight", prefix));
    return dip_weights_bind_1d(w, why, &b->norm_bias, C, "%s.attn.norm_out.bias", prefix);
}

static enum dip_status bind_vit_ffn(struct dip_weights *w, const char *prefix, int64_t C,
                                    struct dip_why *why, struct vit_block *b)
{
    int64_t F = FFN_EXPANSION * C;
    DIP_TRY(dip_weights_bind_4d(w, why, &b->inverted, 2 * F, C, 1, 1,
                                "%s.conv_out.conv_inverted.weight", prefix));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->inverted_bias, 2 * F, "%s.conv_out.conv_inverted.bias",
                                prefix));
    DIP_TRY(dip_weights_bind_4d(w, why, &b->depth, 2 * F, 1, 3, 3, "%s.conv_out.conv_depth.weight",
                                prefix));
    DIP_TRY(
        dip_weights_bind_1d(w, why, &b->depth_bias, 2 * F, "%s.conv_out.conv_depth.bias", prefix));
    DIP_TRY(dip_weights_bind_4d(w, why, &b->point, C, F, 1, 1, "%s.conv_out.conv_point.weight",
                                prefix));
    DIP_TRY(dip_weights_bind_1d(w, why, &b->ffn_norm, C, "%s.conv_out.norm.weight", prefix));
    return dip_weights_bind_1d(w, why, &b->ffn_norm_bias, C, "%s.conv_out.norm.bias", prefix);
}

static bool is_last(const struct dip_vae_config *c, int stage)
{
    return stage == c->stages - 1;
}

static enum dip_status bind_stage(struct dip_weights *w, const struct dip_vae_config *c, int index,
                                  struct dip_why *why, struct stage *stage)
{
    int64_t C = c->channels[index];
    int first = is_last(c, index) ? 0 : 1; /* name of the first block: 0 is the up block */
    if (!is_last(c, index)) {
        int64_t wide = c->is_pixel_shuffle ? 4 * C : C;
        DIP_TRY(dip_weights_bind_4d(w, why, &stage->up, wide, c->channels[index + 1], 3, 3,
                                    "model.sana_vae.decoder.up_blocks.%d.0.conv.weight", index));
        DIP_TRY(dip_weights_bind_1d(w, why, &stage->up_bias, wide,
                                    "model.sana_vae.decoder.up_blocks.%d.0.conv.bias", index));
    }
    for (int i = 0; i < c->layers[index]; i++) {
        char prefix[96];
        (void)snprintf(prefix, sizeof prefix, "model.sana_vae.decoder.up_blocks.%d.%d", index,
                       first + i);
        union block *block = &stage->blocks[i];
        if (c->block[index] == DIP_VAE_RES) {
            DIP_TRY(bind_res(w, prefix, C, why, &block->res));
            continue;
        }
        DIP_TRY(bind_vit_attention(w, prefix, C, c->head_dim, c->scale_kernel[index], why,
                                   &block->vit));
        DIP_TRY(bind_vit_ffn(w, prefix, C, why, &block->vit));
    }
    return DIP_OK;
}

static enum dip_status bind_all(struct dip_vae *v, struct dip_weights *w, struct dip_why *why)
{
    const struct dip_vae_config *c = &v->config;
    int64_t first = c->channels[c->stages - 1], last = c->channels[0];
    DIP_TRY(dip_weights_bind_4d(w, why, &v->conv_in, first, c->latent_channels, 3, 3,
                                "model.sana_vae.decoder.conv_in.weight"));
    DIP_TRY(dip_weights_bind_1d(w, why, &v->conv_in_bias, first,
                                "model.sana_vae.decoder.conv_in.bias"));
    for (int i = 0; i < c->stages; i++)
        DIP_TRY(bind_stage(w, c, i, why, &v->stages[i]));
    DIP_TRY(
        dip_weights_bind_1d(w, why, &v->norm_out, last, "model.sana_vae.decoder.norm_out.weight"));
    DIP_TRY(dip_weights_bind_1d(w, why, &v->norm_out_bias, last,
                                "model.sana_vae.decoder.norm_out.bias"));
    DIP_TRY(dip_weights_bind_4d(w, why, &v->conv_out, 3, last, 3, 3,
                                "model.sana_vae.decoder.conv_out.weight"));
    return dip_weights_bind_1d(w, why, &v->conv_out_bias, 3,
                               "model.sana_vae.decoder.conv_out.bias");
}

enum dip_status dip_vae_new(const struct dip_vae_config *config, struct dip_weights *weights,
                            struct dip_why *why, struct dip_vae **ret_vae)
{
    dip_assert(config->stages >= 1 && config->stages <= DIP_VAE_STAGES_MAX);
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_vae *vae = calloc(1, sizeof *vae);
    if (!vae)
        goto out;
    vae->config = *config;
    vae->activation = DIP_F32;
    for (int i = 0; i < config->stages; i++) {
        vae->stages[i].blocks = calloc((size_t)config->layers[i] + 1, sizeof(union block));
        if (!vae->stages[i].blocks)
            goto out;
    }
    status = bind_all(vae, weights, why);
    if (status)
        goto out;
    *ret_vae = vae;
    vae = NULL;
out:
    dip_vae_free(vae);
    return status;
}

void dip_vae_free(struct dip_vae *vae)
{
    if (!vae)
        return;
    dip__place_release(&vae->placed);
    for (int i = 0; i < vae->config.stages; i++)
        free(vae->stages[i].blocks);
    free(vae);
}

/* ---- placing ---- */

static enum dip_status place_res(struct dip__placer *p, struct res_block *b)
{
    DIP_TRY(dip__place_tensor(p, &b->conv1, DIP_WEIGHT_CONV));
    DIP_TRY(dip__place_tensor(p, &b->conv1_bias, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &b->conv2, DIP_WEIGHT_CONV));
    DIP_TRY(dip__place_tensor(p, &b->norm, DIP_WEIGHT_PLAIN));
    return dip__place_tensor(p, &b->norm_bias, DIP_WEIGHT_PLAIN);
}

static enum dip_status place_vit(struct dip__placer *p, struct vit_block *b)
{
    struct dip_tensor *list[] = {&b->out,      &b->norm,          &b->norm_bias,  &b->inverted,
                                 &b->depth,    &b->inverted_bias, &b->depth_bias, &b->point,
                                 &b->ffn_norm, &b->ffn_norm_bias, &b->scale_in,   &b->scale_out};
    DIP_TRY(dip__place_tensor(p, &b->qkv[0], DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_joined(p, &b->qkv[1]));
    DIP_TRY(dip__place_joined(p, &b->qkv[2]));
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (list[i]->data) /* stages without a second scale have no weights for it */
            DIP_TRY(dip__place_tensor(p, list[i], DIP_WEIGHT_PLAIN));
    return DIP_OK;
}

static enum dip_status place_stage(const struct dip_vae *v, struct dip__placer *p, int index,
                                   struct stage *stage)
{
    const struct dip_vae_config *c = &v->config;
    enum dip_weight_use use = c->is_pixel_shuffle ? DIP_WEIGHT_CONV : DIP_WEIGHT_CONV_UPSAMPLED;
    if (!is_last(c, index)) {
        DIP_TRY(dip__place_tensor(p, &stage->up, use));
        DIP_TRY(dip__place_tensor(p, &stage->up_bias, DIP_WEIGHT_PLAIN));
    }
    for (int i = 0; i < c->layers[index]; i++) {
        union block *b = &stage->blocks[i];
        DIP_TRY(c->block[index] == DIP_VAE_RES ? place_res(p, &b->res) : place_vit(p, &b->vit));
    }
    return DIP_OK;
}

static enum dip_status list_all(void *network, struct dip__placer *p)
{
    struct dip_vae *v = network;
    DIP_TRY(dip__place_tensor(p, &v->conv_in, DIP_WEIGHT_CONV));
    DIP_TRY(dip__place_tensor(p, &v->conv_in_bias, DIP_WEIGHT_PLAIN));
    for (int i = 0; i < v->config.stages; i++)
        DIP_TRY(place_stage(v, p, i, &v->stages[i]));
    DIP_TRY(dip__place_tensor(p, &v->norm_out, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &v->norm_out_bias, DIP_WEIGHT_PLAIN));
    DIP_TRY(dip__place_tensor(p, &v->conv_out, DIP_WEIGHT_CONV));
    return dip__place_tensor(p, &v->conv_out_bias, DIP_WEIGHT_PLAIN);
}

enum dip_status dip_vae_place(struct dip_vae *vae, struct dip_stream *s, struct dip_why *why)
{
    DIP_TRY(dip__place_all(s, list_all, vae, "autoencoder", why, &vae->placed));
    vae->activation = dip_device_activation(dip_stream_device(s));
    return DIP_OK;
}

/* ---- working memory ---- */

/* A stage at work: x is the stage's activation, spare a second buffer as large. Their memory
 * changes hands with every enlargement. */
struct pass {
    int64_t height, width;      /* of this stage, pixels */
    struct dip_tensor x, spare; /* [pixels, C] */
};

/* What one block or enlargement needs besides x and spare. */
struct work {
    struct dip_tensor qkv;   /* [pixels, 3C or 6C] the projection, then its smoothed copy */
    struct dip_tensor mixed; /* [pixels, 3C] depthwise result, then the heads' outputs [.., 2C] */
    struct dip_tensor wide, gated; /* [pixels, 8C], [pixels, 4C] */
    struct dip_tensor inner;       /* [pixels, C] of a residual block */
    struct dip_tensor shuffled;    /* [pixels / 4, 4C] of a shuffling enlargement */
};

static struct work carve_work(const struct dip_vae *v, int stage, int64_t pixels,
                              struct dip_arena *scratch)
{
    const struct dip_vae_config *c = &v->config;
    int64_t C = c->channels[stage];
    struct work t = {0};
    size_t mark = dip_arena_mark(scratch);
    if (c->is_pixel_shuffle && !is_last(c, stage))
        t.shuffled = dip__scratch_of(scratch, v->activation, pixels / 4, 4 * C);
    dip_arena_reset(scratch, mark);
    if (c->block[stage] == DIP_VAE_RES) {
        t.inner = dip__scratch_of(scratch, v->activation, pixels, C);
        return t;
    }
    t.qkv = dip__scratch_of(scratch, v->activation, pixels, c->scale_kernel[stage] ? 6 * C : 3 * C);
    t.mixed = dip__scratch_of(scratch, v->activation, pixels, 3 * C);
    dip_arena_reset(scratch, mark);
    t.wide = dip__scratch_of(scratch, v->activation, pixels, 2 * FFN_EXPANSION * C);
    t.gated = dip__scratch_of(scratch, v->activation, pixels, FFN_EXPANSION * C);
    return t;
}

static int64_t stage_pixels(const struct dip_vae *v, int stage, int64_t height, int64_t width)
{
    int doublings = v->config.stages - 1 - stage;
    return (height << doublings) * (width << doublings);
}

/* The scaled latent and the two buffers that every stage shares. */
struct buffers {
    struct dip_tensor latent; /* [h * w, c] */
    void *memory[2];
};

static struct buffers carve_buffers(const struct dip_vae *v, int64_t height, int64_t width,
                                    struct dip_arena *scratch)
{
    int64_t elements = 0;
    for (int i = 0; i < v->config.stages; i++) {
        int64_t count = stage_pixels(v, i, height, width) * v->config.channels[i];
        elements = count > elements ? count : elements;
    }
    struct buffers b;
    b.latent = dip__scratch_of(scratch, v->activation, height * width, v->config.latent_channels);
    b.memory[0] = dip__scratch_of(scratch, v->activation, 1, elements).data;
    b.memory[1] = dip__scratch_of(scratch, v->activation, 1, elements).data;
    return b;
}

size_t dip_vae_scratch_bytes(const struct dip_vae *vae, int64_t height, int64_t width)
{
    struct dip_arena meter = dip__scratch_meter();
    carve_buffers(vae, height, width, &meter);
    size_t mark = dip_arena_mark(&meter);
    for (int i = 0; i < vae->config.stages; i++) {
        carve_work(vae, i, stage_pixels(vae, i, height, width), &meter);
        dip_arena_reset(&meter, mark);
    }
    return meter.peak_bytes;
}

/* ---- forward ---- */

static struct dip_tensor as_image(const struct pass *p, struct dip_tensor rows)
{
    return dip__as_image(rows, 1, p->height, p->width);
}

static enum dip_status conv(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                            struct dip_tensor weight, const struct dip_tensor *bias,
                            enum dip_act act, int upsample)
{
    return dip_conv(s, &(struct dip_conv_args){.out = out,
                                               .in = in,
                                               .weight = weight,
                                               .bias = bias,
                                               .act = act,
                                               .upsample = upsample,
                                               .stride = 1});
}

/* x += RMSNorm(in), the end of every block. */
static enum dip_status add_norm(struct dip_stream *s, struct dip_tensor x, struct dip_tensor in,
                                struct dip_tensor weight, const struct dip_tensor *bias)
{
    return dip_norm_rms(
        s,
        &(struct dip_norm_rms_args){
            .out = x, .in = in, .weight = weight, .bias = bias, .eps = VAE_EPS, .is_added = true});
}

static enum dip_status run_res(struct dip_stream *s, const struct res_block *b,
                               const struct pass *p, const struct work *t)
{
    DIP_TRY(conv(s, as_image(p, p->spare), as_image(p, p->x), b->conv1, &b->conv1_bias,
                 DIP_ACT_SILU, 1));
    DIP_TRY(conv(s, as_image(p, t->inner), as_image(p, p->spare), b->conv2, NULL, DIP_ACT_NONE, 1));
    return add_norm(s, p->x, t->inner, b->norm, &b->norm_bias);
}

static enum dip_status linear(struct dip_stream *s, struct dip_tensor out, struct dip_tensor in,
                              struct dip_tensor weight)
{
    return dip_linear(
        s, &(struct dip_linear_args){
               .out = out, .in = in, .weight = weight, .rows_per_item = dip_tensor_rows(in)});
}

/* Columns 0..3C-1 of t->qkv are the fused projection, 3C..6C-1 the same after a depthwise
 * convolution and a product within groups of head_dim channels. Heads are cut from the whole:
 * head h has q, k and v in the three runs of head_dim columns from 3 * head_dim * h on, so that
 * a head may straddle the boundary between to_q and to_k. */
static enum dip_status project_qkv(const struct dip_vae *v, struct dip_stream *s, int stage,
                                   const struct vit_block *b, const struct pass *p,
                                   const struct work *t)
{
    int64_t C = v->config.channels[stage];
    const struct dip_tensor *const thirds[] = {&b->qkv[0], &b->qkv[1], &b->qkv[2]};
    struct dip_tensor all;
    bool is_joined = dip__join(thirds, 3, &all);
    if (is_joined)
        DIP_TRY(linear(s, dip_columns_slice(t->qkv, 0, 3 * C), p->x, all));
    for (int i = 0; i < 3 && !is_joined; i++)
        DIP_TRY(linear(s, dip_columns_slice(t->qkv, i * C, C), p->x, b->qkv[i]));
    if (!v->config.scale_kernel[stage])
        return DIP_OK;
    DIP_TRY(dip_conv_depthwise(
        s, &(struct dip_conv_depthwise_args){.out = as_image(p, t->mixed),
                                             .in = as_image(p, dip_columns_slice(t->qkv, 0, 3 * C)),
                                             .weight = b->scale_in}));
    return dip_linear_grouped(
        s, &(struct dip_linear_grouped_args){.out = dip_columns_slice(t->qkv, 3 * C, 3 * C),
                                             .in = t->mixed,
                                             .weight = b->scale_out,
                                             .groups = (int)(3 * C / v->config.head_dim)});
}

static enum dip_status run_vit_attention(const struct dip_vae *v, struct dip_stream *s, int stage,
                                         const struct vit_block *b, const struct pass *p,
                                         const struct work *t)
{
    int64_t d = v->config.head_dim;
    int64_t columns = dip_tensor_columns(t->qkv), rows = p->height * p->width;
    struct dip_tensor out = dip_rows(t->mixed.data, v->activation, rows, columns / 3);

    DIP_TRY(project_qkv(v, s, stage, b, p, t));
    DIP_TRY(dip_attend_linear(
        s, &(struct dip_attend_linear_args){.out = out,
                                            .q = dip_columns_slice(t->qkv, 0, columns - 2 * d),
                                            .k = dip_columns_slice(t->qkv, d, columns - 2 * d),
                                            .v = dip_columns_slice(t->qkv, 2 * d, columns - 2 * d),
                                            .heads = (int)(columns / (3 * d)),
                                            .head_dim = (int)d,
                                            .head_stride = (int)(3 * d),
                                            .rows_per_item = rows}));
    DIP_TRY(linear(s, p->spare, out, b->out));
    return add_norm(s, p->x, p->spare, b->norm, &b->norm_bias);
}

static enum dip_status run_vit_ffn(struct dip_stream *s, const struct vit_block *b,
                                   const struct pass *p, const struct work *t)
{
    DIP_TRY(dip_linear(s, &(struct dip_linear_args){.out = t->wide,
                                                    .in = p->x,
                                                    .weight = b->inverted,
                                                    .bias = &b->inverted_bias,
                                                    .act = DIP_ACT_SILU,
                                                    .rows_per_item = dip_tensor_rows(p->x)}));
    DIP_TRY(dip_conv_depthwise(s, &(struct dip_conv_depthwise_args){.out = as_image(p, t->gated),
                                                                    .in = as_image(p, t->wide),
                                                                    .weight = b->depth,
                                                                    .bias = &b->depth_bias,
                                                                    .is_gated = true}));
    DIP_TRY(linear(s, p->spare, t->gated, b->point));
    return add_norm(s, p->x, p->spare, b->ffn_norm, &b->ffn_norm_bias);
}

/* Twice as large into the spare buffer, which then becomes x. The shortcut is the input with its
 * channels repeated and shuffled into pixels. */
static enum dip_status enlarge(const struct dip_vae *v, struct dip_stream *s, int stage,
                               struct dip_arena *scratch, struct pass *p)
{
    int64_t C = v->config.channels[stage];
    const struct stage *g = &v->stages[stage];
    struct pass next = {.height = 2 * p->height, .width = 2 * p->width};
    int64_t pixels = next.height * next.width;
    next.x = dip_rows(p->spare.data, v->activation, pixels, C);
    next.spare = dip_rows(p->x.data, v->activation, pixels, C);
    struct dip_tensor in = as_image(p, p->x), out = as_image(&next, next.x);

    if (v->config.is_pixel_shuffle) {
        size_t mark = dip_arena_mark(scratch);
        struct dip_tensor wide = as_image(p, carve_work(v, stage, pixels, scratch).shuffled);
        dip_arena_reset(scratch, mark); /* nothing else is carved while `wide` is in use */
        DIP_TRY(conv(s, wide, in, g->up, &g->up_bias, DIP_ACT_NONE, 1));
        DIP_TRY(dip_pixel_shuffle(s, &(struct dip_pixel_shuffle_args){.out = out, .in = wide}));
    } else {
        DIP_TRY(conv(s, out, in, g->up, &g->up_bias, DIP_ACT_NONE, 2));
    }
    DIP_TRY(dip_pixel_shuffle(
        s, &(struct dip_pixel_shuffle_args){.out = out, .in = in, .is_added = true}));
    *p = next;
    return DIP_OK;
}

static enum dip_status run_stage(const struct dip_vae *v, struct dip_stream *s, int stage,
                                 struct dip_arena *scratch, struct pass *p)
{
    const struct dip_vae_config *c = &v->config;
    if (!is_last(c, stage))
        DIP_TRY(enlarge(v, s, stage, scratch, p));
    size_t mark = dip_arena_mark(scratch);
    struct work t = carve_work(v, stage, p->height * p->width, scratch);
    dip_arena_reset(scratch, mark); /* nothing else is carved while `t` is in use */
    for (int i = 0; i < c->layers[stage]; i++) {
        const union block *b = &v->stages[stage].blocks[i];
        if (c->block[stage] == DIP_VAE_RES) {
            DIP_TRY(run_res(s, &b->res, p, &t));
        } else {
            DIP_TRY(run_vit_attention(v, s, stage, &b->vit, p, &t));
            DIP_TRY(run_vit_ffn(s, &b->vit, p, &t));
        }
    }
    return DIP_OK;
}

/* conv_in and its shortcut: each latent channel repeated. */
static enum dip_status enter(const struct dip_vae *v, struct dip_stream *s,
                             struct dip_tensor latent, struct dip_tensor scaled,
                             const struct pass *p)
{
    float unscale = (float)(1.0 / v->config.scaling_factor);
    DIP_TRY(dip_blend(s, &(struct dip_blend_args){.out = scaled,
                                                  .in = {dip__as_rows(latent)},
                                                  .coefficients = &unscale,
                                                  .count = 1,
                                                  .items = 1}));
    DIP_TRY(conv(s, as_image(p, p->x), as_image(p, scaled), v->conv_in, &v->conv_in_bias,
                 DIP_ACT_NONE, 1));
    return dip_repeat_add(s, &(struct dip_repeat_add_args){.out = p->x, .in = scaled});
}

static enum dip_status leave(const struct dip_vae *v, struct dip_stream *s, struct dip_tensor image,
                             const struct pass *p)
{
    DIP_TRY(dip_norm_rms(s, &(struct dip_norm_rms_args){.out = p->x,
                                                        .in = p->x,
                                                        .weight = v->norm_out,
                                                        .bias = &v->norm_out_bias,
                                                        .eps = VAE_EPS,
                                                        .act = DIP_ACT_RELU}));
    return conv(s, dip__as_image(dip__as_rows(image), 1, p->height, p->width), as_image(p, p->x),
                v->conv_out, &v->conv_out_bias, DIP_ACT_NONE, 1);
}

enum dip_status dip_vae_decode(const struct dip_vae *vae, struct dip_stream *s,
                               struct dip_tensor image, struct dip_tensor latent,
                               struct dip_arena *scratch)
{
    const struct dip_vae_config *c = &vae->config;
    dip_assert(latent.rank >= 3);
    dip_assert(dip_tensor_columns(latent) == c->latent_channels);
    int64_t height = latent.dims[latent.rank - 3], width = latent.dims[latent.rank - 2];
    dip_assert(dip_tensor_rows(latent) == height * width); /* one picture at a time */
    dip_assert(dip_tensor_rows(image) == stage_pixels(vae, 0, height, width));

    size_t mark = dip_arena_mark(scratch);
    struct buffers b = carve_buffers(vae, height, width, scratch);
    int64_t C = c->channels[c->stages - 1];
    struct pass p = {.height = height, .width = width};
    p.x = dip_rows(b.memory[0], vae->activation, height * width, C);
    p.spare = dip_rows(b.memory[1], vae->activation, height * width, C);

    enum dip_status status = enter(vae, s, latent, b.latent, &p);
    for (int stage = c->stages - 1; stage >= 0 && !status; stage--)
        status = run_stage(vae, s, stage, scratch, &p);
    if (!status)
        status = leave(vae, s, image, &p);
    dip_arena_reset(scratch, mark);
    return status;
}
