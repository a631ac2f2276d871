/* model/added_tokens.h - finding the leftmost, longest of many fixed strings in a text. Of model/
 * only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dip__added_token {
    const char *text; /* belongs to the caller */
    size_t bytes;     /* at least 1 */
    int32_t id;
};

struct dip__added_tokens {
    struct dip__added_token *tokens; /* belongs to the caller, sorted by init */
    size_t count;
    size_t begin[257]; /* tokens whose first byte is c: [begin[c], begin[c + 1]) */
};

/* Sorts tokens[count] and indexes them. Returns the index of a token that equals its predecessor,
 * or count when all differ. */
size_t dip__added_tokens_init(struct dip__added_tokens *added, struct dip__added_token *tokens,
                              size_t count);

/* The token that begins first at or after `from` in text[bytes], the longest one there; NULL when
 * there is none. */
const struct dip__added_token *dip__added_tokens_next(const struct dip__added_tokens *added,
                                                      const char *text, size_t bytes, size_t from,
                                                      size_t *ret_at);

/* The token that is exactly text[bytes], or NULL. */
const struct dip__added_token *dip__added_tokens_find(const struct dip__added_tokens *added,
                                                      const char *text, size_t bytes);
