/* cli/bench_front.c - see cli/bench_front.h. */
#include "cli/bench_front.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "proto/diptych/v1/image.pb-c.h"
#include "proto/wire.h"

static void *server_main(void *front)
{
    dip_rpc_loop_run(((struct bench_front *)front)->server_loop);
    return NULL;
}

static void on_stopped(void *front)
{
    dip_rpc_loop_stop(((struct bench_front *)front)->server_loop);
}

static void post_drain(void *front, void *payload)
{
    (void)payload;
    dip_coordinator_daemon_drain(((struct bench_front *)front)->daemon, 0, on_stopped, front);
}

void dip__bench_front_post(struct bench_front *front, dip_rpc_post_fn function, void *context,
                           void *payload)
{
    while (dip_rpc_loop_post(front->server_loop, function, context, payload))
        dip_clock_sleep(DIP_MS_NS);
}

void dip__bench_front_ask(struct bench_front *front, int channel, int64_t deadline_ns,
                          const struct dip_rpc_handler *handler, void *context)
{
    struct dip_rpc_call *call;
    struct dip_rpc_call_options options = {.path = "/diptych.v1.ImageService/Generate",
                                           .deadline_ns = deadline_ns,
                                           .is_patient = true,
                                           .handler = handler,
                                           .context = context};
    void *copy = malloc(front->request_bytes);
    dip_assert(copy);
    memcpy(copy, front->request, front->request_bytes);
    enum dip_status status =
        dip_rpc_call_open(front->channels[channel % BENCH_CHANNELS], &options, &call);
    if (!status)
        status = dip_rpc_call_send(call, copy, front->request_bytes, 0);
    dip_assert(status == DIP_OK); /* a benchmark without memory measures nothing */
    dip_rpc_call_half_close(call);
}

static enum dip_status write_request(struct bench_front *front, int steps)
{
    Diptych__V1__GenerateRequest request = DIPTYCH__V1__GENERATE_REQUEST__INIT;
    Diptych__V1__Sampling sampling = DIPTYCH__V1__SAMPLING__INIT;
    request.prompt = (char *)(uintptr_t) "a red circle beside a small blue square";
    if (steps > 0) {
        sampling.diffusion_steps_presence_case =
            DIPTYCH__V1__SAMPLING__DIFFUSION_STEPS_PRESENCE_DIFFUSION_STEPS;
        sampling.diffusion_steps = (uint32_t)steps;
        request.sampling = &sampling;
    }
    return dip_proto_encode(&request.base, &front->request, &front->request_bytes);
}

static enum dip_status start(struct bench_front *front, const struct bench_front_options *o,
                             struct dip_why *why)
{
    struct dip_rpc_loop_options loop = {.call_count_max = 4 * o->queue,
                                        .timer_count_max = 8 * o->queue};
    char target[64];
    DIP_TRY(write_request(front, o->steps));
    DIP_TRY(dip_rpc_loop_new(&loop, &front->server_loop));
    DIP_TRY(dip_rpc_loop_new(&loop, &front->client_loop));
    struct dip_stub_options stub = o->stub;
    stub.loop = front->server_loop;
    DIP_TRY(dip_stub_new(&stub, &front->stub));
    struct dip_coordinator_daemon_options options = {.loop = front->server_loop,
                                                     .model_directory = o->directory,
                                                     .listen = "127.0.0.1:0",
                                                     .epoch = 1,
                                                     .endpoint = dip_stub_endpoint(front->stub),
                                                     .request_count_max = o->queue,
                                                     .result_count_max = o->results,
                                                     .image_count_max = o->queue};
    DIP_TRY(dip_coordinator_daemon_start(&options, why, &front->daemon));
    dip_stub_join(front->stub, front->daemon);
    snprintf(target, sizeof target, "127.0.0.1:%d", dip_coordinator_daemon_port(front->daemon));
    front->is_running = pthread_create(&front->thread, NULL, server_main, front) == 0;
    if (!front->is_running)
        return dip_fail(why, DIP_NO_MEMORY, "no thread for the coordinator");
    for (int i = 0; i < BENCH_CHANNELS; i++)
        DIP_TRY(dip_rpc_channel_open(
            &(struct dip_rpc_channel_options){.loop = front->client_loop, .target = target}, why,
            &front->channels[i]));
    return DIP_OK;
}

enum dip_status dip__bench_front_open(const struct bench_front_options *options,
                                      struct dip_why *why, struct bench_front *front)
{
    *front = (struct bench_front){0};
    enum dip_status status = start(front, options, why);
    if (status)
        dip__bench_front_close(front);
    return status ? dip_fail(why, status, "cannot measure: %s", dip_status_text(status)) : DIP_OK;
}

void dip__bench_front_close(struct bench_front *front)
{
    for (int i = 0; i < BENCH_CHANNELS; i++)
        if (front->channels[i])
            dip_rpc_channel_close(front->channels[i]);
    if (front->client_loop) {
        dip_rpc_loop_stop(front->client_loop);
        dip_rpc_loop_run(front->client_loop);
    }
    if (front->is_running) {
        dip__bench_front_post(front, post_drain, front, NULL);
        pthread_join(front->thread, NULL);
    }
    dip_coordinator_daemon_free(front->daemon);
    dip_stub_free(front->stub);
    dip_rpc_loop_free(front->client_loop);
    dip_rpc_loop_free(front->server_loop);
    free(front->request);
    *front = (struct bench_front){0};
}

static int by_value(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

double dip__bench_percentile_ms(int64_t *samples, int count, int percent)
{
    if (count == 0)
        return 0;
    qsort(samples, (size_t)count, sizeof samples[0], by_value);
    int64_t rank = (int64_t)(count - 1) * percent / 100;
    return (double)samples[rank] / 1e6;
}
