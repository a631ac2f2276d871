/* cluster/lane.c - who is next among the images that wait for a panel.
 *
 * Higher priority first. Within a priority tenants share by weight: start-time fair queueing
 * (Goyal, Vin and Cheng 1996), where a tenant's tag grows by cost over weight with every image
 * served and the smallest tag is next. Within a tenant the image that must begin first goes first;
 * one without a deadline has a distant one, so that nothing that comes later can pass it for ever.
 *
 * Waiting raises: when a priority was not served at all for age_ns, the next image of each of its
 * tenants goes up by one. Not every image that has waited long: then a flood of batch work would in
 * the end stand before what is interactive, and an old flood before a tenant who comes seldom.
 *
 * No starvation: a priority is served, or its tenants' next images go up; at the top every tenant's
 * tag is reached in its turn; and every image becomes its tenant's next, because the clock passes
 * its begin_key.
 *
 * Promises go before all that: when those that must begin by a time have just enough time left, if
 * they begin one after the other in that order, they do. Which of them are admitted is decided so
 * that this is possible (estimate.c) and seldom necessary. One that is past its time all the same,
 * because workers went or became slow, is hopeless: it goes last, so that its fate is not that of
 * all behind it. */
#include "base/assert.h"
#include "cluster/state.h"

enum {
    RAISED_MAX = 64, /* tenants in one go, those that are served next first */
    TAG_SHIFT = 10,  /* cost over weight keeps three digits behind the point */
    AHEAD_MOST = 1 << 19,
};

/* Who has not asked for so long asks no more. */
#define ASKED_NS (2 * DIP_SECOND_NS)

void dip__lane_init(struct dip_scheduler *s, struct lane *lane, struct flow *flows)
{
    lane->flows = flows;
    lane->promises.is_weighed = true;
    for (int i = 0; i < PRIORITY_COUNT * s->limits.tenant_count_max; i++)
        flows[i].tenant = (uint32_t)(i % s->limits.tenant_count_max);
}

static struct flow *flow_at(const struct dip_scheduler *s, const struct lane *lane, int band,
                            uint32_t tenant)
{
    return &lane->flows[band * s->limits.tenant_count_max + (int)tenant];
}

static void flow_push(struct dip_scheduler *s, struct lane *lane, struct image *image, int band)
{
    const struct request *request = image->request;
    struct flow *flow = flow_at(s, lane, band, request->tenant);
    struct band *b = &lane->bands[band];
    int64_t key = lane == &s->ar_lane ? request->begin_key : request->paint_key;
    if (dip__tree_count(&flow->images) == 0) {
        if (flow->tag < b->tag)
            flow->tag = b->tag; /* time without work is not saved up */
        dip__tree_insert(&b->flows, &flow->node, flow->tag, request->tenant);
        b->weight += s->weights[request->tenant];
    }
    dip__tree_insert(&flow->images, &image->wait, key, image->order);
    b->image_count++;
    image->band = band;
    if (b->image_count == 1)
        b->served_ns = s->now_ns; /* its wait begins */
}

static void flow_remove(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    uint32_t tenant = image->request->tenant;
    struct flow *flow = flow_at(s, lane, image->band, tenant);
    struct band *b = &lane->bands[image->band];
    dip__tree_remove(&flow->images, &image->wait);
    b->image_count--;
    if (dip__tree_count(&flow->images) == 0) {
        dip__tree_remove(&b->flows, &flow->node);
        b->weight -= s->weights[tenant];
    }
}

/* In order of coming: who waits longest is known without a search. */
static void queue_in(struct lane *lane, struct image *image)
{
    image->older = lane->newest;
    image->newer = NULL;
    *(lane->newest ? &lane->newest->newer : &lane->oldest) = image;
    lane->newest = image;
}

static void queue_out(struct lane *lane, struct image *image)
{
    *(image->older ? &image->older->newer : &lane->oldest) = image->newer;
    *(image->newer ? &image->newer->older : &lane->newest) = image->older;
}

static struct work work_of(const struct dip_scheduler *s, const struct lane *lane,
                           const struct image *image)
{
    const struct request *request = image->request;
    return (struct work){.tokens =
                             lane == &s->ar_lane ? request->token_count - image->token_count : 0,
                         .steps = request->step_count};
}

static void work_add(struct work *sum, struct work part, int by)
{
    sum->tokens += by * part.tokens;
    sum->steps += by * part.steps;
}

static void promise_end(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    if (!dip__tree_has(&image->promise.node))
        return;
    work_add(&lane->promised, work_of(s, lane, image), -1);
    dip__tree_remove(&lane->promises, &image->promise.node);
}

