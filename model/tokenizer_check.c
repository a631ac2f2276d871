/* model/tokenizer_check.c - which tokenizer.json files mean what this tokenizer does.
 *
 * Accepted: a BPE model, NFC, a Split and a ByteLevel pre-tokenizer, ByteLevel (or nothing) behind
 * and for decoding. Anything else that would change ids (another part; prefixes, suffixes, dropout,
 * byte fallback) is refused by the key's name, so that what loads is exact. "truncation" and
 * "padding" are the state in which the file happened to be saved, which the published code
 * overrides on each call; they are ignored. */
#include "model/tokenizer_check.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* json[key], whose sentences will name it. */
static enum dip_status open_object(const struct dip_json *json, const char *name, json_t *value,
                                   struct dip_why *why, struct dip_json *ret_object)
{
    if (!json_is_object(value))
        return dip_fail(why, DIP_CORRUPT, "%s: %s is missing or not an object", json->path, name);
    ret_object->object = value;
    snprintf(ret_object->path, sizeof ret_object->path, "%.200s: %.50s", json->path, name);
    return DIP_OK;
}

static enum dip_status expect_string(const struct dip_json *json, const char *key,
                                     const char *expected, struct dip_why *why)
{
    const char *found = "missing";
    DIP_TRY(dip_json_string(json, key, why, &found));
    if (strcmp(found, expected) != 0)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is %.60s, only %s is supported", json->path,
                        key, found, expected);
    return DIP_OK;
}

/* A setting is off when it is null, false, "" or 0. */
static bool is_off(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

/* Every key but the `known` ones must be off. */
static enum dip_status expect_off(const struct dip_json *json, const char *const *known,
                                  struct dip_why *why)
{
    const char *key;
    json_t *value;
    json_object_foreach(json->object, key, value)
    {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i] && !is_off(value))
            return dip_fail(why, DIP_UNSUPPORTED, "%s: %.60s is set, which is not supported",
                            json->path, key);
    }
    return DIP_OK;
}

/* Absent means true for the published code. */
static enum dip_status expect_false(const struct dip_json *json, const char *key,
                                    struct dip_why *why)
{
    bool value = true;
    DIP_TRY(dip_json_bool(json, key, why, &value));
    if (value)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: %s is true, only false is supported", json->path,
                        key);
    return DIP_OK;
}

static enum dip_status check_normalizer(const struct dip_json *json, struct dip_why *why)
{
    struct dip_json normalizer = {0};
    DIP_TRY(open_object(json, "normalizer", json_object_get(json->object, "normalizer"), why,
                        &normalizer));
    return expect_string(&normalizer, "type", "NFC", why);
}

/* Absent, or ByteLevel, which moves offsets and leaves ids alone. */
static enum dip_status check_byte_level(const struct dip_json *json, const char *key,
                                        struct dip_why *why)
{
    struct dip_json object = {0};
    if (!dip_json_has(json, key))
        return DIP_OK;
    DIP_TRY(open_object(json, key, json_object_get(json->object, key), why, &object));
    return expect_string(&object, "type", "ByteLevel", why);
}

static enum dip_status check_split(const struct dip_json *json, json_t *value, struct dip_why *why,
                                   const char **ret_pattern)
{
    static const char *const known[] = {"type", "pattern", "behavior", NULL};
    struct dip_json split = {0}, pattern = {0};
    const char *regex = NULL;
    DIP_TRY(open_object(json, "pretokenizers[0]", value, why, &split));
    DIP_TRY(expect_string(&split, "type", "Split", why));
    DIP_TRY(expect_string(&split, "behavior", "Isolated", why));
    DIP_TRY(expect_off(&split, known, why));
    DIP_TRY(open_object(&split, "pattern", json_object_get(value, "pattern"), why, &pattern));
    DIP_TRY(dip_json_string(&pattern, "Regex", why, &regex));
    if (!regex)
        return dip_fail(why, DIP_UNSUPPORTED, "%s: only a Regex is supported", pattern.path);
    *ret_pattern = regex;
    return DIP_OK;
}

static enum dip_status check_symbols(const struct dip_json *json, json_t *value,
                                     struct dip_why *why)
{
    static const char *const known[] = {"type", "trim_offsets", NULL};
    struct dip_json level = {0};
    DIP_TRY(open_object(json, "pretokenizers[1]", value, why, &level));
    DIP_TRY(expect_string(&level, "type", "ByteLevel", why));
    DIP_TRY(expect_false(&level, "add_prefix_space", why));
    DIP_TRY(expect_false(&level, "use_regex", why));
    return expect_off(&level, known, why);
}

static enum dip_status check_pre_tokenizer(const struct dip_json *json, struct dip_why *why,
                                           const char **ret_pattern)
{
    struct dip_json sequence = {0};
    DIP_TRY(open_object(json, "pre_tokenizer", json_object_get(json->object, "pre_tokenizer"), why,
                        &sequence));
    DIP_TRY(expect_string(&sequence, "type", "Sequence", why));
    json_t *parts = json_object_get(sequence.object, "pretokenizers");
    if (json_array_size(parts) != 2)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s: pretokenizers has %zu parts, only Split and ByteLevel are supported",
                        sequence.path, json_array_size(parts));
    DIP_TRY(check_split(&sequence, json_array_get(parts, 0), why, ret_pattern));
    return check_symbols(&sequence, json_array_get(parts, 1), why);
}

enum dip_status dip__tokenizer_check(const struct dip_json *json, struct dip_why *why,
                                     const char **ret_pattern, struct dip_json *ret_model)
{
    /* Every byte has a symbol, so nothing is ever unknown and the two settings about it are idle.
     */
    static const char *const known[] = {"type", "vocab", "merges", "unk_token", "fuse_unk", NULL};
    DIP_TRY(check_normalizer(json, why));
    DIP_TRY(check_pre_tokenizer(json, why, ret_pattern));
    DIP_TRY(check_byte_level(json, "post_processor", why));
    DIP_TRY(check_byte_level(json, "decoder", why));
    DIP_TRY(open_object(json, "model", json_object_get(json->object, "model"), why, ret_model));
    DIP_TRY(expect_string(ret_model, "type", "BPE", why));
    return expect_off(ret_model, known, why);
}
