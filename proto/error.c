/* proto/error.c - composing errors, and the table of reasons. */
#include "proto/error.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "proto/google/rpc/code.pb-c.h"

struct reason {
    const char *name;
    int code, http;
    enum dip_retry retry;
};

static const struct reason *reason_of(enum dip_reason reason)
{
    static const struct reason reasons[DIP_REASON_COUNT] = {
#define DIP_REASON_ROW(name, code, http, retry)                                                    \
    [DIP_REASON_##name] = {#name, GOOGLE__RPC__CODE__##code, http, DIP_RETRY_##retry},
        DIP_REASON_LIST(DIP_REASON_ROW)
#undef DIP_REASON_ROW
    };
    dip_assert((unsigned)reason < DIP_REASON_COUNT);
    return &reasons[reason];
}

const char *dip_reason_name(enum dip_reason reason)
{
    return reason_of(reason)->name;
}

int dip_reason_code(enum dip_reason reason)
{
    return reason_of(reason)->code;
}

int dip_reason_http(enum dip_reason reason)
{
    return reason_of(reason)->http;
}

enum dip_retry dip_reason_retry(enum dip_reason reason)
{
    return reason_of(reason)->retry;
}

/* Ends a text that was cut inside a character before that character: a string on the wire is UTF-8
 * or the peer refuses all of it. What came from a request has been checked to be UTF-8. */
static void end_whole(char *text, size_t bytes)
{
    size_t length = strnlen(text, bytes);
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char first = (unsigned char)text[start - 1];
    size_t needed = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (length - (start - 1) < needed)
        memset(text + start - 1, 0, length - (start - 1));
}

/* A terminal that shows the text must not obey what a client has put into it. */
static void disarm(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

static void put(char *text, size_t bytes, const char *format, va_list arguments) DIP_PRINTF(3, 0);
static void put(char *text, size_t bytes, const char *format, va_list arguments)
{
    if (vsnprintf(text, bytes, format, arguments) < 0)
        text[0] = '\0';
    end_whole(text, bytes);
    disarm(text);
}

static void put_text(char *text, size_t bytes, const char *from)
{
    snprintf(text, bytes, "%s", from);
    end_whole(text, bytes);
    disarm(text);
}

void dip_error_set(struct dip_error *error, enum dip_reason reason, const char *format, ...)
{
    dip_assert((unsigned)reason < DIP_REASON_COUNT);
    memset(error, 0, sizeof *error);
    error->reason = reason;
    va_list arguments;
    va_start(arguments, format);
    put(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
}

void dip_error_fact(struct dip_error *error, const char *key, const char *format, ...)
{
    if (error->fact_count == DIP_ERROR_FACTS_MAX)
        return;
    int i = error->fact_count++;
    put_text(error->facts[i].key, sizeof error->facts[i].key, key);
    va_list arguments;
    va_start(arguments, format);
    put(error->facts[i].value, sizeof error->facts[i].value, format, arguments);
    va_end(arguments);
}

void dip_error_field(struct dip_error *error, const char *field, const char *format, ...)
{
    if (error->field_count == DIP_ERROR_FIELDS_MAX)
        return;
    int i = error->field_count++;
    put_text(error->fields[i].field, sizeof error->fields[i].field, field);
    va_list arguments;
    va_start(arguments, format);
    put(error->fields[i].text, sizeof error->fields[i].text, format, arguments);
    va_end(arguments);
}

void dip_error_retry(struct dip_error *error, int64_t retry_ns)
{
    error->has_retry = true;
    error->retry_ns = retry_ns > 0 ? retry_ns : 0;
}

void dip_error_quota(struct dip_error *error, const char *subject, const char *format, ...)
{
    error->has_quota = true;
    put_text(error->quota_subject, sizeof error->quota_subject, subject);
    va_list arguments;
    va_start(arguments, format);
    put(error->quota_text, sizeof error->quota_text, format, arguments);
    va_end(arguments);
}
