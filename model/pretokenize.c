/* model/pretokenize.c - the split pattern under PCRE2, meaning what it means to the published
 * tokenizer.
 *
 * The published code runs the pattern under Oniguruma with Unicode 16 tables. Three kinds of escape
 * are rewritten so that both engines agree on each code point, whichever Unicode up to 16 PCRE2 was
 * built with: \s is the property White_Space (PCRE2's \s also takes U+180E), and \p{L} and \p{N}
 * include what Unicode 15 and 16 added. A pattern comes from a file, so its length, its nesting and
 * its backtracking are bounded, and what could read half a character is off. */
#include "model/pretokenize.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

enum {
    PATTERN_BYTES_MAX = 1024,
    REWRITTEN_BYTES_MAX = 1 << 18,
    NESTING_MAX = 32,
    STEPS_MIN = 10000, /* backtracking allowed for one match: this and so many times the text */
    STEPS_PER_BYTE = 8,
    HEAP_KIB_MAX = 16 << 10, /* of the interpreter, where there is no JIT */
};

struct dip__split {
    pcre2_code *code;
};

/* ---- from the published dialect to PCRE2's ---- */

/* Letters and numbers of Unicode 15 and 16, which PCRE2 10.42 (Unicode 14) does not know. Measured:
 * every code point was classified by Hugging Face tokenizers 0.21.4 and by PCRE2, and these
 * differed. */
static const char newer_letters[] =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"
    "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char newer_numbers[] =
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

static const struct rewrite {
    const char *escape;
    const char *replacement;
    const char *also; /* more members of the class */
} rewrites[] = {
    {"\\s", "\\p{White_Space}", ""},
    {"\\S", "\\P{White_Space}", ""},
    {"\\p{L}", "\\p{L}", newer_letters},
    {"\\p{N}", "\\p{N}", newer_numbers},
};

_Static_assert(PATTERN_BYTES_MAX / 5 * (sizeof newer_letters + 8) < REWRITTEN_BYTES_MAX,
               "the longest pattern of nothing but \\p{L} fits when rewritten");

struct pattern {
    char *text;
    size_t bytes;
};

static void append(struct pattern *out, const char *text, size_t bytes)
{
    dip_assert(out->bytes + bytes < REWRITTEN_BYTES_MAX);
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
    out->text[out->bytes] = '\0';
}

/* Rewrites the escape at `at`; returns its length in the source. */
static size_t rewrite_escape(const char *at, bool is_in_class, struct pattern *out)
{
    for (size_t i = 0; i < sizeof rewrites / sizeof rewrites[0]; i++) {
        const struct rewrite *r = &rewrites[i];
        if (strncmp(at, r->escape, strlen(r->escape)) != 0)
            continue;
        bool is_wrapped = !is_in_class && r->also[0] != '\0';
        append(out, "[", is_wrapped);
        append(out, r->replacement, strlen(r->replacement));
        append(out, r->also, strlen(r->also));
        append(out, "]", is_wrapped);
        return strlen(r->escape);
    }
    size_t length = at[1] != '\0' ? 2 : 1;
    append(out, at, length);
    return length;
}

/* Bytes of the opening of a class at `at`: a ']' right behind it is a member. */
static size_t class_opening(const char *at)
{
    size_t length = at[1] == '^' ? 2 : 1;
    return at[length] == ']' ? length + 1 : length;
}

/* False for what the two engines read differently: \Q, \K, and a '[' inside a class. */
static bool rewrite_pattern(const char *pattern, struct pattern *out)
{
    bool is_in_class = false;
    for (const char *at = pattern; *at;) {
        size_t length = 1;
        if ((is_in_class && *at == '[') || (*at == '\\' && (at[1] == 'Q' || at[1] == 'K')))
            return false;
        if (*at == '\\') {
            at += rewrite_escape(at, is_in_class, out);
            continue;
        }
        if (*at == '[')
            length = class_opening(at);
        is_in_class = is_in_class ? *at != ']' : *at == '[';
        append(out, at, length);
        at += length;
    }
    return true;
}

/* ---- compiling ---- */

