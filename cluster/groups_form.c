/* cluster/groups_form.c - who becomes which rank, and how a group begins and ends.
 *
 * Choice of ranks: who had a rank of this group keeps it; then a host that has enough idle workers
 * for all that is missing, the one with the fewest such; else the hosts with most, one after the
 * other. Workers that let a group down lately are taken last. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/groups_state.h"

enum { FAILURES_MAX = 8 };

#define BACKOFF_NS_SHORTEST (DIP_SECOND_NS / 2)
#define BACKOFF_NS_LONGEST  (30 * DIP_SECOND_NS)
#define GIVEN_UP_NS         (300 * DIP_SECOND_NS)
#define PARTED_NS           DIP_SECOND_NS

struct dip_group_action *dip__group_action_push(struct dip_groups *g,
                                                enum dip_group_action_kind kind, uint32_t member)
{
    dip_assert(g->action_count < g->action_count_max);
    struct dip_group_action *action = &g->actions[g->action_count++];
    *action = (struct dip_group_action){.kind = kind, .member = member};
    return action;
}

static struct dip_message_group *command_push(struct dip_groups *g, enum dip_message_kind kind,
                                              const struct group *group, int rank)
{
    struct dip_group_action *action =
        dip__group_action_push(g, DIP_GROUP_ACTION_SEND, group->ranks[rank]);
    action->message = kind;
    struct dip_message_group *command = &action->group;
    snprintf(command->id, sizeof command->id, "g%d", (int)(group - g->groups));
    command->epoch = group->epoch;
    command->rank = rank;
    command->size = group->size;
    command->missing_rank = -1;
    return command;
}

static int64_t backoff_ns(int failures)
{
    int64_t ns = BACKOFF_NS_SHORTEST;
    for (int i = 1; i < failures && ns < BACKOFF_NS_LONGEST; i++)
        ns *= 2;
    return ns < BACKOFF_NS_LONGEST ? ns : BACKOFF_NS_LONGEST;
}

void dip__candidate_set_aside(struct dip_groups *g, uint32_t member, const struct group *group)
{
    g->candidates[member].aside_ns = g->now_ns + 2 * backoff_ns(group->failures + 1);
}

void dip__candidates_part(struct dip_groups *g, uint32_t member, uint32_t missing)
{
    struct candidate *a = &g->candidates[member], *b = &g->candidates[missing];
    a->unheard++;
    b->unheard++;
    (a->unheard > b->unheard ? a : b)->aside_ns = g->now_ns + PARTED_NS;
}

/* ---- end ---- */

/* Longer than the pause that its failures have earned: it counts anew. */
static bool has_stood(const struct dip_groups *g, const struct group *group)
{
    return group->state == DIP_GROUP_FORMED &&
           g->now_ns - group->formed_ns > backoff_ns(group->failures);
}

void dip__group_break(struct dip_groups *g, struct group *group, bool is_failure)
{
    if (group->state == DIP_GROUP_EMPTY || group->state == DIP_GROUP_GIVEN_UP)
        return;
    if (has_stood(g, group))
        group->failures = 0;
    if (group->state == DIP_GROUP_FORMED)
        group->lost_ns = g->now_ns;
    group->last_size = group->size;
    for (int rank = 0; rank < group->size; rank++) {
        struct candidate *candidate = &g->candidates[group->ranks[rank]];
        group->last_ranks[rank] = group->ranks[rank];
        group->has_last[rank] = candidate->is_known;
        if (!candidate->is_known)
            continue;
        candidate->group = GROUP_NONE;
        command_push(g, DIP_MESSAGE_DISSOLVE_GROUP, group, rank);
    }
    group->state = DIP_GROUP_EMPTY;
    group->size = 0;
    group->retry_ns = g->now_ns;
    if (!is_failure)
        return;
    if (++group->failures > 1) /* once may happen to anybody */
        group->retry_ns = g->now_ns + backoff_ns(group->failures - 1);
    if (group->failures < FAILURES_MAX)
        return;
    group->state = DIP_GROUP_GIVEN_UP;
    group->retry_ns = g->now_ns + GIVEN_UP_NS;
}

