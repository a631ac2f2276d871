/* cluster/groups.c - what happens to workers, and what follows for their groups. */
#include "cluster/groups.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cluster/groups_state.h"

#define PREPARE_NS_DEFAULT (10 * DIP_SECOND_NS)
#define FORM_NS_DEFAULT    (120 * DIP_SECOND_NS)
#define GRACE_NS_DEFAULT   (10 * DIP_SECOND_NS)

enum { ACTIONS_PER_MEMBER = 4 }; /* dissolved, prepared, formed; a drain */

static void options_take(struct dip_groups *g, const struct dip_groups_options *options)
{
    dip_assert(options->member_count_max > 0);
    dip_assert(options->degree >= 2 && options->degree <= DIP_GROUP_SIZE_MAX);
    dip_assert(options->group_count >= 0 && options->group_count <= options->member_count_max);
    g->options = *options;
    struct dip_groups_options *o = &g->options;
    o->prepare_timeout_ns = o->prepare_timeout_ns > 0 ? o->prepare_timeout_ns : PREPARE_NS_DEFAULT;
    o->form_timeout_ns = o->form_timeout_ns > 0 ? o->form_timeout_ns : FORM_NS_DEFAULT;
    o->grace_ns = o->grace_ns > 0 ? o->grace_ns : GRACE_NS_DEFAULT;
    for (int d = 1; options->legal_degrees == 0 && d <= DIP_GROUP_SIZE_MAX; d *= 2)
        o->legal_degrees |= UINT64_C(1) << (d - 1);
    g->epoch = options->epoch_first;
    g->group_count = options->group_count;
    if (g->group_count == 0)
        g->group_count = 1 + (options->member_count_max - 1) / options->degree;
    g->action_count_max = ACTIONS_PER_MEMBER * options->member_count_max + 1;
}

enum dip_status dip_groups_new(const struct dip_groups_options *options,
                               struct dip_groups **ret_groups)
{
    struct dip_groups *g = calloc(1, sizeof *g);
    if (!g)
        return DIP_NO_MEMORY;
    options_take(g, options);
    g->candidates = calloc((size_t)options->member_count_max, sizeof *g->candidates);
    g->groups = calloc((size_t)g->group_count, sizeof *g->groups);
    g->actions = calloc((size_t)g->action_count_max, sizeof *g->actions);
    if (!g->candidates || !g->groups || !g->actions) {
        dip_groups_free(g);
        return DIP_NO_MEMORY;
    }
    *ret_groups = g;
    return DIP_OK;
}

void dip_groups_free(struct dip_groups *groups)
{
    if (!groups)
        return;
    free(groups->candidates);
    free(groups->groups);
    free(groups->actions);
    free(groups);
}

/* ---- workers ---- */

static uint64_t hash_text(const char *text, size_t bytes_max)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes_max && text[i]; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static void on_lost(struct dip_groups *g, uint32_t member)
{
    struct candidate *candidate = &g->candidates[member];
    if (!candidate->is_known)
        return;
    candidate->is_known = false; /* first, so that nothing is sent to it any more */
    g->changed_ns = g->now_ns;
    if (candidate->group == GROUP_NONE)
        return;
    dip__group_break(g, &g->groups[candidate->group], true);
}

static void on_appeared(struct dip_groups *g, const struct dip_message *m)
{
    if (m->as.appeared.facts.bytes != sizeof(struct dip_member_facts))
        return;
    const struct dip_member_facts *facts = m->as.appeared.facts.data;
    on_lost(g, m->from); /* of whom the address was before */
    if (!(facts->roles & DIP_ROLE_AR))
        return;
    g->candidates[m->from] = (struct candidate){
        .is_known = true,
        .host = hash_text(facts->host_id, sizeof facts->host_id),
        .group = GROUP_NONE,
    };
    g->changed_ns = g->now_ns;
    for (int i = 0; i < g->group_count; i++) {
        struct group *group = &g->groups[i];
        if (group->state != DIP_GROUP_GIVEN_UP)
            continue;
        group->state = DIP_GROUP_EMPTY; /* somebody new: worth another try */
        group->failures = 0;
        group->retry_ns = g->now_ns;
    }
}

