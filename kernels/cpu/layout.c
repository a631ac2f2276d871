/* kernels/cpu/layout.c - what only moves pixels: shuffles, patches, layouts, 8-bit colours.
 *
 * Bound by memory and exact, so there is no second form. */
#include <string.h>

#include "kernels/cpu/plain.h"

/* One output pixel: out(c) (+)= in((4 c + corner) / repeat). */
static void shuffle_pixel(const struct dip_job_pixel_shuffle *j, const float *in, int corner,
                          int64_t repeat, float *out)
{
    int64_t from = corner / repeat; /* (4 c + corner) / repeat, kept without dividing */
    int64_t rest = corner % repeat;
    for (int64_t c = 0; c < j->out_channels; c++) {
        out[c] = j->is_added ? out[c] + in[from] : in[from];
        for (rest += 4; rest >= repeat; rest -= repeat)
            from++;
    }
}

/* out(2i+a, 2j+b, c) (+)= in(i, j, (4c + 2a + b) / r), r = 4 out_channels / in_channels */
void dip_cpu_pixel_shuffle(const struct dip_job_pixel_shuffle *j, int64_t begin, int64_t end,
                           void *scratch)
{
    (void)scratch;
    int64_t repeat = 4 * j->out_channels / j->in_channels;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t x = 0; x < j->width; x++) {
            const float *in = j->in + (row * j->width + x) * j->in_stride;
            for (int corner = 0; corner < 4; corner++) {
                int64_t pixel = (2 * row + corner / 2) * 2 * j->width + 2 * x + corner % 2;
                shuffle_pixel(j, in, corner, repeat, j->out + pixel * j->out_stride);
            }
        }
    }
}

void dip_cpu_repeat_add(const struct dip_job_repeat_add *j, int64_t begin, int64_t end,
                        void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++) {
        const float *in = j->in + r * j->in_stride;
        float *out = j->out + r * j->out_stride;
        for (int64_t c = 0; c < j->in_channels; c++)
            for (int64_t i = 0; i < j->repeat; i++)
                out[c * j->repeat + i] += in[c];
    }
}

/* Token columns c p p + a p + b, as in a strided convolution's weight. */
static void to_token(const struct dip_job_patch *j, const float *image, float *token)
{
    int64_t p = j->patch;
    for (int64_t a = 0; a < p; a++)
        for (int64_t b = 0; b < p; b++)
            for (int64_t c = 0; c < j->channels; c++)
                token[(c * p + a) * p + b] = image[(a * j->width + b) * j->pixel_stride + c];
}

/* Token columns (a p + b) channels + c: whole pixels, channel fastest. */
static void to_image(const struct dip_job_patch *j, float *image, const float *token)
{
    for (int64_t a = 0; a < j->patch; a++)
        for (int64_t b = 0; b < j->patch; b++)
            memcpy(image + (a * j->width + b) * j->pixel_stride,
                   token + (a * j->patch + b) * j->channels, (size_t)j->channels * sizeof(float));
}

void dip_cpu_patch(const struct dip_job_patch *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    int64_t across = j->width / j->patch;
    for (int64_t row = begin; row < end; row++) {
        for (int64_t x = 0; x < across; x++) {
            int64_t token = (row * across + x) * j->token_stride;
            int64_t pixel = (row * j->patch * j->width + x * j->patch) * j->pixel_stride;
            if (j->is_to_tokens)
                to_token(j, j->in + pixel, j->out + token);
            else
                to_image(j, j->out + pixel, j->in + token);
        }
    }
}

void dip_cpu_layout(const struct dip_job_layout *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t plane = begin; plane < end; plane++) {
        int64_t first = plane / j->channels * j->pixels * j->channels + plane % j->channels;
        for (int64_t p = 0; p < j->pixels; p++) {
            int64_t nhwc = first + p * j->channels;
            int64_t nchw = plane * j->pixels + p;
            if (j->is_to_nchw)
                j->out[nchw] = j->in[nhwc];
            else
                j->out[nhwc] = j->in[nchw];
        }
    }
}

static unsigned char rgb8(float x)
{
    float y = x / 2.0f + 0.5f;
    if (!(y > 0.0f)) /* also NaN */
        return 0;
    return (unsigned char)nearbyintf((y > 1.0f ? 1.0f : y) * 255.0f); /* half to even by default */
}

void dip_cpu_rgb8(const struct dip_job_rgb8 *j, int64_t begin, int64_t end, void *scratch)
{
    (void)scratch;
    for (int64_t r = begin; r < end; r++)
        for (int c = 0; c < 3; c++)
            j->out[r * j->out_stride + c] = rgb8(j->in[r * j->in_stride + c]);
}
