/* net/hub.h - the coordinator's end of the streams to its workers.
 *
 * One bidirectional stream per worker (diptych.internal.v1.WorkerService.Connect). A worker that
 * says hello gets a member's address, 1 .. member_count_max, never given twice while somebody may
 * still mean the old one; what it says becomes messages, and messages sent to its address become
 * frames. A worker is lost when its stream ends, when nothing was heard of it for silence_ns, or
 * when it has jobs and its steps stand still for stuck_ns; then LOST is the last message from that
 * address. Delivers and never decides.
 *
 * Thread: everything on the loop's owner thread; on_message is called there and may send. */
#pragma once

#include "cluster/job.h"
#include "net/net.h"
#include "net/rpc_loop.h"
#include "net/rpc_server.h"

struct dip_hub;

struct dip_hub_options {
    struct dip_rpc_loop *loop;
    uint32_t member_count_max;
    const char *cluster_id; /* told to workers: one of another cluster hangs up; NULL = unnamed */
    int64_t heartbeat_ns;   /* asked of workers; 0 = 200 ms */
    int64_t silence_ns;     /* 0 = 1 s */
    int64_t stuck_ns;       /* 0 = 30 s */
    /* Events of workers, and APPEARED, JOINED, HEARTBEAT, LEAVING, LOST. The payload is the
     * callee's to take; what it leaves is released. */
    void (*on_message)(void *context, struct dip_message *message);
    /* NULL = everybody may; else asked of each stream before anything is read from it. */
    bool (*may_join)(void *context, const struct dip_rpc_call *call);
    /* NULL = everybody does; else asked of what each says of itself. False: *ret_why tells it why
     * it is refused. */
    bool (*does_fit)(void *context, const struct dip_member_facts *facts, struct dip_why *ret_why);
    /* NULL, or told in a sentence why a worker was refused or lost. */
    void (*log)(void *context, const char *text);
    void *context;
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_hub_new(const struct dip_hub_options *options,
                                         struct dip_hub **ret_hub);
/* After the server that serves its method has stopped. */
void dip_hub_free(struct dip_hub *hub);

/* For the server's table. */
struct dip_rpc_method dip_hub_method(struct dip_hub *hub);

/* Sends only (receive is UNSUPPORTED). Errors of a send: BUSY (the stream is behind), UNREACHABLE
 * (no such member, or HAND_OVER to a member without a HingeService), UNSUPPORTED (cluster/wire.h:
 * nothing that was injected or is traced travels), NO_MEMORY. */
struct dip_endpoint *dip_hub_endpoint(struct dip_hub *hub);

/* This process leads under `epoch` (> 0), which is stamped on every command from now on; workers
 * refuse a smaller one than they have seen. Before the first call and after dismiss workers are
 * sent away as UNAVAILABLE. */
void dip_hub_set_epoch(struct dip_hub *hub, uint64_t epoch);
/* The largest epoch above ours that a worker has seen, and was sent away for; 0 = none was. */
uint64_t dip_hub_later_epoch(const struct dip_hub *hub);
/* Whom a worker has left for since we lead, "host:port"; "" = nobody. */
const char *dip_hub_successor(const struct dip_hub *hub);

/* What has been refused and given up since the start. */
struct dip_hub_stats {
    uint64_t fenced_epochs;       /* hellos of workers that have seen a later epoch */
    uint64_t fenced_incarnations; /* hellos of an earlier start than the one that is here, and what
                                     comes from one that has made way */
    uint64_t silent, stuck;       /* workers lost for silence_ns, for stuck_ns */
};
struct dip_hub_stats dip_hub_stats(const struct dip_hub *hub);

/* Ends every stream, so that workers look for the leader: this process leads no more. No LOST
 * follows. */
void dip_hub_dismiss(struct dip_hub *hub);
