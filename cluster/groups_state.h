/* cluster/groups_state.h - what the forming of groups remembers; private to cluster/. */
#pragma once

#include "cluster/groups.h"

enum { GROUP_NONE = -1 };

struct candidate {
    bool is_known;   /* an AR worker that has appeared and is not lost */
    bool is_leaving; /* takes part in no new group */
    uint64_t host;   /* hash of its host id */
    int group;       /* index, or GROUP_NONE */
    int rank;
    int64_t aside_ns; /* let a group down: others are taken first until then */
    int unheard;      /* pairs it was in that did not hear each other, since its last group stood */
};

struct group {
    enum dip_group_state state;
    uint64_t epoch;
    int size;
    uint32_t ranks[DIP_GROUP_SIZE_MAX];
    bool has_formed[DIP_GROUP_SIZE_MAX];
    int formed_count;
    int64_t deadline_ns; /* preparing, forming: out of time then */
    int64_t retry_ns;    /* empty: not tried before */
    int64_t formed_ns;
    int64_t lost_ns; /* when one that had formed was; 0 = none was, or it stands again */
    int failures;

    /* Who had which rank last: they have its weights. */
    int last_size;
    uint32_t last_ranks[DIP_GROUP_SIZE_MAX];
    bool has_last[DIP_GROUP_SIZE_MAX];
};

struct dip_groups {
    struct dip_groups_options options;
    int64_t now_ns;
    uint64_t epoch;               /* the largest given out */
    int64_t changed_ns;           /* when an AR worker last came or went */
    int64_t rebuilt_ns;           /* of the last message, see dip_groups_rebuilt_ns */
    struct candidate *candidates; /* [member_count_max] */
    struct group *groups;         /* [group_count] */
    int group_count;
    struct dip_group_action *actions; /* [action_count_max] */
    int action_count, action_count_max, action_index;
};

struct dip_group_action *dip__group_action_push(struct dip_groups *g,
                                                enum dip_group_action_kind kind, uint32_t member);

/* Dissolves what there is of it. `is_failure`: it counts, and the next try waits longer, unless the
 * group has stood for longer than that. */
void dip__group_break(struct dip_groups *g, struct group *group, bool is_failure);

/* FORM_GROUP to all ranks. */
void dip__group_form(struct dip_groups *g, struct group *group,
                     const struct dip_message_group *prepared);

/* Begins every group that can be begun, and gives up small ones that could be large. */
void dip__groups_begin(struct dip_groups *g);

/* When dip__groups_begin could do more than now; INT64_MAX = not by itself. */
int64_t dip__groups_begin_ns(const struct dip_groups *g);

/* A worker let its group down: others go first for a while. */
void dip__candidate_set_aside(struct dip_groups *g, uint32_t member, const struct group *group);
/* Two of a group cannot hear each other. */
void dip__candidates_part(struct dip_groups *g, uint32_t member, uint32_t missing);
