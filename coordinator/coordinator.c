/* coordinator/coordinator.c - the loop: a message in, the scheduler's actions out, one at a time.
 */
#include "coordinator/coordinator.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "coordinator/state.h"

/* ---- clients ---- */

static struct client *client_find(struct dip_coordinator *c, uint64_t request_id)
{
    for (int i = 0; i < c->client_count_max; i++)
        if (c->clients[i].request_id == request_id)
            return &c->clients[i];
    return NULL;
}

/* SUBMIT carries the client's record in; the loop owns it from here. */
static void client_take(struct dip_coordinator *c, const struct dip_message *message)
{
    struct client *record = message->as.submit.client;
    struct client *place = client_find(c, 0);
    dip_assert(place != NULL); /* one more than the scheduler admits; refusals free it at once */
    *place = *record;
    free(record);
}

static void client_free(struct client *client)
{
    dip_resolved_deinit(&client->resolved);
    *client = (struct client){0};
}

/* The ids that the AR panel really starts from belong to the trace. */
static void tell_prompt_ids(const struct client *client, const struct dip_update *base)
{
    struct dip_message_trace trace = {.name = "prompt_ids", .dtype = DIP_I32, .rank = 1};
    trace.dims[0] = (int64_t)(client->resolved.prompt_ids.bytes / sizeof(int32_t));
    trace.data = client->resolved.prompt_ids;
    struct dip_update update = *base;
    update.kind = DIP_UPDATE_TRACE;
    update.trace = &trace;
    client->update(client->context, &update);
}

static void tell_relay(const struct client *client, struct dip_update *update,
                       const struct dip_message *message)
{
    if (message->kind == DIP_MESSAGE_TRACE) {
        update->kind = DIP_UPDATE_TRACE;
        update->trace = &message->as.trace;
    } else {
        update->kind = DIP_UPDATE_PREVIEW;
        update->picture = &message->as.picture;
    }
    client->update(client->context, update);
}

/* Passes one piece of news on. `message` is the one that the scheduler was just fed. */
static void tell(struct dip_coordinator *c, struct client *client, const struct dip_action *action,
                 const struct dip_message *message)
{
    struct dip_update update = {.request_id = action->request_id,
                                .image_index = action->image_index,
                                .stage = action->stage,
                                .done = action->done,
                                .total = action->total,
                                .resolved = &client->resolved,
                                .text = action->text};
    switch (action->kind) {
    case DIP_ACTION_ADMITTED:
        update.kind = DIP_UPDATE_ADMITTED;
        client->update(client->context, &update);
        if (client->resolved.params.is_traced && client->resolved.prompt_ids.bytes > 0)
            tell_prompt_ids(client, &update);
        return;
    case DIP_ACTION_RELAY:
        tell_relay(client, &update, message);
        return;
    case DIP_ACTION_PROGRESS:
        update.kind = DIP_UPDATE_PROGRESS;
        break;
    case DIP_ACTION_RETRIED:
        update.kind = DIP_UPDATE_RETRIED;
        break;
    case DIP_ACTION_IMAGE:
        update.kind = DIP_UPDATE_IMAGE;
        update.picture = &message->as.picture;
        update.timings = &action->timings;
        update.fingerprint = c->fingerprints[message->from];
        break;
    case DIP_ACTION_REFUSED:
        update.kind = DIP_UPDATE_ENDED;
        update.status = DIP_BUSY;
        update.is_refused = true;
        update.text = dip_refusal_text(action->refusal);
        break;
    default:
        dip_assert(action->kind == DIP_ACTION_ENDED);
        update.kind = DIP_UPDATE_ENDED;
        update.status = action->status;
        break;
    }
    client->update(client->context, &update);
    if (update.kind == DIP_UPDATE_ENDED)
        client_free(client);
}

/* ---- the loop ---- */

static void carry_out(struct dip_coordinator *c, const struct dip_action *action,
                      const struct dip_message *message)
{
    struct client *client = action->request_id ? client_find(c, action->request_id) : NULL;
    if (action->kind <= DIP_ACTION_RELEASE) {
        dip__coordinator_send(c, action, client);
        return;
    }
    dip_assert(client != NULL);
    tell(c, client, action, message);
}

static void feed(struct dip_coordinator *c, const struct dip_message *message)
{
    if (message->kind == DIP_MESSAGE_JOINED &&
        message->from < (uint32_t)c->options.limits.member_count_max)
        memcpy(c->fingerprints[message->from], message->as.joined.fingerprint,
               sizeof c->fingerprints[0]);
    dip_scheduler_feed(c->scheduler, dip_clock_now_ns(), message);
    struct dip_action action;
    while (dip_scheduler_next(c->scheduler, &action))
        carry_out(c, &action, message);
}

