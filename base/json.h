/* base/json.h - reading JSON objects from files with one clear sentence for whatever is wrong
 * (jansson underneath).
 *
 * Duplicate keys, bad UTF-8, trailing text and nesting beyond DIP_JSON_DEPTH_MAX are refused;
 * Infinity and NaN, which Python writes although JSON lacks them, read as null. Each getter leaves
 * its output untouched when the key is absent or null and the default stands; a value of the wrong
 * type or out of bounds fails, naming file, key, found and expected. */
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
/* An array of integers (a lone one reads as an array of one): fills values[] and sets *count, LIMIT
 * above count_max. */
DIP_MUST_USE enum dip_status dip_json_ints(const struct dip_json *json, const char *key,
                                           int64_t min, int64_t max, int count_max,
                                           struct dip_why *why, int64_t *values, int *count);

/* The same for strings. */
DIP_MUST_USE enum dip_status dip_json_strings(const struct dip_json *json, const char *key,
                                              int count_max, struct dip_why *why,
                                              const char **values, int *count);

/* The elements `key`[row] of an array of arrays; row_count_max bounds the outer one, whose length
 * dip_json_rows gives. An element that is missing or null is a failure here. */
DIP_MUST_USE enum dip_status dip_json_rows(const struct dip_json *json, const char *key,
                                           int row_count_max, struct dip_why *why, int *count);
DIP_MUST_USE enum dip_status dip_json_row_ints(const struct dip_json *json, const char *key,
                                               int row, int64_t min, int64_t max, int count_max,
                                               struct dip_why *why, int64_t *values, int *count);
DIP_MUST_USE enum dip_status dip_json_row_doubles(const struct dip_json *json, const char *key,
                                                  int row, double min, double max, int count_max,
                                                  struct dip_why *why, double *values, int *count);

/* The object under `key` as a view named "<name>: <key>" in messages; it lives as long as its
 * parent and is not closed. */
DIP_MUST_USE enum dip_status dip_json_object(const struct dip_json *json, const char *key,
                                             struct dip_why *why, struct dip_json *child);

/* Walks the keys in file order: *cursor starts NULL; NULL after the last. */
const char *dip_json_next(const struct dip_json *json, void **cursor);
