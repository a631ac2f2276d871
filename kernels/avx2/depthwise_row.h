/* kernels/avx2/depthwise_row.h - one output row of a depthwise convolution, LANES channels at a
 * time.
 *
 * The file that includes it has said what a vector is: `vec`, LANES, and vec_load,
 * vec_load_aligned, vec_store, vec_fma, vec_mul, vec_silu, vec_put. Each lane goes its own way, so
 * that every width gives the same bits.
 *
 * Four neighbouring outputs share each weight and each input: 27 loads for 36 fma at 3x3. Order per
 * output: bias, then taps row by row. */
#pragma once

#include "kernels/avx2/inner.h"

enum { RUN = 4, GATED = DIP__DEPTHWISE_GATED_CHANNELS };

/* acc[i] = output i of a run that starts at pixel x, channels c..c+LANES. */
DIP_INLINE void convolve(const struct dip__depthwise_taps *t, int edge, int stride, int run,
                         int64_t x, int64_t c, vec *acc)
{
    vec bias = vec_load(t->bias + c);
#pragma GCC unroll 4
    for (int i = 0; i < run; i++)
        acc[i] = bias;
#pragma GCC unroll 7
    for (int dy = 0; dy < edge; dy++) {
        const float *line = t->lines[dy] + x * stride + c;
        const float *weights = t->weights + dy * edge * stride + c;
        vec in[RUN + DIP__DEPTHWISE_EDGE_MAX - 1];
#pragma GCC unroll 10
        for (int i = 0; i < run + edge - 1; i++)
            in[i] = vec_load(line + i * stride);
#pragma GCC unroll 7
        for (int dx = 0; dx < edge; dx++) {
            vec w = vec_load(weights + dx * stride);
#pragma GCC unroll 4
            for (int i = 0; i < run; i++)
                acc[i] = vec_fma(in[i + dx], w, acc[i]);
        }
    }
}

/* gates[i][c] = silu(output i of the run). Two loops: behind the convolution's chain of fma each
 * exponential would wait for its turn. */
DIP_INLINE void gates_of(const struct dip__depthwise_taps *t, int edge, int run, int64_t x,
                         float *gates)
{
    for (int64_t c = 0; c < GATED; c += LANES) {
        vec acc[RUN];
        convolve(t, edge, GATED, run, x, c, acc);
#pragma GCC unroll 4
        for (int i = 0; i < run; i++)
            vec_store(gates + i * GATED + c, acc[i]);
    }
    for (int64_t i = 0; i < (int64_t)run * GATED; i += LANES)
        vec_store(gates + i, vec_silu(vec_load_aligned(gates + i)));
}

/* Arguments of a run by value: stores through vector types may alias anything, and would have every
 * pointer reloaded. */
struct target {
    float *out;
    int64_t out_stride, channels;
    bool is_streamed;
};

/* Output pixels are as far apart as input pixels: their lines are fetched two runs early. */
DIP_INLINE void fetch(struct target to, int run, int64_t c)
{
    if (!to.is_streamed)
#pragma GCC unroll 4
        for (int i = 0; i < run; i++)
            _mm_prefetch((const char *)(to.out + (2 * RUN + i) * to.out_stride + c), _MM_HINT_T0);
}

/* A run of pixels, all channels. gates NULL: no gate. */
DIP_INLINE void outputs_of(const struct dip__depthwise_taps *t, int edge, int stride, int run,
                           int64_t x, const float *gates, struct target to)
{
    for (int64_t c = 0; c < to.channels; c += LANES) {
        vec acc[RUN];
        fetch(to, run, c);
        convolve(t, edge, stride, run, x, c, acc);
#pragma GCC unroll 4
        for (int i = 0; i < run; i++) {
            if (gates)
                acc[i] = vec_mul(acc[i], vec_load_aligned(gates + i * GATED + c));
            vec_put(to.out + i * to.out_stride + c, to.channels - c, to.is_streamed, acc[i]);
        }
    }
}

DIP_INLINE void run_of(const struct dip__depthwise_taps *value,
                       const struct dip__depthwise_taps *gate, int edge, int run, int64_t x,
                       struct target to)
{
    _Alignas(64) float gates[RUN * GATED];
    if (gate)
        gates_of(gate, edge, run, x, gates);
    outputs_of(value, edge, gate ? GATED : DIP__DEPTHWISE_CHANNELS, run, x, gate ? gates : NULL,
               to);
}

DIP_INLINE void row_of(const struct dip__depthwise_row *j, bool is_gated, int edge)
{
    struct dip__depthwise_taps value = j->value;
    struct dip__depthwise_taps gate = j->gate;
    const struct dip__depthwise_taps *gates = is_gated ? &gate : NULL;
    struct target to = {j->out, j->out_stride, j->channels, j->is_streamed};
    int64_t width = j->width;
    int64_t x = 0;
    for (; x + RUN <= width; x += RUN, to.out += RUN * to.out_stride)
        run_of(&value, gates, edge, RUN, x, to);
    for (; x < width; x++, to.out += to.out_stride)
        run_of(&value, gates, edge, 1, x, to);
}

/* One function per shape the models have. */
static void row_3_gated(const struct dip__depthwise_row *j)
{
    row_of(j, true, 3);
}

static void row_3(const struct dip__depthwise_row *j)
{
    row_of(j, false, 3);
}

static void row_5(const struct dip__depthwise_row *j)
{
    row_of(j, false, 5);
}

static void row_other(const struct dip__depthwise_row *j)
{
    switch (j->edge) {
    case 1:
        row_of(j, j->is_gated, 1);
        break;
    case 5:
        row_of(j, j->is_gated, 5);
        break;
    default:
        row_of(j, j->is_gated, 7);
        break;
    }
}

static void depthwise_row(const struct dip__depthwise_row *j)
{
    if (j->edge == 3 && j->is_gated)
        row_3_gated(j);
    else if (j->edge == 3)
        row_3(j);
    else if (j->edge == 5 && !j->is_gated)
        row_5(j);
    else
        row_other(j);
}
