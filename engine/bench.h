/* engine/bench.h - the measuring half of `diptych bench`: stages timed, each beside the limit that
 * the same run measured on the same machine.
 *
 * Part of the front door (engine.h includes it). Weights are random, of true shapes, made in
 * memory, or a model directory's. A row is the best of at least five repeats where the time allows,
 * so that a busy machine spoils it least; the median tells how busy it was. Thread: the calling one
 * becomes the device thread for the duration. */
#pragma once

#include <stdint.h>

#include "base/status.h"
#include "ops/ops.h"

enum dip_bench_part {
    /* ar.prefill, ar.decode.b1 .b4 .b16 (GPU: .b64), ar.tokens of each, ar.sample */
    DIP_BENCH_AR = 1,
    DIP_BENCH_DIFFUSION = 2, /* dit.gemm, dit.depthwise, dit.norm, dit.step.b1 .b4 */
    DIP_BENCH_DECODE = 4,    /* vae.conv (GPU: .up), vae.decode, png.encode */
    DIP_BENCH_E2E = 8,       /* e2e.<model>: prompt ids to PNG bytes; e2e.ar, .diffusion, .decode */
};

/* What the machine can do, measured before the first row. */
struct dip_bench_limits {
    const char *backend;      /* "cpu" */
    const char *device_class; /* "cpu-avx2" */
    int threads;
    double read_bytes_s; /* reading in order, all threads, beyond any cache */
    double copy_bytes_s; /* copying, bytes read plus bytes written */
    double fma_flops_s;  /* f32 multiply-adds from registers, all threads; one is two operations. Of
                            a GPU: products of large bf16 matrices */
    double launch_s;     /* of a GPU: from one tiny kernel to the next; else 0 */
};

/* One figure. Times: share = bound / value, rates: share = value / bound; 1 is the limit. */
struct dip_bench_row {
    const char *name;
    double value;
    const char *unit; /* "ms", "GFLOP/s", "GB/s", "MB/s" or "tokens/s" */
    double bound;     /* same unit */
    double share;
    double median;    /* same unit */
    int repeats;      /* 0: unknown, the best only (single operations); median is then value */
    const char *note; /* sizes, and what the bound is */
};

struct dip_bench_options {
    unsigned parts; /* of enum dip_bench_part */
    /* Where weights come from: a directory, else a shape of dip_config_shape for every part that it
     * has, else each part's own: qwen3-0.6b, sana-1.6b, dcae (end to end then needs a directory).
     * At most one of the two is set. */
    const char *directory;
    const char *shape;
    struct dip_device_options device;
    int latent_edge; /* square latent of dit.* and vae.decode; 0 = the model's own size, on a CPU up
                        to 16 */
    int product_edge; /* of a GPU's ceilings; 0 = 8192 */
    int64_t row_ns;   /* time to spend on a row; a single repeat may take longer */
    /* Called as results come, in order; what they point to is valid during the call. */
    void (*on_machine)(void *context, const struct dip_bench_limits *machine);
    void (*on_row)(void *context, const struct dip_bench_row *row);
    void *context;
};

/* Errors: INVALID (no part, or a part that the model lacks), and those of opening device and model,
 * with a sentence; NO_MEMORY; DEVICE. Rows already reported stand. */
DIP_MUST_USE enum dip_status dip_bench_run(const struct dip_bench_options *options,
                                           struct dip_why *why);
