/* cli/coordinator_metrics.c - the coordinator's metrics page, from what its modules count. */
#include "base/clock.h"
#include "cli/daemon.h"
#include "cli/observe.h"
#include "cli/registry.h"
#include "coordinator/daemon.h"
#include "net/rpc_call.h"

enum row {
    REQUESTS,
    REQUEST_DURATION,
    PHASE_DURATION,
    FIRST_EVENT,
    FIRST_PREVIEW,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    HELD,
    POOL_WORKERS,
    SCALE_WANTED,
    SCALE_CURRENT,
    REJECTED,
    AUTH_FAILURES,
    ADMITTED,
    SUCCEEDED,
    FAILED,
    QUOTA_USED,
    DEADLINE_EXCEEDED,
    CANCELLED,
    INFLIGHT,
    SLOTS,
    SLOTS_BUSY,
    WORKER_STATE,
    WORKER_STEPS,
    WORKER_PROGRESS,
    WORKER_STEP_MEAN,
    WORKER_BATCH_ROOM,
    AR_TOKENS,
    DIFFUSION_STEPS,
    SHARED_STEPS,
    IMAGES,
    PIXELS,
    REPLAYS,
    ADOPTED,
    POISONED,
    IS_LEADER,
    EPOCH,
    LEADER_CHANGES,
    FENCED,
    WATCHDOG,
    REBUILD,
    REGISTRY,
    CERTIFICATE = REGISTRY + REGISTRY_METRICS,
    FORWARDED,
    STALLED,
    PREVIEWS_DROPPED,
    BUFFERED,
    RESULTS,
    STREAMS,
    CONNECTIONS,
    MODEL_INFO,
    PROCESS,
    ROWS = PROCESS + PROCESS_METRICS,
};

#define COUNTER   DIP_METRIC_COUNTER
#define GAUGE     DIP_METRIC_GAUGE
#define HISTOGRAM DIP_METRIC_HISTOGRAM

