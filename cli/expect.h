/* cli/expect.h - what a picture must be: a SHA-256, or that of another file. For checks of a whole
 * cluster from an image that holds this program and nothing else, no shell and no sha256sum. */
#pragma once

#include "base/sha256.h"
#include "base/status.h"

/* `text` is 64 hex digits, or the name of a file, which is read now. Errors: those of reading it.
 */
DIP_MUST_USE enum dip_status dip__expect_read(const char *text, struct dip_why *why,
                                              char ret_sha256[DIP_SHA256_HEX_BYTES]);

/* Errors: CORRUPT when they differ, saying both. */
DIP_MUST_USE enum dip_status dip__expect_meet(const char *expected, const char *sha256,
                                              struct dip_why *why);
