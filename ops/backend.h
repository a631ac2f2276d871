/* ops/backend.h - the table a backend fills; private to ops/.
 *
 * The wrappers in ops.c have checked shapes, dtypes and aliasing. A NULL entry makes the wrapper
 * return UNSUPPORTED, or run the operations that the entry would join. */
#pragma once

#include "ops/ops.h"

struct dip_link;
struct dip_segment;
struct dip_word;

enum { DIP__LINK_IDENTITY_BYTES = 16, DIP__LINK_ID_BYTES = 128 };

struct dip__link_options {
    const unsigned char *id; /* [DIP__LINK_ID_BYTES] from rank 0's link_id */
    int rank, count;
    int64_t join_ns_max;
    int64_t wait_ns_max;    /* a gather that takes longer has a rank that does not come */
    struct dip_word *ended; /* not zero: the group has an error, so nothing is waited for */
};

struct dip_ops {
    const char *name; /* "cpu", "cuda" */
    /* Fills a zeroed device or stream whose ops, or device, are set. close takes what open left
     * half done. Errors of open: UNSUPPORTED, NO_MEMORY, with a sentence. */
    enum dip_status (*open)(struct dip_device *device, const struct dip_device_options *options,
                            struct dip_why *why);
    void (*close)(struct dip_device *device);
    enum dip_status (*stream_open)(struct dip_stream *s);
    void (*stream_close)(struct dip_stream *s);
    enum dip_status (*reserve)(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem);
    void (*release)(struct dip_device *device, struct dip_mem *mem);
    enum dip_status (*wait)(struct dip_stream *s);
    /* NULL where the device reads host memory: it owns, stages, casts and places nothing. */
    size_t (*weight_bytes)(const struct dip_device *device, struct dip_tensor weight,
                           enum dip_weight_use use);
    enum dip_status (*weight_place)(struct dip_stream *s, enum dip_weight_use use, void *at,
                                    struct dip_tensor *weight);
    bool (*owns)(const struct dip_device *device, const void *data);
    const void *(*stage)(struct dip_stream *s, const void *data, size_t bytes);
    enum dip_status (*cast)(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from);
    enum dip_status (*copy)(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from);
    enum dip_status (*fill)(struct dip_stream *s, struct dip_tensor to, float value);
    enum dip_status (*check_finite)(struct dip_stream *s, struct dip_tensor t, bool *ret_is_finite);
    /* NULL where nothing is planned. */
    bool (*plans_begin)(struct dip_stream *s);
    void (*plans_end)(struct dip_stream *s);
    /* NULL where steps cannot be captured. */
    enum dip_status (*graph_begin)(struct dip_stream *s);
    enum dip_status (*graph_end)(struct dip_stream *s, struct dip_segment **ret_segment);
    enum dip_status (*graph_launch)(struct dip_stream *s, struct dip_segment *segment);
    void (*graph_free)(struct dip_stream *s, struct dip_segment *segment);
    enum dip_status (*fence_new)(struct dip_stream *s, struct dip_fence **ret_fence);
    void (*fence_free)(struct dip_stream *s, struct dip_fence *fence);
    enum dip_status (*fence_set)(struct dip_stream *s, struct dip_fence *fence);
    enum dip_status (*fence_wait)(struct dip_stream *s, struct dip_fence *fence);
    enum dip_status (*reserve_shared)(struct dip_device *device, size_t bytes,
                                      struct dip_mem *ret_mem, void **ret_device);
    void (*release_shared)(struct dip_device *device, struct dip_mem *mem);
    /* A network between the devices of a group, one rank each (ops/comm_link.c); NULL without one.
     * identity tells devices apart: two ranks on one device cannot be linked. One call at a time,
     * from any thread (ops/comm_link.c sees to that). error: what the link knows of its ranks,
     * TIMEOUT when one is late. abort lets go whoever waits on the device; close still follows. */
    enum dip_status (*link_identity)(struct dip_device *device,
                                     unsigned char ret_identity[DIP__LINK_IDENTITY_BYTES]);
    enum dip_status (*link_id)(struct dip_device *device, unsigned char ret_id[DIP__LINK_ID_BYTES]);
    enum dip_status (*link_open)(struct dip_stream *s, const struct dip__link_options *options,
                                 struct dip_link **ret_link);
    enum dip_status (*link_gather)(struct dip_stream *s, struct dip_link *link, void *all,
                                   const void *mine, size_t bytes);
    /* Behind what holds recorded gathers, which nobody has seen enqueued. */
    enum dip_status (*link_mark)(struct dip_stream *s, struct dip_link *link);
    enum dip_status (*link_error)(struct dip_link *link);
    void (*link_abort)(struct dip_link *link);
    void (*link_close)(struct dip_link *link);
    /* sum[count] = the tree over parts[part_count][count], neighbours first. */
    enum dip_status (*tree_sum)(struct dip_stream *s, float *sum, const float *parts,
                                int part_count, int64_t count);
    enum dip_status (*decode_begin)(struct dip_stream *s, const struct dip_decode_begin_args *a);
    enum dip_status (*decode_end)(struct dip_stream *s, const struct dip_decode_end_args *a);
/* clang-format off */
#define DIP_OPS_LIST(X)                                                                            \
    X(linear) X(linear_grouped) X(embed) X(norm_rms) X(norm_layer) X(add) X(silu_mul) X(activate)  \
    X(blend) X(guide) X(sinusoid) X(rope) X(kv_append) X(attend) X(sample) X(sample_select)        \
    X(sample_merge) X(attend_cross) X(attend_linear) X(conv) X(conv_depthwise) X(pixel_shuffle)    \
    X(repeat_add) X(patch) X(layout) X(rgb8)
/* clang-format on */
#define DIP_OPS_ENTRY(op)                                                                          \
    enum dip_status (*op)(struct dip_stream * s, const struct dip_##op##_args *a);
    DIP_OPS_LIST(DIP_OPS_ENTRY)
/* What a backend may do at one stroke: where it has no entry, ops/joint.c runs the parts. */
#define DIP_OPS_JOINT_LIST(X)                                                                      \
    X(linear_normed) X(qkv_rope) X(outer_sum) X(attend_contexts) X(sampler_begin) X(sampler_end)
    DIP_OPS_JOINT_LIST(DIP_OPS_ENTRY)
#undef DIP_OPS_ENTRY
};
