/* base/metrics.c - see base/metrics.h; the text format is Prometheus' version 0.0.4. */
#include "base/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/page.h"

enum { PAGE_BYTES_FIRST = 16 << 10, PAGE_BYTES_MAX = 16 << 20 };

struct text {
    char *data;
    size_t bytes, bytes_max;
    bool is_short; /* no memory for all of it */
};

struct dip_metrics {
    const struct dip_metric_row *rows;
    int row_count;
    int row;          /* being written; -1 before the first */
    struct text next; /* the owner's */
    struct dip_page *page;
};

/* ---- text that grows ---- */

static bool text_reserve(struct text *text, size_t more)
{
    size_t need = text->bytes + more + 1;
    if (need <= text->bytes_max)
        return true;
    size_t bytes_max = text->bytes_max ? text->bytes_max : PAGE_BYTES_FIRST;
    while (bytes_max < need)
        bytes_max *= 2;
    char *data = bytes_max <= PAGE_BYTES_MAX ? realloc(text->data, bytes_max) : NULL;
    if (!data) {
        text->is_short = true;
        return false;
    }
    text->data = data;
    text->bytes_max = bytes_max;
    return true;
}

static void put(struct text *text, const char *format, ...) DIP_PRINTF(2, 3);

static void put(struct text *text, const char *format, ...)
{
    char piece[512];
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    dip_assert(bytes >= 0 && (size_t)bytes < sizeof piece);
    if (!text_reserve(text, (size_t)bytes))
        return;
    memcpy(text->data + text->bytes, piece, (size_t)bytes + 1);
    text->bytes += (size_t)bytes;
}

static void put_escaped(struct text *text, const char *value)
{
    for (; *value; value++) {
        if (*value == '\n')
            put(text, "\\n");
        else
            put(text, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
    }
}

static void put_number(struct text *text, double value)
{
    if (isnan(value))
        put(text, " NaN\n");
    else if (isinf(value))
        put(text, value > 0 ? " +Inf\n" : " -Inf\n");
    else if (value == floor(value) && fabs(value) < 9e15)
        put(text, " %" PRId64 "\n", (int64_t)value);
    else
        put(text, " %.9g\n", value);
}

/* {role="ar",le="0.1"}; `bound` is the text of a bucket's, NULL for others. */
static void put_labels(struct text *text, const struct dip_metric_row *row,
                       const char *const *labels, const char *bound)
{
    const char *separator = "{";
    for (int i = 0; i < DIP_METRIC_LABELS_MAX && row->labels[i]; i++) {
        put(text, "%s%s=\"", separator, row->labels[i]);
        put_escaped(text, labels[i]);
        put(text, "\"");
        separator = ",";
    }
    if (bound) {
        put(text, "%sle=\"%s\"", separator, bound);
        separator = ",";
    }
    if (separator[0] == ',')
        put(text, "}");
}

/* ---- a page ---- */

enum dip_status dip_metrics_new(const struct dip_metric_row *rows, int row_count,
                                struct dip_metrics **ret_metrics)
{
    struct dip_metrics *m = calloc(1, sizeof *m);
    if (!m)
        return DIP_NO_MEMORY;
    m->rows = rows;
    m->row_count = row_count;
    if (dip_page_new(&m->page)) {
        free(m);
        return DIP_NO_MEMORY;
    }
    *ret_metrics = m;
    return DIP_OK;
}

void dip_metrics_free(struct dip_metrics *metrics)
{
    if (!metrics)
        return;
    free(metrics->next.data);
    dip_page_free(metrics->page);
    free(metrics);
}

void dip_metrics_begin(struct dip_metrics *metrics)
{
    metrics->row = -1;
    metrics->next.bytes = 0;
    metrics->next.is_short = false;
}

/* Headings up to this row: a family without a series still has its help. */
static void advance(struct dip_metrics *m, int row)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    dip_assert(row >= m->row && row < m->row_count); /* the table's order, each family once */
    while (m->row < row) {
        const struct dip_metric_row *r = &m->rows[++m->row];
        put(&m->next, "# HELP %s %s\n", r->name, r->help);
        put(&m->next, "# TYPE %s %s\n", r->name, types[r->type]);
    }
}

void dip_metrics_value(struct dip_metrics *metrics, int row, const char *const *labels,
                       double value)
{
    struct text *text = &metrics->next;
    advance(metrics, row);
    const struct dip_metric_row *r = &metrics->rows[row];
    dip_assert(r->type != DIP_METRIC_HISTOGRAM);
    put(text, "%s", r->name);
    put_labels(text, r, labels, NULL);
    put_number(text, value);
}

void dip_metrics_histogram(struct dip_metrics *metrics, int row, const char *const *labels,
                           const double *bounds, const uint64_t *counts, int bucket_count,
                           double sum)
{
    struct text *text = &metrics->next;
    uint64_t count = 0;
    advance(metrics, row);
    const struct dip_metric_row *r = &metrics->rows[row];
    dip_assert(r->type == DIP_METRIC_HISTOGRAM);
    for (int i = 0; i < bucket_count; i++) {
        char bound[32] = "+Inf";
        if (i + 1 < bucket_count)
            snprintf(bound, sizeof bound, "%g", bounds[i]);
        count += counts[i];
        put(text, "%s_bucket", r->name);
        put_labels(text, r, labels, bound);
        put(text, " %" PRIu64 "\n", count);
    }
    put(text, "%s_sum", r->name);
    put_labels(text, r, labels, NULL);
    put_number(text, sum);
    put(text, "%s_count", r->name);
    put_labels(text, r, labels, NULL);
    put(text, " %" PRIu64 "\n", count);
}

enum dip_status dip_metrics_publish(struct dip_metrics *metrics)
{
    struct text *text = &metrics->next;
    if (metrics->row_count > 0)
        advance(metrics, metrics->row_count - 1);
    if (text->is_short || !text_reserve(text, 0))
        return DIP_NO_MEMORY;
    return dip_page_publish(metrics->page, text->data, text->bytes);
}

struct dip_page *dip_metrics_page(struct dip_metrics *metrics)
{
    return metrics->page;
}

enum dip_status dip_metrics_read(struct dip_metrics *metrics, char **ret_text, size_t *ret_bytes)
{
    return dip_page_read(metrics->page, ret_text, ret_bytes);
}
