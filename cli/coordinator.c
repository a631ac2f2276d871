/* cli/coordinator.c - `diptych coordinator`: the process that owns the queue.
 *
 * The main thread turns the loop itself, so that signals are looked at between turns. */
#include <string.h>

#include "base/clock.h"
#include "cli/daemon.h"
#include "cli/observe.h"
#include "cli/registry.h"
#include "cli/signals.h"
#include "cli/status_page.h"
#include "coordinator/daemon.h"
#include "net/accept.h"
#include "net/sockets.h"
#include "net/tokens.h"

#define TURN_NS  (INT64_C(50) * DIP_MS_NS)
#define PAGE_NS  (INT64_C(500) * DIP_MS_NS)
#define FILES_NS (10 * DIP_SECOND_NS) /* from one complaint to the next */
#define COUNT_NS (5 * DIP_SECOND_NS)  /* the kernel walks its whole table of connections */
#define LEAVE_NS (2 * DIP_SECOND_NS)  /* for the registry to take its keys back */

struct coordinator {
    const struct options *options;
    struct observed observed;
    struct dip_rpc_loop *loop;
    struct dip_rpc_tls *tls;
    struct dip_tokens *tokens;
    struct dip_coordinator_daemon *daemon;
    struct enrolled enrolled;
    char name[ENROLLED_NAME_BYTES];
    struct coordinator_facts facts;
    char model[DIP_PATH_BYTES_MAX];
    bool was_ready, was_leading, is_draining, is_stopped;
    uint64_t degrees;   /* that the model can be cut into, a bit each */
    int64_t page_ns;    /* of the last one */
    uint64_t hung_up;   /* callers, as last told, */
    int64_t hung_up_ns; /* and when */
    int64_t count_ns;   /* of connections, the last time */
    struct dip_page *status_html, *status_json;
};

static struct dip_coordinator_daemon_options daemon_options(const struct coordinator *c)
{
    const struct options *o = c->options;
    return (struct dip_coordinator_daemon_options){
        .loop = c->loop,
        .model_directory = c->model,
        .listen = o->listen ? o->listen : LISTEN_DEFAULT,
        .tls = c->tls,
        .is_insecure = o->insecure,
        .is_forwarding = o->etcd != NULL,
        .tls_name = o->tls_name,
        .cluster_id = o->cluster,
        .name = o->name || o->etcd ? c->name : NULL,
        .advertise = o->advertise,
        /* Without a registry this process leads. Its epoch grows from one start to the next. */
        .epoch = o->etcd ? 0 : (uint64_t)(dip_clock_unix_ns() / DIP_MS_NS),
        .log = c->observed.log,
        .tokens = c->tokens,
        .tensor_parallel = (int)o->ar_tp,
        .group_count = (int)o->ar_groups,
        .legal_group_degrees = c->degrees,
        .tenant_request_count_max = (int)o->tenant_max,
        .request_count_max = (int)o->queue_max,
        .image_count_max = (int)o->images_max,
        .member_count_max = (int)o->members_max,
        .attempt_count_max = (int)o->attempts,
        .images_per_request_max = (int)o->request_images_max,
        .result_bytes_max = (size_t)o->result_mib << 20,
        .result_ns = o->result_time * DIP_SECOND_NS,
        .deadline_ns = o->deadline * DIP_SECOND_NS,
        .hold_ns = o->hold * DIP_SECOND_NS,
        .stall_ns = o->stall_time * DIP_SECOND_NS,
        .heartbeat_ns = o->heartbeat * DIP_MS_NS,
        .silence_ns = o->silence * DIP_MS_NS,
        .stuck_ns = o->stuck_time * DIP_SECOND_NS,
        .checkpoint_every = (int)o->checkpoint_every,
    };
}

static enum dip_status open_status(struct coordinator *c)
{
    struct observed *observed = &c->observed;
    DIP_TRY(dip_page_new(&c->status_html));
    DIP_TRY(dip_page_new(&c->status_json));
    observed->pages[observed->page_count++] =
        (struct dip_http_page){.path = "/status",
                               .type = "text/html; charset=utf-8",
                               .headers = STATUS_PAGE_HEADERS,
                               .page = c->status_html};
    observed->pages[observed->page_count++] = (struct dip_http_page){
        .path = "/status.json", .type = "application/json", .page = c->status_json};
    return DIP_OK;
}

static enum dip_status start(struct coordinator *c, struct dip_why *why)
{
    const struct options *o = c->options;
    DIP_TRY(dip__model_directory(o, why, c->model, sizeof c->model));
    DIP_TRY(dip__daemon_degrees(c->model, (int)o->ar_tp, why, &c->degrees));
    DIP_TRY(dip__daemon_tls(o, why, &c->tls));
    (void)dip__daemon_files();
    if (o->tokens)
        DIP_TRY(dip_tokens_open(o->tokens, why, &c->tokens));
    DIP_TRY(open_status(c));
    DIP_TRY(dip__observe_open(o, "coordinator", o->name, dip__coordinator_rows,
                              dip__coordinator_row_count, why, &c->observed));
    if (dip_rpc_loop_new(&(struct dip_rpc_loop_options){.call_count_max = 1 << 16}, &c->loop))
        return dip_fail(why, DIP_NO_MEMORY, "no memory for a coordinator");
    struct dip_coordinator_daemon_options options = daemon_options(c);
    DIP_TRY(dip_coordinator_daemon_start(&options, why, &c->daemon));
    const char *name = strrchr(c->model, '/');
    c->facts.model = name ? name + 1 : c->model;
    c->facts.options = o;
    c->facts.enrolled = &c->enrolled;
    return dip__enrol_coordinator(o, c->name, c->loop, c->daemon, c->observed.log, why,
                                  &c->enrolled);
}

