/* tests/unit/metrics.c - a page has every family of its table, and readers get whole pages. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/flag.h"
#include "base/metrics.h"

enum { CALLS, WAIT, DEPTH, SPARE };

static const struct dip_metric_row rows[] = {
    [CALLS] = {"t_calls_total", DIP_METRIC_COUNTER, "Calls.", {"method", "code"}},
    [WAIT] = {"t_wait_seconds", DIP_METRIC_HISTOGRAM, "Waits.", {"pool"}},
    [DEPTH] = {"t_depth", DIP_METRIC_GAUGE, "Depth.", {NULL}},
    [SPARE] = {"t_spare", DIP_METRIC_GAUGE, "Nothing yet.", {"worker"}},
};

static void write_page(struct dip_metrics *m, uint64_t n)
{
    static const double bounds[] = {0.1, 2.5};
    const uint64_t counts[] = {n, 2, 3};
    dip_metrics_begin(m);
    dip_metrics_value(m, CALLS, (const char *const[]){"Generate", "OK"}, (double)n);
    dip_metrics_value(m, CALLS, (const char *const[]){"a\"b\\c\nd", "OK"}, 0);
    dip_metrics_histogram(m, WAIT, (const char *const[]){"ar"}, bounds, counts, 3, 4.25);
    dip_metrics_value(m, DEPTH, NULL, INFINITY);
    assert_int_equal(dip_metrics_publish(m), DIP_OK);
}

static void the_page_is_prometheus_text(void **state)
{
    (void)state;
    struct dip_metrics *m = NULL;
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_metrics_new(rows, 4, &m), DIP_OK);
    assert_int_equal(dip_metrics_read(m, &text, &bytes), DIP_NOT_FOUND);
    write_page(m, 1);
    assert_int_equal(dip_metrics_read(m, &text, &bytes), DIP_OK);
    assert_string_equal(text, "# HELP t_calls_total Calls.\n"
                              "# TYPE t_calls_total counter\n"
                              "t_calls_total{method=\"Generate\",code=\"OK\"} 1\n"
                              "t_calls_total{method=\"a\\\"b\\\\c\\nd\",code=\"OK\"} 0\n"
                              "# HELP t_wait_seconds Waits.\n"
                              "# TYPE t_wait_seconds histogram\n"
                              "t_wait_seconds_bucket{pool=\"ar\",le=\"0.1\"} 1\n"
                              "t_wait_seconds_bucket{pool=\"ar\",le=\"2.5\"} 3\n"
                              "t_wait_seconds_bucket{pool=\"ar\",le=\"+Inf\"} 6\n"
                              "t_wait_seconds_sum{pool=\"ar\"} 4.25\n"
                              "t_wait_seconds_count{pool=\"ar\"} 6\n"
                              "# HELP t_depth Depth.\n"
                              "# TYPE t_depth gauge\n"
                              "t_depth +Inf\n"
                              "# HELP t_spare Nothing yet.\n"
                              "# TYPE t_spare gauge\n");
    assert_int_equal(bytes, strlen(text));
    free(text);
    dip_metrics_free(m);
}

static struct dip_flag is_over;

/* Every page is of one writing: the counter and the bucket agree. */
static void *read_pages(void *argument)
{
    struct dip_metrics *m = argument;
    intptr_t torn = 0;
    while (!dip_flag_is_raised(&is_over)) {
        char *text = NULL;
        size_t bytes = 0;
        if (dip_metrics_read(m, &text, &bytes))
            continue;
        const char *calls = strstr(text, "code=\"OK\"} ");
        const char *bucket = strstr(text, "le=\"0.1\"} ");
        torn +=
            !calls || !bucket || strtoull(calls + 11, NULL, 10) != strtoull(bucket + 10, NULL, 10);
        torn += !strstr(text, "# TYPE t_spare gauge\n");
        free(text);
    }
    return (void *)torn;
}

static void readers_get_whole_pages(void **state)
{
    (void)state;
    struct dip_metrics *m = NULL;
    pthread_t readers[2];
    void *torn = NULL;
    assert_int_equal(dip_metrics_new(rows, 4, &m), DIP_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_pages, m), 0);
    for (uint64_t n = 0; n < 2000; n++)
        write_page(m, n);
    dip_flag_raise(&is_over);
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], &torn);
        assert_null(torn);
    }
    dip_metrics_free(m);
}

/* Three processes, one of which has no page; labels, escapes and buckets stay as they are. */
static void pages_of_processes_are_merged(void **state)
{
    (void)state;
    static const char *const pages[] = {
        "# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B {x}.\n# TYPE b counter\n"
        "# HELP c C.\n# TYPE c gauge\nc{n=\"a b{\"} 1\n",
        NULL,
        "# HELP a A.\n# TYPE a gauge\na 2\n# HELP b B {x}.\n# TYPE b counter\n"
        "b{m=\"x\",le=\"+Inf\"} 5\n# HELP c C.\n# TYPE c gauge\nc{n=\"y\"} 1\nc{n=\"z\"} 0\n",
    };
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(dip_metrics_merge(pages, 3, "rank", &text, &bytes), DIP_OK);
    assert_string_equal(text, "# HELP a A.\n# TYPE a gauge\na{rank=\"0\"} 1\na{rank=\"2\"} 2\n"
                              "# HELP b B {x}.\n# TYPE b counter\n"
                              "b{rank=\"2\",m=\"x\",le=\"+Inf\"} 5\n"
                              "# HELP c C.\n# TYPE c gauge\nc{rank=\"0\",n=\"a b{\"} 1\n"
                              "c{rank=\"2\",n=\"y\"} 1\nc{rank=\"2\",n=\"z\"} 0\n");
    assert_int_equal(bytes, strlen(text));
    free(text);
    assert_int_equal(dip_metrics_merge(pages + 1, 1, "rank", &text, &bytes), DIP_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_prometheus_text),
        cmocka_unit_test(pages_of_processes_are_merged),
        cmocka_unit_test(readers_get_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
