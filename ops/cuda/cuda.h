/* ops/cuda/cuda.h - the CUDA backend from the inside: what its files share.
 *
 *   plugin.c   the one symbol the program looks up, and the table of operations
 *   device.c   opening a GPU, its errors, its memory
 *   stream.c   a queue, the ring that host arrays travel in, flags, waits
 *   copy.c     copies within the device and across its border
 *   entries_*  one function per operation: a job for a launcher of kernels/cuda
 *   weight.c   weights from mapped files to device memory
 *   graph.c    steps that repeat without the host
 *   nccl.c     the link between the GPUs of a group
 *   linear.c   products: our kernels, or cuBLASLt
 *   cudnn.c    the decoder's convolutions by plans of cuDNN, which cudnn_plan.c makes
 *
 * An error of CUDA is the end of the device: the first one is kept as a sentence, every later call
 * returns DEVICE, and nothing that was computed after it is believed. Thread: the device thread. */
#pragma once

#include <cuda_runtime_api.h>

#include "ops/device.h"

enum {
    DIP__CUDA_READERS = 4,
    DIP__CUDA_RANGES_MAX = 64,      /* reservations alive at a time */
    DIP__CUDA_RING_BYTES = 4 << 20, /* host arrays between two waits */
    DIP__CUDA_RING_ALIGN = 256,
    DIP__CUDA_BOUNCE_BYTES = 8 << 20, /* pinned, each half of the way to the device and back */
    DIP__CUDA_RETURNS_MAX = 1024,     /* copies to the host between two waits */
    DIP__CUDA_FLAGS_MAX = 1024,       /* questions whether something is finite */
};

struct dip__cuda {
    int index;
    char class_name[64]; /* "cuda-sm90-bf16-cudnn91900": what decides the bits */
    int processor_count;
    bool can_launch_early; /* programmatic dependent launch: 9.0 and up */
    struct dip_mem ranges[DIP__CUDA_RANGES_MAX];
    int range_count;
    struct dip__cuda_library *library; /* cuBLASLt; NULL in a build without */
    struct dip__cudnn *cudnn;          /* NULL: convolutions are our own kernels */
    struct dip_pool *readers;          /* DIP__CUDA_READERS threads, asleep but for large copies */
    bool is_dead;
};

/* A part of the pinned buffer that a wait hands to its place in host memory, `height` times `width`
 * bytes. */
struct dip__cuda_return {
    const char *from;
    char *to;
    size_t width, height, to_pitch;
};

struct dip__cuda_stream {
    cudaStream_t stream;
    bool is_capturing; /* no host array may travel then: its bytes would be those of today */

    /* Host arrays: written to the pinned half, read by kernels from the device's. */
    char *ring;
    struct dip_mem
        ring_device;  /* a range like any other: what is staged is known as the device's */
    size_t ring_used; /* since the last wait */

    char *up; /* pinned, in two halves: to the device */
    cudaEvent_t up_free[2];
    int up_half;

    char *down; /* pinned: to the host */
    size_t down_used;
    struct dip__cuda_return returns[DIP__CUDA_RETURNS_MAX];
    int return_count;

    void *scratch; /* device, DIP_CUDA_SCRATCH_BYTES: for one kernel at a time */

    /* Device words, set by kernels that met a NaN or an infinity; after a wait each is told to the
     * place it was asked for. */
    uint32_t *flags;
    bool *flag_places[DIP__CUDA_FLAGS_MAX];
    int flag_count;
};

static inline struct dip__cuda *dip__cuda(const struct dip_device *device)
{
    return device->state;
}

static inline struct dip__cuda_stream *dip__cuda_stream(const struct dip_stream *s)
{
    return s->state;
}

/* Everything in the ring starts at a multiple of DIP__CUDA_RING_ALIGN. */
static inline size_t dip__cuda_ring_round(size_t bytes)
{
    return (bytes + DIP__CUDA_RING_ALIGN - 1) / DIP__CUDA_RING_ALIGN * DIP__CUDA_RING_ALIGN;
}

/* OK, or DEVICE and the device's end. `what` was being done. */
DIP_MUST_USE enum dip_status dip__cuda_check(struct dip_device *device, cudaError_t error,
                                             const char *what);

/* Device memory as it is found. NO_MEMORY says in the device's note how much is missing, and is not
 * the device's end. */
DIP_MUST_USE enum dip_status dip__cuda_allocate(struct dip_device *device, size_t bytes,
                                                void **ret_base);

/* Memory of this device, as against the host's. */
bool dip__cuda_owns(const struct dip_device *device, const void *data);

/* ---- products (linear.c) ---- */

struct dip__cuda_library;
enum dip_status dip__cuda_library_open(struct dip_device *device);
void dip__cuda_library_close(struct dip_device *device);

/* ---- convolutions (cudnn.c) ---- */

/* OK without cuDNN, too: then the device's remark says why. */
enum dip_status dip__cuda_cudnn_open(struct dip_device *device,
                                     const struct dip_device_options *options);
