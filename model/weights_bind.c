/* model/weights_bind.c - giving a tensor to the layer that needs it, after checking that it is what
 * the layer needs; and afterwards, that nothing was left over.
 *
 * Values are looked at here, once: small tensors whole, large ones in pages spread over them, so
 * that opening a checkpoint of gigabytes does not read it. A large tensor with a few bad values
 * elsewhere is caught by the engine's check of its results. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/sha256.h"
#include "model/weights_private.h"

enum {
    SCAN_WHOLE_BYTES_MAX = 1 << 20,
    SCAN_SAMPLES = 16, /* pages, of larger tensors */
    SCAN_SAMPLE_BYTES = 4096,
    SHAPE_TEXT_BYTES = 96,
    NAME_BYTES_MAX = 256,
};

static const char *shape_text(char text[SHAPE_TEXT_BYTES], int rank, const int64_t *dims)
{
    size_t used = (size_t)snprintf(text, SHAPE_TEXT_BYTES, "[");
    for (int i = 0; i < rank; i++)
        used += (size_t)snprintf(text + used, SHAPE_TEXT_BYTES - used, "%s%" PRId64,
                                 i > 0 ? ", " : "", dims[i]);
    snprintf(text + used, SHAPE_TEXT_BYTES - used, "]");
    return text;
}

/* ---- values ---- */

static bool is_finite(enum dip_dtype dtype, const unsigned char *element)
{
    uint16_t half;
    uint32_t word;
    if (dtype == DIP_F32) {
        memcpy(&word, element, sizeof word);
        return (word & 0x7f800000) != 0x7f800000;
    }
    uint16_t exponent = dtype == DIP_BF16 ? 0x7f80 : 0x7c00;
    memcpy(&half, element, sizeof half);
    return (half & exponent) != exponent;
}

struct scan {
    size_t looked_count; /* elements */
    size_t bad_count;
    size_t first_index;
};

static void scan_range(const struct dip_weight *weight, enum dip_dtype dtype, size_t first,
                       size_t count, struct scan *scan)
{
    const unsigned char *data = weight->data;
    size_t element = dip_dtype_bytes(dtype);
    for (size_t i = first; i < first + count; i++) {
        if (is_finite(dtype, data + i * element))
            continue;
        if (scan->bad_count == 0)
            scan->first_index = i;
        scan->bad_count++;
    }
    scan->looked_count += count;
}

static struct scan scan_values(const struct dip_weight *weight, enum dip_dtype dtype)
{
    struct scan scan = {0};
    size_t element = dip_dtype_bytes(dtype);
    size_t count = weight->bytes / element;
    if (weight->bytes <= SCAN_WHOLE_BYTES_MAX) {
        scan_range(weight, dtype, 0, count, &scan);
        return scan;
    }
    size_t sample = SCAN_SAMPLE_BYTES / element;
    for (size_t i = 0; i < SCAN_SAMPLES; i++) {
        /* From the first element to the last. */
        size_t first = (count - sample) / (SCAN_SAMPLES - 1) * i;
        scan_range(weight, dtype, i + 1 == SCAN_SAMPLES ? count - sample : first, sample, &scan);
    }
    return scan;
}

static enum dip_status judge(const struct dip_weight *weight, struct scan scan, struct dip_why *why)
{
    if (scan.bad_count == 0)
        return DIP_OK;
    return dip_fail(why, DIP_CORRUPT,
                    "%s: tensor %s holds %zu NaN or infinite values among the %zu looked at, the "
                    "first at element %zu: the file is damaged or its training failed",
                    weight->file, weight->name, scan.bad_count, scan.looked_count,
                    scan.first_index);
}

static enum dip_status check_values(const struct dip_weight *weight, enum dip_dtype dtype,
                                    struct dip_why *why)
{
    return judge(weight, scan_values(weight, dtype), why);
}

enum dip_status dip_weights_check_values(const struct dip_weights *weights, struct dip_why *why)
{
    for (size_t i = 0; i < dip_weights_count(weights); i++) {
        const struct dip_weight *weight = dip_weights_at(weights, i);
        enum dip_dtype dtype = DIP_U8;
        struct scan scan = {0};
        if (!dip_safetensors_dtype(weight->dtype_name, &dtype) || dtype == DIP_I32 ||
            dtype == DIP_U8)
            continue; /* nothing that computes reads it */
        scan_range(weight, dtype, 0, weight->bytes / dip_dtype_bytes(dtype), &scan);
        DIP_TRY(judge(weight, scan, why));
    }
    return DIP_OK;
}

