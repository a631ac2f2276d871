/* cli/worker.c - `diptych worker`: the process that owns a device. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/daemon.h"
#include "cli/device.h"
#include "cli/observe.h"
#include "cli/registry.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "cluster/cluster.h"
#include "worker/daemon.h"

#define LOOK_NS       (INT64_C(50) * DIP_MS_NS)
#define PAGE_NS       (INT64_C(500) * DIP_MS_NS)
#define LEAVE_NS      (2 * DIP_SECOND_NS)  /* for the registry to take its keys back */
#define GRACE_MORE_NS (10 * DIP_SECOND_NS) /* for what is handed back to be taken */

enum row {
    CONNECTED,
    STEPS,
    STEP_SECONDS,
    BATCH_SIZE,
    CANCEL_TO_STOP,
    BATCH_STEP,
    BATCH_ROOM,
    PROGRESS,
    AR_BUSY,
    HINGES,
    DIFFUSION_BUSY,
    DEVICE,
    FENCED,
    REGISTRY,
    CERTIFICATE = REGISTRY + REGISTRY_METRICS,
    PROCESS
};

static const struct dip_metric_row rows[] = {
    [CONNECTED] = {"diptych_worker_connected",
                   DIP_METRIC_GAUGE,
                   "1 while the coordinator has taken it in.",
                   {NULL}},
    [STEPS] = {"diptych_worker_steps_total",
               DIP_METRIC_COUNTER,
               "AR and sampler steps since the start.",
               {NULL}},
    [STEP_SECONDS] = {"diptych_worker_step_seconds",
                      DIP_METRIC_HISTOGRAM,
                      "How long steps took.",
                      {"role"}},
    [BATCH_SIZE] = {"diptych_batch_size", DIP_METRIC_HISTOGRAM, "Images in a step.", {"role"}},
    [CANCEL_TO_STOP] = {"diptych_cancel_to_stop_seconds",
                        DIP_METRIC_HISTOGRAM,
                        "From being told that nobody wants a job until its slot was free.",
                        {"phase"}},
    [BATCH_STEP] = {"diptych_batch_step_seconds",
                    DIP_METRIC_GAUGE,
                    "Mean of a sampler step of so many images, of the kind stepped last; 0 = not "
                    "measured.",
                    {"images"}},
    [BATCH_ROOM] = {"diptych_batch_room",
                    DIP_METRIC_GAUGE,
                    "Images at a time that are worth it by that; 0 = not known.",
                    {NULL}},
    [PROGRESS] = {"diptych_worker_last_progress_timestamp_seconds",
                  DIP_METRIC_GAUGE,
                  "When they last grew, in seconds since 1970; 0 = never.",
                  {NULL}},
    [AR_BUSY] = {"diptych_worker_ar_busy", DIP_METRIC_GAUGE, "Images being drawn.", {NULL}},
    [HINGES] = {"diptych_worker_hinges", DIP_METRIC_GAUGE, "Hinges drawn or kept.", {NULL}},
    [DIFFUSION_BUSY] = {"diptych_worker_diffusion_busy",
                        DIP_METRIC_GAUGE,
                        "Images being diffused.",
                        {NULL}},
    [DEVICE] = {"diptych_worker_info",
                DIP_METRIC_GAUGE,
                "1, with what computes.",
                {"backend", "device"}},
    [FENCED] =
        {"diptych_fenced_messages_total",
         DIP_METRIC_COUNTER,
         "Messages refused because a later leader, or a later start of their sender, is known.",
         {"kind"}},
    REGISTRY_METRIC_ROWS(REGISTRY),
    [CERTIFICATE] = CERTIFICATE_METRIC_ROW,
    PROCESS_METRIC_ROWS(PROCESS),
};

struct worker {
    const struct options *options;
    struct observed observed;
    struct dip_rpc_tls *tls;
    struct dip_worker_daemon *daemon;
    struct enrolled enrolled;
    char model[DIP_PATH_BYTES_MAX];
    const char *name;
    bool was_connected, is_draining;
    uint64_t steps;               /* as last looked at, */
    int64_t progress_ns, page_ns; /* and when they grew; of the last page */
    int64_t give_up_ns;           /* while draining */
};

