/* base/metrics.h - numbers for Prometheus: a table of families, written as one page by their owner.
 *
 * The table says name, type, help and labels of each family, once. The owner writes a page from
 * time to time: all families in the table's order, so that a series that is part of the table is
 * there from the first page on, with 0. Any thread reads the newest whole page. Nothing is locked
 * while numbers are gathered, and nothing counts twice what a module counts already.
 *
 * Thread: begin to publish on the owner's, read on any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum dip_metric_type { DIP_METRIC_COUNTER, DIP_METRIC_GAUGE, DIP_METRIC_HISTOGRAM };

enum { DIP_METRIC_LABELS_MAX = 4 };

struct dip_metric_row {
    const char *name; /* with its unit; counters end in _total */
    enum dip_metric_type type;
    const char *help;
    const char *labels[DIP_METRIC_LABELS_MAX]; /* names; the first NULL ends them */
};

struct dip_metrics;
struct dip_page;

/* The table is kept, not copied. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_metrics_new(const struct dip_metric_row *rows, int row_count,
                                             struct dip_metrics **ret_metrics);
void dip_metrics_free(struct dip_metrics *metrics);

/* A page: begin, then for each row of the table in order any number of values, then publish.
 * Rows may be passed over (a family without a series yet). `labels` has as many entries as the row,
 * NULL when that has none. */
void dip_metrics_begin(struct dip_metrics *metrics);
void dip_metrics_value(struct dip_metrics *metrics, int row, const char *const *labels,
                       double value);
/* counts[i] of bucket_count buckets with the upper bounds bounds[i]; the last one has none and
 * bounds[bucket_count - 1] is not looked at. Counts are not cumulative. */
void dip_metrics_histogram(struct dip_metrics *metrics, int row, const char *const *labels,
                           const double *bounds, const uint64_t *counts, int bucket_count,
                           double sum);
/* Errors: NO_MEMORY: the page before stays. */
DIP_MUST_USE enum dip_status dip_metrics_publish(struct dip_metrics *metrics);

/* Where the pages go, for who serves them. */
struct dip_page *dip_metrics_page(struct dip_metrics *metrics);

/* A copy of the newest page, owned by the caller (free); terminated. Any thread.
 * Errors: NOT_FOUND (none yet), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_metrics_read(struct dip_metrics *metrics, char **ret_text,
                                              size_t *ret_bytes);

/* One page of the pages of several processes with the same table: each series gets one more label,
 * "rank" for example, with its process's number. NULL stands for a process that has no page now.
 * The text is the caller's (free). Errors: NO_MEMORY, NOT_FOUND (no page at all). */
DIP_MUST_USE enum dip_status dip_metrics_merge(const char *const *pages, int page_count,
                                               const char *label, char **ret_text,
                                               size_t *ret_bytes);
