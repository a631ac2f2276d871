/* cli/json.h - writing one JSON value to a stream, piece by piece.
 *
 * Numbers keep all their digits (seeds use 64 bits) and strings are always valid: bytes that are
 * not UTF-8 become U+FFFD. Nesting is bounded by JSON_DEPTH_MAX. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { JSON_DEPTH_MAX = 16 };

struct json_writer {
    FILE *out;
    int depth;
    bool has_items[JSON_DEPTH_MAX]; /* at each depth: a comma is due before the next item */
};

/* `key` is NULL inside arrays and at the top. */
void dip__json_open(struct json_writer *w, const char *key, char bracket); /* '{' or '[' */
void dip__json_close(struct json_writer *w, char bracket);                 /* '}' or ']' */
void dip__json_string(struct json_writer *w, const char *key, const char *value);
void dip__json_uint(struct json_writer *w, const char *key, uint64_t value);
void dip__json_int(struct json_writer *w, const char *key, int64_t value);
void dip__json_bool(struct json_writer *w, const char *key, bool value);

/* A number as its text has it. */
void dip__json_number(struct json_writer *w, const char *key, const char *text);

/* With `digits` significant digits; infinite and NaN become null. */
void dip__json_real(struct json_writer *w, const char *key, double value, int digits);

/* Nanoseconds as milliseconds. */
void dip__json_ms(struct json_writer *w, const char *key, int64_t ns);
