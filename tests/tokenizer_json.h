/* tests/tokenizer_json.h - a tokenizer.json small enough to know by heart, for tests and fuzzing.
 *
 * The id of a byte is the byte; merge i of the list makes id 256 + i; added tokens begin at 300. */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct tokenizer_json_merge {
    const char *left, *right;
} tokenizer_json_merges[] = {
    {"l", "l"},       /* 256 */
    {"h", "e"},       /* 257 */
    {"ll", "o"},      /* 258 */
    {"he", "llo"},    /* 259 */
    {" ", "a"},       /* 260 */
    {"a", "a"},       /* 261 */
    {"aa", "aa"},     /* 262 */
    {"1", "2"},       /* 263: in no text, since digits stand alone */
    {"!", "\xe1"},    /* 264 */
    {"a", "\xf0"},    /* 265 */
    {"\xc3", "\xa9"}, /* 266: e acute */
    {" ", " "},       /* 267 */
    {"\r", "\n"},     /* 268 */
    {"'", "s"},       /* 269 */
    {"s", "'"},       /* 270 */
    {"e", "\xcc"},    /* 271: e and the first byte of a combining mark */
};

enum {
    TOKENIZER_JSON_MERGES = sizeof tokenizer_json_merges / sizeof tokenizer_json_merges[0],
    TOKENIZER_JSON_VOCAB = 310, /* ids are below it */
};

static const struct tokenizer_json_added {
    const char *content;
    bool is_normalized;
} tokenizer_json_added[] = {
    {"<|im_start|>", false}, /* 300 */
    {"<|im_end|>", false},   /* 301 */
    {"<im_start>", false},   /* 302 */
    {"<im_end>", false},     /* 303 */
    {"<S0>", true},          /* 304 */
    {"<I1>", true},          /* 305 */
    {"<I12>", true},         /* 306 */
    {"@@", false},           /* 307 */
    {"@@@", false},          /* 308 */
};

/* Bytes as JSON text of their symbols: printable Latin-1 as it is, the others from U+0100 on. */
static inline void tokenizer_json_symbols(FILE *out, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int wanted = (unsigned char)bytes[i], other = 0;
        for (int b = 0; b < wanted; b++)
            other += b < 0x21 || (b > 0x7e && b < 0xa1) || b == 0xad;
        bool is_other = wanted < 0x21 || (wanted > 0x7e && wanted < 0xa1) || wanted == 0xad;
        (void)fprintf(out, "\\u%04x", is_other ? 0x100 + other : wanted);
    }
}

static inline void tokenizer_json_vocab(FILE *out)
{
    (void)fputs("\"vocab\":{", out);
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        (void)fputc('"', out);
        tokenizer_json_symbols(out, &byte, 1);
        (void)fprintf(out, "\":%d,", b);
    }
    for (int i = 0; i < TOKENIZER_JSON_MERGES; i++) {
        const struct tokenizer_json_merge *merge = &tokenizer_json_merges[i];
        (void)fputc('"', out);
        tokenizer_json_symbols(out, merge->left, strlen(merge->left));
        tokenizer_json_symbols(out, merge->right, strlen(merge->right));
        (void)fprintf(out, "\":%d%s", 256 + i, i + 1 < TOKENIZER_JSON_MERGES ? "," : "}");
    }
}

/* Merges as pairs of strings or as strings with a blank. */
static inline void tokenizer_json_write_merges(FILE *out, bool is_paired)
{
    (void)fputs(",\"merges\":[", out);
    for (int i = 0; i < TOKENIZER_JSON_MERGES; i++) {
        const struct tokenizer_json_merge *merge = &tokenizer_json_merges[i];
        (void)fputs(is_paired ? "[\"" : "\"", out);
        tokenizer_json_symbols(out, merge->left, strlen(merge->left));
        (void)fputs(is_paired ? "\",\"" : " ", out);
        tokenizer_json_symbols(out, merge->right, strlen(merge->right));
        (void)fputs(is_paired ? "\"]" : "\"", out);
        (void)fputs(i + 1 < TOKENIZER_JSON_MERGES ? "," : "]", out);
    }
}

/* The whole file; the caller frees it. NULL without memory. */
static inline char *tokenizer_json_new(bool is_paired)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return NULL;
    (void)fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[",
                out);
    size_t count = sizeof tokenizer_json_added / sizeof tokenizer_json_added[0];
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out,
                      "%s{\"id\":%zu,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                      "\"rstrip\":false,\"normalized\":%s,\"special\":false}",
                      i > 0 ? "," : "", 300 + i, tokenizer_json_added[i].content,
                      tokenizer_json_added[i].is_normalized ? "true" : "false");
    (void)fputs(
        "],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
        "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\""
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|"
        " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
        "\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},"
        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
        "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":false,"
        "\"byte_fallback\":false,\"ignore_merges\":false,",
        out);
    tokenizer_json_vocab(out);
    tokenizer_json_write_merges(out, is_paired);
    (void)fputs("}}", out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
