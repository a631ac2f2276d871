/* cli/manifest.h - the files of a model directory and the SHA-256 of each; private to cli/.
 *
 * The files that could be read from a model: *.json and *.safetensors of the directory and of the
 * folders in it, hidden ones aside, links followed. As text it is what sha256sum writes and
 * checks. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/sha256.h"
#include "base/status.h"

enum { MANIFEST_NAME_BYTES = 256, MANIFEST_FILES_MAX = 4096 };

struct manifest_entry {
    char name[MANIFEST_NAME_BYTES]; /* relative to the directory */
    char sha256[DIP_SHA256_HEX_BYTES];
    uint64_t bytes; /* 0 in one that was read from a file */
};

/* Zero-initialise. */
struct manifest {
    struct manifest_entry *entries; /* [count], in the order of their names */
    int count;
};

/* Finds and hashes the files: reads every byte. Errors: NOT_FOUND (no such directory, nothing in
 * it), LIMIT, IO, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__manifest_make(const char *directory, struct dip_why *why,
                                                struct manifest *ret_manifest);

/* Reads one from a file. Errors: those of reading, CORRUPT (a line, by its number), LIMIT. */
DIP_MUST_USE enum dip_status dip__manifest_read(const char *path, struct dip_why *why,
                                                struct manifest *ret_manifest);

/* Errors: NOT_FOUND (a file is missing), CORRUPT (another content, or a file that is not listed).
 */
DIP_MUST_USE enum dip_status dip__manifest_compare(const struct manifest *expected,
                                                   const struct manifest *found,
                                                   struct dip_why *why);
void dip__manifest_print(const struct manifest *manifest, FILE *out);
void dip__manifest_free(struct manifest *manifest);
