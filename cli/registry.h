/* cli/registry.h - --etcd: a daemon's place in the registry, and what follows from its news.
 *
 * A coordinator registers and campaigns: it leads when the registry says so and follows when
 * another one leads, and the wish that a worker drains outlives it. A worker registers and serves
 * whoever leads. Without --etcd every function does nothing. Thread: the process's main thread,
 * which turns the loop. */
#pragma once

#include "base/log.h"
#include "cli/observe.h"
#include "cli/options.h"
#include "net/registry.h"

struct dip_coordinator_daemon;
struct dip_worker_daemon;

enum { ENROLLED_NAME_BYTES = 64 };

/* Zero-initialise; does not move while it is open. */
struct enrolled {
    struct dip_registry *registry; /* NULL = without, or left */
    struct dip_rpc_loop *loop;
    bool owns_loop; /* a worker's: its daemon runs its own one on another thread */
    struct dip_coordinator_daemon *coordinator; /* one of the two */
    struct dip_worker_daemon *worker;
    struct dip_log *log;
    char name[ENROLLED_NAME_BYTES];
    bool is_handing_over;                    /* a coordinator stops and has resigned */
    char leader[DIP_REGISTRY_ADDRESS_BYTES]; /* that the worker was told */
    int64_t look_ns;                         /* of the next look at wishes */
    int64_t alone_ns; /* since when a coordinator has neither lease nor worker; 0 = it has */
    struct {
        uint64_t told;         /* the registry's, of the newest term */
        uint64_t claimed;      /* what workers hear: at least told, and never less than before */
        uint64_t later;        /* above claimed, of which a worker spoke */
        int64_t lead_until_ns; /* when it did, or at the newest renewal since */
        int renewals;          /* of our lease since then */
    } epoch;                   /* a coordinator's */
};

/* --name, or one that no other process has. */
void dip__enrolled_name(const struct options *options, char ret_name[ENROLLED_NAME_BYTES]);

/* Errors: those of dip_registry_open. */
DIP_MUST_USE enum dip_status dip__enrol_coordinator(const struct options *options, const char *name,
                                                    struct dip_rpc_loop *loop,
                                                    struct dip_coordinator_daemon *daemon,
                                                    struct dip_log *log, struct dip_why *why,
                                                    struct enrolled *ret_enrolled);
DIP_MUST_USE enum dip_status dip__enrol_worker(const struct options *options,
                                               struct dip_worker_daemon *daemon,
                                               struct dip_log *log, struct dip_why *why,
                                               struct enrolled *ret_enrolled);

/* Some time of the main thread: a worker's loop turns for up to wait_ns (or the thread sleeps), a
 * coordinator, whose loop turns anyway, looks after wishes now and then. */
void dip__enrolled_look(struct enrolled *enrolled, int64_t wait_ns);

/* For a coordinator that is told to stop, from then on several times a second: it leads no more as
 * soon as another one can, and will not begin to. What runs here goes on until the other leads. */
void dip__enrolled_hand_over(struct enrolled *enrolled);

/* Whether the store answers. */
bool dip__enrolled_is_up(const struct enrolled *enrolled);

/* Takes this process out, so that nobody waits for a lease to end; turns the loop for up to
 * grace_ns. Also when it never was in. */
void dip__enrolled_leave(struct enrolled *enrolled, int64_t grace_ns);

/* ---- metrics of the registry, also without one: all 0 ---- */

#define REGISTRY_METRIC_ROWS(first)                                                                \
    [(first) + 0] = {"diptych_etcd_up",                                                            \
                     DIP_METRIC_GAUGE,                                                             \
                     "1 while the registry answers; 0 also without one.",                          \
                     {NULL}},                                                                      \
               [(first) + 1] = {"diptych_etcd_request_duration_seconds",                           \
                                DIP_METRIC_HISTOGRAM,                                              \
                                "From a request of the registry to its answer, or its failure.",   \
                                {"op"}},                                                           \
               [(first) +                                                                          \
                   2] = {"diptych_etcd_watch_resyncs_total",                                       \
                         DIP_METRIC_COUNTER,                                                       \
                         "Times all keys were listed again: now and then, or a watch was down.",   \
                         {NULL}},                                                                  \
               [(first) + 3] = {"diptych_lease_ttl_seconds",                                       \
                                DIP_METRIC_GAUGE,                                                  \
                                "What is left of a lease unless it is renewed; 0 = none is held.", \
                                {"lease"}}
enum { REGISTRY_METRICS = 4 };
void dip__enrolled_metrics(const struct enrolled *enrolled, struct observed *observed, int first);
