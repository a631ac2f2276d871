/* kernels/cuda/cuda.h - front door of kernels/cuda: every operation as one launcher.
 *
 * dip_cuda_<op> enqueues operation <op> on a stream and returns: DIP_OK, DIP_DEVICE (the launch was
 * refused; the runtime's last error says why) or DIP_UNSUPPORTED (a size beyond a limit named
 * here). What an operation means is said in ops/ops.h and defined by kernels/cpu; fields are named
 * as in kernels/kernels.h. Every pointer in a job is a device pointer, also those of tables the CPU
 * keeps on the host (rows, draws, coefficients); the job itself is copied.
 *
 * Types. An activation is F32 or BF16, each operand on its own unless a job says otherwise; sums,
 * norms, softmax and the state of linear attention are f32, and a result is rounded once, when it
 * is stored. Parameters are F32, BF16 or F16. 16-byte accesses are used where base and stride allow
 * them; no operand needs more than the alignment of its type.
 *
 * Same bits. An output's order of summation follows from the operation's fixed sizes and its types:
 * not from the rows beside it, their number, where a row stands, or the grid. Grids and code paths
 * follow from shapes, types and alignment, never from values in device memory, so every launcher
 * can be captured into a graph. Launchers do not allocate, synchronise or keep state.
 *
 * Scratch. Jobs with a `scratch` field need DIP_CUDA_SCRATCH_BYTES of device memory aligned to 256
 * bytes, not shared between streams; contents are undefined before and after. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st; /* cudaStream_t is a pointer to it */

enum {
    DIP_CUDA_SCRATCH_BYTES = 64 << 20,
    DIP_CUDA_HEAD_DIM_MAX = 256, /* of attention and rotary embedding */
    DIP_CUDA_SAMPLE_ROWS_MAX = 256,
    DIP_CUDA_EOS_MAX = 8,
};

/* rows x columns elements, `stride` elements from row to row. */
struct dip_cuda_view {
    void *data;
    enum dip_dtype dtype;
    int64_t rows, columns, stride;
};

/* ---- linear algebra ---- */

/* out[R, N] = act(tree over chunks(in weight^T) + bias) (+ out). Weight [N, K], weight_stride from
 * row to row. BF16 x BF16 runs on tensor cores for every R, anything else in f32. scratch.
 *
 * Two neighbours of a product can be folded in, when there is one chunk; the bits are those of the
 * launches they replace:
 *   norm_weight  not NULL: the operand is not `in` but its RMSNorm, stored as operand_dtype
 *   is_gated     weight has 2 N rows; out = silu(first N) * last N, both rounded to out's type
 * before
 *
 * is_early: the launch may begin while earlier ones of the stream still run, to have its first
 * weights under way (compute capability 9.0 and up). The weights must then not be what an earlier
 * launch writes. */
struct dip_cuda_linear {
    struct dip_cuda_view out, in;
    struct dip_param weight, bias;
    int64_t weight_stride;
    int chunk_count;
    enum dip_kernel_act act;
    bool is_added, is_gated, is_early;
    struct dip_param norm_weight;
    float norm_eps;
    enum dip_dtype operand_dtype;
    void *scratch;
};

struct dip_cuda_linear_grouped {
    struct dip_cuda_view out, in;
    struct dip_param weight;
    int64_t group_count;
};

/* ids i32[out.rows]; an id outside the table gives NaN. */
struct dip_cuda_embed {
    struct dip_cuda_view out;
    struct dip_param table;
    const int32_t *ids;
    int64_t table_rows, table_stride;
};

/* out f32[count] = the canonical tree over f32 parts[part_count][part_stride]: neighbours first.
 * part_count is a power of two. (+ out when is_added.) */
struct dip_cuda_tree_sum {
    struct dip_cuda_view out;
    const float *parts;
    int64_t part_count, part_stride;
    bool is_added;
};

/* ---- normalisation, modulation, elementwise ---- */

