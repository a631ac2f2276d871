/* ops/cpu_image.c - CPU entries: the diffusion half's attention, convolutions, image layout.
 *
 * Each entry writes a job, says how many units it has and roughly what one costs. */
#include "ops/cpu.h"

/* ---- attention ---- */

enum dip_status dip__cpu_attend_cross(struct dip_stream *s, const struct dip_attend_cross_args *a)
{
    struct dip_job_attend_cross job = {
        .out = a->out.data,
        .q = a->q.data,
        .k = a->k.data,
        .v = a->v.data,
        .row_count = dip_tensor_rows(a->q),
        .key_count = dip_tensor_rows(a->k),
        .head_count = a->heads,
        .head_dim = a->head_dim,
        .out_stride = a->out.row_stride,
        .q_stride = a->q.row_stride,
        .k_stride = a->k.row_stride,
        .v_stride = a->v.row_stride,
        .unit_rows = 48,
    };
    if (job.head_dim > DIP_KERNEL_HEAD_DIM_MAX)
        return DIP_UNSUPPORTED;
    double rows = (double)(job.row_count < job.unit_rows ? job.row_count : job.unit_rows);
    double unit_ns = dip__flops_ns(4.0 * rows * (double)(job.key_count * job.head_dim));
    int64_t units = job.head_count * dip__pieces(job.row_count, job.unit_rows);
    dip__cpu_run(s, s->device->kernels->attend_cross, &job, units, unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_attend_linear(struct dip_stream *s, const struct dip_attend_linear_args *a)
{
    struct dip_job_attend_linear job = {
        .out = a->out.data,
        .q = a->q.data,
        .k = a->k.data,
        .v = a->v.data,
        .head_count = a->heads,
        .head_dim = a->head_dim,
        .head_stride = a->head_stride,
        .rows_per_item = a->rows_per_item,
        .out_stride = a->out.row_stride,
        .q_stride = a->q.row_stride,
        .k_stride = a->k.row_stride,
        .v_stride = a->v.row_stride,
    };
    if (job.head_dim > DIP_KERNEL_HEAD_DIM_MAX)
        return DIP_UNSUPPORTED;
    double rows = (double)a->rows_per_item;
    double unit_ns = dip__flops_ns(4.0 * rows * (double)(job.head_dim * job.head_dim)) +
                     dip__bytes_ns(16.0 * rows * (double)job.head_dim);
    int64_t units = dip_tensor_rows(a->q) / a->rows_per_item * job.head_count;
    dip__cpu_run(s, s->device->kernels->attend_linear, &job, units, unit_ns);
    return DIP_OK;
}

/* ---- convolutions ---- */

enum {
    CONV_UNIT_PIXELS = 96,
    CONV_UNIT_CHANNELS = 64,
    CONV_EDGE_MAX = 7,            /* of the fast kernels */
    CONV_PANEL_FLOATS = 4 << 20,  /* repacked weights, or lines, of one unit: 16 MB of scratch */
    DEPTHWISE_UNIT_CHANNELS = 64, /* half of that with a gate */
};

/* Wide units share packed weights over many pixels; small images need narrow ones to have something
 * for every thread. */
static void cut_conv(struct dip_job_conv *job, int64_t pixels, int threads)
{
    int64_t products = (int64_t)job->edge * job->edge * job->in_channels;
    job->unit_pixels = CONV_UNIT_PIXELS;
    job->unit_channels = CONV_UNIT_CHANNELS;
    int64_t blocks = dip__pieces(pixels, job->unit_pixels);
    while (job->unit_channels > 16 &&
           (blocks * dip__pieces(job->out_channels, job->unit_channels) < 4 * (int64_t)threads ||
            job->unit_channels * products > CONV_PANEL_FLOATS))
        job->unit_channels /= 2;
}

enum dip_status dip__cpu_conv(struct dip_stream *s, const struct dip_conv_args *a)
{
    struct dip_job_conv job = {
        .out = a->out.data,
        .in = a->in.data,
        .weight = dip__param(&a->weight),
        .bias = dip__param(a->bias),
        .batch = a->in.dims[0],
        .height = a->in.dims[1],
        .width = a->in.dims[2],
        .in_channels = a->in.dims[3],
        .out_height = a->out.dims[1],
        .out_width = a->out.dims[2],
        .out_channels = a->out.dims[3],
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .edge = (int)a->weight.dims[2],
        .upsample = a->upsample,
        .stride = a->stride,
        .act = (enum dip_kernel_act)a->act,
    };
    int64_t pixels = job.batch * job.out_height * job.out_width;
    int64_t products = (int64_t)job.edge * job.edge * job.in_channels;
    cut_conv(&job, pixels, s->device->threads);
    /* Shapes beyond what the fast kernel packs: decided by sizes alone, so always the same bits. */
    bool is_huge = 16 * products > CONV_PANEL_FLOATS || job.edge > CONV_EDGE_MAX;
    const struct dip__cpu_kernels *kernels =
        is_huge ? dip__cpu_kernels(DIP__CPU_PLAIN) : s->device->kernels;
    double unit_ns = dip__flops_ns(2.0 * (double)(job.unit_pixels * job.unit_channels * products));
    int64_t units =
        dip__pieces(pixels, job.unit_pixels) * dip__pieces(job.out_channels, job.unit_channels);
    dip__cpu_run(s, kernels->conv, &job, units, unit_ns);
    return DIP_OK;
}

/* Whole images when there are enough blocks of channels, else bands of rows. Returns whether the
 * fast kernel's lines fit its scratch; that depends on sizes alone. */
static bool cut_depthwise(struct dip_job_conv_depthwise *job, int64_t outputs, int threads)
{
    job->unit_channels = job->is_gated ? DEPTHWISE_UNIT_CHANNELS / 2 : DEPTHWISE_UNIT_CHANNELS;
    int64_t blocks = dip__pieces(outputs, job->unit_channels) * job->batch;
    job->unit_rows = blocks >= 4 * (int64_t)threads ? job->height : 8;
    int64_t lines = DEPTHWISE_UNIT_CHANNELS * job->edge * (job->width + job->edge);
    return lines <= CONV_PANEL_FLOATS && job->edge <= CONV_EDGE_MAX;
}

enum dip_status dip__cpu_conv_depthwise(struct dip_stream *s,
                                        const struct dip_conv_depthwise_args *a)
{
    struct dip_job_conv_depthwise job = {
        .out = a->out.data,
        .in = a->in.data,
        .weight = dip__param(&a->weight),
        .bias = dip__param(a->bias),
        .batch = a->in.dims[0],
        .height = a->in.dims[1],
        .width = a->in.dims[2],
        .channels = a->in.dims[3],
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .edge = (int)a->weight.dims[2],
        .is_gated = a->is_gated,
    };
    bool is_fitting = cut_depthwise(&job, a->out.dims[3], s->device->threads);
    const struct dip__cpu_kernels *kernels =
        is_fitting ? s->device->kernels : dip__cpu_kernels(DIP__CPU_PLAIN);
    double taps = (double)job.edge * job.edge * (job.is_gated ? 2 : 1);
    double outputs = (double)(job.unit_rows * job.unit_channels * job.width);
    int64_t units = dip__pieces(a->out.dims[3], job.unit_channels) * job.batch *
                    dip__pieces(job.height, job.unit_rows);
    dip__cpu_run(s, kernels->conv_depthwise, &job, units, dip__flops_ns(4.0 * taps * outputs));
    return DIP_OK;
}

/* ---- layout ---- */

enum dip_status dip__cpu_pixel_shuffle(struct dip_stream *s, const struct dip_pixel_shuffle_args *a)
{
    struct dip_job_pixel_shuffle job = {
        .out = a->out.data,
        .in = a->in.data,
        .width = a->in.dims[2],
        .in_channels = a->in.dims[3],
        .out_channels = a->out.dims[3],
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
        .is_added = a->is_added,
    };
    double unit_ns = 6.0 * (double)(job.width * job.out_channels);
    dip__cpu_run(s, s->device->kernels->pixel_shuffle, &job, a->in.dims[0] * a->in.dims[1],
                 unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_repeat_add(struct dip_stream *s, const struct dip_repeat_add_args *a)
{
    struct dip_job_repeat_add job = {
        .out = a->out.data,
        .in = a->in.data,
        .in_channels = dip_tensor_columns(a->in),
        .repeat = dip_tensor_columns(a->out) / dip_tensor_columns(a->in),
        .out_stride = a->out.row_stride,
        .in_stride = a->in.row_stride,
    };
    dip__cpu_run(s, s->device->kernels->repeat_add, &job, dip_tensor_rows(a->out),
                 dip__bytes_ns(12.0 * (double)dip_tensor_columns(a->out)));
    return DIP_OK;
}

enum dip_status dip__cpu_patch(struct dip_stream *s, const struct dip_patch_args *a)
{
    struct dip_tensor image = a->is_to_tokens ? a->in : a->out;
    struct dip_tensor tokens = a->is_to_tokens ? a->out : a->in;
    struct dip_job_patch job = {
        .out = a->out.data,
        .in = a->in.data,
        .width = image.dims[2],
        .channels = image.dims[3],
        .patch = a->patch,
        .token_stride = tokens.row_stride,
        .pixel_stride = image.row_stride,
        .is_to_tokens = a->is_to_tokens,
    };
    double unit_ns = 2.0 * (double)(job.width * job.channels * job.patch);
    dip__cpu_run(s, s->device->kernels->patch, &job, image.dims[0] * (image.dims[1] / a->patch),
                 unit_ns);
    return DIP_OK;
}

enum dip_status dip__cpu_layout(struct dip_stream *s, const struct dip_layout_args *a)
{
    const int64_t *d = a->in.dims;
    struct dip_job_layout job = {
        .out = a->out.data,
        .in = a->in.data,
        .pixels = a->is_to_nchw ? d[1] * d[2] : d[2] * d[3],
        .channels = a->is_to_nchw ? d[3] : d[1],
        .is_to_nchw = a->is_to_nchw,
    };
    dip__cpu_run(s, s->device->kernels->layout, &job, d[0] * job.channels,
                 2.0 * (double)job.pixels);
    return DIP_OK;
}

enum dip_status dip__cpu_rgb8(struct dip_stream *s, const struct dip_rgb8_args *a)
{
    struct dip_job_rgb8 job = {.out = a->out.data,
                               .in = a->in.data,
                               .out_stride = a->out.row_stride,
                               .in_stride = a->in.row_stride};
    dip__cpu_run(s, s->device->kernels->rgb8, &job, dip_tensor_rows(a->in), 6.0);
    return DIP_OK;
}
