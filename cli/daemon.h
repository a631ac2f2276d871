/* cli/daemon.h - what `up`, `coordinator` and `worker` share; private to cli/. */
#pragma once

#include "base/metrics.h"
#include "cli/cli.h"
#include "net/rpc_tls.h"

#define LISTEN_DEFAULT "127.0.0.1:50051"

/* The lines that a daemon says about itself on standard output, one per fact; `up` reads them:
 * "coordinator: listening on 127.0.0.1:50051". */
#define FACT_LISTENING "listening on "
#define FACT_METRICS   "metrics on port "
#define FACT_READY     "ready"
#define FACT_WAITING   "not ready"

void dip__fact(const char *component, const char *fact, const char *detail);

/* NULL without certificates. Errors: INVALID (a half of a pair is missing), those of the files. */
DIP_MUST_USE enum dip_status dip__daemon_tls(const struct options *options, struct dip_why *why,
                                             struct dip_rpc_tls **ret_tls);

/* Allows this process as many open files as it may allow itself: each connection is one, and many
 * systems begin with 1,024. Returns how many that is. */
int64_t dip__daemon_files(void);

/* Whether the AR panel of the model in `directory` can be cut into `degree` ranks, and bit d - 1
 * for each degree d that it can be cut into. Errors: UNSUPPORTED, those of the configuration. */
DIP_MUST_USE enum dip_status dip__daemon_degrees(const char *directory, int degree,
                                                 struct dip_why *why, uint64_t *ret_degrees);

/* Metrics of a coordinator, as one page. */
struct dip_coordinator_daemon;
struct observed;
struct enrolled;
extern const struct dip_metric_row dip__coordinator_rows[];
extern const int dip__coordinator_row_count;
enum { LISTENER_GRPC, LISTENER_HTTP, LISTENERS };
struct coordinator_facts {
    const struct options *options;
    const char *model;
    uint64_t leader_changes;
    const struct enrolled *enrolled;
    int connections[LISTENERS]; /* -1 = not known */
};
void dip__coordinator_page(struct observed *observed, const struct dip_coordinator_daemon *daemon,
                           const struct coordinator_facts *facts);
