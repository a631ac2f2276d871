/* model/tokenizer_load.c - the vocabulary, the merges and the added tokens of tokenizer.json,
 * turned into tables.
 *
 * Lengths and ids are measured and compared with their ceilings first, then memory is reserved
 * once. Every id, part and result of a merge is checked before it is stored, so encoding never
 * checks again. Format: Hugging Face tokenizers 0.21; its settings are tokenizer_check.c's. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/json.h"
#include "model/nfc.h"
#include "model/tokenizer_check.h"
#include "model/tokenizer_tables.h"

struct loader {
    struct dip_json json;  /* the whole file */
    struct dip_json model; /* borrowed from it */
    struct dip_why *why;
    struct dip_tokenizer *tokenizer;
    size_t blob_used, blob_max;
    int32_t *index; /* hash table of ids by the token's bytes, -1 = free; a power of two places */
    size_t place_count;
    int16_t byte_of[0x144]; /* the byte a symbol stands for, by code point; -1 = none */
};

/* ---- byte symbols ---- */

/* Printable bytes of Latin-1 stand for themselves, the other 68 for U+0100 and up, in order. */
static void fill_byte_symbols(int16_t byte_of[0x144])
{
    int next = 0x100;
    for (int i = 0; i < 0x144; i++)
        byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool is_printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        byte_of[is_printable ? b : next++] = (int16_t)b;
    }
    dip_assert(next == 0x144);
}

/* The bytes that symbols[bytes] (UTF-8, code points below U+0800) stand for, at most as many.
 * Returns their count, 0 when one is no symbol or the text is empty. */
static size_t map_symbols(const struct loader *l, const char *symbols, size_t bytes, char *out)
{
    size_t count = 0;
    for (size_t at = 0; at < bytes; count++) {
        unsigned point = (unsigned char)symbols[at++];
        if (point >= 0xc2 && point < 0xe0 && at < bytes)
            point = (point & 0x1f) << 6 | ((unsigned char)symbols[at++] & 0x3f);
        else if (point >= 0x80)
            return 0;
        if (point >= 0x144 || l->byte_of[point] < 0)
            return 0;
        out[count] = (char)l->byte_of[point];
    }
    return count;
}

/* ---- vocabulary ---- */

enum { PROBES_MAX = 1000 }; /* a table at most half full has runs of dozens; a forged one may not */

static uint64_t hash_bytes(const char *text, size_t bytes)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 29;
}

/* The place of the token text[bytes], or the free place where it belongs; NULL when neither is
 * near. */
static int32_t *find_place(const struct loader *l, const char *text, size_t bytes)
{
    const struct dip_tokenizer *t = l->tokenizer;
    size_t mask = l->place_count - 1;
    size_t place = (size_t)hash_bytes(text, bytes) & mask;
    for (int i = 0; i < PROBES_MAX; i++, place = (place + 1) & mask) {
        int32_t id = l->index[place];
        if (id < 0 ||
            (t->tokens[id].bytes == bytes && memcmp(t->blob + t->tokens[id].at, text, bytes) == 0))
            return &l->index[place];
    }
    return NULL;
}

/* -1 when there is none. */
static int32_t find_id(const struct loader *l, const char *text, size_t bytes)
{
    const int32_t *place = find_place(l, text, bytes);
    return place ? *place : -1;
}

/* Bytes and highest id of both lists, checked, so that memory can be reserved once. */
static enum dip_status measure(struct loader *l, const char *what, const char *text, size_t bytes,
                               const json_t *id)
{
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    if (value < 0 || value >= DIP_VOCAB_MAX)
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: %s: the id of \"%.60s\" is not an integer from 0 to %d", l->json.path,
                        what, text, DIP_VOCAB_MAX - 1);
    if (bytes == 0 || bytes > DIP_TOKEN_BYTES_MAX)
        return dip_fail(l->why, DIP_CORRUPT, "%s: %s: token %lld is %zu bytes, expected 1 to %d",
                        l->json.path, what, (long long)value, bytes, DIP_TOKEN_BYTES_MAX);
    l->blob_max += bytes;
    if (l->tokenizer->id_count <= value)
        l->tokenizer->id_count = (int32_t)value + 1;
    return DIP_OK;
}

