/* coordinator/png_text.h - what a picture's file says about its making, put into the finished file.
 *
 * The worker that paints never sees the prompt: it makes a file without texts, and the coordinator
 * inserts them here. Pure functions, any thread. */
#pragma once

#include "base/status.h"
#include "cluster/job.h"

/* A copy of `png` with the texts (key, zero, value, zero, and so on, all UTF-8) as chunks between
 * IHDR and what follows: the bytes that an encoder would have written that knew them. Values of
 * printable ASCII become tEXt, others iTXt; no compression. *ret_png is malloc's, owned by the
 * caller. Errors: CORRUPT (no PNG), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__png_text_insert(const struct dip_payload *png,
                                                  const struct dip_payload *texts,
                                                  struct dip_payload *ret_png);
