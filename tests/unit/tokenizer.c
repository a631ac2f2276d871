/* tests/unit/tokenizer.c - a vocabulary of 272 words whose ids can be worked out by hand, broken
 * files, and texts that were chosen to be slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/bpe.h"
#include "model/tokenizer.h"
#include "tests/tokenizer_json.h"

/* ---- helpers ---- */

static struct dip_tokenizer *tokenizer_new(bool is_paired)
{
    char *json = tokenizer_json_new(is_paired);
    struct dip_tokenizer *t = NULL;
    struct dip_why why = {0};
    assert_non_null(json);
    if (dip_tokenizer_parse(json, strlen(json), "t.json", &why, &t))
        fail_msg("%s", why.text);
    free(json);
    return t;
}

static int setup(void **state)
{
    *state = tokenizer_new(false);
    return 0;
}

static int teardown(void **state)
{
    dip_tokenizer_close(*state);
    return 0;
}

/* Compares the ids of text[bytes] with the values behind `count`. */
static void expect_ids_n(const struct dip_tokenizer *t, enum dip_text_mode mode, const char *text,
                         size_t bytes, int count, const int *expected)
{
    int32_t ids[64];
    int found = 0;
    struct dip_why why = {0};
    if (dip_tokenizer_encode(t, text, bytes, mode, ids, 64, &why, &found))
        fail_msg("\"%s\": %s", text, why.text);
    for (int i = 0; i < found && i < count; i++)
        if (ids[i] != expected[i])
            fail_msg("\"%s\": id %d is %d, expected %d", text, i, (int)ids[i], expected[i]);
    if (found != count)
        fail_msg("\"%s\": %d ids, expected %d", text, found, count);
}

#define EXPECT_IDS(t, mode, text, ...)                                                             \
    expect_ids_n(t, mode, text, sizeof(text) - 1, sizeof((int[]){__VA_ARGS__}) / sizeof(int),      \
                 (int[]){__VA_ARGS__})
#define EXPECT_PLAIN(text, ...)     EXPECT_IDS(*state, DIP_TEXT_PLAIN, text, __VA_ARGS__)
#define EXPECT_PUBLISHED(text, ...) EXPECT_IDS(*state, DIP_TEXT_PUBLISHED, text, __VA_ARGS__)
#define EXPECT_BOTH(text, ...)                                                                     \
    EXPECT_PLAIN(text, __VA_ARGS__);                                                               \
    EXPECT_PUBLISHED(text, __VA_ARGS__)

/* ---- encoding ---- */

static void merges_by_rank_then_from_the_left(void **state)
{
    EXPECT_BOTH("hello", 259);
    EXPECT_BOTH("hell", 257, 256);
    EXPECT_BOTH("lll", 256, 'l'); /* the second pair is stale once the first has merged */
    EXPECT_BOTH("aaa", 261, 'a');
    EXPECT_BOTH("aaaaaaa", 262, 261, 'a');
    EXPECT_BOTH("x", 'x');
}

static void merges_may_be_pairs(void **state)
{
    (void)state;
    struct dip_tokenizer *t = tokenizer_new(true);
    EXPECT_IDS(t, DIP_TEXT_PLAIN, "hello aaa", 259, 260, 261);
    dip_tokenizer_close(t);
}

static void nothing_has_no_ids(void **state)
{
    expect_ids_n(*state, DIP_TEXT_PLAIN, "", 0, 0, NULL);
    expect_ids_n(*state, DIP_TEXT_PUBLISHED, "", 0, 0, NULL);
}

static void pieces_are_not_merged_across(void **state)
{
    EXPECT_BOTH("12", '1', '2');
    EXPECT_BOTH("a  a", 'a', ' ', 260); /* the last blank belongs to the word */
    EXPECT_BOTH("   ", 267, ' ');
    EXPECT_BOTH("  \n", 267, '\n');
    EXPECT_BOTH("a\r\n", 'a', 268);
    EXPECT_BOTH("s's", 's', 269);
    EXPECT_BOTH("s' ", 's', '\'', ' ');
    EXPECT_BOTH("a\0a", 'a', 0, 'a');
}

/* U+180E is no blank and U+2EBF0 is a letter to the published tokenizer; PCRE2 10.42 says the
 * opposite of both. A merge across shows that the piece was not cut there. */
