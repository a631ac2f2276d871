/* base/clock.h - the only place that asks the machine for the time or for entropy. */
#pragma once

#include <stdint.h>

enum { DIP_MS_NS = 1000000 };
#define DIP_SECOND_NS INT64_C(1000000000)

/* Monotonic nanoseconds; comparable within one process only. */
int64_t dip_clock_now_ns(void);

/* Nanoseconds since 1970 by the machine's clock: for what people read, never for waiting. */
int64_t dip_clock_unix_ns(void);

/* Returns after about wait_ns, sooner when a signal came: for a sender whose receiver is full. */
void dip_clock_sleep(int64_t wait_ns);

/* A seed for a request that brought none. Below 2^53, so that every JSON reader keeps it exact. */
uint64_t dip_entropy_seed(void);
