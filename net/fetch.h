/* net/fetch.h - one page of a process on this machine over HTTP, waited for: a supervisor asks the
 * processes that it started.
 *
 * Blocks its caller for up to wait_ns. Thread: any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dip_fetch;

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_fetch_open(struct dip_fetch **ret_fetch);
void dip_fetch_close(struct dip_fetch *fetch);

/* GET http://127.0.0.1:PORT/PATH. *ret_code is HTTP's; *ret_text, terminated, is the caller's
 * (free). Errors: UNREACHABLE (nobody answers, or not in time), LIMIT (more than bytes_max),
 * NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_fetch_get(struct dip_fetch *fetch, int port, const char *path,
                                           int64_t wait_ns, size_t bytes_max, int *ret_code,
                                           char **ret_text);
