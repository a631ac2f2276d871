/* model/safetensors_write.c - writing a few tensors as one safetensors file (traces, tests).
 *
 * The file is composed in memory and written in one go, so a reader never sees half of one. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/file.h"
#include "model/safetensors.h"

enum { LENGTH_BYTES = 8, DATA_ALIGN = 64 };

static size_t part_bytes(const struct dip_safetensors_part *part)
{
    size_t bytes = dip_dtype_bytes(part->dtype);
    for (int i = 0; i < part->rank; i++)
        bytes *= (size_t)part->dims[i];
    return bytes;
}

/* Appends to a header that reserve_header has sized. */
struct header {
    char *text;
    size_t bytes;
    size_t bytes_max;
};

static void DIP_PRINTF(2, 3) append(struct header *header, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t left = header->bytes_max - header->bytes;
    int length = vsnprintf(header->text + header->bytes, left, format, arguments);
    va_end(arguments);
    dip_assert(length >= 0 && (size_t)length < left);
    header->bytes += (size_t)length;
}

static void append_part(struct header *header, const struct dip_safetensors_part *part,
                        size_t begin)
{
    append(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", header->bytes > 1 ? "," : "",
           part->name, dip_dtype_name(part->dtype));
    for (int i = 0; i < part->rank; i++)
        append(header, "%s%" PRId64, i > 0 ? "," : "", part->dims[i]);
    append(header, "],\"data_offsets\":[%zu,%zu]}", begin, begin + part_bytes(part));
}

static void check_part(const struct dip_safetensors_part *part)
{
    dip_assert(part->rank >= 0 && part->rank <= DIP_TENSOR_RANK_MAX);
    for (const char *at = part->name; *at; at++)
        dip_assert(*at >= 0x20 && *at != '"' && *at != '\\');
}

/* Room for every entry: five numbers of up to 20 digits, the dtype and the punctuation. */
static size_t header_bytes_max(const struct dip_safetensors_part *parts, size_t count)
{
    size_t bytes = DATA_ALIGN + 2;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(parts[i].name) + 200;
    return bytes;
}

/* Visits parts by falling element size, in their own order within a size: every tensor is then
 * aligned to its elements. Calls the header or the data, whichever is given. */
static size_t lay_out(const struct dip_safetensors_part *parts, size_t count, struct header *header,
                      unsigned char *data)
{
    size_t begin = 0;
    for (size_t element = 8; element > 0; element /= 2) {
        for (size_t i = 0; i < count; i++) {
            if (dip_dtype_bytes(parts[i].dtype) != element)
                continue;
            if (header)
                append_part(header, &parts[i], begin);
            if (data && part_bytes(&parts[i]) > 0)
                memcpy(data + begin, parts[i].data, part_bytes(&parts[i]));
            begin += part_bytes(&parts[i]);
        }
    }
    return begin;
}

static void put_length(unsigned char *to, uint64_t length)
{
    for (int i = 0; i < LENGTH_BYTES; i++)
        to[i] = (unsigned char)(length >> (8 * i));
}

enum dip_status dip_safetensors_write(const char *path, const struct dip_safetensors_part *parts,
                                      size_t count, struct dip_why *why)
{
    enum dip_status status = DIP_NO_MEMORY;
    unsigned char *file = NULL;
    for (size_t i = 0; i < count; i++)
        check_part(&parts[i]);
    struct header header = {.bytes_max = header_bytes_max(parts, count)};
    header.text = malloc(header.bytes_max);
    if (!header.text)
        goto out;
    append(&header, "{");
    size_t data_bytes = lay_out(parts, count, &header, NULL);
    append(&header, "}");
    while ((LENGTH_BYTES + header.bytes) % DATA_ALIGN != 0)
        append(&header, " "); /* the format allows blanks after the object */
    file = malloc(LENGTH_BYTES + header.bytes + data_bytes);
    if (!file)
        goto out;
    put_length(file, header.bytes);
    memcpy(file + LENGTH_BYTES, header.text, header.bytes);
    lay_out(parts, count, NULL, file + LENGTH_BYTES + header.bytes);
    status = dip_file_write(path, file, LENGTH_BYTES + header.bytes + data_bytes, why);
out:
    if (status == DIP_NO_MEMORY)
        (void)dip_fail(why, status, "%s: no memory to compose it", path);
    free(file);
    free(header.text);
    return status;
}
