/* base/counter.h - numbers, and distributions of times and sizes, that one thread writes and any
 * thread reads. */
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

/* How long something took, in buckets that double: the first holds what took half a millisecond at
 * most, the last what took longer than any. Zero-initialise. */
enum { DIP_TIMES_BUCKETS = 16 };
#define DIP_TIMES_NS_FIRST INT64_C(500000)
struct dip_times {
    struct dip_counter counts[DIP_TIMES_BUCKETS]; /* not cumulative */
    struct dip_counter sum_ns;
};
void dip_times_add(struct dip_times *times, int64_t took_ns);

/* How many of something there were at a time, in buckets that double from 1 on; the last has no
 * bound. Zero-initialise. */
enum { DIP_SIZES_BUCKETS = 9 };
struct dip_sizes {
    struct dip_counter counts[DIP_SIZES_BUCKETS]; /* not cumulative */
    struct dip_counter sum;
};
void dip_sizes_add(struct dip_sizes *sizes, uint64_t size);
