/* kernels/kernels.h - front door of kernels/: arithmetic on raw pointers, one operation per file.
 *
 * Families with the same signatures:
 *   dip_cpu_<op>     the definition: plain loops, sums in f64, no intrinsics; decides what is
 * right. dip_avx2_<op>    fast: AVX2, FMA and F16C, chosen at run time; f32 lanes in a fixed order.
 *   dip_avx512_<op>  the few operations bound by arithmetic, twice as wide, with the AVX2 family's
 *                    bits: the order belongs to the outputs, not to the registers.
 * Operations that only move data, or whose every rounding is prescribed, have the plain form alone:
 * the fast backend calls it too.
 *
 * A kernel computes the units [begin, end) of a job. Units own their outputs outright, so the
 * caller may cut the unit range at any place, on any thread: no bit of any output depends on it.
 * What one unit is stands beside each job; the unit_* fields choose tile sizes and never change
 * bits either. `scratch` is DIP_KERNEL_SCRATCH_BYTES of memory aligned to 64 bytes, private to the
 * call, contents undefined before and after.
 *
 * Strides are in elements, from one row (last dimension) to the next. Pointers need only the
 * alignment of their type. Nothing may alias unless said so. The caller has checked every shape.
 *
 * Orders of summation (the determinism contract of ops/ops.h, for the fast family):
 *   dot form    (linear, attention scores of the autoregressive panel) lane l of eight sums
 * products k = l, l + 8, ... with fma inside a block of 768; lanes join as
 *               ((0+2)+(1+3)) + ((4+6)+(5+7)); blocks are added in order. A tail of k is filled
 * with zeros. See kernels/avx2/dot.h. outer form  (convolution, cross and linear attention, grouped
 * products) one accumulator per output, k in order with fma inside a block whose length depends on
 * fixed sizes only; blocks are added in order. See kernels/avx2/tile.h. row sums    (norms,
 * softmax) lanes as in the dot form without blocks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

enum {
    DIP_KERNEL_SCRATCH_BYTES = 24 << 20, /* touched only as far as a kernel needs it */
    DIP_KERNEL_LINEAR_CHUNKS_MAX = 1024,
    DIP_KERNEL_GROUPED_PANELS_MAX = 4
                                    << 20, /* weights of a grouped product, outputs rounded to 16 */
    DIP_KERNEL_HEAD_DIM_MAX = 512,
    DIP_KERNEL_VOCAB_MAX = 1 << 20,
};

/* Values equal enum dip_act of ops/ops.h. */
enum dip_kernel_act {
    DIP_KERNEL_ACT_NONE,
    DIP_KERNEL_ACT_SILU,
    DIP_KERNEL_ACT_GELU_TANH,
    DIP_KERNEL_ACT_RELU
};

/* A weight as the checkpoint stores it: F32, BF16 or F16, dense. data NULL: absent. */
struct dip_param {
    const void *data;
    enum dip_dtype dtype;
};

/* ---- linear algebra ---- */

/* out[R, N] = act(tree over chunks(in[R, K] weight[N, K]^T) + bias) (+ out).
 * Chunk c sums k in [c K/chunk_count, (c+1) K/chunk_count); chunk sums are f32, joined pairwise:
 * (0+1) + (2+3) ... Flops 2 R N K; bytes N K weight (once per unit_rows rows) + 4 R K + 4 R N.
 * Bound by memory up to about 8 rows, by FMA above.
 * Unit: unit_columns outputs of unit_rows rows; index = column_block * row_blocks + row_block. */
struct dip_job_linear {
    float *out;
    const float *in;
    struct dip_param weight, bias;
    int64_t row_count, out_count, in_count;
    int64_t out_stride, in_stride, weight_stride;
    int64_t unit_rows, unit_columns;
    int chunk_count;
    enum dip_kernel_act act;
    bool is_added;
};

/* out[R, G No] = in[R, G Ki] with group g using weight rows g No ... of Ki columns. Unit: unit_rows
 * rows. */
struct dip_job_linear_grouped {
    float *out;
    const float *in;
    struct dip_param weight;
    int64_t row_count, group_count, out_per_group, in_per_group;
    int64_t out_stride, in_stride;
    int64_t unit_rows;
};

