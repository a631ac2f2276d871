/* coordinator/roster.h - the workers as people see them; private to coordinator/.
 *
 * Fed with the same messages as the scheduler, which alone decides who gets work: this is for
 * lists, watchers and drain by name. Owner thread: the loop's. */
#pragma once

#include "coordinator/daemon.h"
#include "net/rpc_call.h"
#include "proto/diptych/v1/cluster.pb-c.h"

struct roster_entry {
    bool is_used;
    bool is_joined;
    bool is_leaving;  /* it has said so: its end is no loss */
    uint64_t version; /* of the roster when it last changed; also of one that has left */
    uint64_t steps_shown;
    int busy_shown;
    uint64_t group_epoch; /* of the version of its group that it was last told to form */
    struct dip_worker_view view;
};

/* A WatchWorkers stream: what it has been told of each entry. */
struct roster_watch {
    struct dip_coordinator_daemon *daemon;
    struct dip_rpc_call *call;
    struct roster_watch *next;
    Diptych__V1__Role role;
    bool is_snapshot_done, has_begun;
    uint64_t *told; /* [entry_count] versions */
};

struct roster {
    struct roster_entry *entries;       /* [entry_count], by address */
    const struct roster_entry **sorted; /* [entry_count], for lists: of the one being made */
    int entry_count, used_count;
    uint64_t version;
    struct roster_watch *watches;
};

DIP_MUST_USE enum dip_status dip__roster_init(struct roster *roster, int entry_count);
void dip__roster_deinit(struct roster *roster);

/* APPEARED, JOINED, HEARTBEAT, LEAVING, LOST, GROUP_...; others change nothing. */
void dip__roster_feed(struct dip_coordinator_daemon *d, const struct dip_message *message);
/* What a worker is told about its group. */
void dip__roster_group(struct dip_coordinator_daemon *d, uint32_t member,
                       enum dip_message_kind command, const struct dip_message_group *group);
/* Once a second: who stands still, who has drained, what watchers should know. */
void dip__roster_sweep(struct dip_coordinator_daemon *d, int64_t now_ns);
/* Everybody is gone: this process leads no more. */
void dip__roster_clear(struct dip_coordinator_daemon *d);

struct roster_entry *dip__roster_find(const struct roster *roster, const char *name);
/* The view with what the scheduler knows. */
struct dip_worker_view dip__roster_view(const struct dip_coordinator_daemon *d,
                                        const struct roster_entry *entry);
/* Some worker's, the same for all in a sound cluster; "" while there is none. */
const char *dip__roster_fingerprint(const struct roster *roster);

/* Tells the scheduler and the worker. */
void dip__roster_drain(struct dip_coordinator_daemon *d, struct roster_entry *entry,
                       bool is_draining, int64_t grace_ns, const char *why);

/* Of a role that clients name: a worker of both panels is found under each. */
bool dip__roster_has_role(uint32_t roles, Diptych__V1__Role role);
void dip__roster_watch_pump(struct roster_watch *watch);