void dip__cuda_cudnn_close(struct dip_device *device);
size_t dip__cuda_cudnn_version(const struct dip_device *device); /* 0: our own kernels */
/* Whether there is a plan for it, which dip__cuda_cudnn_conv then runs. */
bool dip__cuda_cudnn_takes(struct dip_stream *s, const struct dip_conv_args *a);
enum dip_status dip__cuda_cudnn_conv(struct dip_stream *s, const struct dip_conv_args *a);
bool dip__cuda_plans_begin(struct dip_stream *s);
void dip__cuda_plans_end(struct dip_stream *s);

/* ---- the table ---- */

enum dip_status dip__cuda_open(struct dip_device *device, const struct dip_device_options *options,
                               struct dip_why *why);
void dip__cuda_close(struct dip_device *device);
enum dip_status dip__cuda_reserve(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem);
void dip__cuda_release(struct dip_device *device, struct dip_mem *mem);

enum dip_status dip__cuda_stream_open(struct dip_stream *s);
void dip__cuda_stream_close(struct dip_stream *s);
enum dip_status dip__cuda_wait(struct dip_stream *s);
enum dip_status dip__cuda_copy(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from);
enum dip_status dip__cuda_fill(struct dip_stream *s, struct dip_tensor to, float value);

/* Where a kernel may read `bytes` of a host array until the next wait; device memory as it is.
 * NULL: the ring is full, which the caller reports as LIMIT, or the device dead. */
const void *dip__cuda_stage(struct dip_stream *s, const void *data, size_t bytes);

/* A device word that is zero when a kernel gets to see it; after the wait *ret_is_finite says
 * whether it still is. */
enum dip_status dip__cuda_flag(struct dip_stream *s, bool *ret_is_finite, uint32_t **ret_flag);
enum dip_status dip__cuda_cast(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from);
enum dip_status dip__cuda_check_finite(struct dip_stream *s, struct dip_tensor t,
                                       bool *ret_is_finite);

size_t dip__cuda_weight_bytes(const struct dip_device *device, struct dip_tensor weight,
                              enum dip_weight_use use);
enum dip_status dip__cuda_weight_place(struct dip_stream *s, enum dip_weight_use use, void *at,
                                       struct dip_tensor *weight);

/* To any dense place in device memory, also such that no caller of ops/ knows. */
enum dip_status dip__cuda_copy_up(struct dip_stream *s, struct dip_tensor to,
                                  struct dip_tensor from);

enum dip_status dip__cuda_graph_begin(struct dip_stream *s);
enum dip_status dip__cuda_graph_end(struct dip_stream *s, struct dip_segment **ret_segment);
enum dip_status dip__cuda_graph_launch(struct dip_stream *s, struct dip_segment *segment);
void dip__cuda_graph_free(struct dip_stream *s, struct dip_segment *segment);
enum dip_status dip__cuda_fence_new(struct dip_stream *s, struct dip_fence **ret_fence);
void dip__cuda_fence_free(struct dip_stream *s, struct dip_fence *fence);
enum dip_status dip__cuda_fence_set(struct dip_stream *s, struct dip_fence *fence);
enum dip_status dip__cuda_fence_wait(struct dip_stream *s, struct dip_fence *fence);
enum dip_status dip__cuda_reserve_shared(struct dip_device *device, size_t bytes,
                                         struct dip_mem *ret_mem, void **ret_device);
void dip__cuda_release_shared(struct dip_device *device, struct dip_mem *mem);
enum dip_status dip__cuda_decode_begin(struct dip_stream *s, const struct dip_decode_begin_args *a);
enum dip_status dip__cuda_decode_end(struct dip_stream *s, const struct dip_decode_end_args *a);

#ifdef DIP_CUDA_NCCL
enum dip_status dip__cuda_link_identity(struct dip_device *device,
                                        unsigned char ret_identity[DIP__LINK_IDENTITY_BYTES]);
enum dip_status dip__cuda_link_id(struct dip_device *device,
                                  unsigned char ret_id[DIP__LINK_ID_BYTES]);
enum dip_status dip__cuda_link_open(struct dip_stream *s, const struct dip__link_options *options,
                                    struct dip_link **ret_link);
enum dip_status dip__cuda_link_gather(struct dip_stream *s, struct dip_link *link, void *all,
                                      const void *mine, size_t bytes);
enum dip_status dip__cuda_link_mark(struct dip_stream *s, struct dip_link *link);
enum dip_status dip__cuda_link_error(struct dip_link *link);
void dip__cuda_link_abort(struct dip_link *link);
void dip__cuda_link_close(struct dip_link *link);
#endif
enum dip_status dip__cuda_tree_sum(struct dip_stream *s, float *sum, const float *parts,
                                   int part_count, int64_t count);

/* Hands over what has come back; the stream has been waited for. */
void dip__cuda_returns_deliver(struct dip__cuda_stream *q);
