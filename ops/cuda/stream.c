/* ops/cuda/stream.c - a queue of work on a GPU, and what crosses between it and the host.
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
#include "ops/cuda/cuda.h"

static enum dip_status check(struct dip_stream *s, cudaError_t error, const char *what)
{
    return dip__cuda_check(s->device, error, what);
}

/* ---- life ---- */

static enum dip_status buffers_reserve(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    DIP_TRY(check(s, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "a stream"));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->ring, DIP__CUDA_RING_BYTES), "pinned memory"));
    DIP_TRY(check(s, cudaMalloc((void **)&q->ring_device, DIP__CUDA_RING_BYTES), "a ring"));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->up, DIP__CUDA_BOUNCE_BYTES), "pinned memory"));
    DIP_TRY(check(s, cudaMallocHost((void **)&q->down, DIP__CUDA_BOUNCE_BYTES), "pinned memory"));
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
    (void)cudaFree(q->ring_device);
    (void)cudaFreeHost(q->ring);
    (void)cudaFreeHost(q->up);
    (void)cudaFreeHost(q->down);
    free(q);
    s->state = NULL;
}

/* ---- waiting ---- */

static void returns_deliver(struct dip__cuda_stream *q)
{
    for (int i = 0; i < q->return_count; i++) {
        const struct dip__cuda_return *r = &q->returns[i];
        for (size_t row = 0; row < r->height; row++)
            memcpy(r->to + row * r->to_pitch, r->from + row * r->width, r->width);
    }
    q->return_count = 0;
    q->down_used = 0;
}

/* Nothing of a failed stream reaches the host. */
enum dip_status dip__cuda_wait(struct dip_stream *s)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    DIP_TRY(check(s, cudaStreamSynchronize(q->stream), "waiting for the device"));
    DIP_TRY(check(s, cudaGetLastError(), "work on the device"));
    returns_deliver(q);
    q->ring_used = 0;
    return DIP_OK;
}

/* ---- host arrays ---- */

const void *dip__cuda_stage(struct dip_stream *s, const void *data, size_t bytes)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    if (dip__cuda_owns(s->device, data))
        return data;
    size_t room = (bytes + DIP__CUDA_RING_ALIGN - 1) / DIP__CUDA_RING_ALIGN * DIP__CUDA_RING_ALIGN;
    if (room > DIP__CUDA_RING_BYTES - q->ring_used)
        return NULL;
    size_t at = q->ring_used;
    q->ring_used += room;
    memcpy(q->ring + at, data, bytes);
    cudaError_t error = cudaMemcpyAsync(q->ring_device + at, q->ring + at, bytes,
                                        cudaMemcpyHostToDevice, q->stream);
    return check(s, error, "copying an array to the device") ? NULL : q->ring_device + at;
}

/* ---- copies ---- */

/* A view as rows of bytes: `height` of them, `width` long, `pitch` from one to the next. */
struct block {
    char *data;
    size_t width, height, pitch;
};

static struct block block_of(struct dip_tensor t)
{
    size_t size = dip_dtype_bytes(t.dtype);
    struct block b = {.data = t.data,
                      .width = (size_t)dip_tensor_columns(t) * size,
                      .height = (size_t)dip_tensor_rows(t),
                      .pitch = (size_t)t.row_stride * size};
    if (dip_tensor_is_dense(t)) {
        b.width *= b.height;
        b.height = 1;
        b.pitch = b.width;
    }
    return b;
}

/* The same bytes as rows of `width`, which divides the block's rows. */
static struct block block_cut(struct block b, size_t width)
{
    dip_assert(b.height == 1 || b.width == width);
    return b.height > 1
               ? b
               : (struct block){
                     .data = b.data, .width = width, .height = b.width / width, .pitch = width};
}

static struct block block_rows(struct block b, size_t first, size_t count)
{
    b.data += first * b.pitch;
    b.height = count;
    return b;
}

static struct block block_columns(struct block b, size_t first, size_t count)
{
    b.data += first;
    b.width = count;
    return b;
}

static enum dip_status copy_inside(struct dip_stream *s, struct block to, struct block from)
{
    return check(s,
                 cudaMemcpy2DAsync(to.data, to.pitch, from.data, from.pitch, to.width, to.height,
                                   cudaMemcpyDeviceToDevice, dip__cuda_stream(s)->stream),
                 "copying on the device");
}