/* ---- choice ---- */

static bool is_idle(const struct candidate *candidate)
{
    return candidate->is_known && !candidate->is_leaving && candidate->group == GROUP_NONE;
}

static bool is_free(const struct dip_groups *g, const struct candidate *candidate)
{
    return is_idle(candidate) && candidate->aside_ns <= g->now_ns;
}

static int count_free(const struct dip_groups *g)
{
    int count = 0;
    for (int i = 0; i < g->options.member_count_max; i++)
        count += is_free(g, &g->candidates[i]);
    return count;
}

/* Marks a worker as taken; the group is not begun yet. */
static void seat(struct dip_groups *g, struct group *group, int rank, uint32_t member)
{
    group->ranks[rank] = member;
    group->has_formed[rank] = true; /* "has a worker", while ranks are chosen */
    g->candidates[member].group = (int)(group - g->groups);
    g->candidates[member].rank = rank;
}

/* How many idle workers share this one's host. */
static int count_host(const struct dip_groups *g, uint64_t host)
{
    int count = 0;
    for (int i = 0; i < g->options.member_count_max; i++)
        count += is_free(g, &g->candidates[i]) && g->candidates[i].host == host;
    return count;
}

/* The host to take the next `missing` workers from. */
static uint64_t choose_host(const struct dip_groups *g, int missing)
{
    uint64_t best = 0, last = 0;
    int best_count = 0, last_count = 0;
    for (int i = 0; i < g->options.member_count_max; i++) {
        const struct candidate *candidate = &g->candidates[i];
        if (!is_free(g, candidate) || (last_count > 0 && candidate->host == last))
            continue;
        int count = count_host(g, candidate->host);
        last = candidate->host; /* neighbours in address mostly share a host */
        last_count = count;
        bool is_enough = count >= missing, was_enough = best_count >= missing;
        if (best_count == 0 || (is_enough && !was_enough) ||
            (is_enough == was_enough && (is_enough ? count < best_count : count > best_count))) {
            best = candidate->host;
            best_count = count;
        }
    }
    return best;
}

static void seat_old(struct dip_groups *g, struct group *group)
{
    for (int rank = 0; rank < group->size && group->last_size == group->size; rank++) {
        uint32_t member = group->last_ranks[rank];
        if (group->has_last[rank] && is_free(g, &g->candidates[member]))
            seat(g, group, rank, member);
    }
}

static int count_missing(const struct group *group)
{
    int missing = 0;
    for (int rank = 0; rank < group->size; rank++)
        missing += !group->has_formed[rank];
    return missing;
}

static void seat_new(struct dip_groups *g, struct group *group)
{
    for (int missing = count_missing(group); missing > 0; missing = count_missing(group)) {
        uint64_t host = choose_host(g, missing);
        int rank = 0;
        for (int i = 0; i < g->options.member_count_max && rank < group->size; i++) {
            while (rank < group->size && group->has_formed[rank])
                rank++;
            if (rank < group->size && is_free(g, &g->candidates[i]) &&
                g->candidates[i].host == host)
                seat(g, group, rank, (uint32_t)i);
        }
    }
}

/* ---- begin ---- */

static void group_prepare(struct dip_groups *g, struct group *group, int size)
{
    group->size = size;
    memset(group->has_formed, 0, sizeof group->has_formed);
    seat_old(g, group);
    seat_new(g, group);
    memset(group->has_formed, 0, sizeof group->has_formed);
    group->formed_count = 0;
    group->epoch = ++g->epoch;
    group->state = DIP_GROUP_PREPARING;
    group->deadline_ns = g->now_ns + g->options.prepare_timeout_ns;
    command_push(g, DIP_MESSAGE_PREPARE_GROUP, group, 0);
}

