/* cli/trace.h - --trace FILE: collects what a request really used and writes one safetensors file.
 *
 * Names and shapes as in docs: prompt_ids, image_ids, hidden, condition, noise, velocity.K,
 * latent.K, latent, image. Everything is kept in memory until the end, so that the file is whole or
 * not there. */
#pragma once

#include "cluster/cluster.h"

struct trace;

DIP_MUST_USE enum dip_status dip__trace_new(struct trace **ret_trace);
void dip__trace_free(struct trace *trace);

/* Copies one tensor; a second one of the same name (a retry) replaces the first. Errors: NO_MEMORY,
 * LIMIT. */
DIP_MUST_USE enum dip_status dip__trace_add(struct trace *trace,
                                            const struct dip_message_trace *tensor);
DIP_MUST_USE enum dip_status dip__trace_write(const struct trace *trace, const char *path,
                                              struct dip_why *why);
