/* coordinator/front.h - what the daemon's services share; private to coordinator/.
 *
 *     service_*.c   one file a service: bytes of a call in, answers out
 *     ask.c         a GenerateRequest, checked field by field
 *     record.c      one request from its first message to the end of its keeping; its streams
 *     event.c       what happens to a request, as events
 *     roster.c      the workers
 *     reply.c       errors and single answers
 *     daemon.c      start, time, drain, leadership
 *
 * Owner thread of everything here: the loop's. */
#pragma once

#include "cluster/groups.h"
#include "coordinator/core.h"
#include "coordinator/daemon.h"
#include "coordinator/record.h"
#include "coordinator/roster.h"
#include "net/hub.h"
#include "net/rpc_server.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/error.h"
#include "proto/reflection.h"
#include "proto/wire.h"

enum {
    FRONT_METHODS_MAX = 32,
    FRONT_TENANTS = 1024, /* shares that the scheduler tells apart */
    REQUEST_BYTES_MAX = 64 << 10,
    IMAGE_CHUNK_BYTES = 1 << 20,
};

struct dip_coordinator_daemon {
    struct dip_coordinator_daemon_options options;
    char cluster_id[129], name[64], address[256], model_name[129], model_revision[129];
    struct dip_rpc_loop *loop;
    struct dip_rpc_server *server;
    struct dip_rpc_method methods[FRONT_METHODS_MAX];
    int method_count;
    struct route {
        struct dip_coordinator_daemon *daemon;
        const struct dip_rpc_handler *handler;
        enum dip_front_method method;
    } routes[FRONT_METHODS_MAX];            /* of those methods */
    struct dip_rpc_channel *leader_channel; /* for calls that are passed on; NULL = none yet */
    char leader_target[256];
    int forward_count; /* requests among those calls */
    struct dip_reflection *reflection;

    struct dip_config config;
    struct dip_tokenizer *tokenizer;
    char digest[65];

    struct dip_groups *groups; /* NULL without tensor parallelism, and while another leads */
    struct dip_hub *hub;       /* NULL when commands go elsewhere */
    struct dip_core *core;
    struct book book;
    struct roster roster;
    struct dip_front_stats stats;
    struct dip_rpc_timer tick;  /* the core's time */
    struct dip_rpc_timer sweep; /* once a second: old results, still workers, health */
    struct dip_rpc_timer drain;

    bool is_leading;
    uint64_t epoch;
    bool is_doubted;  /* leads, but nobody may know */
    char leader[256]; /* while following; empty = nobody known */
    int64_t registry_revision;
    bool is_degraded;
    char degraded_why[256];
    void (*on_drain)(void *context, const char *name, bool is_draining, const char *why);
    void *on_drain_context;

    bool is_draining, is_stopping, is_stopped;
    int64_t drain_until_ns, drain_round_ns;
    void (*on_stopped)(void *context);
    void *on_stopped_context;

    struct health_watch *health_watches;
    struct scaler_watch *scaler_watches;
    int slots_each[DIP_POOL_COUNT];   /* of a worker, as last seen; 0 = none was */
    int tenant_counts[FRONT_TENANTS]; /* requests that run, by dip__caller_share of the tenant */
    uint64_t bug_serial;
};

/* ---- daemon.c ---- */

/* The core may want to be woken at another time: after everything that reaches it. */
void dip__front_arm(struct dip_coordinator_daemon *d);
/* Who leads, "host:port", as far as that is known here; "" = not. */
const char *dip__front_leader(const struct dip_coordinator_daemon *d);
/* NO_WORKERS, NOT_LEADER, DRAINING: false and the error when this process takes no requests. */
bool dip__front_takes_requests(struct dip_coordinator_daemon *d, struct dip_error *ret_error);
/* Both panels have a worker that takes work, or one panel of `roles` has. */
bool dip__front_has_workers(const struct dip_coordinator_daemon *d, uint32_t roles);
/* The last request has ended: a drain may go on. */
void dip__front_settle(struct dip_coordinator_daemon *d);

/* ---- daemon_hub.c: nothing when commands go elsewhere ---- */

DIP_MUST_USE enum dip_status dip__hub_open(struct dip_coordinator_daemon *d, struct dip_why *why);
void dip__hub_close(struct dip_coordinator_daemon *d);
void dip__hub_lead(struct dip_coordinator_daemon *d, uint64_t epoch);
void dip__hub_dismiss(struct dip_coordinator_daemon *d);

/* ---- daemon_groups.c: nothing without tensor parallelism ---- */

void dip__groups_lead(struct dip_coordinator_daemon *d, uint64_t epoch);
void dip__groups_feed(struct dip_coordinator_daemon *d, int64_t now_ns,
                      const struct dip_message *message);
int64_t dip__groups_wake_ns(const struct dip_coordinator_daemon *d);

/* ---- caller.c ---- */

#define CALLER_TENANT_DEFAULT "default" /* without tokens */

