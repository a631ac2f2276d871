/* cluster/pool.c - the members with room, in the order in which they would finish.
 *
 * AR: the member that draws a token soonest with one more image beside those it has. Diffusion: by
 * speed first (eight classes to the octave of a step's time), within a speed by the time that its
 * backlog takes; the first of every speed is compared, so a choice costs the number of different
 * speeds, not of members. One that has not been measured counts as the mean of all.
 *
 * A member that could not do what it was told is set aside, longer with every time in a row. */
#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

enum { ISOLATED_LOOKS_MAX = 16, SPEEDS_PER_OCTAVE = 8 };

#define ASIDE_NS_SHORTEST (DIP_SECOND_NS / 4)
#define ASIDE_NS_LONGEST  (30 * DIP_SECOND_NS)

bool dip__member_takes(const struct member *member)
{
    return member->is_alive && !member->is_draining && !dip__tree_has(&member->aside);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

static int64_t step_ns_of(const struct dip_scheduler *s, const struct member *member)
{
    if (member->rates.step_ns > 0)
        return member->rates.step_ns;
    return s->rates.step_ns > 0 ? s->rates.step_ns : 1;
}

static int speed_of(int64_t step_ns)
{
    int octave = 63 - __builtin_clzll((unsigned long long)step_ns | SPEEDS_PER_OCTAVE);
    int part = (int)(step_ns >> (octave - 3)) & (SPEEDS_PER_OCTAVE - 1);
    return octave * SPEEDS_PER_OCTAVE + part;
}

static void speed_mark(struct pool *pool, int speed)
{
    uint64_t bit = UINT64_C(1) << (speed % 64);
    if (dip__tree_count(&pool->diffusion_open[speed]) > 0)
        pool->speeds[speed / 64] |= bit;
    else
        pool->speeds[speed / 64] &= ~bit;
}

static void settle_ar(struct dip_scheduler *s, struct member *member, int room)
{
    if (room <= 0) {
        if (dip__tree_has(&member->ar_open))
            dip__tree_remove(&s->pool.ar_open, &member->ar_open);
        return;
    }
    const struct rates *rates = member->rates.token_ns > 0 ? &member->rates : &s->rates;
    /* Among equals the one with most room. */
    uint64_t tie = (uint64_t)(UINT32_MAX - (uint32_t)room) << 32 | (uint32_t)(member - s->members);
    dip__tree_move(&s->pool.ar_open, &member->ar_open, dip__token_ns(rates, member->ar_live + 1),
                   tie);
}

static void settle_diffusion(struct dip_scheduler *s, struct member *member, int room)
{
    struct pool *pool = &s->pool;
    int64_t step_ns = step_ns_of(s, member);
    int speed = speed_of(step_ns);
    if (dip__tree_has(&member->diffusion_open) && (room <= 0 || speed != member->speed)) {
        dip__tree_remove(&pool->diffusion_open[member->speed], &member->diffusion_open);
        speed_mark(pool, member->speed);
    }
    if (room <= 0)
        return;
    member->speed = speed;
    dip__tree_move(&pool->diffusion_open[speed], &member->diffusion_open,
                   member->backlog_steps * step_ns, (uint64_t)(member - s->members));
    speed_mark(pool, speed);
}

/* Replaces what the sums hold of the member. */
static void settle_sums(struct dip_scheduler *s, struct member *member, int ar_room,
                        int diffusion_room)
{
    struct pool *pool = &s->pool;
    uint32_t roles = dip__member_takes(member) ? member->roles : 0;
    int ar_slots = roles & DIP_ROLE_AR ? least(member->ar_slots, member->hinge_slots) : 0;
    int diffusion_slots = roles & DIP_ROLE_DIFFUSION ? member->diffusion_slots : 0;
    pool->ar_count += !!(roles & DIP_ROLE_AR) - !!(member->pooled_roles & DIP_ROLE_AR);
    pool->diffusion_count +=
        !!(roles & DIP_ROLE_DIFFUSION) - !!(member->pooled_roles & DIP_ROLE_DIFFUSION);
    pool->ar_slots += ar_slots - member->pooled_ar_slots;
    pool->ar_room += ar_room - member->pooled_ar_room;
    pool->diffusion_slots += diffusion_slots - member->pooled_diffusion_slots;
    pool->diffusion_room += diffusion_room - member->pooled_diffusion_room;
    member->pooled_roles = roles;
    member->pooled_ar_slots = ar_slots;
    member->pooled_ar_room = ar_room;
    member->pooled_diffusion_slots = diffusion_slots;
    member->pooled_diffusion_room = diffusion_room;
}

void dip__member_settle(struct dip_scheduler *s, struct member *member)
{
    int ar_room = 0, diffusion_room = 0;
    if (dip__member_takes(member) && (member->roles & DIP_ROLE_AR))
        ar_room = least(member->ar_slots - member->ar_live, member->hinge_slots - member->hinges);
    if (dip__member_takes(member) && (member->roles & DIP_ROLE_DIFFUSION))
        diffusion_room = member->diffusion_slots - member->diffusion_live - member->bound;
    settle_ar(s, member, ar_room);
    settle_diffusion(s, member, diffusion_room);
    settle_sums(s, member, ar_room, diffusion_room);
    if (member->is_alive && member->is_draining && !member->is_drained && member->hinges == 0 &&
        member->diffusion_jobs == 0 && member->bound == 0) {
        member->is_drained = true;
        dip__action_push(s, DIP_ACTION_DRAINED, NULL)->member = (uint32_t)(member - s->members);
    }
}

int dip__pick_ar(const struct dip_scheduler *s, bool is_isolated)
{
    struct tree_node *node = s->pool.ar_open.first;
    for (int i = 0; node && i < ISOLATED_LOOKS_MAX; i++, node = dip__tree_next(node)) {
        const struct member *member = dip__tree_owner(node, struct member, ar_open);
        if (!is_isolated || member->isolated_count == 0)
            return (int)(member - s->members);
    }
    return -1;
}

/* The first of one speed; NULL when no look finds one. */
static const struct member *first_of_speed(const struct tree *tree, bool is_isolated)
{
    struct tree_node *node = tree->first;
    for (int i = 0; node && i < ISOLATED_LOOKS_MAX; i++, node = dip__tree_next(node)) {
        const struct member *member = dip__tree_owner(node, struct member, diffusion_open);
        if (!is_isolated || member->isolated_count == 0)
            return member;
    }
    return NULL;
}

int dip__pick_diffusion(const struct dip_scheduler *s, int step_count, bool is_isolated)
{
    const struct member *best = NULL;
    int64_t best_ns = INT64_MAX;
    for (int word = 0; word < SPEED_COUNT / 64; word++) {
        for (uint64_t bits = s->pool.speeds[word]; bits; bits &= bits - 1) {
            int speed = word * 64 + __builtin_ctzll(bits);
            const struct member *member =
                first_of_speed(&s->pool.diffusion_open[speed], is_isolated);
            if (!member)
                continue;
            int64_t finish_ns =
                (member->backlog_steps + (int64_t)step_count) * step_ns_of(s, member);
            if (finish_ns < best_ns) {
                best = member;
                best_ns = finish_ns;
            }
        }
    }
    return best ? (int)(best - s->members) : -1;
}

void dip__member_set_aside(struct dip_scheduler *s, struct member *member)
{
    if (!member->is_alive || dip__tree_has(&member->aside))
        return;
    int64_t length_ns = 2 * member->aside_length_ns;
    if (length_ns < ASIDE_NS_SHORTEST ||
        s->now_ns - member->aside_ns > 2 * ASIDE_NS_LONGEST) /* long ago, long forgiven */
        length_ns = ASIDE_NS_SHORTEST;
    member->aside_length_ns = length_ns < ASIDE_NS_LONGEST ? length_ns : ASIDE_NS_LONGEST;
    member->aside_ns = s->now_ns + member->aside_length_ns;
    dip__tree_insert(&s->asides, &member->aside, member->aside_ns, (uint64_t)(member - s->members));
    dip__member_settle(s, member);
}

void dip__asides_end(struct dip_scheduler *s)
{
    while (s->asides.first && s->asides.first->key <= s->now_ns) {
        struct member *member = dip__tree_owner(s->asides.first, struct member, aside);
        dip__tree_remove(&s->asides, &member->aside);
        dip__member_settle(s, member);
    }
}