static enum dip_status measure_vocab(struct loader *l, json_t *vocab)
{
    const char *key;
    json_t *id;
    if (!json_is_object(vocab))
        return dip_fail(l->why, DIP_CORRUPT, "%s: vocab is missing or not an object",
                        l->model.path);
    json_object_foreach(vocab, key, id) DIP_TRY(measure(l, "model: vocab", key, strlen(key), id));
    return DIP_OK;
}

static enum dip_status measure_added(struct loader *l, json_t *added)
{
    size_t i;
    json_t *token;
    if (!json_is_array(added))
        return dip_fail(l->why, DIP_CORRUPT, "%s: added_tokens is missing or not an array",
                        l->json.path);
    json_array_foreach(added, i, token)
    {
        const json_t *content = json_object_get(token, "content");
        if (!json_is_string(content))
            return dip_fail(l->why, DIP_CORRUPT,
                            "%s: added_tokens[%zu]: content is missing or not a string",
                            l->json.path, i);
        DIP_TRY(measure(l, "added_tokens", json_string_value(content), json_string_length(content),
                        json_object_get(token, "id")));
    }
    return DIP_OK;
}

static enum dip_status reserve(struct loader *l, size_t vocab_count, size_t added_count)
{
    struct dip_tokenizer *t = l->tokenizer;
    l->place_count = 2;
    while (l->place_count < 2 * vocab_count)
        l->place_count *= 2;
    t->blob = malloc(l->blob_max + 1); /* of nothing, too */
    t->tokens = calloc((size_t)t->id_count + 1, sizeof *t->tokens);
    t->added = calloc(added_count + 1, sizeof *t->added);
    l->index = malloc(l->place_count * sizeof *l->index);
    if (!t->blob || !t->tokens || !t->added || !l->index)
        return DIP_NO_MEMORY;
    memset(l->index, 0xff, l->place_count * sizeof *l->index);
    return DIP_OK;
}

static enum dip_status add_word(struct loader *l, const char *symbols, int32_t id)
{
    struct dip_tokenizer *t = l->tokenizer;
    char *text = t->blob + l->blob_used;
    size_t bytes = map_symbols(l, symbols, strlen(symbols), text);
    if (bytes == 0)
        return dip_fail(l->why, DIP_CORRUPT, "%s: vocab: \"%.60s\" is not made of byte symbols",
                        l->model.path, symbols);
    if (t->tokens[id].bytes != 0)
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: vocab: two entries have the id %d, one is \"%.60s\"", l->model.path,
                        (int)id, symbols);
    int32_t *place = find_place(l, text, bytes);
    if (!place || *place >= 0)
        return dip_fail(l->why, DIP_CORRUPT, "%s: vocab: \"%.60s\" is like too many other entries",
                        l->model.path, symbols);
    t->tokens[id] = (struct dip__token){(uint32_t)l->blob_used, (uint32_t)bytes};
    l->blob_used += bytes;
    *place = id;
    return DIP_OK;
}

static enum dip_status load_vocab(struct loader *l, json_t *vocab)
{
    const char *key;
    json_t *id;
    json_object_foreach(vocab, key, id) DIP_TRY(add_word(l, key, (int32_t)json_integer_value(id)));
    return DIP_OK;
}

/* ---- merges ---- */

/* The two parts of a merge, "a b" or ["a", "b"]. */
struct parts {
    const char *text[2];
    size_t bytes[2];
};

static bool split_merge(const json_t *merge, struct parts *parts)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const char *blank = strchr(text, ' ');
        if (!blank || strchr(blank + 1, ' '))
            return false;
        *parts = (struct parts){{text, blank + 1}, {(size_t)(blank - text), strlen(blank + 1)}};
        return true;
    }
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return false;
    *parts = (struct parts){{json_string_value(left), json_string_value(right)},
                            {json_string_length(left), json_string_length(right)}};
    return true;
}

