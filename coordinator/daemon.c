/* coordinator/daemon.c - see coordinator/daemon.h: start, time, leadership, drain. */
#include "coordinator/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/front.h"
#include "model/digest.h"

/* Between the first refusal as DRAINING and the moment in which the server stops listening: calls
 * that are on their way are still answered. */
#define DRAIN_ROUND_NS (INT64_C(200) * DIP_MS_NS)
#define DRAIN_CALLS_NS (5 * DIP_SECOND_NS)
/* After another one has begun to lead: who was here comes back, perhaps knowing no other address,
 * and is passed on. */
#define DRAIN_RETURN_NS (2 * DIP_SECOND_NS)

/* ---- time ---- */

static void set_timer(struct dip_coordinator_daemon *d, struct dip_rpc_timer *timer, int64_t at_ns)
{
    enum dip_status status = dip_rpc_timer_set(d->loop, timer, at_ns);
    dip_assert(status == DIP_OK); /* the daemon's own have been set since the start: they move */
}

void dip__front_arm(struct dip_coordinator_daemon *d)
{
    int64_t wake_ns = dip_core_wake_ns(d->core, dip_clock_now_ns());
    int64_t groups_ns = dip__groups_wake_ns(d);
    if (groups_ns < wake_ns)
        wake_ns = groups_ns;
    if (!d->is_stopped)
        set_timer(d, &d->tick, wake_ns);
}

static void on_tick(void *daemon)
{
    struct dip_coordinator_daemon *d = daemon;
    int64_t now_ns = dip_clock_now_ns();
    dip__groups_feed(d, now_ns, &(struct dip_message){.kind = DIP_MESSAGE_TICK});
    dip_core_tick(d->core, now_ns);
    dip__front_arm(d);
}

/* Who leads from the start is the only coordinator there is. When it started under a smaller epoch
 * than it had before, because the clock was set back, workers refuse it as a leader of the past: it
 * leads on above what they have seen. Where there is a registry, its owner decides. */
static void outlead_the_past(struct dip_coordinator_daemon *d)
{
    uint64_t later = dip_coordinator_daemon_later_epoch(d);
    if (d->options.epoch == 0 || later <= d->epoch || later > DIP_EPOCH_MAX)
        return;
    dip_log_say(d->options.log, DIP_LOG_WARNING,
                "workers have seen epoch %llu, so the clock has been set back; leading on above it",
                (unsigned long long)later);
    dip_coordinator_daemon_lead(d, later + 1);
}

static void on_sweep(void *daemon)
{
    struct dip_coordinator_daemon *d = daemon;
    int64_t now_ns = dip_clock_now_ns();
    outlead_the_past(d);
    dip__book_sweep(d, now_ns);
    d->stats.held = (uint64_t)dip_core_sweep(d->core, now_ns);
    dip__roster_sweep(d, now_ns);
    dip__health_tell(d);
    dip__pools_sweep(d);
    dip__scaler_tell(d);
    set_timer(d, &d->sweep, now_ns + DIP_SECOND_NS);
}

/* ---- what comes from workers ---- */

void dip_coordinator_daemon_feed(struct dip_coordinator_daemon *daemon, struct dip_message *message)
{
    if (!daemon->is_leading)
        return;
    int64_t now_ns = dip_clock_now_ns();
    if (message->kind == DIP_MESSAGE_JOINED && daemon->groups &&
        !dip_groups_may_join(daemon->groups, message->from)) {
        daemon->stats.stale_joins++;
        return; /* said before its group was dissolved */
    }
    dip__roster_feed(daemon, message);
    dip__groups_feed(daemon, now_ns, message);
    dip_core_feed(daemon->core, now_ns, message);
    if (message->kind == DIP_MESSAGE_LEAVING) {
        /* The answer tells it that nothing more is on its way. */
        struct dip_message drain = {.kind = DIP_MESSAGE_DRAIN,
                                    .as.grace.grace_ns = message->as.grace.grace_ns};
        dip_core_send(daemon->core, message->from, &drain);
    }
    bool is_loss = message->kind == DIP_MESSAGE_LOST || message->kind == DIP_MESSAGE_GROUP_LOST;
    if (is_loss && daemon->options.expect_ns > 0) /* most come back, or their group re-forms */
        dip_core_expect_workers(daemon->core, now_ns + daemon->options.expect_ns);
    if (message->kind == DIP_MESSAGE_JOINED || message->kind == DIP_MESSAGE_LOST)
        dip__health_tell(daemon);
    dip__front_arm(daemon);
}

