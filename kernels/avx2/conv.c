/* kernels/avx2/conv.c - convolution as an implicit matrix product (NHWC).
 *
 * Row p of the left matrix is the window of output pixel p: per tap, the Ci contiguous floats of
 * one input pixel, or a row of zeros in the padding. It is never copied: a tile of six pixels
 * carries six pointers per tap. Enlarging (upsample 2) and halving (stride 2) only change the
 * pointers.
 *
 * Weights [Co, Ci, taps] are repacked per panel of 16 output channels to [tap][Ci][16] in scratch:
 * once per unit, shared by its pixels. The sum over (tap, Ci) runs in blocks: whole taps up to 256
 * products, or 256 channels of one tap; a block is one fma chain per output, blocks are added in
 * order (kernels/avx2/inner.h, the outer form). Bound by fma. */
#include "base/assert.h"
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum {
    BLOCK = 256,
    UNIT_PIXELS_MAX = 96,
    UNIT_CHANNELS_MAX = 64,
    TAPS_MAX = 49,
};

struct unit {
    const struct dip__inner *inner;
    const struct dip_job_conv *j;
    int taps;
    int64_t pixel, pixels, channel, channels;
    float *panels;      /* [ceil(channels / 16)][taps][Ci][16] */
    float *partial;     /* [UNIT_PIXELS_MAX][UNIT_CHANNELS_MAX] */
    const float *zeros; /* [Ci] */
    const float **at;   /* [tile][taps][6]: input pixels */
};

/* ---- packing ---- */

static void pack_channel(const struct dip_job_conv *j, int taps, int64_t channel, float *row,
                         float *to)
{
    int64_t count = j->in_channels * taps;
    dip__widen(j->weight.dtype, j->weight.data, channel * count, count, row);
    for (int64_t c = 0; c < j->in_channels; c++)
        for (int t = 0; t < taps; t++)
            to[(t * j->in_channels + c) * DIP__PANEL] = row[c * taps + t];
}

/* `row` holds one channel's weights, widened. */
static void pack(const struct unit *u, float *row)
{
    int64_t panel_size = u->taps * u->j->in_channels * DIP__PANEL;
    int64_t padded = (u->channels + 15) & ~(int64_t)15;
    for (int64_t c = 0; c < padded; c++) {
        float *to = u->panels + c / DIP__PANEL * panel_size + c % DIP__PANEL;
        if (c < u->channels)
            pack_channel(u->j, u->taps, u->channel + c, row, to);
        else
            for (int64_t k = 0; k < u->taps * u->j->in_channels; k++)
                to[k * DIP__PANEL] = 0.0f;
    }
}

/* ---- pointers ---- */

static const float *input_pixel(const struct unit *u, int64_t item, int64_t y, int64_t x)
{
    const struct dip_job_conv *j = u->j;
    if (y < 0 || x < 0 || y >= j->height * j->upsample || x >= j->width * j->upsample)
        return u->zeros;
    int shift = j->upsample - 1;
    return j->in + ((item * j->height + (y >> shift)) * j->width + (x >> shift)) * j->in_stride;
}

/* Pixels beyond the last repeat it: computed, never stored. */
static void point(const struct unit *u)
{
    const struct dip_job_conv *j = u->j;
    int64_t padded = (u->pixels + DIP__TILE_ROWS - 1) / DIP__TILE_ROWS * DIP__TILE_ROWS;
    for (int64_t i = 0; i < padded; i++) {
        int64_t p = u->pixel + dip__min(i, u->pixels - 1);
        int64_t item = p / (j->out_height * j->out_width);
        int64_t y = p / j->out_width % j->out_height * j->stride - j->edge / 2;
        int64_t x = p % j->out_width * j->stride - j->edge / 2;
        const float **at =
            u->at + i / DIP__TILE_ROWS * u->taps * DIP__TILE_ROWS + i % DIP__TILE_ROWS;
        for (int dy = 0; dy < j->edge; dy++)
            for (int dx = 0; dx < j->edge; dx++, at += DIP__TILE_ROWS)
                *at = input_pixel(u, item, y + dy, x + dx);
    }
}

/* ---- arithmetic ---- */

/* Taps [tap, tap + tap_count), channels [c, c + count) of all pixels and outputs. Two panels at a
 * time: the widest tile there is. */
