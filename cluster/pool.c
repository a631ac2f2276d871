/* cluster/pool.c - the members with room, in the order in which they would finish.
 *
 * AR: the member that draws a token soonest with one more image beside those it has. Diffusion: by
 * speed first (eight classes to the octave of an image's part of a step, with one more image
 * there), within a speed by the time that its backlog takes; the first of every speed is compared,
 * so a choice costs the number of different speeds, not of members. One that has not been measured
 * counts as the mean of all. Room is what a member wants by its own measurements (cluster/batch.h),
 * not what it could hold: where two images at a time take twice as long, the second one waits here
 * and is still free to go elsewhere.
 *
 * A slow member with room is passed over while a fast one that is busy would serve everybody who
 * waits before the slow one had served the first: nothing is lost by that, even when it is idle.
 *
 * A member that could not do what it was told is set aside, longer with every time in a row. */
#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

enum {
    ISOLATED_LOOKS_MAX = 16,
    SPEEDS_PER_OCTAVE = 8,
    RELEASES_MAX = 8,  /* slots that are looked at because they will be free soon */
    GAIN_PARTS = 4,    /* what waiting must save */
    OVERDUE_PARTS = 4, /* of an image's time: then a slot is not waited for any more */
    MUCH_SLOWER = 2
};

#define REST_NS           (10 * DIP_SECOND_NS)
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

/* One image's part of a step of the member, when it has so many. */
static int64_t share_ns_of(const struct dip_scheduler *s, const struct member *member, int live)
{
    int64_t share_ns = dip__share_ns(&member->rates, live);
    if (share_ns == 0)
        share_ns = dip__share_ns(&s->rates, live);
    return share_ns > 0 ? share_ns : 1;
}

/* With one more. */
static int64_t step_ns_of(const struct dip_scheduler *s, const struct member *member)
{
    return share_ns_of(s, member, member->diffusion_live + member->bound + 1);
}

/* From now on: behind all that it has, and not faster than alone. */
static int64_t diffusion_ns(const struct dip_scheduler *s, const struct member *member,
                            int step_count)
{
    int64_t together_ns = (member->backlog_steps + (int64_t)step_count) * step_ns_of(s, member);
    int64_t alone_ns = step_count * share_ns_of(s, member, 1);
    return together_ns > alone_ns ? together_ns : alone_ns;
}