struct dip_cuda_norm_rms {
    struct dip_cuda_view out, in;
    struct dip_param weight, bias;
    int64_t group;
    float eps;
    enum dip_kernel_act act;
    bool is_added;
};

struct dip_cuda_norm_layer {
    struct dip_cuda_view out, in, scale, shift;
    int64_t rows_per_item;
    float eps;
};

/* gate.data NULL: sum += x. x_rows_per_item is rows_per_item when x has one row per item, else 1.
 */
struct dip_cuda_add {
    struct dip_cuda_view sum, x, gate;
    int64_t rows_per_item, x_rows_per_item;
};

/* Dense F32. out row t * (out.rows / tables.rows) + r = in row r % in.rows + tables row t. */
struct dip_cuda_outer_sum {
    struct dip_cuda_view out, in, tables;
};

struct dip_cuda_silu_mul {
    struct dip_cuda_view out, gate, up;
};

struct dip_cuda_activate {
    struct dip_cuda_view out, in;
    enum dip_kernel_act act;
};

/* Dense. coefficients[i * item_count + item]. */
struct dip_cuda_blend {
    struct dip_cuda_view out;
    struct dip_cuda_view in[DIP_KERNEL_BLEND_MAX];
    const float *coefficients;
    int count, item_count;
};

/* Dense. */
struct dip_cuda_guide {
    struct dip_cuda_view out, uncond, cond;
    float scale;
};

/* t: one number per row of out. */
struct dip_cuda_sinusoid {
    struct dip_cuda_view out;
    const float *t;
};

/* out = in in out's type (F32, BF16, F16, or equal types of any kind). */
struct dip_cuda_cast {
    struct dip_cuda_view out, in;
};

struct dip_cuda_fill {
    struct dip_cuda_view out; /* F32, BF16, F16, I32 or U8 */
    float value;
};

/* *flag |= 1 when in (F32, BF16, F16) holds a NaN or an infinity. */
struct dip_cuda_check_finite {
    struct dip_cuda_view in;
    uint32_t *flag;
};

/* ---- autoregressive attention ---- */

struct dip_cuda_rope {
    struct dip_cuda_view x;
    struct dip_param weight;
    const struct dip_kernel_row *rows;
    const float *inv_freq;
    int64_t head_dim;
    float eps;
};

/* One layer's cache: position p of slot s is the row s * capacity + p of k and v. */
struct dip_cuda_kv {
    struct dip_cuda_view k, v;
    int64_t capacity;
};

struct dip_cuda_kv_append {
    struct dip_cuda_kv kv;
    struct dip_cuda_view k, v;
    const struct dip_kernel_row *rows;
};

/* rope on q and k and kv_append in one launch, on one product [R, (heads + 2 kv_heads) * head_dim]:
 * q is left in place, k and v go to the cache. The bits are those of the three. */
struct dip_cuda_qkv_rope {
    struct dip_cuda_view qkv;
    struct dip_cuda_kv kv;
    struct dip_param q_weight, k_weight;
    const struct dip_kernel_row *rows;
    const float *inv_freq;
    int64_t head_count, kv_head_count, head_dim;
    float eps;
};

/* q, the cache's k and v have one type. scratch. */
struct dip_cuda_attend {
    struct dip_cuda_view out, q;
    struct dip_cuda_kv kv;
    const struct dip_kernel_row *rows;
    int64_t head_count, kv_head_count, head_dim;
    void *scratch;
};

/* ---- sampling ---- */

/* ids i32[R] from logits f32[R, V], R <= DIP_CUDA_SAMPLE_ROWS_MAX. The ids are those of
 * dip_cpu_sample for the same bits, always. scratch. */
struct dip_cuda_sample {
    int32_t *ids;
    struct dip_cuda_view logits;
    const struct dip_kernel_draw *draws;
    void *scratch;
};

struct dip_cuda_sample_select {
    int32_t *found;
    struct dip_cuda_view logits; /* of the slice */
    const struct dip_kernel_draw *draws;
    int64_t room, found_stride;
    int32_t first_id;
    void *scratch;
};