static void code_points_are_classified_as_published(void **state)
{
    EXPECT_BOTH("!\u180e", 264, 0xa0, 0x8e);
    EXPECT_BOTH("a\U0002ebf0", 265, 0xae, 0xaf, 0xb0);
}

static void text_is_brought_into_form_c(void **state)
{
    EXPECT_BOTH("e\u0301", 266);
    EXPECT_BOTH("\u00e9", 266);
    EXPECT_BOTH("\u1100\u1161", 0xea, 0xb0, 0x80);             /* Hangul */
    EXPECT_BOTH("x\u0301\u0316", 'x', 0xcc, 0x96, 0xcc, 0x81); /* marks in canonical order */
    EXPECT_BOTH("\u1fbb", 0xce, 0x86);                         /* a singleton */
}

/* U+08CA came after Unicode 9: it stays in front of the mark of a lower class, and keeps the acute
 * accent from the e. */
static void young_marks_are_left_alone(void **state)
{
    EXPECT_BOTH("x\u08ca\u0316", 'x', 0xe0, 0xa3, 0x8a, 0xcc, 0x96);
    EXPECT_BOTH("e\u08ca\u0301", 'e', 0xe0, 0xa3, 0x8a, 0xcc, 0x81);
}

static void added_tokens_are_recognised_only_as_published(void **state)
{
    EXPECT_PUBLISHED("<|im_start|>a<im_start><S0>", 300, 'a', 302, 304);
    EXPECT_PLAIN("<S0>", '<', 'S', '0', '>');
    EXPECT_PUBLISHED("<S1>", '<', 'S', '1', '>');
    EXPECT_PUBLISHED("<S0", '<', 'S', '0');
}

static void the_leftmost_then_longest_added_token_wins(void **state)
{
    EXPECT_PUBLISHED("<I12>", 306);
    EXPECT_PUBLISHED("<I1><I1", 305, '<', 'I', '1');
    EXPECT_PUBLISHED("@@@@@", 308, 307);
    EXPECT_PUBLISHED("@", '@');
    EXPECT_PUBLISHED("<<S0>>", '<', 304, '>');
}

/* Raw tokens are cut out before a '>' can compose with a following mark, normalized ones after. */
static void marks_behind_added_tokens(void **state)
{
    EXPECT_PUBLISHED("<im_start>\u0338", 302, 0xcc, 0xb8);
    EXPECT_PUBLISHED("<S0>\u0338", '<', 'S', '0', 0xe2, 0x89, 0xaf);
}

/* Text on the two sides of an added token never meets. */
static void added_tokens_cut_the_text(void **state)
{
    EXPECT_PUBLISHED("e<im_end>\u0301", 'e', 303, 0xcc, 0x81);
    EXPECT_PUBLISHED("a <S0>a", 'a', ' ', 304, 'a');
    EXPECT_PUBLISHED("hel@@lo", 257, 'l', 307, 'l', 'o');
}

/* ---- limits ---- */

static void expect_status(const struct dip_tokenizer *t, const char *text, size_t bytes,
                          int ids_max, enum dip_status expected, const char *fragment)
{
    int32_t ids[16];
    int count = -1;
    struct dip_why why = {0};
    for (int mode = 0; mode < 2; mode++) {
        why.text[0] = '\0';
        assert_int_equal(dip_tokenizer_encode(t, text, bytes, (enum dip_text_mode)mode, ids,
                                              ids_max, &why, &count),
                         expected);
        assert_non_null(strstr(why.text, fragment));
        assert_int_equal(count, -1);
    }
}