void dip__group_form(struct dip_groups *g, struct group *group,
                     const struct dip_message_group *prepared)
{
    group->state = DIP_GROUP_FORMING;
    group->deadline_ns = g->now_ns + g->options.form_timeout_ns;
    for (int rank = 0; rank < group->size; rank++) {
        struct dip_message_group *command = command_push(g, DIP_MESSAGE_FORM_GROUP, group, rank);
        command->timeout_ns = g->options.form_timeout_ns;
        command->comm_id_bytes = prepared->comm_id_bytes;
        memcpy(command->comm_id, prepared->comm_id, prepared->comm_id_bytes);
    }
}

/* The largest legal degree for so many workers; 0 = none. */
static int legal_degree(const struct dip_groups *g, int count)
{
    int degree = count < g->options.degree ? count : g->options.degree;
    while (degree > 0 && !(g->options.legal_degrees >> (degree - 1) & 1))
        degree--;
    return degree;
}

static bool is_settled(const struct dip_groups *g)
{
    return g->now_ns - g->changed_ns >= g->options.grace_ns;
}

/* Without a wanted number, a small group is formed only when there is no other one. */
static bool is_small_wanted(const struct dip_groups *g)
{
    bool has_any = false;
    for (int i = 0; i < g->group_count; i++)
        has_any |= g->groups[i].size > 0;
    return g->options.allow_smaller && (g->options.group_count > 0 || !has_any);
}

/* A small group makes way when there are workers for a full one. */
static void grow(struct dip_groups *g, int free_count)
{
    for (int i = 0; i < g->group_count; i++) {
        struct group *group = &g->groups[i];
        if (group->state != DIP_GROUP_FORMED || group->size >= g->options.degree ||
            group->size + free_count < g->options.degree)
            continue;
        dip__group_break(g, group, false);
        return; /* one in a turn: the workers are counted anew */
    }
}

static bool waits_for_workers(const struct group *group)
{
    return group->state == DIP_GROUP_EMPTY || group->state == DIP_GROUP_GIVEN_UP;
}

void dip__groups_begin(struct dip_groups *g)
{
    int free_count = count_free(g);
    if (free_count > 0 && is_settled(g)) {
        grow(g, free_count);
        free_count = count_free(g);
    }
    for (int i = 0; i < g->group_count && free_count > 0; i++) {
        struct group *group = &g->groups[i];
        if (!waits_for_workers(group) || group->retry_ns > g->now_ns)
            continue;
        int size = g->options.degree;
        if (free_count < size)
            size = is_settled(g) && is_small_wanted(g) ? legal_degree(g, free_count) : 0;
        if (size == 0)
            continue;
        group_prepare(g, group, size);
        free_count -= size;
    }
}

int64_t dip__groups_begin_ns(const struct dip_groups *g)
{
    int64_t wake_ns = INT64_MAX;
    bool has_empty = false, has_small = false;
    for (int i = 0; i < g->group_count; i++) {
        const struct group *group = &g->groups[i];
        has_empty |= waits_for_workers(group);
        has_small |= group->state == DIP_GROUP_FORMED && group->size < g->options.degree;
        if (waits_for_workers(group) && group->retry_ns > g->now_ns && group->retry_ns < wake_ns)
            wake_ns = group->retry_ns;
    }
    if (!has_empty && !has_small)
        return wake_ns;
    for (int i = 0; i < g->options.member_count_max; i++) {
        const struct candidate *candidate = &g->candidates[i];
        if (is_idle(candidate) && candidate->aside_ns > g->now_ns && candidate->aside_ns < wake_ns)
            wake_ns = candidate->aside_ns;
    }
    int64_t settled_ns = g->changed_ns + g->options.grace_ns;
    if (g->options.allow_smaller && settled_ns > g->now_ns && settled_ns < wake_ns)
        wake_ns = settled_ns;
    return wake_ns;
}
