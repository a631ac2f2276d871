/* tests/unit/proto_error.c - errors there and back, and that they stay small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/error.h"
#include "proto/google/rpc/status.pb-c.h"
#include "proto/wire.h"

static struct dip_error there_and_back(const struct dip_error *error)
{
    void *data = NULL;
    size_t bytes = 0;
    struct dip_error back;
    assert_int_equal(dip_error_encode(error, &data, &bytes), DIP_OK);
    assert_true(bytes <= DIP_ERROR_BYTES_MAX);
    assert_int_equal(dip_error_decode(data, bytes, &back), DIP_OK);
    free(data);
    return back;
}

static void an_error_comes_back_equal(void **state)
{
    (void)state;
    struct dip_error error;
    dip_error_set(&error, DIP_REASON_BAD_FIELD, "n must be 1..10 (got %d)", 50);
    dip_error_fact(&error, "limit", "%d", 10);
    dip_error_field(&error, "n", "50, allowed are 1..10");
    dip_error_field(&error, "sampling.top_p", "2, allowed is above 0 and at most 1");
    struct dip_error back = there_and_back(&error);
    assert_memory_equal(&back, &error, sizeof error);

    dip_error_set(&error, DIP_REASON_QUOTA, "images a minute are used up");
    dip_error_retry(&error, INT64_C(1500000000));
    dip_error_quota(&error, "tenant:a", "60 images a minute");
    back = there_and_back(&error);
    assert_memory_equal(&back, &error, sizeof error);
}

/* The rows that clients lean on most; codes are those of google.rpc.Code. */
static void reasons_decide_codes(void **state)
{
    (void)state;
    assert_int_equal(dip_reason_code(DIP_REASON_BAD_FIELD), 3);
    assert_int_equal(dip_reason_code(DIP_REASON_OVERLOADED), 14);
    assert_int_equal(dip_reason_code(DIP_REASON_QUOTA), 8);
    assert_int_equal(dip_reason_code(DIP_REASON_BUG), 13);
    assert_int_equal(dip_reason_code(DIP_REASON_NO_CREDENTIAL), 16);
    assert_int_equal(dip_reason_http(DIP_REASON_CANCELLED), 499);
    assert_int_equal(dip_reason_retry(DIP_REASON_NOT_LEADER), DIP_RETRY_SOON);
    for (int i = 0; i < DIP_REASON_COUNT; i++) {
        assert_true(dip_reason_code((enum dip_reason)i) > 0);
        assert_true(strlen(dip_reason_name((enum dip_reason)i)) <= 63);
        /* Only what may be retried blindly is UNAVAILABLE. */
        if (dip_reason_retry((enum dip_reason)i) == DIP_RETRY_SOON)
            assert_int_equal(dip_reason_code((enum dip_reason)i), 14);
    }
}

/* Everything as long as it can be, in characters that are cut in the middle. */
static void the_largest_error_still_fits(void **state)
{
    (void)state;
    char text[1000];
    for (size_t i = 0; i + 3 < sizeof text; i += 3)
        memcpy(text + i, "\xe2\x82\xac", 4);
    text[0] = 'x'; /* shifts the cut */
    text[1] = 'x';
    text[2] = 'x';
    struct dip_error error;
    dip_error_set(&error, DIP_REASON_IMAGE_UNDECODABLE, "%s", text);
    for (int i = 0; i < 100; i++)
        dip_error_fact(&error, text, "%s", text);
    for (int i = 0; i < 100; i++)
        dip_error_field(&error, text, "%s", text);
    dip_error_retry(&error, INT64_MAX);
    dip_error_quota(&error, text, "%s", text);
    assert_int_equal(error.fact_count, DIP_ERROR_FACTS_MAX);
    struct dip_error back = there_and_back(&error); /* refuses what is not UTF-8 */
    assert_memory_equal(&back, &error, sizeof error);
}

static void foreign_errors_are_read_as_far_as_they_go(void **state)
{
    (void)state;
    Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
    any.type_url = (char[]){"type.googleapis.com/google.rpc.DebugInfo"};
    Google__Protobuf__Any *list[] = {&any};
    Google__Rpc__Status whole = GOOGLE__RPC__STATUS__INIT;
    whole.message = (char[]){"somebody else's words"};
    whole.n_details = 1;
    whole.details = list;
    void *data;
    size_t bytes;
    assert_int_equal(dip_proto_encode(&whole.base, &data, &bytes), DIP_OK);
    struct dip_error error;
    assert_int_equal(dip_error_decode(data, bytes, &error), DIP_OK);
    assert_string_equal(error.message, "somebody else's words");
    assert_int_equal(error.reason, DIP_REASON_BUG);
    free(data);
    assert_int_equal(dip_error_decode("\xff", 1, &error), DIP_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_comes_back_equal),
        cmocka_unit_test(reasons_decide_codes),
        cmocka_unit_test(the_largest_error_still_fits),
        cmocka_unit_test(foreign_errors_are_read_as_far_as_they_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
