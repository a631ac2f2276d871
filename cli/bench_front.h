/* cli/bench_front.h - a coordinator under measurement: its thread, its workers made of nothing, and
 * channels to it. Private to `bench control`.
 *
 * Client and coordinator share the process; what is asked of it runs on the caller's thread. */
#pragma once

#include <pthread.h>

#include "coordinator/daemon.h"
#include "coordinator/stub.h"
#include "engine/engine.h"
#include "net/rpc_client.h"

enum { BENCH_CHANNELS = 32 /* a server takes 100 calls on one connection */ };

typedef void (*bench_row_fn)(void *context, const struct dip_bench_row *row);

struct bench_front {
    struct dip_rpc_loop *server_loop, *client_loop;
    struct dip_coordinator_daemon *daemon;
    struct dip_stub *stub;
    struct dip_rpc_channel *channels[BENCH_CHANNELS];
    pthread_t thread;
    bool is_running;
    void *request; /* a GenerateRequest that leaves everything open but the prompt and the steps */
    size_t request_bytes;
};

struct bench_front_options {
    const char *directory;        /* of the model: tokenizer and configuration */
    struct dip_stub_options stub; /* its loop is filled in */
    int queue;                    /* requests, and images, that may wait or run */
    int results;                  /* kept of those that are over; 0 = the daemon's default */
    int steps;                    /* asked for; 0 = the model's */
};

/* On failure what was begun is closed. Errors: those of the model and of listening, NO_MEMORY. */
DIP_MUST_USE enum dip_status dip__bench_front_open(const struct bench_front_options *options,
                                                   struct dip_why *why, struct bench_front *front);
void dip__bench_front_close(struct bench_front *front);

/* One more call of Generate, on the channel of this number. */
void dip__bench_front_ask(struct bench_front *front, int channel, int64_t deadline_ns,
                          const struct dip_rpc_handler *handler, void *context);
/* Calls `function` on the coordinator's thread; waits for a place, not for the end. */
void dip__bench_front_post(struct bench_front *front, dip_rpc_post_fn function, void *context,
                           void *payload);

/* In ms, of `count` samples in ns, which it sorts; 0 without any. */
double dip__bench_percentile_ms(int64_t *samples, int count, int percent);