/* What went wrong while carrying out actions becomes messages of its own. */
static void feed_troubles(struct dip_coordinator *c)
{
    while (c->trouble_count > 0) {
        struct dip_message message = c->troubles[0];
        c->trouble_count--;
        memmove(c->troubles, c->troubles + 1, (size_t)c->trouble_count * sizeof c->troubles[0]);
        feed(c, &message);
    }
}

static void cancel_all(struct dip_coordinator *c)
{
    for (int i = 0; i < c->client_count_max; i++) {
        struct dip_message cancel = {.kind = DIP_MESSAGE_CANCEL,
                                     .request_id = c->clients[i].request_id};
        if (cancel.request_id != 0)
            feed(c, &cancel);
    }
}

static void *loop_main(void *argument)
{
    struct dip_coordinator *c = argument;
    struct dip_message message;
    while (!c->is_stopping) {
        int64_t wait_ns = c->outbox_count > 0 ? DIP_MS_NS : -1;
        enum dip_status status = dip_endpoint_receive(c->endpoint, wait_ns, &message);
        if (status == DIP_CANCELLED || (!status && message.kind == DIP_MESSAGE_STOP)) {
            c->is_stopping = true;
            cancel_all(c);
        } else if (!status) {
            if (message.kind == DIP_MESSAGE_SUBMIT)
                client_take(c, &message);
            feed(c, &message);
            dip_message_release(&message);
        }
        dip__outbox_flush(c);
        feed_troubles(c);
    }
    return NULL;
}

/* ---- start, stop, requests ---- */

static void coordinator_free(struct dip_coordinator *c)
{
    for (int i = 0; i < c->outbox_count; i++)
        dip_message_release(&c->outbox[i].message);
    dip_scheduler_free(c->scheduler);
    free(c->clients);
    free(c->fingerprints);
    free(c->outbox);
    free(c->troubles);
    free(c);
}

enum dip_status dip_coordinator_start(const struct dip_coordinator_options *options,
                                      struct dip_why *why, struct dip_coordinator **ret_coordinator)
{
    enum dip_status status = DIP_NO_MEMORY;
    const struct dip_scheduler_limits *limits = &options->limits;
    struct dip_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the coordinator");
    c->options = *options;
    c->endpoint = options->endpoint;
    c->client_count_max = limits->request_count_max + 1;
    c->clients = calloc((size_t)c->client_count_max, sizeof *c->clients);
    c->fingerprints = calloc((size_t)limits->member_count_max, sizeof *c->fingerprints);
    c->outbox = calloc(OUTBOX_MAX, sizeof *c->outbox);
    /* An image's commands in one turn can fail once for each panel. */
    c->trouble_count_max = 2 * limits->image_count_max + limits->member_count_max;
    c->troubles = calloc((size_t)c->trouble_count_max, sizeof *c->troubles);
    if (c->clients && c->fingerprints && c->outbox && c->troubles)
        status = dip_scheduler_new(limits, &c->scheduler);
    if (!status && pthread_create(&c->loop_thread, NULL, loop_main, c) != 0)
        status = DIP_NO_MEMORY;
    if (status) {
        coordinator_free(c);
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
        if (message.kind == DIP_MESSAGE_SUBMIT) {
            client_free(message.as.submit.client);
            free(message.as.submit.client);
        }
        dip_message_release(&message);
    }
    coordinator_free(c);
}

enum dip_status dip_coordinator_submit(struct dip_coordinator *coordinator,
                                       struct dip_resolved *resolved, dip_update_fn update,
                                       void *context, uint64_t *ret_request_id)
{
    struct client *client = malloc(sizeof *client);
    if (!client)
        return DIP_NO_MEMORY;
    uint64_t request_id = coordinator->request_serial + 1;
    *client = (struct client){
        .request_id = request_id, .resolved = *resolved, .update = update, .context = context};
    struct dip_message message = {
        .kind = DIP_MESSAGE_SUBMIT,
        .request_id = request_id,
        .as.submit = {.image_count = resolved->image_count,
                      .token_count = resolved->params.token_count,
                      .step_count = resolved->params.steps,
                      .has_hidden = resolved->hidden.data != NULL,
                      .forced_ids = resolved->forced_ids.data,
                      .forced_count = (int32_t)(resolved->forced_ids.bytes / sizeof(int32_t)),
                      .client = client},
    };
    enum dip_status status =
        dip_endpoint_send(coordinator->endpoint, coordinator->endpoint->address, &message);
    if (status) {
        free(client);
        return status;
    }
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the message has carried the record away */
    coordinator->request_serial = request_id;
    *resolved = (struct dip_resolved){0}; /* the client record owns it now */
    *ret_request_id = request_id;
    return DIP_OK;
}

enum dip_status dip_coordinator_cancel(struct dip_coordinator *coordinator, uint64_t request_id)
{
    struct dip_message message = {.kind = DIP_MESSAGE_CANCEL, .request_id = request_id};
    return dip_endpoint_send(coordinator->endpoint, coordinator->endpoint->address, &message);
}