static void block(const struct unit *u, int tap, int tap_count, int64_t c, int64_t count)
{
    int64_t panel_tap = u->j->in_channels * DIP__PANEL;
    int64_t panel_next = u->taps * panel_tap;
    struct dip__tile_pieces job = {.piece_count = tap_count,
                                   .first = c,
                                   .panel_next = panel_next,
                                   .panel_piece = panel_tap,
                                   .count = count,
                                   .to_stride = UNIT_CHANNELS_MAX,
                                   .is_first = tap == 0 && c == 0};
    for (int64_t n = 0; n < u->channels; n += DIP__PANELS_MAX * DIP__PANEL) {
        job.columns = dip__min(u->channels - n, DIP__PANELS_MAX * DIP__PANEL);
        job.panels = u->panels + n / DIP__PANEL * panel_next + tap * panel_tap + c * DIP__PANEL;
        for (int64_t p = 0; p < u->pixels; p += DIP__TILE_ROWS) {
            job.at = u->at + p * u->taps + (int64_t)tap * DIP__TILE_ROWS;
            job.to = u->partial + p * UNIT_CHANNELS_MAX + n;
            u->inner->tile_pieces(&job);
        }
    }
}

static void finish(const struct unit *u)
{
    const struct dip_job_conv *j = u->j;
    for (int64_t n = 0; n < u->channels; n += 8) {
        int64_t count = dip__min(u->channels - n, 8);
        __m256 bias = _mm256_setzero_ps();
        if (j->bias.data)
            bias = dip__load8_part(j->bias.dtype, j->bias.data, u->channel + n, count);
        for (int64_t p = 0; p < u->pixels; p++) {
            __m256 sum = _mm256_loadu_ps(u->partial + p * UNIT_CHANNELS_MAX + n);
            sum = dip__activate8(j->act, _mm256_add_ps(sum, bias));
            dip__put8(j->out + (u->pixel + p) * j->out_stride + u->channel + n, count, sum);
        }
    }
}

static void run(const struct unit *u)
{
    int64_t channels = u->j->in_channels;
    point(u);
    if (channels <= BLOCK) {
        int per_block = (int)dip__min(BLOCK / channels, u->taps);
        for (int tap = 0; tap < u->taps; tap += per_block)
            block(u, tap, (int)dip__min(per_block, u->taps - tap), 0, channels);
    } else {
        for (int tap = 0; tap < u->taps; tap++)
            for (int64_t c = 0; c < channels; c += BLOCK)
                block(u, tap, 1, c, dip__min(channels - c, BLOCK));
    }
    finish(u);
}

/* Scratch: partial, zeros, one widened channel, pointers, panels. */
static void carve(struct unit *u, void *scratch)
{
    int64_t channels = (u->j->in_channels + 15) & ~(int64_t)15;
    float *next = scratch;
    u->partial = next;
    next += UNIT_PIXELS_MAX * UNIT_CHANNELS_MAX;
    memset(next, 0, (size_t)channels * sizeof *next);
    u->zeros = next;
    next += channels;
    u->at = (const float **)(void *)next;
    next += UNIT_PIXELS_MAX * TAPS_MAX * sizeof *u->at / sizeof *next;
    u->panels = next;
}

void dip__conv(const struct dip__inner *inner, const struct dip_job_conv *j, int64_t begin,
               int64_t end, void *scratch)
{
    dip_assert(j->unit_pixels <= UNIT_PIXELS_MAX);
    dip_assert(j->unit_channels <= UNIT_CHANNELS_MAX);
    dip_assert(j->edge * j->edge <= TAPS_MAX);
    struct unit u = {.inner = inner, .j = j, .taps = j->edge * j->edge, .channel = -1};
    carve(&u, scratch);
    int64_t pixels = j->batch * j->out_height * j->out_width;
    int64_t pixel_blocks = (pixels + j->unit_pixels - 1) / j->unit_pixels;
    int64_t panels = (j->unit_channels + 15) / 16 * 16 * u.taps * j->in_channels;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t channel = unit / pixel_blocks * j->unit_channels;
        u.pixel = unit % pixel_blocks * j->unit_pixels;
        u.pixels = dip__min(j->unit_pixels, pixels - u.pixel);
        if (channel != u.channel) {
            u.channel = channel;
            u.channels = dip__min(j->unit_channels, j->out_channels - channel);
            pack(&u, u.panels + panels);
        }
        run(&u);
    }
}
