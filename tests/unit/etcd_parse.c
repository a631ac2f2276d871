/* tests/unit/etcd_parse.c - what is sent to etcd's gateway and what it says (words of etcd 3.4.23),
 * byte by byte and damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/etcd.h"
#include "net/etcd_private.h"

#define HEADER "\"header\":{\"cluster_id\":\"13455796455940752355\",\"revision\":\"3\"}"

static struct dip__etcd_answer parse(enum dip_kv_kind kind, const char *text)
{
    struct dip__etcd_answer answer = {0};
    assert_int_equal(dip__etcd_parse(kind, text, strlen(text), &answer), DIP_OK);
    return answer;
}

static void refuses(enum dip_kv_kind kind, const char *text)
{
    struct dip__etcd_answer answer;
    assert_int_equal(dip__etcd_parse(kind, text, strlen(text), &answer), DIP_CORRUPT);
}

static void absent_fields_are_defaults(void **state)
{
    (void)state;
    struct dip__etcd_answer answer =
        parse(DIP_KV_GRANT, "{" HEADER ",\"ID\":\"4390624830243788549\",\"TTL\":\"5\"}");
    assert_true(answer.lease == INT64_C(4390624830243788549));
    assert_int_equal(answer.ttl_s, 5);
    answer = parse(DIP_KV_KEEPALIVE, "{\"result\":{" HEADER ",\"ID\":\"77\"}}\n");
    assert_int_equal(dip__etcd_status(answer.code), DIP_NOT_FOUND);
    answer = parse(DIP_KV_KEEPALIVE, "{\"result\":{" HEADER ",\"ID\":\"77\",\"TTL\":\"9\"}}");
    assert_int_equal(answer.code, 0);
    answer = parse(DIP_KV_PUT, "{" HEADER ",\"succeeded\":true,\"responses\":[{}]}");
    assert_true(answer.is_done);
    assert_int_equal(answer.revision, 3);
    answer = parse(DIP_KV_PUT, "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":[{\"key\":"
                               "\"L2E=\",\"create_revision\":\"2\",\"mod_revision\":2,\"value\":"
                               "\"MQ==\"}]}}]}");
    assert_false(answer.is_done);
    assert_int_equal(answer.entry_count, 1);
    assert_string_equal(answer.entries[0].key, "/a");
    assert_string_equal(answer.entries[0].value, "1");
    assert_int_equal(answer.entries[0].mod_revision, 2);
    assert_int_equal(answer.entries[0].lease, 0);
    dip__etcd_answer_free(&answer);
    answer = parse(DIP_KV_RANGE, "{" HEADER "}");
    assert_int_equal(answer.entry_count, 0);
    dip__etcd_answer_free(&answer);
}

static void watches_tell_and_end(void **state)
{
    (void)state;
    struct dip__etcd_answer answer =
        parse(DIP_KV_WATCH, "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"L2E=\","
                            "\"mod_revision\":\"2\",\"value\":\"MQ==\"}},{\"type\":\"DELETE\","
                            "\"kv\":{\"key\":\"L2E=\",\"mod_revision\":\"3\"}}]}}");
    assert_int_equal(answer.entry_count, 2);
    assert_false(answer.entries[0].is_deleted);
    assert_true(answer.entries[1].is_deleted);
    assert_string_equal(answer.entries[1].key, "/a");
    assert_int_equal(answer.entries[1].value_bytes, 0);
    dip__etcd_answer_free(&answer);
    answer = parse(DIP_KV_WATCH, "{\"result\":{\"canceled\":true,\"compact_revision\":\"3\"}}");
    assert_true(answer.is_cancelled);
    assert_int_equal(answer.compact_revision, 3);
    answer = parse(DIP_KV_WATCH, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":"
                                 "\"etcdserver: no leader\"}}");
    assert_int_equal(answer.code, 14);
    assert_string_equal(answer.text, "etcdserver: no leader");
}

static void errors_have_codes(void **state)
{
    (void)state;
    static const struct {
        int code;
        enum dip_status status;
    } rows[] = {{3, DIP_INVALID}, {5, DIP_NOT_FOUND},    {7, DIP_INVALID},  {8, DIP_LIMIT},
                {11, DIP_STALE},  {14, DIP_UNREACHABLE}, {16, DIP_INVALID}, {2, DIP_UNREACHABLE}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[100];
        snprintf(text, sizeof text, "{\"error\":\"why\\n\",\"message\":\"why\",\"code\":%d}",
                 rows[i].code);
        struct dip__etcd_answer answer = parse(DIP_KV_RANGE, text);
        assert_int_equal(answer.code, rows[i].code);
        assert_string_equal(answer.text, "why?");
        assert_int_equal(dip__etcd_status(answer.code), rows[i].status);
    }
}

static void damage_is_refused(void **state)
{
    (void)state;
    refuses(DIP_KV_RANGE, "Not Found");
    refuses(DIP_KV_RANGE, "{\"kvs\":{}}");
    refuses(DIP_KV_RANGE, "{\"kvs\":[7]}");
    refuses(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"L2E\"}]}");  /* no padding */
    refuses(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"L2_=\"}]}"); /* URL-safe */
    refuses(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"L=E=\"}]}"); /* padding inside */
    refuses(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"L2E=\",\"lease\":\"9223372036854775808\"}]}");
    refuses(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"L2E=\",\"lease\":\"1x\"}]}");
    refuses(DIP_KV_WATCH, "{}");
    refuses(DIP_KV_KEEPALIVE, "{}");
    /* every cut of a good answer */
    const char *good = "{" HEADER ",\"kvs\":[{\"key\":\"L2E=\",\"value\":\"MQ==\"}]}";
    for (size_t bytes = 0; bytes < strlen(good); bytes++) {
        struct dip__etcd_answer answer;
        assert_int_equal(dip__etcd_parse(DIP_KV_RANGE, good, bytes, &answer), DIP_CORRUPT);
    }
}

