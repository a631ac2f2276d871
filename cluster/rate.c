/* cluster/rate.c - what was measured: how long a token, a step and a picture take, and how much all
 * members can do together.
 *
 * What a slot was held for decides, by this process's clock, and not what a worker says of its
 * device: the way there, the autoencoder behind the last step and whatever else the device does
 * are part of it. An image is charged the part of its member's time that an image alone would have
 * needed (a share that grows more slowly the more company there is), so that what was measured in
 * company and what was measured alone are the same number.
 *
 * At the diffusion panel n images take n times as long. Images decoded together share a step: a
 * neighbour is taken to cost a quarter of the first one, between a device that decodes neighbours
 * for nothing and one that shares itself out. Where that is not how a device behaves, the mean
 * follows what it did in the company that it has. */
#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

enum {
    MEAN_WEIGHT = 8,
    NEIGHBOUR_SHARE = 4,
    WEIGHT_ONE = 16,
    WORK_PARTS = 16,
    WORK_PARTS_MOST = 8192
};

/* Longer is a mistake of somebody's clock; it also keeps every product below far from overflow. */
#define MEASURED_NS_LONGEST (600 * DIP_SECOND_NS)
#define COST_NS_SHORTEST    INT64_C(1000)
#define SERVICE_NS_LONGEST  (3600 * DIP_SECOND_NS)

static bool is_sound(int64_t measured_ns)
{
    return measured_ns > 0 && measured_ns <= MEASURED_NS_LONGEST;
}

void dip__rate_add(int64_t *rate, int64_t measured_ns)
{
    if (!is_sound(measured_ns))
        return;
    int64_t mean = *rate > 0 ? *rate + (measured_ns - *rate) / MEAN_WEIGHT : measured_ns;
    *rate = mean > 0 ? mean : 1;
}

/* The first few count alike; what stood there before the first is forgotten. */
static void mean_add(int64_t *mean_ns, int *count, int64_t measured_ns)
{
    if (!is_sound(measured_ns))
        return;
    *count += *count < MEAN_WEIGHT;
    *mean_ns = *count == 1 ? measured_ns : *mean_ns + (measured_ns - *mean_ns) / *count;
}

void dip__rate_step(struct dip_scheduler *s, struct member *member,
                    const struct dip_message_step *step)
{
    int batch = step->batch < 1 ? 1 : step->batch < DIP_BATCH_MAX ? step->batch : DIP_BATCH_MAX;
    dip__rate_add(&member->rates.share_ns[batch - 1], step->step_ns);
    dip__rate_add(&s->rates.share_ns[batch - 1], step->step_ns);
    if (step->room > 0)
        member->diffusion_wanted = step->room;
}

/* A worker makes its steps of as many images as cost least each. */
int64_t dip__share_ns(const struct rates *rates, int live)
{
    int64_t least_ns = 0;
    for (int i = 0; i < DIP_BATCH_MAX && (i < live || least_ns == 0); i++)
        if (rates->share_ns[i] > 0 && (least_ns == 0 || rates->share_ns[i] < least_ns))
            least_ns = rates->share_ns[i];
    return least_ns;
}

/* ---- shares ---- */

void dip__shares_move(struct dip_scheduler *s, struct member *member)
{
    int64_t took_ns = s->now_ns - member->shares_ns;
    member->shares_ns = s->now_ns;
    if (member->ar_live > 0)
        member->draw_share_ns +=
            took_ns * NEIGHBOUR_SHARE / (member->ar_live + NEIGHBOUR_SHARE - 1);
    if (member->diffusion_live > 0)
        member->paint_share_ns += took_ns / member->diffusion_live;
}

static int64_t drawn_ns(struct dip_scheduler *s, const struct image *image)
{
    struct member *member = &s->members[image->ar_member];
    dip__shares_move(s, member);
    return image->draw_mark_ns < 0 ? 0 : member->draw_share_ns - image->draw_mark_ns;
}

void dip__rate_prefilled(struct dip_scheduler *s, struct image *image)
{
    struct member *member = &s->members[image->ar_member];
    int64_t took_ns = drawn_ns(s, image);
    image->is_prefilled = true;
    if (image->draw_mark_ns < 0)
        return;
    dip__rate_add(&member->rates.prefill_ns, took_ns);
    dip__rate_add(&s->rates.prefill_ns, took_ns);
    image->draw_mark_ns = member->draw_share_ns;
    image->draw_mark_tokens = image->token_count;
}

