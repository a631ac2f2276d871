/* coordinator/daemon.h - the coordinator process: services, queue, workers, one gRPC server.
 *
 * Everything lives on one loop and its thread: calls of clients, streams of workers (net/hub.h),
 * the scheduler, kept results. Nothing here is locked, and every function below belongs to the
 * loop's owner thread. Several coordinators may run; one leads, and only that one takes requests
 * and workers. Who leads is decided elsewhere and said with lead and follow.
 *
 *     dip_rpc_loop_new ─► dip_coordinator_daemon_start ─► dip_rpc_loop_run ─► ..._free
 *                                  SIGTERM, posted ─► ..._drain ─► on_stopped ─► dip_rpc_loop_stop
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"
#include "cluster/cluster.h"
#include "coordinator/coordinator.h"
#include "coordinator/stats.h"
#include "net/hub.h"
#include "net/net.h"
#include "net/rpc_loop.h"
#include "net/rpc_tls.h"
#include "net/tokens.h"

struct dip_coordinator_daemon;

struct dip_coordinator_daemon_options {
    struct dip_rpc_loop *loop;     /* outlives the daemon */
    const char *model_directory;   /* tokenizer, configuration; its weights are hashed, not kept */
    const char *model_name;        /* what clients ask for; NULL = the directory's last part */
    const char *model_revision;    /* NULL = none */
    const char *listen;            /* "127.0.0.1:0", "[::]:50051" */
    const struct dip_rpc_tls *tls; /* NULL = plaintext, which only loopback gets without the next */
    bool is_insecure;              /* plaintext on any address */
    bool is_forwarding;            /* while another one leads, calls of clients go on to it */
    const char *tls_name;          /* in the certificates of others that lead; NULL = their host */
    struct dip_tokens *tokens;     /* who may do what; NULL = everybody everything */
    const char *cluster_id;        /* NULL = "diptych" */
    const char *name;              /* of this process; NULL = "coordinator" */
    const char *advertise;         /* "host:port" that others are told; NULL = the port of listen */
    uint64_t epoch;                /* leads under this one from the start; 0 = waits for lead */
    /* NULL, or commands go here instead of to workers that connect, and what comes back is fed by
     * dip_coordinator_daemon_feed: for a cluster inside the process, and for benchmarks. */
    struct dip_endpoint *endpoint;
    struct dip_log *log;       /* NULL = none */
    int tensor_parallel;       /* ranks of an AR worker; 0 and 1: every AR worker by itself */
    int group_count;           /* groups of so many ranks; 0 = as many as there are workers for */
    bool allow_smaller_groups; /* rather fewer ranks than no group */
    uint64_t legal_group_degrees; /* as dip_groups_options.legal_degrees */
    /* Ceilings; 0 = the default in brackets. */
    int request_count_max;        /* admitted and not ended [1024] */
    int image_count_max;          /* of all those together [4096] */
    int member_count_max;         /* addresses of workers [256] */
    int attempt_count_max;        /* workers that one image may take down [2] */
    int tenant_request_count_max; /* of one tenant; 0 = no quota */
    int images_per_request_max;   /* [16] */
    size_t result_bytes_max;      /* kept for Watch and for repeated requests [256 MiB] */
    int result_count_max;         /* [16384] */
    int64_t result_ns;            /* kept so long [10 min] */
    int64_t hold_ns;              /* for a panel without any worker; 0 = refused at once */
    int64_t deadline_ns;          /* of a request that brings none, and the longest [10 min] */
    int64_t stall_ns;             /* a reader that takes nothing for so long is cut [60 s] */
    int64_t heartbeat_ns, silence_ns, stuck_ns; /* net/hub.h's */
    int checkpoint_every; /* sampler steps from one latent checkpoint to the next [none] */
    /* After it began to lead or lost a worker, requests wait so long for workers instead of being
     * refused [3 s]; negative = not at all. */
    int64_t expect_ns;
};

