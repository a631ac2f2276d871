/* base/log.h - what happens, line by line: for people on a terminal, JSON for programs elsewhere.
 *
 * A line is an event in a few words, the area it belongs to, and fields. It is put together on the
 * caller's stack and handed to the log's thread, so nobody waits for a disk or a pipe: when lines
 * come faster than they are taken the newest are dropped and counted, and the next line says how
 * many. A line that repeats the one before it is counted, too, instead of written. What does not
 * fit into a line is cut. Never from inside a step, never with a prompt.
 *
 *     12:03:04.512 warning coordinator member lost  worker=ar-1 silence_ms=1003
 *     {"ts": "2026-11-22T12:03:04.512Z", "level": "warning", "component": "coordinator", ...}
 *
 * Thread: any, but for open and close. A NULL log takes nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define DIP_LOG_LEVEL_LIST(X)                                                                      \
    X(ERROR, "error")                                                                              \
    X(WARNING, "warning")                                                                          \
    X(INFO, "info")                                                                                \
    X(DEBUG, "debug")

enum dip_log_level {
#define DIP_LOG_LEVEL_ENUM(name, text) DIP_LOG_##name,
    DIP_LOG_LEVEL_LIST(DIP_LOG_LEVEL_ENUM)
#undef DIP_LOG_LEVEL_ENUM
};

struct dip_log;

struct dip_log_options {
    int file; /* descriptor, stays the caller's */
    bool is_json;
    enum dip_log_level level; /* this and more important ones */
    const char *component;    /* "coordinator"; kept, not copied */
    const char *name;         /* of this process in the cluster; NULL = none; kept */
    int line_count_max;       /* that wait; 0 = 512 */
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_log_open(const struct dip_log_options *options,
                                          struct dip_log **ret_log);
/* Writes what waits. Accepts NULL. */
void dip_log_close(struct dip_log *log);

enum { DIP_LOG_LINE_BYTES = 1536 };

/* Being put together; on the stack of one function. */
struct dip_log_line {
    struct dip_log *log; /* NULL = nobody wants it */
    enum dip_log_level level;
    size_t bytes;
    char text[DIP_LOG_LINE_BYTES];
};

/* `event` in a few words: "member lost". */
void dip_log_begin(struct dip_log_line *line, struct dip_log *log, enum dip_log_level level,
                   const char *event);
void dip_log_text(struct dip_log_line *line, const char *key, const char *value);
void dip_log_int(struct dip_log_line *line, const char *key, int64_t value);
/* Nanoseconds as milliseconds; say so in the key: "queue_ms". */
void dip_log_ms(struct dip_log_line *line, const char *key, int64_t ns);
void dip_log_end(struct dip_log_line *line);

/* A line without fields. */
void dip_log_say(struct dip_log *log, enum dip_log_level level, const char *format, ...)
    DIP_PRINTF(3, 4);

/* Lines that were dropped because too many waited. */
uint64_t dip_log_dropped(const struct dip_log *log);
