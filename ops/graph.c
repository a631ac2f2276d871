/* ops/graph.c - steps without the host: recording, fences, memory that both see. See ops.h.
 *
 * A recorded step is segments that the device repeats at one stroke each. Mostly there is one.
 * Where ranks exchange something through the host in the middle of a step, the step is cut there:
 *
 *     segment | pause | segment | pause | segment
 *
 * and a launch hands a segment over, runs the pause (which waits for the device), and so on. */
#include <stdlib.h>

#include "base/assert.h"
#include "ops/device.h"

struct part {
    struct dip_segment *segment;
    struct dip__pause pause; /* behind it; run is NULL at the end */
};

struct dip_graph {
    struct part *parts;
    int count, room;
    bool is_open; /* a segment is being recorded */
    struct dip__guard guard;
    enum dip_status status;
};

bool dip_can_capture(const struct dip_stream *s)
{
    return s->device->ops->graph_begin != NULL;
}

enum dip_status dip_graph_begin(struct dip_stream *s)
{
    if (!dip_can_capture(s))
        return DIP_UNSUPPORTED;
    dip_assert(!s->recording);
    struct dip_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return DIP_NO_MEMORY;
    enum dip_status status = s->device->ops->graph_begin(s);
    if (status) {
        free(graph);
        return status;
    }
    graph->is_open = true;
    s->recording = graph;
    return DIP_OK;
}

/* A place for one more part. */
static enum dip_status grow(struct dip_graph *graph)
{
    if (graph->count < graph->room)
        return DIP_OK;
    int room = graph->room ? 2 * graph->room : 1;
    struct part *parts = realloc(graph->parts, (size_t)room * sizeof *parts);
    if (!parts)
        return DIP_NO_MEMORY;
    graph->parts = parts;
    graph->room = room;
    return DIP_OK;
}

/* The segment under way becomes a part; it ends also when something has failed. */
static enum dip_status segment_end(struct dip_stream *s, struct dip_graph *graph)
{
    struct part part = {0};
    graph->is_open = false;
    enum dip_status status = s->device->ops->graph_end(s, &part.segment);
    if (!status)
        status = grow(graph);
    if (!status)
        graph->parts[graph->count++] = part;
    else if (part.segment)
        s->device->ops->graph_free(s, part.segment);
    return status;
}

enum dip_status dip__graph_pause(struct dip_stream *s, const struct dip__pause *pause)
{
    struct dip_graph *graph = s->recording;
    dip_assert(graph);
    if (graph->status)
        return graph->status;
    graph->status = segment_end(s, graph);
    if (!graph->status) {
        graph->parts[graph->count - 1].pause = *pause;
        graph->status = s->device->ops->graph_begin(s);
        graph->is_open = !graph->status;
    }
    return graph->status;
}

enum dip_status dip_graph_end(struct dip_stream *s, struct dip_graph **ret_graph)
{
    struct dip_graph *graph = s->recording;
    *ret_graph = NULL;
    if (!dip_can_capture(s))
        return DIP_UNSUPPORTED;
    dip_assert(graph);
    enum dip_status status = graph->status;
    if (graph->is_open) {
        enum dip_status ended = segment_end(s, graph);
        status = status ? status : ended;
    }
    s->recording = NULL;
    if (status)
        dip_graph_free(s, graph);
    else
        *ret_graph = graph;
    return status;
}

void dip__graph_guard(struct dip_stream *s, const struct dip__guard *guard)
{
    dip_assert(s->recording);
    s->recording->guard = *guard;
}

static enum dip_status parts_launch(struct dip_stream *s, const struct dip_graph *graph)
{
    for (int i = 0; i < graph->count; i++) {
        const struct part *part = &graph->parts[i];
        DIP_TRY(s->device->ops->graph_launch(s, part->segment));
        if (part->pause.run)
            DIP_TRY(part->pause.run(s, &part->pause));
    }
    return DIP_OK;
}

enum dip_status dip_graph_launch(struct dip_stream *s, struct dip_graph *graph)
{
    dip_assert(graph);
    const struct dip__guard *guard = &graph->guard;
    if (!guard->enter)
        return parts_launch(s, graph);
    DIP_TRY(guard->enter(guard->context));
    enum dip_status status = parts_launch(s, graph);
    enum dip_status left = guard->leave(s, guard->context);
    return status ? status : left;
}

void dip_graph_free(struct dip_stream *s, struct dip_graph *graph)
{
    if (!graph)
        return;
    for (int i = 0; i < graph->count; i++)
        s->device->ops->graph_free(s, graph->parts[i].segment);
    free(graph->parts);
    free(graph);
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
