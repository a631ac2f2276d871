/* cli/ranks.c - `diptych worker --role ar --ranks N`: the ranks of a group that share a machine,
 * one process each, as one unit: it starts as one, is probed as one, drains as one and fails as
 * one.
 *
 * The children are the same executable as real workers with --ar-rank; they die with this process,
 * however that happens. One that dies is started again, and its group is formed anew; the fourth
 * death within ten minutes ends everything with a reason, because then starting again is no help
 * and whoever started this process should know. One that never came up ends everything at once: it
 * has said why.
 *
 * Rank i is called NAME-i, listens on the i-th port after --listen's and has the i-th GPU from
 * --device on. Its own pages are on a free port of the loopback address; this process asks for them
 * and answers for all, on --http. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pool.h"
#include "cli/daemon.h"
#include "cli/device.h"
#include "cli/observe.h"
#include "cli/registry.h"
#include "cli/signals.h"
#include "cli/up.h"
#include "net/fetch.h"

#define TURN_NS       (INT64_C(50) * DIP_MS_NS)
#define PAGE_NS       (INT64_C(1000) * DIP_MS_NS)
#define ASK_NS        (INT64_C(500) * DIP_MS_NS) /* for a rank to answer */
#define AGAIN_NS      (INT64_C(500) * DIP_MS_NS)
#define BUDGET_NS     (600 * DIP_SECOND_NS)
#define GRACE_MORE_NS (13 * DIP_SECOND_NS) /* a worker's own 10 s, and the registry's */
enum { BUDGET_DEATHS = 3, RANKS_MAX = 64, ADDRESS_BYTES = 272, RANK_PAGE_BYTES_MAX = 1 << 20 };

enum row { UP, RESTARTS, ROWS };
static const struct dip_metric_row rows[ROWS] = {
    [UP] = {"diptych_rank_up", DIP_METRIC_GAUGE, "1 while its process makes progress.", {"rank"}},
    [RESTARTS] = {"diptych_rank_restarts_total",
                  DIP_METRIC_COUNTER,
                  "Times that its process was started again.",
                  {"rank"}},
};

struct rank {
    struct child child;
    int http_port; /* 0 = not known yet */
    bool is_live;
    int restarts;
    char *metrics; /* its newest page; NULL = none */
    char why[DIP_HTTP_WHY_BYTES];
};

struct ranks {
    const struct options *options;
    int count, gpu_count;
    struct rank *ranks; /* [count] */
    char name[ENROLLED_NAME_BYTES];
    struct dip_log *log;
    struct dip_metrics *own;
    struct dip_fetch *fetch;
    struct dip_http *http;
    /* What the probes say; "" = good. `metrics` is the merged page. */
    struct dip_page *started, *live, *ready, *metrics;
    struct dip_http_page page; /* of `metrics` */
    int64_t page_ns;
    int64_t deaths_ns[BUDGET_DEATHS]; /* the newest ones, in a ring */
    int death_count;
    bool has_started, is_ready, is_draining, is_over;
    enum exit_code code;
};

/* ---- what the probes say, on the thread of the pages ---- */

static bool is_good(struct dip_page *page, char ret_why[DIP_HTTP_WHY_BYTES])
{
    char *text = NULL;
    size_t bytes = 0;
    if (dip_page_read(page, &text, &bytes))
        return false;
    bool is_empty = bytes == 0;
    if (!is_empty)
        snprintf(ret_why, DIP_HTTP_WHY_BYTES, "%s", text);
    free(text);
    return is_empty;
}

static bool is_live(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    return is_good(((struct ranks *)context)->live, ret_why);
}

static bool is_ready(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    return is_good(((struct ranks *)context)->ready, ret_why);
}

static bool is_started(void *context, char ret_why[DIP_HTTP_WHY_BYTES])
{
    return is_good(((struct ranks *)context)->started, ret_why);
}

static void say(struct ranks *r, struct dip_page *page, const char *text)
{
    if (dip_page_publish(page, text, strlen(text)))
        dip_log_say(r->log, DIP_LOG_WARNING, "no memory for a page");
}

/* ---- starting a rank ---- */

/* "host:7000" with rank 2 is "host:7002"; without a port, or with port 0, it stays as it is. */
static enum dip_status shift_port(const char *address, int rank, struct dip_why *why,
                                  char text[ADDRESS_BYTES])
{
    const char *colon = strrchr(address, ':');
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    long port = digits > 0 && digits <= 5 && !colon[1 + digits] ? strtol(colon + 1, NULL, 10) : 0;
    int bytes = port == 0 ? snprintf(text, ADDRESS_BYTES, "%s", address)
                          : snprintf(text, ADDRESS_BYTES, "%.*s:%ld", (int)(colon - address),
                                     address, port + rank);
    if (bytes >= ADDRESS_BYTES || port + rank > 65535)
        return dip_fail(why, DIP_LIMIT, "rank %d has no port after %.100s", rank, address);
    return DIP_OK;
}