static enum dip_status add_merge(struct loader *l, const json_t *json, size_t rank)
{
    struct parts parts;
    char text[2 * DIP_TOKEN_BYTES_MAX];
    struct dip__merge merge = {.rank = (uint32_t)rank};
    if (!split_merge(json, &parts))
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: merges[%zu] is neither \"a b\" nor a pair of strings", l->model.path,
                        rank);
    size_t left = 0, right = 0;
    if (parts.bytes[0] <= DIP_TOKEN_BYTES_MAX && parts.bytes[1] <= DIP_TOKEN_BYTES_MAX) {
        left = map_symbols(l, parts.text[0], parts.bytes[0], text);
        right = map_symbols(l, parts.text[1], parts.bytes[1], text + left);
    }
    merge.left = left > 0 ? find_id(l, text, left) : -1;
    merge.right = right > 0 ? find_id(l, text + left, right) : -1;
    merge.merged = find_id(l, text, left + right);
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0)
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: merges[%zu]: %s \"%.60s\" and \"%.60s\" is not in the vocabulary",
                        l->model.path, rank,
                        merge.left < 0 || merge.right < 0 ? "one of" : "the union of",
                        parts.text[0], parts.text[1]);
    enum dip_status status = dip__bpe_add(&l->tokenizer->bpe, &merge);
    if (status)
        return dip_fail(l->why, DIP_CORRUPT, "%s: merges[%zu]: the pair \"%.60s\", \"%.60s\" %s",
                        l->model.path, rank, parts.text[0], parts.text[1],
                        status == DIP_LIMIT ? "collides with too many others" : "is there twice");
    return DIP_OK;
}

static enum dip_status load_merges(struct loader *l)
{
    json_t *merges = json_object_get(l->model.object, "merges");
    size_t i;
    json_t *merge;
    if (!json_is_array(merges) || json_array_size(merges) > DIP_VOCAB_MAX)
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: merges is missing, not an array, or longer than %d", l->model.path,
                        DIP_VOCAB_MAX);
    DIP_TRY(dip__bpe_init(&l->tokenizer->bpe, json_array_size(merges)));
    json_array_foreach(merges, i, merge) DIP_TRY(add_merge(l, merge, i));
    return DIP_OK;
}

/* After the merges' table exists: the symbols that every piece starts as. */
static enum dip_status load_bytes(struct loader *l)
{
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        l->tokenizer->bpe.byte_ids[b] = find_id(l, &byte, 1);
        if (l->tokenizer->bpe.byte_ids[b] < 0)
            return dip_fail(l->why, DIP_CORRUPT, "%s: vocab: the symbol of byte 0x%02x is missing",
                            l->model.path, b);
    }
    return DIP_OK;
}

/* ---- added tokens ---- */

/* Reads and refuses the flags of one added token. */
static enum dip_status check_flags(struct loader *l, json_t *json, const char *content,
                                   bool *ret_is_normalized)
{
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (json_is_true(json_object_get(json, refused[i])))
            return dip_fail(l->why, DIP_UNSUPPORTED,
                            "%s: added_tokens: %s of \"%.60s\" is set, which is not supported",
                            l->json.path, refused[i], content);
    const json_t *normalized = json_object_get(json, "normalized");
    if (!json_is_boolean(normalized))
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: added_tokens: normalized of \"%.60s\" is missing or not a boolean",
                        l->json.path, content);
    *ret_is_normalized = json_is_true(normalized);
    return DIP_OK;
}

/* A normalized token is looked for in text in form C, so it must be in form C itself. */
static enum dip_status check_form(struct loader *l, const char *content, size_t bytes)
{
    struct dip__text normal = {0};
    DIP_TRY(dip__nfc(content, bytes, &normal));
    bool is_same = normal.bytes == bytes && memcmp(normal.data, content, bytes) == 0;
    dip__text_deinit(&normal);
    if (!is_same)
        return dip_fail(l->why, DIP_UNSUPPORTED,
                        "%s: added_tokens: \"%.60s\" is normalized but not in form NFC, which is "
                        "not supported",
                        l->json.path, content);
    return DIP_OK;
}

/* Stores the token's bytes under its id; a vocabulary entry with that id must be the same text. */
static enum dip_status add_token(struct loader *l, json_t *json, struct dip__added_token *ret_token,
                                 bool *ret_is_normalized)
{
    struct dip_tokenizer *t = l->tokenizer;
    const char *content = json_string_value(json_object_get(json, "content"));
    size_t bytes = json_string_length(json_object_get(json, "content"));
    int32_t id = (int32_t)json_integer_value(json_object_get(json, "id"));
    DIP_TRY(check_flags(l, json, content, ret_is_normalized));
    if (*ret_is_normalized)
        DIP_TRY(check_form(l, content, bytes));
    struct dip__token *token = &t->tokens[id];
    if (token->bytes != 0 &&
        (token->bytes != bytes || memcmp(t->blob + token->at, content, bytes) != 0))
        return dip_fail(l->why, DIP_CORRUPT,
                        "%s: added_tokens: the id %d of \"%.60s\" belongs to another token",
                        l->json.path, (int)id, content);
    if (token->bytes == 0) {
        *token = (struct dip__token){(uint32_t)l->blob_used, (uint32_t)bytes};
        memcpy(t->blob + l->blob_used, content, bytes);
        l->blob_used += bytes;
    }
    *ret_token = (struct dip__added_token){t->blob + token->at, bytes, id};
    return DIP_OK;
}

