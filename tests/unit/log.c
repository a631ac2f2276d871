/* tests/unit/log.c - lines are whole, valid, bounded and counted. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

enum { TEXT_BYTES = 1 << 18 };
static char text[TEXT_BYTES];
static FILE *file;

static struct dip_log *log_open(bool is_json, enum dip_log_level level)
{
    struct dip_log *log = NULL;
    file = tmpfile();
    assert_non_null(file);
    struct dip_log_options options = {.file = fileno(file),
                                      .is_json = is_json,
                                      .level = level,
                                      .component = "coordinator",
                                      .name = "c-\"0\""};
    assert_int_equal(dip_log_open(&options, &log), DIP_OK);
    return log;
}

/* Closes the log and reads what it wrote; the number of lines. */
static int log_read(struct dip_log *log)
{
    dip_log_close(log);
    rewind(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    text[bytes] = '\0';
    fclose(file);
    int lines = 0;
    for (size_t i = 0; i < bytes; i++)
        lines += text[i] == '\n';
    return lines;
}

static void say(struct dip_log *log, enum dip_log_level level, const char *event)
{
    struct dip_log_line line;
    dip_log_begin(&line, log, level, event);
    dip_log_text(&line, "request_id", "r \"1\"\n");
    dip_log_int(&line, "epoch", -3);
    dip_log_ms(&line, "queue_ms", 1500000);
    dip_log_end(&line);
}

static void people_get_one_readable_line(void **state)
{
    (void)state;
    struct dip_log *log = log_open(false, DIP_LOG_INFO);
    say(log, DIP_LOG_WARNING, "member\033[2J lost");
    say(log, DIP_LOG_DEBUG, "not wanted");
    dip_log_say(log, DIP_LOG_INFO, "listening on %d", 5);
    dip_log_say(NULL, DIP_LOG_ERROR, "nobody's");
    assert_int_equal(log_read(log), 2);
    assert_non_null(strstr(text, " warning coordinator member?[2J lost request_id=\"r \"1\"?\" "
                                 "epoch=-3 queue_ms=1.500\n"));
    assert_non_null(strstr(text, " info coordinator listening on 5\n"));
    assert_int_equal(text[2], ':'); /* the time stands first */
}

static void programs_get_valid_json(void **state)
{
    (void)state;
    struct dip_log *log = log_open(true, DIP_LOG_INFO);
    say(log, DIP_LOG_ERROR, "K\xc3\xa4se \"quoted\"\t");
    assert_int_equal(log_read(log), 1);
    struct dip_json json = {0};
    assert_int_equal(dip_json_parse(text, strlen(text) - 1, "log", NULL, &json), DIP_OK);
    const char *level = NULL, *id = NULL, *name = NULL;
    assert_int_equal(dip_json_string(&json, "level", NULL, &level), DIP_OK);
    assert_string_equal(level, "error");
    assert_int_equal(dip_json_string(&json, "request_id", NULL, &id), DIP_OK);
    assert_string_equal(id, "r \"1\"\n");
    assert_int_equal(dip_json_string(&json, "name", NULL, &name), DIP_OK);
    assert_string_equal(name, "c-\"0\"");
    dip_json_close(&json);
}

/* A field is whole or absent, and the line's end is never lost. */
static void long_lines_are_cut_between_fields(void **state)
{
    (void)state;
    struct dip_log *log = log_open(true, DIP_LOG_INFO);
    struct dip_log_line line;
    char key[16], value[200];
    memset(value, '\n', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    dip_log_begin(&line, log, DIP_LOG_INFO, value);
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "k%d", i);
        dip_log_text(&line, key, i % 2 ? "short" : value);
    }
    dip_log_end(&line);
    assert_int_equal(log_read(log), 1);
    assert_true(strlen(text) < DIP_LOG_LINE_BYTES + 64);
    struct dip_json json = {0};
    assert_int_equal(dip_json_parse(text, strlen(text) - 1, "log", NULL, &json), DIP_OK);
    dip_json_close(&json);
}

static void repetitions_are_counted(void **state)
{
    (void)state;
    struct dip_log *log = log_open(false, DIP_LOG_INFO);
    for (int i = 0; i < 100; i++)
        dip_log_say(log, DIP_LOG_WARNING, "etcd is silent");
    dip_log_say(log, DIP_LOG_INFO, "etcd is back");
    assert_int_equal(log_read(log), 3);
    assert_non_null(strstr(text, "warning coordinator the line before was said again count=99"));
}

enum { WRITERS = 4, LINES_EACH = 2000 };

static void *write_many(void *argument)
{
    struct dip_log *log = argument;
    for (int i = 0; i < LINES_EACH; i++)
        dip_log_say(log, DIP_LOG_INFO, "line %d of %p", i, (void *)&log);
    return NULL;
}

/* What is not written is counted, and no line is torn. */
static void a_flood_is_dropped_and_told(void **state)
{
    (void)state;
    struct dip_log *log = log_open(false, DIP_LOG_INFO);
    pthread_t writers[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_many, log), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    while (dip_log_dropped(log) > 0) { /* the next line that gets in tells it */
        uint64_t dropped = dip_log_dropped(log);
        dip_clock_sleep(50 * DIP_MS_NS);
        dip_log_say(log, DIP_LOG_INFO, "after the flood");
        if (dip_log_dropped(log) == dropped)
            break;
    }
    uint64_t dropped = dip_log_dropped(log);
    (void)log_read(log);
    uint64_t written = 0, told = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *count = strstr(line, "lines were dropped count=");
        if (count)
            told += strtoull(count + 25, NULL, 10);
        else if (strstr(line, " info coordinator line "))
            written++;
    }
    assert_int_equal(told, dropped);
    assert_int_equal(written + dropped, WRITERS * LINES_EACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(people_get_one_readable_line),
        cmocka_unit_test(programs_get_valid_json),
        cmocka_unit_test(long_lines_are_cut_between_fields),
        cmocka_unit_test(repetitions_are_counted),
        cmocka_unit_test(a_flood_is_dropped_and_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
