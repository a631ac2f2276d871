/* base/log.c - see base/log.h. */
#include "base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/mailbox.h"

enum {
    LINES_DEFAULT = 512,
    TAIL_BYTES = 4, /* kept free for what ends a line */
    STAMP_BYTES = 40,
};

/* What the log's thread is given; the time is written before it. */
struct entry {
    int64_t unix_ns;
    enum dip_log_level level;
    size_t bytes;
    char text[DIP_LOG_LINE_BYTES];
};

struct dip_log {
    struct dip_log_options options;
    struct dip_mailbox *entries;
    struct dip_counter dropped;
    pthread_t thread;
    /* The log's thread only: */
    uint64_t dropped_told;
    struct entry last; /* written last, to recognise its repetition */
    uint64_t repeats;
};

static const char *const level_names[] = {
#define LEVEL_NAME(name, text) text,
    DIP_LOG_LEVEL_LIST(LEVEL_NAME)
#undef LEVEL_NAME
};

/* ---- putting a line together ---- */

static void put_char(struct dip_log_line *line, char c)
{
    if (line->bytes < DIP_LOG_LINE_BYTES - TAIL_BYTES)
        line->text[line->bytes++] = c;
}

static void put_plain(struct dip_log_line *line, const char *text)
{
    for (; *text; text++)
        put_char(line, *text);
}

/* Inside JSON quotes: always valid, so bytes beyond ASCII are shown as if they were Latin-1. */
static void put_escaped(struct dip_log_line *line, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char escape[8];
        if (c == '"' || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            snprintf(escape, sizeof escape, "\\u%04x", c);
        else
            snprintf(escape, sizeof escape, "%c", c);
        if (line->bytes + strlen(escape) + TAIL_BYTES > DIP_LOG_LINE_BYTES)
            return;
        put_plain(line, escape);
    }
}

