/* coordinator/core.c - a message in, the scheduler's actions out, one at a time. */
#include "coordinator/core.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/state.h"

/* ---- clients ---- */

static struct client **bucket_of(const struct dip_core *core, uint64_t request_id)
{
    /* Ids are given in turn, so that neighbours fall into different buckets by themselves. */
    return &core->buckets[request_id & (core->bucket_count - 1)];
}

static struct client *client_find(const struct dip_core *core, uint64_t request_id)
{
    struct client *client = *bucket_of(core, request_id);
    while (client && client->request_id != request_id)
        client = client->next;
    return client;
}

/* SUBMIT carries the client's record in; the core owns it from here. */
static void client_take(struct dip_core *core, struct dip_message *message)
{
    struct client *record = message->as.submit.client;
    struct client *place = core->free_clients;
    dip_assert(place != NULL); /* one more than the scheduler admits; refusals free it at once */
    core->free_clients = place->next;
    *place = *record;
    struct client **bucket = bucket_of(core, place->request_id);
    place->next = *bucket;
    *bucket = place;
    dip__digest_enter(core, place);
    free(record);
    message->as.submit.client = NULL;
}

static void client_free(struct dip_core *core, struct client *client)
{
    for (int i = 0; i < client->resolved.image_count; i++)
        dip__checkpoint_drop(core, client, i);
    struct client **at = bucket_of(core, client->request_id);
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    dip__digest_remove(core, client);
    dip_resolved_deinit(&client->resolved);
    free(client->places);
    *client = (struct client){.next = core->free_clients};
    core->free_clients = client;
}

enum dip_status dip_core_message(const struct dip_core_request *request,
                                 struct dip_message *ret_message)
{
    struct client *client = malloc(sizeof *client);
    struct dip_resolved *resolved = request->resolved;
    struct place *places = calloc((size_t)resolved->image_count, sizeof *places);
    if (!client || !places) {
        free(client);
        free(places);
        return DIP_NO_MEMORY;
    }
    *client = (struct client){.request_id = request->id,
                              .places = places,
                              .resolved = *resolved,
                              .update = request->update,
                              .context = request->context};
    if (request->origin)
        client->origin = *request->origin;
    *ret_message = (struct dip_message){
        .kind = DIP_MESSAGE_SUBMIT,
        .request_id = request->id,
        .as.submit = {.image_count = resolved->image_count,
                      .token_count = resolved->params.token_count,
                      .step_count = resolved->params.steps,
                      .has_hidden = resolved->hidden.data != NULL,
                      .forced_ids = resolved->forced_ids.data,
                      .forced_count = (int32_t)(resolved->forced_ids.bytes / sizeof(int32_t)),
                      .priority = request->priority,
                      .tenant = request->tenant,
                      .deadline_ns = request->deadline_ns,
                      .begin_by_ns = request->begin_by_ns,
                      .is_check = request->is_check,
                      .ticket = request->ticket,
                      .client = client},
    };
    *resolved = (struct dip_resolved){0}; /* the client record owns it now */
    return DIP_OK;
}

void dip_core_message_drop(struct dip_message *message)
{
    struct client *client = message->as.submit.client;
    dip_resolved_deinit(&client->resolved);
    free(client->places);
    free(client);
    message->as.submit.client = NULL;
}

void dip_core_message_abandon(struct dip_message *message)
{
    struct client *client = message->as.submit.client;
    client->resolved = (struct dip_resolved){0};
    dip_core_message_drop(message);
}

/* ---- one message ---- */

/* Who has been given what, for lists. */
static void place_note(struct dip_core *core, struct client *client,
                       const struct dip_action *action)
{
    struct place *place = &client->places[action->image_index];
    switch (action->kind) {
    case DIP_ACTION_AR:
        place->ar = action->member;
        place->diffusion = 0;
        break;
    case DIP_ACTION_DIFFUSION:
        place->diffusion = action->member;
        break;
    case DIP_ACTION_ADOPT:
        place->ar = action->held_stage <= DIP_HELD_HINGE ? action->member : place->ar;
        place->diffusion = action->held_stage > DIP_HELD_HINGE ? action->member : 0;
        break;
    case DIP_ACTION_IMAGE:
        dip__checkpoint_drop(core, client, action->image_index);
        *place = (struct place){.ar = 0};
        break;
    default:
        break;
    }
}

