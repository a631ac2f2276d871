/* net/registry_thread.c - the thread that asks the store: carries out what membership wants, and
 * collects what changes until the loop can take it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/registry_private.h"

#define WAIT_NS_MAX DIP_SECOND_NS

/* ---- membership ---- */

static void note_written(struct dip_registry *r, const char *id, enum dip_status status)
{
    struct registry_news *next = &r->next;
    if (next->written_count == REGISTRY_WRITTEN_MAX)
        return; /* the loop has not looked for long; nothing waits for this but a person */
    struct registry_written *written = &next->written[next->written_count++];
    snprintf(written->id, sizeof written->id, "%s", id);
    written->status = status;
    r->is_news = true;
}

static void note_sent(struct dip_registry *r, const struct dip_kv_request *request)
{
    size_t place = request->id & (REGISTRY_SENT_MAX - 1);
    r->sent[place].id = request->kind == DIP_KV_WATCH ? 0 : request->id;
    r->sent[place].at_ns = dip_clock_now_ns();
}

static void note_answered(struct dip_registry *r, const struct dip_kv_reply *reply)
{
    size_t place = reply->id & (REGISTRY_SENT_MAX - 1);
    if (reply->id == 0 || r->sent[place].id != reply->id)
        return;
    r->sent[place].id = 0;
    dip_times_add(&r->times[reply->kind], dip_clock_now_ns() - r->sent[place].at_ns);
}

static void send(struct dip_registry *r, const struct dip_kv_request *request)
{
    bool is_revoke = request->kind == DIP_KV_REVOKE && r->leave_until_ns != 0;
    note_sent(r, request);
    if (dip_kv_send(r->kv, dip_clock_now_ns(), request)) {
        dip_assert(r->failed_count < REGISTRY_FAILED_MAX);
        r->failed_ids[r->failed_count++] = request->id;
    } else if (is_revoke) {
        r->revoke_ids[r->revoke_ids[0] != 0] = request->id;
    }
}

static void carry_out(struct dip_registry *r)
{
    struct dip_membership_action action;
    while (dip_membership_next(r->membership, &action)) {
        switch (action.kind) {
        case DIP_MEMBERSHIP_SEND:
            send(r, &action.request);
            break;
        case DIP_MEMBERSHIP_CANCEL:
            dip_kv_cancel(r->kv, action.request.id);
            break;
        case DIP_MEMBERSHIP_JOINED:
        case DIP_MEMBERSHIP_CHANGED:
        case DIP_MEMBERSHIP_LEFT:
        case DIP_MEMBERSHIP_DRAIN_SET:
        case DIP_MEMBERSHIP_DRAIN_CLEARED:
            r->is_members_news = true;
            break;
        case DIP_MEMBERSHIP_WRITTEN:
            note_written(r, action.entry.id, action.status);
            break;
        default:
            break; /* what else there is stands in the facts */
        }
    }
}

static enum dip_status feed(struct dip_registry *r, const struct dip_membership_event *event)
{
    enum dip_status status = dip_membership_feed(r->membership, dip_clock_now_ns(), event);
    carry_out(r);
    while (r->failed_count > 0) {
        struct dip_kv_reply reply = {
            .id = r->failed_ids[--r->failed_count], .status = DIP_BUSY, .is_last = true};
        struct dip_membership_event failed = {.kind = DIP_MEMBERSHIP_REPLY, .reply = &reply};
        enum dip_status fed = dip_membership_feed(r->membership, dip_clock_now_ns(), &failed);
        dip_assert(fed == DIP_OK); /* of a reply */
        carry_out(r);
    }
    return status;
}

/* ---- wishes ---- */

static void take_wish(struct dip_registry *r, const struct registry_wish *wish)
{
    struct dip_membership_event event = {.kind = wish->event, .id = wish->id, .value = wish->value};
    bool is_write = wish->event == DIP_MEMBERSHIP_DRAIN || wish->event == DIP_MEMBERSHIP_GROUP;
    enum dip_status status;
    switch (wish->kind) {
    case WISH_FEED:
        status = feed(r, &event);
        if (status && is_write)
            note_written(r, wish->id, status);
        break;
    case WISH_LEAVE:
        r->leave_until_ns = wish->until_ns;
        event.kind = DIP_MEMBERSHIP_LEAVE;
        (void)feed(r, &event);
        break;
    case WISH_QUIT:
        r->is_quitting = true;
        break;
    case WISH_LOOK:
        break;
    }
    free(wish->value);
}

static void take_wishes(struct dip_registry *r, int64_t wait_ns)
{
    struct registry_wish wish;
    for (int i = 0; i < REGISTRY_WISHES_MAX; i++) {
        if (dip_mailbox_pop(r->wishes, i == 0 ? wait_ns : 0, &wish))
            return;
        take_wish(r, &wish);
    }
}

/* ---- news ---- */

/* False when memory is out: it is tried again. */
static bool copy_members(struct dip_registry *r)
{
    struct dip_membership_entry entry;
    int count = 0;
    for (int cursor = 0; dip_membership_member(r->membership, &cursor, &entry);)
        count++;
    struct registry_members *members =
        calloc(1, sizeof *members + (size_t)count * sizeof members->entries[0]);
    if (!members)
        return false;
    for (int cursor = 0; dip_membership_member(r->membership, &cursor, &entry);) {
        struct dip_registry_entry *e = &members->entries[members->count];
        if (dip_registry_decode_member(entry.id, entry.value, NULL, &e->member))
            continue;
        const char *drain = dip_membership_drain(r->membership, entry.id);
        e->incarnation = entry.incarnation;
        e->is_drain_wished = drain != NULL; /* by its key: also when the words are unreadable */
        if (drain && dip_registry_decode_drain(drain, NULL, &e->drain))
            e->drain = (struct dip_registry_drain){0};
        members->count++;
    }
    free(r->next.members);
    r->next.members = members;
    r->next.facts.member_count = members->count;
    r->next.facts.refused_count = count - members->count;
    return true;
}

