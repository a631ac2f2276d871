/* cli/bench_control.c - see cli/bench_control.h.
 *
 *     control.rate      requests accepted and finished per second, 64 clients in a closed loop
 *     control.p50, .p99 what the front door adds to a request, 2 clients
 *     control.refusal   p99 of a refusal while the queue is full and 64 clients insist
 *     control.queued    memory of one request that waits
 *     control.decide.*  what one decision of the scheduler costs (cli/bench_decide.h)
 *
 * Client and coordinator share the machine, so the rate is that of both together. */
#include "cli/bench_control.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cli/bench_decide.h"
#include "coordinator/daemon.h"
#include "coordinator/stub.h"
#include "net/rpc_client.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/wire.h"

enum {
    CLIENTS = 64,
    CLIENTS_CALM = 2,
    CHANNELS = 32, /* a server takes 100 calls on one connection */
    QUEUE = 2048,
    SAMPLES = 1 << 18,
    ROUNDS = 5,
};
#define ROUND_NS DIP_SECOND_NS

struct bench;

/* One client, with one request under way. */
struct client {
    struct bench *bench;
    int64_t begin_ns;
    int index;
    bool is_begun; /* an event has come */
};

struct bench {
    struct dip_rpc_loop *server_loop, *client_loop;
    struct dip_coordinator_daemon *daemon;
    struct dip_stub *stub;
    struct dip_rpc_channel *channels[CHANNELS];
    pthread_t thread;
    bool is_running;
    void *request;
    size_t request_bytes;

    struct client clients[QUEUE];
    bool is_ending; /* no new requests */
    int live, begun;
    uint64_t finished, refused, failed;
    int64_t *samples; /* [SAMPLES] */
    int sample_count;
};

/* ---- clients ---- */

static void ask(struct client *client);

static void on_message(void *context, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    (void)call;
    (void)data;
    (void)bytes;
    struct client *client = context;
    client->bench->begun += !client->is_begun;
    client->is_begun = true;
}

static void on_close(void *context, struct dip_rpc_call *call, const struct dip_rpc_status *status)
{
    (void)call;
    struct client *client = context;
    struct bench *b = client->bench;
    b->live--;
    b->begun -= client->is_begun;
    b->finished += status->code == DIP_RPC_OK;
    b->refused += status->code == DIP_RPC_UNAVAILABLE && !client->is_begun;
    b->failed += status->code != DIP_RPC_OK && status->code != DIP_RPC_UNAVAILABLE;
    if (b->sample_count < SAMPLES)
        b->samples[b->sample_count++] = dip_clock_now_ns() - client->begin_ns;
    if (!b->is_ending)
        ask(client);
}

static void ask(struct client *client)
{
    static const struct dip_rpc_handler handler = {.on_message = on_message, .on_close = on_close};
    struct bench *b = client->bench;
    struct dip_rpc_call *call;
    struct dip_rpc_call_options options = {.path = "/diptych.v1.ImageService/Generate",
                                           .is_patient = true,
                                           .handler = &handler,
                                           .context = client};
    void *copy = malloc(b->request_bytes);
    client->begin_ns = dip_clock_now_ns();
    client->is_begun = false;
    dip_assert(copy);
    memcpy(copy, b->request, b->request_bytes);
    enum dip_status status =
        dip_rpc_call_open(b->channels[client->index % CHANNELS], &options, &call);
    if (!status)
        status = dip_rpc_call_send(call, copy, b->request_bytes, 0);
    dip_assert(status == DIP_OK); /* a benchmark without memory measures nothing */
    dip_rpc_call_half_close(call);
    b->live++;
}

static void turn_until(struct bench *b, int64_t until_ns)
{
    for (int64_t now_ns; (now_ns = dip_clock_now_ns()) < until_ns;)
        dip_rpc_loop_turn(b->client_loop, until_ns - now_ns);
}

/* So many clients ask again and again for a while; those that are under way are waited for. */
static void run_clients(struct bench *b, int first, int count, int64_t for_ns)
{
    b->is_ending = false;
    for (int i = first; i < first + count; i++) {
        b->clients[i] = (struct client){.bench = b, .index = i};
        ask(&b->clients[i]);
    }
    turn_until(b, dip_clock_now_ns() + for_ns);
    b->is_ending = true;
}

static void wait_for(struct bench *b, int live)
{
    while (b->live > live)
        dip_rpc_loop_turn(b->client_loop, DIP_SECOND_NS);
}