struct dip_cuda_sample_merge {
    int32_t *ids;
    const int32_t *found;
    const struct dip_kernel_draw *draws;
    int64_t row_count, rank_count, rank_stride, room;
    void *scratch;
};

/* ---- a decode step without the host ---- */

enum dip_cuda_slot_state {
    DIP_CUDA_SLOT_IDLE,
    DIP_CUDA_SLOT_RUNNING,
    DIP_CUDA_SLOT_DONE,
    DIP_CUDA_SLOT_BROKEN /* a hidden state or an id was not a number */
};

/* What a slot must remember between steps. Owner: the device, while a step runs. */
struct dip_cuda_slot {
    uint64_t seed;
    uint32_t image_index;
    int32_t state; /* enum dip_cuda_slot_state */
    float temperature, top_p;
    int32_t top_k;
    int32_t position;  /* in the sequence, of the row it feeds next */
    int32_t token;     /* index of the image token it draws next: the counter of its uniform */
    int32_t end;       /* it is done when position gets here */
    int32_t hinge_row; /* the next row of hinge */
    float *hinge;      /* [.., H], or NULL */
};

/* Before a step, for row r < row_count and slot i = row_slots[r]: rows[r] and draws[r] of a running
 * slot, its last hidden state in drawing[r, :]. A slot that does not run is parked: it stands on
 * the cache's last position, whose keys nobody reads, and draws greedily. *step counts the steps:
 * it moves on here. */
struct dip_cuda_decode_begin {
    const struct dip_cuda_slot *slots;
    const int32_t *row_slots;
    struct dip_cuda_view last, drawing; /* F32 [slots, H]; F32 or BF16 [row_count, H] */
    struct dip_kernel_row *rows;
    struct dip_kernel_draw *draws;
    uint32_t *step;
    int64_t row_count, capacity;
};

/* After a step: a running slot's hidden[r, :] becomes its last state and a row of its hinge; its
 * counters move on; it is done at `end` or at an end id. ring (memory the host can read): entry
 * ((*step - 1) % ring_depth) * row_count + r = {id, state}; id -1 for a slot that did not run. A
 * slot for which no id was drawn (-1) is broken, and has what it had before the step. */
struct dip_cuda_decode_end {
    struct dip_cuda_slot *slots;
    const int32_t *row_slots;
    struct dip_cuda_view last, hidden; /* F32 */
    const int32_t *ids;
    int32_t *ring; /* [ring_depth][row_count][2] */
    const uint32_t *step;
    int64_t row_count, ring_depth;
    int32_t eos_ids[DIP_CUDA_EOS_MAX];
    int eos_count;
};

/* ---- a sampler's step ---- */

enum dip_cuda_sampler_rule {
    DIP_CUDA_SAMPLER_STRAIGHT, /* x' = c[0] x + c[1] velocity */
    DIP_CUDA_SAMPLER_FIRST,    /* x' = c[0] x + c[1] clean */
    DIP_CUDA_SAMPLER_SECOND    /* ... + c[2] clean_previous */
};
struct dip_cuda_sampler_item {
    float *latent, *clean, *clean_previous; /* [columns of the batch], aligned to 16 bytes */
    float timestep, guidance, to_clean, c[3];
    int32_t rule;
};

/* Before a step of latent.rows pictures; dense. */
struct dip_cuda_sampler_begin {
    struct dip_cuda_view latent;
    const struct dip_cuda_sampler_item *items;
    float *t;
    uint32_t *is_bad;
};

/* Behind it, with the roundings of guide and blend. uncond.data may be NULL. Dense F32. */
struct dip_cuda_sampler_end {
    struct dip_cuda_view velocity, uncond, cond;
    const struct dip_cuda_sampler_item *items;
    uint32_t *is_bad;
};

/* ---- attention of the diffusion half ---- */

