/* base/counter.c - see base/counter.h. */
#include "base/counter.h"

void dip_counter_add(struct dip_counter *counter, uint64_t count)
{
    atomic_fetch_add_explicit(&counter->value, count, memory_order_relaxed);
}

void dip_counter_set(struct dip_counter *counter, uint64_t value)
{
    atomic_store_explicit(&counter->value, value, memory_order_relaxed);
}

uint64_t dip_counter_get(const struct dip_counter *counter)
{
    return atomic_load_explicit(&counter->value, memory_order_relaxed);
}
