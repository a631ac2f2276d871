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

void dip_times_add(struct dip_times *times, int64_t took_ns)
{
    int bucket = 0;
    while (bucket < DIP_TIMES_BUCKETS - 1 && took_ns > DIP_TIMES_NS_FIRST << bucket)
        bucket++;
    dip_counter_add(&times->counts[bucket], 1);
    dip_counter_add(&times->sum_ns, took_ns > 0 ? (uint64_t)took_ns : 0);
}

void dip_sizes_add(struct dip_sizes *sizes, uint64_t size)
{
    int bucket = 0;
    while (bucket < DIP_SIZES_BUCKETS - 1 && size > UINT64_C(1) << bucket)
        bucket++;
    dip_counter_add(&sizes->counts[bucket], 1);
    dip_counter_add(&sizes->sum, size);
}
