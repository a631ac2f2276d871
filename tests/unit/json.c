/* tests/unit/json.c - getters: defaults stand, wrong values are named, hostile texts are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/limits.h"
#include "tests/scratch.h"

static struct dip_json parse(const char *text)
{
    struct dip_why why = {0};
    struct dip_json json = {0};
    enum dip_status status = dip_json_parse(text, strlen(text), "t.json", &why, &json);
    if (status)
        fail_msg("%s", why.text);
    return json;
}

static void expect_refused(const char *text, size_t bytes, enum dip_status expected,
                           const char *sentence)
{
    struct dip_why why = {0};
    struct dip_json json = {0};
    assert_int_equal(dip_json_parse(text, bytes, "t.json", &why, &json), expected);
    assert_null(json.object);
    if (!strstr(why.text, sentence))
        fail_msg("\"%s\" does not say \"%s\"", why.text, sentence);
}

static void scalars(void **state)
{
    (void)state;
    struct dip_json json =
        parse("{\"i\": 7, \"w\": 1000000.0, \"d\": 1e-6, \"b\": true, \"s\": \"x\","
              " \"n\": null}");
    int64_t i = 0;
    int64_t w = 0;
    double d = 0;
    double whole = 0;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(dip_json_int(&json, "i", 7, 7, NULL, &i), DIP_OK);
    assert_int_equal(dip_json_int(&json, "w", 0, INT64_MAX, NULL, &w), DIP_OK);
    assert_int_equal(dip_json_double(&json, "d", 0, 1, NULL, &d), DIP_OK);
    assert_int_equal(dip_json_double(&json, "i", 0, 10, NULL, &whole), DIP_OK);
    assert_int_equal(dip_json_bool(&json, "b", NULL, &b), DIP_OK);
    assert_int_equal(dip_json_string(&json, "s", NULL, &s), DIP_OK);
    assert_int_equal(i, 7);
    assert_int_equal(w, 1000000);
    assert_true(d == 1e-6 && whole == 7 && b);
    assert_string_equal(s, "x");
    assert_true(dip_json_has(&json, "i"));
    assert_false(dip_json_has(&json, "n"));
    assert_false(dip_json_has(&json, "absent"));
    dip_json_close(&json);
    assert_null(json.object);
}

static void absent_and_null_leave_the_default(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"n\": null}");
    static const char *const keys[] = {"n", "absent"};
    for (int k = 0; k < 2; k++) {
        int64_t i = 5;
        double d = 0.5;
        bool b = true;
        const char *s = "default";
        int64_t list[2] = {1, 2};
        int count = 2;
        assert_int_equal(dip_json_int(&json, keys[k], 0, 9, NULL, &i), DIP_OK);
        assert_int_equal(dip_json_double(&json, keys[k], 0, 1, NULL, &d), DIP_OK);
        assert_int_equal(dip_json_bool(&json, keys[k], NULL, &b), DIP_OK);
        assert_int_equal(dip_json_string(&json, keys[k], NULL, &s), DIP_OK);
        assert_int_equal(dip_json_ints(&json, keys[k], 0, 9, 2, NULL, list, &count), DIP_OK);
        assert_true(i == 5 && d == 0.5 && b && strcmp(s, "default") == 0 && list[1] == 2);
        assert_int_equal(count, 2);
    }
    dip_json_close(&json);
}

static void wrong_values_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        const char *found;
    } cases[] = {
        {"10", "t.json: k is 10, expected an integer from 0 to 9"},
        {"-1", "t.json: k is -1, expected"},
        {"1.5", "t.json: k is 1.5, expected"},
        {"\"five\"", "t.json: k is \"five\", expected"},
        {"true", "t.json: k is true, expected"},
        {"[]", "t.json: k is an array, expected"},
        {"{}", "t.json: k is an object, expected"},
        {"1e300", "t.json: k is 1e+300, expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"k\": %s}", cases[i].value);
        struct dip_json json = parse(text);
        struct dip_why why = {0};
        int64_t value = 3;
        assert_int_equal(dip_json_int(&json, "k", 0, 9, &why, &value), DIP_INVALID);
        assert_int_equal(value, 3);
        if (!strstr(why.text, cases[i].found))
            fail_msg("\"%s\" does not say \"%s\"", why.text, cases[i].found);
        dip_json_close(&json);
    }
}

static void other_types_are_named(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"i\": 1, \"s\": \"x\"}");
    struct dip_why whys[4] = {0};
    double d = 0;
    bool b = false;
    const char *s = NULL;
    struct dip_json child = {0};
    assert_int_equal(dip_json_double(&json, "i", 2, 3, &whys[0], &d), DIP_INVALID);
    assert_string_equal(whys[0].text, "t.json: i is 1, expected a number from 2 to 3");
    assert_int_equal(dip_json_bool(&json, "s", &whys[1], &b), DIP_INVALID);
    assert_string_equal(whys[1].text, "t.json: s is \"x\", expected true or false");
    assert_int_equal(dip_json_string(&json, "i", &whys[2], &s), DIP_INVALID);
    assert_string_equal(whys[2].text, "t.json: i is 1, expected a string");
    assert_int_equal(dip_json_object(&json, "i", &whys[3], &child), DIP_INVALID);
    assert_string_equal(whys[3].text, "t.json: i is 1, expected an object");
    dip_json_close(&json);
}

static void arrays(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"a\": [3, 4.0, 5], \"one\": 6, \"s\": [\"x\", \"y\"], "
                                 "\"lone\": \"z\", \"bad\": [1, \"x\"], \"bads\": [\"x\", 1]}");
    int64_t values[3];
    const char *texts[3];
    int count = 0;
    struct dip_why why = {0};
    struct dip_why why_long = {0};
    struct dip_why why_string = {0};
    assert_int_equal(dip_json_ints(&json, "a", 3, 5, 3, NULL, values, &count), DIP_OK);
    assert_int_equal(count, 3);
    assert_true(values[0] == 3 && values[1] == 4 && values[2] == 5);
    assert_int_equal(dip_json_ints(&json, "one", 3, 6, 3, NULL, values, &count), DIP_OK);
    assert_true(count == 1 && values[0] == 6);
    assert_int_equal(dip_json_strings(&json, "s", 3, NULL, texts, &count), DIP_OK);
    assert_true(count == 2 && strcmp(texts[1], "y") == 0);
    assert_int_equal(dip_json_strings(&json, "lone", 3, NULL, texts, &count), DIP_OK);
    assert_true(count == 1 && strcmp(texts[0], "z") == 0);
    assert_int_equal(dip_json_ints(&json, "bad", 0, 9, 3, &why, values, &count), DIP_INVALID);
    assert_non_null(strstr(why.text, "bad[1] is \"x\", expected an integer"));
    assert_int_equal(dip_json_ints(&json, "a", 0, 9, 2, &why_long, values, &count), DIP_LIMIT);
    assert_non_null(strstr(why_long.text, "a has 3 elements, expected at most 2"));
    assert_int_equal(dip_json_strings(&json, "bads", 3, &why_string, texts, &count), DIP_INVALID);
    assert_non_null(strstr(why_string.text, "bads[1] is 1, expected a string"));
    dip_json_close(&json);
}

static void rows(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"r\": [[], [5], [1, 2]], \"d\": [[0.5, 1], 3]}");
    int count = 0;
    int64_t ints[2];
    double doubles[2];
    struct dip_why why = {0};
    struct dip_why why_missing = {0};
    assert_int_equal(dip_json_rows(&json, "r", 3, NULL, &count), DIP_OK);
    assert_int_equal(count, 3);
    assert_int_equal(dip_json_rows(&json, "r", 2, NULL, &count), DIP_LIMIT);
    assert_int_equal(dip_json_row_ints(&json, "r", 0, 0, 9, 2, NULL, ints, &count), DIP_OK);
    assert_int_equal(count, 0);
    assert_int_equal(dip_json_row_ints(&json, "r", 2, 0, 9, 2, NULL, ints, &count), DIP_OK);
    assert_true(count == 2 && ints[0] == 1 && ints[1] == 2);
    assert_int_equal(dip_json_row_doubles(&json, "d", 0, 0, 1, 2, NULL, doubles, &count), DIP_OK);
    assert_true(count == 2 && doubles[0] == 0.5 && doubles[1] == 1);
    assert_int_equal(dip_json_row_doubles(&json, "d", 1, 0, 1, 2, &why, doubles, &count),
                     DIP_INVALID);
    assert_string_equal(why.text, "t.json: d[1] is 3, expected an array");
    assert_int_equal(dip_json_row_ints(&json, "absent", 0, 0, 1, 2, &why_missing, ints, &count),
                     DIP_INVALID);
    assert_string_equal(why_missing.text, "t.json: absent[0] is missing");
    dip_json_close(&json);
}

static void objects_and_keys(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"zebra\": {\"k\": 99}, \"ape\": 1}");
    struct dip_json child = {0};
    struct dip_why why = {0};
    void *cursor = NULL;
    int64_t value = 0;
    assert_int_equal(dip_json_object(&json, "zebra", NULL, &child), DIP_OK);
    assert_int_equal(dip_json_int(&child, "k", 0, 9, &why, &value), DIP_INVALID);
    assert_string_equal(why.text, "t.json: zebra: k is 99, expected an integer from 0 to 9");
    assert_string_equal(dip_json_next(&json, &cursor), "zebra"); /* file order, not sorted */
    assert_string_equal(dip_json_next(&json, &cursor), "ape");
    assert_null(dip_json_next(&json, &cursor));
    dip_json_close(&json);
}