static void gather(char *to, struct block from)
{
    for (size_t row = 0; row < from.height; row++)
        memcpy(to + row * from.width, from.data + row * from.pitch, from.width);
}

/* One piece, at most half of `up`. */
static enum dip_status piece_up(struct dip_stream *s, struct block to, struct block from)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    int half = q->up_half;
    char *up = q->up + (size_t)half * (DIP__CUDA_BOUNCE_BYTES / 2);
    q->up_half = 1 - half;
    DIP_TRY(check(s, cudaEventSynchronize(q->up_free[half]), "copying to the device"));
    gather(up, from);
    DIP_TRY(check(s,
                  cudaMemcpy2DAsync(to.data, to.pitch, up, to.width, to.width, to.height,
                                    cudaMemcpyHostToDevice, q->stream),
                  "copying to the device"));
    return check(s, cudaEventRecord(q->up_free[half], q->stream), "copying to the device");
}

/* One piece, at most the whole of `down`. */
static enum dip_status piece_down(struct dip_stream *s, struct block to, struct block from)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    size_t bytes = to.width * to.height;
    if (bytes > DIP__CUDA_BOUNCE_BYTES - q->down_used || q->return_count == DIP__CUDA_RETURNS_MAX) {
        DIP_TRY(check(s, cudaStreamSynchronize(q->stream), "copying to the host"));
        returns_deliver(q);
    }
    char *down = q->down + q->down_used;
    DIP_TRY(check(s,
                  cudaMemcpy2DAsync(down, to.width, from.data, from.pitch, to.width, to.height,
                                    cudaMemcpyDeviceToHost, q->stream),
                  "copying to the host"));
    q->returns[q->return_count++] = (struct dip__cuda_return){
        .from = down, .to = to.data, .width = to.width, .height = to.height, .to_pitch = to.pitch};
    q->down_used += bytes;
    return DIP_OK;
}

typedef enum dip_status (*piece_fn)(struct dip_stream *s, struct block to, struct block from);

/* Rows together while they fit, else one row in pieces. */
static enum dip_status copy_across(struct dip_stream *s, struct block to, struct block from,
                                   size_t piece_bytes, piece_fn piece)
{
    size_t rows = piece_bytes / to.width;
    for (size_t row = 0; rows > 0 && row < to.height; row += rows) {
        size_t count = to.height - row < rows ? to.height - row : rows;
        DIP_TRY(piece(s, block_rows(to, row, count), block_rows(from, row, count)));
    }
    for (size_t row = 0; rows == 0 && row < to.height; row++)
        for (size_t at = 0; at < to.width; at += piece_bytes) {
            size_t count = to.width - at < piece_bytes ? to.width - at : piece_bytes;
            DIP_TRY(piece(s, block_columns(block_rows(to, row, 1), at, count),
                          block_columns(block_rows(from, row, 1), at, count)));
        }
    return DIP_OK;
}

enum dip_status dip__cuda_copy(struct dip_stream *s, struct dip_tensor to, struct dip_tensor from)
{
    bool is_to_device = dip__cuda_owns(s->device, to.data);
    bool is_from_device = dip__cuda_owns(s->device, from.data);
    struct block t = block_of(to);
    struct block f = block_of(from);
    size_t width = t.width < f.width ? t.width : f.width;
    if (t.width % width || f.width % width || (t.height > 1 && t.width != width) ||
        (f.height > 1 && f.width != width))
        return DIP_UNSUPPORTED; /* two strided views whose rows end in different places */
    t = block_cut(t, width);
    f = block_cut(f, width);
    if (is_to_device && is_from_device)
        return copy_inside(s, t, f);
    if (is_to_device)
        return copy_across(s, t, f, DIP__CUDA_BOUNCE_BYTES / 2, piece_up);
    if (is_from_device)
        return copy_across(s, t, f, DIP__CUDA_BOUNCE_BYTES, piece_down);
    for (size_t row = 0; row < t.height; row++)
        memmove(t.data + row * t.pitch, f.data + row * f.pitch, width);
    return DIP_OK;
}
