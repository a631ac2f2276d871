/* coordinator/coordinator.c - the core on a thread of its own, for a cluster inside one process. */
#include "coordinator/coordinator.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "coordinator/core.h"

struct dip_coordinator {
    struct dip_endpoint *endpoint;
    pthread_t loop_thread;
    uint64_t request_serial; /* of the submitting thread */
    struct dip_core *core;   /* of the loop thread */
};

static int64_t wait_ns(const struct dip_core *core)
{
    int64_t now_ns = dip_clock_now_ns();
    int64_t wake_ns = dip_core_wake_ns(core, now_ns);
    if (wake_ns == INT64_MAX)
        return -1;
    return wake_ns > now_ns ? wake_ns - now_ns : 0;
}

static void *loop_main(void *argument)
{
    struct dip_coordinator *c = argument;
    struct dip_message message;
    for (;;) {
        enum dip_status status = dip_endpoint_receive(c->endpoint, wait_ns(c->core), &message);
        int64_t now_ns = dip_clock_now_ns();
        if (status == DIP_CANCELLED || (!status && message.kind == DIP_MESSAGE_STOP)) {
            dip_core_cancel_all(c->core, now_ns);
            return NULL;
        }
        if (status) {
            dip_core_tick(c->core, now_ns);
            continue;
        }
        dip_core_feed(c->core, now_ns, &message);
        dip_message_release(&message);
    }
}

enum dip_status dip_coordinator_start(const struct dip_coordinator_options *options,
                                      struct dip_why *why, struct dip_coordinator **ret_coordinator)
{
    struct dip_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the coordinator");
    c->endpoint = options->endpoint;
    enum dip_status status =
        dip_core_new(&(struct dip_core_options){.endpoint = options->endpoint,
                                                .limits = options->limits,
                                                .checkpoint_every = options->checkpoint_every},
                     &c->core);
    if (!status && pthread_create(&c->loop_thread, NULL, loop_main, c) != 0)
        status = DIP_NO_MEMORY;
    if (status) {
        dip_core_free(c->core);
        free(c);
        return dip_fail(why, status, "cannot start the coordinator: %s", dip_status_text(status));
    }
    *ret_coordinator = c;
    return DIP_OK;
}

void dip_coordinator_stop(struct dip_coordinator *coordinator)
{
    struct dip_coordinator *c = coordinator;
    if (!c)
        return;
    struct dip_message message = {.kind = DIP_MESSAGE_STOP};
    while (dip_endpoint_send(c->endpoint, c->endpoint->address, &message) == DIP_BUSY)
        dip_clock_sleep(DIP_MS_NS);
    pthread_join(c->loop_thread, NULL);
    dip_endpoint_close(c->endpoint); /* workers that still post are told that nobody listens */
    while (!dip_endpoint_receive(c->endpoint, 0, &message)) {
        if (message.kind == DIP_MESSAGE_SUBMIT)
            dip_core_message_drop(&message);
        dip_message_release(&message);
    }
    dip_core_free(c->core);
    free(c);
}

enum dip_status dip_coordinator_submit(struct dip_coordinator *coordinator,
                                       struct dip_resolved *resolved, dip_update_fn update,
                                       void *context, uint64_t *ret_request_id)
{
    struct dip_message message;
    uint64_t request_id = coordinator->request_serial + 1;
    struct dip_resolved taken = *resolved;
    struct dip_core_request request = {
        .id = request_id, .resolved = &taken, .update = update, .context = context};
    DIP_TRY(dip_core_message(&request, &message));
    enum dip_status status =
        dip_endpoint_send(coordinator->endpoint, coordinator->endpoint->address, &message);
    if (status) {
        dip_core_message_abandon(&message);
        return status;
    }
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the message has carried the record away */
    coordinator->request_serial = request_id;
    *resolved = (struct dip_resolved){0};
    *ret_request_id = request_id;
    return DIP_OK;
}

enum dip_status dip_coordinator_cancel(struct dip_coordinator *coordinator, uint64_t request_id)
{
    struct dip_message message = {.kind = DIP_MESSAGE_CANCEL, .request_id = request_id};
    return dip_endpoint_send(coordinator->endpoint, coordinator->endpoint->address, &message);
}
