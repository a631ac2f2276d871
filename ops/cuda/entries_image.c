/* ops/cuda/entries_image.c - CUDA entries: the diffusion half's attention, convolutions, layout.
 *
 * A convolution reads weights as dip_weight_place has packed them. */
#include "ops/cuda/entries.h"

/* ---- attention ---- */

enum dip_status dip__cuda_attend_cross(struct dip_stream *s, const struct dip_attend_cross_args *a)
{
    return DIP__CUDA_LAUNCH(s, attend_cross, .out = dip__cuda_view(a->out),
                            .q = dip__cuda_view(a->q), .k = dip__cuda_view(a->k),
                            .v = dip__cuda_view(a->v), .head_count = a->heads,
                            .head_dim = a->head_dim);
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
