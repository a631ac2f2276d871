/* kernels/cpu/conv.c - the definition of the two convolutions. */
#include "kernels/cpu/plain.h"

/* The input pixel under tap (dy, dx) of an output pixel, or NULL in the padding. */
static const float *tap(const struct dip_job_conv *j, int64_t item, int64_t y, int64_t x, int dy,
                        int dx)
{
    int64_t in_y = y * j->stride + dy - j->edge / 2;
    int64_t in_x = x * j->stride + dx - j->edge / 2;
    if (in_y < 0 || in_x < 0 || in_y >= j->height * j->upsample || in_x >= j->width * j->upsample)
        return NULL;
    in_y /= j->upsample;
    in_x /= j->upsample;
    return j->in + ((item * j->height + in_y) * j->width + in_x) * j->in_stride;
}

static float output(const struct dip_job_conv *j, int64_t pixel, int64_t channel)
{
    int64_t item = pixel / (j->out_height * j->out_width);
    int64_t y = pixel / j->out_width % j->out_height;
    int64_t x = pixel % j->out_width;
    int64_t taps = (int64_t)j->edge * j->edge;
    double sum = j->bias.data ? dip__param_at(j->bias, channel) : 0.0;
    for (int t = 0; t < taps; t++) {
        const float *in = tap(j, item, y, x, t / j->edge, t % j->edge);
        for (int64_t c = 0; in && c < j->in_channels; c++)
            sum += in[c] * dip__param_at(j->weight, (channel * j->in_channels + c) * taps + t);
    }
    return (float)dip__activate(j->act, sum);
}

void dip_cpu_conv(const struct dip_job_conv *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    int64_t pixels = j->batch * j->out_height * j->out_width;
    int64_t pixel_blocks = (pixels + j->unit_pixels - 1) / j->unit_pixels;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t pixel = unit % pixel_blocks * j->unit_pixels;
        int64_t channel = unit / pixel_blocks * j->unit_channels;
        int64_t pixel_end = dip__min(pixel + j->unit_pixels, pixels);
        int64_t channel_end = dip__min(channel + j->unit_channels, j->out_channels);
        for (int64_t p = pixel; p < pixel_end; p++)
            for (int64_t c = channel; c < channel_end; c++)
                j->out[p * j->out_stride + c] = output(j, p, c);
    }
}

static double depthwise(const struct dip_job_conv_depthwise *j, int64_t item, int64_t y, int64_t x,
                        int64_t channel)
{
    int64_t taps = (int64_t)j->edge * j->edge;
    double sum = j->bias.data ? dip__param_at(j->bias, channel) : 0.0;
    for (int t = 0; t < taps; t++) {
        int64_t in_y = y + t / j->edge - j->edge / 2;
        int64_t in_x = x + t % j->edge - j->edge / 2;
        if (in_y < 0 || in_x < 0 || in_y >= j->height || in_x >= j->width)
            continue;
        int64_t pixel = (item * j->height + in_y) * j->width + in_x;
        sum += j->in[pixel * j->in_stride + channel] * dip__param_at(j->weight, channel * taps + t);
    }
    return sum;
}

static void depthwise_row(const struct dip_job_conv_depthwise *j, int64_t item, int64_t y,
                          int64_t channel, int64_t channel_end)
{
    int64_t outputs = j->is_gated ? j->channels / 2 : j->channels;
    for (int64_t x = 0; x < j->width; x++) {
        float *out = j->out + ((item * j->height + y) * j->width + x) * j->out_stride;
        for (int64_t c = channel; c < channel_end; c++) {
            double value = depthwise(j, item, y, x, c);
            if (j->is_gated)
                value *= dip__silu(depthwise(j, item, y, x, c + outputs));
            out[c] = (float)value;
        }
    }
}

void dip_cpu_conv_depthwise(const struct dip_job_conv_depthwise *j, int64_t begin, int64_t end,
                            void *scratch)
{
    (void)scratch;
    int64_t outputs = j->is_gated ? j->channels / 2 : j->channels;
    int64_t row_blocks = (j->height + j->unit_rows - 1) / j->unit_rows;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t channel = unit / (j->batch * row_blocks) * j->unit_channels;
        int64_t channel_end = dip__min(channel + j->unit_channels, outputs);
        int64_t item = unit / row_blocks % j->batch;
        int64_t y = unit % row_blocks * j->unit_rows;
        int64_t y_end = dip__min(y + j->unit_rows, j->height);
        for (; y < y_end; y++)
            depthwise_row(j, item, y, channel, channel_end);
    }
}