static void on_stopped(void *context)
{
    struct coordinator *c = context;
    c->is_stopped = true;
}

static void count_connections(struct coordinator *c, int64_t now_ns)
{
    const int ports[LISTENERS] = {[LISTENER_GRPC] = dip_coordinator_daemon_port(c->daemon),
                                  [LISTENER_HTTP] = dip_http_port(c->observed.http)};
    for (int i = 0; i < LISTENERS; i++)
        if (dip_sockets_count(ports[i], &c->facts.connections[i]))
            c->facts.connections[i] = -1;
    c->count_ns = now_ns;
}

/* Whoever called meanwhile was hung up on, and is told nothing else. */
static void look_at_files(struct coordinator *c, int64_t now_ns)
{
    uint64_t hung_up = dip_accept_hung_up();
    if (hung_up == c->hung_up || now_ns - c->hung_up_ns < FILES_NS)
        return;
    dip_log_say(c->observed.log, DIP_LOG_ERROR,
                "no file descriptor is left for connections: %llu callers were hung up on; raise "
                "the limit of open files (%lld), or run more coordinators",
                (unsigned long long)(hung_up - c->hung_up), (long long)dip__daemon_files());
    c->hung_up = hung_up;
    c->hung_up_ns = now_ns;
}

static void look_around(struct coordinator *c)
{
    int64_t now_ns = dip_clock_now_ns();
    bool is_ready = dip_coordinator_daemon_is_ready(c->daemon);
    bool is_leading = dip_coordinator_daemon_is_leading(c->daemon);
    dip__enrolled_look(&c->enrolled, 0);
    look_at_files(c, now_ns);
    dip__observe_beat(&c->observed, dip_coordinator_daemon_is_serving(c->daemon), false);
    c->facts.leader_changes += is_leading != c->was_leading;
    c->was_leading = is_leading;
    if (is_ready != c->was_ready) {
        dip__fact("coordinator", is_ready ? FACT_READY : FACT_WAITING, "");
        c->was_ready = is_ready;
    }
    if (now_ns - c->page_ns >= PAGE_NS) {
        c->page_ns = now_ns;
        if (c->observed.http && now_ns - c->count_ns >= COUNT_NS)
            count_connections(c, now_ns);
        dip__coordinator_page(&c->observed, c->daemon, &c->facts);
        dip__status_pages(c->daemon, c->status_html, c->status_json);
    }
    if (dip__signals_came() && !c->is_draining) {
        c->is_draining = true;
        dip_log_say(c->observed.log, DIP_LOG_INFO, "draining");
        dip_coordinator_daemon_drain(c->daemon, c->options->grace * DIP_SECOND_NS, on_stopped, c);
    }
    if (c->is_draining)
        dip__enrolled_hand_over(&c->enrolled);
}

/* A start that fails late has begun to listen, and what listens ends in order only. */
static void abandon(struct coordinator *c)
{
    if (!c->daemon)
        return;
    dip_coordinator_daemon_drain(c->daemon, 0, on_stopped, c);
    while (!c->is_stopped)
        dip_rpc_loop_turn(c->loop, TURN_NS);
}

static void stop(struct coordinator *c)
{
    dip__enrolled_leave(&c->enrolled, LEAVE_NS);
    dip_coordinator_daemon_free(c->daemon);
    if (c->loop) {
        dip_rpc_loop_stop(c->loop);
        dip_rpc_loop_run(c->loop); /* until nothing is left on it */
        dip_rpc_loop_free(c->loop);
    }
    dip_rpc_tls_close(c->tls);
    dip_tokens_close(c->tokens);
    dip__observe_close(&c->observed);
    dip_page_free(c->status_html);
    dip_page_free(c->status_json);
}

enum exit_code dip__coordinator(const struct arguments *arguments)
{
    struct coordinator c = {.options = &arguments->options};
    struct dip_why why = {0};
    dip__signals_serve();
    dip__enrolled_name(c.options, c.name);
    enum dip_status status = start(&c, &why);
    if (status) {
        abandon(&c);
        stop(&c);
        return dip__fail(status, &why);
    }
    dip__fact("coordinator", FACT_LISTENING, dip_coordinator_daemon_address(c.daemon));
    if (c.observed.http) {
        char port[16];
        snprintf(port, sizeof port, "%d", dip_http_port(c.observed.http));
        dip__fact("coordinator", FACT_METRICS, port);
    }
    dip_log_say(c.observed.log, DIP_LOG_INFO, "started");
    while (!c.is_stopped) {
        look_around(&c);
        dip_rpc_loop_turn(c.loop, TURN_NS);
    }
    dip_log_say(c.observed.log, DIP_LOG_INFO, "stopped");
    stop(&c);
    return EXIT_DONE;
}
