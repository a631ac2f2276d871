/* ops/graph.c - steps without the host: recording, fences, memory that both see. See ops.h. */
#include "base/assert.h"
#include "ops/device.h"

bool dip_can_capture(const struct dip_stream *s)
{
    return s->device->ops->graph_begin != NULL;
}

enum dip_status dip_graph_begin(struct dip_stream *s)
{
    return dip_can_capture(s) ? s->device->ops->graph_begin(s) : DIP_UNSUPPORTED;
}

enum dip_status dip_graph_end(struct dip_stream *s, struct dip_graph **ret_graph)
{
    return dip_can_capture(s) ? s->device->ops->graph_end(s, ret_graph) : DIP_UNSUPPORTED;
}

enum dip_status dip_graph_launch(struct dip_stream *s, struct dip_graph *graph)
{
    dip_assert(graph);
    return s->device->ops->graph_launch(s, graph);
}

void dip_graph_free(struct dip_stream *s, struct dip_graph *graph)
{
    if (graph)
        s->device->ops->graph_free(s, graph);
}

enum dip_status dip_fence_new(struct dip_stream *s, struct dip_fence **ret_fence)
{
    return dip_can_capture(s) ? s->device->ops->fence_new(s, ret_fence) : DIP_UNSUPPORTED;
}

void dip_fence_free(struct dip_stream *s, struct dip_fence *fence)
{
    if (fence)
        s->device->ops->fence_free(s, fence);
}

enum dip_status dip_fence_set(struct dip_stream *s, struct dip_fence *fence)
{
    return s->device->ops->fence_set(s, fence);
}

enum dip_status dip_fence_wait(struct dip_stream *s, struct dip_fence *fence)
{
    return s->device->ops->fence_wait(s, fence);
}

enum dip_status dip_reserve_shared(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem,
                                   void **ret_device)
{
    return device->ops->reserve_shared
               ? device->ops->reserve_shared(device, bytes, ret_mem, ret_device)
               : DIP_UNSUPPORTED;
}

void dip_release_shared(struct dip_device *device, struct dip_mem *mem)
{
    if (mem->base)
        device->ops->release_shared(device, mem);
    *mem = (struct dip_mem){0};
}

enum dip_status dip_decode_begin(struct dip_stream *s, const struct dip_decode_begin_args *a)
{
    dip_assert(a->last.dtype == DIP_F32);
    dip_assert(dip_tensor_columns(a->last) == dip_tensor_columns(a->drawing));
    return s->device->ops->decode_begin ? s->device->ops->decode_begin(s, a) : DIP_UNSUPPORTED;
}

enum dip_status dip_decode_end(struct dip_stream *s, const struct dip_decode_end_args *a)
{
    dip_assert(a->last.dtype == DIP_F32);
    dip_assert(a->hidden.dtype == DIP_F32);
    dip_assert(dip_tensor_columns(a->last) == dip_tensor_columns(a->hidden));
    dip_assert(a->eos_count <= DIP_DECODE_EOS_MAX);
    return s->device->ops->decode_end ? s->device->ops->decode_end(s, a) : DIP_UNSUPPORTED;
}