bool dip__front_has_workers(const struct dip_coordinator_daemon *d, uint32_t roles)
{
    uint32_t found = 0;
    for (int i = 0; i < d->roster.entry_count && (found & roles) != roles; i++) {
        const struct roster_entry *entry = &d->roster.entries[i];
        bool takes_work = entry->is_used && entry->is_joined &&
                          (entry->view.state == DIP_WORKER_STATE_READY ||
                           entry->view.state == DIP_WORKER_STATE_SUSPECT);
        if (takes_work)
            found |= entry->view.facts.roles;
    }
    return (found & roles) == roles;
}

const char *dip__front_leader(const struct dip_coordinator_daemon *d)
{
    return d->is_leading && !d->is_doubted ? d->address : d->leader;
}

bool dip__front_takes_requests(struct dip_coordinator_daemon *d, struct dip_error *ret_error)
{
    if (d->is_leading && !d->is_draining && !d->is_doubted)
        return true;
    if (!d->is_leading && d->leader[0]) {
        dip_error_set(ret_error, DIP_REASON_NOT_LEADER, "another coordinator leads: %s", d->leader);
        dip_error_fact(ret_error, "leader", "%s", d->leader);
    } else if (d->is_draining) {
        dip_error_set(ret_error, DIP_REASON_DRAINING, "this coordinator stops; ask another one");
    } else if (d->is_doubted) {
        dip_error_set(ret_error, DIP_REASON_NOT_LEADER,
                      "this coordinator reaches neither registry nor workers; ask another one");
    } else {
        dip_error_set(ret_error, DIP_REASON_NOT_LEADER, "no coordinator leads at the moment");
    }
    return false;
}

/* ---- leadership ---- */

/* Everything that runs ends with this error; what has ended stays to be fetched. */
static void abort_all(struct dip_coordinator_daemon *d, const struct dip_error *error)
{
    for (struct record *record; (record = d->book.first_run) != NULL;) {
        record->is_again = true;
        dip__record_abort(record, error);
        dip_assert(d->book.first_run != record); /* the core ends what it is told to */
    }
}

static void drain_wait_for_returns(struct dip_coordinator_daemon *d)
{
    int64_t until_ns = dip_clock_now_ns() + DRAIN_RETURN_NS;
    d->drain_round_ns = until_ns < d->drain_until_ns ? until_ns : d->drain_until_ns;
}

void dip_coordinator_daemon_lead(struct dip_coordinator_daemon *daemon, uint64_t epoch)
{
    struct dip_coordinator_daemon *d = daemon;
    bool leads_on = d->is_leading;
    d->is_leading = true;
    d->is_doubted = false;
    d->epoch = epoch;
    dip_core_set_epoch(d->core, epoch);
    d->leader[0] = '\0';
    struct dip_log_line line;
    dip_log_begin(&line, d->options.log, DIP_LOG_INFO, "leading");
    dip_log_int(&line, "epoch", (int64_t)epoch);
    dip_log_end(&line);
    if (!leads_on) { /* groups that stand go on under the epochs that they know */
        dip__groups_lead(d, epoch);
        if (d->options.expect_ns > 0)
            dip_core_expect_workers(d->core, dip_clock_now_ns() + d->options.expect_ns);
    }
    dip__hub_lead(d, epoch);
    dip__front_arm(d);
    dip__health_tell(d);
}

