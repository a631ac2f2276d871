/* cluster/groups.h - the forming of tensor-parallel groups: (event, now) in, (actions) out.
 *
 * A pure state machine beside the scheduler, for which a group is one member: its rank 0. Fed what
 * happens to AR workers; says who is to open a rendezvous, who is to join it under which rank, and
 * who is to leave. Not used with degree 1, where a worker joins by itself.
 *
 *   (empty)   -- PREPARE_GROUP to rank 0 ----------------> preparing
 *   preparing -- GROUP_PREPARED: FORM_GROUP to all ------> forming
 *   forming   -- GROUP_FORMED of every rank -------------> formed
 *   any       -- a rank LOST, GROUP_LOST, out of time: DISSOLVE_GROUP to the others > (empty)
 *
 * What it holds at all times: every forming has a larger epoch than any before; a member is in one
 * group at most, and hears of a newer epoch only after the end of the older one; who stays in a
 * group keeps its rank, because it has that rank's weights; a group that does not come to stand is
 * tried again after longer and longer pauses, and after a number of times given up.
 *
 * Two ranks that cannot hear each other are no failure of either: the line between them may be cut,
 * and is mended when it is. One of the two is left out for a second, so that a spare takes its
 * place: the one that was part of more such pairs lately, because a host that is cut off from all
 * others says of each of them that it is missing. Without a spare the same two are tried again.
 *
 * Thread: the coordinator's loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "cluster/job.h"

struct dip_groups;

enum { DIP_GROUP_SIZE_MAX = 64 };

struct dip_groups_options {
    int member_count_max;       /* addresses 0 .. member_count_max - 1 */
    int degree;                 /* ranks of a group, 2 .. DIP_GROUP_SIZE_MAX */
    int group_count;            /* wanted; 0 = as many as there are workers for */
    bool allow_smaller;         /* rather a group of a smaller degree than none */
    uint64_t legal_degrees;     /* bit d - 1: the model can be cut in d; 0 = the powers of two */
    uint64_t epoch_first;       /* larger than any that workers may have seen: leaders count on */
    int64_t prepare_timeout_ns; /* 0 = 10 s */
    int64_t form_timeout_ns;    /* all ranks joined, weights read; 0 = 120 s */
    int64_t grace_ns;           /* the AR workers have not changed for so long: none is on its way
                                 * any more; then allow_smaller acts; 0 = 10 s */
};

DIP_MUST_USE enum dip_status dip_groups_new(const struct dip_groups_options *options,
                                            struct dip_groups **ret_groups);
void dip_groups_free(struct dip_groups *groups);

enum dip_group_action_kind {
    DIP_GROUP_ACTION_SEND,  /* `message` (PREPARE_GROUP, FORM_GROUP, DISSOLVE_GROUP) to `member` */
    DIP_GROUP_ACTION_DRAIN, /* a rank wants to go: `member` is its rank 0, for the scheduler */
    DIP_GROUP_ACTION_UNDRAIN, /* none of them does any more */
};

struct dip_group_action {
    enum dip_group_action_kind kind;
    uint32_t member;
    enum dip_message_kind message;
    struct dip_message_group group;
};

/* Takes APPEARED, LOST, LEAVING, DRAIN, UNDRAIN, GROUP_PREPARED, GROUP_FORMED, GROUP_LOST or TICK;
 * others are ignored. All actions of the message before must have been taken. */
void dip_groups_feed(struct dip_groups *groups, int64_t now_ns, const struct dip_message *message);
bool dip_groups_next(struct dip_groups *groups, struct dip_group_action *ret_action);

/* When a TICK is due; INT64_MAX = not before another message. */
int64_t dip_groups_wake_ns(const struct dip_groups *groups);

/* Whether a JOINED of this member counts for the scheduler: it is in no group's business, or it is
 * rank 0 and has said GROUP_FORMED for the group as it is now. One that was still on its way when
 * the group was dissolved does not. When a DISSOLVE_GROUP goes to rank 0, the scheduler is to hear
 * GROUP_LOST from it. */
bool dip_groups_may_join(const struct dip_groups *groups, uint32_t member);

/* ---- for pages and for tests ---- */

enum dip_group_state {
    DIP_GROUP_EMPTY, /* not enough workers, or it waits to be tried again */
    DIP_GROUP_PREPARING,
    DIP_GROUP_FORMING,
    DIP_GROUP_FORMED,
    DIP_GROUP_GIVEN_UP, /* tried too often; a new worker makes it try again, or five minutes */
};

struct dip_group_view {
    char id[DIP_GROUP_ID_BYTES];
    enum dip_group_state state;
    uint64_t epoch;
    int size;
    int failures;                       /* in a row */
    uint32_t ranks[DIP_GROUP_SIZE_MAX]; /* addresses, [size] */
};

/* How long the group had been gone that stands again with the last message; 0 = none does. */
int64_t dip_groups_rebuilt_ns(const struct dip_groups *groups);

/* index 0 ..; false beyond the last. */
bool dip_groups_view(const struct dip_groups *groups, int index, struct dip_group_view *ret_view);

/* Where a worker belongs; false when it is in no group. */
bool dip_groups_place(const struct dip_groups *groups, uint32_t member, int *ret_index,
                      int *ret_rank);
