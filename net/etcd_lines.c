/* net/etcd_lines.c - from chunks to lines. */
#include <stdlib.h>
#include <string.h>

#include "net/etcd_private.h"

enum { CAPACITY_FIRST = 4096 };

enum dip_status dip__etcd_lines_push(struct dip__etcd_lines *lines, const void *data, size_t bytes)
{
    size_t used = lines->end - lines->begin;
    if (bytes > DIP__ETCD_BYTES_MAX - used)
        return DIP_LIMIT;
    if (lines->begin > 0) { /* what was taken makes room */
        memmove(lines->bytes, lines->bytes + lines->begin, used);
        lines->begin = 0;
        lines->end = used;
    }
    if (used + bytes > lines->capacity) {
        size_t capacity = lines->capacity ? lines->capacity : CAPACITY_FIRST;
        while (capacity < used + bytes)
            capacity *= 2;
        char *grown = realloc(lines->bytes, capacity);
        if (!grown)
            return DIP_NO_MEMORY;
        lines->bytes = grown;
        lines->capacity = capacity;
    }
    if (bytes > 0)
        memcpy(lines->bytes + used, data, bytes);
    lines->end = used + bytes;
    return DIP_OK;
}

bool dip__etcd_lines_next(struct dip__etcd_lines *lines, const char **ret_text, size_t *ret_bytes)
{
    while (lines->begin < lines->end) {
        const char *begin = lines->bytes + lines->begin;
        const char *end = memchr(begin, '\n', lines->end - lines->begin);
        if (!end)
            return false;
        lines->begin += (size_t)(end - begin) + 1;
        if (end > begin && end[-1] == '\r')
            end--;
        if (end == begin)
            continue;
        *ret_text = begin;
        *ret_bytes = (size_t)(end - begin);
        return true;
    }
    return false;
}

void dip__etcd_lines_clear(struct dip__etcd_lines *lines)
{
    lines->begin = 0;
    lines->end = 0;
}

void dip__etcd_lines_free(struct dip__etcd_lines *lines)
{
    free(lines->bytes);
    *lines = (struct dip__etcd_lines){0};
}