static enum dip_status compile(const struct pattern *pattern, const char *name, struct dip_why *why,
                               pcre2_code **ret_code)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return DIP_NO_MEMORY;
    pcre2_set_parens_nest_limit(context, NESTING_MAX);
    int error = 0;
    size_t offset = 0;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern->text, pattern->bytes,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!code && error == PCRE2_ERROR_HEAP_FAILED)
        return DIP_NO_MEMORY;
    if (!code) {
        PCRE2_UCHAR text[128] = "unknown error";
        pcre2_get_error_message(error, text, sizeof text);
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: pre_tokenizer: the pattern of Split cannot be used: %s", name,
                        (const char *)text);
    }
    uint32_t can_be_empty = 1;
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &can_be_empty);
    if (can_be_empty) {
        pcre2_code_free(code);
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: pre_tokenizer: the pattern of Split can match the empty text", name);
    }
    /* Where there is no JIT the interpreter gives the same answers, later. */
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *ret_code = code;
    return DIP_OK;
}

enum dip_status dip__split_new(const char *pattern, const char *name, struct dip_why *why,
                               struct dip__split **ret_split)
{
    if (strlen(pattern) > PATTERN_BYTES_MAX)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: pre_tokenizer: the pattern of Split is %zu bytes, expected at most %d",
                        name, strlen(pattern), PATTERN_BYTES_MAX);
    enum dip_status status = DIP_NO_MEMORY;
    struct pattern rewritten = {.text = malloc(REWRITTEN_BYTES_MAX)};
    struct dip__split *split = calloc(1, sizeof *split);
    if (!split || !rewritten.text)
        goto out;
    if (!rewrite_pattern(pattern, &rewritten)) {
        status = dip_fail(why, DIP_UNSUPPORTED,
                          "%s: pre_tokenizer: the pattern of Split uses \\Q, \\K or a class "
                          "inside a class, which is not supported",
                          name);
        goto out;
    }
    status = compile(&rewritten, name, why, &split->code);
    if (status)
        goto out;
    *ret_split = split;
    split = NULL;
out:
    free(rewritten.text);
    dip__split_free(split);
    return status;
}

void dip__split_free(struct dip__split *split)
{
    if (!split)
        return;
    pcre2_code_free(split->code);
    free(split);
}

/* ---- walking ---- */

enum dip_status dip__split_begin(struct dip__split_walk *walk, const char *text, size_t bytes)
{
    if (!walk->match)
        walk->match = pcre2_match_data_create(1, NULL);
    if (!walk->limits)
        walk->limits = pcre2_match_context_create(NULL);
    if (!walk->match || !walk->limits)
        return DIP_NO_MEMORY;
    pcre2_set_match_limit(walk->limits, STEPS_MIN + STEPS_PER_BYTE * (uint32_t)bytes);
    pcre2_set_heap_limit(walk->limits, HEAP_KIB_MAX);
    walk->text = text;
    walk->bytes = bytes;
    walk->done = walk->matched = 0;
    return DIP_OK;
}

void dip__split_walk_deinit(struct dip__split_walk *walk)
{
    pcre2_match_data_free(walk->match);
    pcre2_match_context_free(walk->limits);
    *walk = (struct dip__split_walk){0};
}

/* The next match at or after `from`; both ends at the text's when there is none. */
static enum dip_status find_match(const struct dip__split *split,
                                  const struct dip__split_walk *walk, size_t from,
                                  size_t *ret_begin, size_t *ret_end)
{
    /* Checking UTF-8 again for each match would make a text of many pieces quadratic. */
    int found = pcre2_match(split->code, (PCRE2_SPTR)walk->text, walk->bytes, from,
                            PCRE2_NO_UTF_CHECK, walk->match, walk->limits);
    if (found == PCRE2_ERROR_NOMATCH) {
        *ret_begin = *ret_end = walk->bytes;
        return DIP_OK;
    }
    if (found < 0)
        return found == PCRE2_ERROR_NOMEMORY ? DIP_NO_MEMORY : DIP_UNSUPPORTED;
    const size_t *span = pcre2_get_ovector_pointer(walk->match);
    if (span[0] < from || span[1] <= span[0] || span[1] > walk->bytes)
        return DIP_UNSUPPORTED;
    *ret_begin = span[0];
    *ret_end = span[1];
    return DIP_OK;
}

enum dip_status dip__split_next(const struct dip__split *split, struct dip__split_walk *walk,
                                const char **ret_piece, size_t *ret_bytes)
{
    size_t begin = walk->done;
    size_t end = walk->matched > begin ? walk->matched : begin;
    if (end == begin && begin < walk->bytes) {
        size_t match_begin = 0;
        DIP_TRY(find_match(split, walk, begin, &match_begin, &walk->matched));
        end = match_begin > begin ? match_begin : walk->matched; /* the gap comes first */
    }
    *ret_piece = walk->text + begin;
    *ret_bytes = end - begin;
    walk->done = end;
    return DIP_OK;
}