static void on_log(void *context, const char *text)
{
    struct worker *w = context;
    dip_log_say(w->observed.log, DIP_LOG_INFO, "%s", text);
}

static uint32_t roles_of(const struct options *o)
{
    return o->role == ROLE_AR          ? (uint32_t)DIP_ROLE_AR
           : o->role == ROLE_DIFFUSION ? (uint32_t)DIP_ROLE_DIFFUSION
                                       : (uint32_t)DIP_ROLE_AR | DIP_ROLE_DIFFUSION;
}

static enum dip_status start(struct worker *w, struct dip_why *why)
{
    const struct options *o = w->options;
    DIP_TRY(dip__model_directory(o, why, w->model, sizeof w->model));
    DIP_TRY(dip__daemon_tls(o, why, &w->tls));
    (void)dip__daemon_files();
    DIP_TRY(dip__observe_open(o, "worker", o->name, rows, PROCESS + PROCESS_METRICS, why,
                              &w->observed));
    struct dip_worker_daemon_options options = {
        .model = w->model,
        .device = dip__device_options(o),
        .roles = roles_of(o),
        .name = o->name,
        .host_id = o->host_id,
        .cluster_id = o->cluster,
        .listen = o->listen,
        .advertise = o->advertise,
        .is_insecure = o->insecure,
        .token = o->token,
        .coordinator = o->server ? o->server
                       : o->etcd ? NULL
                                 : REMOTE_SERVER_DEFAULT,
        .tls = w->tls,
        .tls_name = o->tls_name,
        .ar_group = o->ar_rank,
        .group_address = o->group_address,
        .ar_slots = (int)o->ar_slots,
        .diffusion_slots = (int)o->diffusion_slots,
        .hold_ns = o->keep_time * DIP_SECOND_NS,
        .job_log = w->observed.log,
        .log = on_log,
        .log_context = w,
    };
    DIP_TRY(dip_worker_daemon_start(&options, why, &w->daemon));
    return dip__enrol_worker(o, w->daemon, w->observed.log, why, &w->enrolled);
}

/* What decides how many images a step of the sampler is made of. */
static void put_batches(struct dip_metrics *m, const struct dip_member_load *load)
{
    for (int i = 0; i < DIP_BATCH_MAX; i++) {
        char images[16];
        snprintf(images, sizeof images, "%d", i + 1);
        dip_metrics_value(m, BATCH_STEP, (const char *const[]){images},
                          (double)dip_counter_get(&load->batch_step_ns[i]) / 1e9);
    }
    dip_metrics_value(m, BATCH_ROOM, NULL, (double)dip_counter_get(&load->batch_room));
}

static void put_page(struct worker *w, const struct dip_worker_daemon_stats *stats)
{
    struct dip_metrics *m = w->observed.metrics;
    const char *labels[] = {stats->backend, stats->device_class};
    int64_t age_ns = dip_clock_now_ns() - w->progress_ns;
    dip_metrics_begin(m);
    dip_metrics_value(m, CONNECTED, NULL, stats->is_connected);
    dip_metrics_value(m, STEPS, NULL, (double)stats->steps_total);
    dip__observe_times(&w->observed, STEP_SECONDS, "ar", &stats->load->ar_steps);
    dip__observe_times(&w->observed, STEP_SECONDS, "diffusion", &stats->load->diffusion_steps);
    dip__observe_sizes(&w->observed, BATCH_SIZE, "ar", &stats->load->ar_batches);
    dip__observe_sizes(&w->observed, BATCH_SIZE, "diffusion", &stats->load->diffusion_batches);
    dip__observe_times(&w->observed, CANCEL_TO_STOP, "ar", &stats->load->ar_stops);
    dip__observe_times(&w->observed, CANCEL_TO_STOP, "diffusion", &stats->load->diffusion_stops);
    put_batches(m, stats->load);
    dip_metrics_value(m, PROGRESS, NULL,
                      stats->steps_total ? (double)(dip_clock_unix_ns() - age_ns) / 1e9 : 0);
    dip_metrics_value(m, AR_BUSY, NULL, stats->ar_busy);
    dip_metrics_value(m, HINGES, NULL, stats->hinges_held);
    dip_metrics_value(m, DIFFUSION_BUSY, NULL, stats->diffusion_busy);
    dip_metrics_value(m, DEVICE, labels, 1);
    dip_metrics_value(m, FENCED, (const char *const[]){"epoch"}, (double)stats->fenced);
    /* Only a leader meets earlier starts of others. */
    dip_metrics_value(m, FENCED, (const char *const[]){"incarnation"}, 0);
    dip__enrolled_metrics(&w->enrolled, &w->observed, REGISTRY);
    dip__observe_certificates(&w->observed, w->options, CERTIFICATE);
    dip__observe_process(&w->observed, PROCESS);
    if (dip_metrics_publish(m))
        dip_log_say(w->observed.log, DIP_LOG_WARNING, "no memory for the metrics page");
}