void dip__lane_push(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    const struct request *request = image->request;
    bool is_promised = lane == &s->ar_lane ? request->is_promised : request->is_paint_promised;
    struct work work = work_of(s, lane, image);
    lane->count++;
    work_add(&lane->all, work, 1);
    queue_in(lane, image);
    image->wait_ns = s->now_ns;
    image->is_hopeless = false;
    if (image->is_isolated) {
        dip__tree_insert(&lane->isolated, &image->wait, request->begin_key, image->order);
        return;
    }
    flow_push(s, lane, image, image->band);
    if (!is_promised)
        return;
    work_add(&lane->promised, work, 1);
    image->promise.work = dip__every_ns(s, work.tokens, work.steps);
    dip__tree_insert(&lane->promises, &image->promise.node, image->wait.key, image->order);
}

void dip__lane_remove(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    lane->count--;
    dip_assert(lane->count >= 0);
    work_add(&lane->all, work_of(s, lane, image), -1);
    queue_out(lane, image);
    if (image->is_isolated)
        dip__tree_remove(&lane->isolated, &image->wait);
    else if (image->is_hopeless)
        dip__tree_remove(&lane->hopeless, &image->wait);
    else
        flow_remove(s, lane, image);
    promise_end(s, lane, image);
}

void dip__lane_serve(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    const struct request *request = image->request;
    int band = image->band;
    dip__lane_remove(s, lane, image);
    if (image->is_isolated)
        return;
    lane->bands[band].served_ns = s->now_ns;
    if (image->loss_count + image->handed_count > 0)
        return; /* paid for the first time already */
    struct band *b = &lane->bands[band];
    struct flow *flow = flow_at(s, lane, band, request->tenant);
    int64_t cost = (request->has_hidden ? 0 : request->token_count) + (int64_t)request->step_count;
    if (b->tag < flow->tag)
        b->tag = flow->tag;
    flow->tag += (cost << TAG_SHIFT) / s->weights[request->tenant];
    if (dip__tree_has(&flow->node))
        dip__tree_move(&b->flows, &flow->node, flow->tag, request->tenant);
}

static void raise(struct dip_scheduler *s, struct lane *lane, int band)
{
    struct tree_node *node = lane->bands[band].flows.first, *next;
    lane->bands[band].served_ns = s->now_ns;
    for (int i = 0; i < RAISED_MAX && node; i++, node = next) {
        next = dip__tree_next(node); /* the flow may leave the tree */
        struct flow *flow = dip__tree_owner(node, struct flow, node);
        struct image *image = dip__tree_owner(flow->images.first, struct image, wait);
        flow_remove(s, lane, image);
        flow_push(s, lane, image, band + 1);
    }
}

void dip__lane_age(struct dip_scheduler *s, struct lane *lane)
{
    for (struct tree_node *first; (first = lane->promises.first);) {
        struct image *image = dip__tree_owner(first, struct image, promise.node);
        if (first->key + image->request->spare_ns >= s->now_ns)
            break;
        flow_remove(s, lane, image);
        promise_end(s, lane, image);
        image->is_hopeless = true;
        dip__tree_insert(&lane->hopeless, &image->wait, -image->wait.key, image->order);
    }
    for (int band = 0; band + 1 < PRIORITY_COUNT; band++) {
        struct band *b = &lane->bands[band];
        if (b->image_count > 0 && s->now_ns - b->served_ns >= s->limits.age_ns)
            raise(s, lane, band);
    }
}

/* What the promises take longer than was thought when they were given: the pool has shrunk, or
 * become slower. */
static int64_t delay_ns(const struct dip_scheduler *s, const struct lane *lane)
{
    int count = dip__tree_count(&lane->promises);
    if (count == 0)
        return 0;
    int64_t thought_ns = dip__tree_work(&lane->promises);
    int64_t now_ns =
        count * dip__every_ns(s, lane->promised.tokens / count, lane->promised.steps / count);
    return now_ns > thought_ns ? now_ns - thought_ns : 0;
}

struct image *dip__lane_first(const struct dip_scheduler *s, const struct lane *lane)
{
    if (lane->promises.first &&
        dip__tree_begin_by(&lane->promises) - delay_ns(s, lane) <= s->now_ns)
        return dip__tree_owner(lane->promises.first, struct image, promise.node);
    for (int i = PRIORITY_COUNT - 1; i >= 0; i--) {
        if (!lane->bands[i].flows.first)
            continue;
        struct flow *flow = dip__tree_owner(lane->bands[i].flows.first, struct flow, node);
        return dip__tree_owner(flow->images.first, struct image, wait);
    }
    struct tree_node *first = lane->hopeless.first;
    return first ? dip__tree_owner(first, struct image, wait) : NULL;
}

/* ---- how many go before one ---- */

static int count_higher(const struct lane *lane, int band)
{
    int higher = dip__tree_count(&lane->isolated);
    for (int i = band + 1; i < PRIORITY_COUNT; i++)
        higher += lane->bands[i].image_count;
    return higher;
}