/* A guess until an image is through. */
void dip__rate_drawing(struct dip_scheduler *s, const struct image *image)
{
    struct rates *rates = &s->members[image->ar_member].rates;
    int tokens = image->token_count - image->draw_mark_tokens;
    if (rates->token_count > 0 || tokens <= 0)
        return;
    int64_t each_ns = drawn_ns(s, image) / tokens;
    if (!is_sound(each_ns))
        return;
    rates->token_ns = each_ns;
    if (s->rates.token_count == 0)
        s->rates.token_ns = each_ns;
}

void dip__rate_drawn(struct dip_scheduler *s, const struct image *image)
{
    struct rates *rates = &s->members[image->ar_member].rates;
    int tokens = image->token_count - image->draw_mark_tokens;
    if (tokens <= 0)
        return;
    int64_t each_ns = drawn_ns(s, image) / tokens;
    mean_add(&rates->token_ns, &rates->token_count, each_ns);
    mean_add(&s->rates.token_ns, &s->rates.token_count, each_ns);
}

void dip__rate_stepped(struct dip_scheduler *s, struct image *image)
{
    struct member *member = &s->members[image->diffusion_member];
    dip__shares_move(s, member);
    image->tail_mark_ns = member->paint_share_ns;
}

void dip__rate_painted(struct dip_scheduler *s, const struct image *image)
{
    struct member *member = &s->members[image->diffusion_member];
    struct rates *rates = &member->rates;
    int steps = image->steps_done - image->paint_mark_steps;
    dip__shares_move(s, member);
    if (image->paint_mark_ns < 0 || steps <= 0)
        return;
    int64_t each_ns = (image->tail_mark_ns - image->paint_mark_ns) / steps;
    int64_t tail_ns = member->paint_share_ns - image->tail_mark_ns;
    mean_add(&rates->paint_ns, &rates->paint_count, each_ns);
    mean_add(&s->rates.paint_ns, &s->rates.paint_count, each_ns);
    dip__rate_add(&rates->tail_ns, tail_ns);
    dip__rate_add(&s->rates.tail_ns, tail_ns);
}

/* ---- one member ---- */

int64_t dip__token_ns(const struct dip_scheduler *s, const struct member *member, int live)
{
    int64_t alone_ns = member->rates.token_ns > 0 ? member->rates.token_ns : s->rates.token_ns;
    return alone_ns * (live + NEIGHBOUR_SHARE - 1) / NEIGHBOUR_SHARE;
}

static int64_t paint_ns_of(const struct rates *rates, int live)
{
    return rates->paint_ns > 0 ? rates->paint_ns : dip__share_ns(rates, live);
}

int64_t dip__paint_ns(const struct dip_scheduler *s, const struct member *member, int live)
{
    int64_t own_ns = paint_ns_of(&member->rates, live);
    return own_ns > 0 ? own_ns : paint_ns_of(&s->rates, live);
}

static int64_t speed_of(int64_t cost_ns)
{
    return DIP_SPEED_NS / (cost_ns > COST_NS_SHORTEST ? cost_ns : COST_NS_SHORTEST);
}

void dip__capacity_draw(const struct member *member, struct capacity *capacity)
{
    int slots = capacity->slots;
    int weight = slots * NEIGHBOUR_SHARE * WEIGHT_ONE / (slots + NEIGHBOUR_SHARE - 1);
    if (member->rates.token_ns > 0)
        capacity->speed = speed_of(member->rates.token_ns) / WEIGHT_ONE * weight;
    else
        capacity->weight = weight;
}

void dip__capacity_paint(const struct member *member, struct capacity *capacity)
{
    int64_t cost_ns = paint_ns_of(&member->rates, capacity->slots);
    if (capacity->slots > 0 && cost_ns > 0)
        capacity->speed = speed_of(cost_ns);
    else if (capacity->slots > 0)
        capacity->weight = WEIGHT_ONE;
}

/* ---- all of them ---- */

static int64_t clamp_service(int64_t ns)
{
    return ns < SERVICE_NS_LONGEST ? ns : SERVICE_NS_LONGEST;
}

/* Work at the speed of all: so much time lies between one image and the next. `more_ns` is what an
 * image takes besides, in the time of a mean member. */
