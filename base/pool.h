/* base/pool.h - fork-join over a fixed set of threads: the only parallelism inside a CPU step.
 *
 * A job is split into `part_count` parts; which thread runs which part is not defined, so a part
 * must own its outputs outright. The calling thread works too. One caller at a time (the device
 * thread). */
#pragma once

#include "base/status.h"

struct dip_pool;
typedef void (*dip_pool_part_fn)(void *context, int part_index, int part_count);

/* thread_count counts the caller: 1 starts no thread. Errors: NO_MEMORY, LIMIT. */
DIP_MUST_USE enum dip_status dip_pool_new(int thread_count, struct dip_pool **ret_pool);
void dip_pool_free(struct dip_pool *pool);
int dip_pool_threads(const struct dip_pool *pool);

/* Runs part(context, i, part_count) for every i and returns when all are done. Nested calls are a
 * broken contract. */
void dip_pool_run(struct dip_pool *pool, dip_pool_part_fn part, void *context, int part_count);

/* How many CPUs this process may use (affinity and cgroup quota), at least 1. */
int dip_cpu_count(void);
