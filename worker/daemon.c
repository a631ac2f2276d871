/* worker/daemon.c - starting and ending a worker process in the right order.
 *
 * The loop's thread owns server and spoke; this file's functions reach them by posts. The worker
 * ends before the spoke does, so that what it said last still goes out. */
#include "worker/daemon.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/flag.h"
#include "net/spoke.h"
#include "worker/worker.h"

enum {
    AR_SLOTS = 4,
    DIFFUSION_SLOTS = 1,
    METHODS = 2,
    HOST_BYTES = 128,
    ADDRESS_BYTES = 256,
};
#define LOOK_NS (INT64_C(5) * DIP_MS_NS)

struct dip_worker_daemon {
    struct dip_worker_daemon_options options; /* texts of the caller: read at the start only */
    struct dip_member_load load;
    struct dip_member_facts facts;
    struct dip_model *model; /* until the worker has it */
    struct dip_config config;
    struct dip_rpc_loop *loop;
    struct dip_rpc_server *server;
    struct dip_rpc_method methods[METHODS];
    struct dip_spoke *spoke;
    struct dip_worker *worker;
    pthread_t loop_thread;
    bool has_loop_thread;
    int port;
};

/* ---- who and where ---- */

static void text_copy(char *to, size_t bytes, const char *from)
{
    snprintf(to, bytes, "%s", from);
}

static void host_name(char name[HOST_BYTES])
{
    if (gethostname(name, HOST_BYTES) != 0 || name[0] == '\0')
        text_copy(name, HOST_BYTES, "localhost");
    name[HOST_BYTES - 1] = '\0';
}

static void facts_fill(struct dip_worker_daemon *d)
{
    const struct dip_worker_daemon_options *o = &d->options;
    char host[HOST_BYTES];
    host_name(host);
    if (o->name)
        text_copy(d->facts.name, sizeof d->facts.name, o->name);
    else
        snprintf(d->facts.name, sizeof d->facts.name, "%.40s-%d", host, (int)getpid());
    text_copy(d->facts.host_id, sizeof d->facts.host_id, o->host_id ? o->host_id : host);
    text_copy(d->facts.version, sizeof d->facts.version, DIP_VERSION);
    text_copy(d->facts.model_digest, sizeof d->facts.model_digest, d->model->digest);
    text_copy(d->facts.device, sizeof d->facts.device,
              o->device.backend ? o->device.backend : "auto");
    d->facts.incarnation = (uint64_t)dip_clock_unix_ns();
    d->facts.roles = o->roles;
    d->facts.is_rank = o->ar_group;
    d->facts.is_rank_said = true;
}

/* "host" of "host:port"; the whole when there is no port. An IPv6 address stands in brackets. */
static size_t host_bytes_of(const char *address)
{
    const char *bracket = strchr(address, ']');
    const char *colon = strrchr(address, ':');
    if (!colon || (bracket && colon < bracket))
        return strlen(address);
    return (size_t)(colon - address);
}

/* Where others find this server. */
static void address_fill(struct dip_worker_daemon *d, const char *listen)
{
    const char *base = d->options.advertise ? d->options.advertise : listen;
    size_t host_bytes = host_bytes_of(base);
    char host[ADDRESS_BYTES];
    if (d->options.advertise && base[host_bytes] == ':') {
        text_copy(d->facts.address, sizeof d->facts.address, base);
        return;
    }
    snprintf(host, sizeof host, "%.*s", (int)host_bytes, base);
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0)
        host_name(host); /* listens everywhere: found by name */
    int bytes = snprintf(d->facts.address, sizeof d->facts.address, "%.240s:%d", host, d->port);
    dip_assert(bytes > 0 && (size_t)bytes < sizeof d->facts.address);
}

/* ---- starting ---- */

static int or_default(int value, int default_value)
{
    return value > 0 ? value : default_value;
}

/* What was left open is chosen for the model at hand. */
static void limits_fill(struct dip_worker_daemon *d)
{
    struct dip_worker_daemon_options *o = &d->options;
    const struct dip_generation_config *g = &d->config.generation;
    o->ar_slots = or_default(o->ar_slots, AR_SLOTS);
    o->hinge_slots = or_default(o->hinge_slots, 2 * o->ar_slots);
    o->diffusion_slots = or_default(o->diffusion_slots, DIFFUSION_SLOTS);
    o->diffusion_batch_max = or_default(o->diffusion_batch_max, o->diffusion_slots);
    o->image_tokens_max = or_default(o->image_tokens_max, g->grid_height * g->grid_width);
    int prompt_max = d->config.ar.position_max - o->image_tokens_max;
    if (prompt_max > DIP_PROMPT_TOKENS_MAX)
        prompt_max = DIP_PROMPT_TOKENS_MAX;
    o->prompt_tokens_max = or_default(o->prompt_tokens_max, prompt_max > 0 ? prompt_max : 1);
    o->latent_height_max = or_default(o->latent_height_max, g->latent_height);
    o->latent_width_max = or_default(o->latent_width_max, g->latent_width);
    if (!(o->roles & DIP_ROLE_DIFFUSION)) { /* no picture is ever here */
        o->latent_height_max = 1;
        o->latent_width_max = 1;
    }
}

