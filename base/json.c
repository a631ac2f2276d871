/* base/json.c - getters over jansson's values that speak in sentences. Parsing is
 * base/json_parse.c. */
#include "base/json.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FOUND_BYTES = 80 };

/* What was found, short enough for a sentence. */
static const char *describe(const json_t *value, char text[FOUND_BYTES])
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    case JSON_STRING:
        snprintf(text, FOUND_BYTES, "\"%.40s%s\"", json_string_value(value),
                 json_string_length(value) > 40 ? "..." : "");
        return text;
    case JSON_INTEGER:
        snprintf(text, FOUND_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return text;
    default:
        snprintf(text, FOUND_BYTES, "%.10g", json_real_value(value));
        return text;
    }
}

/* The value of a key, NULL when it is absent or null. */
static json_t *member(const struct dip_json *json, const char *key)
{
    json_t *value = json_object_get(json->object, key);
    return json_is_null(value) ? NULL : value;
}

bool dip_json_has(const struct dip_json *json, const char *key)
{
    return member(json, key) != NULL;
}

static enum dip_status fail_type(const struct dip_json *json, const char *key, const json_t *found,
                                 const char *expected, struct dip_why *why)
{
    char text[FOUND_BYTES];
    return dip_fail(why, DIP_INVALID, "%s: %s is %s, expected %s", json->path, key,
                    describe(found, text), expected);
}

/* Published files write some integers as 1000000.0; a whole real is an integer here. */
static bool integer_of(const json_t *value, int64_t *ret_integer)
{
    if (json_is_integer(value)) {
        *ret_integer = json_integer_value(value);
        return true;
    }
    double real = json_real_value(value); /* 0 for other types */
    if (!json_is_real(value) || real != floor(real) || fabs(real) > 0x1p53)
        return false;
    *ret_integer = (int64_t)real;
    return true;
}

static enum dip_status check_int(const struct dip_json *json, const char *key, const json_t *found,
                                 int64_t min, int64_t max, struct dip_why *why, int64_t *ret_value)
{
    int64_t value = 0;
    if (!integer_of(found, &value) || value < min || value > max) {
        char text[FOUND_BYTES];
        return dip_fail(why, DIP_INVALID, "%s: %s is %s, expected an integer from %lld to %lld",
                        json->path, key, describe(found, text), (long long)min, (long long)max);
    }
    *ret_value = value;
    return DIP_OK;
}

static enum dip_status check_double(const struct dip_json *json, const char *key,
                                    const json_t *found, double min, double max,
                                    struct dip_why *why, double *ret_value)
{
    double number = json_number_value(found);
    if (!json_is_number(found) || !(number >= min && number <= max)) {
        char text[FOUND_BYTES];
        return dip_fail(why, DIP_INVALID, "%s: %s is %s, expected a number from %g to %g",
                        json->path, key, describe(found, text), min, max);
    }
    *ret_value = number;
    return DIP_OK;
}

enum dip_status dip_json_int(const struct dip_json *json, const char *key, int64_t min, int64_t max,
                             struct dip_why *why, int64_t *value)
{
    const json_t *found = member(json, key);
    return found ? check_int(json, key, found, min, max, why, value) : DIP_OK;
}

enum dip_status dip_json_double(const struct dip_json *json, const char *key, double min,
                                double max, struct dip_why *why, double *value)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    return check_double(json, key, found, min, max, why, value);
}

enum dip_status dip_json_bool(const struct dip_json *json, const char *key, struct dip_why *why,
                              bool *value)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (!json_is_boolean(found))
        return fail_type(json, key, found, "true or false", why);
    *value = json_is_true(found);
    return DIP_OK;
}

enum dip_status dip_json_string(const struct dip_json *json, const char *key, struct dip_why *why,
                                const char **value)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (!json_is_string(found))
        return fail_type(json, key, found, "a string", why);
    *value = json_string_value(found);
    return DIP_OK;
}

/* ---- arrays ---- */

enum { ELEMENT_NAME_BYTES = 96 };

static const char *element_name(char text[ELEMENT_NAME_BYTES], const char *key, size_t index)
{
    snprintf(text, ELEMENT_NAME_BYTES, "%.60s[%zu]", key, index);
    return text;
}

static enum dip_status check_length(const struct dip_json *json, const char *key,
                                    const json_t *array, int count_max, struct dip_why *why)
{
    if (json_array_size(array) <= (size_t)count_max)
        return DIP_OK;
    return dip_fail(why, DIP_LIMIT, "%s: %s has %zu elements, expected at most %d", json->path, key,
                    json_array_size(array), count_max);
}

