/* model/safetensors.c - parsing the header of a safetensors file, every number checked before use.
 *
 * The JSON itself is the library's work (base/json.c bounds its depth and size first); this file
 * owns what the numbers must mean. */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/file.h"
#include "base/json.h"

enum { LENGTH_BYTES = 8 }; /* the little-endian header length in front */

struct dip_safetensors {
    struct dip_map map; /* empty when the bytes are the caller's */
    char *names;        /* all names, zero-terminated, back to back */
    struct dip_safetensors_tensor *tensors;
    size_t count;
};

/* Where the parts of a file lie, once its length field has been checked. */
struct layout {
    const char *name; /* for messages */
    const char *header;
    size_t header_bytes;
    const unsigned char *data;
    size_t data_bytes;
};

/* ---- dtypes ---- */

/* Bytes of an element by stored name; 0 for names this file does not know, whose tensors may be
 * listed but not bound. */
static size_t element_bytes(const char *dtype_name)
{
    static const struct {
        const char *name;
        size_t bytes;
    } known[] = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                 {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                 {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].name, dtype_name) == 0)
            return known[i].bytes;
    return 0;
}

bool dip_safetensors_dtype(const char *dtype_name, enum dip_dtype *ret_dtype)
{
    for (int i = 0; i < DIP_DTYPE_COUNT; i++) {
        if (strcmp(dip_dtype_name((enum dip_dtype)i), dtype_name) == 0) {
            *ret_dtype = (enum dip_dtype)i;
            return true;
        }
    }
    return false;
}

/* ---- one entry of the header ---- */

static enum dip_status require(const struct dip_json *entry, const char *key, struct dip_why *why)
{
    if (dip_json_has(entry, key))
        return DIP_OK;
    return dip_fail(why, DIP_CORRUPT, "%s: %s is missing", entry->path, key);
}

static enum dip_status read_dtype(const struct dip_json *entry, struct dip_why *why,
                                  struct dip_safetensors_tensor *t)
{
    const char *dtype_name = "";
    DIP_TRY(require(entry, "dtype", why));
    DIP_TRY(dip_json_string(entry, "dtype", why, &dtype_name));
    if (strlen(dtype_name) >= sizeof t->dtype_name)
        return dip_fail(why, DIP_CORRUPT, "%s: dtype is \"%.20s...\", expected one such as BF16",
                        entry->path, dtype_name);
    memcpy(t->dtype_name, dtype_name, strlen(dtype_name) + 1);
    return DIP_OK;
}

static enum dip_status read_shape(const struct dip_json *entry, struct dip_why *why,
                                  struct dip_safetensors_tensor *t)
{
    DIP_TRY(require(entry, "shape", why));
    DIP_TRY(
        dip_json_ints(entry, "shape", 0, INT64_MAX, DIP_TENSOR_RANK_MAX, why, t->dims, &t->rank));
    for (int i = t->rank; i < DIP_TENSOR_RANK_MAX; i++)
        t->dims[i] = 1;
    return DIP_OK;
}

/* Bytes that shape and dtype ask for; false when they exceed what a size_t holds. */
static bool bytes_of(const struct dip_safetensors_tensor *t, size_t element, size_t *ret_bytes)
{
    size_t bytes = element;
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(bytes, (size_t)t->dims[i], &bytes))
            return false;
    *ret_bytes = bytes;
    return true;
}

static enum dip_status read_range(const struct dip_json *entry, const struct layout *layout,
                                  struct dip_why *why, struct dip_safetensors_tensor *t)
{
    int64_t range[2] = {0, 0};
    int count = 0;
    int64_t end_max = (int64_t)layout->data_bytes;
    DIP_TRY(require(entry, "data_offsets", why));
    DIP_TRY(dip_json_ints(entry, "data_offsets", 0, end_max, 2, why, range, &count));
    if (count != 2 || range[0] > range[1])
        return dip_fail(why, DIP_CORRUPT, "%s: data_offsets is not a pair of begin and end",
                        entry->path);
    t->data = layout->data + range[0];
    t->bytes = (size_t)(range[1] - range[0]);
    return DIP_OK;
}

