/* tests/unit/json_writer.c - what the writer writes, a strict reader reads back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "cli/json.h"

static char *text;
static size_t bytes;
static struct json_writer writer;

static void begin(void)
{
    writer = (struct json_writer){.out = open_memstream(&text, &bytes)};
    assert_non_null(writer.out);
}

static void end(void)
{
    assert_int_equal(fclose(writer.out), 0);
}

static void nesting_and_commas(void **state)
{
    (void)state;
    begin();
    dip__json_open(&writer, NULL, '{');
    dip__json_int(&writer, "a", -5);
    dip__json_open(&writer, "list", '[');
    dip__json_bool(&writer, NULL, true);
    dip__json_open(&writer, NULL, '{');
    dip__json_close(&writer, '}');
    dip__json_real(&writer, NULL, 0.5, 3);
    dip__json_close(&writer, ']');
    dip__json_real(&writer, "nan", NAN, 3);
    dip__json_ms(&writer, "ms", 1234567);
    dip__json_close(&writer, '}');
    end();
    assert_string_equal(text, "{\"a\": -5, \"list\": [true, {}, 0.5], \"nan\": null, "
                              "\"ms\": 1.235}\n");
    free(text);
}

static void numbers_keep_their_digits(void **state)
{
    (void)state;
    begin();
    dip__json_open(&writer, NULL, '[');
    dip__json_uint(&writer, NULL, UINT64_MAX);
    dip__json_int(&writer, NULL, INT64_MIN);
    dip__json_close(&writer, ']');
    end();
    assert_string_equal(text, "[18446744073709551615, -9223372036854775808]\n");
    free(text);
}

/* Any bytes: the result is valid JSON, and valid UTF-8 in it arrives unchanged. */
static void strings_are_always_valid(void **state)
{
    (void)state;
    static const char *const same[] = {"", "a\"b\\c", "tab\tline\n\x01", "K\xc3\xa4se",
                                       "\xf0\x9f\x8e\xa8"};
    static const char *const broken[] = {"caf\xe9",          "\xc0\xaf", "\xed\xa0\x80",
                                         "\xf4\x90\x80\x80", "\xe2\x82", "\xff"};
    for (size_t i = 0; i < 5 + 6; i++) {
        const char *value = i < 5 ? same[i] : broken[i - 5], *read = NULL;
        struct dip_json json;
        begin();
        dip__json_open(&writer, NULL, '{');
        dip__json_string(&writer, "s", value);
        dip__json_close(&writer, '}');
        end();
        assert_int_equal(dip_json_parse(text, bytes, "test", NULL, &json), DIP_OK);
        assert_int_equal(dip_json_string(&json, "s", NULL, &read), DIP_OK);
        if (i < 5)
            assert_string_equal(read, value);
        else
            assert_non_null(strstr(read, "\xef\xbf\xbd"));
        dip_json_close(&json);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nesting_and_commas),
        cmocka_unit_test(numbers_keep_their_digits),
        cmocka_unit_test(strings_are_always_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
