/* base/arena.h - a bump allocator over memory somebody else owns.
 *
 * Serves the request and step lifetimes. The arena never reads or writes the memory it hands out,
 * so it also serves device memory. Not thread-safe: it belongs to the thread that owns what is
 * carved from it. */
#pragma once

#include <stddef.h>

enum { DIP_ARENA_ALIGN = 64 };

struct dip_arena {
    unsigned char *base; /* aligned to DIP_ARENA_ALIGN by the owner */
    size_t bytes;
    size_t used_bytes;
    size_t peak_bytes; /* highest used_bytes ever, kept across resets */
};

void dip_arena_init(struct dip_arena *arena, void *base, size_t bytes);

/* Aligned space, contents undefined; NULL when it does not fit. bytes == 0 gives a valid, unusable
 * pointer. */
void *dip_arena_push(struct dip_arena *arena, size_t bytes);

/* begin/end of a scope: everything pushed after the mark is given back by the reset. */
size_t dip_arena_mark(const struct dip_arena *arena);
void dip_arena_reset(struct dip_arena *arena, size_t mark);

/* `bytes` as the arena will account for it, for computing how much to reserve. */
size_t dip_arena_round(size_t bytes);
