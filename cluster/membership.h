/* cluster/membership.h - who is in the cluster and who leads it: (event, now) in, (actions) out.
 *
 * A pure state machine over a store of keys (base/kv.h: etcd, or the registry inside the process):
 * no clock, no socket, no thread, and no allocation after dip_membership_new. It asks the store by
 * actions and is fed the store's replies. Under one prefix:
 *
 *     <prefix>/members/<id>  bound to the member's lease; the value is JSON {"version": 1,
 *                            "address": "host:port", "roles": ["ar", "diffusion", "coordinator"],
 *                            "device": text, "model": text, "slots": {"ar": n, "diffusion": n}}
 *     <prefix>/leader        bound to the leader's short lease; JSON {"version": 1, "id",
 * "address"} <prefix>/groups/<id>   no lease, written under the guard of the leader's key; JSON
 *                            {"version": 1, "epoch", "ranks": [member ids]}
 *     <prefix>/drain/<id>    no lease: an operator's wish outlives processes; JSON {"version": 1,
 *                            "since": seconds since 1970, "by": text, "why": text}
 *
 * Values pass through as text; who uses one reads it with distrust (net/registry_values.h). What it
 * holds at all times:
 *
 *   - nobody leaves the view because the store is silent: a member leaves when the store says so.
 *     is_degraded tells that the view may be old, and why;
 *   - a leader knows by its own clock when its lease may have ended, and stops leading a margin
 *     before: with clocks whose rates differ by less than margin / TTL no two lead at a time. A
 *     lease is no lock all the same: every command carries the epoch (the revision that created
 *     the leader's key) and who receives it refuses a smaller one (dip_epoch_accept);
 *   - incarnation (the revision that created a member's key) tells a process from the one before.
 *
 * The watch is a hint: it is backed by a new list after every interruption, after compaction, and
 * every relist_ns. Thread: the owner's loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/kv.h"
#include "base/status.h"

struct dip_membership;

enum { DIP_MEMBER_ID_BYTES = 64, DIP_MEMBER_VALUE_BYTES = 2048 };

struct dip_membership_options {
    const char *prefix;  /* "/diptych/main": no slash at the end, at most 100 bytes */
    const char *id;      /* of this process, [A-Za-z0-9._-]; unique in the cluster */
    int member_ttl_s;    /* 0 = 30 */
    int leader_ttl_s;    /* 0 = 10 */
    int64_t margin_ns;   /* 0 = a fifth of leader_ttl_s */
    int64_t relist_ns;   /* 0 = 5 minutes */
    int64_t reply_ns;    /* a request without a reply for so long is lost; 0 = 5 s */
    int entry_count_max; /* keys under the prefix; more are left out. 0 = 4096 */
    uint64_t seed;       /* of the jitter; different in every process */
};

/* Errors: NO_MEMORY, INVALID (prefix or id). */
DIP_MUST_USE enum dip_status dip_membership_new(const struct dip_membership_options *options,
                                                struct dip_membership **ret_membership);
void dip_membership_free(struct dip_membership *membership);

enum dip_membership_event_kind {
    DIP_MEMBERSHIP_TICK,     /* dip_membership_wake_ns has come, or nothing in particular */
    DIP_MEMBERSHIP_REPLY,    /* reply: to a request that an action asked for */
    DIP_MEMBERSHIP_REGISTER, /* value: be a member, or change what is said about this one */
    DIP_MEMBERSHIP_CAMPAIGN, /* value: lead as soon as nobody else does */
    DIP_MEMBERSHIP_RESIGN,   /* stop leading and campaigning; the next one need not wait */
    DIP_MEMBERSHIP_LEAVE,    /* resign, and let the member's key go: a clean exit */
    DIP_MEMBERSHIP_DRAIN,    /* id, value: wish that a member drains; NULL value: no more */
    DIP_MEMBERSHIP_GROUP,    /* id, value: as the leader, describe a group; NULL value: remove it */
};

struct dip_membership_event {
    enum dip_membership_event_kind kind;
    const struct dip_kv_reply *reply;
    const char *id;
    const char *value;
};

