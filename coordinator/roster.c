/* coordinator/roster.c - see coordinator/roster.h. */
#include "coordinator/roster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "coordinator/front.h"
#include "coordinator/worker_message.h"

#define STILL_NS (5 * DIP_SECOND_NS) /* busy and no step for so long: suspect */

enum dip_status dip__roster_init(struct roster *roster, int entry_count)
{
    *roster = (struct roster){.entry_count = entry_count};
    roster->entries = calloc((size_t)entry_count, sizeof *roster->entries);
    roster->sorted = calloc((size_t)entry_count, sizeof(struct roster_entry *));
    return roster->entries && roster->sorted ? DIP_OK : DIP_NO_MEMORY;
}

void dip__roster_deinit(struct roster *roster)
{
    free(roster->entries);
    free(roster->sorted);
    *roster = (struct roster){0};
}

const char *dip_worker_state_text(enum dip_worker_state state)
{
    static const char *const texts[DIP_WORKER_STATE_COUNT] = {
#define DIP_WORKER_STATE_ROW(name, text) text,
        DIP_WORKER_STATE_LIST(DIP_WORKER_STATE_ROW)
#undef DIP_WORKER_STATE_ROW
    };
    return texts[state];
}

bool dip__roster_has_role(uint32_t roles, Diptych__V1__Role role)
{
    switch (role) {
    case DIPTYCH__V1__ROLE__ROLE_UNSPECIFIED:
        return true;
    case DIPTYCH__V1__ROLE__ROLE_AR:
        return roles & DIP_ROLE_AR;
    case DIPTYCH__V1__ROLE__ROLE_DIFFUSION:
        return roles & DIP_ROLE_DIFFUSION;
    case DIPTYCH__V1__ROLE__ROLE_BOTH:
        return (roles & DIP_ROLE_AR) && (roles & DIP_ROLE_DIFFUSION);
    default:
        return false;
    }
}

const char *dip__roster_fingerprint(const struct roster *roster)
{
    for (int i = 0; i < roster->entry_count; i++)
        if (roster->entries[i].is_used && roster->entries[i].is_joined)
            return roster->entries[i].view.fingerprint;
    return "";
}

struct roster_entry *dip__roster_find(const struct roster *roster, const char *name)
{
    for (int i = 0; i < roster->entry_count; i++)
        if (roster->entries[i].is_used && strcmp(roster->entries[i].view.facts.name, name) == 0)
            return &roster->entries[i];
    return NULL;
}

struct dip_worker_view dip__roster_view(const struct dip_coordinator_daemon *d,
                                        const struct roster_entry *entry)
{
    struct dip_worker_view view = entry->view;
    struct dip_member_stats stats =
        dip_scheduler_member(dip_core_scheduler(d->core), entry->view.address);
    view.slots_busy = stats.ar_live + stats.diffusion_live;
    view.token_ns = stats.token_ns;
    view.step_ns = stats.step_ns;
    view.batch_room = stats.diffusion_wanted;
    return view;
}

/* ---- changes ---- */

static void changed(struct dip_coordinator_daemon *d, struct roster_entry *entry)
{
    entry->version = ++d->roster.version;
    for (struct roster_watch *watch = d->roster.watches; watch; watch = watch->next)
        dip__roster_watch_pump(watch);
}

static void log_state(const struct dip_coordinator_daemon *d, const struct roster_entry *entry,
                      enum dip_worker_state state, const char *detail)
{
    struct dip_log_line line;
    bool is_bad =
        (state == DIP_WORKER_STATE_LOST && !entry->is_leaving) || state == DIP_WORKER_STATE_SUSPECT;
    if (entry->view.state == state)
        return;
    dip_log_begin(&line, d->options.log, is_bad ? DIP_LOG_WARNING : DIP_LOG_INFO, "worker");
    dip_log_text(&line, "worker", entry->view.facts.name);
    dip_log_text(&line, "state", dip_worker_state_text(state));
    if (detail && detail[0])
        dip_log_text(&line, "why", detail);
    dip_log_end(&line);
}

static void state_set(struct dip_coordinator_daemon *d, struct roster_entry *entry,
                      enum dip_worker_state state, const char *detail)
{
    if (entry->view.state != state)
        entry->view.since_ns = dip_clock_now_ns();
    log_state(d, entry, state, detail);
    entry->view.state = state;
    if (detail) /* NULL: as it is */
        snprintf(entry->view.detail, sizeof entry->view.detail, "%s", detail);
    changed(d, entry);
}