/* Published scheduler files contain "lambda_min_clipped": -Infinity. */
static void python_literals_read_as_null(void **state)
{
    (void)state;
    struct dip_json json = parse("{\"a\": -Infinity, \"b\": Infinity,\"c\":NaN, \"d\": 2,"
                                 " \"e\": \"NaN -Infinity \\\"NaN\"}");
    int64_t d = 0;
    const char *e = NULL;
    assert_false(dip_json_has(&json, "a"));
    assert_false(dip_json_has(&json, "b"));
    assert_false(dip_json_has(&json, "c"));
    assert_int_equal(dip_json_int(&json, "d", 2, 2, NULL, &d), DIP_OK);
    assert_int_equal(dip_json_string(&json, "e", NULL, &e), DIP_OK);
    assert_string_equal(e, "NaN -Infinity \"NaN"); /* strings are left alone */
    dip_json_close(&json);
}

static void broken_texts_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *sentence;
    } cases[] = {
        {"", "t.json: line 1, column 0: "},
        {"{", "t.json: line 1, column 1: "},
        {"{\"a\": 1,\n \"b\": }", "t.json: line 2, column "},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": 1} trailing", "end of file expected"},
        {"{\"a\": \"\xff\"}", "unable to decode byte 0xff"},
        {"{\"a\": \"\\u0000\"}", "\\u0000"},
        {"[1, 2]", "expected a JSON object"},
        {"\"text\"", "t.json: "},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": NaNa}", "t.json: "},
        {"{\"a\": -Infinity", "t.json: "},
        {"{\"a\": \"unterminated \\", "t.json: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i].text, strlen(cases[i].text), DIP_CORRUPT, cases[i].sentence);
}