static int threads_of(const struct ranks *r)
{
    int threads = dip_cpu_count() / r->count;
    return dip__is_given(r->options, &r->options->threads) ? (int)r->options->threads
           : threads > 1                                   ? threads
                                                           : 1;
}

/* One GPU each, from --device on. */
static int device_of(const struct ranks *r, int rank)
{
    int first = (int)r->options->device;
    return r->gpu_count > 0 ? (first + rank) % r->gpu_count : first;
}

static enum dip_status start_rank(struct ranks *r, int rank, struct dip_why *why)
{
    static const char *const own[] = {"listen",    "http",  "name",    "threads", "device",
                                      "advertise", "ranks", "ar-rank", NULL};
    const struct options *o = r->options;
    char listen[ADDRESS_BYTES], advertise[ADDRESS_BYTES];
    struct rank *one = &r->ranks[rank];
    const char *words[] = {"worker",    "--name", one->child.name,
                           "--ar-rank", "--http", "127.0.0.1:0",
                           "--listen",  listen,   o->advertise ? "--advertise" : NULL,
                           advertise,   NULL};
    DIP_TRY(shift_port(o->listen ? o->listen : "127.0.0.1:0", rank, why, listen));
    if (o->advertise)
        DIP_TRY(shift_port(o->advertise, rank, why, advertise));
    one->http_port = 0;
    one->is_live = false;
    return dip__child_start(&one->child,
                            &(struct child_start){.options = o,
                                                  .words = words,
                                                  .own = own,
                                                  .threads = threads_of(r),
                                                  .device = device_of(r, rank)},
                            why);
}

/* ---- what they say ---- */

static void hear(struct ranks *r)
{
    for (int i = 0; i < r->count; i++) {
        struct rank *one = &r->ranks[i];
        for (const char *line; (line = dip__child_line(&one->child)) != NULL;) {
            const char *fact = strstr(line, ": ");
            fact = fact ? fact + 2 : line;
            if (strncmp(fact, FACT_METRICS, strlen(FACT_METRICS)) == 0)
                one->http_port = (int)strtol(fact + strlen(FACT_METRICS), NULL, 10);
            else if (strcmp(fact, FACT_READY) == 0)
                one->child.is_ready = one->child.has_come_up = one->child.was_ready = true;
            else if (strcmp(fact, FACT_WAITING) == 0)
                one->child.is_ready = false;
        }
    }
}

/* A rank that is loading, or that starts again, is not dead: it has its time as any process. */
static void ask_rank(struct ranks *r, int rank)
{
    struct rank *one = &r->ranks[rank];
    int code = 0;
    char *text = NULL;
    free(one->metrics);
    one->metrics = NULL;
    one->is_live = true;
    if (one->child.pid == 0 || one->http_port == 0)
        return;
    if (dip_fetch_get(r->fetch, one->http_port, "/healthz", ASK_NS, DIP_HTTP_WHY_BYTES, &code,
                      &text)) {
        one->is_live = false;
        snprintf(one->why, sizeof one->why, "rank %d does not answer", rank);
        return;
    }
    text[strcspn(text, "\n")] = '\0';
    one->is_live = code == 200;
    snprintf(one->why, sizeof one->why, "rank %d: %.200s", rank, text);
    free(text);
    if (dip_fetch_get(r->fetch, one->http_port, "/metrics", ASK_NS, RANK_PAGE_BYTES_MAX, &code,
                      &text))
        return;
    if (code == 200)
        one->metrics = text;
    else
        free(text);
}

static void publish_metrics(struct ranks *r)
{
    const char *pages[RANKS_MAX];
    char *merged = NULL, *own = NULL, *both = NULL;
    size_t merged_bytes = 0, own_bytes = 0;
    dip_metrics_begin(r->own);
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < r->count; i++) {
            char rank[16];
            snprintf(rank, sizeof rank, "%d", i);
            const struct rank *one = &r->ranks[i];
            bool is_up = one->child.pid > 0 && one->http_port > 0 && one->is_live;
            dip_metrics_value(r->own, row, (const char *const[]){rank},
                              row == UP ? is_up : one->restarts);
        }
    for (int i = 0; i < r->count; i++)
        pages[i] = r->ranks[i].metrics;
    if (dip_metrics_publish(r->own) || dip_metrics_read(r->own, &own, &own_bytes))
        return; /* no memory: the page before stays */
    if (dip_metrics_merge(pages, r->count, "rank", &merged, &merged_bytes) == DIP_OK)
        both = realloc(merged, merged_bytes + own_bytes + 1);
    if (both) {
        memcpy(both + merged_bytes, own, own_bytes + 1);
        say(r, r->metrics, both);
    } else {
        free(merged);
        say(r, r->metrics, own);
    }
    free(both);
    free(own);
}

