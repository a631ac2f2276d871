/* ops/cpu.h - the CPU backend's families of kernels and how a job is cut over threads; private to
 * ops/. */
#pragma once

#include "kernels/kernels.h"
#include "ops/device.h"

typedef void (*dip__kernel_fn)(const void *job, int64_t begin, int64_t end, void *scratch);

/* One family: a function for every operation. */
struct dip__cpu_kernels {
    const char *class_name;
#define DIP__KERNEL_FIELD(op) dip__kernel_fn op;
    DIP_KERNEL_LIST(DIP__KERNEL_FIELD)
#undef DIP__KERNEL_FIELD
};

/* The family asked for, or the best below it that this processor has. */
const struct dip__cpu_kernels *dip__cpu_kernels(enum dip__cpu_family family);

/* Runs all units of a job. unit_ns is a rough cost, used only to leave small jobs on one thread:
 * the cut never changes bits. */
void dip__cpu_run(struct dip_stream *s, dip__kernel_fn kernel, const void *job, int64_t units,
                  double unit_ns);

/* Rough speeds of one thread for unit_ns. */
static inline double dip__flops_ns(double flops)
{
    return flops / 60.0;
}

static inline double dip__bytes_ns(double bytes)
{
    return bytes / 10.0;
}

/* How many pieces of `size` cover `count`. */
static inline int64_t dip__pieces(int64_t count, int64_t size)
{
    return (count + size - 1) / size;
}

static inline struct dip_param dip__param(const struct dip_tensor *t)
{
    return t ? (struct dip_param){.data = t->data, .dtype = t->dtype} : (struct dip_param){0};
}

/* The entries of the table, one function per operation. */
#define DIP__CPU_ENTRY(op)                                                                         \
    enum dip_status dip__cpu_##op(struct dip_stream *s, const struct dip_##op##_args *a);
DIP_OPS_LIST(DIP__CPU_ENTRY)
#undef DIP__CPU_ENTRY
