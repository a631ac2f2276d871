/* base/json_parse.c - from text to jansson's values, with hostile texts and full memory in mind.
 *
 * The text is scanned once before the library sees it, without recursion: nesting, the number of
 * values and the length of tokens are compared with their ceilings before anything is allocated for
 * them, and the literals Infinity, -Infinity and NaN, which Python writes into published scheduler
 * files although JSON has no such thing, are read as null.
 *
 * The library's lexer ignores a failed allocation and then trips over its own assertion. So when
 * memory runs out during a load, allocations continue from a static reserve (never touched
 * otherwise, so it costs no memory) and the text ends at the next chunk; the result is thrown away
 * and the answer is DIP_NO_MEMORY. The reserve holds what the rest of one chunk can ask for: twice
 * the longest token for the lexer's buffer, two copies of it, and some hundred bytes for each value
 * of the chunk. */
#include <jansson.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"

enum { RESERVE_BYTES = 6 * DIP_JSON_TOKEN_BYTES_MAX };

/* ---- the scan ---- */

struct scan {
    size_t value_count; /* upper bound: commas, brackets and braces */
    size_t literal_count;
    size_t token_bytes_max; /* longest string, number or word */
    bool is_too_deep;
};

/* Bytes of the non-finite literal at `at`, 0 if there is none. */
static size_t literal_length(const char *at, const char *end)
{
    static const char *const literals[] = {"-Infinity", "Infinity", "NaN"};
    if (*at != '-' && *at != 'I' && *at != 'N') /* most bytes: 20 MB files come through here */
        return 0;
    if (*at != '-' && *at != 'I' && *at != 'N')
        return 0; /* nearly every byte of a large file */
    for (size_t i = 0; i < sizeof literals / sizeof literals[0]; i++) {
        size_t length = strlen(literals[i]);
        if ((size_t)(end - at) >= length && memcmp(at, literals[i], length) == 0)
            return length;
    }
    return 0;
}

/* The byte after the string that begins at `at`, or `end`. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\' && at + 1 < end)
            at++;
    return at < end ? at + 1 : end;
}

static bool is_between_tokens(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ',' || c == ':' || c == '{' ||
           c == '}' || c == '[' || c == ']';
}

static void note_token(struct scan *scan, const char *begin, const char *end)
{
    size_t bytes = (size_t)(end - begin);
    if (bytes > scan->token_bytes_max)
        scan->token_bytes_max = bytes;
}

static struct scan scan_text(const char *text, size_t bytes)
{
    struct scan scan = {0};
    const char *end = text + bytes;
    const char *token = text; /* where the current word or number began */
    int depth = 0;
    for (const char *at = text; at < end;) {
        if (*at == '"') {
            token = at;
            at = skip_string(at, end);
            note_token(&scan, token, at);
            token = at;
            continue;
        }
        if (*at == '{' || *at == '[')
            depth++;
        if (*at == '}' || *at == ']')
            depth--;
        if (depth > DIP_JSON_DEPTH_MAX)
            scan.is_too_deep = true;
        scan.value_count += *at == ',' || *at == '{' || *at == '[';
        size_t length = literal_length(at, end);
        scan.literal_count += length > 0;
        if (is_between_tokens(*at)) {
            note_token(&scan, token, at);
            token = at + 1;
        }
        at += length > 0 ? length : 1;
    }
    note_token(&scan, token, end);
    return scan;
}

/* Copies text with each non-finite literal replaced by null; `to` has a spare byte per literal. */
static size_t copy_finite(const char *text, size_t bytes, char *to)
{
    static const char null_literal[4] = {'n', 'u', 'l', 'l'};
    const char *end = text + bytes;
    char *out = to;
    for (const char *at = text; at < end;) {
        const char *next = at + 1;
        size_t length = literal_length(at, end);
        if (*at == '"') {
            next = skip_string(at, end);
        } else if (length > 0) {
            memcpy(out, null_literal, sizeof null_literal);
            out += sizeof null_literal;
            at += length;
            continue;
        }
        memcpy(out, at, (size_t)(next - at));
        out += next - at;
        at = next;
    }
    return (size_t)(out - to);
}

/* ---- memory of the library ---- */

static _Thread_local bool is_loading;
static _Thread_local bool is_starved;  /* an allocation failed during this load */
static _Thread_local bool has_reserve; /* this thread's load lives on the reserve */
static _Atomic bool is_reserve_taken;
static size_t reserve_used;
static alignas(16) unsigned char reserve[RESERVE_BYTES];

static void *reserve_push(size_t bytes)
{
    if (!has_reserve || bytes > sizeof reserve - reserve_used)
        return NULL;
    void *space = reserve + reserve_used;
    reserve_used += (bytes + 15) & ~(size_t)15;
    return space;
}

