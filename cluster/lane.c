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
 * its begin_key. */
#include "base/assert.h"
#include "cluster/state.h"

enum {
    RAISED_MAX = 64, /* tenants in one go, those that are served next first */
    TAG_SHIFT = 10,  /* cost over weight keeps three digits behind the point */
};

void dip__lane_init(struct lane *lane, struct flow *flows)
{
    lane->flows = flows;
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
    if (dip__tree_count(&flow->images) == 0) {
        if (flow->tag < b->tag)
            flow->tag = b->tag; /* time without work is not saved up */
        dip__tree_insert(&b->flows, &flow->node, flow->tag, request->tenant);
        b->weight += s->weights[request->tenant];
    }
    dip__tree_insert(&flow->images, &image->wait, request->begin_key, image->order);
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

void dip__lane_push(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    lane->count++;
    image->wait_ns = s->now_ns;
    if (image->is_isolated)
        dip__tree_insert(&lane->isolated, &image->wait, image->request->begin_key, image->order);
    else
        flow_push(s, lane, image, image->band);
}

void dip__lane_remove(struct dip_scheduler *s, struct lane *lane, struct image *image)
{
    lane->count--;
    dip_assert(lane->count >= 0);
    if (image->is_isolated)
        dip__tree_remove(&lane->isolated, &image->wait);
    else
        flow_remove(s, lane, image);
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

void dip__lane_age(struct dip_scheduler *s, struct lane *lane)
{
    for (int band = 0; band + 1 < PRIORITY_COUNT; band++) {
        struct band *b = &lane->bands[band];
        if (b->image_count == 0 || s->now_ns - b->served_ns < s->limits.age_ns)
            continue;
        b->served_ns = s->now_ns;
        struct tree_node *node = b->flows.first, *next;
        for (int i = 0; i < RAISED_MAX && node; i++, node = next) {
            next = dip__tree_next(node); /* the flow may leave the tree */
            struct flow *flow = dip__tree_owner(node, struct flow, node);
            struct image *image = dip__tree_owner(flow->images.first, struct image, wait);
            flow_remove(s, lane, image);
            flow_push(s, lane, image, band + 1);
        }
    }
}

struct image *dip__lane_first(const struct lane *lane)
{
    for (int i = PRIORITY_COUNT - 1; i >= 0; i--) {
        if (!lane->bands[i].flows.first)
            continue;
        struct flow *flow = dip__tree_owner(lane->bands[i].flows.first, struct flow, node);
        return dip__tree_owner(flow->images.first, struct image, wait);
    }
    return NULL;
}

/* Those of higher priority, those of the same tenant that go first, and of the other tenants what
 * their share lets through meanwhile. */
static int ahead(const struct dip_scheduler *s, const struct lane *lane, int band, uint32_t tenant,
                 int rank)
{
    int count = dip__tree_count(&lane->isolated);
    for (int i = band + 1; i < PRIORITY_COUNT; i++)
        count += lane->bands[i].image_count;
    const struct band *b = &lane->bands[band];
    const struct flow *flow = flow_at(s, lane, band, tenant);
    int own = dip__tree_count(&flow->images);
    int64_t weight = s->weights[tenant];
    int64_t others_weight = b->weight - (own > 0 ? weight : 0);
    int64_t others = (int64_t)(rank + 1) * others_weight / weight;
    if (others > b->image_count - own)
        others = b->image_count - own;
    return count + rank + (int)others;
}

int dip__lane_ahead(const struct dip_scheduler *s, const struct lane *lane,
                    const struct image *image)
{
    int rank = dip__tree_rank(&image->wait);
    return image->is_isolated ? rank : ahead(s, lane, image->band, image->request->tenant, rank);
}

int dip__lane_ahead_of_new(const struct dip_scheduler *s, const struct lane *lane,
                           enum dip_priority priority, uint32_t tenant, int64_t begin_key)
{
    const struct flow *flow = flow_at(s, lane, (int)priority, tenant);
    int rank = dip__tree_rank_of(&flow->images, begin_key, UINT64_MAX);
    return ahead(s, lane, (int)priority, tenant, rank);
}