static enum dip_status check_ints(const struct dip_json *json, const char *key, const json_t *array,
                                  int64_t min, int64_t max, int count_max, struct dip_why *why,
                                  int64_t *values, int *count)
{
    DIP_TRY(check_length(json, key, array, count_max, why));
    size_t length = json_array_size(array);
    for (size_t i = 0; i < length; i++) {
        char name[ELEMENT_NAME_BYTES];
        DIP_TRY(check_int(json, element_name(name, key, i), json_array_get(array, i), min, max, why,
                          &values[i]));
    }
    *count = (int)length;
    return DIP_OK;
}

enum dip_status dip_json_ints(const struct dip_json *json, const char *key, int64_t min,
                              int64_t max, int count_max, struct dip_why *why, int64_t *values,
                              int *count)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (json_is_array(found))
        return check_ints(json, key, found, min, max, count_max, why, values, count);
    DIP_TRY(check_int(json, key, found, min, max, why, &values[0]));
    *count = 1;
    return DIP_OK;
}

enum dip_status dip_json_strings(const struct dip_json *json, const char *key, int count_max,
                                 struct dip_why *why, const char **values, int *count)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (json_is_string(found)) {
        values[0] = json_string_value(found);
        *count = 1;
        return DIP_OK;
    }
    if (!json_is_array(found))
        return fail_type(json, key, found, "an array of strings", why);
    DIP_TRY(check_length(json, key, found, count_max, why));
    size_t length = json_array_size(found);
    for (size_t i = 0; i < length; i++) {
        const json_t *element = json_array_get(found, i);
        char name[ELEMENT_NAME_BYTES];
        if (!json_is_string(element))
            return fail_type(json, element_name(name, key, i), element, "a string", why);
        values[i] = json_string_value(element);
    }
    *count = (int)length;
    return DIP_OK;
}

enum dip_status dip_json_rows(const struct dip_json *json, const char *key, int row_count_max,
                              struct dip_why *why, int *count)
{
    const json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (!json_is_array(found))
        return fail_type(json, key, found, "an array of arrays", why);
    DIP_TRY(check_length(json, key, found, row_count_max, why));
    *count = (int)json_array_size(found);
    return DIP_OK;
}

/* The inner array; `name` becomes "key[row]". */
static enum dip_status row_of(const struct dip_json *json, const char *key, int row,
                              struct dip_why *why, char name[ELEMENT_NAME_BYTES],
                              const json_t **ret_array)
{
    const json_t *found = json_array_get(member(json, key), (size_t)row);
    element_name(name, key, (size_t)row);
    if (!found)
        return dip_fail(why, DIP_INVALID, "%s: %s is missing", json->path, name);
    if (!json_is_array(found))
        return fail_type(json, name, found, "an array", why);
    *ret_array = found;
    return DIP_OK;
}

enum dip_status dip_json_row_ints(const struct dip_json *json, const char *key, int row,
                                  int64_t min, int64_t max, int count_max, struct dip_why *why,
                                  int64_t *values, int *count)
{
    char name[ELEMENT_NAME_BYTES];
    const json_t *array = NULL;
    DIP_TRY(row_of(json, key, row, why, name, &array));
    return check_ints(json, name, array, min, max, count_max, why, values, count);
}

enum dip_status dip_json_row_doubles(const struct dip_json *json, const char *key, int row,
                                     double min, double max, int count_max, struct dip_why *why,
                                     double *values, int *count)
{
    char name[ELEMENT_NAME_BYTES];
    const json_t *array = NULL;
    DIP_TRY(row_of(json, key, row, why, name, &array));
    DIP_TRY(check_length(json, name, array, count_max, why));
    size_t length = json_array_size(array);
    for (size_t i = 0; i < length; i++) {
        char element[ELEMENT_NAME_BYTES];
        DIP_TRY(check_double(json, element_name(element, name, i), json_array_get(array, i), min,
                             max, why, &values[i]));
    }
    *count = (int)length;
    return DIP_OK;
}

/* ---- objects ---- */

enum dip_status dip_json_object(const struct dip_json *json, const char *key, struct dip_why *why,
                                struct dip_json *child)
{
    json_t *found = member(json, key);
    if (!found)
        return DIP_OK;
    if (!json_is_object(found))
        return fail_type(json, key, found, "an object", why);
    struct dip_json view = {.object = found};
    snprintf(view.path, sizeof view.path, "%.150s: %.100s", json->path, key);
    *child = view;
    return DIP_OK;
}

const char *dip_json_next(const struct dip_json *json, void **cursor)
{
    *cursor =
        *cursor ? json_object_iter_next(json->object, *cursor) : json_object_iter(json->object);
    return *cursor ? json_object_iter_key(*cursor) : NULL;
}