int dip_core_members(const struct dip_core *core, uint64_t request_id, uint32_t *ret_members,
                     int member_count_max)
{
    const struct client *client = client_find(core, request_id);
    int count = 0;
    for (int i = 0; client && i < 2 * client->resolved.image_count; i++) {
        const struct place *place = &client->places[i / 2];
        uint32_t member = i % 2 ? place->diffusion : place->ar;
        int known = 0;
        while (known < count && ret_members[known] != member)
            known++;
        if (member != 0 && known == count && count < member_count_max)
            ret_members[count++] = member;
    }
    return count;
}

static void carry_out(struct dip_core *core, const struct dip_action *action,
                      struct dip_message *message)
{
    struct client *client = action->request_id ? client_find(core, action->request_id) : NULL;
    if (action->kind == DIP_ACTION_DRAINED)
        return; /* whoever shows members asks the scheduler */
    if (client)
        place_note(core, client, action);
    if (action->kind <= DIP_ACTION_RELEASE) {
        dip__core_send(core, action, client);
        if (action->kind == DIP_ACTION_ADOPT)
            dip__core_tell(core, client, action, message);
        return;
    }
    dip_assert(client != NULL);
    dip__core_tell(core, client, action, message);
    if (action->kind == DIP_ACTION_ENDED || action->kind == DIP_ACTION_REFUSED)
        client_free(core, client);
}

static void feed(struct dip_core *core, int64_t now_ns, struct dip_message *message)
{
    bool is_known = message->from < (uint32_t)core->options.limits.member_count_max;
    if (message->kind == DIP_MESSAGE_JOINED && is_known)
        memcpy(core->fingerprints[message->from], message->as.joined.fingerprint,
               sizeof core->fingerprints[0]);
    if (message->kind == DIP_MESSAGE_APPEARED && is_known) {
        const struct dip_member_facts *facts = message->as.appeared.facts.data;
        core->protocols[message->from] = facts ? facts->protocol : 0;
    }
    if (message->kind == DIP_MESSAGE_LOST && is_known)
        dip__outbox_drop(core, message->from);
    if (is_known)
        dip__offers_make(core, now_ns, message);
    if (message->kind == DIP_MESSAGE_SUBMIT)
        client_take(core, message);
    dip_scheduler_feed(core->scheduler, now_ns, message);
    struct dip_action action;
    while (dip_scheduler_next(core->scheduler, &action))
        carry_out(core, &action, message);
    dip__offers_settle(core);
}

/* What went wrong while carrying out actions becomes messages of its own. */
static void feed_troubles(struct dip_core *core, int64_t now_ns)
{
    while (core->trouble_count > 0) {
        struct dip_message message = core->troubles[0];
        core->trouble_count--;
        memmove(core->troubles, core->troubles + 1,
                (size_t)core->trouble_count * sizeof core->troubles[0]);
        feed(core, now_ns, &message);
    }
}

void dip_core_feed(struct dip_core *core, int64_t now_ns, struct dip_message *message)
{
    feed(core, now_ns, message);
    if (core->outbox_count > 0)
        dip__outbox_flush(core);
    feed_troubles(core, now_ns);
}

enum dip_status dip_core_submit(struct dip_core *core, int64_t now_ns,
                                const struct dip_core_request *request)
{
    struct dip_message message;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the message carries the record to client_take */
    DIP_TRY(dip_core_message(request, &message));
    dip_core_feed(core, now_ns, &message);
    return DIP_OK;
}

void dip_core_cancel(struct dip_core *core, int64_t now_ns, uint64_t request_id)
{
    struct dip_message message = {.kind = DIP_MESSAGE_CANCEL, .request_id = request_id};
    dip_core_feed(core, now_ns, &message);
}

void dip_core_cancel_all(struct dip_core *core, int64_t now_ns)
{
    for (int i = 0; i < core->client_count_max; i++)
        if (core->clients[i].request_id != 0)
            dip_core_cancel(core, now_ns, core->clients[i].request_id);
}

void dip_core_send(struct dip_core *core, uint32_t member, struct dip_message *message)
{
    dip__core_keep(core, member, message);
}

void dip_core_set_epoch(struct dip_core *core, uint64_t epoch)
{
    core->epoch = epoch;
}