static void look_around(struct worker *w)
{
    struct dip_worker_daemon_stats stats = dip_worker_daemon_stats(w->daemon);
    int64_t now_ns = dip_clock_now_ns();
    bool is_busy = stats.ar_busy > 0 || stats.diffusion_busy > 0;
    if (stats.steps_total != w->steps || !is_busy) {
        w->steps = stats.steps_total;
        w->progress_ns = now_ns;
    }
    bool is_stuck = now_ns - w->progress_ns > w->options->stuck_time * DIP_SECOND_NS;
    dip__observe_beat(&w->observed, stats.is_connected && !w->is_draining, is_stuck);
    if (stats.is_connected != w->was_connected) {
        dip__fact("worker", stats.is_connected ? FACT_READY : FACT_WAITING, "");
        w->was_connected = stats.is_connected;
    }
    if (now_ns - w->page_ns >= PAGE_NS) {
        w->page_ns = now_ns;
        put_page(w, &stats);
    }
    if (dip__signals_came() && !w->is_draining) {
        int64_t grace_ns = w->options->grace * DIP_SECOND_NS;
        w->is_draining = true;
        w->give_up_ns = now_ns + grace_ns + GRACE_MORE_NS;
        dip_log_say(w->observed.log, DIP_LOG_INFO, "draining");
        dip_worker_daemon_drain(w->daemon, grace_ns);
    }
}

static enum exit_code serve(struct worker *w)
{
    for (;;) {
        look_around(w);
        switch (dip_worker_daemon_wait(w->daemon, 0)) {
        case DIP_WORKER_DRAINED:
            return EXIT_DONE;
        case DIP_WORKER_FAILED:
            dip_log_say(w->observed.log, DIP_LOG_ERROR, "the device has failed");
            return EXIT_FAILED;
        case DIP_WORKER_RUNS:
            break;
        }
        if (w->is_draining && dip_clock_now_ns() > w->give_up_ns) {
            dip_log_say(w->observed.log, DIP_LOG_WARNING, "left with work that was not finished");
            return EXIT_FAILED;
        }
        dip__enrolled_look(&w->enrolled, LOOK_NS);
    }
}

enum exit_code dip__worker(const struct arguments *arguments)
{
    struct worker w = {.options = &arguments->options};
    struct dip_why why = {0};
    if (w.options->ranks > 1)
        return dip__ranks(arguments);
    dip__signals_serve();
    enum dip_status status = start(&w, &why);
    enum exit_code code = status ? dip__fail(status, &why) : EXIT_DONE;
    if (!status) {
        char port[16];
        snprintf(port, sizeof port, "port %d", dip_worker_daemon_stats(w.daemon).port);
        dip__fact("worker", FACT_LISTENING, port);
        if (w.observed.http) {
            snprintf(port, sizeof port, "%d", dip_http_port(w.observed.http));
            dip__fact("worker", FACT_METRICS, port);
        }
        code = serve(&w);
    }
    dip__enrolled_leave(&w.enrolled, LEAVE_NS);
    dip_worker_daemon_stop(w.daemon);
    dip_rpc_tls_close(w.tls);
    dip__observe_close(&w.observed);
    return code;
}