void dip_coordinator_daemon_follow(struct dip_coordinator_daemon *daemon, const char *leader)
{
    struct dip_coordinator_daemon *d = daemon;
    struct dip_error error;
    bool was_leading = d->is_leading;
    d->is_leading = d->is_doubted = false;
    snprintf(d->leader, sizeof d->leader, "%s", leader ? leader : "");
    struct dip_log_line line;
    dip_log_begin(&line, d->options.log, DIP_LOG_INFO, "following");
    dip_log_text(&line, "leader", d->leader);
    dip_log_end(&line);
    if (!was_leading)
        return;
    bool takes = dip__front_takes_requests(d, &error);
    dip_assert(!takes);
    if (d->is_draining && !d->is_stopping)
        drain_wait_for_returns(d);
    dip__scaler_end(d, "another coordinator leads");
    abort_all(d, &error);
    dip__hub_dismiss(d);
    for (int i = 0; i < d->roster.entry_count; i++) {
        struct dip_message lost = {.kind = DIP_MESSAGE_LOST, .from = (uint32_t)i};
        if (d->roster.entries[i].is_used)
            dip_core_feed(d->core, dip_clock_now_ns(), &lost);
    }
    dip__roster_clear(d);
    dip__roster_end(d);
    dip_groups_free(d->groups);
    d->groups = NULL;
    dip__front_arm(d);
    dip__health_tell(d);
}

void dip_coordinator_daemon_doubt(struct dip_coordinator_daemon *daemon, bool is_doubted)
{
    struct dip_coordinator_daemon *d = daemon;
    struct dip_error error;
    if (!d->is_leading || d->is_draining || d->is_doubted == is_doubted)
        return;
    d->is_doubted = is_doubted;
    dip_log_say(d->options.log, DIP_LOG_WARNING, "%s",
                is_doubted ? "no lease and no worker: requests are sent elsewhere until one is here"
                           : "takes requests again");
    if (is_doubted && !dip__front_takes_requests(d, &error))
        abort_all(d, &error);
    dip__front_arm(d);
    dip__health_tell(d);
}

void dip_coordinator_daemon_registry(struct dip_coordinator_daemon *daemon, int64_t revision,
                                     bool is_degraded, const char *why)
{
    daemon->registry_revision = revision;
    daemon->is_degraded = is_degraded;
    snprintf(daemon->degraded_why, sizeof daemon->degraded_why, "%s", why ? why : "");
}

bool dip_coordinator_daemon_drain_worker(struct dip_coordinator_daemon *daemon, const char *name,
                                         bool is_draining, int64_t grace_ns, const char *why)
{
    struct roster_entry *entry = dip__roster_find(&daemon->roster, name);
    if (!entry)
        return false;
    dip__roster_drain(daemon, entry, is_draining, grace_ns, why ? why : "");
    return true;
}

void dip_coordinator_daemon_on_drain(struct dip_coordinator_daemon *daemon,
                                     void (*on_drain)(void *context, const char *name,
                                                      bool is_draining, const char *why),
                                     void *context)
{
    daemon->on_drain = on_drain;
    daemon->on_drain_context = context;
}

/* ---- drain ---- */

static void on_server_stopped(void *daemon)
{
    struct dip_coordinator_daemon *d = daemon;
    d->is_stopped = true;
    dip_rpc_timer_clear(d->loop, &d->tick);
    dip_rpc_timer_clear(d->loop, &d->sweep);
    dip_rpc_timer_clear(d->loop, &d->drain);
    if (d->on_stopped)
        d->on_stopped(d->on_stopped_context); /* may free the daemon */
}

/* Fires when a drain has something to do: the last request has ended, or its time is up. */
static void on_drain_timer(void *daemon)
{
    struct dip_coordinator_daemon *d = daemon;
    int64_t now_ns = dip_clock_now_ns();
    struct dip_error error;
    if (d->is_stopping)
        return;
    if (!d->is_draining) {
        set_timer(d, &d->drain, INT64_MAX);
        return;
    }
    if (d->book.run_count + d->forward_count > 0 && now_ns < d->drain_until_ns) {
        set_timer(d, &d->drain, d->drain_until_ns);
        return;
    }
    if (now_ns < d->drain_round_ns) {
        set_timer(d, &d->drain, d->drain_round_ns);
        return;
    }
    dip_error_set(&error, DIP_REASON_DRAINING, "this coordinator has stopped; ask another one");
    abort_all(d, &error);
    d->is_stopping = true;
    dip__hub_dismiss(d);
    dip__health_end(d);
    dip__forward_close(d);
    dip__scaler_end(d, "the server stops");
    dip__roster_end(d);
    dip_rpc_server_stop(d->server, DRAIN_CALLS_NS, on_server_stopped, d);
}

