/* net/etcd_body.c - requests as the JSON that etcd's gateway takes: bytes in padded base64, 64-bit
 * integers as strings.
 *
 * Writes are always transactions, also without a condition: one form, one answer, and its revision
 * is the fencing token. */
#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "net/etcd_private.h"

/* New references, NULL when memory is out: jansson's pack and append functions pass that on. */

static json_t *base64(const char *bytes, size_t count)
{
    char text[4 * ((DIP_KV_VALUE_BYTES + 2) / 3) + 1];
    dip_assert(count <= DIP_KV_VALUE_BYTES);
    EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)bytes, (int)count);
    return json_string(text);
}

static json_t *base64_text(const char *text)
{
    return base64(text, strlen(text));
}

static json_t *integer(int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    return json_string(text);
}

/* The first key that does not begin with `prefix`: its last byte that can be raised is. The empty
 * prefix means every key, which etcd writes as "\0". */
static json_t *range_end(const char *prefix)
{
    char end[DIP_KV_KEY_BYTES];
    size_t bytes = strlen(prefix);
    memcpy(end, prefix, bytes + 1);
    while (bytes > 0 && (unsigned char)end[bytes - 1] == 0xff)
        bytes--;
    if (bytes == 0)
        return base64("", 1);
    end[bytes - 1]++;
    return base64(end, bytes);
}

/* etcd takes no empty key; "\0" is the first one there is. */
static json_t *range_begin(const char *prefix)
{
    return prefix[0] ? base64_text(prefix) : base64("", 1);
}

static json_t *compare(const char *key, const char *target, const char *field, int64_t revision)
{
    return json_pack("{s:o, s:s, s:s, s:o}", "key", base64_text(key), "target", target, "result",
                     "EQUAL", field, integer(revision));
}

static json_t *body_txn(const struct dip_kv_request *request)
{
    json_t *compares = json_array();
    int failed = 0;
    if (request->condition == DIP_KV_IF_ABSENT)
        failed |=
            json_array_append_new(compares, compare(request->key, "CREATE", "create_revision", 0));
    if (request->condition == DIP_KV_IF_REVISION)
        failed |= json_array_append_new(
            compares, compare(request->key, "MOD", "mod_revision", request->revision));
    if (request->guard_key)
        failed |=
            json_array_append_new(compares, compare(request->guard_key, "CREATE", "create_revision",
                                                    request->guard_revision));
    json_t *change =
        request->kind == DIP_KV_PUT
            ? json_pack("{s:{s:o, s:o, s:o}}", "request_put", "key", base64_text(request->key),
                        "value", base64(request->value ? request->value : "", request->value_bytes),
                        "lease", integer(request->lease))
            : json_pack("{s:{s:o}}", "request_delete_range", "key", base64_text(request->key));
    json_t *look = json_pack("{s:{s:o}}", "request_range", "key", base64_text(request->key));
    if (failed) {
        json_decref(compares);
        compares = NULL;
    }
    return json_pack("{s:o, s:[o], s:[o]}", "compare", compares, "success", change, "failure",
                     look);
}

static json_t *body_watch(const struct dip_kv_request *request)
{
    json_t *create = json_pack("{s:o, s:o, s:b}", "key", range_begin(request->key), "range_end",
                               range_end(request->key), "progress_notify", 1);
    if (create && request->revision > 0 &&
        json_object_set_new(create, "start_revision", integer(request->revision))) {
        json_decref(create);
        return NULL;
    }
    return json_pack("{s:o}", "create_request", create);
}

static json_t *body_of(const struct dip_kv_request *request)
{
    switch (request->kind) {
    case DIP_KV_GRANT:
        return json_pack("{s:o}", "TTL", integer(request->ttl_s));
    case DIP_KV_KEEPALIVE:
    case DIP_KV_REVOKE:
        return json_pack("{s:o}", "ID", integer(request->lease));
    case DIP_KV_PUT:
    case DIP_KV_DELETE:
        return body_txn(request);
    case DIP_KV_RANGE:
        return json_pack("{s:o, s:o}", "key", range_begin(request->key), "range_end",
                         range_end(request->key));
    default:
        return body_watch(request);
    }
}

static char *dump(json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

char *dip__etcd_body(const struct dip_kv_request *request)
{
    return dump(body_of(request));
}

char *dip__etcd_body_authenticate(const char *user, const char *password)
{
    return dump(json_pack("{s:s, s:s}", "name", user, "password", password));
}

const char *dip__etcd_path(enum dip_kv_kind kind)
{
    static const char *const paths[DIP_KV_KIND_COUNT] = {
        [DIP_KV_GRANT] = "/v3/lease/grant",   [DIP_KV_KEEPALIVE] = "/v3/lease/keepalive",
        [DIP_KV_REVOKE] = "/v3/lease/revoke", [DIP_KV_PUT] = "/v3/kv/txn",
        [DIP_KV_DELETE] = "/v3/kv/txn",       [DIP_KV_RANGE] = "/v3/kv/range",
        [DIP_KV_WATCH] = "/v3/watch",
    };
    dip_assert((unsigned)kind < DIP_KV_KIND_COUNT);
    return paths[kind];
}
