/* ops/device.h - what a device and a stream are made of; private to ops/.
 *
 * Thread: one owner thread drives all streams of a device, because they share its pool. */
#pragma once

#include "ops/backend.h"

struct dip_pool;
struct dip__cpu_kernels;

struct dip_device {
    const struct dip_ops *ops;
    const char *class_name; /* for the fingerprint */
    int threads;
    enum dip_dtype activation;
    struct dip_why note;   /* one sentence, or "" */
    struct dip_why remark; /* likewise */
    /* CPU backend */
    struct dip_pool *pool;
    const struct dip__cpu_kernels *kernels;
    double part_ns_min; /* work worth a thread; tests set 0 so that even tiny jobs are cut */
    /* other backends */
    void *state;
};

struct dip_graph;

struct dip_stream {
    struct dip_device *device;
    struct dip_graph *recording; /* NULL: what is enqueued is done (graph.c) */
    struct dip_mem scratch;      /* CPU: DIP_KERNEL_SCRATCH_BYTES for each thread */
    void *state;                 /* other backends */
};

enum dip__cpu_family { DIP__CPU_PLAIN, DIP__CPU_AVX2, DIP__CPU_BEST };

/* Fills a zeroed device. Families other than the best are for tests, which compare them through one
 * interface. Errors: NO_MEMORY, LIMIT. */
DIP_MUST_USE enum dip_status dip__cpu_open(struct dip_device *device, int threads,
                                           enum dip__cpu_family family, struct dip_why *why);

/* ---- in the middle of a recorded step (graph.c) ---- */

/* What only the host can do: an exchange between ranks that goes through its memory. */
struct dip__pause {
    enum dip_status (*run)(struct dip_stream *s, const struct dip__pause *pause);
    void *context;
    struct dip_tensor a, b;
};

/* What stands around every launch of a recorded step that holds a link's gathers: the link must
 * live, and who watches it must see that they were enqueued. */
struct dip__guard {
    enum dip_status (*enter)(void *context);
    enum dip_status (*leave)(struct dip_stream *s, void *context);
    void *context;
};
void dip__graph_guard(struct dip_stream *s, const struct dip__guard *guard);

/* While a step is recorded: ends what is recorded so far as a segment, remembers to run the pause
 * at this place of every launch, and goes on recording behind it. */
DIP_MUST_USE enum dip_status dip__graph_pause(struct dip_stream *s, const struct dip__pause *pause);
