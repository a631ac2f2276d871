/* net/etcd_answer.c - what etcd's gateway says, read with distrust.
 *
 * Fields at their default are absent: no `succeeded` is false, no `type` is PUT, no TTL in the
 * answer to a keepalive is a lease that is gone. Errors come as {"error": text, "code": n}, in a
 * stream as {"error": {"grpc_code": n, "message": text}}. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "net/etcd_private.h"

/* ---- pieces ---- */

static void set_text(struct dip__etcd_answer *answer, const char *text)
{
    size_t i = 0;
    for (; text[i] && i + 1 < sizeof answer->text; i++)
        answer->text[i] = iscntrl((unsigned char)text[i]) ? '?' : text[i];
    answer->text[i] = '\0';
}

/* A 64-bit integer as a string, or a number; absent is 0. */
static enum dip_status get_int(const json_t *object, const char *key, int64_t *ret_value)
{
    const json_t *value = json_object_get(object, key);
    *ret_value = 0;
    if (!value)
        return DIP_OK;
    if (json_is_integer(value)) {
        *ret_value = json_integer_value(value);
        return DIP_OK;
    }
    const char *text = json_string_value(value);
    if (!text || !(isdigit((unsigned char)text[0]) || text[0] == '-'))
        return DIP_CORRUPT;
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0')
        return DIP_CORRUPT;
    *ret_value = number;
    return DIP_OK;
}

/* Appends the decoded bytes and a zero to the storage, whose room the caller computed. */
static enum dip_status get_bytes(const json_t *object, const char *key, char **at,
                                 const char **ret_bytes, size_t *ret_count)
{
    const json_t *value = json_object_get(object, key);
    *ret_bytes = *at;
    *ret_count = 0;
    if (value) {
        const char *text = json_string_value(value);
        size_t length = json_string_length(value);
        if (!text || length % 4 != 0 ||
            strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrst"
                         "uvwxyz0123456789+/=") != length)
            return DIP_CORRUPT;
        size_t padding = 0;
        while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
            padding++;
        if (memchr(text, '=', length - padding))
            return DIP_CORRUPT;
        int count = length > 0 ? EVP_DecodeBlock((unsigned char *)*at, (const unsigned char *)text,
                                                 (int)length)
                               : 0;
        if (count < (int)padding)
            return DIP_CORRUPT;
        *ret_count = (size_t)count - padding;
    }
    (*at)[*ret_count] = '\0';
    *at += *ret_count + 1;
    return DIP_OK;
}

/* Bytes that decoding needs at most, zeros included. */
static size_t room(const json_t *kv)
{
    return json_string_length(json_object_get(kv, "key")) / 4 * 3 +
           json_string_length(json_object_get(kv, "value")) / 4 * 3 + 8;
}

/* One key; one that cannot be ours is left out. */
static enum dip_status add_entry(struct dip__etcd_answer *answer, const json_t *kv, bool is_deleted,
                                 char **at)
{
    struct dip_kv_entry entry = {.is_deleted = is_deleted};
    size_t key_bytes = 0;
    if (!json_is_object(kv))
        return DIP_CORRUPT;
    DIP_TRY(get_bytes(kv, "key", at, &entry.key, &key_bytes));
    DIP_TRY(get_bytes(kv, "value", at, &entry.value, &entry.value_bytes));
    DIP_TRY(get_int(kv, "create_revision", &entry.create_revision));
    DIP_TRY(get_int(kv, "mod_revision", &entry.mod_revision));
    DIP_TRY(get_int(kv, "lease", &entry.lease));
    bool is_foreign = key_bytes >= DIP_KV_KEY_BYTES || strlen(entry.key) != key_bytes ||
                      entry.value_bytes > DIP__ETCD_VALUE_BYTES_MAX;
    if (!is_foreign)
        answer->entries[answer->entry_count++] = entry;
    return DIP_OK;
}

/* `list` holds keys, or events with a key under "kv"; absent is empty. */
static enum dip_status get_entries(struct dip__etcd_answer *answer, const json_t *list,
                                   bool is_events)
{
    if (!list)
        return DIP_OK;
    if (!json_is_array(list))
        return DIP_CORRUPT;
    size_t count = json_array_size(list);
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        bytes += room(is_events ? json_object_get(item, "kv") : item);
    }
    answer->entries = calloc(count + 1, sizeof *answer->entries);
    answer->storage = malloc(bytes);
    if (!answer->entries || !answer->storage)
        return DIP_NO_MEMORY;
    char *at = answer->storage;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!is_events) {
            DIP_TRY(add_entry(answer, item, false, &at));
            continue;
        }
        const char *type = json_string_value(json_object_get(item, "type"));
        bool is_deleted = type && strcmp(type, "DELETE") == 0;
        DIP_TRY(add_entry(answer, json_object_get(item, "kv"), is_deleted, &at));
    }
    return DIP_OK;
}

