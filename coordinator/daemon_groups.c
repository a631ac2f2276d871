/* coordinator/daemon_groups.c - tensor-parallel groups: the state machine's wishes become messages.
 */
#include "base/clock.h"
#include "coordinator/front.h"

/* Groups' epochs count on from leader to leader: each has room for a million formings. */
enum { EPOCH_BITS = 20 };

void dip__groups_lead(struct dip_coordinator_daemon *d, uint64_t epoch)
{
    const struct dip_coordinator_daemon_options *o = &d->options;
    dip_groups_free(d->groups);
    d->groups = NULL;
    if (o->tensor_parallel < 2)
        return;
    struct dip_groups_options options = {.member_count_max = o->member_count_max,
                                         .degree = o->tensor_parallel,
                                         .group_count = o->group_count,
                                         .allow_smaller = o->allow_smaller_groups,
                                         .legal_degrees = o->legal_group_degrees,
                                         .epoch_first = (epoch << EPOCH_BITS) + 1};
    if (dip_groups_new(&options, &d->groups))
        dip_log_say(o->log, DIP_LOG_ERROR, "no memory to form tensor-parallel groups");
}

static void carry_out(struct dip_coordinator_daemon *d, int64_t now_ns,
                      const struct dip_group_action *action)
{
    struct dip_message message = {.kind = action->message, .as.group = action->group};
    if (action->kind == DIP_GROUP_ACTION_SEND) {
        dip__roster_group(d, action->member, action->message, &action->group);
        dip_core_send(d->core, action->member, &message);
        if (action->message != DIP_MESSAGE_DISSOLVE_GROUP || action->group.rank != 0)
            return;
        /* What it has of jobs is gone from now on, whenever it says so itself. */
        message = (struct dip_message){.kind = DIP_MESSAGE_GROUP_LOST, .from = action->member};
        dip_core_feed(d->core, now_ns, &message);
        return;
    }
    message = (struct dip_message){
        .kind = action->kind == DIP_GROUP_ACTION_DRAIN ? DIP_MESSAGE_DRAIN : DIP_MESSAGE_UNDRAIN,
        .from = action->member};
    dip_core_feed(d->core, now_ns, &message);
}

void dip__groups_feed(struct dip_coordinator_daemon *d, int64_t now_ns,
                      const struct dip_message *message)
{
    struct dip_group_action action;
    /* A worker of both panels draws by itself: ranks do nothing else. */
    bool is_rank = message->kind == DIP_MESSAGE_TICK ||
                   (message->from < (uint32_t)d->roster.entry_count &&
                    d->roster.entries[message->from].view.facts.roles == DIP_ROLE_AR);
    if (!d->groups || !is_rank)
        return;
    dip_groups_feed(d->groups, now_ns, message);
    if (dip_groups_rebuilt_ns(d->groups) > 0)
        dip_histogram_add(&d->stats.group_rebuild, dip_groups_rebuilt_ns(d->groups));
    while (dip_groups_next(d->groups, &action))
        carry_out(d, now_ns, &action);
}

int64_t dip__groups_wake_ns(const struct dip_coordinator_daemon *d)
{
    return d->groups ? dip_groups_wake_ns(d->groups) : INT64_MAX;
}
