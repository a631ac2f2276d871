/* ops/ops.h - what an operation means, and which backend computes it.
 *
 * A dip_tensor is a view of device memory; a dip_stream is an ordered queue of operations on one
 * device. Every function below checks shapes, dtypes and aliasing (a violation is a broken
 * contract: dip_assert) and calls the backend's entry in struct dip_ops. Calls may return before
 * completion; dip_wait ends that. On the CPU they are complete on return.
 *
 * Activations are row-major: [..., channels], channels contiguous, images NHWC. Weights keep the
 * layout and dtype of the checkpoint (linear [out, in], convolution [out, in / groups, kh, kw]) and
 * are never copied on the host. CPU activations are f32; weights f32, bf16 or f16, widened in
 * registers.
 *
 * Same bits: every output element has a reduction order that depends on the operation's fixed sizes
 * only, never on how many rows are beside it, on the number of threads or on where a row stands in
 * the batch (design: determinism). Thread: the device thread that owns the stream. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/limits.h"
#include "base/status.h"

struct dip_device;
struct dip_stream;

/* ---- views ---- */

struct dip_tensor {
    void *data;
    enum dip_dtype dtype;
    int rank;                          /* 1..4 */
    int64_t dims[DIP_TENSOR_RANK_MAX]; /* dims[rank] and beyond are 1 */
    int64_t
        row_stride; /* elements from one last-dimension row to the next; dims[rank-1] when dense */
};

/* Dense views. rank of dip_rows is 2. */
struct dip_tensor dip_tensor_1d(void *data, enum dip_dtype dtype, int64_t count);
struct dip_tensor dip_rows(void *data, enum dip_dtype dtype, int64_t rows, int64_t columns);
struct dip_tensor dip_image(void *data, enum dip_dtype dtype, int64_t batch, int64_t height,
                            int64_t width, int64_t channels);

/* Rows [first, first + count) and columns [first, first + count) of a view, sharing its memory. */
struct dip_tensor dip_rows_slice(struct dip_tensor t, int64_t first, int64_t count);
struct dip_tensor dip_columns_slice(struct dip_tensor t, int64_t first, int64_t count);

int64_t dip_tensor_rows(struct dip_tensor t);    /* product of all dims but the last */
int64_t dip_tensor_columns(struct dip_tensor t); /* last dim */
int64_t dip_tensor_count(struct dip_tensor t);
bool dip_tensor_is_dense(struct dip_tensor t);

/* ---- devices, streams, memory ---- */

struct dip_device_options {
    const char *backend;   /* "auto", "cpu" or "cuda"; NULL = auto: cuda where it can, else cpu */
    int threads;           /* CPU compute threads; 0 = all this process may use */
    int index;             /* which of the machine's GPUs, 0 = the first */
    const char *precision; /* of activations: "f32", "bf16", or "auto" = NULL = the backend's own */
    const char *plugin;    /* path of libdiptych-cuda.so; NULL = where ops/plugin.c looks */
    const char *cudnn;     /* path of cuDNN's library, "auto" = NULL = where the loader looks, or
                              "off": convolutions by our own kernels */
};

/* Errors: UNSUPPORTED (backend absent on this host, says what is missing), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_device_open(const struct dip_device_options *options,
                                             struct dip_why *why, struct dip_device **ret_device);
void dip_device_close(struct dip_device *device);

/* What this machine has for the CUDA backend, for a person to read. Nothing stays open. */
enum dip_device_lack {
    DIP_LACK_NONE,
    DIP_LACK_DRIVER,     /* no driver of NVIDIA's */
    DIP_LACK_PLUGIN,     /* no plug-in, or one of another build */
    DIP_LACK_LIBRARY,    /* one that the plug-in is linked with */
    DIP_LACK_NEW_DRIVER, /* the one there is does not speak this CUDA */
    DIP_LACK_DEVICE,     /* no GPU, or none of that number, or one that does not answer */
};
struct dip_device_report {
    enum dip_device_lack lack;
    bool has_driver, has_plugin;
    char features[64];            /* libraries the plug-in was built with */
    char driver[32], runtime[32]; /* versions of CUDA; "" = none */
    int device_count;
    char device[160]; /* of the index asked for */
    uint64_t memory_bytes, memory_free_bytes;
};

