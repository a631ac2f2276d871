/* cli/bench_control.c - see cli/bench_control.h.
 *
 *     control.rate      requests accepted and finished per second, 64 clients in a closed loop
 *     control.p50, .p99 what the front door adds to a request, 2 clients
 *     control.refusal   p99 of a refusal while the queue is full and 64 clients insist
 *     control.queued    memory of one request that waits
 *     control.overload.*, control.connections.*  see cli/bench_load.h
 *     control.decide.*  what one decision of the scheduler costs (cli/bench_decide.h)
 *
 * Client and coordinator share the machine, so the rate is that of both together. */
#include "cli/bench_control.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cli/bench_decide.h"
#include "cli/bench_front.h"
#include "cli/bench_load.h"

enum {
    CLIENTS = 64,
    CLIENTS_CALM = 2,
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
    struct bench_front front;
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
    client->begin_ns = dip_clock_now_ns();
    client->is_begun = false;
    dip__bench_front_ask(&b->front, client->index, 0, &handler, client);
    b->live++;
}

static void turn_until(struct bench *b, int64_t until_ns)
{
    for (int64_t now_ns; (now_ns = dip_clock_now_ns()) < until_ns;)
        dip_rpc_loop_turn(b->front.client_loop, until_ns - now_ns);
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
        dip_rpc_loop_turn(b->front.client_loop, DIP_SECOND_NS);
}

static void post_hold(void *bench, void *payload)
{
    dip_stub_hold(((struct bench *)bench)->front.stub, payload != NULL);
}

/* ---- rows ---- */

static double percentile_ms(struct bench *b, int percent)
{
    return dip__bench_percentile_ms(b->samples, b->sample_count, percent);
}

static void row_rate(struct bench *b, bench_row_fn on_row, void *context)
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

static void row_latency(struct bench *b, bench_row_fn on_row, void *context)
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
static void row_queue(struct bench *b, bench_row_fn on_row, void *context)
{
    const double aim_ms = 50;
    dip__bench_front_post(&b->front, post_hold, b, b);
    size_t before = mallinfo2().uordblks;
    b->is_ending = true;
    for (int i = CLIENTS; i < QUEUE; i++) {
        b->clients[i] = (struct client){.bench = b, .index = i};
        ask(&b->clients[i]);
    }
    while (b->begun < QUEUE - CLIENTS)
        dip_rpc_loop_turn(b->front.client_loop, DIP_SECOND_NS);
    double each = (double)(mallinfo2().uordblks - before) / (QUEUE - CLIENTS) / 1024;
    on_row(context, &(struct dip_bench_row){"control.queued", each, "KiB", each, 1, each, 1,
                                            "a request that waits, its client's end included"});
    for (int i = 0; i < CLIENTS; i++) { /* these fill what is left */
        b->clients[i] = (struct client){.bench = b, .index = i};
        ask(&b->clients[i]);
    }
    while (b->begun < QUEUE)
        dip_rpc_loop_turn(b->front.client_loop, DIP_SECOND_NS);
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
    dip__bench_front_post(&b->front, post_hold, b, NULL);
    wait_for(b, 0);
}

enum dip_status dip__bench_control(const char *directory,
                                   void (*on_row)(void *context, const struct dip_bench_row *row),
                                   void *context, struct dip_why *why)
{
    struct bench_front_options options = {
        .directory = directory, .stub = {.member_count = 16, .slots = 64}, .queue = QUEUE};
    struct bench *b = calloc(1, sizeof *b);
    enum dip_status status = DIP_NO_MEMORY;
    if (b)
        b->samples = calloc(SAMPLES, sizeof *b->samples);
    if (b && b->samples)
        status = dip__bench_front_open(&options, why, &b->front);
    if (!status) {
        row_rate(b, on_row, context);
        row_latency(b, on_row, context);
        row_queue(b, on_row, context);
        if (b->failed > 0)
            status = dip_fail(why, DIP_IO, "%llu requests failed", (unsigned long long)b->failed);
        dip__bench_front_close(&b->front);
    }
    if (b)
        free(b->samples);
    free(b);
    DIP_TRY(status);
    DIP_TRY(dip__bench_load(directory, on_row, context, why));
    return dip__bench_decide(on_row, context, why);
}
