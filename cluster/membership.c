/* cluster/membership.c - membership's frame: reserve, dispatch, say what changed, hand out actions.
 */
#include "cluster/membership.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"
#include "cluster/membership_state.h"

#define BACKOFF_NS_FIRST (DIP_SECOND_NS / 10)

enum { FAILURE_RUN_DEGRADED = 2 };

/* ---- reserve ---- */

static void set_defaults(struct dip_membership_options *options)
{
    if (options->member_ttl_s <= 0)
        options->member_ttl_s = 30;
    if (options->leader_ttl_s <= 0)
        options->leader_ttl_s = 10;
    if (options->margin_ns <= 0)
        options->margin_ns = options->leader_ttl_s * DIP_SECOND_NS / 5;
    if (options->relist_ns <= 0)
        options->relist_ns = 300 * DIP_SECOND_NS;
    if (options->reply_ns <= 0)
        options->reply_ns = 5 * DIP_SECOND_NS;
    if (options->entry_count_max <= 0)
        options->entry_count_max = 4096;
}

enum dip_status dip_membership_new(const struct dip_membership_options *options,
                                   struct dip_membership **ret_membership)
{
    if (strlen(options->prefix) >= MEMBERSHIP_PREFIX_BYTES || !dip__membership_is_id(options->id))
        return DIP_INVALID;
    struct dip_membership *m = calloc(1, sizeof *m);
    if (!m)
        return DIP_NO_MEMORY;
    m->options = *options;
    set_defaults(&m->options);
    /* A list may replace every entry: one left, one joined. */
    m->action_count_max = 2 * m->options.entry_count_max + MEMBERSHIP_ACTIONS_BESIDE;
    m->actions = calloc((size_t)m->action_count_max, sizeof *m->actions);
    m->view.entries = calloc((size_t)m->options.entry_count_max, sizeof *m->view.entries);
    char *id = strdup(options->id);
    m->options.id = id;
    if (!m->actions || !m->view.entries || !id) {
        dip_membership_free(m);
        return DIP_NO_MEMORY;
    }
    snprintf(m->prefix, sizeof m->prefix, "%s", options->prefix);
    m->options.prefix = m->prefix;
    snprintf(m->list_key, sizeof m->list_key, "%s/", m->prefix);
    snprintf(m->member.key, sizeof m->member.key, "%s/members/%s", m->prefix, id);
    snprintf(m->leader.key, sizeof m->leader.key, "%s/leader", m->prefix);
    m->member.ttl_s = m->options.member_ttl_s;
    m->leader.ttl_s = m->options.leader_ttl_s;
    m->leader.is_exclusive = true;
    *ret_membership = m;
    return DIP_OK;
}

void dip_membership_free(struct dip_membership *membership)
{
    if (!membership)
        return;
    free((char *)membership->options.id);
    free(membership->actions);
    free(membership->view.entries);
    free(membership);
}

/* ---- what the other files use ---- */

struct dip_membership_action *dip__membership_push(struct dip_membership *m,
                                                   enum dip_membership_action_kind kind)
{
    dip_assert(m->action_count < m->action_count_max);
    struct dip_membership_action *action = &m->actions[m->action_count++];
    *action = (struct dip_membership_action){.kind = kind};
    return action;
}

uint64_t dip__membership_send(struct dip_membership *m, struct dip_kv_request request)
{
    request.id = ++m->serial;
    dip__membership_push(m, DIP_MEMBERSHIP_SEND)->request = request;
    return request.id;
}

int64_t dip__membership_jitter(struct dip_membership *m, int64_t ceiling_ns)
{
    struct dip_rng_key key = {.seed = m->options.seed, .purpose = DIP_RNG_TEST};
    return (int64_t)((double)dip_rng_uniform(&key, m->draws++) * (double)ceiling_ns);
}

int64_t dip__membership_backoff(struct dip_membership *m, int failures, int64_t longest_ns)
{
    int64_t ceiling_ns = BACKOFF_NS_FIRST;
    for (int i = 1; i < failures && ceiling_ns < longest_ns; i++)
        ceiling_ns *= 2;
    return dip__membership_jitter(m, ceiling_ns < longest_ns ? ceiling_ns : longest_ns);
}

void dip__membership_note(struct dip_membership *m, enum dip_kv_kind kind, enum dip_status status,
                          const char *text)
{
    bool is_lease = kind == DIP_KV_GRANT || kind == DIP_KV_KEEPALIVE || kind == DIP_KV_REVOKE;
    int *run = is_lease ? &m->lease_failure_run : &m->key_failure_run;
    switch (status) {
    case DIP_OK:
    case DIP_NOT_FOUND:
    case DIP_STALE: /* an answer, though not a welcome one */
        *run = 0;
        break;
    default:
        if (*run < FAILURE_RUN_DEGRADED)
            ++*run;
        snprintf(m->why, sizeof m->why, "%s", text[0] ? text : dip_status_text(status));
    }
}

/* ---- wishes ---- */

