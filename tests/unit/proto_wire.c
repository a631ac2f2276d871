/* tests/unit/proto_wire.c - messages there and back, and everything that is refused on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/diptych/internal/v1/worker.pb-c.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/diptych/v1/model.pb-c.h"
#include "proto/time.h"
#include "proto/wire.h"

static const ProtobufCMessageDescriptor *const generate =
    &diptych__v1__generate_request__descriptor;

static void a_request_comes_back_equal(void **state)
{
    (void)state;
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    sampling.seed_presence_case = DIPTYCH__V1__SAMPLING__SEED_PRESENCE_SEED;
    sampling.seed = 0; /* given, and zero: must not look like not given */
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    request.prompt = (char[]){"ein roter Apfel, \xc3\xa4\xf0\x9f\x8d\x8e"};
    request.n = 3;
    request.sampling = &sampling;
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_proto_encode(&request.base, &data, &bytes), DIP_OK);

    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(generate, data, bytes, NULL, &message), DIP_OK);
    const Diptych__V1__GenerateRequest *back = (const Diptych__V1__GenerateRequest *)message;
    assert_string_equal(back->prompt, request.prompt);
    assert_int_equal(back->n, 3);
    assert_int_equal(back->sampling->seed_presence_case, DIPTYCH__V1__SAMPLING__SEED_PRESENCE_SEED);
    assert_int_equal(back->sampling->top_p_presence_case, 0);
    assert_null(back->output);
    dip_proto_free(message);
    free(data);
}

static void nothing_is_an_empty_message(void **state)
{
    (void)state;
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(generate, NULL, 0, NULL, &message), DIP_OK);
    assert_string_equal(((const Diptych__V1__GenerateRequest *)message)->prompt, "");
    void *data = NULL;
    size_t bytes = 1;
    assert_int_equal(dip_proto_encode(message, &data, &bytes), DIP_OK);
    assert_non_null(data);
    assert_int_equal(bytes, 0);
    free(data);
    dip_proto_free(message);
}

/* Expects a refusal, and returns what was said. */
static struct dip_proto_fault refused(const ProtobufCMessageDescriptor *type, const void *data,
                                      size_t bytes, enum dip_status expected)
{
    struct dip_proto_fault fault = {.field = ""};
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(type, data, bytes, &fault, &message), expected);
    assert_null(message);
    assert_true(fault.text[0] != '\0');
    return fault;
}

static void a_long_text_is_named_with_both_numbers(void **state)
{
    (void)state;
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    char *text = calloc(1, 16384 + 2);
    assert_non_null(text);
    memset(text, 'x', 16384);
    sampling.negative_prompt = text;
    request.sampling = &sampling;
    void *data;
    size_t bytes;
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_encode(&request.base, &data, &bytes), DIP_OK);
    assert_int_equal(dip_proto_decode(generate, data, bytes, NULL, &message), DIP_OK);
    dip_proto_free(message);
    free(data);

    text[16384] = 'x';
    assert_int_equal(dip_proto_encode(&request.base, &data, &bytes), DIP_OK);
    struct dip_proto_fault fault = refused(generate, data, bytes, DIP_LIMIT);
    assert_string_equal(fault.field, "sampling.negative_prompt");
    assert_string_equal(fault.text, "16385 bytes, at most 16384");
    free(data);
    free(text);
}

static void a_long_list_is_refused_packed_or_not(void **state)
{
    (void)state;
    enum { MAX = 2048 };
    const ProtobufCMessageDescriptor *type = &diptych__internal__v1__ar_job__descriptor;
    uint32_t ids[MAX + 1] = {0};
    Diptych__Internal__V1__ArJob job = DIPTYCH__INTERNAL__V1__AR_JOB__INIT;
    job.prompt_ids = ids;
    job.n_prompt_ids = MAX + 1;
    void *data;
    size_t bytes;
    assert_int_equal(dip_proto_encode(&job.base, &data, &bytes), DIP_OK);
    assert_string_equal(refused(type, data, bytes, DIP_LIMIT).text, "2049 entries, at most 2048");
    free(data);

    unsigned char loose[2 * (MAX + 1)];
    for (size_t i = 0; i < sizeof loose; i += 2) {
        loose[i] = 4 << 3; /* prompt_ids, one number each */
        loose[i + 1] = 7;
    }
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(type, loose, sizeof loose - 2, NULL, &message), DIP_OK);
    assert_int_equal(((const Diptych__Internal__V1__ArJob *)message)->n_prompt_ids, MAX);
    dip_proto_free(message);
    assert_string_equal(refused(type, loose, sizeof loose, DIP_LIMIT).field, "prompt_ids");
}

