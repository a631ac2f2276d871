/* coordinator/takeover.c - work from before this coordinator: who holds what, whose it is, who
 * wants it.
 *
 * A worker says with its hello what it holds; a request is known again by its digest, whichever of
 * the two comes first. What a request could have and does not take is forgotten at once, and so is
 * what this coordinator itself gave up: nobody else will ask for that. The rest waits until the
 * worker's time for it is over. */
#include <string.h>

#include "base/assert.h"
#include "coordinator/state.h"

static bool is_set(const unsigned char digest[DIP_DIGEST_BYTES])
{
    static const unsigned char none[DIP_DIGEST_BYTES];
    return memcmp(digest, none, sizeof none) != 0;
}

static struct client **digest_bucket(const struct dip_core *core, const unsigned char *digest)
{
    uint64_t hash;
    memcpy(&hash, digest, sizeof hash);
    return &core->digest_buckets[hash & (core->bucket_count - 1)];
}

void dip__digest_enter(struct dip_core *core, struct client *client)
{
    struct client **bucket = digest_bucket(core, client->origin.digest);
    client->next_digest = *bucket;
    *bucket = client;
}

void dip__digest_remove(struct dip_core *core, const struct client *client)
{
    struct client **at = digest_bucket(core, client->origin.digest);
    while (*at != client)
        at = &(*at)->next_digest;
    *at = client->next_digest;
}

static const struct client *client_of(const struct dip_core *core, const unsigned char *digest)
{
    const struct client *client = is_set(digest) ? *digest_bucket(core, digest) : NULL;
    while (client && memcmp(client->origin.digest, digest, DIP_DIGEST_BYTES) != 0)
        client = client->next_digest;
    return client;
}

/* ---- before the scheduler is fed ---- */

static void offer(struct dip_core *core, const struct client *client, int i)
{
    struct dip_offer *offer = &core->offers[core->offer_count++];
    *offer = core->found[i].offer;
    offer->request_id = client->request_id;
}

static void offer_to_request(struct dip_core *core, int64_t now_ns, struct dip_message *message)
{
    const struct client *client = message->as.submit.client;
    if (message->as.submit.is_check || !is_set(client->origin.digest))
        return;
    core->found_count =
        dip_held_book_find(core->held, now_ns, client->origin.digest, core->found, DIP_HELD_MAX);
    for (int i = 0; i < core->found_count; i++)
        offer(core, client, i);
    message->as.submit.offers = core->offers;
    message->as.submit.offer_count = core->offer_count;
}

static void offer_of_member(struct dip_core *core, int64_t now_ns, struct dip_message *message)
{
    core->found_count =
        dip_held_book_of(core->held, now_ns, message->from, core->found, DIP_HELD_MAX);
    for (int i = 0; i < core->found_count; i++) {
        const struct client *client = client_of(core, core->found[i].digest);
        if (client)
            offer(core, client, i);
    }
    message->as.joined.offers = core->offers;
    message->as.joined.offer_count = core->offer_count;
}

void dip__offers_make(struct dip_core *core, int64_t now_ns, struct dip_message *message)
{
    core->found_count = core->offer_count = 0;
    if (message->kind == DIP_MESSAGE_APPEARED)
        dip_held_book_take(core->held, now_ns, message->from, &message->as.appeared.held);
    else if (message->kind == DIP_MESSAGE_LOST)
        dip_held_book_lose(core->held, message->from);
    else if (message->kind == DIP_MESSAGE_SUBMIT)
        offer_to_request(core, now_ns, message);
    else if (message->kind == DIP_MESSAGE_JOINED)
        offer_of_member(core, now_ns, message);
}

/* ---- after it ---- */

static bool is_wanted_later(const struct dip_core *core, const struct dip_held_entry *entry)
{
    const struct dip_offer *o = &entry->offer;
    if (!dip_scheduler_member(core->scheduler, o->member).is_alive)
        return true; /* it is offered when its member joins */
    return !client_of(core, entry->digest) && o->held_epoch != core->epoch;
}

void dip__offers_settle(struct dip_core *core)
{
    for (int i = 0; i < core->found_count; i++) {
        const struct dip_offer *o = &core->found[i].offer;
        struct dip_message forget = {
            .kind = DIP_MESSAGE_ADOPT,
            .as.adopt = {.held_epoch = o->held_epoch, .held_job_id = o->held_job_id}};
        if (!is_wanted_later(core, &core->found[i]) &&
            dip_held_book_drop(core->held, o->member, o->held_epoch, o->held_job_id))
            dip__core_keep(core, o->member, &forget);
    }
    core->found_count = core->offer_count = 0;
}
