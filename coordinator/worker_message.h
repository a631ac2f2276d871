/* coordinator/worker_message.h - a worker as diptych.v1.Worker; private to coordinator/. */
#pragma once

#include "coordinator/daemon.h"
#include "proto/diptych/v1/cluster.pb-c.h"

/* The message and what it points to; valid as long as the view. */
struct worker_message {
    Diptych__V1__Worker worker;
    Google__Protobuf__Timestamp last_progress, since;
};
void dip__worker_message(const struct dip_worker_view *view, struct worker_message *ret_message);