static void texts_are_utf8_without_nul(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
    } bad[] = {{"\x1a\x03"
                "a\0b",
                5},
               {"\x1a\x02\xc0\x80", 4},         /* overlong NUL */
               {"\x1a\x03\xed\xa0\x80", 5},     /* a surrogate */
               {"\x1a\x04\xf4\x90\x80\x80", 6}, /* beyond U+10FFFF */
               {"\x1a\x01\xff", 3},
               {"\x1a\x01\xc3", 3}}; /* cut inside a character */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dip_proto_fault fault = refused(generate, bad[i].bytes, bad[i].count, DIP_CORRUPT);
        assert_string_equal(fault.field, "prompt");
    }
}

static void broken_bytes_are_corrupt(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
    } bad[] = {
        {"\x1a\x05xy", 4},                                        /* text longer than the rest */
        {"\x20", 1},                                              /* a number that does not come */
        {"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* a number that does not end */
        {"\x1b\x1c", 2},                                          /* groups */
        {"\x00", 1},                                              /* field number 0 */
        {"\x18\x01", 2},                                  /* a number where a text belongs */
        {"\x22\x01\x01", 3},                              /* a block where a number belongs */
        {"\x2a\x02\x0a\x05", 4},                          /* cut short inside */
        {"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10}, /* 2^63 bytes of text */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused(generate, bad[i].bytes, bad[i].count, DIP_CORRUPT);
}

/* 2 bytes on the wire become a record of 40 and more: the number of fields is bounded. */
static void a_flood_of_fields_is_refused(void **state)
{
    (void)state;
    size_t bytes = 2 * ((size_t)DIP_PROTO_FIELDS_MAX + 1);
    unsigned char *data = malloc(bytes);
    assert_non_null(data);
    for (size_t i = 0; i < bytes; i += 2) {
        data[i] = 15 << 3; /* unknown, a number */
        data[i + 1] = 0;
    }
    refused(generate, data, bytes, DIP_LIMIT);
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(generate, data, bytes - 2, NULL, &message), DIP_OK);
    dip_proto_free(message);
    free(data);
}

static void unknown_fields_are_skipped(void **state)
{
    (void)state;
    static const unsigned char data[] = {0xf8, 0x07, 1,       /* field 127 = 1 */
                                         0xfa, 0x07, 2, 0, 0, /* field 127, two bytes */
                                         0x20, 5};            /* n = 5 */
    ProtobufCMessage *message = NULL;
    assert_int_equal(dip_proto_decode(generate, data, sizeof data, NULL, &message), DIP_OK);
    assert_int_equal(((const Diptych__V1__GenerateRequest *)message)->n, 5);
    dip_proto_free(message);
}

static void durations_are_nanoseconds(void **state)
{
    (void)state;
    Google__Protobuf__Duration d;
    int64_t ns = 1;
    assert_true(dip_duration_decode(NULL, &ns));
    assert_int_equal(ns, 0);
    dip_duration_encode(INT64_C(90000000001), &d);
    assert_true(dip_duration_decode(&d, &ns));
    assert_int_equal(ns, INT64_C(90000000001));
    d.nanos = 1000000000;
    assert_false(dip_duration_decode(&d, &ns));
    d.nanos = -1;
    assert_false(dip_duration_decode(&d, &ns));
    d.nanos = 0;
    d.seconds = INT64_MAX;
    assert_false(dip_duration_decode(&d, &ns));
    Google__Protobuf__Timestamp t;
    dip_timestamp_encode(-1, &t);
    assert_int_equal(t.seconds, -1);
    assert_int_equal(t.nanos, 999999999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_comes_back_equal),
        cmocka_unit_test(nothing_is_an_empty_message),
        cmocka_unit_test(a_long_text_is_named_with_both_numbers),
        cmocka_unit_test(a_long_list_is_refused_packed_or_not),
        cmocka_unit_test(texts_are_utf8_without_nul),
        cmocka_unit_test(broken_bytes_are_corrupt),
        cmocka_unit_test(a_flood_of_fields_is_refused),
        cmocka_unit_test(unknown_fields_are_skipped),
        cmocka_unit_test(durations_are_nanoseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