static enum dip_status set_value(struct lease_key *k, const char *value)
{
    if (strlen(value) >= sizeof k->value)
        return DIP_LIMIT;
    if (strcmp(k->value, value) != 0 || k->value_serial == 0) {
        memcpy(k->value, value, strlen(value) + 1);
        k->value_serial++;
    }
    k->is_wanted = true;
    return DIP_OK;
}

static void let_go(struct dip_membership *m, struct lease_key *k)
{
    k->is_wanted = false;
    k->next_ns = m->now_ns;
    dip__lease_release(m, k);
}

static bool is_leading(const struct dip_membership *m, int64_t now_ns)
{
    return now_ns < dip__lease_fence_ns(m);
}

static enum dip_status on_write(struct dip_membership *m, const struct dip_membership_event *event)
{
    bool is_group = event->kind == DIP_MEMBERSHIP_GROUP;
    struct write *write = NULL;
    if (!dip__membership_is_id(event->id))
        return DIP_INVALID;
    if (event->value && strlen(event->value) >= sizeof write->value)
        return DIP_LIMIT;
    if (is_group && !is_leading(m, m->now_ns))
        return DIP_STALE;
    for (int i = 0; i < MEMBERSHIP_WRITES_MAX && !write; i++)
        if (m->writes[i].id == 0)
            write = &m->writes[i];
    if (!write)
        return DIP_BUSY;
    *write = (struct write){.is_group = is_group, .sent_ns = m->now_ns};
    snprintf(write->key, sizeof write->key, "%s/%s/%s", m->prefix, is_group ? "groups" : "drain",
             event->id);
    snprintf(write->name, sizeof write->name, "%s", event->id);
    if (event->value)
        memcpy(write->value, event->value, strlen(event->value) + 1);
    write->id = dip__membership_send(
        m, (struct dip_kv_request){.kind = event->value ? DIP_KV_PUT : DIP_KV_DELETE,
                                   .key = write->key,
                                   .value = write->value,
                                   .value_bytes = strlen(write->value),
                                   .guard_key = is_group ? m->leader.key : NULL,
                                   .guard_revision = m->leader.incarnation});
    return DIP_OK;
}

static void write_ended(struct dip_membership *m, struct write *write, enum dip_status status)
{
    struct dip_membership_action *action = dip__membership_push(m, DIP_MEMBERSHIP_WRITTEN);
    action->status = status;
    action->entry.id = write->name;
    write->id = 0;
}

/* ---- one event ---- */

static void on_reply(struct dip_membership *m, const struct dip_kv_reply *reply)
{
    if (reply->id == 0)
        return;
    dip__membership_note(m, reply->kind, reply->status, reply->text);
    if (reply->id == m->member.pending_id)
        dip__lease_reply(m, &m->member, reply);
    else if (reply->id == m->leader.pending_id)
        dip__lease_reply(m, &m->leader, reply);
    else if (!dip__view_reply(m, reply))
        for (int i = 0; i < MEMBERSHIP_WRITES_MAX; i++)
            if (m->writes[i].id == reply->id)
                write_ended(m, &m->writes[i],
                            reply->status    ? reply->status
                            : reply->is_done ? DIP_OK
                                             : DIP_STALE);
}

static enum dip_status dispatch(struct dip_membership *m, const struct dip_membership_event *event)
{
    switch (event->kind) {
    case DIP_MEMBERSHIP_REPLY:
        on_reply(m, event->reply);
        return DIP_OK;
    case DIP_MEMBERSHIP_REGISTER:
        return set_value(&m->member, event->value);
    case DIP_MEMBERSHIP_CAMPAIGN:
        return set_value(&m->leader, event->value);
    case DIP_MEMBERSHIP_LEAVE:
        let_go(m, &m->leader);
        let_go(m, &m->member);
        return DIP_OK;
    case DIP_MEMBERSHIP_RESIGN:
        let_go(m, &m->leader);
        return DIP_OK;
    case DIP_MEMBERSHIP_DRAIN:
    case DIP_MEMBERSHIP_GROUP:
        return on_write(m, event);
    default:
        return DIP_OK;
    }
}

static bool is_degraded(const struct dip_membership *m, int64_t now_ns)
{
    return m->lease_failure_run >= FAILURE_RUN_DEGRADED ||
           m->key_failure_run >= FAILURE_RUN_DEGRADED ||
           (m->view.watch_down_ns != 0 && now_ns >= m->view.watch_down_ns + m->options.reply_ns);
}

/* Says what is different from what was said last. */
static void tell_changes(struct dip_membership *m)
{
    int64_t incarnation = m->member.stage == LEASE_HELD ? m->member.incarnation : 0;
    int64_t epoch = is_leading(m, m->now_ns) ? m->leader.incarnation : 0;
    bool degraded = is_degraded(m, m->now_ns);
    if (incarnation != m->told_incarnation)
        dip__membership_push(m,
                             incarnation ? DIP_MEMBERSHIP_REGISTERED : DIP_MEMBERSHIP_UNREGISTERED);
    if (epoch != m->told_epoch)
        dip__membership_push(m, epoch ? DIP_MEMBERSHIP_LEADING : DIP_MEMBERSHIP_NOT_LEADING);
    if (degraded != m->told_degraded)
        dip__membership_push(m, degraded ? DIP_MEMBERSHIP_DEGRADED : DIP_MEMBERSHIP_HEALTHY);
    m->told_incarnation = incarnation;
    m->told_epoch = epoch;
    m->told_degraded = degraded;
}