static bool has_leaving(const struct dip_groups *g, const struct group *group)
{
    for (int rank = 0; rank < group->size; rank++)
        if (g->candidates[group->ranks[rank]].is_leaving)
            return true;
    return false;
}

/* A rank that wants to go takes its group along, when the group's work is done. */
static void on_leaving(struct dip_groups *g, uint32_t member, bool is_leaving)
{
    struct candidate *candidate = &g->candidates[member];
    if (!candidate->is_known || candidate->is_leaving == is_leaving)
        return;
    candidate->is_leaving = is_leaving;
    g->changed_ns = g->now_ns;
    if (candidate->group == GROUP_NONE)
        return;
    struct group *group = &g->groups[candidate->group];
    if (group->state != DIP_GROUP_FORMED)
        dip__group_break(g, group, false);
    else if (is_leaving)
        dip__group_action_push(g, DIP_GROUP_ACTION_DRAIN, group->ranks[0]);
    else if (!has_leaving(g, group))
        dip__group_action_push(g, DIP_GROUP_ACTION_UNDRAIN, group->ranks[0]);
}

/* ---- groups ---- */

/* The group that a rank speaks of, when it is its own and of this version; NULL otherwise. */
static struct group *group_of(struct dip_groups *g, const struct dip_message *m, int *ret_rank)
{
    const struct candidate *candidate = &g->candidates[m->from];
    if (!candidate->is_known || candidate->group == GROUP_NONE)
        return NULL;
    struct group *group = &g->groups[candidate->group];
    *ret_rank = candidate->rank;
    return group->epoch == m->as.group.epoch ? group : NULL;
}

static void on_formed(struct dip_groups *g, struct group *group, int rank)
{
    if (group->state != DIP_GROUP_FORMING || group->has_formed[rank])
        return;
    group->has_formed[rank] = true;
    if (++group->formed_count < group->size)
        return;
    group->state = DIP_GROUP_FORMED;
    group->formed_ns = g->now_ns;
    g->rebuilt_ns = group->lost_ns ? g->now_ns - group->lost_ns : 0;
    group->lost_ns = 0;
    for (int i = 0; i < group->size; i++)
        g->candidates[group->ranks[i]].unheard = 0;
}

static void on_group_lost(struct dip_groups *g, struct group *group, int rank, int missing_rank)
{
    bool is_parted = missing_rank >= 0 && missing_rank < group->size && missing_rank != rank;
    if (is_parted)
        dip__candidates_part(g, group->ranks[rank], group->ranks[missing_rank]);
    dip__group_break(g, group, !is_parted);
}

static void on_group_event(struct dip_groups *g, const struct dip_message *m)
{
    int rank = 0;
    struct group *group = group_of(g, m, &rank);
    if (!group)
        return;
    if (m->kind == DIP_MESSAGE_GROUP_FORMED)
        on_formed(g, group, rank);
    else if (m->kind == DIP_MESSAGE_GROUP_LOST)
        on_group_lost(g, group, rank, m->as.group.missing_rank);
    else if (group->state == DIP_GROUP_PREPARING && rank == 0 &&
             m->as.group.comm_id_bytes <= DIP_GROUP_COMM_BYTES)
        dip__group_form(g, group, &m->as.group);
}

/* ---- time ---- */

static bool has_deadline(const struct group *group)
{
    return group->state == DIP_GROUP_PREPARING || group->state == DIP_GROUP_FORMING;
}

/* Who has not answered is the reason. */
static void on_timeout(struct dip_groups *g, struct group *group)
{
    for (int rank = 0; rank < group->size; rank++) {
        bool is_awaited =
            group->state == DIP_GROUP_PREPARING ? rank == 0 : !group->has_formed[rank];
        if (is_awaited)
            dip__candidate_set_aside(g, group->ranks[rank], group);
    }
    dip__group_break(g, group, true);
}

