/* tests/unit/service_cluster.c - models, workers, drain, jobs, health and reflection over loopback.
 */
#include "tests/unit/service_harness.h"

#include "cluster/wire.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/keda/externalscaler.pb-c.h"

static ProtobufCMessage *reply; /* the last answer, decoded */

static int teardown(void **state)
{
    dip_proto_free(reply);
    reply = NULL;
    return front_teardown(state);
}

/* A unary call that succeeds; its answer lives until the next one. */
static void *asked(const char *path, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type)
{
    dip_proto_free(reply);
    reply = NULL;
    answer_free(&a);
    ask(&f, &(struct asking){.path = path}, request, &a);
    WAIT_UNTIL(f.loop, a.closes);
    if (a.code != DIP_RPC_OK)
        fail_msg("%s: %s", path, a.text);
    assert_int_equal(dip_proto_decode(type, a.reply, a.reply_bytes, NULL, &reply), DIP_OK);
    return reply;
}

static void refused(const char *path, const ProtobufCMessage *request, enum dip_reason reason)
{
    answer_free(&a);
    ask(&f, &(struct asking){.path = path}, request, &a);
    WAIT_UNTIL(f.loop, a.closes);
    check_error(&a, reason);
}

static void refused_field(const char *path, const ProtobufCMessage *request, const char *field)
{
    refused(path, request, DIP_REASON_BAD_FIELD);
    assert_string_equal(fact(&a, "field"), field);
    assert_string_equal(a.error.fields[0].field, field);
}

/* ---- models ---- */

static void a_model_tells_its_limits(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__GetModelRequest request = DIPTYCH__V1__GET_MODEL_REQUEST__INIT;
    Diptych__V1__GetModelResponse *r = asked("/diptych.v1.ModelService/GetModel", &request.base,
                                             &diptych__v1__get_model_response__descriptor);
    assert_string_equal(r->model->name, "tiny");
    assert_int_equal(strlen(r->model->weights_digest), 64);
    assert_true(r->model->ready);
    assert_int_equal(strlen(r->model->fingerprint), 64);
    assert_true(r->model->image_tokens > 0);
    assert_true(r->model->max_prompt_tokens > 0);
    assert_int_equal(r->model->default_width % r->model->edge_multiple, 0);
    assert_in_range(r->model->default_height, r->model->min_edge, r->model->max_edge);
    assert_int_equal(r->model->max_n, 16);
    dip_stub_lose(f.stub, 1);
    dip_stub_lose(f.stub, 2);
    r = asked("/diptych.v1.ModelService/GetModel", &request.base,
              &diptych__v1__get_model_response__descriptor);
    assert_false(r->model->ready);
    assert_string_equal(r->model->fingerprint, "");
    request.name = (char *)(uintptr_t) "other";
    refused("/diptych.v1.ModelService/GetModel", &request.base, DIP_REASON_MODEL_UNKNOWN);
}

static void models_are_listed_by_pages(void **state)
{
    (void)state;
    front_open(&f);
    Diptych__V1__ListModelsRequest request = DIPTYCH__V1__LIST_MODELS_REQUEST__INIT;
    Diptych__V1__ListModelsResponse *r = asked("/diptych.v1.ModelService/ListModels", &request.base,
                                               &diptych__v1__list_models_response__descriptor);
    assert_int_equal(r->n_models, 1);
    assert_string_equal(r->next_page_token, "");
    request.page_size = 101;
    refused_field("/diptych.v1.ModelService/ListModels", &request.base, "page_size");
    request.page_size = 0;
    request.page_token = (char *)(uintptr_t) "2";
    refused_field("/diptych.v1.ModelService/ListModels", &request.base, "page_token");
}