/* The report is filled as far as it can be, also on failure. Errors: UNSUPPORTED, with a sentence
 * that says what is missing. */
DIP_MUST_USE enum dip_status dip_device_probe(const struct dip_device_options *options,
                                              struct dip_why *why,
                                              struct dip_device_report *ret_report);

const char *dip_device_backend(const struct dip_device *device); /* "cpu" */
const char *dip_device_class(
    const struct dip_device *device); /* for the fingerprint: "cpu-avx2", "cpu-plain" */
int dip_device_threads(const struct dip_device *device);

/* The dtype of rows that a network keeps between its operations: F32 on the CPU. Residual streams,
 * states, logits, latents, velocities and modulations are F32 on every device. */
enum dip_dtype dip_device_activation(const struct dip_device *device);

/* Why `auto` chose the CPU, or what happened to a device that failed; "" when there is nothing to
 * say. */
const char *dip_device_note(const struct dip_device *device);

/* What is no failure and yet worth a line in the log: that a library is missing which would have
 * made things faster. "" when there is nothing to say. */
const char *dip_device_remark(const struct dip_device *device);

/* Device memory, aligned to DIP_ARENA_ALIGN, zeroed. Only at start-up: never inside a step. */
struct dip_mem {
    void *base;
    size_t bytes;
};
DIP_MUST_USE enum dip_status dip_reserve(struct dip_device *device, size_t bytes,
                                         struct dip_mem *ret_mem);
void dip_release(struct dip_device *device, struct dip_mem *mem);

/* A stream keeps a small scratch of its own for kernels (packing panels), reserved when it opens.
 */
DIP_MUST_USE enum dip_status dip_stream_open(struct dip_device *device,
                                             struct dip_stream **ret_stream);
void dip_stream_close(struct dip_stream *stream);
struct dip_device *dip_stream_device(const struct dip_stream *stream);

/* Waits for everything enqueued. Errors: DEVICE (the stream is dead). */
DIP_MUST_USE enum dip_status dip_wait(struct dip_stream *s);

/* Between host and device memory in either direction; same dtype and count, any strides. Complete
 * after dip_wait. */
DIP_MUST_USE enum dip_status dip_copy(struct dip_stream *s, struct dip_tensor to,
                                      struct dip_tensor from);
/* The same values in another dtype, rounded to nearest; equal dtypes are copied. On the device. */
DIP_MUST_USE enum dip_status dip_cast(struct dip_stream *s, struct dip_tensor to,
                                      struct dip_tensor from);

/* Where the device may read `bytes` of a host array until the next dip_wait; on the CPU the array
 * itself. Every array below that is said to be of the host may be staged, which saves copying it
 * again for each operation that reads it. NULL: more than fits until the next wait, or a dead
 * device. */
const void *dip_stage(struct dip_stream *s, const void *data, size_t bytes);

DIP_MUST_USE enum dip_status dip_fill(struct dip_stream *s, struct dip_tensor to, float value);

/* ---- weights ---- */

/* What reads a weight. A convolution's kernel (edge above 1, not depthwise) is packed for it. */
enum dip_weight_use { DIP_WEIGHT_PLAIN, DIP_WEIGHT_CONV, DIP_WEIGHT_CONV_UPSAMPLED };

/* Whether operations read host memory: then weights stay views of their files, and the two calls
 * below are not needed. Where not, every weight must be placed before an operation reads it. */
bool dip_device_reads_host(const struct dip_device *device);

/* Device memory that the weight takes, a multiple of 2. */
size_t dip_weight_bytes(const struct dip_device *device, struct dip_tensor weight,
                        enum dip_weight_use use);

/* Copies a weight [..] of any strides from the host to `at` (dip_weight_bytes of device memory) and
 * makes *weight its view there: dense, of the same shape, in the dtype that the device reads it in.
 * Complete after dip_wait; the host's copy is read before the call returns. Errors: DEVICE. */
