/* net/registry.h - a daemon's part in the cluster: it registers, campaigns, and is told what
 * changes.
 *
 * Joins the state machine of cluster/membership.h with a store of keys (net/kv.h): etcd, or a store
 * inside the process that nobody else sees, for a cluster of one. A thread of its own asks the
 * store, because resolving names and TLS would hold up a loop; what it learns comes to the loop as
 * one post at a time with all that is new, however fast the store changes.
 *
 *     open ─► register, campaign ─► callbacks ... ─► leave ─► on_left ─► free
 *
 * Losing etcd changes nothing but the health: members stay, and work goes on. Only leading ends by
 * our own clock, because somebody else may have been elected: dip_registry_is_leading is right also
 * when the callback has not come yet.
 *
 * Thread: everything and every callback on the loop's owner thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/kv.h"
#include "net/registry_values.h"
#include "net/rpc_loop.h"

struct dip_registry;

/* What is not needed is NULL. All of it may be called soon after open; nothing from inside a
 * function below. In one round, in this order: */
struct dip_registry_handler {
    /* This process leads no more (epoch 0), or, as the last of the round, leads under `epoch`. */
    void (*on_leading)(void *context, uint64_t epoch);
    /* Who leads, perhaps this process; NULL = nobody is known to. Also when its address changed. */
    void (*on_leader)(void *context, const struct dip_registry_leader *leader, uint64_t epoch);
    /* Members or drain wishes are different: dip_registry_member. */
    void (*on_members)(void *context);
    /* The store does not answer, or does again; `why` is for a person. */
    void (*on_health)(void *context, bool is_degraded, const char *why);
    /* What became of dip_registry_drain or dip_registry_group: OK; STALE (does not lead any more),
     * TIMEOUT or UNREACHABLE (it may have been done), BUSY, others of the store. */
    void (*on_written)(void *context, const char *id, enum dip_status status);
    /* The last callback: the keys are gone, or the grace is over. The registry may be freed. */
    void (*on_left)(void *context);
};

struct dip_registry_options {
    struct dip_rpc_loop *loop;
    const char *cluster_id; /* keys are under "/diptych/<cluster_id>"; [A-Za-z0-9._-], up to 64 */
    const char *id;         /* of this process, [A-Za-z0-9._-], up to 63; unique in the cluster */
    const char *endpoints;  /* of etcd, as in net/etcd.h; NULL = a store inside the process */
    const char *ca, *cert, *key;
    const char *user, *password;
    int member_ttl_s; /* 0 = 30: a process that died is missed after so long */
    int leader_ttl_s; /* 0 = 10: and a leader replaced */
    uint64_t seed;    /* of the jitter; 0 = some */
    const struct dip_registry_handler *handler; /* outlives the registry */
    void *context;
};

/* Texts are copied; connects beside. Errors: INVALID (an id, an endpoint), NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_registry_open(const struct dip_registry_options *options,
                                               struct dip_why *why,
                                               struct dip_registry **ret_registry);

/* After on_left, or when nobody runs the loop any more; then other processes wait until its leases
 * have ended. Waits for the registry's thread. Accepts NULL. */
void dip_registry_free(struct dip_registry *registry);

/* ---- what this process wants; copied. Errors: BUSY, NO_MEMORY, INVALID (a value) ---- */

/* Be a member, or say something else about this one; member->id does not matter. */
DIP_MUST_USE enum dip_status dip_registry_register(struct dip_registry *registry,
                                                   const struct dip_registry_member *member);
/* Lead as soon as nobody else does; `address` is told to the others. */
DIP_MUST_USE enum dip_status dip_registry_campaign(struct dip_registry *registry,
                                                   const char *address);
/* Stop leading and campaigning. */
DIP_MUST_USE enum dip_status dip_registry_resign(struct dip_registry *registry);
/* Wish that a member drains, which outlives processes; NULL = no more. on_written follows. */
DIP_MUST_USE enum dip_status dip_registry_drain(struct dip_registry *registry, const char *id,
                                                const struct dip_registry_drain *drain);
/* As the leader, describe a group, and remove its description. on_written follows. */
DIP_MUST_USE enum dip_status dip_registry_group(struct dip_registry *registry,
                                                const struct dip_registry_group *group);
DIP_MUST_USE enum dip_status dip_registry_ungroup(struct dip_registry *registry, const char *id);
/* Resigns and takes the member's key back, so that nobody waits for a lease to end; on_left follows
 * when the store has answered, at the latest after grace_ns. The last wish. */
void dip_registry_leave(struct dip_registry *registry, int64_t grace_ns);

/* ---- what is known; pointers live until the next callback ---- */

struct dip_registry_facts {
    bool is_listed; /* the view has been filled once */
    bool is_registered;
    int64_t incarnation; /* of this process */
    uint64_t epoch;      /* this process leads under it, see dip_registry_is_leading; 0 = not */
    int64_t lead_until_ns;
    int64_t member_lease_ns, leader_lease_ns; /* when they end unless renewed; 0 = none is held */
    bool has_leader;
    struct dip_registry_leader leader;
    uint64_t leader_epoch;
    bool is_degraded;
    char why[DIP_KV_TEXT_BYTES];
    int64_t revision; /* of the store, as far as it is known here */
    uint64_t relists; /* of the view, beside the first: now and then, and when a watch was down */
    int member_count;
    int refused_count; /* values that are no member, and so nobody is here */
};
const struct dip_registry_facts *dip_registry_facts(const struct dip_registry *registry);

/* How long the store took to answer, watches aside, which stand; lives as long as the registry. */
const struct dip_times *dip_registry_times(const struct dip_registry *registry,
                                           enum dip_kv_kind kind);

/* By this process's own clock: also false after a sleep during which the lease has ended. */
bool dip_registry_is_leading(const struct dip_registry *registry, int64_t now_ns);

struct dip_registry_entry {
    struct dip_registry_member member;
    int64_t incarnation; /* tells a process from the one before it under the same id */
    bool is_drain_wished;
    struct dip_registry_drain drain;
};
/* index 0 .. member_count - 1, in no order. */
const struct dip_registry_entry *dip_registry_entry(const struct dip_registry *registry, int index);
/* NULL when there is none. */
const struct dip_registry_entry *dip_registry_find(const struct dip_registry *registry,
                                                   const char *id);