static enum dip_status model_open(struct dip_worker_daemon *d, struct dip_why *why)
{
    uint32_t parts = (d->options.roles & DIP_ROLE_AR ? DIP_MODEL_AR : 0u) |
                     (d->options.roles & DIP_ROLE_DIFFUSION ? DIP_MODEL_DIFFUSION : 0u);
    if (d->options.ar_group && parts != DIP_MODEL_AR)
        return dip_fail(why, DIP_INVALID, "a rank of a group has the role ar and no other");
    if (parts == 0)
        return dip_fail(why, DIP_INVALID, "a worker has the role ar, diffusion or both");
    DIP_TRY(dip_status_of_file(dip_model_open_parts(d->options.model, parts, why, &d->model)));
    d->config = d->model->config;
    return DIP_OK;
}

static void spoke_log(void *context, const char *text)
{
    const struct dip_worker_daemon *d = context;
    if (d->options.log)
        d->options.log(d->options.log_context, text);
}

static enum dip_status spoke_open(struct dip_worker_daemon *d)
{
    const struct dip_worker_daemon_options *o = &d->options;
    struct dip_spoke_options options = {
        .loop = d->loop,
        .tls = o->tls,
        .tls_name = o->tls_name,
        .facts = d->facts,
        .cluster_id = o->cluster_id,
        .token = o->token,
        .hinge_width = (uint32_t)d->config.ar.hidden,
        .hinge_bytes_max =
            ((size_t)o->image_tokens_max + 1) * (size_t)d->config.ar.hidden * sizeof(float),
        .load = &d->load,
        .log = spoke_log,
        .context = d,
    };
    DIP_TRY(dip_spoke_new(&options, &d->spoke));
    int count = dip_spoke_methods(d->spoke, d->methods);
    dip_assert(count == METHODS);
    return DIP_OK;
}

static const char *listen_of(const struct dip_worker_daemon *d)
{
    return d->options.listen ? d->options.listen : "127.0.0.1:0";
}

/* Before anything is loaded. The ranks' exchange has a way of its own, which knows no TLS: whoever
 * has TLS elsewhere asks for it by the address, and is reminded. */
static enum dip_status check_exposure(struct dip_worker_daemon *d, struct dip_why *why)
{
    const struct dip_worker_daemon_options *o = &d->options;
    DIP_TRY(dip_rpc_listen_check(listen_of(d), o->tls, o->is_insecure, why));
    if (!o->group_address || dip_rpc_is_local(o->group_address) || o->is_insecure)
        return DIP_OK;
    if (!o->tls)
        return dip_fail(why, DIP_INVALID,
                        "what ranks exchange at --group-address %s is plaintext: keep it on a "
                        "network of the cluster's own and allow it with --insecure",
                        o->group_address);
    if (o->log)
        o->log(o->log_context, "what ranks exchange at --group-address is not encrypted, with TLS "
                               "neither: keep it on a network of the cluster's own");
    return DIP_OK;
}

static enum dip_status serve(struct dip_worker_daemon *d, struct dip_why *why)
{
    const char *listen = listen_of(d);
    struct dip_rpc_server_options options = {.listen = listen,
                                             .tls = d->options.tls,
                                             .loops = &d->loop,
                                             .loop_count = 1,
                                             .methods = d->methods,
                                             .method_count = METHODS};
    DIP_TRY(dip_rpc_server_start(&options, why, &d->server));
    d->port = dip_rpc_server_port(d->server);
    address_fill(d, listen);
    return DIP_OK;
}

static void *loop_main(void *loop)
{
    dip_rpc_loop_run(loop);
    return NULL;
}

static enum dip_status worker_open(struct dip_worker_daemon *d, struct dip_why *why)
{
    const struct dip_worker_daemon_options *o = &d->options;
    struct dip_worker_options options = {.endpoint = dip_spoke_endpoint(d->spoke),
                                         .coordinator = DIP_SPOKE_COORDINATOR,
                                         .model = d->model,
                                         .device = o->device,
                                         .roles = o->roles,
                                         .ar_slots = o->ar_slots,
                                         .hinge_slots = o->hinge_slots,
                                         .diffusion_slots = o->diffusion_slots,
                                         .diffusion_batch_max = o->diffusion_batch_max,
                                         .prompt_tokens_max = o->prompt_tokens_max,
                                         .image_tokens_max = o->image_tokens_max,
                                         .latent_height_max = o->latent_height_max,
                                         .latent_width_max = o->latent_width_max,
                                         .ar_group = o->ar_group,
                                         .group_address = o->group_address,
                                         .load = &d->load,
                                         .hold_ns = o->hold_ns,
                                         .log = o->job_log};
    d->model = NULL; /* the worker's, also when it does not start */
    DIP_TRY(dip_worker_start(&options, why, &d->worker));
    text_copy(d->facts.device, sizeof d->facts.device, dip_worker_device_class(d->worker));
    return DIP_OK;
}