/* ---- the coordinator's thread ---- */

static void *server_main(void *bench)
{
    dip_rpc_loop_run(((struct bench *)bench)->server_loop);
    return NULL;
}

static void post_hold(void *bench, void *payload)
{
    dip_stub_hold(((struct bench *)bench)->stub, payload != NULL);
}

static void on_stopped(void *bench)
{
    dip_rpc_loop_stop(((struct bench *)bench)->server_loop);
}

static void post_drain(void *bench, void *payload)
{
    (void)payload;
    dip_coordinator_daemon_drain(((struct bench *)bench)->daemon, 0, on_stopped, bench);
}

static void post(struct bench *b, dip_rpc_post_fn function, void *payload)
{
    while (dip_rpc_loop_post(b->server_loop, function, b, payload))
        dip_clock_sleep(DIP_MS_NS);
}

/* ---- rows ---- */

static int by_value(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

static double percentile_ms(struct bench *b, int percent)
{
    if (b->sample_count == 0)
        return 0;
    qsort(b->samples, (size_t)b->sample_count, sizeof b->samples[0], by_value);
    int64_t rank = (int64_t)(b->sample_count - 1) * percent / 100;
    return (double)b->samples[rank] / 1e6;
}

typedef void (*on_row_fn)(void *context, const struct dip_bench_row *row);

static void row_rate(struct bench *b, on_row_fn on_row, void *context)
{
    double best = 0, sum[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t before = b->finished;
        int64_t begin_ns = dip_clock_now_ns();
        run_clients(b, 0, CLIENTS, ROUND_NS);
        sum[i] = (double)(b->finished - before) * 1e9 / (double)(dip_clock_now_ns() - begin_ns);
        best = sum[i] > best ? sum[i] : best;
        wait_for(b, 0);
    }
    for (int i = 1; i < ROUNDS; i++)
        for (int j = i; j > 0 && sum[j - 1] > sum[j]; j--) {
            double swap = sum[j];
            sum[j] = sum[j - 1];
            sum[j - 1] = swap;
        }
    const double aim = 5000;
    on_row(context,
           &(struct dip_bench_row){"control.rate", best, "req/s", aim, best / aim, sum[ROUNDS / 2],
                                   ROUNDS, "64 clients; accepted and finished; bound: the aim"});
}

static void row_latency(struct bench *b, on_row_fn on_row, void *context)
{
    double best[2] = {1e9, 1e9}, middle[2] = {0, 0};
    static const int percents[2] = {50, 99};
    for (int i = 0; i < ROUNDS; i++) {
        b->sample_count = 0;
        run_clients(b, 0, CLIENTS_CALM, ROUND_NS);
        wait_for(b, 0);
        for (int j = 0; j < 2; j++) {
            double ms = percentile_ms(b, percents[j]);
            best[j] = ms < best[j] ? ms : best[j];
            middle[j] += ms / ROUNDS;
        }
    }
    const double aim = 2;
    on_row(context, &(struct dip_bench_row){"control.p50", best[0], "ms", aim, aim / best[0],
                                            middle[0], ROUNDS, "2 clients; median is the mean"});
    on_row(context, &(struct dip_bench_row){"control.p99", best[1], "ms", aim, aim / best[1],
                                            middle[1], ROUNDS, "2 clients; bound: the aim"});
}

/* The queue is filled with requests that nobody works on; what they take is counted by glibc. */
static void row_queue(struct bench *b, on_row_fn on_row, void *context)
{
    const double aim_ms = 50;
    post(b, post_hold, b);
    size_t before = mallinfo2().uordblks;
    b->is_ending = true;
    for (int i = CLIENTS; i < QUEUE; i++) {
        b->clients[i] = (struct client){.bench = b, .index = i};
        ask(&b->clients[i]);
    }
    while (b->begun < QUEUE - CLIENTS)
        dip_rpc_loop_turn(b->client_loop, DIP_SECOND_NS);
    double each = (double)(mallinfo2().uordblks - before) / (QUEUE - CLIENTS) / 1024;
    on_row(context, &(struct dip_bench_row){"control.queued", each, "KiB", each, 1, each, 1,
                                            "a request that waits, its client's end included"});
    for (int i = 0; i < CLIENTS; i++) { /* these fill what is left */
        b->clients[i] = (struct client){.bench = b, .index = i};
        ask(&b->clients[i]);
    }
    while (b->begun < QUEUE)
        dip_rpc_loop_turn(b->client_loop, DIP_SECOND_NS);
    static struct client insistent[CLIENTS];
    b->sample_count = 0;
    b->is_ending = false;
    uint64_t refused = b->refused;
    for (int i = 0; i < CLIENTS; i++) {
        insistent[i] = (struct client){.bench = b, .index = i};
        ask(&insistent[i]);
    }
    turn_until(b, dip_clock_now_ns() + 2 * ROUND_NS);
    b->is_ending = true;
    char note[96];
    wait_for(b, QUEUE);
    double ms = percentile_ms(b, 99);
    snprintf(note, sizeof note, "p99 of %llu/s refusals by a full queue; bound: the aim",
             (unsigned long long)(b->refused - refused) / 2);
    on_row(context, &(struct dip_bench_row){"control.refusal", ms, "ms", aim_ms, aim_ms / ms,
                                            percentile_ms(b, 50), 1, note});
    post(b, post_hold, NULL);
    wait_for(b, 0);
}

/* ---- setting up ---- */

static enum dip_status start(struct bench *b, const char *directory, struct dip_why *why)
{
    struct dip_rpc_loop_options loop = {.call_count_max = 4 * QUEUE, .timer_count_max = 8 * QUEUE};
    char target[64];
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    request.prompt = (char *)(uintptr_t) "a red circle beside a small blue square";
    DIP_TRY(dip_proto_encode(&request.base, &b->request, &b->request_bytes));
    b->samples = calloc(SAMPLES, sizeof *b->samples);
    if (!b->samples)
        return DIP_NO_MEMORY;
    DIP_TRY(dip_rpc_loop_new(&loop, &b->server_loop));
    DIP_TRY(dip_rpc_loop_new(&loop, &b->client_loop));
    DIP_TRY(dip_stub_new(
        &(struct dip_stub_options){.loop = b->server_loop, .member_count = 16, .slots = 64},
        &b->stub));
    struct dip_coordinator_daemon_options options = {.loop = b->server_loop,
                                                     .model_directory = directory,
                                                     .listen = "127.0.0.1:0",
                                                     .epoch = 1,
                                                     .endpoint = dip_stub_endpoint(b->stub),
                                                     .request_count_max = QUEUE,
                                                     .image_count_max = QUEUE};
    DIP_TRY(dip_coordinator_daemon_start(&options, why, &b->daemon));
    dip_stub_join(b->stub, b->daemon);
    snprintf(target, sizeof target, "127.0.0.1:%d", dip_coordinator_daemon_port(b->daemon));
    b->is_running = pthread_create(&b->thread, NULL, server_main, b) == 0;
    if (!b->is_running)
        return dip_fail(why, DIP_NO_MEMORY, "no thread for the coordinator");
    for (int i = 0; i < CHANNELS; i++)
        DIP_TRY(dip_rpc_channel_open(
            &(struct dip_rpc_channel_options){.loop = b->client_loop, .target = target}, why,
            &b->channels[i]));
    return DIP_OK;
}

static void stop(struct bench *b)
{
    for (int i = 0; i < CHANNELS; i++)
        if (b->channels[i])
            dip_rpc_channel_close(b->channels[i]);
    if (b->client_loop) {
        dip_rpc_loop_stop(b->client_loop);
        dip_rpc_loop_run(b->client_loop);
    }
    if (b->is_running) {
        post(b, post_drain, NULL);
        pthread_join(b->thread, NULL);
    }
    dip_coordinator_daemon_free(b->daemon);
    dip_stub_free(b->stub);
    dip_rpc_loop_free(b->client_loop);
    dip_rpc_loop_free(b->server_loop);
    free(b->samples);
    free(b->request);
}

enum dip_status dip__bench_control(const char *directory,
                                   void (*on_row)(void *context, const struct dip_bench_row *row),
                                   void *context, struct dip_why *why)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return dip_fail(why, DIP_NO_MEMORY, "no memory to measure");
    enum dip_status status = start(b, directory, why);
    if (!status) {
        row_rate(b, on_row, context);
        row_latency(b, on_row, context);
        row_queue(b, on_row, context);
        if (b->failed > 0)
            status = dip_fail(why, DIP_IO, "%llu requests failed", (unsigned long long)b->failed);
    } else {
        status = dip_fail(why, status, "cannot measure: %s", dip_status_text(status));
    }
    stop(b);
    free(b);
    return status ? status : dip__bench_decide(on_row, context, why);
}
