/* cli/bench_control.h - `bench control`: the whole front door with workers made of nothing. */
#pragma once

#include "base/status.h"
#include "engine/engine.h"

/* A coordinator on one thread, its clients on another, gRPC over loopback between them; tokenizer
 * and configuration of the model in `directory`. Rows as dip_bench_options.on_row gets them.
 * Errors: those of opening the model and of listening, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__bench_control(const char *directory,
                                                void (*on_row)(void *context,
                                                               const struct dip_bench_row *row),
                                                void *context, struct dip_why *why);