/* Who has not introduced itself is called by its address. */
static struct roster_entry *entry_use(struct dip_coordinator_daemon *d, uint32_t address)
{
    struct roster_entry *entry = &d->roster.entries[address];
    if (entry->is_used)
        return entry;
    *entry = (struct roster_entry){.is_used = true, .version = entry->version};
    entry->view.address = address;
    snprintf(entry->view.facts.name, sizeof entry->view.facts.name, "worker-%u", address);
    d->roster.used_count++;
    return entry;
}

static void entry_drop(struct dip_coordinator_daemon *d, struct roster_entry *entry,
                       const char *detail)
{
    entry->is_used = entry->is_joined = false;
    d->roster.used_count--;
    state_set(d, entry, DIP_WORKER_STATE_LOST, detail);
}

static void on_appeared(struct dip_coordinator_daemon *d, const struct dip_message *message)
{
    struct roster_entry *entry = entry_use(d, message->from);
    if (message->as.appeared.facts.data &&
        message->as.appeared.facts.bytes == sizeof entry->view.facts)
        memcpy(&entry->view.facts, message->as.appeared.facts.data, sizeof entry->view.facts);
    state_set(d, entry, DIP_WORKER_STATE_STARTING, "has connected");
}

static void on_joined(struct dip_coordinator_daemon *d, const struct dip_message *message)
{
    struct roster_entry *entry = entry_use(d, message->from);
    const struct dip_message_joined *joined = &message->as.joined;
    entry->is_joined = true;
    entry->view.facts.roles = joined->roles;
    entry->view.slots = joined->ar_slots + joined->diffusion_slots;
    snprintf(entry->view.fingerprint, sizeof entry->view.fingerprint, "%s", joined->fingerprint);
    state_set(d, entry, DIP_WORKER_STATE_READY, "");
}

static void on_heartbeat(struct dip_coordinator_daemon *d, const struct dip_message *message)
{
    struct roster_entry *entry = entry_use(d, message->from);
    const struct dip_message_heartbeat *beat = &message->as.heartbeat;
    if (beat->steps_total != entry->view.steps_total)
        entry->view.last_progress_ns = dip_clock_now_ns() - beat->last_step_age_ns;
    entry->view.steps_total = beat->steps_total;
}

static void group_leave(struct dip_coordinator_daemon *d, struct roster_entry *entry)
{
    entry->is_joined = false;
    entry->view.group[0] = '\0';
    entry->view.rank = entry->view.group_size = 0;
    state_set(d, entry, DIP_WORKER_STATE_STARTING, "its group is being formed again");
}

static void on_group(struct dip_coordinator_daemon *d, const struct dip_message *message)
{
    struct roster_entry *entry = entry_use(d, message->from);
    if (message->as.group.epoch < entry->group_epoch)
        return; /* about a group that it has left since */
    if (message->kind == DIP_MESSAGE_GROUP_LOST)
        group_leave(d, entry);
    else if (message->kind == DIP_MESSAGE_GROUP_FORMED && entry->view.rank > 0)
        state_set(d, entry, DIP_WORKER_STATE_READY, ""); /* rank 0 joins for all of them */
}

void dip__roster_group(struct dip_coordinator_daemon *d, uint32_t member,
                       enum dip_message_kind command, const struct dip_message_group *group)
{
    struct roster_entry *entry = &d->roster.entries[member];
    if (!entry->is_used)
        return;
    if (command == DIP_MESSAGE_DISSOLVE_GROUP) {
        group_leave(d, entry);
    } else if (command == DIP_MESSAGE_FORM_GROUP) {
        snprintf(entry->view.group, sizeof entry->view.group, "%s", group->id);
        entry->group_epoch = group->epoch;
        entry->view.rank = group->rank;
        entry->view.group_size = group->size;
        state_set(d, entry, DIP_WORKER_STATE_STARTING, "joins its group");
    }
}

void dip__roster_feed(struct dip_coordinator_daemon *d, const struct dip_message *message)
{
    if (message->from >= (uint32_t)d->roster.entry_count)
        return;
    struct roster_entry *entry = &d->roster.entries[message->from];
    switch (message->kind) {
    case DIP_MESSAGE_APPEARED:
        on_appeared(d, message);
        break;
    case DIP_MESSAGE_JOINED:
        on_joined(d, message);
        break;
    case DIP_MESSAGE_HEARTBEAT:
        on_heartbeat(d, message);
        break;
    case DIP_MESSAGE_LEAVING:
        if (!entry->is_used)
            break;
        entry->is_leaving = true;
        state_set(d, entry, DIP_WORKER_STATE_DRAINING, "was told to stop");
        break;
    case DIP_MESSAGE_LOST:
        if (entry->is_used)
            entry_drop(d, entry, entry->is_leaving ? "has left" : "its stream has ended");
        break;
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        on_group(d, message);
        break;
    default:
        break;
    }
}