/* ---- binding ---- */

static bool has_shape(const struct dip_weight *weight, int rank, const int64_t *dims)
{
    return weight->rank == rank && memcmp(weight->dims, dims, (size_t)rank * sizeof dims[0]) == 0;
}

static enum dip_status check_kind(const struct dip_weight *weight, int rank, const int64_t *dims,
                                  struct dip_why *why, enum dip_dtype *ret_dtype)
{
    char expected[SHAPE_TEXT_BYTES];
    char found[SHAPE_TEXT_BYTES];
    if (!has_shape(weight, rank, dims))
        return dip_fail(why, DIP_CORRUPT,
                        "%s: tensor %s is %s, expected %s from config.json and its companions",
                        weight->file, weight->name, shape_text(found, weight->rank, weight->dims),
                        shape_text(expected, rank, dims));
    enum dip_dtype dtype = DIP_U8;
    if (!dip_safetensors_dtype(weight->dtype_name, &dtype) || dtype == DIP_I32 || dtype == DIP_U8)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: tensor %s is %s, expected BF16, F16 or F32",
                        weight->file, weight->name, weight->dtype_name);
    if ((uintptr_t)weight->data % dip_dtype_bytes(dtype) != 0)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: tensor %s does not begin at a multiple of its %zu-byte elements: save "
                        "the file again with the safetensors library, which aligns its data",
                        weight->file, weight->name, dip_dtype_bytes(dtype));
    *ret_dtype = dtype;
    return DIP_OK;
}

static struct dip_tensor view_of(const struct dip_weight *weight, enum dip_dtype dtype)
{
    /* Views are not const because activations share their type; the mapping itself is read-only. */
    struct dip_tensor t = {.data = (void *)(uintptr_t)weight->data,
                           .dtype = dtype,
                           .rank = weight->rank,
                           .row_stride = weight->dims[weight->rank - 1]};
    memcpy(t.dims, weight->dims, sizeof t.dims);
    return t;
}

enum dip_status dip_weights_bind(struct dip_weights *weights, const char *name, int rank,
                                 const int64_t *dims, struct dip_why *why,
                                 struct dip_tensor *ret_tensor)
{
    dip_assert(rank >= 1 && rank <= DIP_TENSOR_RANK_MAX);
    if (weights->is_random && !dip__weights_lookup(weights, name))
        DIP_TRY(dip__weights_random_make(weights, name, rank, dims, why));
    const struct dip_weight *weight = dip__weights_lookup(weights, name);
    char expected[SHAPE_TEXT_BYTES];
    if (!weight)
        return dip_fail(why, DIP_NOT_FOUND, "%s: tensor %s %s is missing from the checkpoint",
                        weights->label, name, shape_text(expected, rank, dims));
    enum dip_dtype dtype = DIP_F32;
    DIP_TRY(check_kind(weight, rank, dims, why, &dtype));
    if (!weights->is_random)
        DIP_TRY(check_values(weight, dtype, why));
    weights->is_used[weight - weights->table] = true;
    *ret_tensor = view_of(weight, dtype);
    return DIP_OK;
}

/* Names are composed by our own code from layer numbers: they fit. */
static void compose(char name[NAME_BYTES_MAX], const char *format, va_list arguments)
{
    int length = vsnprintf(name, NAME_BYTES_MAX, format, arguments);
    dip_assert(length > 0 && length < NAME_BYTES_MAX);
}