static enum dip_status read_entry(const struct dip_json *entry, const struct layout *layout,
                                  struct dip_why *why, struct dip_safetensors_tensor *t)
{
    DIP_TRY(read_dtype(entry, why, t));
    DIP_TRY(read_shape(entry, why, t));
    DIP_TRY(read_range(entry, layout, why, t));
    size_t element = element_bytes(t->dtype_name);
    size_t expected = 0;
    if (element == 0)
        return DIP_OK; /* unknown: its range is checked, its contents are nobody's business */
    if (!bytes_of(t, element, &expected))
        return dip_fail(why, DIP_CORRUPT, "%s: its shape has more elements than memory has bytes",
                        entry->path);
    if (expected != t->bytes)
        return dip_fail(why, DIP_CORRUPT, "%s: its shape and dtype need %zu bytes, found %zu",
                        entry->path, expected, t->bytes);
    return DIP_OK;
}

/* ---- the whole header ---- */

static bool is_tensor_key(const char *key)
{
    return strcmp(key, "__metadata__") != 0;
}

/* Counts tensors and the bytes of their names, then reserves both. */
static enum dip_status reserve(struct dip_safetensors *file, const struct dip_json *header,
                               struct dip_why *why)
{
    size_t count = 0;
    size_t name_bytes = 0;
    void *cursor = NULL;
    for (const char *key; (key = dip_json_next(header, &cursor));) {
        if (!is_tensor_key(key))
            continue;
        count++;
        name_bytes += strlen(key) + 1;
    }
    if (count > DIP_TENSORS_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: has %zu tensors, expected at most %d", header->path,
                        count, DIP_TENSORS_MAX);
    file->tensors = calloc(count + 1, sizeof *file->tensors);
    file->names = malloc(name_bytes + 1);
    if (!file->tensors || !file->names)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory for its %zu tensors", header->path,
                        count);
    return DIP_OK;
}

static enum dip_status read_entries(struct dip_safetensors *file, const struct dip_json *header,
                                    const struct layout *layout, struct dip_why *why)
{
    DIP_TRY(reserve(file, header, why));
    char *name = file->names;
    dip_assert(name && file->tensors);
    void *cursor = NULL;
    for (const char *key; (key = dip_json_next(header, &cursor));) {
        struct dip_json entry = {0};
        DIP_TRY(dip_json_object(header, key, why, &entry));
        if (!is_tensor_key(key))
            continue;
        if (!entry.object)
            return dip_fail(why, DIP_CORRUPT, "%s: %s is null, expected an object", header->path,
                            key);
        struct dip_safetensors_tensor *t = &file->tensors[file->count];
        DIP_TRY(read_entry(&entry, layout, why, t));
        size_t bytes = strlen(key) + 1;
        memcpy(name, key, bytes);
        t->name = name;
        name += bytes;
        file->count++;
    }
    return DIP_OK;
}