enum dip_membership_action_kind {
    DIP_MEMBERSHIP_SEND,   /* request: for the store; a send that fails is fed as a reply that
                              failed. Valid until the next feed */
    DIP_MEMBERSHIP_CANCEL, /* request.id */
    /* news of the view: entry. Who comes back as a new process has LEFT and JOINED */
    DIP_MEMBERSHIP_JOINED,
    DIP_MEMBERSHIP_CHANGED,
    DIP_MEMBERSHIP_LEFT,
    DIP_MEMBERSHIP_DRAIN_SET,
    DIP_MEMBERSHIP_DRAIN_CLEARED,
    DIP_MEMBERSHIP_GROUP_SET,
    DIP_MEMBERSHIP_GROUP_REMOVED,
    DIP_MEMBERSHIP_LEADER_SET, /* entry.incarnation is the epoch; perhaps our own */
    DIP_MEMBERSHIP_LEADER_GONE,
    /* news of this process: read dip_membership_facts */
    DIP_MEMBERSHIP_REGISTERED, /* incarnation is new */
    DIP_MEMBERSHIP_UNREGISTERED,
    DIP_MEMBERSHIP_LEADING,
    DIP_MEMBERSHIP_NOT_LEADING,
    DIP_MEMBERSHIP_DEGRADED,
    DIP_MEMBERSHIP_HEALTHY,
    DIP_MEMBERSHIP_WRITTEN, /* entry.id of a DRAIN or GROUP: status */
};

struct dip_membership_entry {
    const char *id;      /* "" for the leader's key */
    const char *value;   /* JSON, or whatever somebody put there */
    int64_t incarnation; /* the revision that created the key */
    int64_t revision;    /* the one that changed it last */
};

struct dip_membership_action {
    enum dip_membership_action_kind kind;
    struct dip_kv_request request;
    struct dip_membership_entry entry; /* valid until the next feed */
    enum dip_status status;
};

/* Takes one event. All actions of the event before must have been taken.
 * Errors, of DRAIN and GROUP: BUSY (too many are not answered yet), STALE (GROUP of who does not
 * lead); of these and REGISTER and CAMPAIGN: LIMIT (value), INVALID (id). Other events succeed. */
DIP_MUST_USE enum dip_status dip_membership_feed(struct dip_membership *membership, int64_t now_ns,
                                                 const struct dip_membership_event *event);

/* The next action of the last event, in the order to carry them out; false when there is none. */
bool dip_membership_next(struct dip_membership *membership,
                         struct dip_membership_action *ret_action);

/* When the next TICK is due at the latest. */
int64_t dip_membership_wake_ns(const struct dip_membership *membership);

struct dip_membership_facts {
    bool is_registered;
    int64_t incarnation;   /* of this process; 0 = none yet */
    bool is_leading;       /* at now_ns, by this process's own clock */
    int64_t epoch;         /* of this process's leadership, while is_leading */
    int64_t lead_until_ns; /* when is_leading ends unless the lease is renewed; 0 = it is not */
    int64_t member_lease_ns, leader_lease_ns; /* when those leases end unless renewed; 0 = none */
    int64_t revision;  /* of the store: all changes up to here are in the view */
    bool is_listed;    /* the view has been filled once */
    bool is_degraded;  /* the store does not answer: nothing changes until it does */
    const char *why;   /* for a person, when something is wrong */
    uint64_t relists;  /* beside the first */
    uint64_t left_out; /* keys that did not fit or have no form we know */
};
/* Also right when the last event was long ago: a leader that slept does not lead. */
struct dip_membership_facts dip_membership_facts(const struct dip_membership *membership,
                                                 int64_t now_ns);

/* The view, in no order: *cursor starts 0; false after the last. */
bool dip_membership_member(const struct dip_membership *membership, int *cursor,
                           struct dip_membership_entry *ret_entry);
/* Who leads, as far as the store has told; false when nobody does. */
bool dip_membership_leader(const struct dip_membership *membership,
                           struct dip_membership_entry *ret_entry);
bool dip_membership_is_drain_wished(const struct dip_membership *membership, const char *id);
/* The wish's value, until the next feed; NULL when nobody wishes it. */
const char *dip_membership_drain(const struct dip_membership *membership, const char *id);

/* ---- fencing, for who receives commands ---- */

/* The largest epoch seen. Zero-initialise. */
struct dip_epoch {
    int64_t epoch;
};

/* OK for the largest epoch so far or a larger one, which is remembered; STALE for a smaller. */
DIP_MUST_USE enum dip_status dip_epoch_accept(struct dip_epoch *seen, int64_t epoch);
