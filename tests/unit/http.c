/* tests/unit/http.c - the pages for probes: right answers, and no answer to anything else. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/flag.h"
#include "base/metrics.h"
#include "net/http.h"

static const struct dip_metric_row rows[] = {
    {"t_calls_total", DIP_METRIC_COUNTER, "Calls.", {NULL}},
};

static struct dip_metrics *metrics;
static struct dip_http *http;
static struct dip_flag is_sick, is_busy, is_loaded;
static struct dip_http_page pages[2] = {
    {.path = "/metrics", .type = DIP_HTTP_METRICS_TYPE},
    {.path = "/status",
     .type = "text/html",
     .headers = "Content-Security-Policy: default-src 'none'"},
};

static bool is_live(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    (void)context;
    snprintf(ret_why, DIP_HTTP_WHY_BYTES, "the loop has stood still for 9 s");
    return !dip_flag_is_raised(&is_sick);
}

static bool is_ready(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    (void)context;
    snprintf(ret_why, DIP_HTTP_WHY_BYTES, "no worker of the diffusion panel");
    return !dip_flag_is_raised(&is_busy);
}

static bool is_started(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    (void)context;
    snprintf(ret_why, DIP_HTTP_WHY_BYTES, "loading");
    return dip_flag_is_raised(&is_loaded);
}

static char answer[1 << 16];

/* Sends the bytes, reads until the server closes or has said `until`. */
static void ask(const char *request, size_t bytes, const char *until)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)dip_http_port(http)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(s, (struct sockaddr *)&address, sizeof address), 0);
    (void)send(s, request, bytes, MSG_NOSIGNAL);
    size_t got = 0;
    answer[0] = '\0';
    for (ssize_t n; got + 1 < sizeof answer && !(until && strstr(answer, until)) &&
                    (n = recv(s, answer + got, sizeof answer - 1 - got, 0)) > 0;) {
        got += (size_t)n;
        answer[got] = '\0';
    }
    close(s);
}

static void get(const char *path)
{
    char request[256];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
             path);
    ask(request, strlen(request), NULL);
}

static void assert_answer(const char *code, const char *words)
{
    assert_memory_equal(answer, "HTTP/1.1 ", 9);
    assert_memory_equal(answer + 9, code, 3);
    if (!strstr(answer, words))
        print_error("said \"%s\", expected \"%s\"\n", answer, words);
    assert_non_null(strstr(answer, words));
}

static void probes_say_what_the_process_says(void **state)
{
    (void)state;
    get("/healthz");
    assert_answer("200", "\r\n\r\n");
    get("/readyz");
    assert_answer("200", "\r\n\r\n");
    dip_flag_raise(&is_sick);
    dip_flag_raise(&is_busy);
    get("/healthz");
    assert_answer("503", "stood still for 9 s\n");
    get("/readyz?verbose");
    assert_answer("503", "no worker of the diffusion panel\n");
    dip_flag_lower(&is_sick);
    dip_flag_lower(&is_busy);
    get("/startupz");
    assert_answer("503", "loading\n");
    dip_flag_raise(&is_loaded);
    get("/startupz");
    assert_answer("200", "\r\n\r\n");
}

static void pages_have_their_own_type_and_header(void **state)
{
    (void)state;
    get("/status");
    assert_answer("503", "nothing");
    assert_int_equal(dip_page_publish(pages[1].page, "<p>hi", 5), DIP_OK);
    get("/status");
    assert_answer("200", "\r\n\r\n<p>hi");
    assert_non_null(strstr(answer, "Content-Type: text/html\r\n"));
    assert_non_null(strstr(answer, "Content-Security-Policy: default-src 'none'\r\n"));
    assert_non_null(strstr(answer, "nosniff"));
}

static void metrics_are_the_newest_page(void **state)
{
    (void)state;
    get("/metrics");
    assert_answer("503", "nothing was measured yet");
    for (int i = 1; i <= 2; i++) {
        char line[64];
        dip_metrics_begin(metrics);
        dip_metrics_value(metrics, 0, NULL, i);
        assert_int_equal(dip_metrics_publish(metrics), DIP_OK);
        get("/metrics");
        snprintf(line, sizeof line, "\nt_calls_total %d\n", i);
        assert_answer("200", line);
        assert_non_null(strstr(answer, "text/plain; version=0.0.4"));
    }
}

static void nothing_else_is_served(void **state)
{
    (void)state;
    get("/");
    assert_answer("404", "/healthz");
    get("/../etc/passwd");
    assert_answer("404", "\r\n\r\n");
    const char post[] = "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        "Content-Length: 5\r\n\r\nhello";
    ask(post, sizeof post - 1, NULL);
    assert_answer("405", "Allow: GET, HEAD");
    const char head[] = "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    ask(head, sizeof head - 1, NULL);
    assert_answer("200", "\r\n\r\n");
    assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n"); /* and no body */
}

/* A header above the ceiling, bytes that are no HTTP, and nobody reading: the next one is served.
 */
static void bad_clients_do_not_matter(void **state)
{
    (void)state;
    size_t bytes = 1 << 20;
    char *large = malloc(bytes);
    assert_non_null(large);
    memset(large, 'a', bytes);
    memcpy(large, "GET /", 5);
    ask(large, bytes, "HTTP/1.1");
    if (answer[0])
        assert_true(answer[9] == '4');
    memset(large, 0x80, bytes);
    ask(large, 4096, "HTTP/1.1");
    free(large);
    get("/healthz");
    assert_answer("200", "\r\n\r\n");
}

static void addresses_are_checked(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",       "localhost",       "127.0.0.1:",          "127.0.0.1:http",
        "[::1:5", "127.0.0.1:99999", "not.a.host.invalid:1"};
    struct dip_http *other = NULL;
    struct dip_http_options options = {.pages = pages,
                                       .page_count = 2,
                                       .is_live = is_live,
                                       .is_ready = is_ready,
                                       .is_started = is_started};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct dip_why why = {0};
        options.listen = wrong[i];
        assert_int_not_equal(dip_http_start(&options, &why, &other), DIP_OK);
        assert_true(why.text[0] != '\0');
    }
    char taken[32];
    struct dip_why why = {0};
    snprintf(taken, sizeof taken, "127.0.0.1:%d", dip_http_port(http));
    options.listen = taken;
    assert_int_equal(dip_http_start(&options, &why, &other), DIP_IO);
    assert_non_null(strstr(why.text, "in use"));
}

static int start(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_http_options options = {.listen = "127.0.0.1:0",
                                       .pages = pages,
                                       .page_count = 2,
                                       .is_live = is_live,
                                       .is_ready = is_ready,
                                       .is_started = is_started};
    assert_int_equal(dip_metrics_new(rows, 1, &metrics), DIP_OK);
    assert_int_equal(dip_page_new(&pages[1].page), DIP_OK);
    pages[0].page = dip_metrics_page(metrics);
    if (dip_http_start(&options, &why, &http))
        fail_msg("%s", why.text);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    dip_http_stop(http);
    dip_metrics_free(metrics);
    dip_page_free(pages[1].page);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics_are_the_newest_page),
        cmocka_unit_test(probes_say_what_the_process_says),
        cmocka_unit_test(pages_have_their_own_type_and_header),
        cmocka_unit_test(nothing_else_is_served),
        cmocka_unit_test(bad_clients_do_not_matter),
        cmocka_unit_test(addresses_are_checked),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