static void foreign_keys_are_left_out(void **state)
{
    (void)state;
    struct dip__etcd_answer answer =
        parse(DIP_KV_RANGE, "{\"kvs\":[{\"key\":\"AGE=\"},{\"key\":\"L2E=\"}]}"); /* "\0a" */
    assert_int_equal(answer.entry_count, 1);
    assert_string_equal(answer.entries[0].key, "/a");
    dip__etcd_answer_free(&answer);
}

static void sends(const struct dip_kv_request *request, const char *path, const char *expected)
{
    char *body = dip__etcd_body(request);
    assert_non_null(body);
    assert_string_equal(body, expected);
    assert_string_equal(dip__etcd_path(request->kind), path);
    free(body);
}

static void requests_are_what_the_gateway_takes(void **state)
{
    (void)state;
    sends(&(struct dip_kv_request){.kind = DIP_KV_GRANT, .ttl_s = 5}, "/v3/lease/grant",
          "{\"TTL\":\"5\"}");
    sends(&(struct dip_kv_request){.kind = DIP_KV_KEEPALIVE, .lease = INT64_MAX},
          "/v3/lease/keepalive", "{\"ID\":\"9223372036854775807\"}");
    sends(&(struct dip_kv_request){.kind = DIP_KV_RANGE, .key = "/a/"}, "/v3/kv/range",
          "{\"key\":\"L2Ev\",\"range_end\":\"L2Ew\"}");
    sends(&(struct dip_kv_request){.kind = DIP_KV_RANGE, .key = ""}, "/v3/kv/range",
          "{\"key\":\"AA==\",\"range_end\":\"AA==\"}");
    sends(&(struct dip_kv_request){.kind = DIP_KV_PUT,
                                   .key = "/a",
                                   .value = "1",
                                   .value_bytes = 1,
                                   .lease = 7,
                                   .condition = DIP_KV_IF_ABSENT,
                                   .guard_key = "/b",
                                   .guard_revision = 9},
          "/v3/kv/txn",
          "{\"compare\":[{\"key\":\"L2E=\",\"target\":\"CREATE\",\"result\":\"EQUAL\","
          "\"create_revision\":\"0\"},{\"key\":\"L2I=\",\"target\":\"CREATE\",\"result\":"
          "\"EQUAL\",\"create_revision\":\"9\"}],\"success\":[{\"request_put\":{\"key\":\"L2E=\","
          "\"value\":\"MQ==\",\"lease\":\"7\"}}],\"failure\":[{\"request_range\":{\"key\":"
          "\"L2E=\"}}]}");
    sends(&(struct dip_kv_request){.kind = DIP_KV_WATCH, .key = "/a", .revision = 4}, "/v3/watch",
          "{\"create_request\":{\"key\":\"L2E=\",\"range_end\":\"L2I=\",\"progress_notify\":true,"
          "\"start_revision\":\"4\"}}");
}

static void endpoints_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",        "10.0.0.1:2379",  "http://a,ftp://b", "http://a,,http://b",
        "http://", "http://a:99999", "http://a b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dip_why why = {0};
        struct dip_kv *kv = NULL;
        assert_int_equal(dip_etcd_open(&(struct dip_etcd_options){.endpoints = bad[i]}, &why, &kv),
                         DIP_INVALID);
        assert_true(strncmp(why.text, "etcd: ", 6) == 0);
    }
}

static void refuses_to_open(struct dip_etcd_options options, enum dip_status expected,
                            const char *says)
{
    struct dip_why why = {0};
    struct dip_kv *kv = NULL;
    options.endpoints = "http://a";
    assert_int_equal(dip_etcd_open(&options, &why, &kv), expected);
    assert_non_null(strstr(why.text, says));
}

static void credentials_are_checked(void **state)
{
    (void)state;
    refuses_to_open((struct dip_etcd_options){.cert = "c"}, DIP_INVALID, "--etcd-key");
    refuses_to_open((struct dip_etcd_options){.key = "k"}, DIP_INVALID, "--etcd-cert");
    refuses_to_open((struct dip_etcd_options){.password = "p"}, DIP_INVALID, "--etcd-user");
    refuses_to_open((struct dip_etcd_options){.ca = "/nowhere/ca.pem"}, DIP_NOT_FOUND,
                    "/nowhere/ca.pem");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_fields_are_defaults),
        cmocka_unit_test(watches_tell_and_end),
        cmocka_unit_test(errors_have_codes),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(foreign_keys_are_left_out),
        cmocka_unit_test(requests_are_what_the_gateway_takes),
        cmocka_unit_test(endpoints_are_checked),
        cmocka_unit_test(credentials_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