static void text_becomes_ids_and_their_pieces(void **state)
{
    (void)state;
    front_open(&f);
    /* A character that no token has: its bytes are spread over several. */
    static char text[] = "a red circle, <im_start> caf\xc3\xa9 \xf0\x9f\xa6\x8a";
    char joined[256];
    size_t bytes = 0;
    Diptych__V1__TokenizeRequest request = DIPTYCH__V1__TOKENIZE_REQUEST__INIT;
    refused_field("/diptych.v1.ModelService/Tokenize", &request.base, "text");
    request.input_case = DIPTYCH__V1__TOKENIZE_REQUEST__INPUT_TEXT;
    request.text = text;
    Diptych__V1__TokenizeResponse *r = asked("/diptych.v1.ModelService/Tokenize", &request.base,
                                             &diptych__v1__tokenize_response__descriptor);
    assert_true(r->n_ids > 0);
    assert_int_equal(r->n_ids, r->n_pieces);
    for (size_t i = 0; i < r->n_pieces; i++) {
        assert_true(bytes + r->pieces[i].len < sizeof joined);
        memcpy(joined + bytes, r->pieces[i].data, r->pieces[i].len);
        bytes += r->pieces[i].len;
    }
    assert_int_equal(bytes, strlen(text));
    assert_memory_equal(joined, text, bytes);
    size_t plain = r->n_ids;
    request.add_special_tokens = true;
    r = asked("/diptych.v1.ModelService/Tokenize", &request.base,
              &diptych__v1__tokenize_response__descriptor);
    assert_true(r->n_ids > plain);
    static char words[8001];
    for (size_t i = 0; i < sizeof words - 1; i++)
        words[i] = i % 2 ? ' ' : 'w';
    request.text = words;
    refused("/diptych.v1.ModelService/Tokenize", &request.base, DIP_REASON_PROMPT_TOO_LONG);
    assert_true(strtol(fact(&a, "length"), NULL, 10) > strtol(fact(&a, "limit"), NULL, 10));
}

/* ---- workers ---- */

static void workers_are_listed_by_name(void **state)
{
    (void)state;
    f.stub_options.member_count = 5;
    front_open(&f);
    Diptych__V1__ListWorkersRequest request = DIPTYCH__V1__LIST_WORKERS_REQUEST__INIT;
    char token[129] = "", name[129] = "";
    int count = 0, pages = 0;
    request.page_size = 2;
    do {
        request.page_token = token;
        Diptych__V1__ListWorkersResponse *r =
            asked("/diptych.v1.ClusterService/ListWorkers", &request.base,
                  &diptych__v1__list_workers_response__descriptor);
        for (size_t i = 0; i < r->n_workers; i++, count++) {
            assert_true(strcmp(r->workers[i]->name, name) > 0);
            snprintf(name, sizeof name, "%s", r->workers[i]->name);
            assert_int_equal(r->workers[i]->state, DIPTYCH__V1__WORKER_STATE__WORKER_STATE_READY);
            assert_int_equal(r->workers[i]->role, DIPTYCH__V1__ROLE__ROLE_BOTH);
            assert_int_equal(r->workers[i]->slots, 8);
        }
        pages++;
        snprintf(token, sizeof token, "%s", r->next_page_token);
    } while (token[0]);
    assert_int_equal(count, 5);
    assert_int_equal(pages, 3);
    request.page_size = 1001;
    refused_field("/diptych.v1.ClusterService/ListWorkers", &request.base, "page_size");
    request.page_size = 0;
    request.role = 77;
    refused_field("/diptych.v1.ClusterService/ListWorkers", &request.base, "role");
    Diptych__V1__ListJobsRequest jobs = DIPTYCH__V1__LIST_JOBS_REQUEST__INIT;
    jobs.page_token = (char *)(uintptr_t) "a-worker"; /* of another list */
    refused_field("/diptych.v1.ClusterService/ListJobs", &jobs.base, "page_token");
    Diptych__V1__DrainRequest drain = DIPTYCH__V1__DRAIN_REQUEST__INIT;
    refused_field("/diptych.v1.ClusterService/Drain", &drain.base, "worker");
}

