/* ops/cuda/entries.h - from an operation's arguments to a launcher's job; private to ops/cuda. */
#pragma once

#include "base/assert.h"
#include "kernels/cuda/cuda.h"
#include "ops/cuda/cuda.h"

static inline struct dip_cuda_view dip__cuda_view(struct dip_tensor t)
{
    return (struct dip_cuda_view){.data = t.data,
                                  .dtype = t.dtype,
                                  .rows = dip_tensor_rows(t),
                                  .columns = dip_tensor_columns(t),
                                  .stride = t.row_stride};
}

static inline struct dip_param dip__cuda_param(const struct dip_tensor *t)
{
    return t ? (struct dip_param){.data = t->data, .dtype = t->dtype} : (struct dip_param){0};
}

/* Launches, and turns what CUDA says into the device's end. Every operand has been checked by
 * ops.c; that it is the device's memory is the caller's promise, which the device itself holds. */
#define DIP__CUDA_LAUNCH(s, op, ...)                                                               \
    dip__cuda_launched(                                                                            \
        (s),                                                                                       \
        dip_cuda_##op(dip__cuda_stream(s)->stream, &(const struct dip_cuda_##op){__VA_ARGS__}),    \
        #op)

DIP_MUST_USE enum dip_status dip__cuda_launched(struct dip_stream *s, enum dip_status status,
                                                const char *op);

/* A host array's place on the device, or an early end. */
#define STAGE(s, name, data, bytes)                                                                \
    const void *name = dip__cuda_stage((s), (data), (bytes));                                      \
    if (!name)                                                                                     \
    return dip__cuda(s->device)->is_dead ? DIP_DEVICE : DIP_LIMIT

/* The entries of the table, one function per operation. */
#define DIP__CUDA_ENTRY(op)                                                                        \
    enum dip_status dip__cuda_##op(struct dip_stream *s, const struct dip_##op##_args *a);
DIP_OPS_LIST(DIP__CUDA_ENTRY)
DIP_OPS_JOINT_LIST(DIP__CUDA_ENTRY)
#undef DIP__CUDA_ENTRY
