/* base/file.h - files, whole: mapped read-only, read with a ceiling, or written so that a reader
 * never sees half of one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct dip_map {
    const unsigned char *data; /* NULL when the file is empty */
    size_t bytes;
};

/* Whether a path leads to anything: optional files are looked for before they are opened. */
bool dip_file_exists(const char *path);

/* Maps a regular file read-only. Errors: NOT_FOUND, IO, INVALID (not a regular file). */
DIP_MUST_USE enum dip_status dip_map_open(const char *path, struct dip_why *why,
                                          struct dip_map *ret_map);
void dip_map_close(struct dip_map *map);

/* Takes the pages read so far out of this process's memory; those used again come back by
 * themselves, from then on one by one rather than with their neighbours. */
void dip_map_rest(const struct dip_map *map);

/* After that: these bytes of a map, of which all will be used, come back in large pieces, but
 * nothing beside them does. */
void dip_map_expect(const void *data, size_t bytes);

/* The file's bytes plus a terminating zero, owned by the caller (free). Errors as above, LIMIT
 * above bytes_max. */
DIP_MUST_USE enum dip_status dip_file_read(const char *path, size_t bytes_max, struct dip_why *why,
                                           char **ret_text, size_t *ret_bytes);

/* Writes through a temporary file in the same folder and renames it; on failure nothing is left
 * behind. */
DIP_MUST_USE enum dip_status dip_file_write(const char *path, const void *data, size_t bytes,
                                            struct dip_why *why);

/* Removes temporary files of writes that a signal interrupted. Async-signal-safe. */
void dip_file_abandon(void);
