/* tests/unit/status.c - sentences: the first one wins, nothing a terminal obeys gets through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static void every_status_has_a_text(void **state)
{
    (void)state;
    for (int i = 0; i < DIP_STATUS_COUNT; i++) {
        const char *text = dip_status_text((enum dip_status)i);
        assert_true(strlen(text) > 0);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(text, dip_status_text((enum dip_status)j));
    }
    assert_string_equal(dip_status_text(DIP_OK), "ok");
    assert_string_equal(dip_status_text((enum dip_status)999), "unknown status");
}

static void first_sentence_wins(void **state)
{
    (void)state;
    struct dip_why why = {0};
    assert_int_equal(dip_fail(&why, DIP_CORRUPT, "%s: %d", "origin", 1), DIP_CORRUPT);
    assert_int_equal(dip_fail(&why, DIP_IO, "later"), DIP_IO);
    assert_string_equal(why.text, "origin: 1");
    assert_int_equal(dip_fail(NULL, DIP_LIMIT, "nobody listens"), DIP_LIMIT);
}

static void long_text_is_cut(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct dip_why why = {0};
    (void)dip_fail(&why, DIP_INVALID, "%s", text);
    assert_int_equal(strlen(why.text), DIP_WHY_BYTES - 1);
    assert_string_equal(why.text + DIP_WHY_BYTES - 1 - 4, "x...");
}

/* Two-byte characters all along: the dots must not follow half of one. */
static void cut_keeps_characters_whole(void **state)
{
    (void)state;
    for (int lead = 0; lead < 2; lead++) {
        char text[2000] = "x";
        for (size_t i = (size_t)lead; i + 2 < sizeof text; i += 2)
            memcpy(text + i, "\xc3\xa9", 3);
        struct dip_why why = {0};
        (void)dip_fail(&why, DIP_INVALID, "%s", text);
        size_t length = strlen(why.text);
        assert_true(length >= DIP_WHY_BYTES - 2);
        assert_memory_equal(why.text + length - 5, "\xc3\xa9...", 5);
        assert_null(strchr(why.text, '?'));
    }
}

static void controls_become_question_marks(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *expected;
    } cases[] = {
        {"a\x1b[31mb\nc\td\x7f", "a?[31mb?c?d?"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"c1 \xc2\x9b end", "c1 ?? end"},         /* CSI as one character */
        {"\xff\xfe", "??"},                       /* never valid */
        {"\xc3", "?"},                            /* cut short */
        {"\xc0\xaf \xe0\x80\xaf", "?? ???"},      /* overlong */
        {"\xed\xa0\x80", "???"},                  /* surrogate */
        {"\xf4\x90\x80\x80", "????"},             /* beyond U+10FFFF */
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"}, /* U+10FFFF */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dip_why why = {0};
        (void)dip_fail(&why, DIP_INVALID, "%s", cases[i].text);
        assert_string_equal(why.text, cases[i].expected);
    }
}

static void a_file_is_no_fault_of_its_reader(void **state)
{
    (void)state;
    assert_int_equal(dip_status_of_file(DIP_INVALID), DIP_CORRUPT);
    assert_int_equal(dip_status_of_file(DIP_UNSUPPORTED), DIP_CORRUPT);
    assert_int_equal(dip_status_of_file(DIP_LIMIT), DIP_CORRUPT);
    assert_int_equal(dip_status_of_file(DIP_OK), DIP_OK);
    assert_int_equal(dip_status_of_file(DIP_NOT_FOUND), DIP_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_text),
        cmocka_unit_test(a_file_is_no_fault_of_its_reader),
        cmocka_unit_test(first_sentence_wins),
        cmocka_unit_test(long_text_is_cut),
        cmocka_unit_test(cut_keeps_characters_whole),
        cmocka_unit_test(controls_become_question_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
