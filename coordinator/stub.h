/* coordinator/stub.h - workers made of nothing: they answer every command and compute none.
 *
 * For tests of the front door and for `bench control`, which measures everything but the work. The
 * stub is the endpoint that the daemon sends its commands to, and feeds back what workers would
 * say: at once, or after the times that it is told. Thread: the loop's owner. */
#pragma once

#include "cluster/job.h"
#include "coordinator/daemon.h"
#include "net/net.h"
#include "net/rpc_loop.h"

struct dip_stub;

struct dip_stub_options {
    struct dip_rpc_loop *loop;
    int member_count; /* addresses 1 .. member_count, each with both panels */
    int slots;        /* of each panel of each member */
    int64_t ar_ns;    /* for all tokens of an image; 0 = at once */
    int64_t step_ns;  /* for one sampler step; 0 = all at once */
    size_t png_bytes; /* of a picture's file; 0 = 4096 */
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_stub_new(const struct dip_stub_options *options,
                                          struct dip_stub **ret_stub);
/* After the daemon is gone. */
void dip_stub_free(struct dip_stub *stub);

struct dip_endpoint *dip_stub_endpoint(struct dip_stub *stub);

/* All members join this daemon. */
void dip_stub_join(struct dip_stub *stub, struct dip_coordinator_daemon *daemon);
/* One joins (again), or is lost with all that it had. */
void dip_stub_join_one(struct dip_stub *stub, uint32_t address);
void dip_stub_lose(struct dip_stub *stub, uint32_t address);
/* One joins that holds something from before (taken over); what is adopted is a finished picture.
 */
void dip_stub_join_holding(struct dip_stub *stub, uint32_t address, struct dip_message_held *held);

/* From now on jobs are taken and nothing is done about them, or they go on. */
void dip_stub_hold(struct dip_stub *stub, bool is_held);
/* The next diffusion job fails like this. */
void dip_stub_fail_next(struct dip_stub *stub, enum dip_status status);

struct dip_stub_stats {
    int jobs; /* that it has now */
    uint64_t ar, diffusion, released;
    uint64_t adopted, forgotten;
    struct dip_job_origin origin; /* of the last AR job */
};
struct dip_stub_stats dip_stub_stats(const struct dip_stub *stub);