const struct dip_metric_row dip__coordinator_rows[] = {
    [REQUESTS] = {"diptych_requests_total",
                  COUNTER,
                  "Calls by how they ended.",
                  {"method", "code", "reason"}},
    [REQUEST_DURATION] = {"diptych_request_duration_seconds",
                          HISTOGRAM,
                          "Generate, from its message to its end, successes only.",
                          {"method"}},
    [PHASE_DURATION] = {"diptych_phase_duration_seconds",
                        HISTOGRAM,
                        "Where the time of images went.",
                        {"phase"}},
    [FIRST_EVENT] = {"diptych_time_to_first_event_seconds",
                     HISTOGRAM,
                     "Generate, from its message to Admitted.",
                     {NULL}},
    [FIRST_PREVIEW] = {"diptych_time_to_first_preview_seconds",
                       HISTOGRAM,
                       "Generate, from its message to the first preview.",
                       {NULL}},
    [QUEUE_DEPTH] = {"diptych_queue_depth", GAUGE, "Images that wait for a slot.", {"pool"}},
    [QUEUE_OLDEST] = {"diptych_queue_oldest_seconds",
                      GAUGE,
                      "Wait of the oldest request not begun, of the oldest image not diffused.",
                      {"pool"}},
    [HELD] = {"diptych_held_requests",
              GAUGE,
              "Requests that wait because a panel has no worker.",
              {NULL}},
    [POOL_WORKERS] = {"diptych_pool_workers",
                      GAUGE,
                      "Workers of a pool; of the AR pool groups.",
                      {"pool", "state"}},
    [SCALE_WANTED] = {"diptych_scale_wanted",
                      GAUGE,
                      "Workers that would hold all that waits and runs.",
                      {"pool"}},
    [SCALE_CURRENT] = {"diptych_scale_current", GAUGE, "Workers that take work.", {"pool"}},
    [REJECTED] = {"diptych_admission_rejected_total",
                  COUNTER,
                  "Requests that were not admitted.",
                  {"reason"}},
    [AUTH_FAILURES] = {"diptych_auth_failures_total",
                       COUNTER,
                       "Calls without a good credential, or one that may not do this.",
                       {"reason"}},
    [ADMITTED] = {"diptych_admitted_total", COUNTER, "Requests that were admitted.", {NULL}},
    [SUCCEEDED] = {"diptych_succeeded_total", COUNTER, "Requests that were completed.", {NULL}},
    [FAILED] = {"diptych_failed_total",
                COUNTER,
                "Requests that were admitted and then failed.",
                {"reason"}},
    [QUOTA_USED] = {"diptych_quota_used_ratio",
                    GAUGE,
                    "Requests that a tenant has running, of those it may; 0 without a quota.",
                    {"tenant"}},
    [DEADLINE_EXCEEDED] = {"diptych_deadline_exceeded_total",
                           COUNTER,
                           "Requests that ended because their time was over.",
                           {"reason"}},
    [CANCELLED] = {"diptych_cancelled_total", COUNTER, "Requests nobody wanted any more.", {NULL}},
    [INFLIGHT] = {"diptych_inflight", GAUGE, "Images in slots.", {"role"}},
    [SLOTS] = {"diptych_slots", GAUGE, "Images that a worker can hold.", {"role", "worker"}},
    [SLOTS_BUSY] = {"diptych_slots_busy", GAUGE, "Images that it holds.", {"role", "worker"}},
    [WORKER_STATE] = {"diptych_worker_state",
                      GAUGE,
                      "1 for the state that a worker is in.",
                      {"role", "worker", "state"}},
    [WORKER_STEPS] = {"diptych_worker_steps_total",
                      COUNTER,
                      "AR and sampler steps since it started.",
                      {"role", "worker"}},
    [WORKER_PROGRESS] = {"diptych_worker_last_progress_timestamp_seconds",
                         GAUGE,
                         "When its steps last grew, in seconds since 1970; 0 = never.",
                         {"role", "worker"}},
    [WORKER_STEP_MEAN] = {"diptych_worker_step_mean_seconds",
                          GAUGE,
                          "Of one token or one sampler step of one image; 0 = not measured.",
                          {"role", "worker"}},
    [WORKER_BATCH_ROOM] = {"diptych_worker_batch_room",
                           GAUGE,
                           "Images that it is given to sample at a time, by what its steps cost; 0 "
                           "= all its slots.",
                           {"worker"}},
    [AR_TOKENS] = {"diptych_ar_tokens_total", COUNTER, "Image tokens drawn.", {"model"}},
    [DIFFUSION_STEPS] = {"diptych_diffusion_steps_total", COUNTER, "Sampler steps.", {"model"}},
    [SHARED_STEPS] = {"diptych_diffusion_shared_steps_total",
                      COUNTER,
                      "Those of images that were not alone in them.",
                      {NULL}},
    [IMAGES] = {"diptych_images_total", COUNTER, "Images delivered.", {"model"}},
    [PIXELS] = {"diptych_pixels_total", COUNTER, "Their pixels.", {"model"}},
    [REPLAYS] = {"diptych_replays_total",
                 COUNTER,
                 "Images that began again elsewhere.",
                 {"reason"}},
    [ADOPTED] = {"diptych_adopted_total",
                 COUNTER,
                 "Parts of images taken over that workers held from a coordinator before.",
                 {"stage"}},
    [POISONED] = {"diptych_poisoned_total",
                  COUNTER,
                  "Requests given up because they took workers down.",
                  {NULL}},
    [IS_LEADER] = {"diptych_coordinator_is_leader", GAUGE, "1 while this one leads.", {NULL}},
    [EPOCH] = {"diptych_epoch", GAUGE, "Under which it leads; 0 = does not.", {NULL}},
    [LEADER_CHANGES] = {"diptych_leader_changes_total",
                        COUNTER,
                        "Times that this one began or ceased to lead.",
                        {NULL}},
    [FENCED] =
        {"diptych_fenced_messages_total",
         COUNTER,
         "Messages refused because a later leader, or a later start of their sender, is known.",
         {"kind"}},
    [WATCHDOG] = {"diptych_watchdog_fired_total",
                  COUNTER,
                  "Workers given up because nothing was heard of them, or they made no step.",
                  {"reason"}},
    [REBUILD] = {"diptych_comm_rebuild_seconds",
                 HISTOGRAM,
                 "From the loss of a tensor-parallel group until it stands again.",
                 {NULL}},
    REGISTRY_METRIC_ROWS(REGISTRY),
    [CERTIFICATE] = CERTIFICATE_METRIC_ROW,
    [FORWARDED] = {"diptych_forwarded_calls_total",
                   COUNTER,
                   "Calls that went on to the leader.",
                   {NULL}},
    [STALLED] = {"diptych_stream_stalled_total",
                 COUNTER,
                 "Streams cut because their reader took nothing.",
                 {NULL}},
    [PREVIEWS_DROPPED] = {"diptych_previews_dropped_total",
                          COUNTER,
                          "Previews replaced by newer ones while the reader was slow.",
                          {NULL}},
    [BUFFERED] = {"diptych_bytes_buffered", GAUGE, "Held for readers and for Watch.", {NULL}},
    [RESULTS] = {"diptych_results", GAUGE, "Ended requests that can still be fetched.", {NULL}},
    [STREAMS] = {"diptych_streams", GAUGE, "Generate and Watch streams.", {NULL}},
    [CONNECTIONS] = {"diptych_connections",
                     GAUGE,
                     "TCP connections of its ports, as the kernel counts them every few seconds.",
                     {"listener"}},
    [MODEL_INFO] = {"diptych_model_info", GAUGE, "1, with what is served.", {"model", "digest"}},
    PROCESS_METRIC_ROWS(PROCESS),
};
const int dip__coordinator_row_count = ROWS;