DIP_MUST_USE enum dip_status dip_weight_place(struct dip_stream *s, enum dip_weight_use use,
                                              void *at, struct dip_tensor *weight);

/* ---- linear algebra ---- */

enum dip_act { DIP_ACT_NONE, DIP_ACT_SILU, DIP_ACT_GELU_TANH, DIP_ACT_RELU };

/* out[R, N] = act(in[R, K] weight[N, K]^T + bias[N]) (+ out when is_added). weight may be rank 4
 * [N, K, 1, 1]. chunk_count (0 = 1) cuts K into that many equal chunks, each summed alone, joined
 * in a fixed binary tree: the canonical reduction of row-parallel products, so that a
 * tensor-parallel group gives the same bits. chunk_count is a power of two and divides K. out may
 * not alias in. A device may fetch weights ahead of what was enqueued before: what is enqueued
 * since the last wait may not write them. */
struct dip_linear_args {
    struct dip_tensor out, in, weight;
    const struct dip_tensor *bias; /* [N] or NULL */
    enum dip_act act;
    int chunk_count;
    bool is_added;
    int64_t rows_per_item; /* rows that are never computed apart (the tokens of a picture); 0 = 1.
                              How a product is computed may depend on it, never on R: a row's bits
                              do not know how many items there are */
};
DIP_MUST_USE enum dip_status dip_linear(struct dip_stream *s, const struct dip_linear_args *a);

/* 1x1 convolution in groups: out[R, G*No], in[R, G*Ki], weight[G*No, Ki(, 1, 1)]. */
struct dip_linear_grouped_args {
    struct dip_tensor out, in, weight;
    int groups;
};
DIP_MUST_USE enum dip_status dip_linear_grouped(struct dip_stream *s,
                                                const struct dip_linear_grouped_args *a);

/* rows of table[V, H] picked by ids i32[R] (device memory): out[R, H]. ids are in range (checked by
 * the caller). */
struct dip_embed_args {
    struct dip_tensor out, table, ids;
};
DIP_MUST_USE enum dip_status dip_embed(struct dip_stream *s, const struct dip_embed_args *a);

/* ---- normalisation, modulation, elementwise ---- */

/* RMSNorm over each run of `group` consecutive channels (0 = all): y = x * rsqrt(mean(x^2) + eps) *
 * weight (+ bias). weight and bias have `group` elements. out may equal in. */
struct dip_norm_rms_args {
    struct dip_tensor out, in, weight;
    const struct dip_tensor *bias;
    int group;
    float eps;
    enum dip_act act; /* applied last; NONE or RELU */
    bool is_added;    /* out += result: the residual of the autoencoder's blocks; then out may not
                         alias in */
};
DIP_MUST_USE enum dip_status dip_norm_rms(struct dip_stream *s, const struct dip_norm_rms_args *a);

/* LayerNorm without affine weights, then out = norm * (1 + scale[b]) + shift[b], b = row /
 * rows_per_item. scale and shift: [B, D] (row_stride may be wider). out may equal in. */
struct dip_norm_layer_args {
    struct dip_tensor out, in, scale, shift;
    int64_t rows_per_item;
    float eps;
};
DIP_MUST_USE enum dip_status dip_norm_layer(struct dip_stream *s,
                                            const struct dip_norm_layer_args *a);

/* sum[R, C] += gate[b, C] * x[R, C], b = row / rows_per_item; gate NULL means 1. x may have one row
 * per item when is_broadcast (a constant vector added to every row of the item). */
struct dip_add_args {
    struct dip_tensor sum, x;
    const struct dip_tensor *gate;
    int64_t rows_per_item;
    bool is_broadcast;
};
DIP_MUST_USE enum dip_status dip_add(struct dip_stream *s, const struct dip_add_args *a);

/* At one stroke (see below): out[T * N * B, C] = N copies of in[B, C] plus row t of tables[T, C],
 * for each t. All f32, dense. */