/* What an operator is warned of: who is lost, not who has said that it leaves. */
static void who_leaves_is_not_lost(void **state)
{
    (void)state;
    char text[2048];
    FILE *file = tmpfile();
    assert_non_null(file);
    struct dip_log_options options = {
        .file = fileno(file), .level = DIP_LOG_WARNING, .component = "coordinator"};
    assert_int_equal(dip_log_open(&options, &f.options.log), DIP_OK);
    struct dip_log *log = f.options.log;
    front_open(&f);
    dip_coordinator_daemon_feed(f.daemon,
                                &(struct dip_message){.kind = DIP_MESSAGE_LEAVING, .from = 1});
    dip_coordinator_daemon_feed(f.daemon,
                                &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = 1});
    dip_coordinator_daemon_feed(f.daemon,
                                &(struct dip_message){.kind = DIP_MESSAGE_LOST, .from = 2});
    front_close(&f);
    dip_log_close(log);
    rewind(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    text[bytes] = '\0';
    fclose(file);
    const char *lost = strstr(text, "state=lost");
    assert_non_null(lost);
    assert_null(strstr(lost + 1, "state=lost"));
    front_open(&f);
}

static enum dip_status send_frame(void *context, void *data, size_t bytes)
{
    return dip_rpc_call_send(context, data, bytes, 0);
}

static void on_refused(void *context, struct dip_rpc_call *call,
                       const struct dip_rpc_status *status)
{
    (void)call;
    *(int *)context = status->code;
}

/* A coordinator without a registry whose clock was set back since its last start. */
static void a_lone_leader_outleads_its_past(void **state)
{
    (void)state;
    static const struct dip_rpc_handler handler = {.on_close = on_refused};
    int code = -1;
    struct dip_rpc_call *call = NULL;
    struct dip_member_facts facts = {
        .name = "w", .roles = DIP_ROLE_DIFFUSION, .incarnation = 1, .address = "127.0.0.1:1"};
    struct dip_message hello = {.kind = DIP_MESSAGE_APPEARED,
                                .as.appeared.facts = {&facts, sizeof facts}};
    struct dip_wire_envelope envelope = {.epoch = 1000};
    f.has_hub = true;
    f.options.epoch = 7;
    front_open(&f);
    struct dip_rpc_call_options options = {.path = "/diptych.internal.v1.WorkerService/Connect",
                                           .handler = &handler,
                                           .context = &code};
    assert_int_equal(dip_rpc_call_open(f.channel, &options, &call), DIP_OK);
    assert_int_equal(dip_wire_encode_event(&hello, &envelope, send_frame, call), DIP_OK);
    WAIT_UNTIL(f.loop, code == DIP_RPC_FAILED_PRECONDITION);
    WAIT_UNTIL(f.loop, dip_coordinator_daemon_epoch(f.daemon) == 1001);
}

static void the_cluster_at_a_glance(void **state)
{
    (void)state;
    f.options.cluster_id = "here";
    f.options.epoch = 7;
    f.stub_options.member_count = 1;
    f.stub_options.slots = 1;
    front_open(&f);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest generate = a_request("");
    generate.n = 3;
    ask_generate(&f, &generate, &b);
    WAIT_UNTIL(f.loop, b.event_count > 0);
    Diptych__V1__GetClusterRequest request = DIPTYCH__V1__GET_CLUSTER_REQUEST__INIT;
    Diptych__V1__GetClusterResponse *r =
        asked("/diptych.v1.ClusterService/GetCluster", &request.base,
              &diptych__v1__get_cluster_response__descriptor);
    assert_string_equal(r->cluster_id, "here");
    assert_string_equal(r->leader, dip_coordinator_daemon_address(f.daemon));
    assert_int_equal(r->epoch, 7);
    assert_int_equal(r->n_pools, 2);
    assert_int_equal(r->pools[0]->ready, 1);
    assert_int_equal(r->pools[0]->running, 1);
    assert_int_equal(r->pools[0]->queued, 2);
    assert_true(r->pools[0]->wanted >= 1);
    assert_true(strlen(r->pools[0]->reason) > 0);
    Diptych__V1__GetScaleHintRequest hint = DIPTYCH__V1__GET_SCALE_HINT_REQUEST__INIT;
    Diptych__V1__GetScaleHintResponse *h =
        asked("/diptych.v1.ClusterService/GetScaleHint", &hint.base,
              &diptych__v1__get_scale_hint_response__descriptor);
    assert_int_equal(h->n_pools, 2);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
}