/* ---- the front door ---- */

static const char *method_name(int method)
{
    static const char *const names[] = {
#define METHOD_NAME(name, text) text,
        DIP_FRONT_METHOD_LIST(METHOD_NAME)
#undef METHOD_NAME
    };
    return names[method];
}

static void put_histogram(struct dip_metrics *m, int row, const char *label,
                          const struct dip_histogram *h)
{
    double bounds[DIP_BUCKET_COUNT];
    for (int i = 0; i < DIP_BUCKET_COUNT; i++)
        bounds[i] = dip_bucket_bound(i);
    dip_metrics_histogram(m, row, &label, bounds, h->counts, DIP_BUCKET_COUNT, h->sum_s);
}

static void put_calls(struct dip_metrics *m, const struct dip_front_stats *stats)
{
    for (int i = 0; i < DIP_FRONT_METHOD_COUNT; i++) {
        dip_metrics_value(m, REQUESTS, (const char *const[]){method_name(i), "OK", "OK"},
                          (double)stats->calls_ok[i]);
        for (int r = 0; r < DIP_REASON_COUNT; r++) {
            enum dip_reason reason = (enum dip_reason)r;
            const char *labels[] = {method_name(i), dip_rpc_code_name(dip_reason_code(reason)),
                                    dip_reason_name(reason)};
            dip_metrics_value(m, REQUESTS, labels, (double)stats->calls_failed[i][r]);
        }
    }
}

static void put_by_reason(struct dip_metrics *m, int row, const uint64_t counts[DIP_REASON_COUNT])
{
    for (int r = 0; r < DIP_REASON_COUNT; r++) {
        const char *reason = dip_reason_name((enum dip_reason)r);
        dip_metrics_value(m, row, &reason, (double)counts[r]);
    }
}

static void put_reason(struct dip_metrics *m, int row, enum dip_reason reason, uint64_t count)
{
    const char *name = dip_reason_name(reason);
    dip_metrics_value(m, row, &name, (double)count);
}

