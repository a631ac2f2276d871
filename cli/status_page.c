/* cli/status_page.c - see cli/status_page.h; one static page, no script, colours and words. */
#include "cli/status_page.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cli/json.h"
#include "coordinator/daemon.h"

static const char *role_of(const struct dip_worker_view *view)
{
    bool is_both = (view->facts.roles & DIP_ROLE_AR) && (view->facts.roles & DIP_ROLE_DIFFUSION);
    return is_both ? "both" : view->facts.roles & DIP_ROLE_AR ? "ar" : "diffusion";
}

static double seconds(int64_t ns)
{
    return (double)ns / (double)DIP_SECOND_NS;
}

/* ---- JSON ---- */

static void json_pools(struct json_writer *w, const struct dip_coordinator_daemon *d)
{
    dip__json_open(w, "pools", '[');
    for (int i = 0; i < DIP_POOL_COUNT; i++) {
        struct dip_pool_view pool = dip_coordinator_daemon_pool(d, (enum dip_pool)i);
        dip__json_open(w, NULL, '{');
        dip__json_string(w, "pool", dip_pool_name((enum dip_pool)i));
        dip__json_int(w, "ready", pool.ready);
        dip__json_int(w, "draining", pool.draining);
        dip__json_int(w, "slots", pool.slots);
        dip__json_int(w, "queued", pool.queued);
        dip__json_int(w, "running", pool.running);
        dip__json_int(w, "wanted", pool.wanted);
        dip__json_real(w, "oldest_wait_seconds", seconds(pool.oldest_wait_ns), 6);
        dip__json_string(w, "reason", pool.reason);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void json_workers(struct json_writer *w, const struct dip_coordinator_daemon *d)
{
    struct dip_worker_view view;
    dip__json_open(w, "workers", '[');
    for (int cursor = 0; dip_coordinator_daemon_worker(d, &cursor, &view);) {
        dip__json_open(w, NULL, '{');
        dip__json_string(w, "name", view.facts.name);
        dip__json_string(w, "role", role_of(&view));
        dip__json_string(w, "state", dip_worker_state_text(view.state));
        dip__json_string(w, "detail", view.detail);
        dip__json_string(w, "address", view.facts.address);
        dip__json_string(w, "version", view.facts.version);
        dip__json_string(w, "group", view.group);
        dip__json_int(w, "rank", view.rank);
        dip__json_int(w, "slots", view.slots);
        dip__json_int(w, "slots_busy", view.slots_busy);
        dip__json_uint(w, "steps_total", view.steps_total);
        dip__json_close(w, '}');
    }
    dip__json_close(w, ']');
}

static void put_json(FILE *out, const struct dip_coordinator_daemon *d,
                     const struct dip_coordinator_view *view)
{
    struct json_writer w = {.out = out};
    dip__json_open(&w, NULL, '{');
    dip__json_string(&w, "cluster", view->cluster_id);
    dip__json_string(&w, "coordinator", view->name);
    dip__json_bool(&w, "leads", view->is_leading);
    dip__json_string(&w, "leader", view->leader);
    dip__json_uint(&w, "epoch", view->epoch);
    dip__json_bool(&w, "draining", view->is_draining);
    dip__json_bool(&w, "degraded", view->is_degraded);
    dip__json_string(&w, "degraded_reason", view->degraded_why);
    json_pools(&w, d);
    json_workers(&w, d);
    dip__json_close(&w, '}');
}

/* ---- HTML ---- */

/* For text and for values of attributes alike. */
static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", out);
            break;
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc((unsigned char)*text < ' ' ? ' ' : *text, out);
            break;
        }
    }
}

static void put_cell(FILE *out, const char *text)
{
    fputs("<td>", out);
    put_escaped(out, text);
    fputs("</td>", out);
}

static const char head[] =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" "
    "content=\"5\"><meta name=\"viewport\" content=\"width=device-width\"><title>Diptych</title>"
    "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}"
    "table{border-collapse:collapse;width:100%;margin:1em 0}th,td{text-align:left;padding:.3em "
    ".8em;"
    "border-bottom:1px solid #8884}.good{color:#17803d}.fair{color:#a16207}.bad{color:#b91c1c}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.good{color:#4ade80}"
    ".fair{color:#facc15}.bad{color:#f87171}}</style></head><body><h1>Diptych</h1>";

