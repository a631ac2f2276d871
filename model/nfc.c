/* model/nfc.c - normalization form C over utf8proc's tables, bounded in time and with the published
 * tokenizer's idea of Unicode.
 *
 * utf8proc knows decompositions, combining classes and compositions; two things are done here.
 * Marks are put in canonical order by a counting sort, because utf8proc exchanges neighbours and
 * needs quadratic time for a long run of marks. And code points younger than the published
 * tokenizer's tables (Unicode 9) take no part in normalization: it leaves them where they are, and
 * the ids of a text must not depend on who knows a newer Unicode. Reference: Unicode Standard Annex
 * 15. */
#include "model/nfc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/assert.h"

/* ---- UTF-8 ---- */

/* Bounds of the second byte after each kind of first byte (Unicode 15, table 3-7). */
static void second_byte_bounds(unsigned char first, unsigned char *min, unsigned char *max)
{
    *min = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *max = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
}

size_t dip__utf8_span(const char *text, size_t bytes, bool *ret_is_valid)
{
    const unsigned char *at = (const unsigned char *)text;
    unsigned char min, max;
    *ret_is_valid = at[0] < 0x80;
    if (at[0] < 0xc2 || at[0] > 0xf4)
        return 1;
    size_t length = at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    second_byte_bounds(at[0], &min, &max);
    for (size_t i = 1; i < length; i++) {
        if (i >= bytes || at[i] < min || at[i] > max)
            return i;
        min = 0x80;
        max = 0xbf;
    }
    *ret_is_valid = true;
    return length;
}

size_t dip__utf8_check(const char *text, size_t bytes)
{
    size_t at = 0;
    bool is_valid = true;
    while (at < bytes) {
        size_t length = dip__utf8_span(text + at, bytes - at, &is_valid);
        if (!is_valid)
            return at;
        at += length;
    }
    return bytes;
}

/* ---- form C ---- */

/* Code points with a combining class or a composition that came after Unicode 9. Measured, not
 * derived: every code point was put before and after known marks, and the results of Hugging Face
 * tokenizers 0.21.4 and utf8proc 2.8 (Unicode 15) were compared. */
static const struct range {
    int32_t first, last;
} newer[] = {
    {0x07fd, 0x07fd},   {0x0898, 0x089f},   {0x08ca, 0x08d3},   {0x09fe, 0x09fe},
    {0x0c3c, 0x0c3c},   {0x0d3b, 0x0d3c},   {0x0eba, 0x0eba},   {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

static int compare_range(const void *key, const void *entry)
{
    int32_t point = *(const int32_t *)key;
    const struct range *range = entry;
    return point < range->first ? -1 : point > range->last;
}

static bool is_newer(int32_t point)
{
    if (point < newer[0].first)
        return false;
    return bsearch(&point, newer, sizeof newer / sizeof newer[0], sizeof newer[0], compare_range);
}

/* Nothing below U+0300 changes in form C or combines with a predecessor. */
static bool is_plain(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= 0xcc)
            return false;
    return true;
}

enum { CLASSES = 256, DECOMPOSED_MAX = 4 }; /* no code point has a longer canonical decomposition */

/* Code points under way: points[0 .. count) is done but for the run that begins at run_begin. */
struct buffer {
    int32_t *points;
    int32_t *sorted; /* scratch of the same size */
    size_t count, count_max;
    size_t run_begin;
};

static int combining_class(int32_t point)
{
    return utf8proc_get_property(point)->combining_class;
}

/* A stretch of marks, stably by class. */
static void order_marks(struct buffer *b, size_t begin, size_t end)
{
    size_t starts[CLASSES + 1] = {0};
    for (size_t i = begin; i < end; i++)
        starts[combining_class(b->points[i]) + 1]++;
    for (int k = 0; k < CLASSES; k++)
        starts[k + 1] += starts[k];
    for (size_t i = begin; i < end; i++)
        b->sorted[starts[combining_class(b->points[i])]++] = b->points[i];
    memcpy(b->points + begin, b->sorted, (end - begin) * sizeof *b->points);
}

/* Orders and composes the run. */
static void finish_run(struct buffer *b)
{
    size_t begin = b->run_begin;
    for (size_t i = begin; i < b->count; i++) {
        if (combining_class(b->points[i]) != 0)
            continue;
        if (i - begin > 1)
            order_marks(b, begin, i);
        begin = i + 1;
    }
    if (b->count - begin > 1)
        order_marks(b, begin, b->count);
    utf8proc_ssize_t length = utf8proc_normalize_utf32(b->points + b->run_begin,
                                                       (utf8proc_ssize_t)(b->count - b->run_begin),
                                                       UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    dip_assert(length >= 0);
    b->count = b->run_begin + (size_t)length;
    b->run_begin = b->count;
}

static void push_point(struct buffer *b, int32_t point)
{
    if (is_newer(point)) {
        finish_run(b);
        b->points[b->count++] = point;
        b->run_begin = b->count;
        return;
    }
    int boundary = 0;
    utf8proc_ssize_t length = utf8proc_decompose_char(
        point, b->points + b->count, (utf8proc_ssize_t)(b->count_max - b->count),
        UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
    dip_assert(length > 0 && length <= DECOMPOSED_MAX);
    b->count += (size_t)length;
}

static void normalize(const char *text, size_t bytes, struct buffer *b)
{
    for (size_t at = 0; at < bytes;) {
        int32_t point = 0;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                   (utf8proc_ssize_t)(bytes - at), &point);
        dip_assert(length > 0); /* the caller has checked the text */
        push_point(b, point);
        at += (size_t)length;
    }
    finish_run(b);
}

static size_t encode_points(const struct buffer *b, char *out)
{
    size_t bytes = 0;
    for (size_t i = 0; i < b->count; i++)
        bytes += (size_t)utf8proc_encode_char(b->points[i], (utf8proc_uint8_t *)out + bytes);
    return bytes;
}

static size_t count_points(const char *text, size_t bytes)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

enum dip_status dip__nfc(const char *text, size_t bytes, struct dip__text *ret_text)
{
    if (is_plain(text, bytes)) {
        *ret_text = (struct dip__text){.data = text, .bytes = bytes};
        return DIP_OK;
    }
    enum dip_status status = DIP_NO_MEMORY;
    struct buffer b = {.count_max = DECOMPOSED_MAX * count_points(text, bytes) + 1};
    char *out = NULL;
    b.points = malloc(2 * b.count_max * sizeof *b.points);
    if (!b.points)
        goto out;
    b.sorted = b.points + b.count_max;
    normalize(text, bytes, &b);
    out = malloc(4 * b.count); /* no code point takes more bytes */
    if (!out)
        goto out;
    *ret_text = (struct dip__text){.data = out, .bytes = encode_points(&b, out), .owned = out};
    status = DIP_OK;
out:
    free(b.points);
    return status;
}

void dip__text_deinit(struct dip__text *text)
{
    free(text->owned);
    *text = (struct dip__text){0};
}
