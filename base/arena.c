/* base/arena.c - bump allocation: one addition, one comparison. */
#include "base/arena.h"

#include <stdint.h>

#include "base/assert.h"

void dip_arena_init(struct dip_arena *arena, void *base, size_t bytes)
{
    dip_assert((uintptr_t)base % DIP_ARENA_ALIGN == 0);
    *arena = (struct dip_arena){.base = base, .bytes = bytes};
}

size_t dip_arena_round(size_t bytes)
{
    if (bytes > SIZE_MAX - (DIP_ARENA_ALIGN - 1))
        return SIZE_MAX; /* fits nowhere, which is the right answer */
    return (bytes + DIP_ARENA_ALIGN - 1) & ~(size_t)(DIP_ARENA_ALIGN - 1);
}

void *dip_arena_push(struct dip_arena *arena, size_t bytes)
{
    dip_assert(arena->used_bytes <= arena->bytes);
    size_t rounded = dip_arena_round(bytes);
    if (rounded > arena->bytes - arena->used_bytes)
        return NULL;
    void *space = arena->base + arena->used_bytes;
    arena->used_bytes += rounded;
    if (arena->used_bytes > arena->peak_bytes)
        arena->peak_bytes = arena->used_bytes;
    return space;
}

size_t dip_arena_mark(const struct dip_arena *arena)
{
    return arena->used_bytes;
}

void dip_arena_reset(struct dip_arena *arena, size_t mark)
{
    dip_assert(mark <= arena->used_bytes);
    arena->used_bytes = mark;
}
