/* ops/cuda/copy.c - copies within the device and across its border; stream.c draws the ways. */
#include <string.h>

#include "base/assert.h"
#include "base/pool.h"
#include "ops/cuda/cuda.h"

enum { SMALL_BYTES_MAX = 64 << 10, PARALLEL_BYTES_MIN = 1 << 20 };

static enum dip_status check(struct dip_stream *s, cudaError_t error, const char *what)
{
    return dip__cuda_check(s->device, error, what);
}

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

/* Both blocks have the width and height of the first. */
static cudaError_t move(struct dip_stream *s, struct block to, struct block from,
                        enum cudaMemcpyKind kind)
{
    cudaStream_t stream = dip__cuda_stream(s)->stream;
    if (to.pitch == to.width && from.pitch == to.width)
        return cudaMemcpyAsync(to.data, from.data, to.width * to.height, kind, stream);
    return cudaMemcpy2DAsync(to.data, to.pitch, from.data, from.pitch, to.width, to.height, kind,
                             stream);
}

/* The same rows side by side at `data`. */
static struct block packed(struct block b, char *data)
{
    b.data = data;
    b.pitch = b.width;
    return b;
}

static enum dip_status copy_inside(struct dip_stream *s, struct block to, struct block from)
{
    return check(s, move(s, to, from, cudaMemcpyDeviceToDevice), "copying on the device");
}

static void gather(char *to, struct block from)
{
    for (size_t row = 0; row < from.height; row++)
        memcpy(to + row * from.width, from.data + row * from.pitch, from.width);
}

struct gathering {
    char *to;
    struct block from;
};

/* A share of the rows, or of one row's bytes. */
static void gather_part(void *context, int part, int part_count)
{
    const struct gathering *g = context;
    struct block b = g->from;
    size_t n = b.height > 1 ? b.height : b.width;
    size_t first = n * (size_t)part / (size_t)part_count;
    size_t count = n * (size_t)(part + 1) / (size_t)part_count - first;
    if (b.height > 1)
        gather(g->to + first * b.width, block_rows(b, first, count));
    else
        gather(g->to + first, block_columns(b, first, count));
}

/* Weights come from mapped files: reading them is what the first touch waits for, so several
 * threads touch. */
static void gather_parallel(struct dip_device *device, char *to, struct block from)
{
    struct gathering g = {.to = to, .from = from};
    int parts = from.width * from.height < PARALLEL_BYTES_MIN ? 1 : DIP__CUDA_READERS;
    dip_pool_run(dip__cuda(device)->readers, gather_part, &g, parts);
}

/* Small things go through the ring, which has room at once. */
static enum dip_status piece_small(struct dip_stream *s, struct block to, struct block from)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    char *up = q->ring + q->ring_used;
    q->ring_used += dip__cuda_ring_round(to.width * to.height);
    gather(up, from);
    return check(s, move(s, to, packed(to, up), cudaMemcpyHostToDevice), "copying to the device");
}

/* One piece, at most half of `up`. */
static enum dip_status piece_up(struct dip_stream *s, struct block to, struct block from)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    size_t bytes = to.width * to.height;
    dip_assert(!q->is_capturing);
    /* The other half of the ring is for arrays. */
    if (bytes <= SMALL_BYTES_MAX && q->ring_used <= DIP__CUDA_RING_BYTES / 2)
        return piece_small(s, to, from);
    int half = q->up_half;
    char *up = q->up + (size_t)half * (DIP__CUDA_BOUNCE_BYTES / 2);
    q->up_half = 1 - half;
    DIP_TRY(check(s, cudaEventSynchronize(q->up_free[half]), "copying to the device"));
    gather_parallel(s->device, up, from);
    DIP_TRY(check(s, move(s, to, packed(to, up), cudaMemcpyHostToDevice), "copying to the device"));
    return check(s, cudaEventRecord(q->up_free[half], q->stream), "copying to the device");
}

/* One piece, at most the whole of `down`. */
static enum dip_status piece_down(struct dip_stream *s, struct block to, struct block from)
{
    struct dip__cuda_stream *q = dip__cuda_stream(s);
    size_t bytes = to.width * to.height;
    if (bytes > DIP__CUDA_BOUNCE_BYTES - q->down_used || q->return_count == DIP__CUDA_RETURNS_MAX) {
        DIP_TRY(check(s, cudaStreamSynchronize(q->stream), "copying to the host"));
        dip__cuda_returns_deliver(q);
    }
    char *down = q->down + q->down_used;
    DIP_TRY(
        check(s, move(s, packed(from, down), from, cudaMemcpyDeviceToHost), "copying to the host"));
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

enum dip_status dip__cuda_copy_up(struct dip_stream *s, struct dip_tensor to,
                                  struct dip_tensor from)
{
    struct block t = block_of(to);
    struct block f = block_of(from);
    dip_assert(t.height == 1); /* dense */
    return copy_across(s, block_cut(t, f.width), f, DIP__CUDA_BOUNCE_BYTES / 2, piece_up);
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