struct dip_outer_sum_args {
    struct dip_tensor out, in, tables;
};
DIP_MUST_USE enum dip_status dip_outer_sum(struct dip_stream *s,
                                           const struct dip_outer_sum_args *a);

/* out[R, F] = silu(gate[R, F]) * up[R, F]. out may equal gate or up. */
struct dip_silu_mul_args {
    struct dip_tensor out, gate, up;
};
DIP_MUST_USE enum dip_status dip_silu_mul(struct dip_stream *s, const struct dip_silu_mul_args *a);

/* out[B, C] = act(in); out may equal in. */
struct dip_activate_args {
    struct dip_tensor out, in;
    enum dip_act act;
};
DIP_MUST_USE enum dip_status dip_activate(struct dip_stream *s, const struct dip_activate_args *a);

/* out = sum of coefficient[i] * in[i], i < count, each product and sum rounded in order; dense,
 * equal counts. Coefficients are per item when items > 1: coefficient[i * items + b]. out may equal
 * any in. */
enum { DIP_BLEND_MAX = 4 };
struct dip_blend_args {
    struct dip_tensor out;
    struct dip_tensor in[DIP_BLEND_MAX];
    const float *coefficients; /* host */
    int count;
    int items;
};
DIP_MUST_USE enum dip_status dip_blend(struct dip_stream *s, const struct dip_blend_args *a);

/* Guidance: out = uncond + scale * (cond - uncond), dense. */
struct dip_guide_args {
    struct dip_tensor out, uncond, cond;
    float scale;
};
DIP_MUST_USE enum dip_status dip_guide(struct dip_stream *s, const struct dip_guide_args *a);

/* Timestep features [B, 2*half]: cos(t*f_j) then sin(t*f_j), f_j = exp(-ln(10000) j / half). t:
 * host f32[B]. */
struct dip_sinusoid_args {
    struct dip_tensor out;
    const float *t;
};
DIP_MUST_USE enum dip_status dip_sinusoid(struct dip_stream *s, const struct dip_sinusoid_args *a);

/* ---- autoregressive attention ---- */

/* Where a row of the batch stands: its KV slot and its position in the sequence. Host memory. */
struct dip_row {
    int32_t slot;
    int32_t position;
};

/* One layer's cache: k, v [slots, capacity, kv_heads * head_dim]. */
struct dip_kv {
    struct dip_tensor k, v; /* rank 3 */
};

/* In place on x[R, heads * head_dim]: per-head RMSNorm (weight[head_dim], eps), then rotary
 * embedding at rows[r].position, half-split pairs (j, j + d/2), angle position * theta^(-2j/d).
 * inv_freq: host f32[head_dim / 2]. */
struct dip_rope_args {
    struct dip_tensor x, weight;
    const struct dip_row *rows;
    const float *inv_freq;
    int head_dim;
    float eps;
};
DIP_MUST_USE enum dip_status dip_rope(struct dip_stream *s, const struct dip_rope_args *a);

/* Stores k, v [R, kv_heads * head_dim] of each row at its slot and position. */
struct dip_kv_append_args {
    struct dip_kv kv;
    struct dip_tensor k, v;
    const struct dip_row *rows;
};
DIP_MUST_USE enum dip_status dip_kv_append(struct dip_stream *s,
                                           const struct dip_kv_append_args *a);

/* Causal attention of each row over keys 0..position of its slot (already appended): out, q [R,
 * heads * head_dim]; query head g reads kv head g / (heads / kv_heads); scale head_dim^-0.5;
 * softmax in f32. */
struct dip_attend_args {
    struct dip_tensor out, q;
    struct dip_kv kv;
    const struct dip_row *rows;
    int heads, kv_heads, head_dim;
};
DIP_MUST_USE enum dip_status dip_attend(struct dip_stream *s, const struct dip_attend_args *a);

/* ---- neighbours at one stroke ----
 *
 * Each of these stands for operations above, one after the other, and has their bits. A backend
 * that can do better has an entry of its own; for the others ops/joint.c runs the operations.
 * Memory for what lies between is the caller's, and undefined afterwards. */

