/* coordinator/service_scaler.c - externalscaler.ExternalScaler: what KEDA asks, from the true
 * queue.
 *
 * The trigger's metadata names the pool. The measure is the number of workers that the pool wants
 * (of the AR pool, groups), and one replica is good for one of them: so KEDA's own division by a
 * target gives what GetScaleHint says, and what was decided here is not decided twice. A pool is
 * active while it wants anybody.
 *
 * Open to everybody, as health is: KEDA cannot show a token, and what it learns is two small
 * numbers. With a certificate authority on the port it shows a certificate as everybody does. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/front.h"
#include "proto/keda/externalscaler.pb-c.h"

#define METHOD DIP_FRONT_METHOD_SCALER

struct scaler_watch {
    struct dip_coordinator_daemon *daemon;
    struct dip_rpc_call *call;
    struct scaler_watch *next;
    enum dip_pool pool;
    bool is_spec;   /* StreamMetricSpec: says its one thing, and stays */
    bool has_begun; /* its request was read */
    int told;       /* -1 = nothing yet */
};

static char *metric_of(enum dip_pool pool)
{
    static char names[DIP_POOL_COUNT][32] = {"diptych-ar-workers", "diptych-diffusion-workers"};
    return names[pool]; /* protobuf-c's fields are not const */
}

/* ---- requests ---- */

/* The pool of the trigger; false and the call ended when it names none, or another one leads. */
static bool find_pool(struct dip_coordinator_daemon *d, struct dip_rpc_call *call,
                      const Externalscaler__ScaledObjectRef *r, enum dip_pool *ret_pool)
{
    struct dip_error error;
    const char *name = "";
    if (!d->is_leading && !dip__front_takes_requests(d, &error)) {
        dip__reply_error(d, METHOD, call, &error);
        return false;
    }
    for (size_t i = 0; r && i < r->n_scalermetadata; i++)
        if (strcmp(r->scalermetadata[i]->key, "pool") == 0)
            name = r->scalermetadata[i]->value;
    for (int pool = 0; pool < DIP_POOL_COUNT; pool++)
        if (strcmp(name, dip_pool_name((enum dip_pool)pool)) == 0) {
            *ret_pool = (enum dip_pool)pool;
            return true;
        }
    dip__error_field(&error, "scalerMetadata", "pool is \"%.40s\"; it must be ar or diffusion",
                     name);
    dip__reply_error(d, METHOD, call, &error);
    return false;
}

static bool is_active(const struct dip_coordinator_daemon *d, enum dip_pool pool)
{
    return dip_coordinator_daemon_pool(d, pool).wanted > 0;
}

/* ---- single answers ---- */

static void on_is_active(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    enum dip_pool pool = DIP_POOL_AR;
    Externalscaler__ScaledObjectRef *r = dip__reply_decode(
        d, METHOD, call, &externalscaler__scaled_object_ref__descriptor, data, bytes);
    if (r && find_pool(d, call, r, &pool)) {
        Externalscaler__IsActiveResponse response = EXTERNALSCALER__IS_ACTIVE_RESPONSE__INIT;
        response.result = is_active(d, pool);
        dip__reply(d, METHOD, call, &response.base);
    }
    dip_proto_free(r);
}

struct spec {
    Externalscaler__GetMetricSpecResponse response;
    Externalscaler__MetricSpec one, *list[1];
};

static void fill_spec(struct spec *spec, enum dip_pool pool)
{
    externalscaler__get_metric_spec_response__init(&spec->response);
    externalscaler__metric_spec__init(&spec->one);
    spec->one.metricname = metric_of(pool);
    spec->one.targetsize = 1;
    spec->one.targetsizefloat = 1;
    spec->list[0] = &spec->one;
    spec->response.metricspecs = spec->list;
    spec->response.n_metricspecs = 1;
}

static void on_metric_spec(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    enum dip_pool pool = DIP_POOL_AR;
    Externalscaler__ScaledObjectRef *r = dip__reply_decode(
        d, METHOD, call, &externalscaler__scaled_object_ref__descriptor, data, bytes);
    if (r && find_pool(d, call, r, &pool)) {
        struct spec spec;
        fill_spec(&spec, pool);
        dip__reply(d, METHOD, call, &spec.response.base);
    }
    dip_proto_free(r);
}

