/* cli/local.h - the embedded cluster: a coordinator and one worker with both panels, in this
 * process, joined by the in-process transport.
 *
 * The same coordinator and worker as in a real cluster; only the transport differs. */
#pragma once

#include "coordinator/coordinator.h"
#include "worker/worker.h"

struct dip_local;

/* Opens and checks the model; starts nothing yet, so that a request can be resolved against it. */
DIP_MUST_USE enum dip_status dip__local_open(const char *directory, struct dip_why *why,
                                             struct dip_local **ret_local);
struct dip_served_model dip__local_model(const struct dip_local *local);
const struct dip_config *dip__local_config(const struct dip_local *local);
uint64_t dip__local_weights_bytes(const struct dip_local *local);

/* Starts coordinator and worker, with memory reserved for requests like this one. The model belongs
 * to the worker from here on: the three calls above are over. */
DIP_MUST_USE enum dip_status dip__local_start(struct dip_local *local,
                                              const struct dip_resolved *resolved,
                                              const struct dip_device_options *device,
                                              struct dip_why *why);
struct dip_coordinator *dip__local_coordinator(struct dip_local *local);
const struct dip_worker *dip__local_worker(const struct dip_local *local);

/* Stops what runs; no update comes after. */
void dip__local_stop(struct dip_local *local);

/* Stops and closes the model. Accepts NULL. */
void dip__local_close(struct dip_local *local);