/* out[R, H] = table rows ids[r], widened. Unit: a row. */
struct dip_job_embed {
    float *out;
    struct dip_param table;
    const int32_t *ids;
    int64_t column_count, out_stride, table_stride;
};

/* ---- normalisation, modulation, elementwise ---- */

/* y = act(x * rsqrt(mean(x^2) + eps) * weight + bias) over runs of `group` channels; out = y or
 * out += y. Unit: a row. Memory: reads and writes each row once (second pass from cache). */
struct dip_job_norm_rms {
    float *out;
    const float *in;
    struct dip_param weight, bias;
    int64_t column_count, group, out_stride, in_stride;
    float eps;
    enum dip_kernel_act act;
    bool is_added;
};

/* out = (x - mean) / sqrt(var + eps) * (1 + scale[b]) + shift[b], b = row / rows_per_item. Unit: a
 * row. */
struct dip_job_norm_layer {
    float *out;
    const float *in, *scale, *shift;
    int64_t column_count, rows_per_item;
    int64_t out_stride, in_stride, scale_stride, shift_stride;
    float eps;
};

/* sum += gate[b] * x, product and sum rounded apart; gate NULL: sum += x. x_rows_per_item is
 * rows_per_item when x has one row per item, else 1. Unit: a row. */
struct dip_job_add {
    float *sum;
    const float *x, *gate;
    int64_t column_count, rows_per_item, x_rows_per_item;
    int64_t sum_stride, x_stride, gate_stride;
};

/* out = silu(gate) * up. Unit: a row. */
struct dip_job_silu_mul {
    float *out;
    const float *gate, *up;
    int64_t column_count, out_stride, gate_stride, up_stride;
};

/* out = act(in). Unit: a row. */
struct dip_job_activate {
    float *out;
    const float *in;
    int64_t column_count, out_stride, in_stride;
    enum dip_kernel_act act;
};

enum { DIP_KERNEL_BLEND_MAX = 4 };

/* out = ((c0 a0) + c1 a1) + ...; every product and sum rounded to f32. coefficients[i * item_count
 * + element / item_elements]. Unit: an element. */
struct dip_job_blend {
    float *out;
    const float *in[DIP_KERNEL_BLEND_MAX];
    const float *coefficients;
    int64_t item_elements;
    int count, item_count;
};

/* out = uncond + scale * (cond - uncond), each operation rounded. Unit: an element. */
struct dip_job_guide {
    float *out;
    const float *uncond, *cond;
    float scale;
};

/* out[b, 0..half) = cos(t f_j), out[b, half..2 half) = sin; f_j and the product are rounded to f32
 * first, as the reference does, then cos and sin are right to the last bit of f32. Unit: a row. */
struct dip_job_sinusoid {
    float *out;
    const float *t;
    int64_t half, out_stride;
};

/* ---- autoregressive attention ---- */

/* Where a row stands; the layout of struct dip_row of ops/ops.h. */
struct dip_kernel_row {
    int32_t slot;
    int32_t position;
};

/* Per head in place: RMSNorm with weight[head_dim], then rotation of the pairs (j, j + d/2) by
 * f32(position * inv_freq[j]). Unit: a row. */
struct dip_job_rope {
    float *x;
    struct dip_param weight;
    const struct dip_kernel_row *rows;
    const float *inv_freq;
    int64_t head_count, head_dim, x_stride;
    float eps;
};

/* Cache rows are kv_stride apart, slots slot_stride. Unit: a row. */
struct dip_job_kv_append {
    float *k_cache, *v_cache;
    const float *k, *v;
    const struct dip_kernel_row *rows;
    int64_t column_count, k_stride, v_stride;
    int64_t k_cache_stride, v_cache_stride, capacity;
};

/* Causal attention over keys 0..position, online softmax over blocks of 32 keys. Query head g reads
 * kv head g / (head_count / kv_head_count). Unit: row * kv_head_count + kv head. Bytes: 8 (position
 * + 1) head_dim per unit: bound by memory while decoding. */
struct dip_job_attend {
    float *out;
    const float *q, *k_cache, *v_cache;
    const struct dip_kernel_row *rows;
    int64_t head_count, kv_head_count, head_dim;
    int64_t out_stride, q_stride, k_cache_stride, v_cache_stride, capacity;
};

