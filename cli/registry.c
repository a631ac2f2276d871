/* cli/registry.c - see cli/registry.h. */
#include "cli/registry.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "coordinator/daemon.h"
#include "worker/daemon.h"

#define LOOK_NS  (INT64_C(500) * DIP_MS_NS)
#define GRACE_NS (60 * DIP_SECOND_NS) /* of a wish that was made earlier */
#define ALONE_NS (5 * DIP_SECOND_NS)  /* with neither lease nor worker; then it doubts */
#define QUIET_NS (3 * DIP_SECOND_NS)  /* until a wish that was just written is in the view */

/* ---- what both do ---- */

void dip__enrolled_name(const struct options *options, char ret_name[ENROLLED_NAME_BYTES])
{
    char host[256] = "host";
    if (options->name) {
        snprintf(ret_name, ENROLLED_NAME_BYTES, "%s", options->name);
        return;
    }
    (void)gethostname(host, sizeof host - 1);
    snprintf(ret_name, ENROLLED_NAME_BYTES, "%.40s-%d", host, (int)getpid());
}

static void on_health(void *context, bool is_degraded, const char *why)
{
    struct enrolled *e = context;
    if (is_degraded)
        dip_log_say(e->log, DIP_LOG_WARNING, "the registry does not answer: %s", why);
    else
        dip_log_say(e->log, DIP_LOG_INFO, "the registry answers");
    if (e->coordinator)
        dip_coordinator_daemon_registry(e->coordinator, dip_registry_facts(e->registry)->revision,
                                        is_degraded, why);
}

static void on_left(void *context)
{
    struct enrolled *e = context;
    dip_registry_free(e->registry);
    e->registry = NULL;
}

static enum dip_status open_registry(struct enrolled *e, const struct options *o,
                                     const struct dip_registry_handler *handler,
                                     struct dip_why *why)
{
    struct dip_registry_options options = {
        .loop = e->loop,
        .cluster_id = o->cluster ? o->cluster : "diptych",
        .id = e->name,
        .endpoints = o->etcd,
        .ca = o->etcd_ca,
        .cert = o->etcd_cert,
        .key = o->etcd_key,
        .user = o->etcd_user,
        .password = o->etcd_password,
        .handler = handler,
        .context = e,
    };
    return dip_registry_open(&options, why, &e->registry);
}

static enum dip_status register_member(struct enrolled *e, const char *address, uint32_t roles,
                                       const char *device, struct dip_why *why)
{
    struct dip_registry_member member = {.roles = roles};
    snprintf(member.address, sizeof member.address, "%s", address);
    snprintf(member.device, sizeof member.device, "%s", device);
    enum dip_status status = dip_registry_register(e->registry, &member);
    return status ? dip_fail(why, status, "the registry does not take the address %s", address)
                  : DIP_OK;
}

/* Nothing that was asked for is ignored. */
static enum dip_status check_unused(const struct options *o, struct dip_why *why)
{
    const char *name = o->etcd_ca         ? "ca"
                       : o->etcd_cert     ? "cert"
                       : o->etcd_key      ? "key"
                       : o->etcd_user     ? "user"
                       : o->etcd_password ? "password"
                                          : NULL;
    return name ? dip_fail(why, DIP_INVALID, "--etcd-%s needs --etcd URLS", name) : DIP_OK;
}

bool dip__enrolled_is_up(const struct enrolled *enrolled)
{
    return enrolled->registry && dip_registry_facts(enrolled->registry)->is_listed &&
           !dip_registry_facts(enrolled->registry)->is_degraded;
}

/* ---- metrics ---- */

static double seconds_left(int64_t end_ns)
{
    int64_t left_ns = end_ns - dip_clock_now_ns();
    return left_ns > 0 ? (double)left_ns / (double)DIP_SECOND_NS : 0;
}

void dip__enrolled_metrics(const struct enrolled *enrolled, struct observed *observed, int first)
{
    static const char *const ops[] = {
        [DIP_KV_GRANT] = "grant", [DIP_KV_KEEPALIVE] = "keepalive", [DIP_KV_REVOKE] = "revoke",
        [DIP_KV_PUT] = "put",     [DIP_KV_DELETE] = "delete",       [DIP_KV_RANGE] = "range"};
    static const struct dip_registry_facts no_facts;
    static const struct dip_times no_times;
    const struct dip_registry *r = enrolled->registry;
    const struct dip_registry_facts *facts = r ? dip_registry_facts(r) : &no_facts;
    struct dip_metrics *m = observed->metrics;
    dip_metrics_value(m, first + 0, NULL, dip__enrolled_is_up(enrolled));
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        dip__observe_times(observed, first + 1, ops[i],
                           r ? dip_registry_times(r, (enum dip_kv_kind)i) : &no_times);
    dip_metrics_value(m, first + 2, NULL, (double)facts->relists);
    dip_metrics_value(m, first + 3, (const char *const[]){"member"},
                      seconds_left(facts->member_lease_ns));
    dip_metrics_value(m, first + 3, (const char *const[]){"leader"},
                      seconds_left(facts->leader_lease_ns));
}

