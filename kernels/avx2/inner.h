/* kernels/avx2/inner.h - the innermost loops, which exist in two widths: AVX2 and AVX-512.
 *
 * Everything around them is written once. The orders of summation belong to the outputs, not to the
 * registers: a 512-bit register holds the eight lanes of two columns (dot form) or sixteen outputs
 * that never meet (outer form, depthwise), so both widths give the same bits. */
#pragma once

#include "kernels/kernels.h"

/* ---- dot form ---- */

/* A block of eight weight rows (24 KB as f32) stays in the first-level cache while rows of
 * activations stream past it, and the block of 96 such rows in the second; 96 steps also hide the
 * join of the lanes. 512 and 1024 were 2 to 5 % slower. */
enum { DIP__DOT_BLOCK = 768, DIP__DOT_COLUMNS = 8, DIP__PARTIAL_STRIDE = 128 };

/* partial[r][0..columns) (+)= block sums of rows of `in` against up to eight weight rows, in whole
 * fours. The weights are widened once into a panel [ceil(k / 8)][8 columns][8], zeros beyond k,
 * which all rows then share; the first tile may widen on its way. */
struct dip__dot_rows {
    const float *in;
    int64_t in_stride, rows;
    const void *w[DIP__DOT_COLUMNS]; /* at the block's first k; columns beyond the last repeat it */
    enum dip_dtype dtype;
    int64_t k, columns; /* at most DIP__DOT_BLOCK, DIP__DOT_COLUMNS */
    int64_t ahead;  /* what lies as many bytes further on in each weight row is fetched meanwhile */
    float *panel;   /* room for one */
    float *partial; /* rows are DIP__PARTIAL_STRIDE apart */
    bool is_first;  /* = instead of += */
    bool is_cold;   /* these columns of `in` are not in the second-level cache yet */
};

/* ---- outer form ---- */

enum { DIP__TILE_ROWS = 6, DIP__PANEL = 16, DIP__PANELS_MAX = 2 };

/* to[r][0..columns) (+)= a[r][0..count) panels[count][columns], one fma chain per output.
 *
 *   panels [2][count][16], panel_next floats apart; rows of `to` are padded to whole vectors of 8
 */
struct dip__tile_rows {
    const float *a;
    int64_t a_stride, rows;
    const float *panels;
    int64_t panel_next, count, columns; /* columns: 1..32 */
    float *to;
    int64_t to_stride;
    bool is_first;
};

/* The same for DIP__TILE_ROWS rows made of several pieces: piece t of row r is at[t * 6 + r] +
 * first, its panel rows lie at panels + t * panel_piece. */
struct dip__tile_pieces {
    const float *const *at;
    int piece_count;
    int64_t first;
    const float *panels;
    int64_t panel_next, panel_piece, count, columns;
    float *to;
    int64_t to_stride;
    bool is_first;
};

/* ---- depthwise ---- */

enum {
    DIP__DEPTHWISE_CHANNELS = 64,       /* of a line */
    DIP__DEPTHWISE_GATED_CHANNELS = 32, /* of a line when there are gates */
    DIP__DEPTHWISE_EDGE_MAX = 7
};

/* Lines [pad + width + pad][channels of a line]; weights [edge * edge][the same], bias likewise. */
struct dip__depthwise_taps {
    const float *lines[DIP__DEPTHWISE_EDGE_MAX]; /* of the output row, from the top */
    const float *weights, *bias;
};

/* One output row of up to a line's channels; value * silu(gate) when is_gated. */
struct dip__depthwise_row {
    struct dip__depthwise_taps value, gate;
    int64_t width, channels;
    float *out;
    int64_t out_stride;
    int edge;
    bool is_gated;
    bool is_streamed; /* out is aligned to 32 bytes and too large for caches */
};

/* ---- both widths ---- */

struct dip__inner {
    void (*dot_rows)(const struct dip__dot_rows *job);
    void (*tile_rows)(const struct dip__tile_rows *job);
    void (*tile_pieces)(const struct dip__tile_pieces *job);
    void (*depthwise_row)(const struct dip__depthwise_row *job);
};

void dip__avx2_dot_rows(const struct dip__dot_rows *job);
void dip__avx2_tile_rows(const struct dip__tile_rows *job);
void dip__avx2_tile_pieces(const struct dip__tile_pieces *job);
void dip__avx2_depthwise_row(const struct dip__depthwise_row *job);

void dip__avx512_dot_rows(const struct dip__dot_rows *job);
void dip__avx512_tile_rows(const struct dip__tile_rows *job);
void dip__avx512_tile_pieces(const struct dip__tile_pieces *job);
void dip__avx512_depthwise_row(const struct dip__depthwise_row *job);

/* The operations around them. */
#define DIP__INNER_OP(op)                                                                          \
    void dip__##op(const struct dip__inner *inner, const struct dip_job_##op *job, int64_t begin,  \
                   int64_t end, void *scratch);
DIP_KERNEL_WIDE_LIST(DIP__INNER_OP)
#undef DIP__INNER_OP