static int64_t every_ns(const struct capacity *capacity, int64_t mean_cost_ns, int64_t work,
                        int64_t more_ns)
{
    if (mean_cost_ns == 0)
        return 0;
    int64_t speed = capacity->speed + speed_of(mean_cost_ns) / WEIGHT_ONE * capacity->weight;
    int64_t parts = work * WORK_PARTS + more_ns * WORK_PARTS / mean_cost_ns;
    parts = parts < 1 ? 1 : parts > WORK_PARTS_MOST ? WORK_PARTS_MOST : parts;
    if (speed < WORK_PARTS)
        return 0;
    return clamp_service(parts * (DIP_SPEED_NS / speed) / WORK_PARTS +
                         parts * (DIP_SPEED_NS % speed) / speed / WORK_PARTS) +
           1;
}

int64_t dip__draw_every_ns(const struct dip_scheduler *s, int64_t tokens)
{
    const struct rates *rates = &s->rates;
    return every_ns(dip__drawing(s), rates->token_ns, tokens, rates->prefill_ns);
}

int64_t dip__paint_every_ns(const struct dip_scheduler *s, int64_t steps)
{
    const struct rates *rates = &s->rates;
    return every_ns(dip__painting(s), paint_ns_of(rates, DIP_BATCH_MAX), steps, rates->tail_ns);
}

/* How many images a member has at once when so many more have come; all of its slots when others
 * wait for one. */
static int company(const struct capacity *capacity, int live, int more)
{
    int most = capacity->slots / capacity->members;
    int each = (live + more + capacity->members - 1) / capacity->members;
    most = most > 1 ? most : 1;
    return capacity->room == 0 || each > most ? most : each;
}

int64_t dip__draw_ns(const struct dip_scheduler *s, int tokens, int images)
{
    const struct capacity *c = dip__drawing(s);
    if (c->slots == 0)
        return 0;
    int live = company(c, s->state_counts[IMAGE_AR_RUNNING], images);
    int most = company(c, c->slots, 0);
    return clamp_service(dip__draw_every_ns(s, tokens) * c->slots * (live + NEIGHBOUR_SHARE - 1) /
                         (most + NEIGHBOUR_SHARE - 1));
}

int64_t dip__paint_hold_ns(const struct dip_scheduler *s, int steps, int images)
{
    const struct capacity *c = dip__painting(s);
    if (c->slots == 0)
        return 0;
    const int *counts = s->state_counts;
    int before = counts[IMAGE_AR_RUNNING] + counts[IMAGE_DIFFUSION_WAITING];
    int live = company(c, counts[IMAGE_DIFFUSION_RUNNING] + before, images);
    return clamp_service(dip__paint_every_ns(s, steps) * c->members * live);
}

/* ---- slots that are taken ---- */

static int64_t ar_left_ns(const struct dip_scheduler *s, const struct image *image)
{
    const struct member *member = &s->members[image->ar_member];
    const struct rates *rates = member->rates.prefill_ns > 0 ? &member->rates : &s->rates;
    int64_t left = image->request->token_count - image->token_count;
    int64_t prefill_ns = image->is_prefilled ? 0 : rates->prefill_ns;
    return prefill_ns + left * dip__token_ns(s, member, member->ar_live);
}

static int64_t diffusion_left_ns(const struct dip_scheduler *s, const struct image *image)
{
    const struct member *member = &s->members[image->diffusion_member];
    int live = member->diffusion_live;
    int64_t left = image->request->step_count - image->steps_done;
    int64_t tail_ns = member->rates.tail_ns > 0 ? member->rates.tail_ns : s->rates.tail_ns;
    return (left * dip__paint_ns(s, member, live) + tail_ns) * live;
}

void dip__finish_update(struct dip_scheduler *s, struct image *image)
{
    bool is_ar = image->state == IMAGE_AR_RUNNING;
    int64_t left_ns = is_ar ? ar_left_ns(s, image) : diffusion_left_ns(s, image);
    int64_t finish_ns = s->now_ns + left_ns;
    int64_t moved_ns = finish_ns - image->finish.key;
    /* A thirtieth more or less would not change anybody's answer. */
    if (dip__tree_has(&image->finish) && (moved_ns < 0 ? -moved_ns : moved_ns) < left_ns / 32)
        return;
    dip__tree_move(is_ar ? &s->ar_finishes : &s->diffusion_finishes, &image->finish, finish_ns,
                   image->order);
}

void dip__finish_remove(struct dip_scheduler *s, struct image *image)
{
    if (!dip__tree_has(&image->finish))
        return;
    bool is_ar = image->state == IMAGE_AR_RUNNING;
    dip__tree_remove(is_ar ? &s->ar_finishes : &s->diffusion_finishes, &image->finish);
}