/* ---- epochs of a store that has forgotten ----
 *
 * The registry's epochs are revisions of its store and grow for as long as the store remembers. One
 * that was made anew, or restored from an old copy, begins again below what workers have seen, and
 * they refuse a smaller epoch: rightly, for to them it looks like a leader of the past. So a leader
 * claims more than it ever claimed itself; and one to which a worker speaks of a later epoch asks
 * whether it still leads. A renewal of its lease that was sent after the worker spoke says so: then
 * whoever led under that epoch is of the past, and this one leads on above it. Of two renewals in a
 * row the second was sent after. A leader that was replaced gets no renewal, and stays refused. */

enum { RENEWALS_OF_PROOF = 2 };

static void claim(struct enrolled *e, uint64_t epoch)
{
    e->epoch.claimed = epoch;
    e->epoch.later = 0;
    dip_coordinator_daemon_lead(e->coordinator, epoch);
}

static void look_at_epochs(struct enrolled *e)
{
    uint64_t later = dip_coordinator_daemon_later_epoch(e->coordinator);
    int64_t until_ns = dip_registry_facts(e->registry)->lead_until_ns;
    if (!dip_registry_is_leading(e->registry, dip_clock_now_ns()) || later <= e->epoch.claimed ||
        later > DIP_EPOCH_MAX) {
        e->epoch.later = 0;
        return;
    }
    if (later != e->epoch.later) {
        e->epoch.later = later;
        e->epoch.lead_until_ns = until_ns;
        e->epoch.renewals = 0;
    }
    if (until_ns == e->epoch.lead_until_ns)
        return;
    e->epoch.lead_until_ns = until_ns;
    if (++e->epoch.renewals < RENEWALS_OF_PROOF)
        return;
    dip_log_say(e->log, DIP_LOG_WARNING,
                "the registry has forgotten: workers have seen epoch %llu; leading on above it",
                (unsigned long long)later);
    claim(e, later + 1);
}

/* ---- a coordinator ----
 *
 * A lease that could not be renewed in time ends what this process may write into the registry, and
 * nothing else: it serves on until another one leads, for losing etcd must touch neither requests
 * nor workers. Two that serve at a time can waste work, not spoil it: a worker obeys the largest
 * epoch that it has heard of. Who is cut off from the registry hears of the next leader from the
 * workers that leave for it; while its own lease lasts it does not believe them. */

static void look_at_successor(struct enrolled *e)
{
    const char *successor = dip_coordinator_daemon_successor(e->coordinator);
    if (!successor[0] || !dip_coordinator_daemon_is_leading(e->coordinator) ||
        dip_registry_is_leading(e->registry, dip_clock_now_ns()) ||
        strcmp(successor, dip_coordinator_daemon_address(e->coordinator)) == 0)
        return;
    dip_log_say(e->log, DIP_LOG_WARNING, "workers have left for %s: it leads", successor);
    dip_coordinator_daemon_follow(e->coordinator, successor);
}

/* Cut off from workers, too, it can serve nobody. Clients may know of another one, who can. */
static void look_at_doubt(struct enrolled *e)
{
    int cursor = 0;
    struct dip_worker_view worker;
    int64_t now_ns = dip_clock_now_ns();
    bool is_alone = dip_coordinator_daemon_is_leading(e->coordinator) &&
                    !dip_registry_is_leading(e->registry, now_ns) &&
                    !dip_coordinator_daemon_worker(e->coordinator, &cursor, &worker);
    if (!is_alone)
        e->alone_ns = 0;
    else if (e->alone_ns == 0)
        e->alone_ns = now_ns;
    dip_coordinator_daemon_doubt(e->coordinator, is_alone && now_ns - e->alone_ns >= ALONE_NS);
}