enum dip_status dip_membership_feed(struct dip_membership *membership, int64_t now_ns,
                                    const struct dip_membership_event *event)
{
    struct dip_membership *m = membership;
    dip_assert(m->action_index == m->action_count); /* the caller took every action */
    m->action_index = 0;
    m->action_count = 0;
    m->now_ns = now_ns;
    dip__view_begin(m);
    enum dip_status status = dispatch(m, event);
    dip__lease_step(m, &m->leader);
    dip__lease_step(m, &m->member);
    dip__view_step(m);
    for (int i = 0; i < MEMBERSHIP_WRITES_MAX; i++)
        if (m->writes[i].id != 0 && now_ns >= m->writes[i].sent_ns + m->options.reply_ns)
            write_ended(m, &m->writes[i], DIP_TIMEOUT);
    tell_changes(m);
    return status;
}

bool dip_membership_next(struct dip_membership *membership,
                         struct dip_membership_action *ret_action)
{
    if (membership->action_index == membership->action_count)
        return false;
    *ret_action = membership->actions[membership->action_index++];
    return true;
}

/* ---- questions ---- */

int64_t dip_membership_wake_ns(const struct dip_membership *membership)
{
    const struct dip_membership *m = membership;
    int64_t wake_ns = dip__view_wake_ns(m);
    int64_t others[] = {dip__lease_wake_ns(m, &m->member), dip__lease_wake_ns(m, &m->leader),
                        m->told_epoch ? dip__lease_fence_ns(m) : INT64_MAX};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i] < wake_ns)
            wake_ns = others[i];
    for (int i = 0; i < MEMBERSHIP_WRITES_MAX; i++)
        if (m->writes[i].id != 0 && m->writes[i].sent_ns + m->options.reply_ns < wake_ns)
            wake_ns = m->writes[i].sent_ns + m->options.reply_ns;
    return wake_ns;
}

struct dip_membership_facts dip_membership_facts(const struct dip_membership *membership,
                                                 int64_t now_ns)
{
    const struct dip_membership *m = membership;
    bool degraded = is_degraded(m, now_ns);
    bool leading = is_leading(m, now_ns);
    bool registered = m->member.stage == LEASE_HELD;
    return (struct dip_membership_facts){
        .is_registered = registered,
        .incarnation = registered ? m->member.incarnation : 0,
        .is_leading = leading,
        .epoch = leading ? m->leader.incarnation : 0,
        .lead_until_ns = leading ? dip__lease_fence_ns(m) : 0,
        .member_lease_ns = dip__lease_end_ns(&m->member),
        .leader_lease_ns = dip__lease_end_ns(&m->leader),
        .revision = m->view.revision,
        .is_listed = m->view.is_listed,
        .is_degraded = degraded,
        .why = degraded             ? m->why
               : m->member.is_taken ? "another process is registered under this id"
                                    : "",
        .relists = m->view.lists > 0 ? m->view.lists - 1 : 0,
        .left_out = m->view.left_out,
    };
}

static struct dip_membership_entry entry_of(const struct view_entry *entry)
{
    return (struct dip_membership_entry){.id = entry->id,
                                         .value = entry->value,
                                         .incarnation = entry->create_revision,
                                         .revision = entry->mod_revision};
}

bool dip_membership_member(const struct dip_membership *membership, int *cursor,
                           struct dip_membership_entry *ret_entry)
{
    const struct view *v = &membership->view;
    while (*cursor < v->used) {
        const struct view_entry *entry = &v->entries[(*cursor)++];
        if (entry->kind != VIEW_MEMBER || entry->is_dead)
            continue;
        *ret_entry = entry_of(entry);
        return true;
    }
    return false;
}

bool dip_membership_leader(const struct dip_membership *membership,
                           struct dip_membership_entry *ret_entry)
{
    const struct view_entry *entry = dip__view_find(membership, VIEW_LEADER, "");
    if (entry)
        *ret_entry = entry_of(entry);
    return entry != NULL;
}

bool dip_membership_is_drain_wished(const struct dip_membership *membership, const char *id)
{
    return dip_membership_drain(membership, id) != NULL;
}

const char *dip_membership_drain(const struct dip_membership *membership, const char *id)
{
    const struct view_entry *entry = dip__view_find(membership, VIEW_DRAIN, id);
    return entry ? entry->value : NULL;
}

enum dip_status dip_epoch_accept(struct dip_epoch *seen, int64_t epoch)
{
    if (epoch < seen->epoch)
        return DIP_STALE;
    seen->epoch = epoch;
    return DIP_OK;
}
