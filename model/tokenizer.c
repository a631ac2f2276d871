/* model/tokenizer.c - the pipeline from text to ids and its inverse.
 *
 *   text --raw added tokens--> stretches --form C--> --normalized added tokens--> stretches
 *        --split pattern--> pieces --bytes, merges--> ids
 *
 * Added tokens cut the text, so neither normalization nor the split pattern sees across one. Plain
 * mode skips both searches and nothing else. */
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/nfc.h"
#include "model/tokenizer_tables.h"

void dip_tokenizer_close(struct dip_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    free(tokenizer->blob);
    free(tokenizer->tokens);
    free(tokenizer->added);
    dip__bpe_deinit(&tokenizer->bpe);
    dip__split_free(tokenizer->split);
    free(tokenizer);
}

/* ---- encoding ---- */

struct encoder {
    const struct dip_tokenizer *tokenizer;
    struct dip__split_walk walk;
    struct dip__bpe_scratch scratch;
    int32_t *ids;
    size_t ids_max;
    size_t count;
    struct dip_why *why;
};

static enum dip_status fail_count(const struct encoder *e)
{
    return dip_fail(e->why, DIP_LIMIT, "the text is more than %zu tokens", e->ids_max);
}

/* Text in form C without added tokens. */
static enum dip_status encode_pieces(struct encoder *e, const char *text, size_t bytes)
{
    DIP_TRY(dip__split_begin(&e->walk, text, bytes));
    for (;;) {
        const char *piece = NULL;
        size_t piece_bytes = 0, count = 0;
        enum dip_status status =
            dip__split_next(e->tokenizer->split, &e->walk, &piece, &piece_bytes);
        if (status)
            return dip_fail(e->why, status, "the tokenizer's split pattern fails on this text: %s",
                            dip_status_text(status));
        if (piece_bytes == 0)
            return DIP_OK;
        status = dip__bpe_encode(&e->tokenizer->bpe, &e->scratch, piece, piece_bytes,
                                 e->ids + e->count, e->ids_max - e->count, &count);
        if (status == DIP_LIMIT)
            return fail_count(e);
        DIP_TRY(status);
        e->count += count;
    }
}

/* Replaces each of `added` by its id and leaves the stretches between to the next stage. */
static enum dip_status
encode_around(struct encoder *e, const struct dip__added_tokens *added, const char *text,
              size_t bytes, enum dip_status (*next)(struct encoder *, const char *, size_t))
{
    size_t done = 0, at = 0;
    const struct dip__added_token *token;
    while ((token = dip__added_tokens_next(added, text, bytes, done, &at))) {
        if (at > done)
            DIP_TRY(next(e, text + done, at - done));
        if (e->count == e->ids_max)
            return fail_count(e);
        e->ids[e->count++] = token->id;
        done = at + token->bytes;
    }
    return done < bytes ? next(e, text + done, bytes - done) : DIP_OK;
}

static enum dip_status encode_normalized(struct encoder *e, const char *text, size_t bytes)
{
    return encode_around(e, &e->tokenizer->normalized, text, bytes, encode_pieces);
}

static enum dip_status normalize(struct encoder *e, const char *text, size_t bytes,
                                 enum dip_status (*next)(struct encoder *, const char *, size_t))
{
    struct dip__text normal = {0};
    DIP_TRY(dip__nfc(text, bytes, &normal));
    enum dip_status status = next(e, normal.data, normal.bytes);
    dip__text_deinit(&normal);
    return status;
}

static enum dip_status encode_raw(struct encoder *e, const char *text, size_t bytes)
{
    return normalize(e, text, bytes, encode_normalized);
}

static enum dip_status check_text(const char *text, size_t bytes, struct dip_why *why)
{
    if (bytes > DIP_TEXT_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "the text is %zu bytes, expected at most %d", bytes,
                        DIP_TEXT_BYTES_MAX);
    size_t valid_bytes = dip__utf8_check(text, bytes);
    if (valid_bytes < bytes)
        return dip_fail(why, DIP_INVALID,
                        "the text is not UTF-8: byte 0x%02x at offset %zu begins no character",
                        (unsigned char)text[valid_bytes], valid_bytes);
    return DIP_OK;
}

