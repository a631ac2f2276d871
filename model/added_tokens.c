/* model/added_tokens.c - added tokens as a sorted table, walked byte by byte like a trie.
 *
 * The strings with a common prefix are neighbours in a sorted table, so following one more byte of
 * the text is a binary search for a narrower range of it. The published vocabulary has 65,563 added
 * tokens, nearly all of which begin with '<': a text without '<' costs one look-up per byte, and a
 * '<' that begins no token about four narrowings. */
#include "model/added_tokens.h"

#include <stdlib.h>
#include <string.h>

static int compare_tokens(const void *left, const void *right)
{
    const struct dip__added_token *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    return order != 0 ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

size_t dip__added_tokens_init(struct dip__added_tokens *added, struct dip__added_token *tokens,
                              size_t count)
{
    *added = (struct dip__added_tokens){.tokens = tokens, .count = count};
    if (count > 0)
        qsort(tokens, count, sizeof *tokens, compare_tokens);
    for (size_t i = 0; i < count; i++)
        added->begin[(unsigned char)tokens[i].text[0] + 1]++;
    for (int c = 0; c < 256; c++)
        added->begin[c + 1] += added->begin[c];
    for (size_t i = 1; i < count; i++)
        if (compare_tokens(&tokens[i - 1], &tokens[i]) == 0)
            return i;
    return count;
}

/* Tokens [begin, end) share their first `depth` bytes and are longer than that: the first of them
 * whose next byte is at least `byte`. */
static size_t lower_bound(const struct dip__added_token *tokens, size_t begin, size_t end,
                          size_t depth, int byte)
{
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if ((unsigned char)tokens[middle].text[depth] < byte)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

/* The longest token that text[bytes] begins with, bytes > 0. */
static const struct dip__added_token *longest(const struct dip__added_tokens *added,
                                              const char *text, size_t bytes)
{
    const struct dip__added_token *found = NULL;
    size_t begin = added->begin[(unsigned char)text[0]];
    size_t end = added->begin[(unsigned char)text[0] + 1];
    for (size_t depth = 1; begin < end; depth++) {
        if (added->tokens[begin].bytes == depth) /* a prefix of the others sorts before them */
            found = &added->tokens[begin++];
        if (depth == bytes)
            break;
        int byte = (unsigned char)text[depth];
        begin = lower_bound(added->tokens, begin, end, depth, byte);
        end = lower_bound(added->tokens, begin, end, depth, byte + 1);
    }
    return found;
}

const struct dip__added_token *dip__added_tokens_next(const struct dip__added_tokens *added,
                                                      const char *text, size_t bytes, size_t from,
                                                      size_t *ret_at)
{
    for (size_t at = from; at < bytes; at++) {
        const struct dip__added_token *found = longest(added, text + at, bytes - at);
        if (!found)
            continue;
        *ret_at = at;
        return found;
    }
    return NULL;
}

const struct dip__added_token *dip__added_tokens_find(const struct dip__added_tokens *added,
                                                      const char *text, size_t bytes)
{
    struct dip__added_token key = {.text = text, .bytes = bytes};
    if (added->count == 0)
        return NULL;
    return bsearch(&key, added->tokens, added->count, sizeof key, compare_tokens);
}
