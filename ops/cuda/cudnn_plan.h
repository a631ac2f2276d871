/* ops/cuda/cudnn_plan.h - a convolution of one NHWC picture as an execution plan of cuDNN's graph
 * API; private to ops/cuda.
 *
 *     x[1, Ci, H, W] --conv w[Co, Ci, k, k]--> (f32) --+ bias--> (f32) --act--> y[1, Co, H', W']
 *
 * All with channels fastest; what stands in parentheses is virtual and stays in registers. Which
 * engine computes it is the first choice of cuDNN's heuristics that keeps its promises: the same
 * bits every time, products of BF16 added up in F32, no more workspace than there is. A plan is of
 * one picture whatever the batch, so that a picture's bytes do not know its company.
 *
 * The library is loaded when it is wanted, so that a machine without it lacks nothing else. Thread:
 * the device thread. */
#pragma once

#include <cudnn_graph.h>

#include "ops/ops.h"

#define DIP__CUDNN_LIST(X)                                                                         \
    X(cudnnGetVersion)                                                                             \
    X(cudnnGetLastErrorString)                                                                     \
    X(cudnnCreate)                                                                                 \
    X(cudnnDestroy)                                                                                \
    X(cudnnSetStream)                                                                              \
    X(cudnnBackendCreateDescriptor)                                                                \
    X(cudnnBackendDestroyDescriptor)                                                               \
    X(cudnnBackendSetAttribute)                                                                    \
    X(cudnnBackendGetAttribute)                                                                    \
    X(cudnnBackendFinalize)                                                                        \
    X(cudnnBackendExecute)

/* The functions by their own names, found in the library. */
struct dip__cudnn_api {
#define DIP__CUDNN_MEMBER(function) __typeof__(function) *function;
    DIP__CUDNN_LIST(DIP__CUDNN_MEMBER)
#undef DIP__CUDNN_MEMBER
};

/* It stays loaded until the process ends. Errors: UNSUPPORTED, with what is missing. */
DIP_MUST_USE enum dip_status dip__cudnn_load(const char *path, struct dip_why *why,
                                             struct dip__cudnn_api *ret_api);

/* Equal numbers, equal plan; no gaps, so that memcmp compares. */
struct dip__cudnn_conv {
    int64_t height, width, in_channels, out_channels; /* of one picture, the input's */
    int64_t edge;                                     /* k */
    int64_t stride;
    int64_t pad_before[2], pad_after[2]; /* rows, columns */
    int64_t out_step; /* 2: y takes every other pixel of a picture twice as large */
    int64_t has_bias;
    int64_t act; /* enum dip_act */
};

/* For whom plans are made: a device in use, or one that is only described. */
struct dip__cudnn_owner {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t described; /* when handle is NULL: a finalized DEVICEPROP */
};

/* Descriptors of a plan and of everything it was made of, alive as long as it is. */
enum { DIP__CUDNN_DESCRIPTORS_MAX = 64 };

struct dip__cudnn_plan {
    struct dip__cudnn_conv conv;
    cudnnBackendDescriptor_t made[DIP__CUDNN_DESCRIPTORS_MAX];
    int made_count;
    cudnnBackendDescriptor_t execution; /* NULL: none could be made */
    bool is_act_apart;                  /* the act is left to the caller */
    int64_t engine;                     /* cuDNN's number of it */
    int64_t workspace_bytes;
};

/* Fills a zeroed plan, which dip__cudnn_plan_free takes back whatever comes of it. Without an
 * engine for the whole, the act is left apart. Errors: UNSUPPORTED, with what cuDNN says. */
DIP_MUST_USE enum dip_status dip__cudnn_plan_make(const struct dip__cudnn_api *api,
                                                  const struct dip__cudnn_owner *owner,
                                                  const struct dip__cudnn_conv *conv,
                                                  int64_t workspace_max, struct dip_why *why,
                                                  struct dip__cudnn_plan *plan);
void dip__cudnn_plan_free(const struct dip__cudnn_api *api, struct dip__cudnn_plan *plan);

/* Device memory, 16-byte aligned; bias is read when the plan has one. */
struct dip__cudnn_operands {
    const void *x, *w, *bias;
    void *y, *workspace;
};

/* Enqueues on the handle's stream. Errors: DEVICE. */
DIP_MUST_USE enum dip_status dip__cudnn_plan_run(const struct dip__cudnn_api *api,
                                                 cudnnHandle_t handle,
                                                 const struct dip__cudnn_plan *plan,
                                                 const struct dip__cudnn_operands *operands);
