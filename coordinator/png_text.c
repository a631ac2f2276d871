/* coordinator/png_text.c - text chunks into a finished PNG (ISO/IEC 15948, 5.3 and 11.3.4).
 *
 *     signature 8 | IHDR: length 4, type 4, data 13, crc 4 | texts go here | IDAT ... IEND */
#include "coordinator/png_text.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/assert.h"

enum {
    SIGNATURE_BYTES = 8,
    CHUNK_BYTES = 12, /* length, type and crc of a chunk */
    HEAD_BYTES = SIGNATURE_BYTES + CHUNK_BYTES + 13,
    INTERNATIONAL_BYTES = 4, /* compression flag and method, two empty texts */
};

static bool is_plain(const char *value)
{
    for (; *value; value++)
        if ((*value < 0x20 || *value >= 0x7f) && *value != '\n')
            return false;
    return true;
}

static unsigned char *put_u32(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(value >> (24 - 8 * i));
    return to + 4;
}

/* One pair of key and value; NULL after the last whole one. */
static const char *pair_next(const char *at, const char *end, const char **ret_value)
{
    const char *key_end = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
    const char *value_end =
        key_end && key_end + 1 < end ? memchr(key_end + 1, 0, (size_t)(end - key_end - 1)) : NULL;
    *ret_value = value_end ? key_end + 1 : NULL;
    return value_end ? value_end + 1 : NULL;
}

static size_t chunk_bytes(const char *key, const char *value)
{
    return CHUNK_BYTES + strlen(key) + 1 + (is_plain(value) ? 0 : INTERNATIONAL_BYTES) +
           strlen(value);
}

static unsigned char *put_chunk(unsigned char *to, const char *key, const char *value)
{
    size_t bytes = chunk_bytes(key, value) - CHUNK_BYTES;
    to = put_u32(to, (uint32_t)bytes);
    unsigned char *type = to;
    to = put_u32(to, is_plain(value) ? UINT32_C(0x74455874) : UINT32_C(0x69545874)); /* t/iTXt */
    memcpy(to, key, strlen(key) + 1);
    to += strlen(key) + 1;
    if (!is_plain(value)) {
        memset(to, 0, INTERNATIONAL_BYTES);
        to += INTERNATIONAL_BYTES;
    }
    size_t value_bytes = strlen(value);
    memcpy(to, value, value_bytes); /* NOLINT(bugprone-not-null-terminated-result): no string */
    to += value_bytes;
    return put_u32(to, (uint32_t)crc32(0, type, (uInt)(to - type)));
}

static size_t all_bytes(const struct dip_payload *texts)
{
    size_t bytes = 0;
    const char *value, *at = texts->data, *end = at + texts->bytes;
    for (const char *next; (next = pair_next(at, end, &value)) != NULL; at = next)
        bytes += chunk_bytes(at, value);
    return bytes;
}

enum dip_status dip__png_text_insert(const struct dip_payload *png, const struct dip_payload *texts,
                                     struct dip_payload *ret_png)
{
    static const unsigned char head[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    if (png->bytes < HEAD_BYTES || memcmp(png->data, head, sizeof head - 1) != 0)
        return DIP_CORRUPT;
    size_t bytes = png->bytes + (texts->data ? all_bytes(texts) : 0);
    unsigned char *data = malloc(bytes);
    if (!data)
        return DIP_NO_MEMORY;
    memcpy(data, png->data, HEAD_BYTES);
    unsigned char *to = data + HEAD_BYTES;
    const char *value, *at = texts->data, *end = at ? at + texts->bytes : at;
    for (const char *next; (next = pair_next(at, end, &value)) != NULL; at = next)
        to = put_chunk(to, at, value);
    dip_assert(to + (png->bytes - HEAD_BYTES) == data + bytes);
    memcpy(to, (const unsigned char *)png->data + HEAD_BYTES, png->bytes - HEAD_BYTES);
    *ret_png = (struct dip_payload){data, bytes};
    return DIP_OK;
}