/* dip_norm_rms on in[R, K], then dip_linear: out[R, N] = norm(in) weight[N, K]^T. With is_gated,
 * weight[2N, K] holds a gate and what it lets through, and dip_silu_mul comes behind: out = silu(of
 * the first N) * of the last N. out may be the first columns of pair. */
struct dip_linear_normed_args {
    struct dip_tensor out, in, weight, norm;
    struct dip_tensor normed; /* [R, K]: the operand, rounded to this dtype */
    struct dip_tensor pair;   /* [R, 2N]: gate and up, rounded to this dtype; is_gated only */
    float eps;
    bool is_gated;
};
DIP_MUST_USE enum dip_status dip_linear_normed(struct dip_stream *s,
                                               const struct dip_linear_normed_args *a);

/* dip_rope on the first `heads` heads of qkv[R, (heads + 2 kv_heads) * head_dim] with q_norm, on
 * the next kv_heads with k_norm, and dip_kv_append of those and of the last kv_heads. What q holds
 * stays in qkv; its other columns are undefined afterwards. */
struct dip_qkv_rope_args {
    struct dip_tensor qkv, q_norm, k_norm;
    struct dip_kv kv;
    const struct dip_row *rows;
    const float *inv_freq;
    int heads, kv_heads, head_dim;
    float eps;
};
DIP_MUST_USE enum dip_status dip_qkv_rope(struct dip_stream *s, const struct dip_qkv_rope_args *a);

/* Draws one id per row from logits[R, V] f32: divide by temperature, keep logits >= the k-th
 * largest (ties stay), keep the nucleus (model.md 3.4: drop ascending cumulative <= 1 - top_p,
 * never the largest; equal logits ordered by id), softmax, then inverse CDF in descending order
 * (ties by id) with `uniform`. top_k 1 is greedy (lowest id among equals). */
struct dip_draw {
    float temperature; /* > 0 */
    int32_t top_k;     /* 1..V; 0 = all */
    float top_p;       /* (0, 1]; 1 = all */
    float uniform;     /* [0, 1) */
};
struct dip_sample_args {
    struct dip_tensor ids; /* i32[R] */
    struct dip_tensor logits;
    const struct dip_draw *draws; /* host [R] */
};
DIP_MUST_USE enum dip_status dip_sample(struct dip_stream *s, const struct dip_sample_args *a);

/* Drawing when the logits of a row are cut by columns over the ranks of a group: each rank selects
 * what can be drawn from its slice, dip_sample_merge draws from what all have selected. The id is
 * that of dip_sample on the whole row. ops/comm.h puts both together.
 *
 * found[r]: the number of candidates, then the first `room` of them, the most likely first: a
 * value's bits and an id each. room is half of found's columns. */
struct dip_sample_select_args {
    struct dip_tensor found;      /* i32[R, 1 + 2 room] */
    struct dip_tensor logits;     /* f32[R, columns of the slice] */
    const struct dip_draw *draws; /* host [R] */
    int32_t first_id;             /* of the slice's first column */
};
DIP_MUST_USE enum dip_status dip_sample_select(struct dip_stream *s,
                                               const struct dip_sample_select_args *a);

/* ids[r] is -1 when a rank has more candidates than it had room for. */
enum { DIP_SAMPLE_RANKS_MAX = 16 };
struct dip_sample_merge_args {
    struct dip_tensor ids;        /* i32[R] */
    struct dip_tensor found;      /* i32[ranks, R (1 + 2 room)], ranks in order of their slices */
    const struct dip_draw *draws; /* host [R], equal on all ranks */
};
DIP_MUST_USE enum dip_status dip_sample_merge(struct dip_stream *s,
                                              const struct dip_sample_merge_args *a);

/* ---- a sampler's step ----
 *
 * Pictures of one size side by side, each at a step of its own. What tells them apart lies in
 * memory that the device reads, so a recorded step serves whatever pictures at whatever steps. Both
 * ends are operations at one stroke, of dip_copy, dip_guide, dip_blend and dip_check_finite. */
