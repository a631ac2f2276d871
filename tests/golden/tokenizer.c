/* tests/golden/tokenizer.c - ids of the published tokenizer code, exactly, on 765 strings and 128
 * prompts.
 *
 * Lines and how they were made: tests/golden/README.md. The tolerance is none. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/prompt.h"
#include "model/tokenizer.h"

enum { IDS_MAX = 4096, VOCAB = 395 };

static int setup(void **state)
{
    struct dip_why why = {0};
    struct dip_tokenizer *t = NULL;
    if (dip_tokenizer_open("tests/golden/tiny-a/model/tokenizer.json", &why, &t))
        fail_msg("%s", why.text);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    dip_tokenizer_close(*state);
    return 0;
}

/* Compares what `status` came with and the line's array. */
static void expect_ids(const json_t *line, const char *key, enum dip_status status,
                       const struct dip_why *why, const int32_t *ids, int count)
{
    const json_t *expected = json_object_get(line, key);
    char *text = json_dumps(line, JSON_ENSURE_ASCII | JSON_COMPACT);
    if (status)
        fail_msg("%s: %s", text, why->text);
    if (json_array_size(expected) != (size_t)count)
        fail_msg("%s: %d ids", text, count);
    for (int i = 0; i < count; i++)
        if (json_integer_value(json_array_get(expected, (size_t)i)) != ids[i])
            fail_msg("%s: %s[%d] is %d", text, key, i, (int)ids[i]);
    free(text);
}

typedef void (*line_fn)(const struct dip_tokenizer *t, const json_t *line);

/* Runs check on every line and returns their number. */
static int for_each_line(const struct dip_tokenizer *t, const char *path, line_fn check)
{
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t room = 0;
    int count = 0;
    assert_non_null(file);
    while (getline(&text, &room, file) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        assert_non_null(line);
        check(t, line);
        json_decref(line);
        count++;
    }
    free(text);
    (void)fclose(file);
    return count;
}

static void expect_encoding(const struct dip_tokenizer *t, const json_t *line,
                            enum dip_text_mode mode, const char *key)
{
    int32_t ids[IDS_MAX];
    int count = 0;
    struct dip_why why = {0};
    const json_t *text = json_object_get(line, "text");
    enum dip_status status = dip_tokenizer_encode(
        t, json_string_value(text), json_string_length(text), mode, ids, IDS_MAX, &why, &count);
    expect_ids(line, key, status, &why, ids, count);
}

static void check_string(const struct dip_tokenizer *t, const json_t *line)
{
    expect_encoding(t, line, DIP_TEXT_PUBLISHED, "ids");
    expect_encoding(t, line, DIP_TEXT_PLAIN, "ids_text");
}

/* The empty caption has published ids, but is refused here. */
static void check_prompt(const struct dip_tokenizer *t, const json_t *line)
{
    int32_t ids[IDS_MAX];
    int count = 0;
    struct dip_why why = {0};
    const json_t *prompt = json_object_get(line, "prompt");
    enum dip_status status =
        dip_prompt_build(t, VOCAB, json_string_value(prompt), json_string_length(prompt), ids,
                         IDS_MAX, &why, &count);
    if (json_string_length(prompt) == 0)
        assert_int_equal(status, DIP_INVALID);
    else
        expect_ids(line, "ids_text", status, &why, ids, count);
}

static void strings_get_the_published_ids(void **state)
{
    int count = for_each_line(*state, "tests/golden/tokenizer/tiny.jsonl", check_string);
    assert_in_range(count, 500, 100000);
}

static void prompts_get_the_published_ids(void **state)
{
    int count = for_each_line(*state, "tests/golden/tokenizer/prompts.jsonl", check_prompt);
    assert_in_range(count, 100, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_get_the_published_ids),
        cmocka_unit_test(prompts_get_the_published_ids),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