/* Keys and values of one item: for each block of a network row_count rows, dense, aligned to 16
 * bytes. */
struct dip_cuda_context {
    const void *k, *v;
    int64_t row_count;
};

/* q, k, v have one type. contexts NULL: every row reads k and v. Else k and v say nothing, and each
 * rows_per_item rows read those of contexts[item] (device), rows block * row_count and on. */
struct dip_cuda_attend_cross {
    struct dip_cuda_view out, q, k, v;
    const struct dip_cuda_context *contexts;
    int64_t rows_per_item, block;
    int64_t head_count, head_dim;
};

/* scratch. */
struct dip_cuda_attend_linear {
    struct dip_cuda_view out, q, k, v;
    int64_t head_count, head_dim, head_stride, rows_per_item;
    void *scratch;
};

/* ---- convolutions and layout (NHWC); a view's rows are pixels ---- */

/* Weights as a convolution reads them: packed [phase][Co][taps][Ci], once at load. With upsample 2
 * there are four phases of (edge + 1) / 2 squared taps whose weights are sums of the stored ones.
 */
struct dip_cuda_conv_pack {
    void *packed;
    enum dip_dtype packed_dtype; /* BF16 beside BF16 activations, else F32 */
    struct dip_param weight;     /* [Co, Ci, edge, edge] */
    int64_t out_channels, in_channels;
    int edge, upsample;
};
size_t dip_cuda_conv_packed_bytes(const struct dip_cuda_conv_pack *job);

struct dip_cuda_conv {
    struct dip_cuda_view out, in;
    struct dip_param packed, bias;
    int64_t batch, height, width; /* of the input */
    int edge, upsample, stride;
    enum dip_kernel_act act;
    void *scratch;
};

struct dip_cuda_conv_depthwise {
    struct dip_cuda_view out, in;
    struct dip_param weight, bias;
    int64_t batch, height, width;
    int edge;
    bool is_gated;
};

struct dip_cuda_pixel_shuffle {
    struct dip_cuda_view out, in;
    int64_t batch, height, width; /* of the input */
    bool is_added;
};

struct dip_cuda_repeat_add {
    struct dip_cuda_view out, in;
};

/* height, width of the image. */
struct dip_cuda_patch {
    struct dip_cuda_view out, in;
    int64_t batch, height, width, channels, patch;
    bool is_to_tokens;
};

/* Dense. */
struct dip_cuda_layout {
    struct dip_cuda_view out, in;
    int64_t batch, pixels, channels;
    bool is_to_nchw;
};

/* out U8. */
struct dip_cuda_rgb8 {
    struct dip_cuda_view out, in;
};

/* clang-format off */
#define DIP_CUDA_LIST(X)                                                                           \
    X(linear) X(linear_grouped) X(embed) X(tree_sum) X(norm_rms) X(norm_layer) X(add)              \
    X(outer_sum) X(silu_mul) X(sampler_begin) X(sampler_end)  \
    X(activate) X(blend) X(guide) X(sinusoid) X(cast) X(fill) X(check_finite) X(rope)              \
    X(kv_append) X(qkv_rope) X(attend) X(sample) X(sample_select) X(sample_merge)                  \
    X(decode_begin) X(decode_end) X(attend_cross) X(attend_linear) X(conv_pack) X(conv)            \
    X(conv_depthwise) X(pixel_shuffle) X(repeat_add) X(patch) X(layout) X(rgb8)
#define DIP_CUDA_LAUNCHER(op)                                                                      \
    enum dip_status dip_cuda_##op(struct CUstream_st *stream, const struct dip_cuda_##op *job);
/* clang-format on */
#ifdef __cplusplus /* where a function and a struct of one name are thought a mistake */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
DIP_CUDA_LIST(DIP_CUDA_LAUNCHER)
#ifdef __cplusplus
#pragma GCC diagnostic pop
#endif
#undef DIP_CUDA_LAUNCHER

#ifdef __cplusplus
}
#endif