struct dip_kernel_draw {
    float temperature;
    int32_t top_k;
    float top_p, uniform;
};

/* One id per row of logits[R, V]; the full rule stands in kernels/cpu/sample.c. Both families give
 * the same id for the same bits, always. Unit: a row. */
struct dip_job_sample {
    int32_t *ids;
    const float *logits;
    const struct dip_kernel_draw *draws;
    int64_t vocab_count, logits_stride;
};

/* The same over a vocabulary cut in slices, one per rank of a group: what each finds, then the draw
 * from what all have found.
 * found[r] of a slice: how many candidates it has, then the first `room` of them in drawing order,
 * each a value's bits and an id (first_id + column). Values are after the temperature. */
struct dip_job_sample_select {
    int32_t *found;
    const float *logits;
    const struct dip_kernel_draw *draws;
    int64_t vocab_count, logits_stride; /* of the slice */
    int64_t room, found_stride;
    int32_t first_id;
};

/* ids[r] = what dip_<family>_sample gives for the whole row, or -1 when a slice has more candidates
 * than it had room for. Row r of rank n starts at n rank_stride + r (1 + 2 room). Unit: a row. */
struct dip_job_sample_merge {
    int32_t *ids;
    const int32_t *found;
    const struct dip_kernel_draw *draws;
    int64_t rank_count, rank_stride, room;
};
enum { DIP_KERNEL_SAMPLE_RANKS_MAX = 16 };

/* ---- attention of the diffusion half ---- */

/* softmax(q k^T head_dim^-0.5) v. q, out [N, heads d], k, v [M, heads d]. Unit: unit_rows queries
 * of one head; index = head * row_blocks + row_block. Flops 4 N M d a head: bound by FMA. */
struct dip_job_attend_cross {
    float *out;
    const float *q, *k, *v;
    int64_t row_count, key_count, head_count, head_dim;
    int64_t out_stride, q_stride, k_stride, v_stride;
    int64_t unit_rows;
};

/* ReLU linear attention. Unit: item * head_count + head. */
struct dip_job_attend_linear {
    float *out;
    const float *q, *k, *v;
    int64_t head_count, head_dim, head_stride, rows_per_item;
    int64_t out_stride, q_stride, k_stride, v_stride;
};

/* ---- convolutions and layout (NHWC) ---- */

/* out[B, Ho, Wo, Co] = act(conv(in[B, H, W, Ci]) + bias), zero padding edge / 2. upsample 2 reads
 * in(y >> 1, x >> 1); stride 2 centres at (2 y, 2 x). Unit: unit_pixels output pixels (raster over
 * the batch) of unit_channels outputs; index = channel_block * pixel_blocks + pixel_block. Flops 2
 * B Ho Wo Co Ci edge^2. */
struct dip_job_conv {
    float *out;
    const float *in;
    struct dip_param weight, bias;
    int64_t batch, height, width, in_channels; /* of the input */
    int64_t out_height, out_width, out_channels;
    int64_t out_stride, in_stride; /* from pixel to pixel */
    int64_t unit_pixels, unit_channels;
    int edge, upsample, stride;
    enum dip_kernel_act act;
};

/* Depthwise, same size out as in. is_gated: out has channels / 2: a * silu(g). Unit: unit_rows
 * image rows of unit_channels output channels; index = channel_block * (batch * row_blocks) + item
 * * row_blocks + row_block. Bound by memory. */
struct dip_job_conv_depthwise {
    float *out;
    const float *in;
    struct dip_param weight, bias;
    int64_t batch, height, width, channels;
    int64_t out_stride, in_stride; /* from pixel to pixel */
    int64_t unit_rows, unit_channels;
    int edge;
    bool is_gated;
};

/* Unit: an input row of pixels (batch * height of them). */
struct dip_job_pixel_shuffle {
    float *out;
    const float *in;
    int64_t width, in_channels, out_channels;
    int64_t out_stride, in_stride; /* from pixel to pixel */
    bool is_added;
};

/* out(c) += in(c / repeat). Unit: a row. */
struct dip_job_repeat_add {
    float *out;
    const float *in;
    int64_t in_channels, repeat, out_stride, in_stride;
};