void dip_coordinator_daemon_drain(struct dip_coordinator_daemon *daemon, int64_t grace_ns,
                                  void (*on_stopped)(void *context), void *context)
{
    struct dip_coordinator_daemon *d = daemon;
    int64_t now_ns = dip_clock_now_ns();
    if (!d->is_draining) {
        d->drain_until_ns = now_ns + grace_ns;
        d->drain_round_ns = now_ns + (grace_ns < DRAIN_ROUND_NS ? grace_ns : DRAIN_ROUND_NS);
        d->on_stopped = on_stopped;
        d->on_stopped_context = context;
    } else if (now_ns + grace_ns < d->drain_until_ns) {
        d->drain_until_ns = now_ns + grace_ns;
    }
    d->is_draining = true;
    dip__health_tell(d);
    set_timer(d, &d->drain, now_ns);
}

void dip__front_settle(struct dip_coordinator_daemon *d)
{
    /* Not here: this runs inside the core. */
    if (d->is_draining && !d->is_stopping && d->book.run_count + d->forward_count == 0)
        set_timer(d, &d->drain, dip_clock_now_ns());
}

/* ---- facts ---- */

int dip_coordinator_daemon_port(const struct dip_coordinator_daemon *daemon)
{
    return dip_rpc_server_port(daemon->server);
}

const char *dip_coordinator_daemon_address(const struct dip_coordinator_daemon *daemon)
{
    return daemon->address;
}

const struct dip_front_stats *
dip_coordinator_daemon_stats(const struct dip_coordinator_daemon *daemon)
{
    return &daemon->stats;
}

struct dip_scheduler_stats dip_coordinator_daemon_queue(const struct dip_coordinator_daemon *daemon)
{
    return dip_scheduler_stats(dip_core_scheduler(daemon->core));
}

bool dip_coordinator_daemon_is_leading(const struct dip_coordinator_daemon *daemon)
{
    return daemon->is_leading;
}

struct dip_coordinator_view dip_coordinator_daemon_view(const struct dip_coordinator_daemon *daemon)
{
    const struct dip_coordinator_daemon *d = daemon;
    return (struct dip_coordinator_view){.cluster_id = d->cluster_id,
                                         .name = d->name,
                                         .leader = dip__front_leader(d),
                                         .epoch = d->epoch,
                                         .is_leading = d->is_leading,
                                         .is_draining = d->is_draining,
                                         .is_degraded = d->is_degraded,
                                         .degraded_why = d->degraded_why};
}

const char *dip_coordinator_daemon_digest(const struct dip_coordinator_daemon *daemon)
{
    return daemon->digest;
}

uint64_t dip_coordinator_daemon_epoch(const struct dip_coordinator_daemon *daemon)
{
    return daemon->epoch;
}

struct dip_hub_stats dip_coordinator_daemon_links(const struct dip_coordinator_daemon *daemon)
{
    return daemon->hub ? dip_hub_stats(daemon->hub) : (struct dip_hub_stats){0};
}

uint64_t dip_coordinator_daemon_later_epoch(const struct dip_coordinator_daemon *daemon)
{
    return daemon->hub ? dip_hub_later_epoch(daemon->hub) : 0;
}

const char *dip_coordinator_daemon_successor(const struct dip_coordinator_daemon *daemon)
{
    return daemon->hub ? dip_hub_successor(daemon->hub) : "";
}

bool dip_coordinator_daemon_is_ready(const struct dip_coordinator_daemon *daemon)
{
    return daemon->is_leading && !daemon->is_draining &&
           dip__front_has_workers(daemon, DIP_ROLE_AR | DIP_ROLE_DIFFUSION);
}