static void *library_malloc(size_t bytes)
{
    if (!is_loading)
        return malloc(bytes);
    if (!is_starved) {
        void *space = malloc(bytes);
        if (space || bytes == 0)
            return space;
        is_starved = true;
        has_reserve = !atomic_exchange(&is_reserve_taken, true);
        reserve_used = has_reserve ? 0 : reserve_used;
    }
    return reserve_push(bytes);
}

static void library_free(void *space)
{
    uintptr_t offset = (uintptr_t)space - (uintptr_t)reserve;
    if (offset >= sizeof reserve)
        free(space);
}

static void install_memory(void)
{
    json_set_alloc_funcs(library_malloc, library_free);
}

static void loading_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_memory);
    is_loading = true;
    is_starved = false;
    has_reserve = false;
}

static void loading_end(void)
{
    is_loading = false;
    if (has_reserve)
        atomic_store(&is_reserve_taken, false);
    has_reserve = false;
}

/* ---- loading ---- */

struct source {
    const char *at;
    const char *end;
};

/* Hands the text out in the library's own buffer size, and ends it early once memory is short. */
static size_t read_source(void *buffer, size_t bytes, void *context)
{
    struct source *source = context;
    size_t left = (size_t)(source->end - source->at);
    size_t count = is_starved ? 0 : left < bytes ? left : bytes;
    memcpy(buffer, source->at, count);
    source->at += count;
    return count;
}

static enum dip_status load(const char *text, size_t bytes, const char *name, struct dip_why *why,
                            json_t **ret_object)
{
    json_error_t error;
    struct source source = {.at = text, .end = text + bytes};
    loading_begin();
    json_t *object = json_load_callback(read_source, &source, JSON_REJECT_DUPLICATES, &error);
    if (is_starved) { /* what there is lives on the reserve and is incomplete */
        json_decref(object);
        object = NULL;
    }
    loading_end();
    if (is_starved)
        return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to parse it", name);
    if (!object)
        return dip_fail(why, DIP_CORRUPT, "%s: line %d, column %d: %s", name, error.line,
                        error.column, error.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return dip_fail(why, DIP_CORRUPT, "%s: expected a JSON object, found something else", name);
    }
    *ret_object = object;
    return DIP_OK;
}

static void set_path(struct dip_json *json, const char *name)
{
    size_t length = strlen(name);
    bool is_cut = length >= sizeof json->path;
    /* The end of a path says more than its beginning. */
    snprintf(json->path, sizeof json->path, "%s%s", is_cut ? "..." : "",
             is_cut ? name + length - (sizeof json->path - 4) : name);
}

enum dip_status dip_json_parse(const char *text, size_t bytes, const char *name,
                               struct dip_why *why, struct dip_json *ret_json)
{
    if (bytes > DIP_JSON_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: is %zu bytes of JSON, expected at most %d", name,
                        bytes, DIP_JSON_BYTES_MAX);
    struct scan scan = scan_text(text, bytes);
    if (scan.is_too_deep)
        return dip_fail(why, DIP_CORRUPT, "%s: is nested deeper than %d levels", name,
                        DIP_JSON_DEPTH_MAX);
    if (scan.value_count > DIP_JSON_VALUES_MAX)
        return dip_fail(why, DIP_LIMIT, "%s: has more than %d values", name, DIP_JSON_VALUES_MAX);
    if (scan.token_bytes_max > DIP_JSON_TOKEN_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT,
                        "%s: has a string or number of %zu bytes, expected at most %d", name,
                        scan.token_bytes_max, DIP_JSON_TOKEN_BYTES_MAX);
    char *copy = NULL;
    if (scan.literal_count > 0) {
        copy = malloc(bytes + scan.literal_count);
        if (!copy)
            return dip_fail(why, DIP_NO_MEMORY, "%s: no memory to parse it", name);
        bytes = copy_finite(text, bytes, copy);
    }
    struct dip_json json = {0};
    set_path(&json, name);
    enum dip_status status = load(copy ? copy : text, bytes, name, why, &json.object);
    free(copy);
    if (!status)
        *ret_json = json;
    return status;
}

enum dip_status dip_json_open(const char *path, struct dip_why *why, struct dip_json *ret_json)
{
    char *text = NULL;
    size_t bytes = 0;
    DIP_TRY(dip_file_read(path, DIP_JSON_BYTES_MAX, why, &text, &bytes));
    enum dip_status status = dip_json_parse(text, bytes, path, why, ret_json);
    free(text);
    return status;
}

void dip_json_close(struct dip_json *json)
{
    json_decref(json->object); /* accepts NULL */
    *json = (struct dip_json){0};
}