/* Those of higher priority, those of the same tenant that go first, and of the other tenants what
 * their share lets through meanwhile. */
static int ahead(const struct dip_scheduler *s, const struct lane *lane, int band, uint32_t tenant,
                 int rank)
{
    const struct band *b = &lane->bands[band];
    const struct flow *flow = flow_at(s, lane, band, tenant);
    int own = dip__tree_count(&flow->images);
    int64_t weight = s->weights[tenant];
    int64_t others_weight = b->weight - (own > 0 ? weight : 0);
    int64_t others = (int64_t)(rank + 1) * others_weight / weight;
    if (others > b->image_count - own)
        others = b->image_count - own;
    return count_higher(lane, band) + rank + (int)others;
}

int dip__lane_ahead(const struct dip_scheduler *s, const struct lane *lane,
                    const struct image *image)
{
    int rank = dip__tree_rank(&image->wait);
    if (image->is_isolated)
        return rank;
    if (image->is_hopeless)
        return lane->count - dip__tree_count(&lane->hopeless) + rank;
    return ahead(s, lane, image->band, image->request->tenant, rank);
}

static int rank_of_new(const struct dip_scheduler *s, const struct lane *lane,
                       const struct newcomer *newcomer)
{
    const struct flow *flow = flow_at(s, lane, (int)newcomer->priority, newcomer->tenant);
    return dip__tree_rank_of(&flow->images, newcomer->begin_key, UINT64_MAX);
}

int dip__lane_ahead_of_new(const struct dip_scheduler *s, const struct lane *lane,
                           const struct newcomer *newcomer)
{
    return ahead(s, lane, (int)newcomer->priority, newcomer->tenant,
                 rank_of_new(s, lane, newcomer));
}

/* `count` images of this tenant among those of all that ask at its priority. */
static int64_t among_all(const struct dip_scheduler *s, const struct lane *lane,
                         const struct newcomer *newcomer, int64_t count)
{
    const struct band *b = &lane->bands[newcomer->priority];
    int64_t weight = b->asked_weight > b->weight ? b->asked_weight : b->weight;
    int64_t own = s->weights[newcomer->tenant];
    return count * (weight > own ? weight : own) / own;
}

int64_t dip__lane_turns(const struct dip_scheduler *s, const struct lane *lane,
                        const struct newcomer *newcomer)
{
    return among_all(s, lane, newcomer, 1);
}

int dip__lane_ahead_at_most(const struct dip_scheduler *s, const struct lane *lane,
                            const struct newcomer *newcomer)
{
    int64_t most = count_higher(lane, (int)newcomer->priority) +
                   among_all(s, lane, newcomer, rank_of_new(s, lane, newcomer));
    return most < AHEAD_MOST ? (int)most : AHEAD_MOST;
}

int64_t dip__lane_promised_ns(const struct dip_scheduler *s, const struct lane *lane,
                              const struct newcomer *newcomer)
{
    return dip__tree_work_before(&lane->promises, newcomer->begin_key, UINT64_MAX) +
           delay_ns(s, lane);
}

int64_t dip__lane_harm_ns(const struct dip_scheduler *s, const struct lane *lane,
                          const struct newcomer *newcomer, int64_t start_ns)
{
    int64_t begin_by = dip__tree_begin_by_after(&lane->promises, newcomer->begin_key, UINT64_MAX);
    return begin_by < INT64_MAX ? start_ns + newcomer->work_ns + delay_ns(s, lane) - begin_by : 0;
}

/* ---- who asks ---- */

static void asked_out(struct dip_scheduler *s, struct band *b, struct flow *flow)
{
    *(flow->asked_before ? &flow->asked_before->asked_after : &b->asked_first) = flow->asked_after;
    *(flow->asked_after ? &flow->asked_after->asked_before : &b->asked_last) = flow->asked_before;
    b->asked_weight -= s->weights[flow->tenant];
    flow->asked_ns = 0;
}

struct flow *dip__lane_ask(struct dip_scheduler *s, struct lane *lane, enum dip_priority priority,
                           uint32_t tenant)
{
    struct band *b = &lane->bands[priority];
    struct flow *flow = flow_at(s, lane, (int)priority, tenant);
    while (b->asked_first && s->now_ns - b->asked_first->asked_ns > ASKED_NS)
        asked_out(s, b, b->asked_first);
    if (flow->asked_ns > 0)
        asked_out(s, b, flow);
    flow->asked_ns = s->now_ns > 0 ? s->now_ns : 1;
    flow->asked_before = b->asked_last;
    flow->asked_after = NULL;
    *(b->asked_last ? &b->asked_last->asked_after : &b->asked_first) = flow;
    b->asked_last = flow;
    b->asked_weight += s->weights[tenant];
    return flow;
}