enum dip_sampler_rule {
    DIP_SAMPLER_STRAIGHT, /* x' = c[0] x + c[1] velocity */
    DIP_SAMPLER_FIRST,    /* x' = c[0] x + c[1] clean */
    DIP_SAMPLER_SECOND    /* x' = c[0] x + c[1] clean + c[2] clean_previous */
};
struct dip_sampler_item {
    float *
        latent; /* device [count] of a picture, like the next two aligned to 16 bytes: x, then x' */
    float *clean; /* receives x + to_clean velocity */
    float *clean_previous;
    float timestep, guidance; /* guidance 1: the conditional velocity as it is */
    float to_clean, c[3];
    int32_t rule; /* enum dip_sampler_rule */
};

/* latent[B, count] = the items' latents; t[B] = their timesteps; is_bad[B] = 0. */
struct dip_sampler_begin_args {
    struct dip_tensor latent;
    const struct dip_sampler_item *items; /* host [B] */
    float *t;                             /* device [B] */
    uint32_t *is_bad;                     /* device [B] */
};
DIP_MUST_USE enum dip_status dip_sampler_begin(struct dip_stream *s,
                                               const struct dip_sampler_begin_args *a);

/* velocity[B, count] = uncond + guidance (cond - uncond), and each item's step with it; is_bad[b] =
 * 1 when x' is not finite. uncond may have no data where no item is guided. */
struct dip_sampler_end_args {
    struct dip_tensor velocity, uncond, cond;
    const struct dip_sampler_item *items; /* host [B] */
    uint32_t *is_bad;                     /* device [B] */
};
DIP_MUST_USE enum dip_status dip_sampler_end(struct dip_stream *s,
                                             const struct dip_sampler_end_args *a);

/* ---- steps without the host ----
 *
 * A device that can capture records what is enqueued between begin and end, and repeats it at one
 * stroke: same operations, same addresses, whatever the memory holds then. Host arrays cannot take
 * part (they must have been staged, or be device memory), nor waits. Where dip_can_capture says no,
 * the calls below return UNSUPPORTED. */
struct dip_graph;
bool dip_can_capture(const struct dip_stream *s);
DIP_MUST_USE enum dip_status dip_graph_begin(struct dip_stream *s);
/* Ends the recording, also when what was recorded has failed: then *ret_graph is NULL. */
DIP_MUST_USE enum dip_status dip_graph_end(struct dip_stream *s, struct dip_graph **ret_graph);
DIP_MUST_USE enum dip_status dip_graph_launch(struct dip_stream *s, struct dip_graph *graph);
void dip_graph_free(struct dip_stream *s, struct dip_graph *graph);

/* A point in a stream that the host can wait for, while work behind it goes on. */
struct dip_fence;
DIP_MUST_USE enum dip_status dip_fence_new(struct dip_stream *s, struct dip_fence **ret_fence);
void dip_fence_free(struct dip_stream *s, struct dip_fence *fence);
DIP_MUST_USE enum dip_status dip_fence_set(struct dip_stream *s, struct dip_fence *fence);
DIP_MUST_USE enum dip_status dip_fence_wait(struct dip_stream *s, struct dip_fence *fence);

/* Host memory that the device writes: `base` is its address here, *ret_device the device's. Zeroed;
 * to be read behind a fence. */
DIP_MUST_USE enum dip_status dip_reserve_shared(struct dip_device *device, size_t bytes,
                                                struct dip_mem *ret_mem, void **ret_device);
void dip_release_shared(struct dip_device *device, struct dip_mem *mem);

/* What the device must know of a sequence that it decodes by itself. */
enum dip_decode_state {
    DIP_DECODE_IDLE,
    DIP_DECODE_RUNNING,
    DIP_DECODE_DONE,
    DIP_DECODE_BROKEN /* a state that is not a number */
};
struct dip_decode_slot {
    uint64_t seed;
    uint32_t image_index;
    int32_t state; /* enum dip_decode_state */
    float temperature, top_p;
    int32_t top_k;
    int32_t position;  /* of the row it feeds next */
    int32_t token;     /* index of the image token it draws next */
    int32_t end;       /* done when position gets here, or at an end-of-sequence id */
    int32_t hinge_row; /* where its next state goes */
    float *hinge;      /* device, [.., H] */
};

