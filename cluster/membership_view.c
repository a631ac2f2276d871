/* cluster/membership_view.c - the copy of the store's keys: listed, then watched, then listed again
 * now and then.
 *
 * A list of revision R and the watch may cross on the way. A list that is older than what the watch
 * has told is thrown away and asked for again. One that is older than what we knew when we asked
 * means that the store itself went back (restored, or made anew): then the list is the truth. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/membership_state.h"

#define SOON_NS            (DIP_SECOND_NS / 10)
#define BACKOFF_NS_LONGEST (30 * DIP_SECOND_NS)

bool dip__membership_is_id(const char *id)
{
    size_t bytes = 0;
    for (; id[bytes]; bytes++)
        if (!isalnum((unsigned char)id[bytes]) && !strchr("._-", id[bytes]))
            return false;
    return bytes > 0 && bytes < DIP_MEMBER_ID_BYTES;
}

/* What a key is about; VIEW_FREE when it has no form that we know. */
static enum view_kind classify(const struct dip_membership *m, const char *key, const char **ret_id)
{
    static const struct {
        const char *folder;
        enum view_kind kind;
    } folders[] = {{"members/", VIEW_MEMBER}, {"drain/", VIEW_DRAIN}, {"groups/", VIEW_GROUP}};
    size_t bytes = strlen(m->list_key);
    if (strncmp(key, m->list_key, bytes) != 0)
        return VIEW_FREE;
    key += bytes;
    *ret_id = "";
    if (strcmp(key, "leader") == 0)
        return VIEW_LEADER;
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        size_t length = strlen(folders[i].folder);
        *ret_id = key + length;
        if (strncmp(key, folders[i].folder, length) == 0 && dip__membership_is_id(*ret_id))
            return folders[i].kind;
    }
    return VIEW_FREE;
}

const struct view_entry *dip__view_find(const struct dip_membership *m, enum view_kind kind,
                                        const char *id)
{
    for (int i = 0; i < m->view.used; i++) {
        const struct view_entry *entry = &m->view.entries[i];
        if (entry->kind == kind && !entry->is_dead && strcmp(entry->id, id) == 0)
            return entry;
    }
    return NULL;
}

void dip__view_begin(struct dip_membership *m)
{
    struct view *v = &m->view;
    for (int i = 0; i < v->used && v->dead_count > 0; i++) {
        if (!v->entries[i].is_dead)
            continue;
        v->entries[i] = (struct view_entry){.kind = VIEW_FREE};
        v->dead_count--;
    }
    while (v->used > 0 && v->entries[v->used - 1].kind == VIEW_FREE)
        v->used--;
}

static struct view_entry *entry_new(struct dip_membership *m)
{
    struct view *v = &m->view;
    for (int i = 0; i < v->used; i++)
        if (v->entries[i].kind == VIEW_FREE)
            return &v->entries[i];
    return v->used < m->options.entry_count_max ? &v->entries[v->used++] : NULL;
}

/* ---- news ---- */

static void tell(struct dip_membership *m, const struct view_entry *entry, bool is_set, bool is_new)
{
    static const enum dip_membership_action_kind kinds[][2] = {
        [VIEW_DRAIN] = {DIP_MEMBERSHIP_DRAIN_CLEARED, DIP_MEMBERSHIP_DRAIN_SET},
        [VIEW_GROUP] = {DIP_MEMBERSHIP_GROUP_REMOVED, DIP_MEMBERSHIP_GROUP_SET},
        [VIEW_LEADER] = {DIP_MEMBERSHIP_LEADER_GONE, DIP_MEMBERSHIP_LEADER_SET},
    };
    enum dip_membership_action_kind kind = kinds[entry->kind][is_set];
    if (entry->kind == VIEW_MEMBER)
        kind = !is_set  ? DIP_MEMBERSHIP_LEFT
               : is_new ? DIP_MEMBERSHIP_JOINED
                        : DIP_MEMBERSHIP_CHANGED;
    dip__membership_push(m, kind)->entry = (struct dip_membership_entry){
        .id = entry->id,
        .value = entry->value,
        .incarnation = entry->create_revision,
        .revision = entry->mod_revision,
    };
}

