/* kernels/avx2/conv_depthwise.c - depthwise convolution, with the gate of the feed-forward folded
 * in.
 *
 * Channels are independent, so a unit takes up to 64 of them (and the 64 gates half a tensor away)
 * over a band of image rows. Input rows are copied into a ring of `edge` lines, zeros at both ends:
 * from there the arithmetic knows no borders, and main memory is read once, line after line.
 *
 *   line: [pad][width][pad] pixels x unit_channels floats      weights: [tap][unit_channels]
 *
 * Four neighbouring outputs share each weight. Order per output: bias, then taps row by row. Bound
 * by memory: 4 bytes in and 4 (gated 2) bytes out per channel and pixel. */
#include "base/assert.h"
#include "kernels/avx2/simd.h"

enum { UNIT_CHANNELS_MAX = 64, EDGE_MAX = 7, RUN = 4 };

/* One half of the channels (all of them when there is no gate). */
struct half {
    int64_t channel; /* first of the unit */
    float *weights;  /* [taps][stride] */
    float *bias;     /* [stride] */
    float *ring;     /* [edge] lines */
};

struct state {
    const struct dip_job_conv_depthwise *j;
    int half_count;
    int64_t channels, stride; /* of the unit; stride is channels rounded up to 8 */
    int64_t line;             /* floats in a line */
    float *row;               /* one channel's weights, widened */
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

/* Image row y of an item becomes line y % edge; rows outside are zeros. */
static void load_line(const struct state *s, const struct half *h, int64_t item, int64_t y)
{
    const struct dip_job_conv_depthwise *j = s->j;
    float *line = h->ring + (y + j->edge) % j->edge * s->line;
    if (y < 0 || y >= j->height) {
        memset(line, 0, (size_t)s->line * sizeof(float));
        return;
    }
    int64_t pad = j->edge / 2 * s->stride;
    memset(line, 0, (size_t)pad * sizeof(float));
    memset(line + s->line - pad, 0, (size_t)pad * sizeof(float));
    const float *in = j->in + (item * j->height + y) * j->width * j->in_stride + h->channel;
    float *to = line + pad;
    for (int64_t x = 0; x < j->width; x++, in += j->in_stride, to += s->stride)
        for (int64_t c = 0; c < s->channels; c += 8)
            _mm256_storeu_ps(to + c, dip__get8(in + c, s->channels - c));
}

/* acc[i] = output at x + i, channels c..c+8. */
DIP_INLINE void taps_of(const struct state *s, const struct half *h, int edge, int run, int64_t y,
                        int64_t x, int64_t c, __m256 *acc)
{
    __m256 bias = _mm256_loadu_ps(h->bias + c);
    for (int i = 0; i < run; i++)
        acc[i] = bias;
    const float *weights = h->weights + c;
    for (int dy = 0; dy < edge; dy++) {
        int64_t ring_row = (y + dy - edge / 2 + edge) % edge;
        const float *line = h->ring + ring_row * s->line + x * s->stride + c;
        for (int dx = 0; dx < edge; dx++, line += s->stride, weights += s->stride) {
            __m256 w = _mm256_loadu_ps(weights);
#pragma GCC unroll 4
            for (int i = 0; i < run; i++)
                acc[i] = _mm256_fmadd_ps(_mm256_loadu_ps(line + i * s->stride), w, acc[i]);
        }
    }
}

DIP_INLINE void outputs_of(const struct state *s, int edge, int run, int64_t y, int64_t x,
                           float *out)
{
    for (int64_t c = 0; c < s->channels; c += 8) {
        __m256 value[RUN];
        taps_of(s, &s->halves[0], edge, run, y, x, c, value);
        if (s->half_count == 2) {
            __m256 gate[RUN];
            taps_of(s, &s->halves[1], edge, run, y, x, c, gate);
            for (int i = 0; i < run; i++)
                value[i] = _mm256_mul_ps(value[i], dip__silu8(gate[i]));
        }
        for (int i = 0; i < run; i++)
            dip__put8(out + i * s->j->out_stride + c, s->channels - c, value[i]);
    }
}

DIP_INLINE void row_of(const struct state *s, int edge, int64_t y, float *out)
{
    int64_t x = 0;
    for (; x + RUN <= s->j->width; x += RUN)
        outputs_of(s, edge, RUN, y, x, out + x * s->j->out_stride);
    for (; x < s->j->width; x++)
        outputs_of(s, edge, 1, y, x, out + x * s->j->out_stride);
}

static void run(const struct state *s, int64_t item, int64_t y, int64_t y_end)
{
    const struct dip_job_conv_depthwise *j = s->j;
    int64_t loaded = y - j->edge / 2;
    for (; y < y_end; y++) {
        for (; loaded <= y + j->edge / 2; loaded++)
            for (int h = 0; h < s->half_count; h++)
                load_line(s, &s->halves[h], item, loaded);
        float *out =
            j->out + (item * j->height + y) * j->width * j->out_stride + s->halves[0].channel;
        if (j->edge == 3)
            row_of(s, 3, y, out);
        else if (j->edge == 5)
            row_of(s, 5, y, out);
        else
            row_of(s, j->edge, y, out);
    }
}

/* Points the state at a block of channels and packs its weights. */
static void enter(struct state *s, int64_t channel, int64_t outputs, void *scratch)
{
    const struct dip_job_conv_depthwise *j = s->j;
    s->channels = dip__min(j->unit_channels, outputs - channel);
    s->stride = (s->channels + 7) & ~(int64_t)7;
    s->line = (j->width + j->edge - 1) * s->stride;
    s->row = scratch;
    float *next = s->row + (EDGE_MAX * EDGE_MAX + 15);
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

void dip_avx2_conv_depthwise(const struct dip_job_conv_depthwise *j, int64_t begin, int64_t end,
                             void *scratch)
{
    dip_assert(j->unit_channels <= UNIT_CHANNELS_MAX);
    dip_assert(j->edge <= EDGE_MAX);
    struct state s = {.j = j, .half_count = j->is_gated ? 2 : 1};
    int64_t outputs = j->channels / s.half_count;
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
}