static void publish(struct ranks *r)
{
    char live[DIP_HTTP_WHY_BYTES] = "", ready[DIP_HTTP_WHY_BYTES] = "", started[64] = "";
    for (int i = r->count - 1; i >= 0; i--) {
        const struct rank *one = &r->ranks[i];
        ask_rank(r, i);
        if (!one->is_live)
            snprintf(live, sizeof live, "%s", one->why);
        if (!one->child.is_ready || !one->is_live)
            snprintf(ready, sizeof ready, "%.250s",
                     one->is_live ? "not all ranks are ready for work" : one->why);
        if (!one->http_port && !r->has_started)
            snprintf(started, sizeof started, "rank %d is loading", i);
    }
    if (r->is_draining)
        snprintf(ready, sizeof ready, "draining");
    say(r, r->live, live);
    say(r, r->ready, ready);
    say(r, r->started, started);
    publish_metrics(r);
    bool is_ready = ready[0] == '\0';
    if (is_ready != r->is_ready)
        dip__fact("worker", is_ready ? FACT_READY : FACT_WAITING, "");
    r->is_ready = is_ready;
    r->has_started |= started[0] == '\0';
}

/* ---- life and death ---- */

static void print_death(struct ranks *r, const struct rank *one, int status)
{
    bool is_killed = WIFSIGNALED(status);
    dip_log_say(r->log, DIP_LOG_WARNING, "%s %s %d", one->child.name,
                is_killed ? "was killed by signal" : "ended with status",
                is_killed ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* Whether another death is one too many. */
static bool is_budget_spent(struct ranks *r, int64_t now_ns)
{
    int64_t *oldest = &r->deaths_ns[r->death_count % BUDGET_DEATHS];
    bool is_spent = r->death_count >= BUDGET_DEATHS && now_ns - *oldest < BUDGET_NS;
    *oldest = now_ns;
    r->death_count++;
    return is_spent;
}

static void on_death(struct ranks *r, struct rank *one, int status)
{
    int64_t now_ns = dip_clock_now_ns();
    struct dip_why why = {0};
    print_death(r, one, status);
    one->http_port = 0;
    r->is_over = true;
    r->code = EXIT_FAILED;
    if (!one->child.was_ready && WIFEXITED(status)) { /* it has said why */
        r->code = WEXITSTATUS(status) == EXIT_USAGE ? EXIT_USAGE : EXIT_FAILED;
    } else if (is_budget_spent(r, now_ns)) {
        dip_fail(&why, DIP_DEVICE,
                 "ranks have died %d times within ten minutes, %s the last: giving up, so that "
                 "this worker is started anew or looked at",
                 BUDGET_DEATHS + 1, one->child.name);
        dip__print_error(why.text);
    } else {
        r->is_over = false;
        one->restarts++;
        one->child.begin_again_ns = now_ns + AGAIN_NS;
    }
}

static enum dip_status keep_alive(struct ranks *r, struct dip_why *why)
{
    for (int i = 0; i < r->count && !r->is_over; i++) {
        struct rank *one = &r->ranks[i];
        int status = 0;
        if (dip__child_has_ended(&one->child, &status))
            on_death(r, one, status);
        else if (one->child.pid == 0 && dip_clock_now_ns() >= one->child.begin_again_ns)
            DIP_TRY(start_rank(r, i, why));
    }
    return DIP_OK;
}

static int count_alive(const struct ranks *r)
{
    int count = 0;
    for (int i = 0; i < r->count; i++)
        count += r->ranks[i].child.pid > 0;
    return count;
}

/* All of them at once; who does not go within its grace is killed. */
static void end_all(struct ranks *r)
{
    int64_t grace_ns = r->is_over ? DIP_SECOND_NS : r->options->grace * DIP_SECOND_NS;
    int64_t until_ns = dip_clock_now_ns() + grace_ns + (r->is_over ? 0 : GRACE_MORE_NS);
    r->is_draining = true;
    r->page_ns = 0;
    for (int i = 0; i < r->count; i++)
        dip__child_signal(&r->ranks[i].child, SIGTERM);
    while (count_alive(r) > 0) {
        if (dip_clock_now_ns() >= until_ns)
            for (int i = 0; i < r->count; i++)
                dip__child_signal(&r->ranks[i].child, SIGKILL);
        hear(r); /* or they would wait for somebody to listen */
        for (int i = 0; i < r->count; i++) {
            int status = 0;
            if (!dip__child_has_ended(&r->ranks[i].child, &status) || status == 0)
                continue;
            print_death(r, &r->ranks[i], status);
            if (!r->is_over)
                r->code = EXIT_FAILED; /* it was to finish what it had */
        }
        if (dip_clock_now_ns() - r->page_ns >= PAGE_NS) {
            r->page_ns = dip_clock_now_ns();
            publish(r);
        }
        dip_clock_sleep(10 * DIP_MS_NS);
    }
}

/* ---- the whole ---- */

static enum dip_status check(struct ranks *r, struct dip_why *why)
{
    const struct options *o = r->options;
    char model[DIP_PATH_BYTES_MAX], name[ENROLLED_NAME_BYTES + 16];
    uint64_t degrees = 0;
    if (o->role != ROLE_AR)
        return dip_fail(why, DIP_INVALID, "--ranks are of the AR panel: say --role ar");
    DIP_TRY(dip__model_directory(o, why, model, sizeof model));
    DIP_TRY(dip__daemon_degrees(model, r->count, why, &degrees));
    dip__enrolled_name(o, r->name);
    r->gpu_count = dip__gpu_count(o);
    for (int i = 0; i < r->count; i++) {
        int bytes = snprintf(name, sizeof name, "%s-%d", r->name, i);
        if (bytes >= ENROLLED_NAME_BYTES)
            return dip_fail(why, DIP_LIMIT, "the name %s is longer than %d bytes", name,
                            ENROLLED_NAME_BYTES - 1);
        snprintf(r->ranks[i].child.name, sizeof r->ranks[i].child.name, "%s", name);
        r->ranks[i].child.output = -1;
    }
    return DIP_OK;
}

static enum dip_status open_pages(struct ranks *r, struct dip_why *why)
{
    struct dip_page **const pages[] = {&r->started, &r->live, &r->ready, &r->metrics};
    DIP_TRY(dip__observe_log(r->options, "worker", r->name, why, &r->log));
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        DIP_TRY(dip_page_new(pages[i]));
    DIP_TRY(dip_metrics_new(rows, ROWS, &r->own));
    DIP_TRY(dip_fetch_open(&r->fetch));
    publish(r);
    if (!r->options->http)
        return DIP_OK;
    r->page = (struct dip_http_page){
        .path = "/metrics", .type = DIP_HTTP_METRICS_TYPE, .page = r->metrics};
    DIP_TRY(dip_http_start(&(struct dip_http_options){.listen = r->options->http,
                                                      .pages = &r->page,
                                                      .page_count = 1,
                                                      .is_live = is_live,
                                                      .is_ready = is_ready,
                                                      .is_started = is_started,
                                                      .context = r},
                           why, &r->http));
    char port[16];
    snprintf(port, sizeof port, "%d", dip_http_port(r->http));
    dip__fact("worker", FACT_METRICS, port);
    return DIP_OK;
}

static void close_all(struct ranks *r)
{
    struct dip_page *const pages[] = {r->started, r->live, r->ready, r->metrics};
    dip_http_stop(r->http);
    for (int i = 0; i < r->count; i++) {
        if (r->ranks[i].child.output >= 0)
            close(r->ranks[i].child.output);
        free(r->ranks[i].metrics);
    }
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        dip_page_free(pages[i]);
    dip_metrics_free(r->own);
    dip_fetch_close(r->fetch);
    dip_log_close(r->log);
    free(r->ranks);
}

enum exit_code dip__ranks(const struct arguments *arguments)
{
    struct ranks r = {.options = &arguments->options, .count = (int)arguments->options.ranks};
    struct dip_why why = {0};
    dip__signals_serve();
    r.ranks = calloc((size_t)r.count, sizeof *r.ranks);
    enum dip_status status = r.ranks ? check(&r, &why) : DIP_NO_MEMORY;
    if (!status)
        status = open_pages(&r, &why);
    while (!status && !r.is_over && !dip__signals_came()) {
        status = keep_alive(&r, &why);
        hear(&r);
        if (dip_clock_now_ns() - r.page_ns >= PAGE_NS) {
            r.page_ns = dip_clock_now_ns();
            publish(&r);
        }
        dip_clock_sleep(TURN_NS);
    }
    if (status) {
        r.is_over = true;
        r.code = dip__fail(status, &why);
    }
    if (r.log && r.ranks) {
        if (!r.is_over)
            dip_log_say(r.log, DIP_LOG_INFO, "draining");
        end_all(&r);
    }
    if (r.ranks)
        close_all(&r);
    return r.code;
}