/* Our own keys concern our leases too. entry: NULL when it is gone. */
static void tell_lease(struct dip_membership *m, enum view_kind kind, const char *id,
                       const struct view_entry *entry, int64_t revision)
{
    if (kind == VIEW_LEADER)
        dip__lease_seen(m, &m->leader, entry, revision);
    if (kind == VIEW_MEMBER && strcmp(id, m->options.id) == 0)
        dip__lease_seen(m, &m->member, entry, revision);
}

/* One reply may bring more news than one event can tell (a key that changed thousands of times):
 * the rest is left as it was and the next list, asked for at once, brings it. */
static bool is_full(struct dip_membership *m)
{
    bool is = m->action_count >
              m->action_count_max - MEMBERSHIP_ACTIONS_BESIDE / 2 - MEMBERSHIP_ACTIONS_PER_KEY;
    if (is)
        m->view.next_ns = m->now_ns;
    return is;
}

static void entry_kill(struct dip_membership *m, struct view_entry *entry)
{
    entry->is_dead = true;
    m->view.dead_count++;
    tell(m, entry, false, false);
}

static void entry_remove(struct dip_membership *m, struct view_entry *entry, int64_t revision)
{
    if (is_full(m))
        return;
    entry_kill(m, entry);
    tell_lease(m, entry->kind, entry->id, NULL, revision);
}

/* A key as the store has it; what is older than what we know is no news unless the store went
 * back. */
static void entry_set(struct dip_membership *m, const struct dip_kv_entry *from, bool is_back)
{
    const char *id = NULL;
    enum view_kind kind = classify(m, from->key, &id);
    bool is_text =
        from->value_bytes < DIP_MEMBER_VALUE_BYTES && strlen(from->value) == from->value_bytes;
    if (kind == VIEW_FREE || !is_text) {
        m->view.left_out++;
        return;
    }
    struct view_entry *entry = (struct view_entry *)dip__view_find(m, kind, id);
    if (entry) {
        entry->is_seen = true;
        bool is_same = entry->mod_revision == from->mod_revision &&
                       entry->create_revision == from->create_revision;
        if (is_same || (entry->mod_revision >= from->mod_revision && !is_back))
            return;
    }
    if (is_full(m))
        return;
    bool is_new = !entry || entry->create_revision != from->create_revision;
    if (entry && is_new) { /* another process, or another term: the one before has left */
        entry_kill(m, entry);
        entry = NULL;
    }
    if (!entry)
        entry = entry_new(m);
    if (!entry) {
        m->view.left_out++;
        return;
    }
    *entry = (struct view_entry){.kind = kind,
                                 .is_seen = true,
                                 .create_revision = from->create_revision,
                                 .mod_revision = from->mod_revision};
    memcpy(entry->id, id, strlen(id) + 1);
    memcpy(entry->value, from->value, from->value_bytes + 1);
    tell(m, entry, true, is_new);
    tell_lease(m, kind, id, entry, from->mod_revision);
}

static void entry_deleted(struct dip_membership *m, const struct dip_kv_entry *from)
{
    const char *id = NULL;
    enum view_kind kind = classify(m, from->key, &id);
    struct view_entry *entry =
        kind == VIEW_FREE ? NULL : (struct view_entry *)dip__view_find(m, kind, id);
    if (entry && entry->mod_revision < from->mod_revision)
        entry_remove(m, entry, from->mod_revision);
}

/* ---- the list ---- */

static void list_apply(struct dip_membership *m, const struct dip_kv_reply *reply, bool is_back)
{
    struct view *v = &m->view;
    for (int i = 0; i < v->used; i++)
        v->entries[i].is_seen = v->entries[i].is_dead;
    for (int i = 0; i < reply->entry_count; i++)
        entry_set(m, &reply->entries[i], is_back);
    for (int i = 0; i < v->used; i++) {
        struct view_entry *entry = &v->entries[i];
        if (entry->kind != VIEW_FREE && !entry->is_seen && !entry->is_dead)
            entry_remove(m, entry, is_back ? INT64_MAX : reply->revision);
    }
}

