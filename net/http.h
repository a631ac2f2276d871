/* net/http.h - the pages for machines that watch a process: /metrics, /healthz, /readyz, /startupz.
 *
 * GET and HEAD only, a few connections at a time, no bodies taken in. The library's own thread
 * serves (libmicrohttpd), so the pages answer also while the process's loop is stuck: just then
 * they matter. What they say is asked of the process by callbacks, from that thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/page.h"
#include "base/status.h"

struct dip_http;

enum { DIP_HTTP_WHY_BYTES = 256 };

struct dip_http_page {
    const char *path;    /* "/status" */
    const char *type;    /* of its content */
    const char *headers; /* one more, "Name: value"; NULL = none */
    struct dip_page *page;
};

struct dip_http_options {
    const char *listen;                /* "127.0.0.1:9464", "[::]:0" */
    const struct dip_http_page *pages; /* kept, not copied; the newest text of each is served */
    int page_count;
    /* Called on the server's thread. False makes the answer 503; ret_why is one sentence. */
    bool (*is_live)(void *context, char ret_why[DIP_HTTP_WHY_BYTES]);
    bool (*is_ready)(void *context, char ret_why[DIP_HTTP_WHY_BYTES]);
    bool (*is_started)(void *context, char ret_why[DIP_HTTP_WHY_BYTES]);
    void *context;
};

/* Errors: INVALID (listen), IO (cannot listen there), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_http_start(const struct dip_http_options *options,
                                            struct dip_why *why, struct dip_http **ret_http);
/* The port that was bound. */
int dip_http_port(const struct dip_http *http);
/* No callback comes after. Accepts NULL. */
void dip_http_stop(struct dip_http *http);

/* What /metrics is. */
#define DIP_HTTP_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