static enum dip_status fail_twice(const struct loader *l, const struct dip__added_token *token)
{
    return dip_fail(l->why, DIP_CORRUPT, "%s: added_tokens: \"%.*s\" is there twice", l->json.path,
                    token->bytes > 60 ? 60 : (int)token->bytes, token->text);
}

/* Raw ones fill the array from its beginning, normalized ones from its end. */
static enum dip_status load_added(struct loader *l, json_t *added)
{
    struct dip_tokenizer *t = l->tokenizer;
    size_t i, raw_count = 0, normalized_begin = json_array_size(added);
    json_t *json;
    json_array_foreach(added, i, json)
    {
        bool is_normalized = false;
        struct dip__added_token token;
        DIP_TRY(add_token(l, json, &token, &is_normalized));
        t->added[is_normalized ? --normalized_begin : raw_count++] = token;
    }
    size_t normalized_count = json_array_size(added) - normalized_begin;
    size_t twice = dip__added_tokens_init(&t->raw, t->added, raw_count);
    if (twice < raw_count)
        return fail_twice(l, &t->raw.tokens[twice]);
    twice = dip__added_tokens_init(&t->normalized, t->added + normalized_begin, normalized_count);
    if (twice < normalized_count)
        return fail_twice(l, &t->normalized.tokens[twice]);
    for (i = 0; i < raw_count; i++)
        if (dip__added_tokens_find(&t->normalized, t->raw.tokens[i].text, t->raw.tokens[i].bytes))
            return fail_twice(l, &t->raw.tokens[i]);
    return DIP_OK;
}

/* ---- the whole file ---- */

static enum dip_status load_tables(struct loader *l)
{
    json_t *vocab = json_object_get(l->model.object, "vocab");
    json_t *added = json_object_get(l->json.object, "added_tokens");
    DIP_TRY(measure_vocab(l, vocab));
    DIP_TRY(measure_added(l, added));
    DIP_TRY(reserve(l, json_object_size(vocab), json_array_size(added)));
    DIP_TRY(load_vocab(l, vocab));
    DIP_TRY(load_merges(l));
    DIP_TRY(load_bytes(l));
    return load_added(l, added);
}

static enum dip_status load_json(struct loader *l)
{
    const char *pattern = NULL;
    DIP_TRY(dip__tokenizer_check(&l->json, l->why, &pattern, &l->model));
    DIP_TRY(dip__split_new(pattern, l->json.path, l->why, &l->tokenizer->split));
    return load_tables(l);
}

/* Takes over json. */
static enum dip_status load(struct dip_json *json, struct dip_why *why,
                            struct dip_tokenizer **ret_tokenizer)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct loader l = {.json = *json, .why = why};
    fill_byte_symbols(l.byte_of);
    l.tokenizer = calloc(1, sizeof *l.tokenizer);
    if (!l.tokenizer)
        goto out;
    status = load_json(&l);
    if (status)
        goto out;
    *ret_tokenizer = l.tokenizer;
    l.tokenizer = NULL;
out:
    if (status == DIP_NO_MEMORY)
        dip_fail(why, status, "%s: no memory for the tokenizer", l.json.path);
    free(l.index);
    dip_tokenizer_close(l.tokenizer);
    dip_json_close(json);
    return status;
}

enum dip_status dip_tokenizer_open(const char *path, struct dip_why *why,
                                   struct dip_tokenizer **ret_tokenizer)
{
    struct dip_json json;
    DIP_TRY(dip_json_open(path, why, &json));
    return load(&json, why, ret_tokenizer);
}

enum dip_status dip_tokenizer_parse(const char *text, size_t bytes, const char *name,
                                    struct dip_why *why, struct dip_tokenizer **ret_tokenizer)
{
    struct dip_json json;
    DIP_TRY(dip_json_parse(text, bytes, name, why, &json));
    return load(&json, why, ret_tokenizer);
}
