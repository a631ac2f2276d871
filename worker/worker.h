/* worker/worker.h - front door of worker/: a member that owns a device and does jobs.
 *
 * Takes commands from its endpoint, advances the AR engine and the diffusion engine by one step in
 * turn (so that several images pipeline on one device), and reports events. Everything it knows
 * about a request is in its jobs' messages. Threads: one device thread owns the device, the engines
 * and the endpoint's inbox; one file thread encodes pictures. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"
#include "model/model.h"
#include "net/net.h"

struct dip_worker;

struct dip_worker_options {
    struct dip_endpoint *endpoint;
    uint32_t coordinator;    /* address that events go to */
    struct dip_model *model; /* opened by the caller; belongs to the worker from the start on, also
                                when that fails: its constants live on the worker's device */
    struct dip_device_options device;
    uint32_t roles; /* enum dip_role bits */
    int ar_slots;
    int hinge_slots; /* hinges drawn or kept */
    int diffusion_slots;
    int diffusion_batch_max; /* jobs in one forward pass, where that pays */
    int prompt_tokens_max, image_tokens_max;
    int latent_height_max, latent_width_max;
    bool ar_group; /* the AR panel as a rank of a group: joins when rank 0 of one that is formed,
                      not at the start. The roles are then AR alone */
    const char *group_address;    /* of this host, numeric, for ranks on other hosts; NULL = all
                                     ranks of its groups are on this one */
    struct dip_member_load *load; /* NULL, or written by the device thread as it goes */
    /* Work whose coordinator is gone is held so long for the next one; finished pictures are kept
     * so long in any case. 0 = it is dropped. */
    int64_t hold_ns;
    struct dip_log *log; /* NULL, or a line for each job that is done */
};

/* Starts the threads, opens the device, prepares the model and joins; returns when the worker is
 * ready or has failed to become so. Errors: those of dip_device_open and of the engines, with a
 * sentence. */
DIP_MUST_USE enum dip_status dip_worker_start(const struct dip_worker_options *options,
                                              struct dip_why *why, struct dip_worker **ret_worker);

/* Ends after the current step; live jobs are dropped without a word. */
void dip_worker_stop(struct dip_worker *worker);

/* The process is to exit: says LEAVING to the coordinator, hands back what runs longer than the
 * grace, and then is drained. From any thread; returns at once. */
void dip_worker_drain(struct dip_worker *worker, int64_t grace_ns);
/* Nothing is left to do or to keep. Any thread. */
bool dip_worker_is_drained(struct dip_worker *worker);
/* The device is dead; its jobs have been handed back and nothing runs any more. Any thread. */
bool dip_worker_is_failed(struct dip_worker *worker);

/* Of the device it runs on: "cpu", "cpu-avx2", 2. Valid from start to stop. */
const char *dip_worker_backend(const struct dip_worker *worker);
const char *dip_worker_device_class(const struct dip_worker *worker);
int dip_worker_threads(const struct dip_worker *worker);