/* For people: a value with blanks gets quotes; control characters become '?'. */
static void put_readable(struct dip_log_line *line, const char *text)
{
    bool is_quoted = text[0] == '\0' || strpbrk(text, " \"=") != NULL;
    if (is_quoted)
        put_char(line, '"');
    for (; *text; text++)
        put_char(line, (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
    if (is_quoted)
        put_char(line, '"');
}

static void put_key(struct dip_log_line *line, const char *key)
{
    bool is_json = line->log->options.is_json;
    put_plain(line, is_json ? ", \"" : " ");
    put_plain(line, key);
    put_plain(line, is_json ? "\": " : "=");
}

/* Room for a field of this key with a value of so many bytes; a field is whole or absent. */
static bool has_room(const struct dip_log_line *line, const char *key, size_t value_bytes)
{
    return line->log &&
           line->bytes + strlen(key) + value_bytes + 8 + TAIL_BYTES <= DIP_LOG_LINE_BYTES;
}

void dip_log_begin(struct dip_log_line *line, struct dip_log *log, enum dip_log_level level,
                   const char *event)
{
    line->log = log && level <= log->options.level ? log : NULL;
    line->level = level;
    line->bytes = 0;
    if (!line->log)
        return;
    const struct dip_log_options *o = &log->options;
    if (!o->is_json) {
        put_plain(line, level_names[level]);
        put_char(line, ' ');
        put_plain(line, o->component);
        put_char(line, ' ');
        for (const char *c = event; *c; c++)
            put_char(line, (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
        return;
    }
    put_plain(line, "\"level\": \"");
    put_plain(line, level_names[level]);
    put_plain(line, "\", \"component\": \"");
    put_escaped(line, o->component);
    if (o->name) {
        put_plain(line, "\", \"name\": \"");
        put_escaped(line, o->name);
    }
    put_plain(line, "\", \"msg\": \"");
    put_escaped(line, event);
    put_char(line, '"');
}

void dip_log_text(struct dip_log_line *line, const char *key, const char *value)
{
    if (!has_room(line, key, strlen(value)))
        return;
    put_key(line, key);
    if (!line->log->options.is_json) {
        put_readable(line, value);
        return;
    }
    put_char(line, '"');
    put_escaped(line, value);
    put_char(line, '"');
}

static void put_number(struct dip_log_line *line, const char *key, const char *number)
{
    if (!has_room(line, key, strlen(number)))
        return;
    put_key(line, key);
    put_plain(line, number);
}

void dip_log_int(struct dip_log_line *line, const char *key, int64_t value)
{
    char number[32];
    snprintf(number, sizeof number, "%" PRId64, value);
    put_number(line, key, number);
}

void dip_log_ms(struct dip_log_line *line, const char *key, int64_t ns)
{
    char number[48];
    snprintf(number, sizeof number, "%.3f", (double)ns / DIP_MS_NS);
    put_number(line, key, number);
}

/* Into the bytes that were kept free. */
static void end_text(struct dip_log_line *line)
{
    dip_assert(line->bytes + 2 <= DIP_LOG_LINE_BYTES);
    if (line->log->options.is_json)
        line->text[line->bytes++] = '}';
    line->text[line->bytes++] = '\n';
}

void dip_log_end(struct dip_log_line *line)
{
    if (!line->log)
        return;
    struct entry entry = {.unix_ns = dip_clock_unix_ns(), .level = line->level};
    end_text(line);
    entry.bytes = line->bytes;
    memcpy(entry.text, line->text, line->bytes);
    if (dip_mailbox_push(line->log->entries, &entry))
        dip_counter_add(&line->log->dropped, 1);
    line->log = NULL;
}

void dip_log_say(struct dip_log *log, enum dip_log_level level, const char *format, ...)
{
    char text[512];
    struct dip_log_line line;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dip_log_begin(&line, log, level, text);
    dip_log_end(&line);
}

uint64_t dip_log_dropped(const struct dip_log *log)
{
    return dip_counter_get(&log->dropped);
}

/* ---- the log's thread ---- */

static void write_all(int file, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t count = write(file, data, bytes);
        if (count <= 0)
            return; /* nowhere to complain */
        data += count;
        bytes -= (size_t)count;
    }
}

static size_t stamp(const struct dip_log *log, int64_t unix_ns, char text[STAMP_BYTES])
{
    time_t seconds = (time_t)(unix_ns / DIP_SECOND_NS);
    int ms = (int)(unix_ns % DIP_SECOND_NS / DIP_MS_NS);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    int bytes =
        log->options.is_json
            ? snprintf(text, STAMP_BYTES, "{\"ts\": \"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\", ",
                       (parts.tm_year + 1900) % 10000, parts.tm_mon + 1, parts.tm_mday,
                       parts.tm_hour, parts.tm_min, parts.tm_sec, ms)
            : snprintf(text, STAMP_BYTES, "%02d:%02d:%02d.%03d ", parts.tm_hour, parts.tm_min,
                       parts.tm_sec, ms);
    dip_assert(bytes > 0);
    return bytes < STAMP_BYTES ? (size_t)bytes : STAMP_BYTES - 1;
}

static void write_entry(struct dip_log *log, const struct entry *entry)
{
    char text[STAMP_BYTES + DIP_LOG_LINE_BYTES];
    size_t bytes = stamp(log, entry->unix_ns, text);
    memcpy(text + bytes, entry->text, entry->bytes);
    write_all(log->options.file, text, bytes + entry->bytes); /* one write: lines do not mix */
}

/* "said 12 times more", "40 lines were dropped": the log about itself. */
static void write_count(struct dip_log *log, enum dip_log_level level, const char *event,
                        uint64_t count)
{
    struct dip_log_line line;
    struct entry entry = {.unix_ns = dip_clock_unix_ns()};
    dip_log_begin(&line, log, level, event);
    dip_assert(line.log); /* a line of this level has been wanted */
    dip_log_int(&line, "count", (int64_t)count);
    end_text(&line);
    entry.bytes = line.bytes;
    memcpy(entry.text, line.text, line.bytes);
    write_entry(log, &entry);
}

static void tell_repeats(struct dip_log *log)
{
    if (log->repeats > 0)
        write_count(log, log->last.level, "the line before was said again", log->repeats);
    log->repeats = 0;
}

static void take(struct dip_log *log, const struct entry *entry)
{
    const struct entry *last = &log->last;
    bool is_same = entry->bytes == last->bytes && !memcmp(entry->text, last->text, entry->bytes);
    if (is_same) {
        log->repeats++;
        return;
    }
    tell_repeats(log);
    uint64_t dropped = dip_counter_get(&log->dropped);
    if (dropped > log->dropped_told)
        write_count(log, DIP_LOG_ERROR, "lines were dropped", dropped - log->dropped_told);
    log->dropped_told = dropped;
    write_entry(log, entry);
    log->last = *entry;
}

static void *log_main(void *argument)
{
    struct dip_log *log = argument;
    struct entry entry;
    for (;;) {
        enum dip_status status =
            dip_mailbox_pop(log->entries, log->repeats > 0 ? DIP_SECOND_NS : -1, &entry);
        if (status == DIP_TIMEOUT)
            tell_repeats(log);
        else if (status)
            break;
        else
            take(log, &entry);
    }
    tell_repeats(log);
    return NULL;
}

enum dip_status dip_log_open(const struct dip_log_options *options, struct dip_log **ret_log)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_log *log = calloc(1, sizeof *log);
    if (!log)
        return status;
    log->options = *options;
    int lines = options->line_count_max ? options->line_count_max : LINES_DEFAULT;
    status = dip_mailbox_new(sizeof(struct entry), (size_t)lines, &log->entries);
    if (!status && pthread_create(&log->thread, NULL, log_main, log) != 0)
        status = DIP_NO_MEMORY;
    if (status) {
        dip_mailbox_free(log->entries);
        free(log);
        return status;
    }
    *ret_log = log;
    return DIP_OK;
}

void dip_log_close(struct dip_log *log)
{
    if (!log)
        return;
    dip_mailbox_close(log->entries);
    pthread_join(log->thread, NULL);
    dip_mailbox_free(log->entries);
    free(log);
}