static const char *colour_of(enum dip_worker_state state)
{
    return state == DIP_WORKER_STATE_READY ? "good"
           : state == DIP_WORKER_STATE_SUSPECT || state == DIP_WORKER_STATE_LOST ||
                   state == DIP_WORKER_STATE_FENCED
               ? "bad"
               : "fair";
}

static void put_summary(FILE *out, const struct dip_coordinator_view *view)
{
    fputs("<p>Cluster ", out);
    put_escaped(out, view->cluster_id);
    fputs(", coordinator ", out);
    put_escaped(out, view->name);
    if (view->is_leading)
        fprintf(out, ": <b class=\"good\">leads</b>, epoch %" PRIu64, view->epoch);
    else
        fprintf(out, ": <b class=\"%s\">%s</b> ", view->leader[0] ? "fair" : "bad",
                view->leader[0] ? "follows" : "no leader is known");
    if (!view->is_leading)
        put_escaped(out, view->leader);
    if (view->is_draining)
        fputs(", <b class=\"fair\">draining</b>", out);
    fputs("</p>", out);
    if (!view->is_degraded)
        return;
    fputs("<p class=\"bad\">The registry does not answer; work goes on: ", out);
    put_escaped(out, view->degraded_why);
    fputs("</p>", out);
}

static void put_pools(FILE *out, const struct dip_coordinator_daemon *d)
{
    fputs("<table><tr><th>Pool</th><th>Ready</th><th>Draining</th><th>Slots</th><th>Queued</th>"
          "<th>Running</th><th>Oldest wait</th><th>Wanted</th><th>Why</th></tr>",
          out);
    for (int i = 0; i < DIP_POOL_COUNT; i++) {
        struct dip_pool_view pool = dip_coordinator_daemon_pool(d, (enum dip_pool)i);
        bool is_short = pool.wanted > pool.ready;
        fprintf(out,
                "<tr><td>%s</td><td class=\"%s\">%d</td><td>%d</td><td>%d</td><td>%d</td>"
                "<td>%d</td><td>%.1f s</td><td class=\"%s\">%d</td>",
                dip_pool_name((enum dip_pool)i), pool.ready > 0 ? "good" : "bad", pool.ready,
                pool.draining, pool.slots, pool.queued, pool.running, seconds(pool.oldest_wait_ns),
                is_short ? "fair" : "good", pool.wanted);
        put_cell(out, pool.reason);
        fputs("</tr>", out);
    }
    fputs("</table>", out);
}

static void put_workers(FILE *out, const struct dip_coordinator_daemon *d)
{
    struct dip_worker_view view;
    fputs("<table><tr><th>Worker</th><th>Role</th><th>State</th><th>Busy</th><th>Steps</th>"
          "<th>Group</th><th>Version</th><th>Detail</th></tr>",
          out);
    for (int cursor = 0; dip_coordinator_daemon_worker(d, &cursor, &view);) {
        fputs("<tr>", out);
        put_cell(out, view.facts.name);
        put_cell(out, role_of(&view));
        fprintf(out, "<td class=\"%s\">%s</td><td>%d of %d</td><td>%" PRIu64 "</td>",
                colour_of(view.state), dip_worker_state_text(view.state), view.slots_busy,
                view.slots, view.steps_total);
        put_cell(out, view.group);
        put_cell(out, view.facts.version);
        put_cell(out, view.detail);
        fputs("</tr>", out);
    }
    fputs("</table><p><a href=\"/status.json\">status.json</a></p></body></html>\n", out);
}

static void put_html(FILE *out, const struct dip_coordinator_daemon *d,
                     const struct dip_coordinator_view *view)
{
    fputs(head, out);
    put_summary(out, view);
    put_pools(out, d);
    put_workers(out, d);
}

/* ---- both ---- */

static void publish(const struct dip_coordinator_daemon *d, const struct dip_coordinator_view *view,
                    void (*put)(FILE *out, const struct dip_coordinator_daemon *d,
                                const struct dip_coordinator_view *view),
                    struct dip_page *page)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return;
    put(out, d, view);
    bool is_whole = !ferror(out);
    if (fclose(out) == 0 && is_whole) {
        enum dip_status status = dip_page_publish(page, text, bytes);
        (void)status; /* without memory the one before stays */
    }
    free(text);
}

void dip__status_pages(const struct dip_coordinator_daemon *daemon, struct dip_page *html,
                       struct dip_page *json)
{
    struct dip_coordinator_view view = dip_coordinator_daemon_view(daemon);
    publish(daemon, &view, put_html, html);
    publish(daemon, &view, put_json, json);
}