enum dip_status dip_weights_bind_1d(struct dip_weights *weights, struct dip_why *why,
                                    struct dip_tensor *ret_tensor, int64_t d0, const char *format,
                                    ...)
{
    char name[NAME_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    compose(name, format, arguments);
    va_end(arguments);
    return dip_weights_bind(weights, name, 1, (int64_t[]){d0}, why, ret_tensor);
}

enum dip_status dip_weights_bind_2d(struct dip_weights *weights, struct dip_why *why,
                                    struct dip_tensor *ret_tensor, int64_t d0, int64_t d1,
                                    const char *format, ...)
{
    char name[NAME_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    compose(name, format, arguments);
    va_end(arguments);
    return dip_weights_bind(weights, name, 2, (int64_t[]){d0, d1}, why, ret_tensor);
}

enum dip_status dip_weights_bind_4d(struct dip_weights *weights, struct dip_why *why,
                                    struct dip_tensor *ret_tensor, int64_t d0, int64_t d1,
                                    int64_t d2, int64_t d3, const char *format, ...)
{
    char name[NAME_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    compose(name, format, arguments);
    va_end(arguments);
    return dip_weights_bind(weights, name, 4, (int64_t[]){d0, d1, d2, d3}, why, ret_tensor);
}

/* ---- what is left over ---- */

/* Parts of published checkpoints that generation from text does not read (docs/models). */
static bool is_optional(const char *name)
{
    static const char *const prefixes[] = {
        "model.vision_tower.",
        "model.und_image_vae_connector.",
        "model.und_image_vae_as_noise_connector.",
        "model.tar_siglip_features_connector.",
        "model.sana_vae.encoder.",
    };
    static const char buffer[] = "rotary_emb.inv_freq";
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    size_t length = strlen(name);
    if (length >= sizeof buffer - 1 && strcmp(name + length - (sizeof buffer - 1), buffer) == 0)
        return true;
    /* Unused only when the head is tied to the embedding: then it is a duplicate. */
    return strcmp(name, "lm_head.weight") == 0;
}

enum dip_status dip_weights_check_unused(const struct dip_weights *weights, struct dip_why *why)
{
    const struct dip_weight *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < weights->count; i++) {
        if (weights->is_used[i] || is_optional(weights->table[i].name))
            continue;
        if (!first)
            first = &weights->table[i];
        count++;
    }
    char found[SHAPE_TEXT_BYTES];
    if (first && !weights->is_random)
        return dip_fail(why, DIP_CORRUPT,
                        "%s: tensor %s %s has no place in the model that config.json describes "
                        "(%zu such tensors): the files do not belong together",
                        first->file, first->name, shape_text(found, first->rank, first->dims),
                        count);
    return DIP_OK;
}

/* ---- identity ---- */

enum { DIGEST_SAMPLES = 16, DIGEST_SAMPLE_BYTES = 256, DIGEST_RECORD_BYTES = 8192 };

/* Name, dtype, shape and either all bytes of a small tensor or samples of a large one. */
static size_t compose_record(const struct dip_weight *weight, char record[DIGEST_RECORD_BYTES])
{
    char shape[SHAPE_TEXT_BYTES];
    int text = snprintf(record, DIGEST_RECORD_BYTES / 2, "%s %s %s", weight->name,
                        weight->dtype_name, shape_text(shape, weight->rank, weight->dims));
    size_t used = (size_t)text < DIGEST_RECORD_BYTES / 2 ? (size_t)text : DIGEST_RECORD_BYTES / 2;
    const unsigned char *data = weight->data;
    if (weight->bytes <= DIGEST_SAMPLES * DIGEST_SAMPLE_BYTES) {
        if (weight->bytes > 0)
            memcpy(record + used, data, weight->bytes);
        return used + weight->bytes;
    }
    size_t step = (weight->bytes - DIGEST_SAMPLE_BYTES) / (DIGEST_SAMPLES - 1);
    for (size_t i = 0; i < DIGEST_SAMPLES; i++, used += DIGEST_SAMPLE_BYTES)
        memcpy(record + used, data + i * step, DIGEST_SAMPLE_BYTES);
    return used;
}

/* The digest of the digests of the tensors: memory stays small whatever the tensors are. */
enum dip_status dip_weights_digest(const struct dip_weights *weights, char ret_hex[65])
{
    enum { HEX_BYTES = DIP_SHA256_HEX_BYTES - 1 };
    char record[DIGEST_RECORD_BYTES];
    char *all = malloc(weights->count * HEX_BYTES + 1);
    enum dip_status status = all ? DIP_OK : DIP_NO_MEMORY;
    for (size_t i = 0; i < weights->count && !status; i++) {
        char hex[DIP_SHA256_HEX_BYTES];
        size_t bytes = compose_record(weights->by_name[i], record);
        status = dip_sha256_hex(record, bytes, hex);
        if (!status)
            memcpy(all + i * HEX_BYTES, hex, HEX_BYTES);
    }
    if (!status)
        status = dip_sha256_hex(all, weights->count * HEX_BYTES, ret_hex);
    free(all);
    return status;
}
