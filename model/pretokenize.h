/* model/pretokenize.h - cutting text into the pieces that BPE may not merge across. Of model/ only.
 */
#pragma once

#include <stddef.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/status.h"

struct dip__split;

/* Compiles the pattern of tokenizer.json. `name` is the file, for sentences. Errors: UNSUPPORTED (a
 * pattern that PCRE2 or the translation does not take), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__split_new(const char *pattern, const char *name,
                                            struct dip_why *why, struct dip__split **ret_split);
void dip__split_free(struct dip__split *split);

/* A walk over one text. Zero-initialise, begin for each text, deinit once. */
struct dip__split_walk {
    pcre2_match_data *match; /* kept from text to text, as are the limits */
    pcre2_match_context *limits;
    const char *text;
    size_t bytes;
    size_t done;    /* pieces before this offset have been given out */
    size_t matched; /* end of the latest match; when beyond `done`, that match is the next piece */
};
/* `text` (well-formed UTF-8) is borrowed until the walk is over. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__split_begin(struct dip__split_walk *walk, const char *text,
                                              size_t bytes);
void dip__split_walk_deinit(struct dip__split_walk *walk);

/* The next piece, never empty: a match of the pattern, or the stretch between two matches. Pieces
 * follow each other without gaps; *ret_bytes is 0 at the end of the text. Errors:
 * UNSUPPORTED (the pattern backtracks too much on this text, or matches nothing), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__split_next(const struct dip__split *split,
                                             struct dip__split_walk *walk, const char **ret_piece,
                                             size_t *ret_bytes);