/* Loads, listens and serves as soon as the loop turns. Texts of the options are copied.
 * Errors: those of the model's files, INVALID (plaintext beyond loopback), IO (cannot listen),
 * NO_MEMORY. */
DIP_MUST_USE enum dip_status
dip_coordinator_daemon_start(const struct dip_coordinator_daemon_options *options,
                             struct dip_why *why, struct dip_coordinator_daemon **ret_daemon);

int dip_coordinator_daemon_port(const struct dip_coordinator_daemon *daemon);
/* "host:port" that others are told. */
const char *dip_coordinator_daemon_address(const struct dip_coordinator_daemon *daemon);

/* SIGTERM: refuses new requests as DRAINING, lets those that run finish for grace_ns, then cancels
 * what is left, stops the server, and calls on_stopped once, which may free the daemon. A second
 * call can only shorten the grace. When another one leads meanwhile, what runs ends as follow says,
 * and who comes back for it within two seconds is passed on. */
void dip_coordinator_daemon_drain(struct dip_coordinator_daemon *daemon, int64_t grace_ns,
                                  void (*on_stopped)(void *context), void *context);

/* After on_stopped, or after the loop has returned. */
void dip_coordinator_daemon_free(struct dip_coordinator_daemon *daemon);

/* ---- leadership ---- */

#define DIP_EPOCH_MAX (UINT64_MAX / 4) /* a worker that speaks of more is not believed */

/* This process leads under `epoch` (> 0, larger than any before). Who leads already leads on, and
 * loses nothing. */
void dip_coordinator_daemon_lead(struct dip_coordinator_daemon *daemon, uint64_t epoch);
/* Somebody else does, at "host:port" (NULL = nobody is known to): requests are refused as
 * NOT_LEADER, those that run here end so that their clients ask the leader, workers are sent away.
 */
void dip_coordinator_daemon_follow(struct dip_coordinator_daemon *daemon, const char *leader);
/* Whether this leader doubts that it leads: then requests are refused and ended as NOT_LEADER, but
 * workers are taken, for it may be the one who leads after all. */
void dip_coordinator_daemon_doubt(struct dip_coordinator_daemon *daemon, bool is_doubted);
/* For GetCluster: what the registry says of itself. */
void dip_coordinator_daemon_registry(struct dip_coordinator_daemon *daemon, int64_t revision,
                                     bool is_degraded, const char *why);
/* An operator's wish that outlives processes: what Drain and Undrain do; false = no such worker. */
bool dip_coordinator_daemon_drain_worker(struct dip_coordinator_daemon *daemon, const char *name,
                                         bool is_draining, int64_t grace_ns, const char *why);
/* NULL, or told of every Drain and Undrain that a client asked for. */
void dip_coordinator_daemon_on_drain(struct dip_coordinator_daemon *daemon,
                                     void (*on_drain)(void *context, const char *name,
                                                      bool is_draining, const char *why),
                                     void *context);

/* ---- a cluster inside the process ---- */

/* An event of a worker, as dip_hub_options.on_message; the payload is taken. */
void dip_coordinator_daemon_feed(struct dip_coordinator_daemon *daemon,
                                 struct dip_message *message);

/* ---- facts, for pages and probes ---- */

const struct dip_front_stats *
dip_coordinator_daemon_stats(const struct dip_coordinator_daemon *daemon);
/* Of the streams of workers. */
struct dip_hub_stats dip_coordinator_daemon_links(const struct dip_coordinator_daemon *daemon);
struct dip_scheduler_stats
dip_coordinator_daemon_queue(const struct dip_coordinator_daemon *daemon);

bool dip_coordinator_daemon_is_leading(const struct dip_coordinator_daemon *daemon);
/* Of the model's weights. */
const char *dip_coordinator_daemon_digest(const struct dip_coordinator_daemon *daemon);
uint64_t dip_coordinator_daemon_epoch(const struct dip_coordinator_daemon *daemon);
/* The largest epoch above its own of which a worker has spoken; 0 = none did. One that leads from
 * the start leads on above it by itself. */