static void coordinator_on_leading(void *context, uint64_t epoch)
{
    struct enrolled *e = context;
    if (!e->coordinator)
        return; /* it has stopped, and leaves */
    if (e->is_handing_over) {
        dip_log_say(e->log, DIP_LOG_INFO, "handing over to the next leader");
        return;
    }
    if (epoch == 0) {
        dip_log_say(e->log, DIP_LOG_WARNING,
                    "the lease of the leader has ended; serving on until another one leads");
        return;
    }
    bool is_new_term = epoch != e->epoch.told;
    uint64_t above = e->epoch.claimed + is_new_term;
    e->epoch.told = epoch;
    claim(e, epoch > above ? epoch : above);
}

static void coordinator_on_leader(void *context, const struct dip_registry_leader *leader,
                                  uint64_t epoch)
{
    struct enrolled *e = context;
    (void)epoch;
    if (!e->coordinator || (leader && strcmp(leader->id, e->name) == 0))
        return; /* on_leading says when */
    if (leader || !dip_coordinator_daemon_is_leading(e->coordinator))
        dip_coordinator_daemon_follow(e->coordinator, leader ? leader->address : NULL);
}

static void coordinator_on_members(void *context)
{
    struct enrolled *e = context;
    const struct dip_registry_facts *facts = dip_registry_facts(e->registry);
    if (!e->coordinator)
        return;
    dip_coordinator_daemon_registry(e->coordinator, facts->revision, facts->is_degraded,
                                    facts->why);
}

static void coordinator_on_written(void *context, const char *id, enum dip_status status)
{
    struct enrolled *e = context;
    if (status)
        dip_log_say(e->log, DIP_LOG_WARNING, "the wish about %s was not kept: %s", id,
                    dip_status_text(status));
}

static bool has_successor(const struct enrolled *e)
{
    int count = dip_registry_facts(e->registry)->member_count;
    for (int i = 0; i < count; i++) {
        const struct dip_registry_member *member = &dip_registry_entry(e->registry, i)->member;
        if ((member->roles & DIP_ROLE_COORDINATOR) && strcmp(member->id, e->name) != 0)
            return true;
    }
    return false;
}

/* One that leads alone keeps the key to the end: workers that come meanwhile still find it. One
 * that follows stands for no election any more, or it would be elected only to leave. */
void dip__enrolled_hand_over(struct enrolled *enrolled)
{
    struct enrolled *e = enrolled;
    if (!e->registry || !e->coordinator || e->is_handing_over)
        return;
    if (dip_coordinator_daemon_is_leading(e->coordinator) && !has_successor(e))
        return;
    e->is_handing_over = dip_registry_resign(e->registry) == DIP_OK;
}

/* What an operator asked this coordinator is written down for the next one. */
static void on_drain(void *context, const char *name, bool is_draining, const char *why)
{
    struct enrolled *e = context;
    struct dip_registry_drain drain = {.since_s = dip_clock_unix_ns() / DIP_SECOND_NS};
    e->look_ns = dip_clock_now_ns() + QUIET_NS;
    if (!e->registry)
        return;
    snprintf(drain.by, sizeof drain.by, "%s", e->name);
    snprintf(drain.why, sizeof drain.why, "%.100s", why);
    enum dip_status status = dip_registry_drain(e->registry, name, is_draining ? &drain : NULL);
    if (status)
        coordinator_on_written(e, name, status);
}

static bool is_drained(const struct dip_coordinator_daemon *daemon, const char *name)
{
    struct dip_worker_view view;
    for (int cursor = 0; dip_coordinator_daemon_worker(daemon, &cursor, &view);)
        if (strcmp(view.facts.name, name) == 0)
            return view.state == DIP_WORKER_STATE_DRAINING ||
                   view.state == DIP_WORKER_STATE_DRAINED;
    return true; /* not here: nothing to do */
}

/* A worker that came back, or came to a new leader, is still not wanted. */
static void look_at_wishes(struct enrolled *e)
{
    int count = dip_registry_facts(e->registry)->member_count;
    if (!dip_coordinator_daemon_is_leading(e->coordinator))
        return;
    for (int i = 0; i < count; i++) {
        const struct dip_registry_entry *entry = dip_registry_entry(e->registry, i);
        if (!entry->is_drain_wished || is_drained(e->coordinator, entry->member.id))
            continue;
        bool is_known = dip_coordinator_daemon_drain_worker(e->coordinator, entry->member.id, true,
                                                            GRACE_NS, entry->drain.why);
        dip_log_say(e->log, DIP_LOG_INFO, "%s drains as wished before%s", entry->member.id,
                    is_known ? "" : ", once it is here");
    }
}

