/* cli/bench_load.h - `bench control`: more than the front door can serve, for a minute and all at
 * once.
 *
 *     control.overload.refusal  p99 of a refusal while ten times as much is asked as can be done
 *     control.overload.late     of those that were admitted, how many did not end in time
 *     control.overload.done     images finished per second; bound: what the workers can do
 *     control.overload.memory   growth of the process per minute, by the slope of its resident size
 *     control.connections       how many of 10,000 connections opened at once are there in the end
 *     control.connections.open  until the last of them was served
 *     control.connections.each  what one of them takes of the coordinator's memory */
#pragma once

#include "cli/bench_front.h"

/* Takes a minute and a half. Errors: as dip__bench_control's. */
DIP_MUST_USE enum dip_status dip__bench_load(const char *directory, bench_row_fn on_row,
                                             void *context, struct dip_why *why);
