/* cli/status_page.h - /status for people and /status.json for programs: the cluster as its leader
 * sees it. */
#pragma once

#include "base/page.h"

struct dip_coordinator_daemon;

/* What /status must not be able to do: it loads nothing, runs nothing and goes nowhere. */
#define STATUS_PAGE_HEADERS                                                                        \
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "    \
    "form-action 'none'; frame-ancestors 'none'"

/* Publishes both; without memory those before stay. Everything that comes from outside is escaped.
 */
void dip__status_pages(const struct dip_coordinator_daemon *daemon, struct dip_page *html,
                       struct dip_page *json);