enum dip_status dip__enrol_coordinator(const struct options *options, const char *name,
                                       struct dip_rpc_loop *loop,
                                       struct dip_coordinator_daemon *daemon, struct dip_log *log,
                                       struct dip_why *why, struct enrolled *ret_enrolled)
{
    static const struct dip_registry_handler handler = {.on_leading = coordinator_on_leading,
                                                        .on_leader = coordinator_on_leader,
                                                        .on_members = coordinator_on_members,
                                                        .on_health = on_health,
                                                        .on_written = coordinator_on_written,
                                                        .on_left = on_left};
    struct enrolled *e = ret_enrolled;
    const char *address = dip_coordinator_daemon_address(daemon);
    if (!options->etcd)
        return check_unused(options, why);
    *e = (struct enrolled){.loop = loop, .coordinator = daemon, .log = log};
    snprintf(e->name, sizeof e->name, "%s", name);
    DIP_TRY(open_registry(e, options, &handler, why));
    DIP_TRY(register_member(e, address, DIP_ROLE_COORDINATOR, "", why));
    dip_coordinator_daemon_on_drain(daemon, on_drain, e);
    return dip_registry_campaign(e->registry, address);
}

/* ---- a worker ---- */

/* While nobody leads the worker keeps the one it knows: jobs go on for a leader that only the
 * registry has lost. */
static void worker_on_leader(void *context, const struct dip_registry_leader *leader,
                             uint64_t epoch)
{
    struct enrolled *e = context;
    if (!leader || strcmp(leader->address, e->leader) == 0)
        return;
    memcpy(e->leader, leader->address, sizeof e->leader);
    dip_log_say(e->log, DIP_LOG_INFO, "%s leads at %s, epoch %llu", leader->id, leader->address,
                (unsigned long long)epoch);
    dip_worker_daemon_set_coordinator(e->worker, leader->address);
}

enum dip_status dip__enrol_worker(const struct options *options, struct dip_worker_daemon *daemon,
                                  struct dip_log *log, struct dip_why *why,
                                  struct enrolled *ret_enrolled)
{
    static const struct dip_registry_handler handler = {
        .on_leader = worker_on_leader, .on_health = on_health, .on_left = on_left};
    struct enrolled *e = ret_enrolled;
    struct dip_worker_daemon_stats stats = dip_worker_daemon_stats(daemon);
    if (!options->etcd)
        return check_unused(options, why);
    *e = (struct enrolled){.worker = daemon, .log = log, .owns_loop = true};
    snprintf(e->name, sizeof e->name, "%s", stats.name);
    if (dip_rpc_loop_new(&(struct dip_rpc_loop_options){.call_count_max = 16}, &e->loop))
        return dip_fail(why, DIP_NO_MEMORY, "no memory for the registry");
    DIP_TRY(open_registry(e, options, &handler, why));
    return register_member(e, stats.address, stats.roles, stats.device_class, why);
}

/* ---- the main thread's time ---- */

void dip__enrolled_look(struct enrolled *enrolled, int64_t wait_ns)
{
    struct enrolled *e = enrolled;
    if (e->owns_loop)
        dip_rpc_loop_turn(e->loop, wait_ns);
    else if (wait_ns > 0)
        dip_clock_sleep(wait_ns);
    int64_t now_ns = dip_clock_now_ns();
    if (!e->registry || !e->coordinator)
        return;
    look_at_epochs(e);
    look_at_successor(e);
    look_at_doubt(e);
    if (now_ns < e->look_ns)
        return;
    e->look_ns = now_ns + LOOK_NS;
    look_at_wishes(e);
}

void dip__enrolled_leave(struct enrolled *enrolled, int64_t grace_ns)
{
    struct enrolled *e = enrolled;
    int64_t until_ns = dip_clock_now_ns() + grace_ns + DIP_SECOND_NS;
    if (e->coordinator)
        dip_coordinator_daemon_on_drain(e->coordinator, NULL, NULL);
    e->coordinator = NULL; /* no news for a daemon that has stopped */
    if (e->registry)
        dip_registry_leave(e->registry, grace_ns);
    while (e->registry && dip_clock_now_ns() < until_ns)
        dip_rpc_loop_turn(e->loop, 20 * DIP_MS_NS);
    dip_registry_free(e->registry);
    e->registry = NULL;
    if (e->owns_loop)
        dip_rpc_loop_free(e->loop);
    e->loop = NULL;
    e->owns_loop = false;
}