int dip_core_sweep(struct dip_core *core, int64_t now_ns)
{
    dip_held_book_expire(core->held, now_ns);
    return dip_held_book_count(core->held);
}

/* ---- time ---- */

void dip_core_tick(struct dip_core *core, int64_t now_ns)
{
    struct dip_message message = {.kind = DIP_MESSAGE_TICK};
    dip_core_feed(core, now_ns, &message);
}

int64_t dip_core_wake_ns(const struct dip_core *core, int64_t now_ns)
{
    int64_t outbox_ns = core->outbox_count > 0 ? now_ns + DIP_MS_NS : INT64_MAX;
    int64_t scheduler_ns = dip_scheduler_wake_ns(core->scheduler);
    return outbox_ns < scheduler_ns ? outbox_ns : scheduler_ns;
}

void dip_core_expect_workers(struct dip_core *core, int64_t until_ns)
{
    dip_scheduler_expect_workers(core->scheduler, until_ns);
}

const struct dip_scheduler *dip_core_scheduler(const struct dip_core *core)
{
    return core->scheduler;
}

/* ---- new, free ---- */

static bool core_reserve(struct dip_core *core, const struct dip_scheduler_limits *limits)
{
    core->client_count_max = limits->request_count_max + 1;
    core->bucket_count = 1;
    while (core->bucket_count < (uint64_t)core->client_count_max)
        core->bucket_count *= 2;
    core->clients = calloc((size_t)core->client_count_max, sizeof *core->clients);
    core->buckets = calloc(core->bucket_count, sizeof(struct client *));
    core->digest_buckets = calloc(core->bucket_count, sizeof(struct client *));
    core->found = calloc(DIP_HELD_MAX, sizeof *core->found);
    core->offers = calloc(DIP_HELD_MAX, sizeof *core->offers);
    core->fingerprints = calloc((size_t)limits->member_count_max, sizeof *core->fingerprints);
    core->protocols = calloc((size_t)limits->member_count_max, sizeof *core->protocols);
    core->members = calloc((size_t)limits->member_count_max, sizeof *core->members);
    core->outbox = calloc(OUTBOX_MAX, sizeof *core->outbox);
    /* In one turn an image's commands can fail once for each panel, a member can be lost once, and
     * a request can be given up once. */
    core->trouble_count_max =
        2 * limits->image_count_max + limits->member_count_max + core->client_count_max;
    core->troubles = calloc((size_t)core->trouble_count_max, sizeof *core->troubles);
    return core->clients && core->buckets && core->digest_buckets && core->found && core->offers &&
           core->fingerprints && core->protocols && core->members && core->outbox && core->troubles;
}

enum dip_status dip_core_new(const struct dip_core_options *options, struct dip_core **ret_core)
{
    struct dip_core *core = calloc(1, sizeof *core);
    if (!core)
        return DIP_NO_MEMORY;
    core->options = *options;
    core->endpoint = options->endpoint;
    enum dip_status status = DIP_NO_MEMORY;
    if (core_reserve(core, &options->limits))
        status = dip_scheduler_new(&options->limits, &core->scheduler);
    if (!status)
        status = dip_held_book_new(HELD_OF_ALL_MAX, options->limits.member_count_max, &core->held);
    if (status) {
        dip_core_free(core);
        return status;
    }
    for (int i = core->client_count_max - 1; i >= 0; i--) {
        core->clients[i].next = core->free_clients;
        core->free_clients = &core->clients[i];
    }
    *ret_core = core;
    return DIP_OK;
}

void dip_core_free(struct dip_core *core)
{
    if (!core)
        return;
    for (int i = 0; i < core->outbox_count; i++)
        dip_message_release(&core->outbox[i].message);
    for (int i = 0; core->clients && i < core->client_count_max; i++) {
        for (int k = 0; k < core->clients[i].resolved.image_count; k++)
            dip__checkpoint_drop(core, &core->clients[i], k);
        dip_resolved_deinit(&core->clients[i].resolved);
        free(core->clients[i].places);
    }
    dip_scheduler_free(core->scheduler);
    dip_held_book_free(core->held);
    free(core->digest_buckets);
    free(core->found);
    free(core->offers);
    free(core->clients);
    free(core->buckets);
    free(core->fingerprints);
    free(core->protocols);
    free(core->members);
    free(core->outbox);
    free(core->troubles);
    free(core);
}
