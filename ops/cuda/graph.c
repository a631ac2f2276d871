/* ops/cuda/graph.c - CUDA graphs, events, mapped memory, and the two ends of a decode step. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/entries.h"

static_assert(sizeof(struct dip_decode_slot) == sizeof(struct dip_cuda_slot), "slots agree");
static_assert((int)DIP_DECODE_BROKEN == (int)DIP_CUDA_SLOT_BROKEN, "states agree");
static_assert((int)DIP_DECODE_EOS_MAX == (int)DIP_CUDA_EOS_MAX, "ends agree");

struct dip_segment {
    cudaGraphExec_t exec;
};

struct dip_fence {
    cudaEvent_t event;
};

static enum dip_status check(struct dip_stream *s, cudaError_t error, const char *what)
{
    return dip__cuda_check(s->device, error, what);
}

/* ---- graphs ---- */

enum dip_status dip__cuda_graph_begin(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    q->is_capturing = true;
    return check(s, cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal),
                 "beginning a graph");
}

enum dip_status dip__cuda_graph_end(struct dip_stream *s, struct dip_segment **ret_segment)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    cudaGraph_t recorded = NULL;
    q->is_capturing = false;
    *ret_segment = NULL;
    DIP_TRY(check(s, cudaStreamEndCapture(q->stream, &recorded), "recording a graph"));
    struct dip_segment *segment = calloc(1, sizeof *segment);
    if (!segment) {
        (void)cudaGraphDestroy(recorded);
        return DIP_NO_MEMORY;
    }
    cudaError_t error = cudaGraphInstantiate(&segment->exec, recorded, 0);
    (void)cudaGraphDestroy(recorded);
    if (error != cudaSuccess) {
        free(segment);
        return check(s, error, "making a graph");
    }
    *ret_segment = segment;
    return DIP_OK;
}

enum dip_status dip__cuda_graph_launch(struct dip_stream *s, struct dip_segment *segment)
{
    return check(s, cudaGraphLaunch(segment->exec, dip__cuda_stream(s)->stream), "a graph");
}

void dip__cuda_graph_free(struct dip_stream *s, struct dip_segment *segment)
{
    (void)s;
    (void)cudaGraphExecDestroy(segment->exec);
    free(segment);
}

/* ---- fences ---- */

enum dip_status dip__cuda_fence_new(struct dip_stream *s, struct dip_fence **ret_fence)
{
    struct dip_fence *fence = calloc(1, sizeof *fence);
    if (!fence)
        return DIP_NO_MEMORY;
    enum dip_status status =
        check(s, cudaEventCreateWithFlags(&fence->event, cudaEventDisableTiming), "an event");
    if (status)
        free(fence);
    else
        *ret_fence = fence;
    return status;
}

void dip__cuda_fence_free(struct dip_stream *s, struct dip_fence *fence)
{
    (void)s;
    (void)cudaEventDestroy(fence->event);
    free(fence);
}

enum dip_status dip__cuda_fence_set(struct dip_stream *s, struct dip_fence *fence)
{
    return check(s, cudaEventRecord(fence->event, dip__cuda_stream(s)->stream), "an event");
}

enum dip_status dip__cuda_fence_wait(struct dip_stream *s, struct dip_fence *fence)
{
    return check(s, cudaEventSynchronize(fence->event), "waiting for a step");
}

/* ---- memory that both see ---- */

enum dip_status dip__cuda_reserve_shared(struct dip_device *device, size_t bytes,
                                         struct dip_mem *ret_mem, void **ret_device)
{
    struct dip_mem mem = {.bytes = bytes};
    DIP_TRY(dip__cuda_check(device, cudaHostAlloc(&mem.base, bytes, cudaHostAllocMapped),
                            "mapped memory"));
    memset(mem.base, 0, bytes);
    cudaError_t error = cudaHostGetDevicePointer(ret_device, mem.base, 0);
    if (error != cudaSuccess)
        (void)cudaFreeHost(mem.base);
    DIP_TRY(dip__cuda_check(device, error, "mapped memory"));
    *ret_mem = mem;
    return DIP_OK;
}

void dip__cuda_release_shared(struct dip_device *device, struct dip_mem *mem)
{
    (void)device;
    (void)cudaFreeHost(mem->base);
}

/* ---- the two ends of a decode step ---- */

enum dip_status dip__cuda_decode_begin(struct dip_stream *s, const struct dip_decode_begin_args *a)
{
    return DIP__CUDA_LAUNCH(
        s, decode_begin, .slots = (const struct dip_cuda_slot *)a->slots, .row_slots = a->row_slots,
        .last = dip__cuda_view(a->last), .drawing = dip__cuda_view(a->drawing),
        .rows = (struct dip_kernel_row *)a->rows, .draws = (struct dip_kernel_draw *)a->draws,
        .step = a->step, .row_count = dip_tensor_rows(a->drawing), .capacity = a->capacity);
}

enum dip_status dip__cuda_decode_end(struct dip_stream *s, const struct dip_decode_end_args *a)
{
    struct dip_cuda_decode_end job = {.slots = (struct dip_cuda_slot *)a->slots,
                                      .row_slots = a->row_slots,
                                      .last = dip__cuda_view(a->last),
                                      .hidden = dip__cuda_view(a->hidden),
                                      .ids = a->ids,
                                      .ring = a->ring,
                                      .step = a->step,
                                      .row_count = dip_tensor_rows(a->hidden),
                                      .ring_depth = a->ring_depth,
                                      .eos_count = a->eos_count};
    for (int i = 0; i < a->eos_count; i++)
        job.eos_ids[i] = a->eos_ids[i];
    return dip__cuda_launched(s, dip_cuda_decode_end(dip__cuda_stream(s)->stream, &job),
                              "decode_end");
}
