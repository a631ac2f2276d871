/* cluster/sim.h - a whole cluster in simulated time: one seed, one history.
 *
 * The real scheduler and the real forming of groups, driven by workers, links and clients that are
 * played. Coordinators are followed by others, whom the clients ask again and whom the workers
 * offer what they hold. Links delay, duplicate, break and are cut in one direction or both; workers
 * crash, restart, hang, pause, slow down, leave, report with clocks that run wrong, and die of
 * poisoned requests. Every seed turns some kinds of trouble off. When the last request has been
 * sent the world becomes kind, and from then on an end is owed to everybody.
 *
 * Checked after every event:
 *   - an admitted request ends exactly once, DONE only with all of its images, and not later than a
 *     second after its deadline; a refused one was never begun;
 *   - no worker is given more jobs than it has slots, by its own count and by the scheduler's;
 *   - a replay begins with the tokens that were drawn;
 *   - nothing is made whose picture a worker is known to hold;
 *   - a poisoned image takes down two workers more than it may at most: one that tells it from its
 *     company, one that was asked to leave before its death was noticed;
 *   - no worker hears of an older group after a newer one, and no step is taken by ranks of
 *     different versions of a group;
 *   - nobody waits for more than an hour; at the end every slot is free on both sides. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/scheduler.h"

struct dip_sim_options {
    uint64_t seed;
    int workers;      /* 2 .. DIP_SIM_WORKERS_MAX; about a quarter draws, the others paint */
    int64_t requests; /* 1 .. DIP_SIM_REQUESTS_MAX */
    int degree;       /* ranks of an AR group; 1 = none; 0 = the seed decides */
    bool is_kind;     /* no trouble at all */
};

enum { DIP_SIM_WORKERS_MAX = 10000, DIP_SIM_REQUESTS_MAX = 100000000 };

struct dip_sim_result {
    uint64_t hash;                       /* of every action in its order: equal for equal options */
    int64_t events, messages, decisions; /* all; delivered; messages fed to the scheduler */
    int64_t simulated_ns;
    int64_t admitted, refused, images;
    int64_t returned; /* admitted requests that asked a next leader, and were admitted there */
    int64_t lapsed;   /* cancelled or out of time while they had left one for the next */
    int64_t ended[DIP_END_COUNT];
    int64_t retried;                       /* images that went back */
    int64_t leaders;                       /* that came after the first */
    int64_t adopted[DIP_HELD_STAGE_COUNT]; /* taken over */
    int64_t painted;                       /* pictures that workers made */
    int64_t crashes, cuts, pauses, hangs, breaks, duplicates, drains, groups_formed;
    int64_t wait_ns_max;
    char failure[256]; /* empty, or which promise was broken, when */
};

/* OK also when a promise was broken: `failure` says so. Errors: INVALID (options), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_sim_run(const struct dip_sim_options *options,
                                         struct dip_sim_result *ret_result);
