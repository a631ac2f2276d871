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

struct dip_stream {
    struct dip_device *device;
    struct dip_mem scratch; /* CPU: DIP_KERNEL_SCRATCH_BYTES for each thread */
    void *state;            /* other backends */
};

enum dip__cpu_family { DIP__CPU_PLAIN, DIP__CPU_AVX2, DIP__CPU_BEST };

/* Fills a zeroed device. Families other than the best are for tests, which compare them through one
 * interface. Errors: NO_MEMORY, LIMIT. */
DIP_MUST_USE enum dip_status dip__cpu_open(struct dip_device *device, int threads,
                                           enum dip__cpu_family family, struct dip_why *why);