bool dip_coordinator_daemon_is_serving(const struct dip_coordinator_daemon *daemon)
{
    return !daemon->is_draining && ((daemon->is_leading && !daemon->is_doubted) ||
                                    (daemon->options.is_forwarding && daemon->leader[0]));
}

bool dip_coordinator_daemon_quota(const struct dip_coordinator_daemon *daemon, int index,
                                  const char **ret_tenant, double *ret_used)
{
    struct caller caller = {.scopes = 0};
    const struct dip_tokens *tokens = daemon->options.tokens;
    const char *tenant = tokens       ? dip_tokens_tenant(tokens, index)
                         : index == 0 ? CALLER_TENANT_DEFAULT
                                      : NULL;
    int max = daemon->options.tenant_request_count_max;
    if (!tenant)
        return false;
    snprintf(caller.tenant, sizeof caller.tenant, "%s", tenant);
    int running = daemon->tenant_counts[dip__caller_share(&caller, "")];
    *ret_tenant = tenant;
    *ret_used = max > 0 ? (double)running / (double)max : 0;
    return true;
}

bool dip_coordinator_daemon_worker(const struct dip_coordinator_daemon *daemon, int *cursor,
                                   struct dip_worker_view *ret_worker)
{
    const struct roster *roster = &daemon->roster;
    while (*cursor < roster->entry_count && !roster->entries[*cursor].is_used)
        (*cursor)++;
    if (*cursor >= roster->entry_count)
        return false;
    *ret_worker = dip__roster_view(daemon, &roster->entries[(*cursor)++]);
    return true;
}

/* ---- start ---- */

/* A call of a client: the leader's, or for the service here. */
static void on_open(void *context, struct dip_rpc_call *call)
{
    const struct route *route = context;
    if (dip__forward_begin(route->daemon, call))
        return;
    dip_rpc_call_hand_over(call, route->handler, route->daemon);
    if (route->handler->on_open)
        route->handler->on_open(route->daemon, call);
}

/* What a stranger sends is not even read. */
static bool shows_credential(void *context, struct dip_rpc_call *call)
{
    const struct route *route = context;
    struct caller caller;
    struct dip_error error;
    if (dip__caller_read(route->daemon, call, DIP_SCOPE_ANY, &caller, &error))
        return true;
    dip__reply_error(route->daemon, route->method, call, &error);
    return false;
}

static void on_too_large(void *context, struct dip_rpc_call *call, size_t bytes)
{
    const struct route *route = context;
    struct dip_error error;
    dip_error_set(&error, DIP_REASON_MESSAGE_TOO_LARGE,
                  "the message is %zu bytes; at most %d are taken: shorten it", bytes,
                  REQUEST_BYTES_MAX);
    dip_error_fact(&error, "length", "%zu", bytes);
    dip_error_fact(&error, "limit", "%d", REQUEST_BYTES_MAX);
    dip__reply_error(route->daemon, route->method, call, &error);
}

void dip__probe_add(struct dip_coordinator_daemon *d, const char *path, enum dip_rpc_kind kind,
                    const struct dip_rpc_handler *handler)
{
    dip_assert(d->method_count < FRONT_METHODS_MAX);
    d->methods[d->method_count++] = (struct dip_rpc_method){
        .path = path,
        .kind = kind,
        .handler = handler,
        .context = d,
        .request_bytes_max = REQUEST_BYTES_MAX,
        .queue_count_max = kind == DIP_RPC_UNARY ? 1 : 32,
        .queue_bytes_max = (size_t)2 * IMAGE_CHUNK_BYTES + 4096,
        .stall_ns = kind == DIP_RPC_SERVER_STREAM ? d->options.stall_ns : 0};
}

void dip__service_add(struct dip_coordinator_daemon *d, enum dip_front_method method,
                      const char *path, enum dip_rpc_kind kind,
                      const struct dip_rpc_handler *handler)
{
    static const struct dip_rpc_handler routed = {.on_open = on_open};
    dip__probe_add(d, path, kind, &routed);
    struct route *route = &d->routes[d->method_count - 1];
    struct dip_rpc_method *row = &d->methods[d->method_count - 1];
    *route = (struct route){d, handler, method};
    row->context = route;
    row->refuse = on_too_large;
    if (strncmp(path, "/diptych.v1.", 12) == 0)
        row->may_begin = shows_credential;
}

