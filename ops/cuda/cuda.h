/* ops/cuda/cuda.h - the CUDA backend from the inside: what its files share.
 *
 *   plugin.c   the one symbol the program looks up, and the table of operations
 *   device.c   opening a GPU, its errors, its memory
 *   stream.c   a queue, the ring that host arrays travel in, copies and waits
 *   entries_*  one function per operation: a job for a launcher of kernels/cuda
 *
 * An error of CUDA is the end of the device: the first one is kept as a sentence, every later call
 * returns DEVICE, and nothing that was computed after it is believed. Thread: the device thread. */
#pragma once

#include <cuda_runtime_api.h>

#include "ops/device.h"

enum {
    DIP__CUDA_RANGES_MAX = 64,      /* reservations alive at a time */
    DIP__CUDA_RING_BYTES = 4 << 20, /* host arrays between two waits */
    DIP__CUDA_RING_ALIGN = 256,
    DIP__CUDA_BOUNCE_BYTES = 8 << 20, /* pinned, each half of the way to the device and back */
    DIP__CUDA_RETURNS_MAX = 1024,     /* copies to the host between two waits */
};

struct dip__cuda {
    int index;
    char class_name[48]; /* "cuda-sm90-bf16": architecture and activations decide the bits */
    int processor_count;
    struct dip_mem ranges[DIP__CUDA_RANGES_MAX];
    int range_count;
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

    /* Host arrays: written to the pinned half, read by kernels from the device's. */
    char *ring, *ring_device;
    size_t ring_used; /* since the last wait */

    char *up; /* pinned, in two halves: to the device */
    cudaEvent_t up_free[2];
    int up_half;

    char *down; /* pinned: to the host */
    size_t down_used;
    struct dip__cuda_return returns[DIP__CUDA_RETURNS_MAX];
    int return_count;

    uint32_t *flag; /* device: set by a kernel that met a NaN or an infinity */
};

static inline struct dip__cuda *dip__cuda(const struct dip_device *device)
{
    return device->state;
}

static inline struct dip__cuda_stream *dip__cuda_stream(const struct dip_stream *s)
{
    return s->state;
}

/* OK, or DEVICE and the device's end. `what` was being done. */
DIP_MUST_USE enum dip_status dip__cuda_check(struct dip_device *device, cudaError_t error,
                                             const char *what);

/* Memory of this device, as against the host's. */
bool dip__cuda_owns(const struct dip_device *device, const void *data);

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