static void put_auth_failures(struct dip_metrics *m, const struct dip_front_stats *stats)
{
    static const enum dip_reason reasons[] = {DIP_REASON_NO_CREDENTIAL, DIP_REASON_BAD_CREDENTIAL,
                                              DIP_REASON_ROLE_REQUIRED};
    for (size_t r = 0; r < sizeof reasons / sizeof reasons[0]; r++) {
        uint64_t count = 0;
        for (int i = 0; i < DIP_FRONT_METHOD_COUNT; i++)
            count += stats->calls_failed[i][reasons[r]];
        put_reason(m, AUTH_FAILURES, reasons[r], count);
    }
}

static void put_pool(struct dip_metrics *m, int row, const char *name,
                     const struct dip_pool_view *pool)
{
    switch (row) {
    case QUEUE_OLDEST:
        dip_metrics_value(m, row, &name, (double)pool->oldest_wait_ns / (double)DIP_SECOND_NS);
        break;
    case POOL_WORKERS:
        dip_metrics_value(m, row, (const char *const[]){name, "ready"}, pool->ready);
        dip_metrics_value(m, row, (const char *const[]){name, "draining"}, pool->draining);
        break;
    case SCALE_WANTED:
        dip_metrics_value(m, row, &name, pool->wanted);
        break;
    default:
        dip_metrics_value(m, row, &name, pool->ready);
        break;
    }
}

/* One family after the other, as the format wants it. */
static void put_pools(struct dip_metrics *m, const struct dip_coordinator_daemon *daemon,
                      const struct dip_scheduler_stats *queue)
{
    struct dip_pool_view pools[DIP_POOL_COUNT];
    for (int i = 0; i < DIP_POOL_COUNT; i++)
        pools[i] = dip_coordinator_daemon_pool(daemon, (enum dip_pool)i);
    for (int row = QUEUE_OLDEST; row <= SCALE_CURRENT; row++) {
        if (row == HELD)
            dip_metrics_value(m, row, NULL, queue->held);
        else
            for (int i = 0; i < DIP_POOL_COUNT; i++)
                put_pool(m, row, dip_pool_name((enum dip_pool)i), &pools[i]);
    }
}

static void put_quotas(struct dip_metrics *m, const struct dip_coordinator_daemon *daemon)
{
    const char *tenant;
    double used;
    for (int i = 0; dip_coordinator_daemon_quota(daemon, i, &tenant, &used); i++)
        dip_metrics_value(m, QUOTA_USED, &tenant, used);
}

static void put_front(struct dip_metrics *m, const struct dip_coordinator_daemon *daemon,
                      const struct dip_front_stats *stats, const struct dip_scheduler_stats *queue)
{
    put_calls(m, stats);
    put_histogram(m, REQUEST_DURATION, "Generate", &stats->request);
    put_histogram(m, PHASE_DURATION, "tokenize", &stats->tokenize);
    put_histogram(m, PHASE_DURATION, "send", &stats->send);
    for (int i = 0; i < DIP_STAGE_COUNT; i++)
        put_histogram(m, PHASE_DURATION, dip_stage_name((enum dip_stage)i), &stats->stages[i]);
    put_histogram(m, FIRST_EVENT, NULL, &stats->first_event);
    put_histogram(m, FIRST_PREVIEW, NULL, &stats->first_preview);
    dip_metrics_value(m, QUEUE_DEPTH, (const char *const[]){"ar"}, queue->ar_waiting);
    dip_metrics_value(m, QUEUE_DEPTH, (const char *const[]){"diffusion"}, queue->diffusion_waiting);
    put_pools(m, daemon, queue);
    put_by_reason(m, REJECTED, stats->refused);
    put_auth_failures(m, stats);
    dip_metrics_value(m, ADMITTED, NULL, (double)stats->admitted);
    dip_metrics_value(m, SUCCEEDED, NULL, (double)stats->succeeded);
    put_by_reason(m, FAILED, stats->failed);
    put_quotas(m, daemon);
    put_reason(m, DEADLINE_EXCEEDED, DIP_REASON_DEADLINE, stats->failed[DIP_REASON_DEADLINE]);
    put_reason(m, DEADLINE_EXCEEDED, DIP_REASON_QUEUE_TIME, stats->failed[DIP_REASON_QUEUE_TIME]);
    dip_metrics_value(m, CANCELLED, NULL, (double)stats->cancelled);
    dip_metrics_value(m, INFLIGHT, (const char *const[]){"ar"}, queue->ar_running);
    dip_metrics_value(m, INFLIGHT, (const char *const[]){"diffusion"}, queue->diffusion_running);
}