struct caller {
    char tenant[DIP_TENANT_BYTES];
    uint32_t scopes; /* enum dip_scope bits */
};

/* Who calls, and whether they may; false and the error when not. */
bool dip__caller_read(struct dip_coordinator_daemon *d, const struct dip_rpc_call *call,
                      enum dip_scope scope, struct caller *ret_caller, struct dip_error *ret_error);
/* A tenant's number for the scheduler; the fairness key splits it further. */
uint32_t dip__caller_share(const struct caller *caller, const char *fairness_key);

/* ---- reply.c ---- */

/* Ends a call with an error, its details, and when to come again. */
void dip__reply_error(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      struct dip_rpc_call *call, const struct dip_error *error);
/* One message and OK. */
void dip__reply(struct dip_coordinator_daemon *d, enum dip_front_method method,
                struct dip_rpc_call *call, const ProtobufCMessage *message);
/* A message of a stream. False when it did not fit; the call goes on. */
bool dip__reply_part(struct dip_rpc_call *call, const ProtobufCMessage *message, uint32_t key);
/* Something that cannot be has been: an error with an id that the log also has. */
void dip__error_bug(struct dip_coordinator_daemon *d, struct dip_error *error, const char *text);
/* The request of a unary method, with who asks checked first; NULL when the call has been ended. */
void *dip__reply_read(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      struct dip_rpc_call *call, enum dip_scope scope,
                      const ProtobufCMessageDescriptor *type, const void *data, size_t bytes,
                      struct caller *ret_caller);
/* The same where nobody is asked who they are. */
void *dip__reply_decode(struct dip_coordinator_daemon *d, enum dip_front_method method,
                        struct dip_rpc_call *call, const ProtobufCMessageDescriptor *type,
                        const void *data, size_t bytes);
/* BAD_FIELD: the field by its path, what it is, what it may be. Always false. */
bool dip__error_field(struct dip_error *error, const char *field, const char *format, ...)
    DIP_PRINTF(3, 4);

/* ---- ask.c ---- */

/* A request as asked for, apart from what dip_resolved holds. */
struct ask {
    struct dip_resolved resolved;
    int previews, preview_every;
    int64_t min_interval_ns;
    enum dip_priority priority;
    int64_t max_queue_ns; /* 0 = none */
    bool is_detached, is_check;
};

/* Checks every field; false and the error when one is wrong. The caller deinits resolved. */
bool dip__ask_read(struct dip_coordinator_daemon *d, const Diptych__V1__GenerateRequest *r,
                   struct ask *ret_ask, struct dip_error *ret_error);
bool dip__ask_model_is_known(const struct dip_coordinator_daemon *d, const char *name,
                             struct dip_error *ret_error);
/* PROMPT_TOO_LONG with limit and length. */
void dip__ask_too_long(const struct dip_coordinator_daemon *d, const char *field, const char *text,
                       const char *why, struct dip_error *error);
int dip__ask_prompt_tokens_max(const struct dip_config *config);
int dip__ask_edge_max(const struct dip_config *config);
int dip__ask_edge_multiple(const struct dip_config *config);

/* ---- forward.c ---- */

/* Within on_open: true when the call is the leader's, and under way to it. */
bool dip__forward_begin(struct dip_coordinator_daemon *d, struct dip_rpc_call *call);
void dip__forward_close(struct dip_coordinator_daemon *d);

/* ---- services: their rows of the server's table ---- */

void dip__service_image(struct dip_coordinator_daemon *d);
void dip__service_model(struct dip_coordinator_daemon *d);
void dip__service_cluster(struct dip_coordinator_daemon *d);
void dip__service_health(struct dip_coordinator_daemon *d);
void dip__service_reflection(struct dip_coordinator_daemon *d);
void dip__service_scaler(struct dip_coordinator_daemon *d);

/* Adds a row of what clients ask of a cluster; queue and stall are those of events. Calls of this
 * project's own services show who makes them before anything of their request is read. */
void dip__service_add(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      const char *path, enum dip_rpc_kind kind,
                      const struct dip_rpc_handler *handler);
/* Adds a row of what anybody may ask of this very process: never passed on, not counted. */
void dip__probe_add(struct dip_coordinator_daemon *d, const char *path, enum dip_rpc_kind kind,
                    const struct dip_rpc_handler *handler);

/* Tells the watchers of health when something has changed. */
void dip__health_tell(struct dip_coordinator_daemon *d);
/* The same for the watchers of a pool's want of workers; and their end. */
void dip__scaler_tell(struct dip_coordinator_daemon *d);
void dip__scaler_end(struct dip_coordinator_daemon *d, const char *why);
/* Once a second: remembers what a worker of each pool holds. */
void dip__pools_sweep(struct dip_coordinator_daemon *d);
/* Ends every stream that would live as long as the process, so that the server can stop. */
void dip__health_end(struct dip_coordinator_daemon *d);
/* The watchers of workers, too; also when another one leads, whom they are sent to. */
void dip__roster_end(struct dip_coordinator_daemon *d);
