/* base/json.h - reading JSON objects from files with one clear sentence for whatever is wrong
 * (jansson underneath).
 *
 * Duplicate keys, bad UTF-8, trailing text and nesting beyond DIP_JSON_DEPTH_MAX are refused. Each
 * getter leaves its output untouched when the key is absent or null and the default stands; a value
 * of the wrong type or out of bounds fails, naming file, key, found and expected. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct json_t;

/* An object and where it came from, for messages. The caller releases `object` with dip_json_close.
 */
struct dip_json {
    struct json_t *object;
    char path[256];
};

/* Errors: NOT_FOUND, IO, LIMIT, CORRUPT (with line and column). */
DIP_MUST_USE enum dip_status dip_json_open(const char *path, struct dip_why *why,
                                           struct dip_json *ret_json);
DIP_MUST_USE enum dip_status dip_json_parse(const char *text, size_t bytes, const char *name,
                                            struct dip_why *why, struct dip_json *ret_json);
void dip_json_close(struct dip_json *json);

bool dip_json_has(const struct dip_json *json, const char *key);
DIP_MUST_USE enum dip_status dip_json_int(const struct dip_json *json, const char *key, int64_t min,
                                          int64_t max, struct dip_why *why, int64_t *value);
DIP_MUST_USE enum dip_status dip_json_double(const struct dip_json *json, const char *key,
                                             double min, double max, struct dip_why *why,
                                             double *value);
DIP_MUST_USE enum dip_status dip_json_bool(const struct dip_json *json, const char *key,
                                           struct dip_why *why, bool *value);
/* The string lives as long as the object. */
DIP_MUST_USE enum dip_status dip_json_string(const struct dip_json *json, const char *key,
                                             struct dip_why *why, const char **value);
/* An array of integers: fills values[] and sets *count, LIMIT above count_max. */
DIP_MUST_USE enum dip_status dip_json_ints(const struct dip_json *json, const char *key,
                                           int64_t min, int64_t max, int count_max,
                                           struct dip_why *why, int64_t *values, int *count);
