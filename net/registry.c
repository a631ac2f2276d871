/* net/registry.c - the loop's side of a registry: wishes out, news in, callbacks. */
#include "net/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/etcd.h"
#include "net/registry_private.h"

/* ---- news ---- */

static bool is_same_leader(const struct dip_registry_facts *a, const struct dip_registry_facts *b)
{
    return a->has_leader == b->has_leader && a->leader_epoch == b->leader_epoch &&
           strcmp(a->leader.id, b->leader.id) == 0 &&
           strcmp(a->leader.address, b->leader.address) == 0;
}

static void tell_leading(struct dip_registry *r, uint64_t epoch)
{
    if (epoch == r->told_epoch)
        return;
    r->told_epoch = epoch;
    if (r->handler->on_leading)
        r->handler->on_leading(r->context, epoch);
}

static void tell(struct dip_registry *r, const struct dip_registry_facts *before,
                 bool has_new_members)
{
    const struct dip_registry_handler *h = r->handler;
    const struct dip_registry_facts *facts = &r->facts;
    if (facts->epoch != r->told_epoch)
        tell_leading(r, 0); /* also between two terms of our own */
    if (h->on_leader && !is_same_leader(before, facts))
        h->on_leader(r->context, facts->has_leader ? &facts->leader : NULL, facts->leader_epoch);
    if (h->on_members && has_new_members)
        h->on_members(r->context);
    if (h->on_health && (before->is_degraded != facts->is_degraded ||
                         (facts->is_degraded && strcmp(before->why, facts->why) != 0)))
        h->on_health(r->context, facts->is_degraded, facts->why);
    tell_leading(r, facts->epoch);
}

void dip__registry_take(void *registry, void *unused)
{
    (void)unused;
    struct dip_registry *r = registry;
    struct dip_registry_facts before = r->facts;
    struct registry_news *news = &r->posted;
    struct registry_written written[REGISTRY_WRITTEN_MAX];
    int written_count = news->written_count;
    bool has_left = news->has_left;
    bool has_new_members = news->members != NULL;
    r->facts = news->facts;
    if (has_new_members) {
        free(r->members);
        r->members = news->members;
        news->members = NULL;
    }
    memcpy(written, news->written, (size_t)written_count * sizeof written[0]);
    dip_flag_lower(&r->is_posted); /* the thread may write there from here on */
    struct registry_wish look = {.kind = WISH_LOOK};
    if (!has_left && dip_mailbox_push(r->wishes, &look) == DIP_OK)
        dip_kv_wake(r->kv); /* else it is about to look anyway */
    tell(r, &before, has_new_members);
    for (int i = 0; i < written_count && r->handler->on_written; i++)
        r->handler->on_written(r->context, written[i].id, written[i].status);
    if (has_left && r->handler->on_left)
        r->handler->on_left(r->context); /* may free */
}

/* ---- what is known ---- */

const struct dip_registry_facts *dip_registry_facts(const struct dip_registry *registry)
{
    return &registry->facts;
}

const struct dip_times *dip_registry_times(const struct dip_registry *registry,
                                           enum dip_kv_kind kind)
{
    return &registry->times[kind];
}

bool dip_registry_is_leading(const struct dip_registry *registry, int64_t now_ns)
{
    return registry->facts.epoch != 0 && now_ns < registry->facts.lead_until_ns;
}

const struct dip_registry_entry *dip_registry_entry(const struct dip_registry *registry, int index)
{
    dip_assert(index >= 0 && index < registry->facts.member_count);
    return &registry->members->entries[index];
}

const struct dip_registry_entry *dip_registry_find(const struct dip_registry *registry,
                                                   const char *id)
{
    for (int i = 0; i < registry->facts.member_count; i++)
        if (strcmp(registry->members->entries[i].member.id, id) == 0)
            return &registry->members->entries[i];
    return NULL;
}

/* ---- wishes ---- */

/* A wish that must arrive: the mailbox is emptied by a thread that never waits for us. */
static void insist(struct dip_registry *r, struct registry_wish w)
{
    while (dip_mailbox_push(r->wishes, &w)) {
        dip_kv_wake(r->kv);
        dip_clock_sleep(DIP_MS_NS);
    }
    dip_kv_wake(r->kv);
}

/* `value` is copied; NULL = none. */
static enum dip_status wish(struct dip_registry *r, enum dip_membership_event_kind event,
                            const char *id, const char *value)
{
    struct registry_wish w = {.kind = WISH_FEED, .event = event};
    dip_assert(dip_rpc_loop_is_mine(r->loop));
    if (r->is_leaving)
        return DIP_BUSY;
    if (strlen(id) >= sizeof w.id)
        return DIP_INVALID;
    memcpy(w.id, id, strlen(id) + 1);
    w.value = value ? strdup(value) : NULL;
    if (value && !w.value)
        return DIP_NO_MEMORY;
    enum dip_status status = dip_mailbox_push(r->wishes, &w);
    if (status)
        free(w.value);
    else
        dip_kv_wake(r->kv);
    return status;
}

enum dip_status dip_registry_register(struct dip_registry *registry,
                                      const struct dip_registry_member *member)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_member mine = *member;
    memcpy(mine.id, registry->id, sizeof mine.id);
    DIP_TRY(dip_registry_encode_member(&mine, value));
    return wish(registry, DIP_MEMBERSHIP_REGISTER, "", value);
}

