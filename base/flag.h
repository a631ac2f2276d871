/* base/flag.h - one bit that any thread may raise and lower.
 *
 * For "there is something to do": the thread that raises the flag wakes the one that works, the
 * others know that it will come. Everything written before a raise is seen by whoever lowers the
 * flag after it. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

/* Zero-initialise: lowered. */
struct dip_flag {
    atomic_bool is_raised;
};

/* True when it was down before: exactly one of several threads that raise it at once sees that. */
bool dip_flag_raise(struct dip_flag *flag);
/* True when it was up before. */
bool dip_flag_lower(struct dip_flag *flag);
bool dip_flag_is_raised(struct dip_flag *flag);
