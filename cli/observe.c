/* cli/observe.c - see cli/observe.h. */
#include "cli/observe.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc_tls.h"

/* A loop that has not turned for so long does not live. */
#define BEAT_NS_MAX (10 * DIP_SECOND_NS)

static bool is_started(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    struct observed *o = context;
    if (dip_flag_is_raised(&o->is_started))
        return true;
    snprintf(ret_why, DIP_HTTP_WHY_BYTES, "loading");
    return false;
}

/* A start may take as long as it takes: whoever has no patience watches /startupz. */
static bool is_live(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    struct observed *o = context;
    if (!is_started(o, ret_why))
        return true;
    int64_t silent_ns = dip_clock_now_ns() - (int64_t)dip_counter_get(&o->beat_ns);
    if (silent_ns > BEAT_NS_MAX) {
        snprintf(ret_why, DIP_HTTP_WHY_BYTES, "the loop has stood still for %.1f s",
                 (double)silent_ns / (double)DIP_SECOND_NS);
        return false;
    }
    if (dip_flag_is_raised(&o->is_stuck)) {
        snprintf(ret_why, DIP_HTTP_WHY_BYTES, "there is work and it makes no progress");
        return false;
    }
    return true;
}

static bool is_ready(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    struct observed *o = context;
    if (!is_started(o, ret_why) || !is_live(o, ret_why))
        return false;
    if (dip_flag_is_raised(&o->is_ready))
        return true;
    snprintf(ret_why, DIP_HTTP_WHY_BYTES, "not ready for work");
    return false;
}

enum dip_status dip__observe_log(const struct options *options, const char *component,
                                 const char *name, struct dip_why *why, struct dip_log **ret_log)
{
    struct dip_log_options log = {
        .file = STDERR_FILENO,
        .is_json = options->log_format == LOG_FORMAT_JSON ||
                   (options->log_format == LOG_FORMAT_AUTO && !isatty(STDERR_FILENO)),
        .level = (enum dip_log_level)options->log_level,
        .component = component,
        .name = name};
    enum dip_status status = dip_log_open(&log, ret_log);
    return status ? dip_fail(why, status, "no memory for a log") : DIP_OK;
}

enum dip_status dip__observe_open(const struct options *options, const char *component,
                                  const char *name, const struct dip_metric_row *rows,
                                  int row_count, struct dip_why *why, struct observed *ret_observed)
{
    struct observed *o = ret_observed;
    dip_counter_set(&o->beat_ns, (uint64_t)dip_clock_now_ns());
    enum dip_status status = dip__observe_log(options, component, name, why, &o->log);
    if (!status && dip_metrics_new(rows, row_count, &o->metrics))
        status = dip_fail(why, DIP_NO_MEMORY, "no memory for metrics");
    if (!status && options->http) {
        dip_assert(o->page_count < OBSERVED_PAGES_MAX);
        o->pages[o->page_count++] = (struct dip_http_page){.path = "/metrics",
                                                           .type = DIP_HTTP_METRICS_TYPE,
                                                           .page = dip_metrics_page(o->metrics)};
        status = dip_http_start(&(struct dip_http_options){.listen = options->http,
                                                           .pages = o->pages,
                                                           .page_count = o->page_count,
                                                           .is_live = is_live,
                                                           .is_ready = is_ready,
                                                           .is_started = is_started,
                                                           .context = o},
                                why, &o->http);
    }
    if (status)
        dip__observe_close(o);
    return status;
}

void dip__observe_close(struct observed *observed)
{
    dip_http_stop(observed->http);
    dip_metrics_free(observed->metrics);
    dip_log_close(observed->log);
    *observed = (struct observed){0};
}

void dip__observe_beat(struct observed *observed, bool ready, bool stuck)
{
    dip_counter_set(&observed->beat_ns, (uint64_t)dip_clock_now_ns());
    dip_flag_raise(&observed->is_started);
    if (ready)
        dip_flag_raise(&observed->is_ready);
    else
        dip_flag_lower(&observed->is_ready);
    if (stuck)
        dip_flag_raise(&observed->is_stuck);
    else
        dip_flag_lower(&observed->is_stuck);
}

