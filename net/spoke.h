/* net/spoke.h - a worker's end of its stream to the coordinator, and of hinges to other workers.
 *
 * An endpoint of net/net.h for worker/: what the device thread sends to the coordinator's address
 * becomes frames on the stream, a HINGE sent to another member becomes a HingeService.Put to that
 * member's host, and commands and hinges that come are put into the inbox. When the stream ends it
 * is opened again, to whoever leads then, with jittered pauses; the worker first gets a RESET: the
 * coordinator that it knew has given its jobs to somebody else. The worker sends the RESET back
 * with a list of what it holds of them, and newer lists (HELD) until the stream stands again: the
 * hello tells the last one. What it said before the answer is dropped here, so that no word about
 * an old job reaches the new stream. A RESET also comes before the first stream. Commands of an
 * older epoch than the largest seen are answered FAILED and not passed on.
 *
 * A hinge is sent in chunks with CRC-32C and goes on where it broke off; a receiver that is busy or
 * restarting is tried again until the job is released or deadline_ns has passed.
 *
 * Thread: send from any thread, receive from the device thread; the rest on the loop's. */
#pragma once

#include "cluster/job.h"
#include "net/net.h"
#include "net/rpc_client.h"
#include "net/rpc_loop.h"
#include "net/rpc_server.h"

struct dip_spoke;

enum { DIP_SPOKE_COORDINATOR = 0, DIP_SPOKE_SELF = 1 }; /* addresses; others are given as needed */

struct dip_spoke_options {
    struct dip_rpc_loop *loop;
    const struct dip_rpc_tls *tls; /* NULL = plaintext */
    const char *tls_name; /* in the coordinator's and other workers' certificates; NULL = their
                             host. Copied. */
    struct dip_member_facts facts; /* what hello says */
    const char *cluster_id;        /* NULL = any */
    /* Shown to the coordinator and to other workers, and asked of whoever brings a hinge; NULL =
     * none. Copied. */
    const char *token;
    int inbox_count_max;                /* 0 = 256 */
    uint32_t hinge_width;               /* H: floats in one row of a hinge */
    size_t hinge_bytes_max;             /* of one hinge */
    const struct dip_member_load *load; /* the worker's, for heartbeats */
    int64_t hinge_timeout_ns;           /* 0 = 30 s */
    /* NULL, or told in a sentence what happened to the stream. Loop thread. */
    void (*log)(void *context, const char *text);
    void *context;
};

/* Errors: NO_MEMORY, LIMIT (a token of more than 1 KiB). */
DIP_MUST_USE enum dip_status dip_spoke_new(const struct dip_spoke_options *options,
                                           struct dip_spoke **ret_spoke);
/* Hangs up when what was sent so far has gone out (after 5 s at the latest), closes everything;
 * free when the loop has returned. After the worker has stopped. */
void dip_spoke_stop(struct dip_spoke *spoke);
void dip_spoke_free(struct dip_spoke *spoke);

struct dip_endpoint *dip_spoke_endpoint(struct dip_spoke *spoke);

/* Put and GetOffset, for the worker's own server; returns how many. */
int dip_spoke_methods(struct dip_spoke *spoke, struct dip_rpc_method ret_methods[2]);

/* Who leads, "host:port"; NULL = nobody known. May change at any time: whoever led before is told
 * who leads now, if that takes no longer than a moment. Loop thread. */
void dip_spoke_set_coordinator(struct dip_spoke *spoke, const char *target);

/* What is known of this process only now (where its server listens, what device it has). Before
 * the coordinator is set. */
void dip_spoke_set_facts(struct dip_spoke *spoke, const struct dip_member_facts *facts);

/* True while the stream stands and the coordinator has answered hello. For readiness; any thread.
 */
bool dip_spoke_is_connected(struct dip_spoke *spoke);
/* Commands, greetings and hinges under leaders of the past that were refused; any thread. */
uint64_t dip_spoke_fenced(const struct dip_spoke *spoke);