int64_t dip_groups_wake_ns(const struct dip_groups *groups)
{
    int64_t wake_ns = dip__groups_begin_ns(groups);
    for (int i = 0; i < groups->group_count; i++)
        if (has_deadline(&groups->groups[i]) && groups->groups[i].deadline_ns < wake_ns)
            wake_ns = groups->groups[i].deadline_ns;
    return wake_ns;
}

/* ---- the frame ---- */

static void dispatch(struct dip_groups *g, const struct dip_message *m)
{
    switch (m->kind) {
    case DIP_MESSAGE_APPEARED:
        on_appeared(g, m);
        break;
    case DIP_MESSAGE_LOST:
        on_lost(g, m->from);
        break;
    case DIP_MESSAGE_LEAVING:
    case DIP_MESSAGE_DRAIN:
        on_leaving(g, m->from, true);
        break;
    case DIP_MESSAGE_UNDRAIN:
        on_leaving(g, m->from, false);
        break;
    case DIP_MESSAGE_GROUP_PREPARED:
    case DIP_MESSAGE_GROUP_FORMED:
    case DIP_MESSAGE_GROUP_LOST:
        on_group_event(g, m);
        break;
    default:
        break;
    }
}

void dip_groups_feed(struct dip_groups *groups, int64_t now_ns, const struct dip_message *message)
{
    struct dip_groups *g = groups;
    dip_assert(g->action_index == g->action_count); /* the caller took every action */
    g->action_index = g->action_count = 0;
    g->now_ns = now_ns > g->now_ns ? now_ns : g->now_ns;
    g->rebuilt_ns = 0;
    if (message->from >= (uint32_t)g->options.member_count_max)
        return;
    dispatch(g, message);
    for (int i = 0; i < g->group_count; i++)
        if (has_deadline(&g->groups[i]) && g->groups[i].deadline_ns <= g->now_ns)
            on_timeout(g, &g->groups[i]);
    dip__groups_begin(g);
}

int64_t dip_groups_rebuilt_ns(const struct dip_groups *groups)
{
    return groups->rebuilt_ns;
}

bool dip_groups_next(struct dip_groups *groups, struct dip_group_action *ret_action)
{
    if (groups->action_index == groups->action_count)
        return false;
    *ret_action = groups->actions[groups->action_index++];
    return true;
}

bool dip_groups_view(const struct dip_groups *groups, int index, struct dip_group_view *ret_view)
{
    if (index < 0 || index >= groups->group_count)
        return false;
    const struct group *group = &groups->groups[index];
    *ret_view = (struct dip_group_view){.state = group->state,
                                        .epoch = group->epoch,
                                        .size = group->size,
                                        .failures = group->failures};
    snprintf(ret_view->id, sizeof ret_view->id, "g%d", index);
    memcpy(ret_view->ranks, group->ranks, sizeof group->ranks);
    return true;
}

bool dip_groups_place(const struct dip_groups *groups, uint32_t member, int *ret_index,
                      int *ret_rank)
{
    if (member >= (uint32_t)groups->options.member_count_max)
        return false;
    const struct candidate *candidate = &groups->candidates[member];
    if (!candidate->is_known || candidate->group == GROUP_NONE)
        return false;
    *ret_index = candidate->group;
    *ret_rank = candidate->rank;
    return true;
}

bool dip_groups_may_join(const struct dip_groups *groups, uint32_t member)
{
    if (member >= (uint32_t)groups->options.member_count_max)
        return false;
    const struct candidate *candidate = &groups->candidates[member];
    if (!candidate->is_known)
        return true;
    if (candidate->group == GROUP_NONE || candidate->rank != 0)
        return false;
    const struct group *group = &groups->groups[candidate->group];
    return group->state == DIP_GROUP_FORMED ||
           (group->state == DIP_GROUP_FORMING && group->has_formed[0]);
}
