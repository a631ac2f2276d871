/* kernels/avx2/conv_depthwise.c - depthwise convolution, with the gate of the feed-forward folded
 * in.
 *
 * Channels are independent, so a unit takes up to 64 of them (or 32 and the 32 gates half a tensor
 * away) over a band of image rows. Input rows are copied into a ring of `edge` lines, zeros at both
 * ends: from there the arithmetic knows no borders and constant strides, and main memory is read
 * once.
 *
 *   line: [pad][width][pad] pixels x stride floats      weights: [tap][stride]      stride 64 or 32
 *
 * Order per output: bias, then taps row by row (kernels/avx2/depthwise_row.c). Bound by memory: 4
 * bytes in and 4 (gated 2) bytes out per channel and pixel. Reading pixels straight from the tensor
 * was three times slower: they lie tens of KB apart, so every tap is a miss that no prefetcher
 * foresees; the copy fetches them a row early. */
#include "base/assert.h"
#include "kernels/avx2/inner.h"
#include "kernels/avx2/simd.h"

enum { STREAMED_BYTES_MIN = 16 << 20, FETCH_PIXELS = 32 };

/* One half of the channels (all of them when there is no gate). */
struct half {
    int64_t channel; /* first of the unit */
    float *weights;  /* [taps][stride] */
    float *bias;     /* [stride] */
    float *ring;     /* [edge] lines */
};

struct state {
    const struct dip__inner *inner;
    const struct dip_job_conv_depthwise *j;
    int half_count;
    int64_t channels; /* of the unit */
    int64_t stride;   /* of pixels in a line: 64, or 32 when gated */
    int64_t line;     /* floats in a line */
    float *row;       /* one channel's weights, widened */
    bool is_streamed; /* the output is too large to be found in a cache by whoever reads it */
    struct half halves[2];
};

static void pack(const struct state *s, const struct half *h)
{
    const struct dip_job_conv_depthwise *j = s->j;
    int64_t taps = (int64_t)j->edge * j->edge;
    memset(h->weights, 0, (size_t)(taps * s->stride) * sizeof(float));
    memset(h->bias, 0, (size_t)s->stride * sizeof(float));
    for (int64_t c = 0; c < s->channels; c++) {
        dip__widen(j->weight.dtype, j->weight.data, (h->channel + c) * taps, taps, s->row);
        for (int64_t t = 0; t < taps; t++)
            h->weights[t * s->stride + c] = s->row[t];
    }
    if (j->bias.data)
        dip__widen(j->bias.dtype, j->bias.data, h->channel, s->channels, h->bias);
}

/* ---- lines ---- */

/* Image row y lives in line y % edge. */
static float *line_of(const struct state *s, const struct half *h, int64_t y)
{
    return h->ring + (y + s->j->edge) % s->j->edge * s->line;
}

/* Pixels are too far apart for the hardware to see a stream, so later ones are fetched on the way:
 * not a whole row of them, because pixels a power of two apart share few sets of a cache. */
static void copy_pixels(const float *in, int64_t in_stride, int64_t width, int64_t channels,
                        float *to, int64_t to_stride)
{
    const float *later = in + FETCH_PIXELS * in_stride;
    for (int64_t x = 0; x < width; x++, in += in_stride, later += in_stride, to += to_stride) {
        for (int64_t c = 0; c < channels; c += 16)
            _mm_prefetch((const char *)(later + c), _MM_HINT_T1);
        int64_t c = 0;
        for (; c + 8 <= channels; c += 8)
            _mm256_storeu_ps(to + c, _mm256_loadu_ps(in + c));
        if (c < channels)
            _mm256_storeu_ps(to + c, dip__get8(in + c, channels - c));
    }
}

/* Rows outside the image are zeros. */
static void load_line(const struct state *s, const struct half *h, int64_t item, int64_t y)
{
    const struct dip_job_conv_depthwise *j = s->j;
    float *line = line_of(s, h, y);
    if (y < 0 || y >= j->height) {
        memset(line, 0, (size_t)s->line * sizeof(float));
        return;
    }
    int64_t pad = j->edge / 2 * s->stride;
    memset(line, 0, (size_t)pad * sizeof(float));
    memset(line + s->line - pad, 0, (size_t)pad * sizeof(float));
    copy_pixels(j->in + (item * j->height + y) * j->width * j->in_stride + h->channel, j->in_stride,
                j->width, s->channels, line + pad, s->stride);
}