enum dip_status dip_tokenizer_encode(const struct dip_tokenizer *tokenizer, const char *text,
                                     size_t bytes, enum dip_text_mode mode, int32_t *ids,
                                     int ids_max, struct dip_why *why, int *ret_count)
{
    dip_assert(ids_max >= 0);
    DIP_TRY(check_text(text, bytes, why));
    struct encoder e = {.tokenizer = tokenizer, .ids = ids, .ids_max = (size_t)ids_max, .why = why};
    enum dip_status status = mode == DIP_TEXT_PUBLISHED
                                 ? encode_around(&e, &tokenizer->raw, text, bytes, encode_raw)
                                 : normalize(&e, text, bytes, encode_pieces);
    dip__split_walk_deinit(&e.walk);
    dip__bpe_scratch_deinit(&e.scratch);
    if (status)
        return dip_fail(why, status, "cannot tokenize the text: %s", dip_status_text(status));
    *ret_count = (int)e.count;
    return DIP_OK;
}

/* ---- decoding ---- */

static enum dip_status measure_ids(const struct dip_tokenizer *tokenizer, const int32_t *ids,
                                   int count, struct dip_why *why, size_t *ret_bytes)
{
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->id_count || tokenizer->tokens[ids[i]].bytes == 0)
            return dip_fail(why, DIP_INVALID, "no token has the id %d", (int)ids[i]);
        bytes += tokenizer->tokens[ids[i]].bytes;
    }
    *ret_bytes = bytes;
    return DIP_OK;
}

/* Copies raw[bytes] with what is not UTF-8 replaced; false when it does not fit. */
static bool copy_replaced(const char *raw, size_t bytes, char *text, size_t text_bytes_max,
                          size_t *ret_bytes)
{
    static const char replacement[] = "\xef\xbf\xbd";
    size_t used = 0;
    for (size_t at = 0; at < bytes;) {
        bool is_valid = false;
        size_t length = dip__utf8_span(raw + at, bytes - at, &is_valid);
        size_t out_bytes = is_valid ? length : sizeof replacement - 1;
        if (out_bytes >= text_bytes_max - used) /* one byte stays for the terminator */
            return false;
        memcpy(text + used, is_valid ? raw + at : replacement, out_bytes);
        used += out_bytes;
        at += length;
    }
    text[used] = '\0';
    *ret_bytes = used;
    return true;
}

enum dip_status dip_tokenizer_decode(const struct dip_tokenizer *tokenizer, const int32_t *ids,
                                     int count, char *text, size_t text_bytes_max,
                                     struct dip_why *why, size_t *ret_bytes)
{
    dip_assert(text_bytes_max > 0);
    size_t raw_bytes = 0;
    DIP_TRY(measure_ids(tokenizer, ids, count, why, &raw_bytes));
    char *raw = malloc(raw_bytes + 1); /* of nothing, too */
    if (!raw)
        return dip_fail(why, DIP_NO_MEMORY, "no memory to decode %d tokens", count);
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        const struct dip__token *token = &tokenizer->tokens[ids[i]];
        memcpy(raw + used, tokenizer->blob + token->at, token->bytes);
        used += token->bytes;
    }
    bool is_fitting = copy_replaced(raw, used, text, text_bytes_max, ret_bytes);
    free(raw);
    if (!is_fitting)
        return dip_fail(why, DIP_LIMIT, "the text of %d tokens is more than %zu bytes", count,
                        text_bytes_max - 1);
    return DIP_OK;
}

enum dip_status dip_tokenizer_bytes(const struct dip_tokenizer *tokenizer, int32_t id,
                                    const char **ret_at, size_t *ret_bytes)
{
    DIP_TRY(measure_ids(tokenizer, &id, 1, NULL, ret_bytes));
    *ret_at = tokenizer->blob + tokenizer->tokens[id].at;
    return DIP_OK;
}

enum dip_status dip_tokenizer_find(const struct dip_tokenizer *tokenizer, const char *token,
                                   int32_t *ret_id)
{
    size_t bytes = strlen(token);
    const struct dip__added_token *found = dip__added_tokens_find(&tokenizer->raw, token, bytes);
    if (!found)
        found = dip__added_tokens_find(&tokenizer->normalized, token, bytes);
    if (!found)
        return DIP_NOT_FOUND;
    *ret_id = found->id;
    return DIP_OK;
}