static enum dip_status get_revision(struct dip__etcd_answer *answer, const json_t *object)
{
    return get_int(json_object_get(object, "header"), "revision", &answer->revision);
}

/* ---- whole answers ---- */

static enum dip_status read_error(struct dip__etcd_answer *answer, const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    bool is_stream = json_is_object(error);
    int64_t code = 0;
    DIP_TRY(get_int(is_stream ? error : root, is_stream ? "grpc_code" : "code", &code));
    const char *text = json_string_value(is_stream ? json_object_get(error, "message") : error);
    set_text(answer, text ? text : "an error without words");
    answer->code = code > 0 && code < 100 ? (int)code : 2; /* unknown */
    return DIP_OK;
}

static enum dip_status read_txn(struct dip__etcd_answer *answer, const json_t *root)
{
    const json_t *first = json_array_get(json_object_get(root, "responses"), 0);
    answer->is_done = json_is_true(json_object_get(root, "succeeded"));
    DIP_TRY(get_revision(answer, root));
    if (answer->is_done)
        return DIP_OK;
    return get_entries(answer, json_object_get(json_object_get(first, "response_range"), "kvs"),
                       false);
}

static enum dip_status read_watch(struct dip__etcd_answer *answer, const json_t *result)
{
    const char *reason = json_string_value(json_object_get(result, "cancel_reason"));
    answer->is_created = json_is_true(json_object_get(result, "created"));
    answer->is_cancelled = json_is_true(json_object_get(result, "canceled"));
    if (reason)
        set_text(answer, reason);
    DIP_TRY(get_revision(answer, result));
    DIP_TRY(get_int(result, "compact_revision", &answer->compact_revision));
    return get_entries(answer, json_object_get(result, "events"), true);
}

static enum dip_status read_lease(struct dip__etcd_answer *answer, const json_t *object)
{
    DIP_TRY(get_revision(answer, object));
    DIP_TRY(get_int(object, "ID", &answer->lease));
    return get_int(object, "TTL", &answer->ttl_s);
}

static enum dip_status read_answer(struct dip__etcd_answer *answer, enum dip_kv_kind kind,
                                   const json_t *root)
{
    const json_t *result = json_object_get(root, "result");
    const char *token = json_string_value(json_object_get(root, "token"));
    if (json_object_get(root, "error"))
        return read_error(answer, root);
    if (token && strlen(token) < sizeof answer->token) /* of /v3/auth/authenticate */
        memcpy(answer->token, token, strlen(token) + 1);
    switch (kind) {
    case DIP_KV_PUT:
    case DIP_KV_DELETE:
        return read_txn(answer, root);
    case DIP_KV_RANGE:
        DIP_TRY(get_revision(answer, root));
        return get_entries(answer, json_object_get(root, "kvs"), false);
    case DIP_KV_WATCH:
        return json_is_object(result) ? read_watch(answer, result) : DIP_CORRUPT;
    case DIP_KV_KEEPALIVE:
        if (!json_is_object(result))
            return DIP_CORRUPT;
        DIP_TRY(read_lease(answer, result));
        if (answer->ttl_s <= 0) {
            answer->code = DIP__ETCD_CODE_NOT_FOUND;
            set_text(answer, "the lease is gone");
        }
        return DIP_OK;
    default:
        return read_lease(answer, root);
    }
}

enum dip_status dip__etcd_parse(enum dip_kv_kind kind, const char *text, size_t bytes,
                                struct dip__etcd_answer *ret_answer)
{
    struct dip_json json = {0};
    struct dip__etcd_answer answer = {0};
    if (bytes > DIP__ETCD_BYTES_MAX)
        return DIP_LIMIT;
    enum dip_status status = dip_json_parse(text, bytes, "etcd", NULL, &json);
    if (!status)
        status = read_answer(&answer, kind, json.object);
    dip_json_close(&json);
    if (status)
        dip__etcd_answer_free(&answer);
    else
        *ret_answer = answer;
    return status;
}

void dip__etcd_answer_free(struct dip__etcd_answer *answer)
{
    free(answer->entries);
    free(answer->storage);
    *answer = (struct dip__etcd_answer){0};
}

enum dip_status dip__etcd_status(int code)
{
    switch (code) {
    case 0:
        return DIP_OK;
    case DIP__ETCD_CODE_INVALID:
    case DIP__ETCD_CODE_DENIED:
    case DIP__ETCD_CODE_UNAUTHENTICATED:
        return DIP_INVALID;
    case DIP__ETCD_CODE_NOT_FOUND:
        return DIP_NOT_FOUND;
    case DIP__ETCD_CODE_EXHAUSTED:
        return DIP_LIMIT;
    case DIP__ETCD_CODE_COMPACTED:
        return DIP_STALE;
    default:
        return DIP_UNREACHABLE;
    }
}