void dip__roster_clear(struct dip_coordinator_daemon *d)
{
    for (int i = 0; i < d->roster.entry_count; i++)
        if (d->roster.entries[i].is_used)
            entry_drop(d, &d->roster.entries[i], "another coordinator leads");
}

static void sweep_entry(struct dip_coordinator_daemon *d, struct roster_entry *entry,
                        const struct dip_member_stats *stats, int64_t now_ns)
{
    struct dip_worker_view *view = &entry->view;
    int busy = stats->ar_live + stats->diffusion_live;
    bool is_still = busy > 0 && view->steps_total > 0 && now_ns - view->last_progress_ns > STILL_NS;
    if (view->state == DIP_WORKER_STATE_DRAINING && stats->jobs == 0)
        state_set(d, entry, DIP_WORKER_STATE_DRAINED, NULL);
    else if (view->state == DIP_WORKER_STATE_READY && is_still)
        state_set(d, entry, DIP_WORKER_STATE_SUSPECT, "has work and makes no steps");
    else if (view->state == DIP_WORKER_STATE_SUSPECT && !is_still)
        state_set(d, entry, DIP_WORKER_STATE_READY, "");
    else if (entry->steps_shown != view->steps_total || entry->busy_shown != busy)
        changed(d, entry);
    entry->steps_shown = view->steps_total;
    entry->busy_shown = busy;
}

void dip__roster_sweep(struct dip_coordinator_daemon *d, int64_t now_ns)
{
    for (int i = 0; i < d->roster.entry_count; i++) {
        struct dip_member_stats stats = {0};
        if (!d->roster.entries[i].is_used)
            continue;
        stats = dip_scheduler_member(dip_core_scheduler(d->core), (uint32_t)i);
        sweep_entry(d, &d->roster.entries[i], &stats, now_ns);
    }
}

/* ---- drain ---- */

void dip__roster_drain(struct dip_coordinator_daemon *d, struct roster_entry *entry,
                       bool is_draining, int64_t grace_ns, const char *why)
{
    struct dip_message message = {.kind = is_draining ? DIP_MESSAGE_DRAIN : DIP_MESSAGE_UNDRAIN,
                                  .from = entry->view.address,
                                  .as.grace.grace_ns = grace_ns};
    int64_t now_ns = dip_clock_now_ns();
    dip__groups_feed(d, now_ns, &message);
    dip_core_feed(d->core, now_ns, &message);
    message.from = 0;
    dip_core_send(d->core, entry->view.address, &message);
    bool was_draining = entry->view.state == DIP_WORKER_STATE_DRAINING ||
                        entry->view.state == DIP_WORKER_STATE_DRAINED;
    if (is_draining && !was_draining)
        state_set(d, entry, DIP_WORKER_STATE_DRAINING, why[0] ? why : "an operator asked for it");
    else if (!is_draining && was_draining)
        state_set(d, entry, entry->is_joined ? DIP_WORKER_STATE_READY : DIP_WORKER_STATE_STARTING,
                  "");
    struct dip_member_stats stats =
        dip_scheduler_member(dip_core_scheduler(d->core), entry->view.address);
    sweep_entry(d, entry, &stats, dip_clock_now_ns());
    dip__front_arm(d);
}

/* ---- watchers ---- */

static bool watch_send(struct roster_watch *watch, const struct roster_entry *entry)
{
    Diptych__V1__WatchWorkersResponse response = DIPTYCH__V1__WATCH_WORKERS_RESPONSE__INIT;
    struct worker_message worker;
    struct dip_worker_view view = dip__roster_view(watch->daemon, entry);
    dip__worker_message(&view, &worker);
    response.worker = &worker.worker;
    response.removed = !entry->is_used;
    return dip__reply_part(watch->call, &response.base, entry->view.address + 1);
}

/* Everything that it has not been told; what does not fit goes when the call is writable. */
void dip__roster_watch_pump(struct roster_watch *watch)
{
    const struct roster *roster = &watch->daemon->roster;
    if (!watch->has_begun)
        return;
    for (int i = 0; i < roster->entry_count; i++) {
        const struct roster_entry *entry = &roster->entries[i];
        if (entry->version <= watch->told[i])
            continue;
        bool is_wanted = dip__roster_has_role(entry->view.facts.roles, watch->role) &&
                         (entry->is_used || watch->is_snapshot_done);
        if (is_wanted && !watch_send(watch, entry))
            return;
        watch->told[i] = entry->version;
    }
    if (watch->is_snapshot_done)
        return;
    Diptych__V1__WatchWorkersResponse end = DIPTYCH__V1__WATCH_WORKERS_RESPONSE__INIT;
    end.snapshot_end = true;
    watch->is_snapshot_done = dip__reply_part(watch->call, &end.base, 0);
}
