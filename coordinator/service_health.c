/* coordinator/service_health.c - grpc.health.v1.Health: Check, List, Watch.
 *
 *     ""                         this process serves: it is not on its way out
 *     diptych.v1.ImageService    a request would be taken: leads, and both panels have workers, or
 *                                passes it on to whoever leads
 *     ar, diffusion              that panel has a worker that takes work
 *     diptych.v1.ModelService    calls of it are answered, here or by whoever leads
 *     diptych.v1.ClusterService  the same
 *
 * Open to everybody: probes bring no token. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/front.h"
#include "proto/grpc/health/v1/health.pb-c.h"

#define SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define UNKNOWN     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving;

enum { PROCESS, IMAGE, AR, DIFFUSION, MODEL, CLUSTER, SERVICES };
static const char *const names[SERVICES] = {[PROCESS] = "",
                                            [IMAGE] = "diptych.v1.ImageService",
                                            [AR] = "ar",
                                            [DIFFUSION] = "diffusion",
                                            [MODEL] = "diptych.v1.ModelService",
                                            [CLUSTER] = "diptych.v1.ClusterService"};
static const char not_found[] = "there is no such service; Health.List names those there are";

struct health_watch {
    struct dip_coordinator_daemon *daemon;
    struct dip_rpc_call *call;
    struct health_watch *next;
    int service; /* SERVICES = one that is not known */
    int told;    /* -1 = nothing yet */
};

static int find(const char *name)
{
    int i = 0;
    while (i < SERVICES && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static serving state_of(const struct dip_coordinator_daemon *d, int service)
{
    bool is_serving = false;
    switch (service) {
    case PROCESS:
        is_serving = !d->is_draining;
        break;
    case IMAGE:
        is_serving = dip_coordinator_daemon_is_ready(d) ||
                     (!d->is_leading && dip_coordinator_daemon_is_serving(d));
        break;
    case AR:
        is_serving = dip__front_has_workers(d, DIP_ROLE_AR);
        break;
    case DIFFUSION:
        is_serving = dip__front_has_workers(d, DIP_ROLE_DIFFUSION);
        break;
    case MODEL:
    case CLUSTER:
        is_serving = dip_coordinator_daemon_is_serving(d);
        break;
    default:
        return UNKNOWN;
    }
    return is_serving ? SERVING : NOT_SERVING;
}

static void finish(struct dip_rpc_call *call, int code, const char *message)
{
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = code, .message = message});
}

/* The service that is asked about; -1 when the call has been ended. */
static int read_service(struct dip_rpc_call *call, const void *data, size_t bytes)
{
    ProtobufCMessage *message;
    if (dip_proto_decode(&grpc__health__v1__health_check_request__descriptor, data, bytes, NULL,
                         &message)) {
        finish(call, DIP_RPC_INVALID_ARGUMENT, "the message cannot be read");
        return -1;
    }
    int service = find(((Grpc__Health__V1__HealthCheckRequest *)message)->service);
    dip_proto_free(message);
    return service;
}

static void on_check(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    int service = read_service(call, data, bytes);
    if (service < 0)
        return;
    response.status = state_of(d, service);
    if (service == SERVICES)
        finish(call, DIP_RPC_NOT_FOUND, not_found);
    else if (dip__reply_part(call, &response.base, 0))
        finish(call, DIP_RPC_OK, NULL);
    else
        finish(call, DIP_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void on_list(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    struct dip_coordinator_daemon *d = daemon;
    Grpc__Health__V1__HealthListResponse response = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
    Grpc__Health__V1__HealthListResponse__StatusesEntry entries[SERVICES], *list[SERVICES];
    Grpc__Health__V1__HealthCheckResponse states[SERVICES];
    for (int i = 0; i < SERVICES; i++) {
        grpc__health__v1__health_list_response__statuses_entry__init(&entries[i]);
        grpc__health__v1__health_check_response__init(&states[i]);
        states[i].status = state_of(d, i);
        entries[i].key = (char *)(uintptr_t)names[i];
        entries[i].value = &states[i];
        list[i] = &entries[i];
    }
    response.n_statuses = SERVICES;
    response.statuses = list;
    if (dip__reply_part(call, &response.base, 0))
        finish(call, DIP_RPC_OK, NULL);
    else
        finish(call, DIP_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- Watch ---- */

static void watch_tell(struct health_watch *watch)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = state_of(watch->daemon, watch->service);
    if (watch->told == (int)response.status)
        return;
    if (dip__reply_part(watch->call, &response.base, 1)) /* only the newest matters */
        watch->told = (int)response.status;
}

static void on_watch_open(void *daemon, struct dip_rpc_call *call)
{
    struct dip_coordinator_daemon *d = daemon;
    struct health_watch *watch = calloc(1, sizeof *watch);
    dip_rpc_call_bind(call, watch);
    if (!watch) {
        finish(call, DIP_RPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    *watch = (struct health_watch){
        .daemon = d, .call = call, .next = d->health_watches, .service = -1, .told = -1};
    d->health_watches = watch;
}

static void on_watch(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct health_watch *watch = context;
    if (!watch)
        return;
    int service = read_service(call, data, bytes);
    if (service < 0)
        return;
    watch->service = service;
    watch_tell(watch);
}

static void on_watch_close(void *context, struct dip_rpc_call *call,
                           const struct dip_rpc_status *status)
{
    (void)call;
    (void)status;
    struct health_watch *watch = context;
    if (!watch)
        return;
    struct health_watch **at = &watch->daemon->health_watches;
    while (*at != watch)
        at = &(*at)->next;
    *at = watch->next;
    free(watch);
}

void dip__health_tell(struct dip_coordinator_daemon *d)
{
    for (struct health_watch *watch = d->health_watches; watch; watch = watch->next)
        if (watch->service >= 0)
            watch_tell(watch);
}

void dip__health_end(struct dip_coordinator_daemon *d)
{
    for (struct health_watch *watch = d->health_watches; watch; watch = watch->next)
        finish(watch->call, DIP_RPC_UNAVAILABLE, "the server stops");
}

void dip__service_health(struct dip_coordinator_daemon *d)
{
    static const struct dip_rpc_handler check = {.on_message = on_check};
    static const struct dip_rpc_handler list = {.on_message = on_list};
    static const struct dip_rpc_handler watch = {
        .on_open = on_watch_open, .on_message = on_watch, .on_close = on_watch_close};
    dip__probe_add(d, "/grpc.health.v1.Health/Check", DIP_RPC_UNARY, &check);
    dip__probe_add(d, "/grpc.health.v1.Health/List", DIP_RPC_UNARY, &list);
    dip__probe_add(d, "/grpc.health.v1.Health/Watch", DIP_RPC_SERVER_STREAM, &watch);
}