/* ---- what scales the pools ---- */

static Externalscaler__ScaledObjectRef__ScalerMetadataEntry pool_entries[2], *pool_list[2];

static Externalscaler__ScaledObjectRef scaled(const char *pool)
{
    Externalscaler__ScaledObjectRef ref = EXTERNALSCALER__SCALED_OBJECT_REF__INIT;
    static const char *const keys[] = {"scalerAddress", "pool"};
    for (int i = 0; i < 2; i++) {
        externalscaler__scaled_object_ref__scaler_metadata_entry__init(&pool_entries[i]);
        pool_entries[i].key = (char *)(uintptr_t)keys[i];
        pool_entries[i].value = (char *)(uintptr_t)(i == 1 ? pool : "here:50051");
        pool_list[i] = &pool_entries[i];
    }
    ref.scalermetadata = pool_list;
    ref.n_scalermetadata = 2;
    return ref;
}

static bool is_active(const char *pool)
{
    Externalscaler__ScaledObjectRef ref = scaled(pool);
    Externalscaler__IsActiveResponse *r =
        asked("/externalscaler.ExternalScaler/IsActive", &ref.base,
              &externalscaler__is_active_response__descriptor);
    return r->result;
}

static int wanted(const char *pool)
{
    Externalscaler__ScaledObjectRef ref = scaled(pool);
    Externalscaler__GetMetricsRequest request = EXTERNALSCALER__GET_METRICS_REQUEST__INIT;
    request.scaledobjectref = &ref;
    request.metricname = (char *)(uintptr_t) "s0-diptych-ar-workers";
    Externalscaler__GetMetricsResponse *r =
        asked("/externalscaler.ExternalScaler/GetMetrics", &request.base,
              &externalscaler__get_metrics_response__descriptor);
    assert_int_equal(r->n_metricvalues, 1);
    assert_string_equal(r->metricvalues[0]->metricname, "s0-diptych-ar-workers");
    assert_true(r->metricvalues[0]->metricvaluefloat == (double)r->metricvalues[0]->metricvalue);
    return (int)r->metricvalues[0]->metricvalue;
}

static void a_scaler_hears_how_many_workers_are_wanted(void **state)
{
    (void)state;
    f.stub_options.member_count = 1;
    f.stub_options.slots = 2;
    front_open(&f);
    assert_false(is_active("ar"));
    assert_false(is_active("diffusion"));
    assert_int_equal(wanted("ar"), 0);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest generate = a_request("");
    generate.n = 5;
    ask_generate(&f, &generate, &b);
    WAIT_UNTIL(f.loop, b.event_count > 0);
    assert_true(is_active("ar"));
    assert_int_equal(wanted("ar"), 3); /* five images, two to a worker */
    assert_true(is_active("diffusion"));
    assert_int_equal(wanted("diffusion"), 1); /* it will be needed */
    Externalscaler__ScaledObjectRef ref = scaled("diffusion");
    Externalscaler__GetMetricSpecResponse *spec =
        asked("/externalscaler.ExternalScaler/GetMetricSpec", &ref.base,
              &externalscaler__get_metric_spec_response__descriptor);
    assert_string_equal(spec->metricspecs[0]->metricname, "diptych-diffusion-workers");
    assert_true(spec->metricspecs[0]->targetsize == 1 &&
                spec->metricspecs[0]->targetsizefloat == 1);
    dip_stub_hold(f.stub, false);
    WAIT_UNTIL(f.loop, b.closes);
    assert_false(is_active("ar"));
    assert_false(is_active("diffusion"));
    ref = scaled("vae");
    refused("/externalscaler.ExternalScaler/IsActive", &ref.base, DIP_REASON_BAD_FIELD);
    ref.n_scalermetadata = 0;
    refused("/externalscaler.ExternalScaler/StreamIsActive", &ref.base, DIP_REASON_BAD_FIELD);
    dip_coordinator_daemon_follow(f.daemon, NULL);
    ref = scaled("ar");
    refused("/externalscaler.ExternalScaler/IsActive", &ref.base, DIP_REASON_NOT_LEADER);
}

