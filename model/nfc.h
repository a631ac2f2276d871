/* model/nfc.h - UTF-8 checked, and brought into normalization form C as the published tokenizer
 * does it. Of model/ only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* Length of the well-formed UTF-8 sequence at the beginning of text[bytes], bytes > 0. When there
 * is none: *ret_is_valid is false and the length is that of the longest ill-formed piece that a
 * decoder replaces by one U+FFFD (Unicode 15, section 3.9). */
size_t dip__utf8_span(const char *text, size_t bytes, bool *ret_is_valid);

/* Offset of the first byte that is not UTF-8; `bytes` when all of it is. */
size_t dip__utf8_check(const char *text, size_t bytes);

/* A string that may or may not own its memory; deinit frees `owned`. */
struct dip__text {
    const char *data;
    size_t bytes;
    char *owned; /* NULL when data belongs to somebody else */
};

/* text[bytes] (well-formed UTF-8) in form C; aliases the input when that is in form C already.
 * Linear in the length whatever the order of its combining marks. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__nfc(const char *text, size_t bytes, struct dip__text *ret_text);
void dip__text_deinit(struct dip__text *text);
