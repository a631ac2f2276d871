/* ops/cuda/stream.c - a queue of work on a GPU, and how it is waited for.
 *
 * Host memory that callers name is pageable, so everything goes through pinned buffers of the
 * stream's own, and no copy waits for the device:
 *
 *     host array --memcpy--> ring ------async------> ring on the device      read by kernels
 *     host view  --memcpy--> up, half by half -----> device view
 *     device view --async--> down ... dip_wait --memcpy--> host view
 *
 * The ring and `down` empty at a wait. A copy to the host larger than `down` waits inside, which
 * only happens outside of steps. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "kernels/cuda/cuda.h"
#include "ops/cuda/cuda.h"

static enum dip_status check(struct dip_stream *s, cudaError_t error, const char *what)
{
    return dip__cuda_check(s->device, error, what);
}

/* ---- life ---- */

static enum dip_status buffers_reserve(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    size_t flag_bytes = DIP__CUDA_FLAGS_MAX * sizeof *q->flags; /* also behind `down` */
    DIP_TRY(check(s, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "a stream"));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->ring, DIP__CUDA_RING_BYTES), "pinned memory"));
    DIP_TRY(dip__cuda_reserve(s->device, DIP__CUDA_RING_BYTES, &q->ring_device));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->up, DIP__CUDA_BOUNCE_BYTES), "pinned memory"));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->down, DIP__CUDA_BOUNCE_BYTES + flag_bytes),
                  "pinned memory"));
    DIP_TRY(dip__cuda_allocate(s->device, DIP_CUDA_SCRATCH_BYTES, &q->scratch));
    DIP_TRY(check(s, cudaMalloc((void **)&q->flags, flag_bytes), "flags"));
    DIP_TRY(check(s, cudaMemsetAsync(q->flags, 0, flag_bytes, q->stream), "flags"));
    for (int i = 0; i < 2; i++)
        DIP_TRY(
            check(s, cudaEventCreateWithFlags(&q->up_free[i], cudaEventDisableTiming), "an event"));
    return DIP_OK;
}

enum dip_status dip__cuda_stream_open(struct dip_stream *s)
{
    s->state = calloc(1, sizeof(struct dip__cuda_stream));
    if (!s->state)
        return DIP_NO_MEMORY;
    enum dip_status status = buffers_reserve(s);
    if (status)
        dip__cuda_stream_close(s);
    return status;
}

/* Closing a dead device's stream fails in every call, and releases what is the host's. */
void dip__cuda_stream_close(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    if (!q)
        return;
    if (q->stream) {
        (void)cudaStreamSynchronize(q->stream);
        (void)cudaStreamDestroy(q->stream);
    }
    for (int i = 0; i < 2; i++)
        if (q->up_free[i])
            (void)cudaEventDestroy(q->up_free[i]);
    if (q->ring_device.base)
        dip__cuda_release(s->device, &q->ring_device);
    (void)cudaFree(q->scratch);
    (void)cudaFree(q->flags);
    (void)cudaFreeHost(q->ring);
    (void)cudaFreeHost(q->up);
    (void)cudaFreeHost(q->down);
    free(q);
    s->state = NULL;
}

/* ---- waiting ---- */

void dip__cuda_returns_deliver(struct dip__cuda_stream *q)
{
    for (int i = 0; i < q->return_count; i++) {
        const struct dip__cuda_return *r = &q->returns[i];
        for (size_t row = 0; row < r->height; row++)
            memcpy(r->to + row * r->to_pitch, r->from + row * r->width, r->width);
    }
    q->return_count = 0;
    q->down_used = 0;
}

/* The flags come back behind everything else, and are zero again for the next step. */
static enum dip_status flags_fetch(struct dip_stream *s, uint32_t *down)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    size_t bytes = (size_t)q->flag_count * sizeof *q->flags;
    if (bytes == 0)
        return DIP_OK;
    DIP_TRY(check(s, cudaMemcpyAsync(down, q->flags, bytes, cudaMemcpyDeviceToHost, q->stream),
                  "flags"));
    return check(s, cudaMemsetAsync(q->flags, 0, bytes, q->stream), "flags");
}

/* Nothing of a failed stream reaches the host. */
enum dip_status dip__cuda_wait(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    uint32_t *flags = (uint32_t *)(void *)(q->down + DIP__CUDA_BOUNCE_BYTES);
    DIP_TRY(flags_fetch(s, flags));
    DIP_TRY(check(s, cudaStreamSynchronize(q->stream), "waiting for the device"));
    DIP_TRY(check(s, cudaGetLastError(), "work on the device"));
    dip__cuda_returns_deliver(q);
    for (int i = 0; i < q->flag_count; i++)
        *q->flag_places[i] = flags[i] == 0;
    q->flag_count = 0;
    q->ring_used = 0;
    return DIP_OK;
}

enum dip_status dip__cuda_flag(struct dip_stream *s, bool *ret_is_finite, uint32_t **ret_flag)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    if (q->flag_count == DIP__CUDA_FLAGS_MAX)
        return DIP_LIMIT;
    *ret_flag = &q->flags[q->flag_count];
    q->flag_places[q->flag_count++] = ret_is_finite;
    return DIP_OK;
}

/* ---- host arrays ---- */

const void *dip__cuda_stage(struct dip_stream *s, const void *data, size_t bytes)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    if (dip__cuda_owns(s->device, data))
        return data;
    dip_assert(!q->is_capturing);
    size_t room = dip__cuda_ring_round(bytes);
    if (room > DIP__CUDA_RING_BYTES - q->ring_used)
        return NULL;
    size_t at = q->ring_used;
    q->ring_used += room;
    memcpy(q->ring + at, data, bytes);
    char *staged = (char *)q->ring_device.base + at;
    cudaError_t error =
        cudaMemcpyAsync(staged, q->ring + at, bytes, cudaMemcpyHostToDevice, q->stream);
    return check(s, error, "copying an array to the device") ? NULL : staged;
}