/* Before a step of B rows: rows[r], draws[r] (device) and the last state of slot row_slots[r]. A
 * slot that does not run stands where nobody reads. All memory is the device's. */
struct dip_decode_begin_args {
    struct dip_decode_slot *slots; /* [slots] */
    const int32_t *row_slots;      /* [B] */
    struct dip_tensor last;        /* [slots, H] f32 */
    struct dip_tensor drawing;     /* [B, H] */
    struct dip_row *rows;          /* [B] */
    struct dip_draw *draws;        /* [B] */
    uint32_t *step;                /* counts on */
    int64_t capacity;              /* of a slot */
};
DIP_MUST_USE enum dip_status dip_decode_begin(struct dip_stream *s,
                                              const struct dip_decode_begin_args *a);

/* Behind it: each running slot's state of this step into `last` and its hinge, its counters move
 * on, and ring[((step - 1) % ring_depth) B + r] = {id, state} (-1 for a slot that did not run). A
 * slot for which no id was drawn (-1) is broken, and has what it had before the step. */
enum { DIP_DECODE_EOS_MAX = 8 };
struct dip_decode_end_args {
    struct dip_decode_slot *slots;
    const int32_t *row_slots;
    struct dip_tensor last;   /* [slots, H] f32 */
    struct dip_tensor hidden; /* [B, H] f32 */
    const int32_t *ids;       /* [B] */
    int32_t *ring;            /* shared, [ring_depth][B][2] */
    const uint32_t *step;
    int ring_depth;
    int eos_count;
    const int32_t *eos_ids; /* host */
};
DIP_MUST_USE enum dip_status dip_decode_end(struct dip_stream *s,
                                            const struct dip_decode_end_args *a);

/* ---- attention of the diffusion half ---- */

/* softmax(q k^T * scale) v without mask, one item: q, out [N, heads * head_dim]; k, v [M, heads *
 * head_dim]. */
struct dip_attend_cross_args {
    struct dip_tensor out, q, k, v;
    int heads, head_dim;
};
DIP_MUST_USE enum dip_status dip_attend_cross(struct dip_stream *s,
                                              const struct dip_attend_cross_args *a);

/* dip_attend_cross for many items at one stroke (see above): q, out [items * rows_per_item, heads *
 * head_dim]; item i reads rows block * row_count, .. + row_count of the keys and values of
 * contexts[i], which are dense, aligned to 16 bytes and of q's dtype. A context keeps one part of
 * row_count rows for each block of a network. */
struct dip_cross_context {
    void *k, *v; /* device */
    int64_t row_count;
};
struct dip_attend_contexts_args {
    struct dip_tensor out, q;
    const struct dip_cross_context *contexts; /* host [items] */
    int64_t rows_per_item, block;
    int heads, head_dim;
};
DIP_MUST_USE enum dip_status dip_attend_contexts(struct dip_stream *s,
                                                 const struct dip_attend_contexts_args *a);

/* ReLU linear attention per item (rows_per_item rows each) and head, f32:
 *   S = sum_n v_n relu(k_n)^T, u = sum_n relu(k_n), out_n = (S relu(q_n)) / (u . relu(q_n) + 1e-15)
 * Head h of q, k, v starts at column h * head_stride of its view; head h of out at column h *
 * head_dim. SANA: three views, head_stride = head_dim. DC-AE: three views into one tensor,
 * head_stride = 3 * head_dim. */
struct dip_attend_linear_args {
    struct dip_tensor out, q, k, v;
    int heads, head_dim, head_stride;
    int64_t rows_per_item;
};
DIP_MUST_USE enum dip_status dip_attend_linear(struct dip_stream *s,
                                               const struct dip_attend_linear_args *a);