static void set_defaults(struct dip_coordinator_daemon_options *o)
{
    const struct {
        int *value, fallback;
    } counts[] = {
        {&o->request_count_max, 1024},    {&o->image_count_max, 4096},
        {&o->member_count_max, 256},      {&o->attempt_count_max, 2},
        {&o->images_per_request_max, 16}, {&o->result_count_max, 16384},
    };
    const struct {
        int64_t *value, fallback;
    } times[] = {
        {&o->result_ns, 600 * DIP_SECOND_NS},
        {&o->deadline_ns, 600 * DIP_SECOND_NS},
        {&o->stall_ns, 60 * DIP_SECOND_NS},
        {&o->expect_ns, 3 * DIP_SECOND_NS},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (*counts[i].value == 0)
            *counts[i].value = counts[i].fallback;
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        if (*times[i].value == 0)
            *times[i].value = times[i].fallback;
    if (o->result_bytes_max == 0)
        o->result_bytes_max = (size_t)256 << 20;
    if (o->images_per_request_max > DIP_IMAGES_MAX)
        o->images_per_request_max = DIP_IMAGES_MAX;
}

/* The last part of a path, slashes at its end aside. */
static void put_last_part(const char *path, char *text, size_t bytes)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    snprintf(text, bytes, "%.*s", (int)(end - begin), path + begin);
}

static void copy_texts(struct dip_coordinator_daemon *d,
                       const struct dip_coordinator_daemon_options *o)
{
    snprintf(d->cluster_id, sizeof d->cluster_id, "%s", o->cluster_id ? o->cluster_id : "diptych");
    snprintf(d->name, sizeof d->name, "%s", o->name ? o->name : "coordinator");
    snprintf(d->model_revision, sizeof d->model_revision, "%s",
             o->model_revision ? o->model_revision : "");
    if (o->model_name)
        snprintf(d->model_name, sizeof d->model_name, "%s", o->model_name);
    else
        put_last_part(o->model_directory, d->model_name, sizeof d->model_name);
}

static enum dip_status load_model(struct dip_coordinator_daemon *d, struct dip_why *why)
{
    char path[DIP_PATH_BYTES_MAX];
    const char *directory = d->options.model_directory;
    DIP_TRY(dip_config_load(directory, why, &d->config));
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer.json", directory) >= sizeof path)
        return dip_fail(why, DIP_LIMIT, "the path of the model is too long");
    DIP_TRY(dip_tokenizer_open(path, why, &d->tokenizer));
    return dip_model_digest(directory, why, d->digest);
}

static enum dip_status start_core(struct dip_coordinator_daemon *d, struct dip_why *why)
{
    const struct dip_coordinator_daemon_options *o = &d->options;
    const struct dip_generation_config *generation = &d->config.generation;
    struct dip_core_options core = {
        .endpoint = d->options.endpoint,
        .checkpoint_every = o->checkpoint_every,
        .limits = {.request_count_max = o->request_count_max,
                   .image_count_max = o->image_count_max,
                   .member_count_max = o->member_count_max,
                   .token_count_max = generation->grid_height * generation->grid_width,
                   .attempt_count_max = o->attempt_count_max,
                   .tenant_count_max = FRONT_TENANTS,
                   .hold_ns = o->hold_ns}};
    enum dip_status status = dip_core_new(&core, &d->core);
    if (!status)
        status = dip__book_init(&d->book, o->request_count_max + o->result_count_max);
    if (!status)
        status = dip__roster_init(&d->roster, o->member_count_max);
    if (status)
        return dip_fail(why, status, "no memory for %d requests, %d images and %d workers",
                        o->request_count_max, o->image_count_max, o->member_count_max);
    return DIP_OK;
}