/* ---- workers: one family after the other, as the format wants it ---- */

static const char *role_of(const struct dip_worker_view *view)
{
    bool is_both = (view->facts.roles & DIP_ROLE_AR) && (view->facts.roles & DIP_ROLE_DIFFUSION);
    return is_both ? "both" : view->facts.roles & DIP_ROLE_AR ? "ar" : "diffusion";
}

/* Of the monotonic clock, as seconds since 1970. */
static double unix_seconds(int64_t at_ns)
{
    if (at_ns == 0)
        return 0;
    return (double)(dip_clock_unix_ns() - (dip_clock_now_ns() - at_ns)) / (double)DIP_SECOND_NS;
}

/* By panel, so that a worker is compared with those that do the same. */
static void put_means(struct dip_metrics *m, const struct dip_worker_view *view)
{
    if (view->facts.roles & DIP_ROLE_AR)
        dip_metrics_value(m, WORKER_STEP_MEAN, (const char *const[]){"ar", view->facts.name},
                          (double)view->token_ns / (double)DIP_SECOND_NS);
    if (view->facts.roles & DIP_ROLE_DIFFUSION)
        dip_metrics_value(m, WORKER_STEP_MEAN, (const char *const[]){"diffusion", view->facts.name},
                          (double)view->step_ns / (double)DIP_SECOND_NS);
}

static void put_worker(struct dip_metrics *m, int row, const struct dip_worker_view *view)
{
    const char *labels[] = {role_of(view), view->facts.name, NULL};
    switch (row) {
    case SLOTS:
        dip_metrics_value(m, row, labels, view->slots);
        break;
    case SLOTS_BUSY:
        dip_metrics_value(m, row, labels, view->slots_busy);
        break;
    case WORKER_STATE:
        for (int s = DIP_WORKER_STATE_STARTING; s < DIP_WORKER_STATE_COUNT; s++) {
            labels[2] = dip_worker_state_text((enum dip_worker_state)s);
            dip_metrics_value(m, row, labels, (int)view->state == s);
        }
        break;
    case WORKER_STEPS:
        dip_metrics_value(m, row, labels, (double)view->steps_total);
        break;
    case WORKER_STEP_MEAN:
        put_means(m, view);
        break;
    case WORKER_BATCH_ROOM:
        if (view->facts.roles & DIP_ROLE_DIFFUSION)
            dip_metrics_value(m, row, (const char *const[]){view->facts.name}, view->batch_room);
        break;
    default:
        dip_metrics_value(m, row, labels, unix_seconds(view->last_progress_ns));
        break;
    }
}

static void put_workers(struct dip_metrics *m, const struct dip_coordinator_daemon *daemon)
{
    for (int row = SLOTS; row <= WORKER_BATCH_ROOM; row++) {
        struct dip_worker_view view;
        int cursor = 0;
        while (dip_coordinator_daemon_worker(daemon, &cursor, &view))
            put_worker(m, row, &view);
    }
}

/* ---- the page ---- */