static Diptych__V1__WorkerState drained(const char *path, const char *worker)
{
    bool is_drain = strstr(path, "Undrain") == NULL;
    if (is_drain) {
        Diptych__V1__DrainRequest request = DIPTYCH__V1__DRAIN_REQUEST__INIT;
        request.worker = (char *)(uintptr_t)worker;
        request.reason = (char *)(uintptr_t) "new fans";
        Diptych__V1__DrainResponse *r =
            asked(path, &request.base, &diptych__v1__drain_response__descriptor);
        assert_string_equal(r->worker->detail, "new fans");
        return r->worker->state;
    }
    Diptych__V1__UndrainRequest request = DIPTYCH__V1__UNDRAIN_REQUEST__INIT;
    request.worker = (char *)(uintptr_t)worker;
    Diptych__V1__UndrainResponse *r =
        asked(path, &request.base, &diptych__v1__undrain_response__descriptor);
    return r->worker->state;
}

static int drain_calls;
static void on_drain(void *context, const char *name, bool is_draining, const char *why)
{
    (void)is_draining;
    (void)why;
    assert_ptr_equal(context, &f);
    assert_string_equal(name, "stub-1");
    drain_calls++;
}

static void a_drained_worker_gets_no_work(void **state)
{
    (void)state;
    static const char drain[] = "/diptych.v1.ClusterService/Drain";
    static const char undrain[] = "/diptych.v1.ClusterService/Undrain";
    f.stub_options.member_count = 1;
    front_open(&f);
    drain_calls = 0;
    dip_coordinator_daemon_on_drain(f.daemon, on_drain, &f);
    assert_int_equal(drained(drain, "stub-1"), DIPTYCH__V1__WORKER_STATE__WORKER_STATE_DRAINED);
    assert_int_equal(drained(drain, "stub-1"), DIPTYCH__V1__WORKER_STATE__WORKER_STATE_DRAINED);
    assert_false(dip_coordinator_daemon_is_ready(f.daemon));
    assert_int_equal(drained(undrain, "stub-1"), DIPTYCH__V1__WORKER_STATE__WORKER_STATE_READY);
    assert_int_equal(drain_calls, 3);
    dip_stub_hold(f.stub, true);
    Diptych__V1__GenerateRequest generate = a_request("");
    ask_generate(&f, &generate, &b);
    WAIT_UNTIL(f.loop, dip_stub_stats(f.stub).jobs == 1);
    assert_int_equal(drained(drain, "stub-1"), DIPTYCH__V1__WORKER_STATE__WORKER_STATE_DRAINING);
    dip_stub_hold(f.stub, false);
    assert_int_equal(drained(undrain, "stub-1"), DIPTYCH__V1__WORKER_STATE__WORKER_STATE_READY);
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.code, DIP_RPC_OK);
    Diptych__V1__UndrainRequest unknown = DIPTYCH__V1__UNDRAIN_REQUEST__INIT;
    unknown.worker = (char *)(uintptr_t) "nobody";
    refused(undrain, &unknown.base, DIP_REASON_WORKER_UNKNOWN);
}