/* Unit: a row of patches (batch * height / patch of them); height, width, channels are the
 * image's. */
struct dip_job_patch {
    float *out;
    const float *in;
    int64_t width, channels, patch;
    int64_t token_stride, pixel_stride;
    bool is_to_tokens;
};

/* NHWC <-> NCHW. Unit: item * channels + channel. */
struct dip_job_layout {
    float *out;
    const float *in;
    int64_t pixels, channels;
    bool is_to_nchw;
};

/* Unit: a pixel. */
struct dip_job_rgb8 {
    unsigned char *out;
    const float *in;
    int64_t out_stride, in_stride;
};

/* ret_bad[unit] becomes true when the unit holds a NaN or an infinity, else stays. Unit: unit_rows
 * rows. */
struct dip_job_check_finite {
    const void *data;
    enum dip_dtype dtype;
    int64_t row_count, column_count, stride, unit_rows;
    bool *ret_bad;
};

/* ---- ceilings: what the machine can do, for benchmarks to divide by ---- */

/* Reads unit_bytes per unit (a multiple of 128) and leaves something of them in ret_sums[unit]. */
struct dip_job_ceiling_read {
    const unsigned char *data;
    int64_t unit_bytes;
    uint64_t *ret_sums;
};

/* Copies unit_bytes per unit (a multiple of 128) with ordinary stores. */
struct dip_job_ceiling_copy {
    unsigned char *to;
    const unsigned char *from;
    int64_t unit_bytes;
};

enum { DIP_KERNEL_CEILING_FMA_FLOPS = 192 }; /* per round: 12 chains of 8 lanes */

/* `rounds` times 12 independent multiply-adds of 8 lanes per unit, nothing loaded. */
struct dip_job_ceiling_fma {
    int64_t rounds;
    float *ret_sums;
};

/* clang-format off */
/* Operations with three forms: plain, AVX2, and the same bits by AVX-512. */
#define DIP_KERNEL_WIDE_LIST(X)                                                                    \
    X(linear) X(linear_grouped) X(attend_cross) X(attend_linear) X(conv) X(conv_depthwise)

/* Operations with two forms: plain and fast. */
#define DIP_KERNEL_FAST_LIST(X)                                                                    \
    X(embed) X(norm_rms) X(norm_layer) X(add) X(silu_mul) X(activate) X(blend) X(guide) X(rope)    \
    X(attend) X(sample) X(sample_select) X(check_finite) X(ceiling_read) X(ceiling_copy)

/* Operations with the plain form alone. */
#define DIP_KERNEL_SLOW_LIST(X)                                                                    \
    X(sinusoid) X(kv_append) X(sample_merge) X(pixel_shuffle) X(repeat_add) X(patch) X(layout)     \
    X(rgb8)
/* clang-format on */

#define DIP_KERNEL_LIST(X)                                                                         \
    DIP_KERNEL_WIDE_LIST(X)                                                                        \
    X(ceiling_fma) DIP_KERNEL_FAST_LIST(X) DIP_KERNEL_SLOW_LIST(X)

#define DIP_KERNEL_CPU(op)                                                                         \
    void dip_cpu_##op(const struct dip_job_##op *job, int64_t begin, int64_t end, void *scratch);
#define DIP_KERNEL_AVX2(op)                                                                        \
    void dip_avx2_##op(const struct dip_job_##op *job, int64_t begin, int64_t end, void *scratch);
#define DIP_KERNEL_AVX512(op)                                                                      \
    void dip_avx512_##op(const struct dip_job_##op *job, int64_t begin, int64_t end, void *scratch);
DIP_KERNEL_LIST(DIP_KERNEL_CPU)
DIP_KERNEL_FAST_LIST(DIP_KERNEL_AVX2)
DIP_KERNEL_WIDE_LIST(DIP_KERNEL_AVX2)
DIP_KERNEL_WIDE_LIST(DIP_KERNEL_AVX512)
DIP_KERNEL_AVX2(ceiling_fma)
DIP_KERNEL_AVX512(ceiling_fma)
#undef DIP_KERNEL_CPU
#undef DIP_KERNEL_AVX2
#undef DIP_KERNEL_AVX512