uint64_t dip_coordinator_daemon_later_epoch(const struct dip_coordinator_daemon *daemon);
/* Whom a worker has left for since this process leads, "host:port"; "" = nobody. */
const char *dip_coordinator_daemon_successor(const struct dip_coordinator_daemon *daemon);
/* Takes requests: leads, drains not, and has workers for both panels. */
bool dip_coordinator_daemon_is_ready(const struct dip_coordinator_daemon *daemon);
/* May be sent requests: drains not, and leads without a doubt, with workers or without, or passes
 * them on to whoever leads. What a pool of coordinators behind one name is made of. */
bool dip_coordinator_daemon_is_serving(const struct dip_coordinator_daemon *daemon);

/* What a tenant has of its quota, 0 to 1; 0 without a quota. The tenants that may ask for images
 * are numbered from 0 on; false after the last. */
bool dip_coordinator_daemon_quota(const struct dip_coordinator_daemon *daemon, int index,
                                  const char **ret_tenant, double *ret_used);

/* Texts live as long as the daemon. */
struct dip_coordinator_view {
    const char *cluster_id, *name;
    const char *leader; /* its address; "" = nobody is known to lead */
    uint64_t epoch;
    bool is_leading, is_draining, is_degraded;
    const char *degraded_why;
};
struct dip_coordinator_view
dip_coordinator_daemon_view(const struct dip_coordinator_daemon *daemon);

enum dip_pool { DIP_POOL_AR, DIP_POOL_DIFFUSION, DIP_POOL_COUNT };
const char *dip_pool_name(enum dip_pool pool); /* "ar", "diffusion" */

/* What a pool has, what it wants, and why. Of tensor-parallel groups each counts as one worker. */
struct dip_pool_view {
    int queued, running; /* images */
    int ready, draining; /* workers */
    int slots;           /* of those that are ready */
    int wanted;          /* workers */
    int64_t oldest_wait_ns;
    char reason[192]; /* in words */
};
struct dip_pool_view dip_coordinator_daemon_pool(const struct dip_coordinator_daemon *daemon,
                                                 enum dip_pool pool);

/* X(name, text): the states of diptych.v1.WorkerState, in its order. */
#define DIP_WORKER_STATE_LIST(X)                                                                   \
    X(UNSPECIFIED, "unspecified")                                                                  \
    X(STARTING, "starting")                                                                        \
    X(READY, "ready")                                                                              \
    X(DRAINING, "draining")                                                                        \
    X(DRAINED, "drained")                                                                          \
    X(SUSPECT, "suspect")                                                                          \
    X(FENCED, "fenced")                                                                            \
    X(LOST, "lost")

enum dip_worker_state {
#define DIP_WORKER_STATE_ENUM(name, text) DIP_WORKER_STATE_##name,
    DIP_WORKER_STATE_LIST(DIP_WORKER_STATE_ENUM)
#undef DIP_WORKER_STATE_ENUM
        DIP_WORKER_STATE_COUNT
};
const char *dip_worker_state_text(enum dip_worker_state state);

/* One worker as the roster knows it. */
struct dip_worker_view {
    uint32_t address; /* in the cluster: dip_message.from */
    struct dip_member_facts facts;
    enum dip_worker_state state;
    int64_t since_ns; /* in this state; of dip_clock_now_ns */
    char detail[128]; /* why, in words */
    char fingerprint[DIP_FINGERPRINT_BYTES];
    char group[DIP_GROUP_ID_BYTES];
    int rank, group_size;
    int slots, slots_busy;     /* over both panels */
    int64_t token_ns, step_ns; /* measured, of one image alone; 0 = not yet */
    int batch_room;            /* images that it is given to sample at a time; 0 = all its slots */
    uint64_t steps_total;
    int64_t last_progress_ns; /* of dip_clock_now_ns; 0 = never */
};

/* All workers, in no order: *cursor starts 0; false after the last. */
bool dip_coordinator_daemon_worker(const struct dip_coordinator_daemon *daemon, int *cursor,
                                   struct dip_worker_view *ret_worker);
