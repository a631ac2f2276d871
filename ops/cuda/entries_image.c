/* ops/cuda/entries_image.c - CUDA entries: the diffusion half's attention, convolutions, layout.
 *
 * A convolution reads weights as dip_weight_place has packed them. */
#include <assert.h>

#include "ops/cuda/entries.h"

static_assert(sizeof(struct dip_cross_context) == sizeof(struct dip_cuda_context),
              "contexts agree");
static_assert(sizeof(struct dip_sampler_item) == sizeof(struct dip_cuda_sampler_item),
              "items agree");
static_assert((int)DIP_SAMPLER_SECOND == (int)DIP_CUDA_SAMPLER_SECOND, "rules agree");

/* ---- attention ---- */

enum dip_status dip__cuda_attend_cross(struct dip_stream *s, const struct dip_attend_cross_args *a)
{
    return DIP__CUDA_LAUNCH(s, attend_cross, .out = dip__cuda_view(a->out),
                            .q = dip__cuda_view(a->q), .k = dip__cuda_view(a->k),
                            .v = dip__cuda_view(a->v), .head_count = a->heads,
                            .head_dim = a->head_dim);
}

enum dip_status dip__cuda_attend_contexts(struct dip_stream *s,
                                          const struct dip_attend_contexts_args *a)
{
    size_t items = (size_t)(dip_tensor_rows(a->q) / a->rows_per_item);
    STAGE(s, contexts, a->contexts, items * sizeof *a->contexts);
    return DIP__CUDA_LAUNCH(s, attend_cross, .out = dip__cuda_view(a->out),
                            .q = dip__cuda_view(a->q), .contexts = contexts,
                            .rows_per_item = a->rows_per_item, .block = a->block,
                            .head_count = a->heads, .head_dim = a->head_dim);
}

enum dip_status dip__cuda_attend_linear(struct dip_stream *s,
                                        const struct dip_attend_linear_args *a)
{
    return DIP__CUDA_LAUNCH(
        s, attend_linear, .out = dip__cuda_view(a->out), .q = dip__cuda_view(a->q),
        .k = dip__cuda_view(a->k), .v = dip__cuda_view(a->v), .head_count = a->heads,
        .head_dim = a->head_dim, .head_stride = a->head_stride, .rows_per_item = a->rows_per_item,
        .scratch = dip__cuda_stream(s)->scratch);
}

/* ---- convolutions ---- */

enum dip_status dip__cuda_conv(struct dip_stream *s, const struct dip_conv_args *a)
{
    if (dip__cuda_cudnn_takes(s, a))
        return dip__cuda_cudnn_conv(s, a);
    return DIP__CUDA_LAUNCH(s, conv, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .packed = dip__cuda_param(&a->weight), .bias = dip__cuda_param(a->bias),
                            .batch = a->in.dims[0], .height = a->in.dims[1], .width = a->in.dims[2],
                            .edge = (int)a->weight.dims[2], .upsample = a->upsample,
                            .stride = a->stride, .act = (enum dip_kernel_act)a->act,
                            .scratch = dip__cuda_stream(s)->scratch);
}

enum dip_status dip__cuda_conv_depthwise(struct dip_stream *s,
                                         const struct dip_conv_depthwise_args *a)
{
    return DIP__CUDA_LAUNCH(s, conv_depthwise, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in), .weight = dip__cuda_param(&a->weight),
                            .bias = dip__cuda_param(a->bias), .batch = a->in.dims[0],
                            .height = a->in.dims[1], .width = a->in.dims[2],
                            .edge = (int)a->weight.dims[2], .is_gated = a->is_gated);
}

/* ---- layout ---- */

enum dip_status dip__cuda_pixel_shuffle(struct dip_stream *s,
                                        const struct dip_pixel_shuffle_args *a)
{
    return DIP__CUDA_LAUNCH(s, pixel_shuffle, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in), .batch = a->in.dims[0],
                            .height = a->in.dims[1], .width = a->in.dims[2],
                            .is_added = a->is_added);
}

enum dip_status dip__cuda_repeat_add(struct dip_stream *s, const struct dip_repeat_add_args *a)
{
    return DIP__CUDA_LAUNCH(s, repeat_add, .out = dip__cuda_view(a->out),
                            .in = dip__cuda_view(a->in));
}

enum dip_status dip__cuda_patch(struct dip_stream *s, const struct dip_patch_args *a)
{
    const int64_t *d = a->is_to_tokens ? a->in.dims : a->out.dims;
    return DIP__CUDA_LAUNCH(s, patch, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .batch = d[0], .height = d[1], .width = d[2], .channels = d[3],
                            .patch = a->patch, .is_to_tokens = a->is_to_tokens);
}

enum dip_status dip__cuda_layout(struct dip_stream *s, const struct dip_layout_args *a)
{
    const int64_t *d = a->is_to_nchw ? a->in.dims : a->out.dims; /* the NHWC side */
    return DIP__CUDA_LAUNCH(s, layout, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in),
                            .batch = d[0], .pixels = d[1] * d[2], .channels = d[3],
                            .is_to_nchw = a->is_to_nchw);
}

enum dip_status dip__cuda_rgb8(struct dip_stream *s, const struct dip_rgb8_args *a)
{
    return DIP__CUDA_LAUNCH(s, rgb8, .out = dip__cuda_view(a->out), .in = dip__cuda_view(a->in));
}

/* ---- a sampler's step ---- */

enum dip_status dip__cuda_sampler_begin(struct dip_stream *s,
                                        const struct dip_sampler_begin_args *a)
{
    STAGE(s, items, a->items, sizeof *a->items * (size_t)dip_tensor_rows(a->latent));
    return DIP__CUDA_LAUNCH(s, sampler_begin, .latent = dip__cuda_view(a->latent), .items = items,
                            .t = a->t, .is_bad = a->is_bad);
}

enum dip_status dip__cuda_sampler_end(struct dip_stream *s, const struct dip_sampler_end_args *a)
{
    struct dip_cuda_view none = {0};
    STAGE(s, items, a->items, sizeof *a->items * (size_t)dip_tensor_rows(a->velocity));
    return DIP__CUDA_LAUNCH(s, sampler_end, .velocity = dip__cuda_view(a->velocity),
                            .uncond = a->uncond.data ? dip__cuda_view(a->uncond) : none,
                            .cond = dip__cuda_view(a->cond), .items = items, .is_bad = a->is_bad);
}