static void watch_begin(struct dip_membership *m)
{
    struct view *v = &m->view;
    v->watch_down_ns = 0;
    v->watch_id = dip__membership_send(m, (struct dip_kv_request){.kind = DIP_KV_WATCH,
                                                                  .key = m->list_key,
                                                                  .revision = v->revision + 1});
}

static void list_again(struct dip_membership *m, int64_t wait_ns)
{
    if (m->now_ns + wait_ns < m->view.next_ns)
        m->view.next_ns = m->now_ns + wait_ns;
}

static void on_list(struct dip_membership *m, const struct dip_kv_reply *reply)
{
    struct view *v = &m->view;
    bool is_back = reply->revision < v->list_sent_revision;
    v->list_id = 0;
    if (reply->status) {
        v->failures++;
        v->next_ns = m->now_ns + dip__membership_backoff(m, v->failures, BACKOFF_NS_LONGEST);
        return;
    }
    if (reply->revision < v->revision && !is_back) { /* the watch was faster */
        v->next_ns = m->now_ns + dip__membership_jitter(m, SOON_NS);
        return;
    }
    v->failures = 0;
    v->lists++;
    list_apply(m, reply, is_back);
    v->is_listed = true;
    v->revision = reply->revision;
    v->next_ns =
        m->now_ns + m->options.relist_ns - dip__membership_jitter(m, m->options.relist_ns / 10);
    if (is_back && v->watch_id != 0) {
        dip__membership_push(m, DIP_MEMBERSHIP_CANCEL)->request.id = v->watch_id;
        v->watch_id = 0;
    }
    if (v->watch_id == 0)
        watch_begin(m);
}

/* ---- the watch ---- */

static void on_watch(struct dip_membership *m, const struct dip_kv_reply *reply)
{
    struct view *v = &m->view;
    if (reply->is_last) {
        v->watch_id = 0;
        v->watch_down_ns = 0;
        v->failures += reply->status != DIP_STALE;
        list_again(m, reply->status == DIP_STALE
                          ? 0
                          : dip__membership_backoff(m, v->failures, BACKOFF_NS_LONGEST));
        return;
    }
    if (reply->status) {
        if (v->watch_down_ns == 0)
            v->watch_down_ns = m->now_ns;
        return;
    }
    v->watch_down_ns = 0;
    for (int i = 0; i < reply->entry_count; i++) {
        if (reply->entries[i].is_deleted)
            entry_deleted(m, &reply->entries[i]);
        else
            entry_set(m, &reply->entries[i], false);
    }
    if (reply->revision > v->revision)
        v->revision = reply->revision;
    if (reply->is_resumed) /* everybody's watch resumes at once */
        list_again(m, dip__membership_jitter(m, DIP_SECOND_NS));
}

bool dip__view_reply(struct dip_membership *m, const struct dip_kv_reply *reply)
{
    if (reply->id == m->view.list_id)
        on_list(m, reply);
    else if (reply->id == m->view.watch_id)
        on_watch(m, reply);
    else
        return false;
    return true;
}

/* ---- time ---- */

void dip__view_step(struct dip_membership *m)
{
    struct view *v = &m->view;
    if (v->list_id != 0 && m->now_ns >= v->list_sent_ns + m->options.reply_ns) {
        v->list_id = 0;
        v->failures++;
        v->next_ns = m->now_ns + dip__membership_backoff(m, v->failures, BACKOFF_NS_LONGEST);
        dip__membership_note(m, DIP_KV_RANGE, DIP_TIMEOUT, "the store did not answer");
    }
    if (v->list_id != 0 || m->now_ns < v->next_ns)
        return;
    v->list_sent_ns = m->now_ns;
    v->list_sent_revision = v->revision;
    v->list_id =
        dip__membership_send(m, (struct dip_kv_request){.kind = DIP_KV_RANGE, .key = m->list_key});
}

int64_t dip__view_wake_ns(const struct dip_membership *m)
{
    const struct view *v = &m->view;
    int64_t wake_ns = v->list_id != 0 ? v->list_sent_ns + m->options.reply_ns : v->next_ns;
    int64_t down_ns = v->watch_down_ns + m->options.reply_ns;
    return v->watch_down_ns != 0 && !m->told_degraded && down_ns < wake_ns ? down_ns : wake_ns;
}