static enum dip_status start_server(struct dip_coordinator_daemon *d, struct dip_why *why)
{
    static const char *const services[] = {"diptych.v1.ImageService",
                                           "diptych.v1.ModelService",
                                           "diptych.v1.ClusterService",
                                           "grpc.health.v1.Health",
                                           "externalscaler.ExternalScaler",
                                           "grpc.reflection.v1.ServerReflection",
                                           "grpc.reflection.v1alpha.ServerReflection"};
    const struct dip_coordinator_daemon_options *o = &d->options;
    DIP_TRY(dip_rpc_listen_check(o->listen, o->tls, o->is_insecure, why));
    DIP_TRY(dip_reflection_new(services, sizeof services / sizeof services[0], &d->reflection));
    dip__service_image(d);
    dip__service_model(d);
    dip__service_cluster(d);
    dip__service_health(d);
    dip__service_scaler(d);
    dip__service_reflection(d);
    struct dip_rpc_server_options server = {.listen = o->listen,
                                            .tls = o->tls,
                                            .loops = &d->loop,
                                            .loop_count = 1,
                                            .methods = d->methods,
                                            .method_count = d->method_count,
                                            .message_bytes_max = (size_t)16 << 20,
                                            /* Never cut: streams of workers live on. */
                                            .age_ns = 1800 * DIP_SECOND_NS};
    DIP_TRY(dip_rpc_server_start(&server, why, &d->server));
    if (o->advertise)
        snprintf(d->address, sizeof d->address, "%s", o->advertise);
    else if (strchr(o->listen, ':') && dip_rpc_server_port(d->server) > 0)
        snprintf(d->address, sizeof d->address, "%.*s:%d",
                 (int)(strrchr(o->listen, ':') - o->listen), o->listen,
                 dip_rpc_server_port(d->server));
    else
        snprintf(d->address, sizeof d->address, "%s", o->listen);
    return DIP_OK;
}

enum dip_status dip_coordinator_daemon_start(const struct dip_coordinator_daemon_options *options,
                                             struct dip_why *why,
                                             struct dip_coordinator_daemon **ret_daemon)
{
    struct dip_coordinator_daemon *d = calloc(1, sizeof *d);
    if (!d)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the coordinator");
    d->options = *options;
    d->loop = options->loop;
    d->tick = (struct dip_rpc_timer){.fire = on_tick, .context = d};
    d->sweep = (struct dip_rpc_timer){.fire = on_sweep, .context = d};
    d->drain = (struct dip_rpc_timer){.fire = on_drain_timer, .context = d};
    set_defaults(&d->options);
    copy_texts(d, options);
    enum dip_status status = load_model(d, why);
    if (!status && !options->endpoint)
        status = dip__hub_open(d, why);
    if (!status)
        status = start_core(d, why);
    if (!status)
        status = start_server(d, why);
    if (status) {
        dip_coordinator_daemon_free(d);
        return dip_fail(why, status, "cannot start: %s", dip_status_text(status));
    }
    /* All of them from the start, due or not: requests' timers must not take their places. */
    set_timer(d, &d->sweep, dip_clock_now_ns() + DIP_SECOND_NS);
    set_timer(d, &d->tick, INT64_MAX);
    set_timer(d, &d->drain, INT64_MAX);
    if (options->epoch)
        dip_coordinator_daemon_lead(d, options->epoch);
    *ret_daemon = d;
    return DIP_OK;
}

void dip_coordinator_daemon_free(struct dip_coordinator_daemon *daemon)
{
    struct dip_coordinator_daemon *d = daemon;
    if (!d)
        return;
    dip_rpc_timer_clear(d->loop, &d->tick);
    dip_rpc_timer_clear(d->loop, &d->sweep);
    dip_rpc_timer_clear(d->loop, &d->drain);
    dip__forward_close(d);
    dip_rpc_server_free(d->server);
    dip__hub_close(d);
    dip_groups_free(d->groups);
    dip_core_free(d->core);
    dip__book_deinit(&d->book);
    dip__roster_deinit(&d->roster);
    dip_reflection_free(d->reflection);
    dip_tokenizer_close(d->tokenizer);
    free(d);
}
