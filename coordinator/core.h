/* coordinator/core.h - the coordinator without a thread: messages in, commands and news out.
 *
 * Feeds the scheduler, builds the commands it decides on and sends them through an endpoint, and
 * tells each request's client what happens. Whoever owns it brings messages, time and a thread: the
 * loop thread of coordinator.c inside a process, the gRPC loop in the daemon.
 *
 * Thread: one, the owner's. Callbacks run inside the calls below and must not call back. */
#pragma once

#include "cluster/cluster.h"
#include "coordinator/coordinator.h"
#include "net/net.h"

struct dip_core;

struct dip_core_options {
    struct dip_endpoint *endpoint; /* commands leave here; never received from */
    struct dip_scheduler_limits limits;
    int checkpoint_every; /* sampler steps from one latent checkpoint to the next; 0 = none */
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_core_new(const struct dip_core_options *options,
                                          struct dip_core **ret_core);
/* Clients that are left hear nothing more. */
void dip_core_free(struct dip_core *core);

/* Who asks what, as workers are told. Equal for equal requests of one tenant, in every coordinator.
 * The traceparent is "" or well-formed. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_origin_make(const struct dip_resolved *resolved,
                                             const char *tenant, const char *request_id,
                                             const char *traceparent,
                                             struct dip_job_origin *ret_origin);

/* A request as it is handed over. */
struct dip_core_request {
    uint64_t id;                         /* never used before; not 0 */
    struct dip_resolved *resolved;       /* taken over: empty afterwards */
    const struct dip_job_origin *origin; /* NULL: nobody can know it again */
    dip_update_fn update;
    void *context;
    enum dip_priority priority;
    uint32_t tenant;
    int64_t deadline_ns, begin_by_ns; /* 0 = none */
    bool is_check;                    /* say what would be admitted, run nothing */
    uint64_t ticket; /* the same when the client asks for the same again; 0 = cannot be told */
};

/* A SUBMIT that feed takes over, for who must cross a thread first. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_core_message(const struct dip_core_request *request,
                                              struct dip_message *ret_message);
/* Frees the record of a SUBMIT that was never fed; abandon leaves the resolved request alone. */
void dip_core_message_drop(struct dip_message *message);
void dip_core_message_abandon(struct dip_message *message);

/* Answers through `update`, ADMITTED or the refusal before this returns. Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_core_submit(struct dip_core *core, int64_t now_ns,
                                             const struct dip_core_request *request);
/* ENDED comes before this returns, unless the request is over. */
void dip_core_cancel(struct dip_core *core, int64_t now_ns, uint64_t request_id);
void dip_core_cancel_all(struct dip_core *core, int64_t now_ns);

/* Takes in what was said by a member or by a client. The payload is the callee's to take; what it
 * leaves is the caller's to release. */
void dip_core_feed(struct dip_core *core, int64_t now_ns, struct dip_message *message);

/* A message that the scheduler has no part in (DRAIN, FORM_GROUP): in order with the commands, and
 * kept like them while the member's inbox is full. Owns the payload. */
void dip_core_send(struct dip_core *core, uint32_t member, struct dip_message *message);

/* Due at dip_core_wake_ns at the latest (INT64_MAX: nothing is due). */
void dip_core_tick(struct dip_core *core, int64_t now_ns);
int64_t dip_core_wake_ns(const struct dip_core *core, int64_t now_ns);

/* Work that workers hold from an epoch before this one waits for whoever asks for it; from this one
 * it is given up. */
void dip_core_set_epoch(struct dip_core *core, uint64_t epoch);
/* Now and then: forgets what no worker holds any more. How many such entries there are. */
int dip_core_sweep(struct dip_core *core, int64_t now_ns);

/* Until then requests wait for workers instead of being refused for want of them. */
void dip_core_expect_workers(struct dip_core *core, int64_t until_ns);

/* The members that hold a part of a request, each once; returns how many. 0 when it is over. */
int dip_core_members(const struct dip_core *core, uint64_t request_id, uint32_t *ret_members,
                     int member_count_max);

/* For status pages. */
const struct dip_scheduler *dip_core_scheduler(const struct dip_core *core);