static int seen_workers, seen_ends, seen_removed;
static void on_worker(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)context;
    (void)call;
    ProtobufCMessage *message;
    assert_int_equal(dip_proto_decode(&diptych__v1__watch_workers_response__descriptor, data, bytes,
                                      NULL, &message),
                     DIP_OK);
    const Diptych__V1__WatchWorkersResponse *r = (const Diptych__V1__WatchWorkersResponse *)message;
    seen_workers += r->worker && !r->removed;
    seen_removed += r->removed;
    seen_ends += r->snapshot_end;
    dip_proto_free(message);
}

static void a_watcher_sees_a_snapshot_and_then_changes(void **state)
{
    (void)state;
    static const struct dip_rpc_handler handler = {.on_message = on_worker,
                                                   .on_close = on_answer_close};
    f.stub_options.member_count = 100; /* more than a call's queue holds */
    front_open(&f);
    seen_workers = seen_ends = seen_removed = 0;
    struct dip_rpc_call_options options = {
        .path = "/diptych.v1.ClusterService/WatchWorkers", .handler = &handler, .context = &b};
    assert_int_equal(dip_rpc_call_open(f.channel, &options, &b.call), DIP_OK);
    assert_int_equal(dip_rpc_call_send(b.call, malloc(1), 0, 0), DIP_OK);
    dip_rpc_call_half_close(b.call);
    WAIT_UNTIL(f.loop, seen_ends == 1);
    assert_int_equal(seen_workers, 100);
    dip_stub_lose(f.stub, 17);
    WAIT_UNTIL(f.loop, seen_removed == 1);
    assert_int_equal(seen_workers, 100);
    dip_stub_join_one(f.stub, 17);
    WAIT_UNTIL(f.loop, seen_workers > 100);
    dip_rpc_call_cancel(b.call, DIP_RPC_CANCELLED, "enough");
    WAIT_UNTIL(f.loop, b.closes);
}

/* Who does not lead sends everybody to the leader, and watchers as soon as it does not any more. */
static void a_standby_knows_who_knows(void **state)
{
    (void)state;
    static const struct dip_rpc_handler handler = {.on_message = on_worker,
                                                   .on_close = on_answer_close};
    static const char *const paths[] = {
        "/diptych.v1.ClusterService/ListWorkers", "/diptych.v1.ClusterService/GetScaleHint",
        "/diptych.v1.ClusterService/ListJobs", "/diptych.v1.ClusterService/WatchWorkers"};
    front_open(&f);
    seen_workers = seen_ends = seen_removed = 0;
    struct dip_rpc_call_options options = {.path = paths[3], .handler = &handler, .context = &b};
    assert_int_equal(dip_rpc_call_open(f.channel, &options, &b.call), DIP_OK);
    assert_int_equal(dip_rpc_call_send(b.call, malloc(1), 0, 0), DIP_OK);
    dip_rpc_call_half_close(b.call);
    WAIT_UNTIL(f.loop, seen_ends == 1);
    dip_coordinator_daemon_follow(f.daemon, "10.0.0.7:50051");
    WAIT_UNTIL(f.loop, b.closes);
    check_error(&b, DIP_REASON_NOT_LEADER);
    assert_string_equal(fact(&b, "leader"), "10.0.0.7:50051");

    Diptych__V1__GetClusterRequest request = DIPTYCH__V1__GET_CLUSTER_REQUEST__INIT;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        refused(paths[i], &request.base, DIP_REASON_NOT_LEADER); /* all requests may be empty */
        assert_string_equal(fact(&a, "leader"), "10.0.0.7:50051");
    }
    Diptych__V1__GetClusterResponse *r =
        asked("/diptych.v1.ClusterService/GetCluster", &request.base,
              &diptych__v1__get_cluster_response__descriptor);
    assert_string_equal(r->leader, "10.0.0.7:50051");
    assert_int_equal(r->n_pools, 0);
}