int dip__diffusion_slots(const struct member *member)
{
    bool is_less =
        member->diffusion_wanted > 0 && member->diffusion_wanted < member->diffusion_slots;
    return is_less ? member->diffusion_wanted : member->diffusion_slots;
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
    /* Among equals the one with most room. */
    uint64_t tie = (uint64_t)(UINT32_MAX - (uint32_t)room) << 32 | (uint32_t)(member - s->members);
    dip__tree_move(&s->pool.ar_open, &member->ar_open,
                   dip__token_ns(s, member, member->ar_live + 1), tie);
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

/* ---- what all of them can do ---- */

static void capacity_add(struct capacity *sum, const struct capacity *part, int by)
{
    sum->members += by * part->members;
    sum->slots += by * part->slots;
    sum->room += by * part->room;
    sum->hinge_slots += by * part->hinge_slots;
    sum->hinges += by * part->hinges;
    sum->speed += by * part->speed;
    sum->weight += by * part->weight;
}

static struct capacity drawing_of(const struct member *member)
{
    struct capacity c = {0};
    if (!dip__member_takes(member) || !(member->roles & DIP_ROLE_AR))
        return c;
    c.members = 1;
    c.slots = least(member->ar_slots, member->hinge_slots);
    c.room = least(member->ar_slots - member->ar_live, member->hinge_slots - member->hinges);
    c.hinge_slots = member->hinge_slots;
    c.hinges = member->hinges;
    dip__capacity_draw(member, &c);
    return c;
}

static struct capacity painting_of(const struct member *member)
{
    struct capacity c = {0};
    if (!dip__member_takes(member) || !(member->roles & DIP_ROLE_DIFFUSION))
        return c;
    c.members = 1;
    c.slots = dip__diffusion_slots(member);
    c.room = c.slots - member->diffusion_live - member->bound;
    if (c.room < 0)
        c.room = 0; /* it has come to want fewer than it has */
    dip__capacity_paint(member, &c);
    return c;
}

/* Replaces what the sum holds of the member. */
static void settle_sum(struct capacity *sum, struct capacity *before, struct capacity *pooled,
                       const struct capacity *now)
{
    if (sum->members == 1 && pooled->members == 1 && now->members == 0)
        *before = *sum;
    capacity_add(sum, pooled, -1);
    capacity_add(sum, now, 1);
    *pooled = *now;
}

void dip__member_settle(struct dip_scheduler *s, struct member *member)
{
    struct capacity drawing = drawing_of(member), painting = painting_of(member);
    settle_ar(s, member, drawing.room);
    settle_diffusion(s, member, painting.room);
    settle_sum(&s->pool.drawing, &s->pool.drawing_before, &member->pooled_drawing, &drawing);
    settle_sum(&s->pool.painting, &s->pool.painting_before, &member->pooled_painting, &painting);
    if (member->is_alive && member->is_draining && !member->is_drained && member->hinges == 0 &&
        member->diffusion_jobs == 0 && member->bound == 0) {
        member->is_drained = true;
        dip__action_push(s, DIP_ACTION_DRAINED, NULL)->member = (uint32_t)(member - s->members);
    }
}

/* ---- the best one ---- */

/* Better a slot is empty than that a member which is much slower than the others makes late what
 * they could do in time. Whoever is hopeless, or under suspicion, takes what there is; and a member
 * that has rested for long may be faster by now. */
static bool is_choosy(const struct dip_scheduler *s, const struct image *image,
                      const struct member *member, int64_t member_ns, int64_t mean_ns)
{
    return image->request->deadline_ns > 0 && !image->is_hopeless && !image->is_isolated &&
           member_ns > MUCH_SLOWER * mean_ns && s->now_ns - member->shares_ns < REST_NS;
}

/* Those that wait come there, too. */
static int company(int live, int waiting, int slots)
{
    return least(live + 1 + waiting, slots);
}

static bool draws_in_time(const struct dip_scheduler *s, const struct image *image,
                          const struct member *member)
{
    const struct request *request = image->request;
    int live = company(member->ar_live, s->ar_lane.count, member->ar_slots);
    int64_t left_ns = (request->token_count - image->token_count) * dip__token_ns(s, member, live);
    return !is_choosy(s, image, member, dip__token_ns(s, member, 1), s->rates.token_ns) ||
           s->now_ns + left_ns <= request->paint_key + request->spare_ns;
}

static bool paints_in_time(const struct dip_scheduler *s, const struct image *image,
                           const struct member *member)
{
    const struct request *request = image->request;
    int live =
        company(member->diffusion_live, s->diffusion_lane.count, dip__diffusion_slots(member));
    int64_t step_ns = dip__paint_ns(s, member, live);
    return !is_choosy(s, image, member, step_ns, s->rates.paint_ns) ||
           s->now_ns + request->step_count * step_ns * live <= request->deadline_ns;
}

int dip__pick_ar(const struct dip_scheduler *s, const struct image *image)
{
    struct tree_node *node = s->pool.ar_open.first;
    for (int i = 0; node && i < ISOLATED_LOOKS_MAX; i++, node = dip__tree_next(node)) {
        const struct member *member = dip__tree_owner(node, struct member, ar_open);
        if (!image->is_isolated || member->isolated_count == 0)
            return draws_in_time(s, image, member) ? (int)(member - s->members) : -1;
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

int dip__pick_diffusion(const struct dip_scheduler *s, const struct image *image, int64_t *ret_ns)
{
    const struct member *best = NULL;
    int64_t best_ns = INT64_MAX;
    for (int word = 0; word < SPEED_COUNT / 64; word++) {
        for (uint64_t bits = s->pool.speeds[word]; bits; bits &= bits - 1) {
            int speed = word * 64 + __builtin_ctzll(bits);
            const struct member *member =
                first_of_speed(&s->pool.diffusion_open[speed], image->is_isolated);
            if (!member)
                continue;
            int64_t took_ns = diffusion_ns(s, member, image->request->step_count);
            if (took_ns < best_ns) {
                best = member;
                best_ns = took_ns;
            }
        }
    }
    bool is_measured = best && dip__share_ns(&best->rates, 1) > 0;
    *ret_ns = is_measured ? best_ns : INT64_MAX;
    return best && paints_in_time(s, image, best) ? (int)(best - s->members) : -1;
}

bool dip__is_better_later(const struct dip_scheduler *s, const struct image *image, int waiting,
                          int64_t here_ns, int64_t *ret_until_ns)
{
    struct tree_node *node = s->diffusion_finishes.first;
    if (here_ns == INT64_MAX) /* not measured: the way to know is to try */
        return false;
    for (int i = 0; node && i < RELEASES_MAX; i++, node = dip__tree_next(node)) {
        const struct image *busy = dip__tree_owner(node, struct image, finish);
        const struct member *member = &s->members[busy->diffusion_member];
        int live = member->diffusion_live;
        if (!dip__member_takes(member) || live + member->bound > dip__diffusion_slots(member) ||
            dip__share_ns(&member->rates, live) == 0)
            continue;
        int64_t each_ns = image->request->step_count * dip__share_ns(&member->rates, live) * live;
        int64_t free_ns = node->key > s->now_ns ? node->key - s->now_ns : 0;
        int64_t until_ns = node->key + each_ns / OVERDUE_PARTS;
        if (until_ns <= s->now_ns || free_ns + waiting * each_ns > here_ns - here_ns / GAIN_PARTS)
            continue;
        *ret_until_ns = until_ns;
        return true;
    }
    return false;
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