static void refuses_what_is_not_utf8(void **state)
{
    static const char *const bad[] = {"ab\x80",
                                      "ab\xc0\x80",
                                      "ab\xc3",
                                      "ab\xe0\x80\x80",
                                      "ab\xe2\x82",
                                      "ab\xed\xa0\x80",
                                      "ab\xf0\x80\x80\x80",
                                      "ab\xf4\x90\x80\x80",
                                      "ab\xf8zzzz"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_status(*state, bad[i], strlen(bad[i]), 16, DIP_INVALID, "offset 2 ");
}

static void refuses_more_ids_than_there_is_room_for(void **state)
{
    expect_status(*state, "abcd", 4, 3, DIP_LIMIT, "more than 3 tokens");
    expect_status(*state, "x", 1, 0, DIP_LIMIT, "more than 0 tokens");
    EXPECT_BOTH("aaaa", 262);
    int32_t id;
    int count = 0;
    assert_int_equal(
        dip_tokenizer_encode(*state, "<S0>a", 5, DIP_TEXT_PUBLISHED, &id, 1, NULL, &count),
        DIP_LIMIT);
    assert_int_equal(
        dip_tokenizer_encode(*state, "a<S0>", 5, DIP_TEXT_PUBLISHED, &id, 1, NULL, &count),
        DIP_LIMIT);
}

static void refuses_text_beyond_the_ceiling(void **state)
{
    size_t bytes = DIP_TEXT_BYTES_MAX;
    char *text = malloc(bytes + 1);
    int32_t *ids = malloc(bytes / 4 * sizeof *ids);
    int count = 0;
    assert_non_null(text);
    assert_non_null(ids);
    memset(text, 'a', bytes + 1);
    assert_int_equal(dip_tokenizer_encode(*state, text, bytes, DIP_TEXT_PLAIN, ids,
                                          (int)(bytes / 4), NULL, &count),
                     DIP_OK);
    assert_int_equal(count, bytes / 4); /* one word of 65,536 "aaaa" */
    expect_status(*state, text, bytes + 1, 16, DIP_LIMIT, "expected at most");
    free(ids);
    free(text);
}

/* ---- work ---- */

/* One word of equal letters, every pair of which may merge: the naive loop looks at 200 million
 * pairs here. The heap pops each pair that was ever adjacent once. */
static void a_long_word_takes_linear_steps(void **state)
{
    enum { LETTERS = 20000 };
    static char word[LETTERS];
    static int32_t ids[LETTERS];
    struct dip__bpe bpe;
    struct dip__bpe_scratch scratch = {0};
    size_t count = 0;
    (void)state;
    assert_int_equal(dip__bpe_init(&bpe, 2), DIP_OK);
    for (int b = 0; b < 256; b++)
        bpe.byte_ids[b] = b;
    assert_int_equal(dip__bpe_add(&bpe, &(struct dip__merge){'a', 'a', 300, 0}), DIP_OK);
    assert_int_equal(dip__bpe_add(&bpe, &(struct dip__merge){300, 300, 301, 1}), DIP_OK);
    memset(word, 'a', sizeof word);
    assert_int_equal(dip__bpe_encode(&bpe, &scratch, word, LETTERS, ids, LETTERS, &count), DIP_OK);
    assert_int_equal(count, LETTERS / 4);
    assert_in_range(scratch.pop_count, LETTERS - 1, 3 * LETTERS);
    dip__bpe_scratch_deinit(&scratch);
    dip__bpe_deinit(&bpe);
}

/* A table that is full, as one whose pairs were chosen to collide would be: searching it ends. */
static void merges_that_collide_are_refused(void **state)
{
    struct dip__bpe bpe;
    (void)state;
    assert_int_equal(dip__bpe_init(&bpe, 4), DIP_OK);
    for (int i = 0; i < 8; i++)
        assert_int_equal(dip__bpe_add(&bpe, &(struct dip__merge){i, i, i, 0}), DIP_OK);
    assert_int_equal(dip__bpe_add(&bpe, &(struct dip__merge){7, 7, 7, 0}), DIP_CORRUPT);
    assert_int_equal(dip__bpe_add(&bpe, &(struct dip__merge){8, 8, 8, 0}), DIP_LIMIT);
    dip__bpe_deinit(&bpe);
}

/* 40,000 marks in the wrong order behind one letter: exchanging neighbours takes 400 million steps.
 */
static void a_long_run_of_marks_is_ordered(void **state)
{
    enum { MARKS = 20000, BYTES = 1 + 4 * MARKS };
    char *text = malloc(BYTES), *expected = malloc(BYTES), *found = malloc(BYTES + 1);
    int32_t *ids = malloc(BYTES * sizeof *ids);
    int count = 0;
    size_t bytes = 0;
    assert_true(text && expected && found && ids);
    text[0] = 'x';
    expected[0] = 'x';
    for (int i = 0; i < MARKS; i++) {
        memcpy(text + 1 + 4 * i, "\u0301\u0316", 4);
        memcpy(expected + 1 + 2 * i, "\u0316", 2);
        memcpy(expected + 1 + 2 * MARKS + 2 * i, "\u0301", 2);
    }
    assert_int_equal(
        dip_tokenizer_encode(*state, text, BYTES, DIP_TEXT_PLAIN, ids, BYTES, NULL, &count),
        DIP_OK);
    assert_int_equal(dip_tokenizer_decode(*state, ids, count, found, BYTES + 1, NULL, &bytes),
                     DIP_OK);
    assert_int_equal(bytes, BYTES);
    assert_memory_equal(found, expected, BYTES);
    free(ids);
    free(found);
    free(expected);
    free(text);
}

/* ---- decoding, finding ---- */

static void expect_text(const struct dip_tokenizer *t, int count, const int32_t *ids,
                        const char *expected)
{
    char text[64];
    size_t bytes = 0;
    struct dip_why why = {0};
    if (dip_tokenizer_decode(t, ids, count, text, sizeof text, &why, &bytes))
        fail_msg("%s", why.text);
    assert_string_equal(text, expected);
    assert_int_equal(bytes, strlen(expected));
}

static void decodes_what_it_encoded(void **state)
{
    expect_text(*state, 0, NULL, "");
    expect_text(*state, 4, (int32_t[]){300, 259, 260, 304}, "<|im_start|>hello a<S0>");
    expect_text(*state, 3, (int32_t[]){266, 0xc3, 0xa9}, "\u00e9\u00e9"); /* bytes meet */
}

/* One U+FFFD for each longest piece that could have begun a character (Unicode 15, table 3-8). */
static void decodes_broken_bytes_to_replacements(void **state)
{
    expect_text(*state, 2, (int32_t[]){0xe2, 0x82}, "\ufffd");
    expect_text(*state, 3, (int32_t[]){0xe2, 0x82, 'a'}, "\ufffda");
    expect_text(*state, 2, (int32_t[]){0xc0, 0x80}, "\ufffd\ufffd");
    expect_text(*state, 3, (int32_t[]){0xed, 0xa0, 0x80}, "\ufffd\ufffd\ufffd");
    expect_text(*state, 4, (int32_t[]){0xf4, 0x90, 0x80, 0x80}, "\ufffd\ufffd\ufffd\ufffd");
    expect_text(*state, 4, (int32_t[]){0xf0, 0x9f, 0x98, 0xc3}, "\ufffd\ufffd");
}

static void refuses_to_decode_unknown_ids_and_beyond_the_buffer(void **state)
{
    char text[8] = "";
    size_t bytes = 0;
    static const int32_t unknown[] = {-1, 290, TOKENIZER_JSON_VOCAB, INT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        assert_int_equal(dip_tokenizer_decode(*state, &unknown[i], 1, text, 8, NULL, &bytes),
                         DIP_INVALID);
    static const int32_t ids[] = {259, '!'};
    struct dip_why why = {0};
    assert_int_equal(dip_tokenizer_decode(*state, ids, 2, text, 6, &why, &bytes), DIP_LIMIT);
    assert_non_null(strstr(why.text, "more than 5 bytes"));
    assert_int_equal(dip_tokenizer_decode(*state, ids, 2, text, 7, NULL, &bytes), DIP_OK);
    assert_string_equal(text, "hello!");
}

static void finds_added_tokens_only(void **state)
{
    int32_t id = -1;
    assert_int_equal(dip_tokenizer_find(*state, "<im_start>", &id), DIP_OK);
    assert_int_equal(id, 302);
    assert_int_equal(dip_tokenizer_find(*state, "<I12>", &id), DIP_OK);
    assert_int_equal(id, 306);
    assert_int_equal(dip_tokenizer_find(*state, "hello", &id), DIP_NOT_FOUND);
    assert_int_equal(dip_tokenizer_find(*state, "<im_star", &id), DIP_NOT_FOUND);
    assert_int_equal(dip_tokenizer_find(*state, "", &id), DIP_NOT_FOUND);
    assert_int_equal(id, 306);
}

/* ---- files ---- */

/* A copy of json with the first `from` replaced. */
static char *replaced(const char *json, const char *from, const char *to)
{
    const char *at = strstr(json, from);
    if (!at)
        fail_msg("the file has no %s", from);
    size_t before = (size_t)(at - json);
    char *copy = malloc(strlen(json) + strlen(to) + 1);
    assert_non_null(copy);
    memcpy(copy, json, before);
    memcpy(copy + before, to, strlen(to));
    memcpy(copy + before + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    return copy;
}

struct edit {
    const char *from, *to;
    enum dip_status status;
    const char *fragment; /* of the sentence */
};

static void expect_refusals(const struct edit *edits, size_t count)
{
    char *json = tokenizer_json_new(false);
    assert_non_null(json);
    for (size_t i = 0; i < count; i++) {
        struct dip_tokenizer *t = NULL;
        struct dip_why why = {0};
        char *edited = replaced(json, edits[i].from, edits[i].to);
        enum dip_status status = dip_tokenizer_parse(edited, strlen(edited), "t.json", &why, &t);
        if (status != edits[i].status || !strstr(why.text, edits[i].fragment) ||
            strncmp(why.text, "t.json", 6) != 0)
            fail_msg("%s -> %s: %s: \"%s\", expected %s: \"...%s...\"", edits[i].from, edits[i].to,
                     dip_status_text(status), why.text, dip_status_text(edits[i].status),
                     edits[i].fragment);
        assert_null(t);
        free(edited);
    }
    free(json);
}

static void refuses_settings_it_does_not_implement(void **state)
{
    static const struct edit edits[] = {
        {"NFC", "NFKC", DIP_UNSUPPORTED, "normalizer: type is NFKC, only NFC"},
        {"{\"type\":\"NFC\"}", "null", DIP_CORRUPT, "normalizer is missing"},
        {"\"pre_tokenizer\":{", "\"pre_tokenizer\":null,\"x\":{", DIP_CORRUPT, "pre_tokenizer is"},
        {"\"Sequence\"", "\"Digits\"", DIP_UNSUPPORTED, "pre_tokenizer: type is Digits"},
        {"\"pretokenizers\":[", "\"pretokenizers\":[{},", DIP_UNSUPPORTED, "has 3 parts"},
        {"\"Split\"", "\"Whitespace\"", DIP_UNSUPPORTED, "pretokenizers[0]: type is Whitespace"},
        {"\"Regex\"", "\"String\"", DIP_UNSUPPORTED, "only a Regex"},
        {"\"Isolated\"", "\"Removed\"", DIP_UNSUPPORTED, "behavior is Removed"},
        {"\"invert\":false", "\"invert\":true", DIP_UNSUPPORTED, "invert is set"},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":true", DIP_UNSUPPORTED,
         "add_prefix_space is true"},
        {"\"add_prefix_space\":false,", "", DIP_UNSUPPORTED, "add_prefix_space is true"},
        {"\"use_regex\":false", "\"use_regex\":true", DIP_UNSUPPORTED, "use_regex is true"},
        {"\"use_regex\":false", "\"use_regex\":3", DIP_INVALID, "use_regex is 3"},
        {"\"post_processor\":null", "\"post_processor\":{\"type\":\"TemplateProcessing\"}",
         DIP_UNSUPPORTED, "post_processor: type is TemplateProcessing"},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Metaspace\"",
         DIP_UNSUPPORTED, "decoder: type is Metaspace"},
        {"\"BPE\"", "\"Unigram\"", DIP_UNSUPPORTED, "model: type is Unigram"},
        {"\"dropout\":null", "\"dropout\":0.1", DIP_UNSUPPORTED, "dropout is set"},
        {"\"end_of_word_suffix\":\"\"", "\"end_of_word_suffix\":\"</w>\"", DIP_UNSUPPORTED,
         "end_of_word_suffix is set"},
        {"\"ignore_merges\":false", "\"ignore_merges\":true", DIP_UNSUPPORTED, "ignore_merges"},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", DIP_UNSUPPORTED, "byte_fallback"},
        {"\"lstrip\":false", "\"lstrip\":true", DIP_UNSUPPORTED, "lstrip of \"<|im_start|>\""},
        {"\"single_word\":false", "\"single_word\":true", DIP_UNSUPPORTED, "single_word of"},
        {"\"normalized\":false,", "", DIP_CORRUPT, "normalized of \"<|im_start|>\" is missing"},
        {"<S0>", "e\\u0301", DIP_UNSUPPORTED, "not in form NFC"},
    };
    (void)state;
    expect_refusals(edits, sizeof edits / sizeof edits[0]);
}

static void refuses_patterns_it_cannot_run(void **state)
{
    static const struct edit edits[] = {
        {"(?i:'s|", "((?i:'s|", DIP_UNSUPPORTED, "cannot be used: missing closing parenthesis"},
        {"(?i:'s|", "\\\\C|(?i:'s|", DIP_UNSUPPORTED, "cannot be used"},
        {"(?i:'s|", "a*|(?i:'s|", DIP_UNSUPPORTED, "can match the empty text"},
        {"(?i:'s|", "\\\\Qx\\\\E|(?i:'s|", DIP_UNSUPPORTED, "uses \\Q"},
        {"(?i:'s|", "[a[b]]|(?i:'s|", DIP_UNSUPPORTED, "class inside a class"},
        {"(?i:'s|", "a\\\\Kb|(?i:'s|", DIP_UNSUPPORTED, "\\K"},
    };
    (void)state;
    expect_refusals(edits, sizeof edits / sizeof edits[0]);
}

static void refuses_broken_tables(void **state)
{
    static const struct edit edits[] = {
        {"\"\\u0041\":65", "\"\\u0041\\u0041\":65", DIP_CORRUPT, "symbol of byte 0x41 is missing"},
        {"\"\\u0041\":65", "\"\\u0041\":66", DIP_CORRUPT, "two entries have the id 66"},
        {"\"\\u0041\":65", "\"\\u0041\":-1", DIP_CORRUPT, "is not an integer from 0"},
        {"\"\\u0041\":65", "\"\\u0041\":1048576", DIP_CORRUPT, "is not an integer from 0"},
        {"\"\\u0041\":65", "\"\\u0041\":1.5", DIP_CORRUPT, "is not an integer from 0"},
        {"\"\\u0041\":65", "\"\\u0041\":65,\"\":280", DIP_CORRUPT, "is 0 bytes"},
        {"\"\\u0041\":65", "\"\\u0041\":65,\"a b\":280", DIP_CORRUPT, "not made of byte symbols"},
        {"\"\\u0041\":65", "\"\\u0041\":65,\"\\u4e2d\":280", DIP_CORRUPT,
         "not made of byte symbols"},
        {"\"vocab\":{", "\"vocab\":[],\"x\":{", DIP_UNSUPPORTED, "x is set"},
        {"\"merges\":[", "\"merges\":[3,", DIP_CORRUPT, "merges[0] is neither"},
        {"\"merges\":[", "\"merges\":[[\"a\"],", DIP_CORRUPT, "merges[0] is neither"},
        {"\"merges\":[", "\"merges\":[\"a\",", DIP_CORRUPT, "merges[0] is neither"},
        {"\"merges\":[", "\"merges\":[\"a b c\",", DIP_CORRUPT, "merges[0] is neither"},
        {"\"merges\":[", "\"merges\":[\"a \",", DIP_CORRUPT, "one of"},
        {"\"merges\":[", "\"merges\":[\"a bb\",", DIP_CORRUPT, "one of"},
        {"\"merges\":[", "\"merges\":[\"a b\",", DIP_CORRUPT, "the union of"},
        {"\"merges\":[", "\"merges\":[\"l l\",", DIP_CORRUPT, "is there twice"},
        {"\"id\":301", "\"id\":300", DIP_CORRUPT,
         "the id 300 of \"<|im_end|>\" belongs to another"},
        {"\"id\":301", "\"id\":65", DIP_CORRUPT, "the id 65 of \"<|im_end|>\" belongs to another"},
        {"\"content\":\"<|im_end|>\"", "\"content\":\"<im_end>\"", DIP_CORRUPT,
         "\"<im_end>\" is there twice"},
        {"\"content\":\"<|im_end|>\"", "\"content\":\"<S0>\"", DIP_CORRUPT,
         "\"<S0>\" is there twice"},
        {"\"content\":\"<|im_end|>\"", "\"content\":7", DIP_CORRUPT, "added_tokens[1]: content"},
        {"\"content\":\"<|im_end|>\"", "\"content\":\"\"", DIP_CORRUPT, "is 0 bytes"},
        {"\"added_tokens\":[", "\"added_tokens\":{},\"x\":[", DIP_CORRUPT,
         "added_tokens is missing"},
    };
    (void)state;
    expect_refusals(edits, sizeof edits / sizeof edits[0]);
}

/* An added token may repeat a vocabulary entry, as in files of other families. */
static void accepts_an_added_token_that_is_a_word(void **state)
{
    char *json = tokenizer_json_new(false);
    assert_non_null(json);
    char *edited = replaced(json, "\"id\":307,\"content\":\"@@\"", "\"id\":257,\"content\":\"he\"");
    struct dip_tokenizer *t = NULL;
    struct dip_why why = {0};
    (void)state;
    if (dip_tokenizer_parse(edited, strlen(edited), "t.json", &why, &t))
        fail_msg("%s", why.text);
    EXPECT_IDS(t, DIP_TEXT_PUBLISHED, "hello", 257, 258);
    EXPECT_IDS(t, DIP_TEXT_PLAIN, "hello", 259);
    dip_tokenizer_close(t);
    free(edited);
    free(json);
}

static void refuses_a_word_that_is_too_long(void **state)
{
    char to[DIP_TOKEN_BYTES_MAX + 64] = "\"content\":\"";
    size_t bytes = strlen(to);
    (void)state;
    memset(to + bytes, 'x', DIP_TOKEN_BYTES_MAX + 1);
    to[bytes + DIP_TOKEN_BYTES_MAX + 1] = '"';
    struct edit edit = {"\"content\":\"@@\"", to, DIP_CORRUPT, "expected 1 to 1024"};
    expect_refusals(&edit, 1);
}

/* No prefix of the file loads, and each says so. */
static void refuses_every_truncation(void **state)
{
    char *json = tokenizer_json_new(true);
    assert_non_null(json);
    (void)state;
    for (size_t bytes = 0; bytes < strlen(json); bytes += bytes < 64 ? 1 : 13) {
        struct dip_tokenizer *t = NULL;
        struct dip_why why = {0};
        assert_int_not_equal(dip_tokenizer_parse(json, bytes, "t.json", &why, &t), DIP_OK);
        assert_true(why.text[0] != '\0');
    }
    free(json);
}

static void names_the_file_that_is_missing(void **state)
{
    struct dip_tokenizer *t = NULL;
    struct dip_why why = {0};
    (void)state;
    assert_int_equal(dip_tokenizer_open("tests/no-such/tokenizer.json", &why, &t), DIP_NOT_FOUND);
    assert_non_null(strstr(why.text, "no-such"));
    dip_tokenizer_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_by_rank_then_from_the_left),
        cmocka_unit_test(merges_may_be_pairs),
        cmocka_unit_test(nothing_has_no_ids),
        cmocka_unit_test(pieces_are_not_merged_across),
        cmocka_unit_test(code_points_are_classified_as_published),
        cmocka_unit_test(text_is_brought_into_form_c),
        cmocka_unit_test(young_marks_are_left_alone),
        cmocka_unit_test(added_tokens_are_recognised_only_as_published),
        cmocka_unit_test(the_leftmost_then_longest_added_token_wins),
        cmocka_unit_test(marks_behind_added_tokens),
        cmocka_unit_test(added_tokens_cut_the_text),
        cmocka_unit_test(refuses_what_is_not_utf8),
        cmocka_unit_test(refuses_more_ids_than_there_is_room_for),
        cmocka_unit_test(refuses_text_beyond_the_ceiling),
        cmocka_unit_test(a_long_word_takes_linear_steps),
        cmocka_unit_test(merges_that_collide_are_refused),
        cmocka_unit_test(a_long_run_of_marks_is_ordered),
        cmocka_unit_test(decodes_what_it_encoded),
        cmocka_unit_test(decodes_broken_bytes_to_replacements),
        cmocka_unit_test(refuses_to_decode_unknown_ids_and_beyond_the_buffer),
        cmocka_unit_test(finds_added_tokens_only),
        cmocka_unit_test(refuses_settings_it_does_not_implement),
        cmocka_unit_test(refuses_patterns_it_cannot_run),
        cmocka_unit_test(refuses_broken_tables),
        cmocka_unit_test(accepts_an_added_token_that_is_a_word),
        cmocka_unit_test(refuses_a_word_that_is_too_long),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(names_the_file_that_is_missing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
