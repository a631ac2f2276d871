/* ops/bench.h - timing operations against what the machine can do, measured in the same process.
 *
 * Times are the best of several repeats, because other work on the machine only ever adds; inputs
 * are random and never zero; weights are spread over more memory than any cache holds, so that
 * every repeat reads them from memory as a real step does. A device with memory of its own is timed
 * over several calls between two waits, in the dtype of its activations. Thread: the owner of the
 * device. */
#pragma once

#include "ops/ops.h"

/* Ceilings with all threads of the device; reading is copying on a GPU. */
struct dip_bench_machine {
    int threads;
    double read_bytes_per_s; /* in order, beyond any cache */
    double copy_bytes_per_s; /* the same, bytes read plus bytes written */
    double flops_per_s;      /* independent f32 multiply-adds in registers; of a GPU, the products
                                of its largest matrices in its own dtype, by what computes them */
    double launch_s;         /* of a GPU: from one tiny kernel to the next */
};

/* Takes about a second and 512 MB; on a GPU 3 GB for copies of 1 GB and products of edge 8192, or
 * less of both with a smaller product_edge (0 = 8192). Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_bench_machine(struct dip_device *device, int64_t product_edge,
                                               struct dip_bench_machine *ret_machine);

/* One timed operation: the best time, and the least it has to move and compute. */
struct dip_bench_result {
    double seconds;
    double bytes;
    double flops;
};

/* out[rows, outs] = in[rows, ins] weight[outs, ins]^T. Errors: NO_MEMORY. */
struct dip_bench_linear {
    int64_t rows, outs, ins;
    enum dip_dtype dtype;
    int chunk_count; /* 0 = 1 */
};
DIP_MUST_USE enum dip_status dip_bench_linear(struct dip_device *device,
                                              const struct dip_bench_linear *shape,
                                              struct dip_bench_result *ret_result);

/* 3x3 or 5x5 depthwise convolution of [batch, height, width, channels]. Errors: NO_MEMORY. */
struct dip_bench_depthwise {
    int64_t batch, height, width, channels;
    int edge;
    bool is_gated;
};
DIP_MUST_USE enum dip_status dip_bench_depthwise(struct dip_device *device,
                                                 const struct dip_bench_depthwise *shape,
                                                 struct dip_bench_result *ret_result);

/* Norms of [rows, columns], and 3x3 convolution of one image. Errors: NO_MEMORY. */
enum dip_bench_norm { DIP_BENCH_NORM_RMS, DIP_BENCH_NORM_LAYER };
DIP_MUST_USE enum dip_status dip_bench_norm(struct dip_device *device, enum dip_bench_norm kind,
                                            int64_t rows, int64_t columns,
                                            struct dip_bench_result *ret_result);
struct dip_bench_conv {
    int64_t height, width, in_channels, out_channels; /* of the input */
    int upsample;
    bool has_act; /* SiLU */
};
DIP_MUST_USE enum dip_status dip_bench_conv(struct dip_device *device,
                                            const struct dip_bench_conv *shape,
                                            struct dip_bench_result *ret_result);

/* One draw per row from `vocab` logits with the published settings (top-k 1200, top-p 0.95).
 * Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_bench_sample(struct dip_device *device, int64_t rows,
                                              int64_t vocab, struct dip_bench_result *ret_result);

/* Causal attention of `rows` sequences at position keys - 1. Errors: NO_MEMORY. */
struct dip_bench_attend {
    int64_t rows, keys;
    int heads, kv_heads, head_dim;
};
DIP_MUST_USE enum dip_status dip_bench_attend(struct dip_device *device,
                                              const struct dip_bench_attend *shape,
                                              struct dip_bench_result *ret_result);

/* Attention of the diffusion half: `rows` queries over `keys` context rows, or linear when keys is
 * 0. Errors: NO_MEMORY. */
struct dip_bench_cross {
    int64_t rows, keys;
    int heads, head_dim;
};
DIP_MUST_USE enum dip_status dip_bench_cross(struct dip_device *device,
                                             const struct dip_bench_cross *shape,
                                             struct dip_bench_result *ret_result);