/* There is one measure a pool: its name, which KEDA may have changed, is not needed to find it. */
static void on_metrics(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    enum dip_pool pool = DIP_POOL_AR;
    Externalscaler__GetMetricsRequest *r = dip__reply_decode(
        d, METHOD, call, &externalscaler__get_metrics_request__descriptor, data, bytes);
    if (r && find_pool(d, call, r->scaledobjectref, &pool)) {
        Externalscaler__GetMetricsResponse response = EXTERNALSCALER__GET_METRICS_RESPONSE__INIT;
        Externalscaler__MetricValue one = EXTERNALSCALER__METRIC_VALUE__INIT, *list[] = {&one};
        int wanted = dip_coordinator_daemon_pool(d, pool).wanted;
        one.metricname = r->metricname[0] ? r->metricname : metric_of(pool);
        one.metricvalue = wanted;
        one.metricvaluefloat = wanted;
        response.metricvalues = list;
        response.n_metricvalues = 1;
        dip__reply(d, METHOD, call, &response.base);
    }
    dip_proto_free(r);
}

/* ---- streams ---- */

static void watch_tell(struct scaler_watch *watch)
{
    int now = watch->is_spec ? 1 : is_active(watch->daemon, watch->pool);
    if (!watch->has_begun || watch->told == now)
        return;
    struct spec spec;
    Externalscaler__IsActiveResponse active = EXTERNALSCALER__IS_ACTIVE_RESPONSE__INIT;
    active.result = now;
    fill_spec(&spec, watch->pool);
    if (dip__reply_part(watch->call, watch->is_spec ? &spec.response.base : &active.base, 1))
        watch->told = now; /* only the newest matters */
}

static void on_watch_open(void *daemon, struct dip_rpc_call *call)
{
    struct dip_coordinator_daemon *d = daemon;
    struct scaler_watch *watch = calloc(1, sizeof *watch);
    dip_rpc_call_bind(call, watch);
    if (!watch) {
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED,
                                                           .message = "out of memory"});
        return;
    }
    *watch = (struct scaler_watch){.daemon = d,
                                   .call = call,
                                   .next = d->scaler_watches,
                                   .is_spec =
                                       strstr(dip_rpc_call_path(call), "/StreamMetricSpec") != NULL,
                                   .told = -1};
    d->scaler_watches = watch;
}

static void on_watch(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct scaler_watch *watch = context;
    if (!watch)
        return;
    struct dip_coordinator_daemon *d = watch->daemon;
    Externalscaler__ScaledObjectRef *r = dip__reply_decode(
        d, METHOD, call, &externalscaler__scaled_object_ref__descriptor, data, bytes);
    if (r && find_pool(d, call, r, &watch->pool)) {
        watch->has_begun = true;
        watch_tell(watch);
    }
    dip_proto_free(r);
}

static void on_watch_close(void *context, struct dip_rpc_call *call,
                           const struct dip_rpc_status *status)
{
    (void)call;
    (void)status;
    struct scaler_watch *watch = context;
    if (!watch)
        return;
    struct scaler_watch **at = &watch->daemon->scaler_watches;
    while (*at != watch)
        at = &(*at)->next;
    *at = watch->next;
    free(watch);
}

void dip__scaler_tell(struct dip_coordinator_daemon *d)
{
    for (struct scaler_watch *watch = d->scaler_watches; watch; watch = watch->next)
        watch_tell(watch);
}

void dip__scaler_end(struct dip_coordinator_daemon *d, const char *why)
{
    for (struct scaler_watch *watch = d->scaler_watches; watch; watch = watch->next)
        dip_rpc_call_finish(watch->call,
                            &(struct dip_rpc_status){.code = DIP_RPC_UNAVAILABLE, .message = why});
}

void dip__service_scaler(struct dip_coordinator_daemon *d)
{
    static const struct dip_rpc_handler active = {.on_message = on_is_active};
    static const struct dip_rpc_handler spec = {.on_message = on_metric_spec};
    static const struct dip_rpc_handler metrics = {.on_message = on_metrics};
    static const struct dip_rpc_handler watch = {
        .on_open = on_watch_open, .on_message = on_watch, .on_close = on_watch_close};
    dip__service_add(d, METHOD, "/externalscaler.ExternalScaler/IsActive", DIP_RPC_UNARY, &active);
    dip__service_add(d, METHOD, "/externalscaler.ExternalScaler/GetMetricSpec", DIP_RPC_UNARY,
                     &spec);
    dip__service_add(d, METHOD, "/externalscaler.ExternalScaler/GetMetrics", DIP_RPC_UNARY,
                     &metrics);
    dip__service_add(d, METHOD, "/externalscaler.ExternalScaler/StreamIsActive",
                     DIP_RPC_SERVER_STREAM, &watch);
    dip__service_add(d, METHOD, "/externalscaler.ExternalScaler/StreamMetricSpec",
                     DIP_RPC_SERVER_STREAM, &watch);
}