static void jobs_are_listed_without_prompts(void **state)
{
    (void)state;
    enum { JOBS = 5 };
    static struct answer answers[JOBS];
    front_open(&f);
    dip_stub_hold(f.stub, true);
    for (int i = 0; i < JOBS; i++) {
        char id[16];
        snprintf(id, sizeof id, "job-%d", i);
        Diptych__V1__GenerateRequest generate = a_request(id);
        ask_generate(&f, &generate, &answers[i]);
        WAIT_UNTIL(f.loop, answers[i].event_count > 0);
    }
    Diptych__V1__ListJobsRequest request = DIPTYCH__V1__LIST_JOBS_REQUEST__INIT;
    char token[129] = "";
    int count = 0;
    request.page_size = 3;
    do {
        request.page_token = token;
        Diptych__V1__ListJobsResponse *r =
            asked("/diptych.v1.ClusterService/ListJobs", &request.base,
                  &diptych__v1__list_jobs_response__descriptor);
        for (size_t i = 0; i < r->n_jobs; i++, count++) {
            char id[16];
            snprintf(id, sizeof id, "job-%d", count);
            assert_string_equal(r->jobs[i]->request_id, id);
            assert_string_equal(r->jobs[i]->tenant, "default");
            assert_int_equal(r->jobs[i]->attempt, 1);
            assert_int_equal(r->jobs[i]->n_workers, 1);
            assert_int_equal(strncmp(r->jobs[i]->workers[0], "stub-", 5), 0);
        }
        snprintf(token, sizeof token, "%s", r->next_page_token);
    } while (token[0]);
    assert_int_equal(count, JOBS);
    request.page_token = token;
    request.tenant = (char *)(uintptr_t) "nobody";
    Diptych__V1__ListJobsResponse *r = asked("/diptych.v1.ClusterService/ListJobs", &request.base,
                                             &diptych__v1__list_jobs_response__descriptor);
    assert_int_equal(r->n_jobs, 0);
    dip_stub_hold(f.stub, false);
    for (int i = 0; i < JOBS; i++) {
        WAIT_UNTIL(f.loop, answers[i].closes);
        answer_free(&answers[i]);
    }
}

/* ---- health ---- */

static int health(const char *service)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = (char *)(uintptr_t)service;
    Grpc__Health__V1__HealthCheckResponse *r =
        asked("/grpc.health.v1.Health/Check", &request.base,
              &grpc__health__v1__health_check_response__descriptor);
    return (int)r->status;
}

static void health_follows_the_workers(void **state)
{
    (void)state;
    enum { SERVING = 1, NOT_SERVING = 2 };
    front_open(&f);
    assert_int_equal(health(""), SERVING);
    assert_int_equal(health("diptych.v1.ImageService"), SERVING);
    assert_int_equal(health("ar"), SERVING);
    assert_int_equal(health("diffusion"), SERVING);
    assert_int_equal(health("diptych.v1.ModelService"), SERVING);
    assert_int_equal(health("diptych.v1.ClusterService"), SERVING);
    dip_stub_lose(f.stub, 1);
    assert_int_equal(health("ar"), SERVING);
    dip_stub_lose(f.stub, 2);
    assert_int_equal(health(""), SERVING);
    assert_int_equal(health("diptych.v1.ImageService"), NOT_SERVING);
    assert_int_equal(health("diffusion"), NOT_SERVING);
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = (char *)(uintptr_t) "else";
    answer_free(&a);
    ask(&f, &(struct asking){.path = "/grpc.health.v1.Health/Check"}, &request.base, &a);
    WAIT_UNTIL(f.loop, a.closes);
    assert_int_equal(a.code, DIP_RPC_NOT_FOUND);
    Grpc__Health__V1__HealthListRequest list = GRPC__HEALTH__V1__HEALTH_LIST_REQUEST__INIT;
    Grpc__Health__V1__HealthListResponse *r =
        asked("/grpc.health.v1.Health/List", &list.base,
              &grpc__health__v1__health_list_response__descriptor);
    assert_int_equal(r->n_statuses, 6);
}

