/* base/page.h - a text that its owner publishes from time to time and any thread reads, whole. */
#pragma once

#include <stddef.h>

#include "base/status.h"

struct dip_page;

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_page_new(struct dip_page **ret_page);
void dip_page_free(struct dip_page *page);

/* Copies the text, which takes the place of the one before. Errors: NO_MEMORY: that one stays. */
DIP_MUST_USE enum dip_status dip_page_publish(struct dip_page *page, const char *text,
                                              size_t bytes);

/* A copy of the newest one, owned by the caller (free); terminated.
 * Errors: NOT_FOUND (none yet), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_page_read(struct dip_page *page, char **ret_text,
                                           size_t *ret_bytes);