enum dip_status dip_registry_campaign(struct dip_registry *registry, const char *address)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    struct dip_registry_leader leader = {0};
    if (strlen(address) >= sizeof leader.address)
        return DIP_INVALID;
    memcpy(leader.id, registry->id, sizeof leader.id);
    memcpy(leader.address, address, strlen(address) + 1);
    DIP_TRY(dip_registry_encode_leader(&leader, value));
    return wish(registry, DIP_MEMBERSHIP_CAMPAIGN, "", value);
}

enum dip_status dip_registry_resign(struct dip_registry *registry)
{
    return wish(registry, DIP_MEMBERSHIP_RESIGN, "", NULL);
}

enum dip_status dip_registry_drain(struct dip_registry *registry, const char *id,
                                   const struct dip_registry_drain *drain)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    if (!drain)
        return wish(registry, DIP_MEMBERSHIP_DRAIN, id, NULL);
    DIP_TRY(dip_registry_encode_drain(drain, value));
    return wish(registry, DIP_MEMBERSHIP_DRAIN, id, value);
}

enum dip_status dip_registry_group(struct dip_registry *registry,
                                   const struct dip_registry_group *group)
{
    char value[DIP_MEMBER_VALUE_BYTES];
    DIP_TRY(dip_registry_encode_group(group, value));
    return wish(registry, DIP_MEMBERSHIP_GROUP, group->id, value);
}

enum dip_status dip_registry_ungroup(struct dip_registry *registry, const char *id)
{
    return wish(registry, DIP_MEMBERSHIP_GROUP, id, NULL);
}

void dip_registry_leave(struct dip_registry *registry, int64_t grace_ns)
{
    if (registry->is_leaving)
        return;
    registry->is_leaving = true;
    int64_t until_ns = dip_clock_now_ns() + grace_ns;
    insist(registry, (struct registry_wish){.kind = WISH_LEAVE, .until_ns = until_ns});
}

/* ---- opening ---- */

static enum dip_status open_store(struct dip_registry *r,
                                  const struct dip_registry_options *options, uint64_t seed,
                                  struct dip_why *why)
{
    if (options->endpoints)
        return dip_etcd_open(&(struct dip_etcd_options){.endpoints = options->endpoints,
                                                        .ca = options->ca,
                                                        .cert = options->cert,
                                                        .key = options->key,
                                                        .user = options->user,
                                                        .password = options->password,
                                                        .seed = seed},
                             why, &r->kv);
    r->is_local = true;
    DIP_TRY(dip_kv_store_new(&(struct dip_kv_store_options){0}, &r->store));
    return dip_kv_store_open(r->store, &r->kv);
}

static enum dip_status open_membership(struct dip_registry *r,
                                       const struct dip_registry_options *options, uint64_t seed)
{
    char prefix[96];
    size_t bytes = strlen(options->cluster_id);
    if (bytes == 0 || bytes > 64 || strpbrk(options->cluster_id, "/ ") ||
        strlen(options->id) >= sizeof r->id)
        return DIP_INVALID;
    memcpy(r->id, options->id, strlen(options->id) + 1);
    snprintf(prefix, sizeof prefix, "/diptych/%s", options->cluster_id);
    return dip_membership_new(
        &(struct dip_membership_options){.prefix = prefix,
                                         .id = options->id,
                                         .member_ttl_s = options->member_ttl_s,
                                         .leader_ttl_s = options->leader_ttl_s,
                                         .seed = seed},
        &r->membership);
}

enum dip_status dip_registry_open(const struct dip_registry_options *options, struct dip_why *why,
                                  struct dip_registry **ret_registry)
{
    uint64_t seed = options->seed ? options->seed : dip_entropy_seed();
    struct dip_registry *r = calloc(1, sizeof *r);
    enum dip_status status = DIP_NO_MEMORY;
    if (!r)
        goto out;
    r->loop = options->loop;
    r->handler = options->handler;
    r->context = options->context;
    status = open_membership(r, options, seed);
    if (status == DIP_INVALID)
        (void)dip_fail(why, status,
                       "the registry takes ids of letters, digits, '.', '_' and '-', up to 63; "
                       "got \"%.64s\" in cluster \"%.64s\"",
                       options->id, options->cluster_id);
    if (status)
        goto out;
    status = open_store(r, options, seed, why);
    if (status)
        goto out;
    status = dip_mailbox_new(sizeof(struct registry_wish), REGISTRY_WISHES_MAX, &r->wishes);
    if (status)
        goto out;
    r->is_started = pthread_create(&r->thread, NULL, dip__registry_main, r) == 0;
    status = r->is_started ? DIP_OK : DIP_NO_MEMORY;
    if (status)
        goto out;
    *ret_registry = r;
    r = NULL;
out:
    dip_registry_free(r);
    if (status == DIP_NO_MEMORY)
        (void)dip_fail(why, status, "the registry: out of memory or threads");
    return status;
}

void dip_registry_free(struct dip_registry *registry)
{
    struct dip_registry *r = registry;
    struct registry_wish wish;
    if (!r)
        return;
    if (r->is_started) {
        insist(r, (struct registry_wish){.kind = WISH_QUIT});
        pthread_join(r->thread, NULL);
    }
    while (r->wishes && dip_mailbox_pop(r->wishes, 0, &wish) == DIP_OK)
        free(wish.value);
    if (r->kv)
        dip_kv_close(r->kv);
    dip_kv_store_free(r->store);
    dip_mailbox_free(r->wishes);
    dip_membership_free(r->membership);
    free(r->posted.members);
    free(r->next.members);
    free(r->members);
    free(r);
}
