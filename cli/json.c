/* cli/json.c - see cli/json.h. */
#include "cli/json.h"

#include <inttypes.h>
#include <math.h>

#include "base/assert.h"

/* Bytes of the UTF-8 sequence at `s`, 0 when it is none (overlong, surrogate, cut, beyond Unicode).
 */
static int utf8_bytes(const unsigned char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int bytes = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (bytes < 2 || s[0] >= 0xf8)
        return s[0] < 0x80 ? 1 : 0;
    uint32_t code = s[0] & (0x7fu >> bytes);
    for (int i = 1; i < bytes; i++) {
        if ((s[i] & 0xc0) != 0x80) /* also stops at the terminator */
            return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    bool is_valid = code >= least[bytes] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    return is_valid ? bytes : 0;
}

static void put_string(FILE *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', out);
    while (*s) {
        int bytes = utf8_bytes(s);
        if (bytes == 0)
            fputs("\\ufffd", out);
        else if (*s == '"' || *s == '\\')
            fprintf(out, "\\%c", *s);
        else if (*s < 0x20)
            fprintf(out, "\\u%04x", *s);
        else
            fwrite(s, 1, (size_t)bytes, out);
        s += bytes > 0 ? bytes : 1;
    }
    fputc('"', out);
}

static void begin_item(struct json_writer *w, const char *key)
{
    if (w->has_items[w->depth])
        fputs(", ", w->out);
    w->has_items[w->depth] = true;
    if (key) {
        put_string(w->out, key);
        fputs(": ", w->out);
    }
}

void dip__json_open(struct json_writer *w, const char *key, char bracket)
{
    dip_assert(w->depth + 1 < JSON_DEPTH_MAX);
    begin_item(w, key);
    fputc(bracket, w->out);
    w->has_items[++w->depth] = false;
}

void dip__json_close(struct json_writer *w, char bracket)
{
    dip_assert(w->depth > 0);
    w->depth--;
    fputc(bracket, w->out);
    if (w->depth == 0)
        fputc('\n', w->out);
}

void dip__json_string(struct json_writer *w, const char *key, const char *value)
{
    begin_item(w, key);
    put_string(w->out, value);
}

void dip__json_uint(struct json_writer *w, const char *key, uint64_t value)
{
    begin_item(w, key);
    fprintf(w->out, "%" PRIu64, value);
}

void dip__json_int(struct json_writer *w, const char *key, int64_t value)
{
    begin_item(w, key);
    fprintf(w->out, "%" PRId64, value);
}

void dip__json_bool(struct json_writer *w, const char *key, bool value)
{
    begin_item(w, key);
    fputs(value ? "true" : "false", w->out);
}

void dip__json_number(struct json_writer *w, const char *key, const char *text)
{
    begin_item(w, key);
    fputs(text, w->out);
}

void dip__json_real(struct json_writer *w, const char *key, double value, int digits)
{
    begin_item(w, key);
    if (isfinite(value))
        fprintf(w->out, "%.*g", digits, value);
    else
        fputs("null", w->out);
}

void dip__json_ms(struct json_writer *w, const char *key, int64_t ns)
{
    begin_item(w, key);
    fprintf(w->out, "%.3f", (double)ns / 1e6);
}