static enum dip_status start_all(struct dip_worker_daemon *d, struct dip_why *why)
{
    DIP_TRY(check_exposure(d, why));
    DIP_TRY(model_open(d, why));
    facts_fill(d);
    limits_fill(d);
    DIP_TRY(dip_rpc_loop_new(&(struct dip_rpc_loop_options){0}, &d->loop));
    DIP_TRY(spoke_open(d));
    DIP_TRY(serve(d, why));
    if (pthread_create(&d->loop_thread, NULL, loop_main, d->loop) != 0)
        return DIP_NO_MEMORY;
    d->has_loop_thread = true;
    return worker_open(d, why);
}

/* ---- posts ---- */

static void post(struct dip_worker_daemon *d, dip_rpc_post_fn function, void *payload)
{
    while (dip_rpc_loop_post(d->loop, function, d, payload) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
}

static void introduce_posted(void *context, void *payload)
{
    (void)payload;
    struct dip_worker_daemon *d = context;
    dip_spoke_set_facts(d->spoke, &d->facts);
}

static void target_posted(void *context, void *payload)
{
    struct dip_worker_daemon *d = context;
    dip_spoke_set_coordinator(d->spoke, payload);
    free(payload);
}

static void stop_posted(void *context, void *payload)
{
    (void)payload;
    struct dip_worker_daemon *d = context;
    dip_spoke_stop(d->spoke);
    dip_rpc_server_stop(d->server, 0, NULL, NULL);
}

/* ---- the front door ---- */

enum dip_status dip_worker_daemon_start(const struct dip_worker_daemon_options *options,
                                        struct dip_why *why, struct dip_worker_daemon **ret_daemon)
{
    struct dip_worker_daemon *d = calloc(1, sizeof *d);
    if (!d)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a worker");
    d->options = *options;
    enum dip_status status = start_all(d, why);
    if (status) {
        dip_worker_daemon_stop(d);
        return dip_fail(why, status, "cannot start a worker: %s", dip_status_text(status));
    }
    post(d, introduce_posted, NULL);
    if (options->coordinator)
        dip_worker_daemon_set_coordinator(d, options->coordinator);
    *ret_daemon = d;
    return DIP_OK;
}

void dip_worker_daemon_set_coordinator(struct dip_worker_daemon *daemon, const char *target)
{
    char *copy = NULL;
    while (target && !(copy = strdup(target)))
        dip_clock_sleep(DIP_MS_NS); /* a few bytes: memory comes back or the process goes */
    post(daemon, target_posted, copy);
}

void dip_worker_daemon_drain(struct dip_worker_daemon *daemon, int64_t grace_ns)
{
    dip_worker_drain(daemon->worker, grace_ns);
}

enum dip_worker_daemon_end dip_worker_daemon_wait(struct dip_worker_daemon *daemon, int64_t wait_ns)
{
    int64_t until_ns = dip_clock_now_ns() + wait_ns;
    for (;;) {
        if (dip_worker_is_failed(daemon->worker))
            return DIP_WORKER_FAILED;
        if (dip_worker_is_drained(daemon->worker))
            return DIP_WORKER_DRAINED;
        if (dip_clock_now_ns() >= until_ns)
            return DIP_WORKER_RUNS;
        dip_clock_sleep(LOOK_NS);
    }
}

void dip_worker_daemon_stop(struct dip_worker_daemon *daemon)
{
    struct dip_worker_daemon *d = daemon;
    if (!d)
        return;
    dip_worker_stop(d->worker);
    dip_model_close(d->model);
    if (d->has_loop_thread) {
        post(d, stop_posted, NULL);
        dip_rpc_loop_stop(d->loop);
        pthread_join(d->loop_thread, NULL);
    } else if (d->server || d->spoke) { /* nobody runs the loop: this thread may */
        if (d->spoke)
            dip_spoke_stop(d->spoke);
        if (d->server)
            dip_rpc_server_stop(d->server, 0, NULL, NULL);
        dip_rpc_loop_stop(d->loop);
        dip_rpc_loop_run(d->loop);
    }
    dip_rpc_server_free(d->server);
    dip_spoke_free(d->spoke);
    dip_rpc_loop_free(d->loop);
    free(d);
}

struct dip_worker_daemon_stats dip_worker_daemon_stats(const struct dip_worker_daemon *daemon)
{
    return (struct dip_worker_daemon_stats){
        .is_connected = dip_spoke_is_connected(daemon->spoke),
        .steps_total = dip_counter_get(&daemon->load.steps),
        .fenced = dip_spoke_fenced(daemon->spoke),
        .ar_busy = (int)dip_counter_get(&daemon->load.ar_busy),
        .hinges_held = (int)dip_counter_get(&daemon->load.hinges_held),
        .diffusion_busy = (int)dip_counter_get(&daemon->load.diffusion_busy),
        .load = &daemon->load,
        .port = daemon->port,
        .backend = dip_worker_backend(daemon->worker),
        .device_class = dip_worker_device_class(daemon->worker),
        .threads = dip_worker_threads(daemon->worker),
        .name = daemon->facts.name,
        .address = daemon->facts.address,
        .roles = daemon->facts.roles,
    };
}