/* ---- certificates ---- */

#define CERTIFICATES_NS (60 * DIP_SECOND_NS)

void dip__observe_certificates(struct observed *observed, const struct options *options, int row)
{
    static const char *const names[CERTIFICATE_FILES] = {"tls_cert", "tls_ca", "etcd_cert",
                                                         "etcd_ca"};
    const char *const paths[CERTIFICATE_FILES] = {options->tls_cert, options->tls_ca,
                                                  options->etcd_cert, options->etcd_ca};
    int64_t now_ns = dip_clock_now_ns();
    bool is_due = observed->expiries_ns == 0 || now_ns - observed->expiries_ns > CERTIFICATES_NS;
    if (is_due)
        observed->expiries_ns = now_ns;
    for (int i = 0; i < CERTIFICATE_FILES; i++) {
        if (is_due)
            observed->expiries_s[i] = dip_rpc_pem_expiry_s(paths[i]);
        dip_metrics_value(observed->metrics, row, &names[i], (double)observed->expiries_s[i]);
    }
}

/* ---- distributions ---- */

void dip__observe_times(struct observed *observed, int row, const char *label,
                        const struct dip_times *times)
{
    uint64_t counts[DIP_TIMES_BUCKETS];
    double bounds[DIP_TIMES_BUCKETS];
    for (int i = 0; i < DIP_TIMES_BUCKETS; i++) {
        counts[i] = dip_counter_get(&times->counts[i]);
        bounds[i] = (double)(DIP_TIMES_NS_FIRST << i) / (double)DIP_SECOND_NS;
    }
    dip_metrics_histogram(observed->metrics, row, &label, bounds, counts, DIP_TIMES_BUCKETS,
                          (double)dip_counter_get(&times->sum_ns) / (double)DIP_SECOND_NS);
}

void dip__observe_sizes(struct observed *observed, int row, const char *label,
                        const struct dip_sizes *sizes)
{
    uint64_t counts[DIP_SIZES_BUCKETS];
    double bounds[DIP_SIZES_BUCKETS];
    for (int i = 0; i < DIP_SIZES_BUCKETS; i++) {
        counts[i] = dip_counter_get(&sizes->counts[i]);
        bounds[i] = (double)(UINT64_C(1) << i);
    }
    dip_metrics_histogram(observed->metrics, row, &label, bounds, counts, DIP_SIZES_BUCKETS,
                          (double)dip_counter_get(&sizes->sum));
}

/* ---- the process ---- */

/* Pages of memory in use: the second number of the file. */
static double resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    char text[128] = "";
    if (!file)
        return 0;
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    const char *second = strchr(text, ' ');
    return second ? strtod(second, NULL) * (double)sysconf(_SC_PAGESIZE) : 0;
}

static int open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    if (!folder)
        return 0;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count > 3 ? count - 3 : 0; /* "." and ".." and the folder itself */
}

void dip__observe_process(struct observed *observed, int first)
{
    static double begin_s;
    struct rusage used;
    const char *version[] = {DIP_VERSION, DIP_COMMIT};
    struct dip_metrics *m = observed->metrics;
    if (begin_s == 0)
        begin_s = (double)dip_clock_unix_ns() / (double)DIP_SECOND_NS;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = (double)used.ru_utime.tv_sec + (double)used.ru_utime.tv_usec / 1e6 +
                   (double)used.ru_stime.tv_sec + (double)used.ru_stime.tv_usec / 1e6;
    dip_metrics_value(m, first + 0, version, 1);
    dip_metrics_value(m, first + 1, NULL, (double)dip_log_dropped(observed->log));
    dip_metrics_value(m, first + 2, NULL, cpu_s);
    dip_metrics_value(m, first + 3, NULL, resident_bytes());
    dip_metrics_value(m, first + 4, NULL, begin_s);
    dip_metrics_value(m, first + 5, NULL, open_files());
}