/* By begin; an empty tensor sorts before the one that begins where it lies. */
static int compare_data(const void *left, const void *right)
{
    const struct dip_safetensors_tensor *a = left;
    const struct dip_safetensors_tensor *b = right;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* Sorted by position, each range must begin where the one before it ended. */
static enum dip_status check_cover(struct dip_safetensors *file, const struct layout *layout,
                                   struct dip_why *why)
{
    qsort(file->tensors, file->count, sizeof *file->tensors, compare_data);
    const unsigned char *end = layout->data;
    for (size_t i = 0; i < file->count; i++) {
        const struct dip_safetensors_tensor *t = &file->tensors[i];
        if (t->data < end)
            return dip_fail(why, DIP_CORRUPT, "%s: tensors %s and %s overlap", layout->name,
                            file->tensors[i - 1].name, t->name);
        if (t->data > end)
            return dip_fail(why, DIP_CORRUPT, "%s: %zu bytes in front of tensor %s belong to none",
                            layout->name, (size_t)(t->data - end), t->name);
        end = t->data + t->bytes;
    }
    size_t covered = (size_t)(end - layout->data);
    if (covered != layout->data_bytes)
        return dip_fail(why, DIP_CORRUPT,
                        "%s: its tensors end at byte %zu of the data, the file at byte %zu",
                        layout->name, covered, layout->data_bytes);
    return DIP_OK;
}

static enum dip_status find_layout(const unsigned char *data, size_t bytes, const char *name,
                                   struct dip_why *why, struct layout *ret_layout)
{
    if (bytes < LENGTH_BYTES)
        return dip_fail(why, DIP_CORRUPT, "%s: is %zu bytes, too short for a safetensors file",
                        name, bytes);
    uint64_t header_bytes = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        header_bytes = header_bytes << 8 | data[i];
    if (header_bytes > bytes - LENGTH_BYTES)
        return dip_fail(why, DIP_CORRUPT,
                        "%s: its header is said to be %" PRIu64
                        " bytes, but only %zu follow: the file is cut off or not safetensors",
                        name, header_bytes, bytes - LENGTH_BYTES);
    if (header_bytes > DIP_SAFETENSORS_HEADER_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: header is %" PRIu64 " bytes, expected at most %d",
                        name, header_bytes, DIP_SAFETENSORS_HEADER_BYTES_MAX);
    *ret_layout = (struct layout){.name = name,
                                  .header = (const char *)data + LENGTH_BYTES,
                                  .header_bytes = (size_t)header_bytes,
                                  .data = data + LENGTH_BYTES + header_bytes,
                                  .data_bytes = bytes - LENGTH_BYTES - (size_t)header_bytes};
    return DIP_OK;
}

enum dip_status dip_safetensors_parse(const void *data, size_t bytes, const char *name,
                                      struct dip_why *why, struct dip_safetensors **ret_file)
{
    struct layout layout = {0};
    struct dip_json header = {0};
    DIP_TRY(find_layout(data, bytes, name, why, &layout));
    struct dip_safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to open it", name);
    enum dip_status status = dip_json_parse(layout.header, layout.header_bytes, name, why, &header);
    if (status)
        goto out;
    status = read_entries(file, &header, &layout, why);
    if (status)
        goto out;
    status = check_cover(file, &layout, why);
    if (status)
        goto out;
    *ret_file = file;
    file = NULL; /* ownership has moved to the caller */
out:
    dip_json_close(&header);
    dip_safetensors_close(file);
    return status;
}

enum dip_status dip_safetensors_open(const char *path, struct dip_why *why,
                                     struct dip_safetensors **ret_file)
{
    struct dip_map map = {0};
    struct dip_safetensors *file = NULL;
    DIP_TRY(dip_map_open(path, why, &map));
    enum dip_status status = dip_safetensors_parse(map.data, map.bytes, path, why, &file);
    if (status) {
        dip_map_close(&map);
        return status;
    }
    dip_assert(file);
    file->map = map;
    *ret_file = file;
    return DIP_OK;
}

void dip_safetensors_rest(const struct dip_safetensors *file)
{
    dip_map_rest(&file->map);
}

void dip_safetensors_close(struct dip_safetensors *file)
{
    if (!file)
        return;
    free(file->tensors);
    free(file->names);
    dip_map_close(&file->map);
    free(file);
}

size_t dip_safetensors_count(const struct dip_safetensors *file)
{
    return file->count;
}

const struct dip_safetensors_tensor *dip_safetensors_at(const struct dip_safetensors *file,
                                                        size_t index)
{
    dip_assert(index < file->count);
    return &file->tensors[index];
}

const struct dip_safetensors_tensor *dip_safetensors_find(const struct dip_safetensors *file,
                                                          const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    return NULL;
}