/* ---- rows ---- */

static struct dip__depthwise_taps taps_at(const struct state *s, const struct half *h, int64_t y)
{
    struct dip__depthwise_taps t = {.weights = h->weights, .bias = h->bias};
    for (int dy = 0; dy < s->j->edge; dy++)
        t.lines[dy] = line_of(s, h, y + dy - s->j->edge / 2);
    return t;
}

static void output_row(const struct state *s, int64_t item, int64_t y)
{
    const struct dip_job_conv_depthwise *j = s->j;
    struct dip__depthwise_row row = {
        .value = taps_at(s, &s->halves[0], y),
        .width = j->width,
        .channels = s->channels,
        .out = j->out + (item * j->height + y) * j->width * j->out_stride + s->halves[0].channel,
        .out_stride = j->out_stride,
        .edge = j->edge,
        .is_gated = j->is_gated,
        .is_streamed = s->is_streamed};
    if (j->is_gated)
        row.gate = taps_at(s, &s->halves[1], y);
    s->inner->depthwise_row(&row);
}

static void run(const struct state *s, int64_t item, int64_t y, int64_t y_end)
{
    const struct dip_job_conv_depthwise *j = s->j;
    int64_t loaded = y - j->edge / 2;
    for (; y < y_end; y++) {
        for (; loaded <= y + j->edge / 2; loaded++)
            for (int h = 0; h < s->half_count; h++)
                load_line(s, &s->halves[h], item, loaded);
        output_row(s, item, y);
    }
}

static bool is_streamed(const struct dip_job_conv_depthwise *j, int64_t outputs)
{
    bool is_aligned = (uintptr_t)j->out % 32 == 0 && j->out_stride % 8 == 0;
    int64_t bytes = j->batch * j->height * j->width * outputs * (int64_t)sizeof(float);
    return is_aligned && bytes >= STREAMED_BYTES_MIN;
}

/* Points the state at a block of channels and packs its weights. */
static void enter(struct state *s, int64_t channel, int64_t outputs, void *scratch)
{
    const struct dip_job_conv_depthwise *j = s->j;
    s->channels = dip__min(j->unit_channels, outputs - channel);
    s->line = (j->width + j->edge - 1) * s->stride;
    s->row = scratch;
    float *next = s->row + DIP__DEPTHWISE_CHANNELS;
    for (int h = 0; h < s->half_count; h++) {
        s->halves[h].channel = channel + h * outputs;
        s->halves[h].bias = next;
        next += s->stride;
        s->halves[h].weights = next;
        next += j->edge * j->edge * s->stride;
        s->halves[h].ring = next;
        next += j->edge * s->line;
        pack(s, &s->halves[h]);
    }
}

void dip__conv_depthwise(const struct dip__inner *inner, const struct dip_job_conv_depthwise *j,
                         int64_t begin, int64_t end, void *scratch)
{
    struct state s = {.inner = inner, .j = j, .half_count = j->is_gated ? 2 : 1};
    s.stride = j->is_gated ? DIP__DEPTHWISE_GATED_CHANNELS : DIP__DEPTHWISE_CHANNELS;
    dip_assert(j->unit_channels <= s.stride);
    dip_assert(j->edge <= DIP__DEPTHWISE_EDGE_MAX);
    int64_t outputs = j->channels / s.half_count;
    s.is_streamed = is_streamed(j, outputs);
    int64_t row_blocks = (j->height + j->unit_rows - 1) / j->unit_rows;
    int64_t entered = 0;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t channel = unit / (j->batch * row_blocks) * j->unit_channels;
        if (unit == begin || channel != entered)
            enter(&s, channel, outputs, scratch);
        entered = channel;
        int64_t y = unit % row_blocks * j->unit_rows;
        run(&s, unit / row_blocks % j->batch, y, dip__min(y + j->unit_rows, j->height));
    }
    if (s.is_streamed)
        _mm_sfence();
}
