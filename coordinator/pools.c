/* coordinator/pools.c - the two pools at a glance, and how many workers each of them wants.
 *
 * One calculation for everybody who asks: GetCluster, GetScaleHint, the scaler, metrics, the status
 * page. A pool wants as many workers as would hold all that waits and runs in their slots. What an
 * empty pool's next worker will hold is taken to be what the last one held. */
#include <stdio.h>

#include "coordinator/front.h"

static uint32_t role_of(enum dip_pool pool)
{
    return pool == DIP_POOL_AR ? (uint32_t)DIP_ROLE_AR : (uint32_t)DIP_ROLE_DIFFUSION;
}

const char *dip_pool_name(enum dip_pool pool)
{
    return pool == DIP_POOL_AR ? "ar" : "diffusion";
}

/* The ranks of a group count as one: its rank 0. */
static void count_workers(const struct dip_coordinator_daemon *d, enum dip_pool pool,
                          struct dip_pool_view *view)
{
    for (int i = 0; i < d->roster.entry_count; i++) {
        const struct dip_worker_view *worker = &d->roster.entries[i].view;
        if (!d->roster.entries[i].is_used || !(worker->facts.roles & role_of(pool)) ||
            worker->rank > 0)
            continue;
        bool is_ready =
            worker->state == DIP_WORKER_STATE_READY || worker->state == DIP_WORKER_STATE_SUSPECT;
        view->ready += is_ready;
        view->draining += worker->state == DIP_WORKER_STATE_DRAINING;
    }
}

static int slots_each(const struct dip_coordinator_daemon *d, enum dip_pool pool,
                      const struct dip_pool_view *view)
{
    int each = view->ready > 0 ? view->slots / view->ready : d->slots_each[pool];
    return each > 0 ? each : 1;
}

/* An image whose tokens are drawn will want the diffusion panel: one worker of it is called before
 * that, so that a cluster which begins from nothing does not begin twice. */
static void say_wanted(struct dip_pool_view *view, enum dip_pool pool, int each, int upstream)
{
    int load = view->queued + view->running;
    view->wanted = (load + each - 1) / each;
    if (pool == DIP_POOL_DIFFUSION && view->wanted == 0 && upstream > 0)
        view->wanted = 1;
    snprintf(view->reason, sizeof view->reason,
             "%d jobs wait and %d run; a worker holds %d, and %d take work", view->queued,
             view->running, each, view->ready);
}

struct dip_pool_view dip_coordinator_daemon_pool(const struct dip_coordinator_daemon *daemon,
                                                 enum dip_pool pool)
{
    struct dip_scheduler_stats stats = dip_scheduler_stats(dip_core_scheduler(daemon->core));
    bool is_ar = pool == DIP_POOL_AR;
    struct dip_pool_view view = {
        .queued = is_ar ? stats.ar_waiting : stats.diffusion_waiting,
        .running = is_ar ? stats.ar_running : stats.diffusion_running + stats.encoding,
        .slots = is_ar ? stats.ar_slots : stats.diffusion_slots,
        .oldest_wait_ns = is_ar ? stats.oldest_wait_ns : stats.diffusion_wait_ns};
    count_workers(daemon, pool, &view);
    say_wanted(&view, pool, slots_each(daemon, pool, &view), stats.ar_waiting + stats.ar_running);
    return view;
}

void dip__pools_sweep(struct dip_coordinator_daemon *d)
{
    for (int pool = 0; pool < DIP_POOL_COUNT; pool++) {
        struct dip_pool_view view = dip_coordinator_daemon_pool(d, (enum dip_pool)pool);
        if (view.ready > 0 && view.slots > 0)
            d->slots_each[pool] = view.slots / view.ready;
    }
}