static void put_work(struct dip_metrics *m, const struct dip_front_stats *stats,
                     const struct dip_scheduler_stats *queue, const char *model)
{
    dip_metrics_value(m, AR_TOKENS, &model, (double)stats->image_tokens);
    dip_metrics_value(m, DIFFUSION_STEPS, &model, (double)stats->diffusion_steps);
    dip_metrics_value(m, SHARED_STEPS, NULL, (double)queue->shared_steps);
    dip_metrics_value(m, IMAGES, &model, (double)stats->images);
    dip_metrics_value(m, PIXELS, &model, (double)stats->pixels);
    dip_metrics_value(m, REPLAYS, (const char *const[]){"worker_lost"},
                      (double)stats->replays[DIP_SETBACK_LOST]);
    dip_metrics_value(m, REPLAYS, (const char *const[]){"handed_back"},
                      (double)stats->replays[DIP_SETBACK_HANDED_BACK]);
    dip_metrics_value(m, REPLAYS, (const char *const[]){"device"},
                      (double)stats->replays[DIP_SETBACK_DEVICE]);
    for (int i = 0; i < DIP_HELD_STAGE_COUNT; i++) {
        const char *stage = dip_held_stage_name((enum dip_held_stage)i);
        dip_metrics_value(m, ADOPTED, &stage, (double)stats->adopted[i]);
    }
    dip_metrics_value(m, POISONED, NULL, (double)stats->failed[DIP_REASON_POISONED]);
}

static void put_links(struct dip_metrics *m, const struct dip_coordinator_daemon *daemon,
                      const struct dip_front_stats *stats)
{
    struct dip_hub_stats links = dip_coordinator_daemon_links(daemon);
    dip_metrics_value(m, FENCED, (const char *const[]){"epoch"},
                      (double)(links.fenced_epochs + stats->stale_joins));
    dip_metrics_value(m, FENCED, (const char *const[]){"incarnation"},
                      (double)links.fenced_incarnations);
    dip_metrics_value(m, WATCHDOG, (const char *const[]){"silent"}, (double)links.silent);
    dip_metrics_value(m, WATCHDOG, (const char *const[]){"stuck"}, (double)links.stuck);
    put_histogram(m, REBUILD, NULL, &stats->group_rebuild);
}

void dip__coordinator_page(struct observed *observed, const struct dip_coordinator_daemon *daemon,
                           const struct coordinator_facts *facts)
{
    struct dip_metrics *m = observed->metrics;
    const struct dip_front_stats *stats = dip_coordinator_daemon_stats(daemon);
    struct dip_scheduler_stats queue = dip_coordinator_daemon_queue(daemon);
    bool is_leading = dip_coordinator_daemon_is_leading(daemon);
    dip_metrics_begin(m);
    put_front(m, daemon, stats, &queue);
    put_workers(m, daemon);
    put_work(m, stats, &queue, facts->model);
    dip_metrics_value(m, IS_LEADER, NULL, is_leading);
    dip_metrics_value(m, EPOCH, NULL,
                      is_leading ? (double)dip_coordinator_daemon_epoch(daemon) : 0);
    dip_metrics_value(m, LEADER_CHANGES, NULL, (double)facts->leader_changes);
    put_links(m, daemon, stats);
    dip__enrolled_metrics(facts->enrolled, observed, REGISTRY);
    dip__observe_certificates(observed, facts->options, CERTIFICATE);
    dip_metrics_value(m, FORWARDED, NULL, (double)stats->forwarded);
    dip_metrics_value(m, STALLED, NULL, (double)stats->streams_stalled);
    dip_metrics_value(m, PREVIEWS_DROPPED, NULL, (double)stats->previews_dropped);
    dip_metrics_value(m, BUFFERED, NULL, (double)stats->result_bytes);
    dip_metrics_value(m, RESULTS, NULL, stats->results);
    dip_metrics_value(m, STREAMS, NULL, stats->streams);
    for (int i = 0; i < LISTENERS; i++) /* none where the kernel does not tell */
        if (facts->connections[i] >= 0)
            dip_metrics_value(m, CONNECTIONS,
                              (const char *const[]){i == LISTENER_GRPC ? "grpc" : "http"},
                              facts->connections[i]);
    const char *served[] = {facts->model, dip_coordinator_daemon_digest(daemon)};
    dip_metrics_value(m, MODEL_INFO, served, 1);
    dip__observe_process(observed, PROCESS);
    if (dip_metrics_publish(m))
        dip_log_say(observed->log, DIP_LOG_WARNING, "no memory for the metrics page");
}
