/* model/scratch.h - carving a network's working tensors from the arena its caller gave.
 *
 * Private to model/. Each network has one function that carves; run over a meter instead of real
 * memory it tells how many bytes to reserve, so the two cannot drift apart. Regions that are never
 * alive together are carved from the same mark. */
#pragma once

#include <stdint.h>

#include "base/arena.h"
#include "base/assert.h"
#include "ops/ops.h"

/* An arena that only counts: peak_bytes is the answer. Its pointers are never followed. */
static inline struct dip_arena dip__scratch_meter(void)
{
    struct dip_arena meter;
    dip_arena_init(&meter, (void *)(uintptr_t)DIP_ARENA_ALIGN, SIZE_MAX / 2); // NOLINT
    return meter;
}

/* Of the dtype that the device keeps between operations: whatever a product reads or leaves. */
static inline struct dip_tensor dip__scratch_of(struct dip_arena *scratch, enum dip_dtype dtype,
                                                int64_t rows, int64_t columns)
{
    void *data = dip_arena_push(scratch, (size_t)rows * (size_t)columns * dip_dtype_bytes(dtype));
    dip_assert(data); /* the caller reserved less than *_scratch_bytes said */
    return dip_rows(data, dtype, rows, columns);
}

/* F32 on every device: residual streams, states, latents, modulations. */
static inline struct dip_tensor dip__scratch_rows(struct dip_arena *scratch, int64_t rows,
                                                  int64_t columns)
{
    return dip__scratch_of(scratch, DIP_F32, rows, columns);
}

/* Room for F32 rows in another dtype; none where they are in it already. */
static inline struct dip_tensor dip__scratch_cast(struct dip_arena *scratch, enum dip_dtype dtype,
                                                  int64_t rows, int64_t columns)
{
    if (dtype == DIP_F32)
        return (struct dip_tensor){0};
    return dip__scratch_of(scratch, dtype, rows, columns);
}

/* *t in the dtype of `room`, there; as it is when there is none. */
static inline enum dip_status dip__cast(struct dip_stream *s, struct dip_tensor room,
                                        struct dip_tensor *t)
{
    if (!room.data)
        return DIP_OK;
    DIP_TRY(dip_cast(s, room, *t));
    *t = room;
    return DIP_OK;
}

/* The same dense memory under another shape. */
static inline struct dip_tensor dip__as_image(struct dip_tensor rows, int64_t batch, int64_t height,
                                              int64_t width)
{
    dip_assert(dip_tensor_rows(rows) == batch * height * width);
    struct dip_tensor image =
        dip_image(rows.data, rows.dtype, batch, height, width, dip_tensor_columns(rows));
    image.row_stride = rows.row_stride;
    return image;
}

static inline struct dip_tensor dip__as_rows(struct dip_tensor t)
{
    struct dip_tensor rows = dip_rows(t.data, t.dtype, dip_tensor_rows(t), dip_tensor_columns(t));
    rows.row_stride = t.row_stride;
    return rows;
}
