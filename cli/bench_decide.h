/* cli/bench_decide.h - rows of `bench control`: what one decision of the scheduler costs. */
#pragma once

#include "base/status.h"
#include "engine/engine.h"

/* A full queue and busy workers, 100 to 10,000 of them: rows control.decide.wN (the median over
 * every message, in us, against the aim of 20), its p99, and control.reserved (memory set aside for
 * one queued request of one image). Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__bench_decide(void (*on_row)(void *context,
                                                              const struct dip_bench_row *row),
                                               void *context, struct dip_why *why);
