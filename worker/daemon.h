/* worker/daemon.h - the worker process: a model, a device, and a stream to the leading coordinator.
 *
 * Opens the parts of a model that its roles need, starts the loop thread with the HingeService
 * server and the spoke (net/spoke.h), then the worker (worker/worker.h). It serves whoever leads:
 * the coordinator's target may be set, changed and taken away at any time, the model stays loaded.
 *
 *     start ─► serving ─► drain ─► wait: drained ─► stop
 *                 └─────────────► wait: the device failed ─► stop, exit, start anew
 *
 * Threads: loop (sockets), device, file. A process that forks must do so before. All functions from
 * the thread that started it, or from several one after the other; none from a signal handler. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "net/rpc_tls.h"
#include "ops/ops.h"

struct dip_worker_daemon;
struct dip_member_load;

struct dip_worker_daemon_options {
    const char *model; /* directory */
    struct dip_device_options device;
    uint32_t roles;            /* enum dip_role bits */
    bool ar_group;             /* as of dip_worker_options */
    const char *group_address; /* what ranks exchange there is not encrypted, with TLS neither */

    /* Who it is. */
    const char *name;       /* stable across restarts when given; NULL = host and process */
    const char *host_id;    /* tells hosts apart; NULL = this machine's name */
    const char *cluster_id; /* a coordinator of another cluster is left; NULL = any */

    /* Where it is, and how it is let in. */
    const char *listen;      /* HingeService; NULL = "127.0.0.1:0" */
    bool is_insecure;        /* without TLS: may be reached from other machines */
    const char *advertise;   /* "host:port" or "host" for other workers; NULL = as it listens */
    const char *coordinator; /* "host:port" of the leader; NULL = set later */
    const char *token;       /* shown to the coordinator and between workers; NULL = none */
    const struct dip_rpc_tls *tls; /* for what it serves and what it calls; NULL = plaintext */
    const char *tls_name; /* in the certificates of those that it calls; NULL = their host */

    /* How much it holds; 0 = the default in brackets. */
    int ar_slots;            /* [4] */
    int hinge_slots;         /* [2 * ar_slots] */
    int diffusion_slots;     /* [1] */
    int diffusion_batch_max; /* [diffusion_slots] */
    int prompt_tokens_max;   /* [DIP_PROMPT_TOKENS_MAX, as far as the model has positions] */
    int image_tokens_max;    /* [the model's grid] */
    int latent_height_max;   /* [the model's] */
    int latent_width_max;    /* [the model's] */

    int64_t hold_ns; /* as of dip_worker_options */

    struct dip_log *job_log;                      /* as dip_worker_options.log */
    void (*log)(void *context, const char *text); /* events, from any thread; NULL = nobody */
    void *log_context;
};

/* Returns when the model is loaded and the server listens; the coordinator is looked for beside
 * that. Errors: those of the model, of the device and of listening, with a sentence. */
DIP_MUST_USE enum dip_status
dip_worker_daemon_start(const struct dip_worker_daemon_options *options, struct dip_why *why,
                        struct dip_worker_daemon **ret_daemon);

/* Who leads now, "host:port"; NULL = nobody known: the stream ends, the jobs are dropped. The same
 * target again changes nothing. */
void dip_worker_daemon_set_coordinator(struct dip_worker_daemon *daemon, const char *target);

/* SIGTERM: tells the coordinator that it leaves; jobs that run longer than the grace are handed
 * back. Returns at once; wait says when nothing is left. */
void dip_worker_daemon_drain(struct dip_worker_daemon *daemon, int64_t grace_ns);

enum dip_worker_daemon_end {
    DIP_WORKER_RUNS,
    DIP_WORKER_DRAINED,
    DIP_WORKER_FAILED, /* the device is dead, its jobs have been handed back */
};
/* Waits up to wait_ns (0 looks) for an end. */
enum dip_worker_daemon_end dip_worker_daemon_wait(struct dip_worker_daemon *daemon,
                                                  int64_t wait_ns);

/* Ends everything now: live jobs are dropped, and the coordinator sees it go. Accepts NULL. */
void dip_worker_daemon_stop(struct dip_worker_daemon *daemon);

/* For readiness and for metrics. */
struct dip_worker_daemon_stats {
    bool is_connected; /* the coordinator has answered hello */
    uint64_t steps_total;
    uint64_t fenced; /* what was refused of leaders of the past */
    int ar_busy, hinges_held, diffusion_busy;
    const struct dip_member_load *load; /* with how long steps took; lives as long as the daemon */
    int port;                           /* of its server */
    const char *backend, *device_class;
    int threads;
    const char *name, *address; /* as the coordinator is told; live as long as the daemon */
    uint32_t roles;
};
struct dip_worker_daemon_stats dip_worker_daemon_stats(const struct dip_worker_daemon *daemon);