static void collect_facts(struct dip_registry *r)
{
    struct dip_registry_facts *facts = &r->next.facts;
    struct dip_membership_facts now = dip_membership_facts(r->membership, dip_clock_now_ns());
    struct dip_membership_entry leader;
    facts->is_listed = now.is_listed;
    facts->is_registered = now.is_registered;
    facts->incarnation = now.incarnation;
    facts->epoch = (uint64_t)now.epoch;
    facts->lead_until_ns = now.lead_until_ns;
    facts->member_lease_ns = now.member_lease_ns;
    facts->leader_lease_ns = now.leader_lease_ns;
    facts->relists = now.relists;
    facts->is_degraded = now.is_degraded;
    facts->revision = now.revision;
    memset(facts->why, 0, sizeof facts->why);
    memcpy(facts->why, now.why, strnlen(now.why, sizeof facts->why - 1));
    memset(&facts->leader, 0, sizeof facts->leader);
    facts->has_leader = dip_membership_leader(r->membership, &leader) &&
                        dip_registry_decode_leader(leader.value, NULL, &facts->leader) == DIP_OK;
    facts->leader_epoch = facts->has_leader ? (uint64_t)leader.incarnation : 0;
}

/* But for the counts, which come with the members. */
static bool is_same(const struct dip_registry_facts *a, const struct dip_registry_facts *b)
{
    return a->is_listed == b->is_listed && a->is_registered == b->is_registered &&
           a->incarnation == b->incarnation && a->epoch == b->epoch &&
           a->lead_until_ns == b->lead_until_ns && a->member_lease_ns == b->member_lease_ns &&
           a->leader_lease_ns == b->leader_lease_ns && a->relists == b->relists &&
           a->has_leader == b->has_leader && a->leader_epoch == b->leader_epoch &&
           strcmp(a->leader.id, b->leader.id) == 0 &&
           strcmp(a->leader.address, b->leader.address) == 0 && a->is_degraded == b->is_degraded &&
           strcmp(a->why, b->why) == 0 && a->revision == b->revision;
}

/* Hands over what is new, unless the loop still has the last ones. */
static void publish(struct dip_registry *r)
{
    collect_facts(r);
    r->is_news = r->is_news || r->is_members_news || !is_same(&r->next.facts, &r->last);
    if (!r->is_news || dip_flag_is_raised(&r->is_posted))
        return;
    if (r->is_members_news && !copy_members(r))
        return;
    r->posted = r->next;
    dip_flag_raise(&r->is_posted);
    if (dip_rpc_loop_post(r->loop, dip__registry_take, r, NULL)) {
        r->posted.members = NULL;
        dip_flag_lower(&r->is_posted); /* the loop is behind: the same again later */
        return;
    }
    r->last = r->next.facts;
    r->next.members = NULL;
    r->next.written_count = 0;
    r->is_news = false;
    r->is_members_news = false;
}

/* ---- the end ---- */

static void check_left(struct dip_registry *r, int64_t now_ns)
{
    bool is_answered = r->revoke_ids[0] == 0 && r->revoke_ids[1] == 0;
    if (r->leave_until_ns == 0 || (!is_answered && now_ns < r->leave_until_ns))
        return;
    r->next.has_left = true;
    r->is_news = true;
    r->is_quitting = true;
}

/* The last news must arrive; everything before them has been taken then. */
static void publish_end(struct dip_registry *r)
{
    struct registry_wish wish;
    bool is_wanted = r->next.has_left;
    while (is_wanted && (r->is_news || dip_flag_is_raised(&r->is_posted))) {
        publish(r);
        if (dip_mailbox_pop(r->wishes, 10 * DIP_MS_NS, &wish))
            continue;
        is_wanted = wish.kind != WISH_QUIT; /* nobody runs the loop any more */
        free(wish.value);
    }
}

void *dip__registry_main(void *registry)
{
    struct dip_registry *r = registry;
    while (!r->is_quitting) {
        struct dip_kv_reply reply;
        int64_t now_ns = dip_clock_now_ns();
        int64_t wait_ns = dip_membership_wake_ns(r->membership) - now_ns;
        wait_ns = wait_ns < 0 ? 0 : wait_ns > WAIT_NS_MAX ? WAIT_NS_MAX : wait_ns;
        if (r->leave_until_ns != 0 && wait_ns > 10 * DIP_MS_NS)
            wait_ns = 10 * DIP_MS_NS;
        dip_kv_poll(r->kv, now_ns, wait_ns);
        take_wishes(r, r->is_local ? wait_ns : 0);
        while (dip_kv_next(r->kv, dip_clock_now_ns(), &reply)) {
            note_answered(r, &reply);
            for (int i = 0; i < 2; i++)
                if (reply.id == r->revoke_ids[i])
                    r->revoke_ids[i] = 0;
            (void)feed(
                r, &(struct dip_membership_event){.kind = DIP_MEMBERSHIP_REPLY, .reply = &reply});
        }
        now_ns = dip_clock_now_ns();
        if (now_ns >= dip_membership_wake_ns(r->membership))
            (void)feed(r, &(struct dip_membership_event){.kind = DIP_MEMBERSHIP_TICK});
        publish(r);
        check_left(r, now_ns);
    }
    publish_end(r);
    return NULL;
}