static void a_watcher_of_health_hears_changes_only(void **state)
{
    (void)state;
    front_open(&f);
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = (char *)(uintptr_t) "ar";
    ask(&f, &(struct asking){.path = "/grpc.health.v1.Health/Watch"}, &request.base, &b);
    WAIT_UNTIL(f.loop, b.event_count == 1);
    dip_stub_lose(f.stub, 1); /* the other one still serves */
    dip_stub_lose(f.stub, 2);
    WAIT_UNTIL(f.loop, b.event_count == 2);
    dip_stub_join_one(f.stub, 1);
    WAIT_UNTIL(f.loop, b.event_count == 3);
    dip_stub_join_one(f.stub, 2);
    dip_rpc_call_cancel(b.call, DIP_RPC_CANCELLED, "enough");
    WAIT_UNTIL(f.loop, b.closes);
    assert_int_equal(b.event_count, 3);
}

/* ---- reflection ---- */

static void services_are_listed(const char *path)
{
    Grpc__Reflection__V1__ServerReflectionRequest request =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    request.message_request_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
    request.list_services = (char *)(uintptr_t) "*";
    Grpc__Reflection__V1__ServerReflectionResponse *r =
        asked(path, &request.base, &grpc__reflection__v1__server_reflection_response__descriptor);
    assert_int_equal(r->list_services_response->n_service, 7);
}

static void reflection_knows_what_is_served(void **state)
{
    (void)state;
    front_open(&f);
    services_are_listed("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    services_are_listed("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
}

/* Plaintext is for this machine, unless somebody insists. */
static void plaintext_stays_on_loopback(void **state)
{
    (void)state;
    struct dip_coordinator_daemon *daemon = NULL;
    struct dip_why why = {0};
    front_open(&f);
    struct dip_coordinator_daemon_options options = f.options;
    options.listen = "0.0.0.0:0";
    assert_int_equal(dip_coordinator_daemon_start(&options, &why, &daemon), DIP_INVALID);
    assert_null(daemon);
    assert_non_null(strstr(why.text, "TLS"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_model_tells_its_limits, front_setup, teardown),
        cmocka_unit_test_setup_teardown(models_are_listed_by_pages, front_setup, teardown),
        cmocka_unit_test_setup_teardown(text_becomes_ids_and_their_pieces, front_setup, teardown),
        cmocka_unit_test_setup_teardown(workers_are_listed_by_name, front_setup, teardown),
        cmocka_unit_test_setup_teardown(who_leaves_is_not_lost, front_setup, teardown),
        cmocka_unit_test_setup_teardown(a_lone_leader_outleads_its_past, front_setup, teardown),
        cmocka_unit_test_setup_teardown(the_cluster_at_a_glance, front_setup, teardown),
        cmocka_unit_test_setup_teardown(a_scaler_hears_how_many_workers_are_wanted, front_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_drained_worker_gets_no_work, front_setup, teardown),
        cmocka_unit_test_setup_teardown(a_watcher_sees_a_snapshot_and_then_changes, front_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_standby_knows_who_knows, front_setup, teardown),
        cmocka_unit_test_setup_teardown(jobs_are_listed_without_prompts, front_setup, teardown),
        cmocka_unit_test_setup_teardown(health_follows_the_workers, front_setup, teardown),
        cmocka_unit_test_setup_teardown(a_watcher_of_health_hears_changes_only, front_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reflection_knows_what_is_served, front_setup, teardown),
        cmocka_unit_test_setup_teardown(plaintext_stays_on_loopback, front_setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
