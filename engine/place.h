/* engine/place.h - carving dense f32 views from an arena; private to engine/.
 *
 * The owner reserved what dip__rows_bytes counted, so a push that does not fit is a broken
 * contract. */
#pragma once

#include "base/arena.h"
#include "base/assert.h"
#include "ops/ops.h"

static inline size_t dip__rows_bytes(int64_t rows, int64_t columns)
{
    dip_assert(rows >= 0 && columns >= 0);
    return dip_arena_round((size_t)rows * (size_t)columns * sizeof(float)); /* narrower ones fit */
}

/* What a device with memory of its own says of the reservation that failed. */
static inline const char *dip__memory_note(const struct dip_device *device)
{
    return dip_device_reads_host(device) ? "" : dip_device_note(device);
}

static inline void *dip__place(struct dip_arena *arena, size_t bytes)
{
    void *space = dip_arena_push(arena, bytes);
    dip_assert(space != NULL);
    return space;
}

static inline struct dip_tensor dip__place_rows(struct dip_arena *arena, int64_t rows,
                                                int64_t columns)
{
    void *space = dip__place(arena, dip__rows_bytes(rows, columns));
    return dip_rows(space, DIP_F32, rows, columns);
}
