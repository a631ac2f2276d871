/* cli/observe.h - what a daemon shows of itself: its log, its metrics page, its probes.
 *
 * /startupz is good once the process has loaded what it needs, /healthz while it makes progress (or
 * still loads), /readyz while it should be given work. They are answered on a thread of
 * net/http, also while the process's own loop stands still: it is the loop that says, from time to
 * time, that it turns, that it is ready, and whether the work that it looks after makes progress.
 */
#pragma once

#include "base/counter.h"
#include "base/flag.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cli/options.h"
#include "net/http.h"

enum { OBSERVED_PAGES_MAX = 3, CERTIFICATE_FILES = 4 };

/* Zero-initialise; pages beside /metrics may be filled in then. Does not move while it is open. */
struct observed {
    struct dip_log *log;
    struct dip_metrics *metrics;
    struct dip_http *http; /* NULL without --http */
    struct dip_counter beat_ns;
    struct dip_flag is_started, is_ready, is_stuck;
    struct dip_http_page pages[OBSERVED_PAGES_MAX];
    int page_count;
    int64_t expiries_s[CERTIFICATE_FILES], expiries_ns; /* as last read, and when */
};

/* The log alone. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__observe_log(const struct options *options, const char *component,
                                              const char *name, struct dip_why *why,
                                              struct dip_log **ret_log);

/* Opens the log, and the pages when --http asks for them. Errors: those of dip_http_start. */
DIP_MUST_USE enum dip_status dip__observe_open(const struct options *options, const char *component,
                                               const char *name, const struct dip_metric_row *rows,
                                               int row_count, struct dip_why *why,
                                               struct observed *ret_observed);
void dip__observe_close(struct observed *observed);

/* From the process's own loop, several times a second, from when it has loaded what it needs: the
 * first one ends the start, during which nobody expects it to turn. */
void dip__observe_beat(struct observed *observed, bool is_ready, bool is_stuck);

/* One series for each file of certificates that the options name: 0 for those they do not. The
 * files are read again once a minute. */
#define CERTIFICATE_METRIC_ROW                                                                     \
    {                                                                                              \
        "diptych_certificate_expiry_timestamp_seconds", DIP_METRIC_GAUGE,                          \
            "When the first certificate of a file ends, in seconds since 1970; 0 = no such file.", \
        {                                                                                          \
            "file"                                                                                 \
        }                                                                                          \
    }
void dip__observe_certificates(struct observed *observed, const struct options *options, int row);

/* Distributions that another thread writes. `label` is NULL when the row has none. */
void dip__observe_times(struct observed *observed, int row, const char *label,
                        const struct dip_times *times);
void dip__observe_sizes(struct observed *observed, int row, const char *label,
                        const struct dip_sizes *sizes);

/* ---- the families that every process has; at the end of its table ---- */

#define PROCESS_METRIC_ROWS(first)                                                                 \
    [(first) +                                                                                     \
        0] = {"diptych_build_info",                                                                \
              DIP_METRIC_GAUGE,                                                                    \
              "1, with what is running.",                                                          \
              {"version", "commit"}},                                                              \
        [(first) + 1] = {"diptych_log_lines_dropped_total",                                        \
                         DIP_METRIC_COUNTER,                                                       \
                         "Log lines dropped because nobody took them in time.",                    \
                         {NULL}},                                                                  \
        [(first) + 2] = {"process_cpu_seconds_total",                                              \
                         DIP_METRIC_COUNTER,                                                       \
                         "User and system time spent.",                                            \
                         {NULL}},                                                                  \
        [(first) +                                                                                 \
            3] = {"process_resident_memory_bytes", DIP_METRIC_GAUGE, "Memory in use.", {NULL}},    \
        [(first) + 4] = {"process_start_time_seconds",                                             \
                         DIP_METRIC_GAUGE,                                                         \
                         "Start of the process, in seconds since 1970.",                           \
                         {NULL}},                                                                  \
        [(first) + 5] = {"process_open_fds", DIP_METRIC_GAUGE, "Open file descriptors.", {NULL}}
enum { PROCESS_METRICS = 6 };

/* Writes them. */
void dip__observe_process(struct observed *observed, int first);
