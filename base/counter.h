/* base/counter.h - a number that one thread writes and any thread reads. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* Zero-initialise. */
struct dip_counter {
    atomic_uint_fast64_t value;
};

void dip_counter_add(struct dip_counter *counter, uint64_t count);
/* For what goes up and down, such as slots in use. */
void dip_counter_set(struct dip_counter *counter, uint64_t value);
uint64_t dip_counter_get(const struct dip_counter *counter);