/* ---- convolutions and image layout (NHWC) ---- */

/* out[B, H', W', Co] = act(conv(in[B, H, W, Ci]) + bias), odd square kernel, zero padding k/2.
 * upsample 2 reads the input as if enlarged twice by nearest neighbour (H' = 2H): the enlarged
 * tensor is never written. stride 2 halves it. At most one of the two. */
struct dip_conv_args {
    struct dip_tensor out, in, weight; /* weight [Co, Ci, k, k] */
    const struct dip_tensor *bias;
    enum dip_act act;
    int upsample; /* 1 or 2 */
    int stride;   /* 1 or 2 */
};
DIP_MUST_USE enum dip_status dip_conv(struct dip_stream *s, const struct dip_conv_args *a);

/* A device that convolves by plans (cuDNN) makes them between these two, which takes seconds, for
 * the shapes it is asked for there, and later computes only those by a plan. False: this device
 * makes none, and nothing needs to be asked for or ended. */
bool dip_plans_begin(struct dip_stream *s);
void dip_plans_end(struct dip_stream *s);

/* Depthwise, odd square kernel, zero padding: in[B, H, W, C], weight [C, 1, k, k].
 * is_gated: out[..., C/2] = first half * silu(second half) of the result; else out[..., C]. */
struct dip_conv_depthwise_args {
    struct dip_tensor out, in, weight;
    const struct dip_tensor *bias;
    bool is_gated;
};
DIP_MUST_USE enum dip_status dip_conv_depthwise(struct dip_stream *s,
                                                const struct dip_conv_depthwise_args *a);

/* out[B, 2H, 2W, Co] (+)= in[B, H, W, Ci] shuffled: out(2i+a, 2j+b, c) = in(i, j, (4c + 2a + b) /
 * r), r = 4 Co / Ci. r = 1 is a pixel shuffle; r > 1 repeats each channel first (the autoencoder's
 * shortcut). */
struct dip_pixel_shuffle_args {
    struct dip_tensor out, in;
    bool is_added;
};
DIP_MUST_USE enum dip_status dip_pixel_shuffle(struct dip_stream *s,
                                               const struct dip_pixel_shuffle_args *a);

/* out[R, Co] += in[R, Ci] with each channel repeated Co / Ci times: out(c) += in(c / (Co / Ci)). */
struct dip_repeat_add_args {
    struct dip_tensor out, in;
};
DIP_MUST_USE enum dip_status dip_repeat_add(struct dip_stream *s,
                                            const struct dip_repeat_add_args *a);

/* Patches: image [B, H, W, C] <-> tokens [B * (H/p) * (W/p), p*p*C], token order raster.
 * is_to_tokens: column order c*p*p + a*p + b (that of a p x p stride-p convolution's weight [D, C,
 * p, p]). else:         column order (a*p + b)*C + c (the output head: channel fastest). */
struct dip_patch_args {
    struct dip_tensor out, in;
    int patch;
    bool is_to_tokens;
};
DIP_MUST_USE enum dip_status dip_patch(struct dip_stream *s, const struct dip_patch_args *a);

/* Between NHWC and NCHW, dense rank 4. is_to_nchw: in [B, H, W, C] -> out [B, C, H, W]. */
struct dip_layout_args {
    struct dip_tensor out, in;
    bool is_to_nchw;
};
DIP_MUST_USE enum dip_status dip_layout(struct dip_stream *s, const struct dip_layout_args *a);

/* out u8[R, 3] = round_half_even(clamp(in / 2 + 0.5, 0, 1) * 255). NaN becomes 0. */
struct dip_rgb8_args {
    struct dip_tensor out, in;
};
DIP_MUST_USE enum dip_status dip_rgb8(struct dip_stream *s, const struct dip_rgb8_args *a);

/* *ret_is_finite (host) after dip_wait: no NaN or infinity in t. */
DIP_MUST_USE enum dip_status dip_check_finite(struct dip_stream *s, struct dip_tensor t,
                                              bool *ret_is_finite);