static void hostile_sizes_are_refused_early(void **state)
{
    (void)state;
    enum { BYTES = 5 << 20 };
    char *text = malloc(BYTES);
    assert_non_null(text);
    memset(text, '[', BYTES);
    memcpy(text, "{\"a\":", 5);
    expect_refused(text, BYTES, DIP_CORRUPT, "nested deeper than 64 levels");
    memset(text, ',', BYTES);
    memcpy(text, "{\"a\":[", 6);
    expect_refused(text, BYTES, DIP_LIMIT, "more than 2097152 values");
    expect_refused(text, (size_t)DIP_JSON_BYTES_MAX + 1, DIP_LIMIT, "expected at most 67108864");
    memset(text, 'x', BYTES);
    memcpy(text, "{\"a\":\"", 6);
    expect_refused(text, BYTES, DIP_LIMIT, "has a string or number of");
    memset(text, '1', BYTES);
    memcpy(text, "{\"a\":", 5);
    expect_refused(text, BYTES, DIP_LIMIT, "expected at most 1048576");
    free(text);
}

static void nesting_up_to_the_limit_is_fine(void **state)
{
    (void)state;
    char text[512] = "{\"a\":";
    for (int i = 1; i < DIP_JSON_DEPTH_MAX; i++)
        strncat(text, "[", 2);
    for (int i = 1; i < DIP_JSON_DEPTH_MAX; i++)
        strncat(text, "]", 2);
    strncat(text, "}", 2);
    struct dip_json json = parse(text);
    dip_json_close(&json);
}

static void files_are_opened_by_path(void **state)
{
    (void)state;
    struct scratch scratch = scratch_open();
    struct dip_json json = {0};
    struct dip_why absent = {0};
    struct dip_why broken = {0};
    scratch_write_text(&scratch, "good.json", "{\"a\": 1}");
    scratch_write_text(&scratch, "broken.json", "{\"a\": ");
    assert_int_equal(dip_json_open(scratch_path(&scratch, "good.json"), NULL, &json), DIP_OK);
    assert_true(dip_json_has(&json, "a"));
    dip_json_close(&json);
    assert_int_equal(dip_json_open(scratch_path(&scratch, "none.json"), &absent, &json),
                     DIP_NOT_FOUND);
    assert_int_equal(dip_json_open(scratch_path(&scratch, "broken.json"), &broken, &json),
                     DIP_CORRUPT);
    assert_non_null(strstr(broken.text, "broken.json: line 1, column"));
    scratch_close(&scratch);
}

/* Long names keep their end, where the file name is. */
static void long_names_keep_their_end(void **state)
{
    (void)state;
    char name[400];
    memset(name, 'd', sizeof name);
    memcpy(name + sizeof name - 10, "/end.json", 10);
    struct dip_json json = {0};
    assert_int_equal(dip_json_parse("{}", 2, name, NULL, &json), DIP_OK);
    assert_memory_equal(json.path, "...ddd", 6);
    assert_int_equal(strlen(json.path), sizeof json.path - 1);
    assert_non_null(strstr(json.path, "d/end.json"));
    dip_json_close(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars),
        cmocka_unit_test(absent_and_null_leave_the_default),
        cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(other_types_are_named),
        cmocka_unit_test(arrays),
        cmocka_unit_test(rows),
        cmocka_unit_test(objects_and_keys),
        cmocka_unit_test(python_literals_read_as_null),
        cmocka_unit_test(broken_texts_are_refused),
        cmocka_unit_test(hostile_sizes_are_refused_early),
        cmocka_unit_test(nesting_up_to_the_limit_is_fine),
        cmocka_unit_test(files_are_opened_by_path),
        cmocka_unit_test(long_names_keep_their_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
