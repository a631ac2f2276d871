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
 * Four neighbouring outputs share each weight and each input: 27 loads for 36 fma at 3x3. Order per
 * output: bias, then taps row by row. Bound by memory: 4 bytes in and 4 (gated 2) bytes out per
 * channel and pixel. Reading pixels straight from the tensor was three times slower: they lie tens
 * of KB apart, so every tap is a miss that no prefetcher foresees; the copy fetches them a row
 * early. */
#include "base/assert.h"
#include "kernels/avx2/simd.h"

enum {
    CHANNELS = 64,       /* of a unit */
    GATED_CHANNELS = 32, /* of a unit with as many gates beside them */
    EDGE_MAX = 7,
    RUN = 4, /* outputs side by side */
    STREAMED_BYTES_MIN = 16 << 20,
};

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
    int64_t channels; /* of the unit */
    int64_t stride;   /* of pixels in a line: CHANNELS or GATED_CHANNELS */
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

/* Pixels are too far apart for the hardware to see a stream, so the next image row's are fetched on
 * the way. */
static void copy_pixels(const float *in, int64_t in_stride, int64_t width, int64_t channels,
                        float *to, int64_t to_stride)
{
    const float *below = in + width * in_stride;
    for (int64_t x = 0; x < width; x++, in += in_stride, below += in_stride, to += to_stride) {
        for (int64_t c = 0; c < channels; c += 16)
            _mm_prefetch((const char *)(below + c), _MM_HINT_T0);
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

/* ---- arithmetic ---- */

/* What the inner loops need, by value: stores through vector types may alias anything, and would
 * have every pointer reloaded. */
struct taps {
    const float *lines[EDGE_MAX]; /* of the output row, from the top */
    const float *weights, *bias;
};

DIP_INLINE struct taps taps_at(const struct state *s, const struct half *h, int edge, int64_t y)
{
    struct taps t = {.weights = h->weights, .bias = h->bias};
#pragma GCC unroll 7
    for (int dy = 0; dy < edge; dy++)
        t.lines[dy] = line_of(s, h, y + dy - edge / 2);
    return t;
}

/* acc[i] = output i of a run that starts at pixel x, channels c..c+8. */
DIP_INLINE void convolve(const struct taps *t, int edge, int stride, int run, int64_t x, int64_t c,
                         __m256 *acc)
{
    __m256 bias = _mm256_loadu_ps(t->bias + c);
#pragma GCC unroll 4
    for (int i = 0; i < run; i++)
        acc[i] = bias;
#pragma GCC unroll 7
    for (int dy = 0; dy < edge; dy++) {
        const float *line = t->lines[dy] + x * stride + c;
        const float *weights = t->weights + dy * edge * stride + c;
        __m256 in[RUN + EDGE_MAX - 1];
#pragma GCC unroll 10
        for (int i = 0; i < run + edge - 1; i++)
            in[i] = _mm256_loadu_ps(line + i * stride);
#pragma GCC unroll 7
        for (int dx = 0; dx < edge; dx++) {
            __m256 w = _mm256_loadu_ps(weights + dx * stride);
#pragma GCC unroll 4
            for (int i = 0; i < run; i++)
                acc[i] = _mm256_fmadd_ps(in[i + dx], w, acc[i]);
        }
    }
}

/* gates[i][c] = silu(output i of the run). Two loops: behind the convolution's chain of fma each
 * exponential would wait for its turn. */
DIP_INLINE void gates_of(const struct taps *t, int edge, int run, int64_t x, float *gates)
{
    for (int64_t c = 0; c < GATED_CHANNELS; c += 8) {
        __m256 acc[RUN];
        convolve(t, edge, GATED_CHANNELS, run, x, c, acc);
#pragma GCC unroll 4
        for (int i = 0; i < run; i++)
            _mm256_store_ps(gates + i * GATED_CHANNELS + c, acc[i]);
    }
    for (int64_t i = 0; i < run * GATED_CHANNELS; i += 8)
        _mm256_store_ps(gates + i, dip__silu8(_mm256_load_ps(gates + i)));
}

/* Streaming stores skip the read that an ordinary store to a missing line starts with. */
DIP_INLINE void put(float *out, int64_t left, bool is_streamed, __m256 value)
{
    if (is_streamed && left >= 8)
        _mm256_stream_ps(out, value);
    else
        dip__put8(out, left, value);
}

/* A run of pixels, all channels of the unit. gates NULL: no gate. */
DIP_INLINE void outputs_of(const struct taps *t, int edge, int stride, int run, int64_t x,
                           int64_t channels, const float *gates, float *out, int64_t out_stride,
                           bool is_streamed)
{
    for (int64_t c = 0; c < channels; c += 8) {
        __m256 acc[RUN];
        convolve(t, edge, stride, run, x, c, acc);
#pragma GCC unroll 4
        for (int i = 0; i < run; i++) {
            if (gates)
                acc[i] = _mm256_mul_ps(acc[i], _mm256_load_ps(gates + i * GATED_CHANNELS + c));
            put(out + i * out_stride + c, channels - c, is_streamed, acc[i]);
        }
    }
}

DIP_INLINE void run_of(const struct taps *value, const struct taps *gate, int edge, int run,
                       int64_t x, int64_t channels, float *out, int64_t out_stride,
                       bool is_streamed)
{
    _Alignas(32) float gates[RUN * GATED_CHANNELS];
    if (gate)
        gates_of(gate, edge, run, x, gates);
    outputs_of(value, edge, gate ? GATED_CHANNELS : CHANNELS, run, x, channels, gate ? gates : NULL,
               out, out_stride, is_streamed);
}

DIP_INLINE void row_of(const struct state *s, bool is_gated, int edge, int64_t y, float *out)
{
    struct taps value = taps_at(s, &s->halves[0], edge, y);
    struct taps gate = is_gated ? taps_at(s, &s->halves[1], edge, y) : value;
    const struct taps *gates = is_gated ? &gate : NULL;
    int64_t width = s->j->width;
    int64_t channels = s->channels;
    int64_t out_stride = s->j->out_stride;
    bool is_streamed = s->is_streamed;
    int64_t x = 0;
    for (; x + RUN <= width; x += RUN)
        run_of(&value, gates, edge, RUN, x, channels, out + x * out_stride, out_stride,
               is_streamed);
    for (; x < width; x++)
        run_of(&value, gates, edge, 1, x, channels, out + x * out_stride, out_stride, is_streamed);
}

/* One function per shape the models have. */
static void row_3_gated(const struct state *s, int64_t y, float *out)
{
    row_of(s, true, 3, y, out);
}

static void row_3(const struct state *s, int64_t y, float *out)
{
    row_of(s, false, 3, y, out);
}

static void row_5(const struct state *s, int64_t y, float *out)
{
    row_of(s, false, 5, y, out);
}

static void row_other(const struct state *s, int64_t y, float *out)
{
    bool is_gated = s->half_count == 2;
    switch (s->j->edge) {
    case 1:
        row_of(s, is_gated, 1, y, out);
        break;
    case 5:
        row_of(s, is_gated, 5, y, out);
        break;
    default:
        row_of(s, is_gated, 7, y, out);
        break;
    }
}

static void output_row(const struct state *s, int64_t y, float *out)
{
    if (s->j->edge == 3 && s->half_count == 2)
        row_3_gated(s, y, out);
    else if (s->j->edge == 3)
        row_3(s, y, out);
    else if (s->j->edge == 5 && s->half_count == 1)
        row_5(s, y, out);
    else
        row_other(s, y, out);
}

static void run(const struct state *s, int64_t item, int64_t y, int64_t y_end)
{
    const struct dip_job_conv_depthwise *j = s->j;
    int64_t loaded = y - j->edge / 2;
    for (; y < y_end; y++) {
        for (; loaded <= y + j->edge / 2; loaded++)
            for (int h = 0; h < s->half_count; h++)
                load_line(s, &s->halves[h], item, loaded);
        output_row(s, y,
                   j->out + (item * j->height + y) * j->width * j->out_stride +
                       s->halves[0].channel);
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
    float *next = s->row + CHANNELS;
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
    dip_assert(j->unit_channels <= (j->is_gated ? GATED_CHANNELS : CHANNELS));
    dip_assert(j->edge == 1 || j->edge == 3 || j->edge == 5 || j->edge == EDGE_MAX);
    struct state s = {.j = j, .half_count = j->is_gated ? 2 : 1};
    int64_t outputs = j->channels / s.half_count;
    s.stride = j->is_gated ? GATED_CHANNELS : CHANNELS;
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
