/* cluster/rate.c - what was measured, and when a request would be done by it.
 *
 * Every image decodes a known number of tokens and samples a known number of steps, so with the
 * rates of the members its times follow in closed form. The slots that are taken become free at
 * times that are known (a tree of finishes with ranks), so the image with r before it begins when
 * the r-th slot is free, and one round of service later for every full set of slots before it. The
 * picture's panel is the same again, not before the tokens are drawn.
 *
 * Images decoded together share a step: a neighbour is taken to cost a quarter of the first one,
 * between a device that decodes neighbours for nothing and one that shares itself out. */
#include "base/assert.h"
#include "base/clock.h"
#include "cluster/state.h"

enum { MEAN_WEIGHT = 8, NEIGHBOUR_SHARE = 4 };

/* Longer is a mistake of somebody's clock; it also keeps every product below far from overflow. */
#define MEASURED_NS_LONGEST  (600 * DIP_SECOND_NS)
#define TOKEN_NS_LONGEST     (60 * DIP_SECOND_NS)
#define SERVICE_NS_LONGEST   (3600 * DIP_SECOND_NS)
#define PUSHBACK_NS_SHORTEST (DIP_SECOND_NS / 5)
#define PUSHBACK_NS_LONGEST  (60 * DIP_SECOND_NS)

void dip__rate_add(int64_t *rate, int64_t measured_ns)
{
    if (measured_ns <= 0 || measured_ns > MEASURED_NS_LONGEST)
        return;
    int64_t mean = *rate > 0 ? *rate + (measured_ns - *rate) / MEAN_WEIGHT : measured_ns;
    *rate = mean > 0 ? mean : 1;
}

void dip__rate_tokens(struct dip_scheduler *s, struct member *member, int64_t took_ns, int count)
{
    if (count <= 0 || took_ns <= 0)
        return;
    if (took_ns / count > TOKEN_NS_LONGEST)
        return;
    int64_t alone_ns = took_ns / count * NEIGHBOUR_SHARE / (member->ar_live + NEIGHBOUR_SHARE - 1);
    dip__rate_add(&member->rates.token_ns, alone_ns);
    dip__rate_add(&s->rates.token_ns, alone_ns);
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

int64_t dip__token_ns(const struct rates *rates, int live)
{
    return rates->token_ns * (live + NEIGHBOUR_SHARE - 1) / NEIGHBOUR_SHARE;
}

/* ---- slots that are taken ---- */

static int64_t ar_left_ns(const struct dip_scheduler *s, const struct image *image)
{
    const struct member *member = &s->members[image->ar_member];
    const struct rates *rates = member->rates.token_ns > 0 ? &member->rates : &s->rates;
    int64_t left = image->request->token_count - image->token_count;
    int64_t prefill_ns = image->tokens_ns == 0 ? rates->prefill_ns : 0;
    return prefill_ns + left * dip__token_ns(rates, member->ar_live);
}

static int64_t diffusion_left_ns(const struct dip_scheduler *s, const struct image *image)
{
    const struct member *member = &s->members[image->diffusion_member];
    int live = member->diffusion_live;
    int64_t share_ns = dip__share_ns(&member->rates, live);
    int64_t left = image->request->step_count - image->steps_done;
    return left * (share_ns > 0 ? share_ns : dip__share_ns(&s->rates, live)) * live;
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

/* ---- one image ---- */

static int64_t clamp_service(int64_t ns)
{
    return ns < SERVICE_NS_LONGEST ? ns : SERVICE_NS_LONGEST;
}

/* How many images a member has at once when `ahead` more have come. */
static int company(int live, int ahead, int slots, int members)
{
    int64_t each = ((int64_t)live + ahead + members) / members;
    int most = slots / members > 1 ? slots / members : 1;
    return each < most ? (int)each : most;
}

static int64_t ar_service_ns(const struct dip_scheduler *s, int tokens, int ahead)
{
    const struct pool *pool = &s->pool;
    if (s->rates.token_ns == 0 || pool->ar_count == 0)
        return 0;
    int live = company(s->state_counts[IMAGE_AR_RUNNING], ahead, pool->ar_slots, pool->ar_count);
    return clamp_service(s->rates.prefill_ns + tokens * dip__token_ns(&s->rates, live));
}

static int64_t diffusion_service_ns(const struct dip_scheduler *s, int steps, int ahead)
{
    const struct pool *pool = &s->pool;
    if (dip__share_ns(&s->rates, 1) == 0 || pool->diffusion_count == 0)
        return 0;
    int live = company(s->state_counts[IMAGE_DIFFUSION_RUNNING], ahead, pool->diffusion_slots,
                       pool->diffusion_count);
    return clamp_service(steps * dip__share_ns(&s->rates, live) * live);
}

/* When the image with `ahead` before it gets a slot; 0 = cannot be known. */
static int64_t slot_ns(const struct dip_scheduler *s, const struct tree *finishes, int room,
                       int ahead, int64_t service_ns)
{
    int slots = room + dip__tree_count(finishes);
    if (slots == 0 || service_ns == 0)
        return 0;
    int64_t free_ns = s->now_ns;
    if (ahead % slots >= room) {
        int64_t finish_ns = dip__tree_at(finishes, ahead % slots - room)->key;
        free_ns = finish_ns > free_ns ? finish_ns : free_ns;
    }
    return free_ns + ahead / slots * service_ns;
}

/* ---- requests ---- */

struct load {
    int tokens, steps;
    bool has_hidden;
    int ahead_ar, ahead_diffusion;
};

static int64_t start_of(const struct dip_scheduler *s, const struct load *load)
{
    if (load->has_hidden)
        return slot_ns(s, &s->diffusion_finishes, s->pool.diffusion_room, load->ahead_diffusion,
                       diffusion_service_ns(s, load->steps, load->ahead_diffusion));
    return slot_ns(s, &s->ar_finishes, s->pool.ar_room, load->ahead_ar,
                   ar_service_ns(s, load->tokens, load->ahead_ar));
}

static int64_t finish_of(const struct dip_scheduler *s, const struct load *load)
{
    int64_t service_ns = diffusion_service_ns(s, load->steps, load->ahead_diffusion);
    int64_t begin_ns = slot_ns(s, &s->diffusion_finishes, s->pool.diffusion_room,
                               load->ahead_diffusion, service_ns);
    if (begin_ns == 0)
        return 0;
    if (!load->has_hidden) {
        int64_t start_ns = start_of(s, load);
        if (start_ns == 0)
            return 0;
        int64_t drawn_ns = start_ns + ar_service_ns(s, load->tokens, load->ahead_ar);
        begin_ns = drawn_ns > begin_ns ? drawn_ns : begin_ns;
    }
    return begin_ns + service_ns + s->rates.picture_ns;
}

static struct load load_of(const struct dip_message_submit *submit)
{
    return (struct load){.tokens = submit->token_count - submit->forced_count,
                         .steps = submit->step_count,
                         .has_hidden = submit->has_hidden};
}

/* Images that reach the diffusion panel before one with so many before it at the AR panel. */
static int ahead_at_diffusion(const struct dip_scheduler *s, int ahead_ar)
{
    return ahead_ar + s->state_counts[IMAGE_AR_RUNNING] + s->diffusion_lane.count;
}

struct estimate dip__estimate_new(const struct dip_scheduler *s,
                                  const struct dip_message_submit *submit, int64_t begin_key)
{
    struct load load = load_of(submit);
    uint32_t tenant = submit->tenant % (uint32_t)s->limits.tenant_count_max;
    const struct lane *lane = submit->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    struct estimate e = {0};
    e.ahead = dip__lane_ahead_of_new(s, lane, submit->priority, tenant, begin_key);
    load.ahead_ar = e.ahead;
    load.ahead_diffusion = submit->has_hidden ? e.ahead : ahead_at_diffusion(s, e.ahead);
    e.start_ns = start_of(s, &load);
    load.ahead_ar += submit->image_count - 1; /* done when the last of them is */
    load.ahead_diffusion += submit->image_count - 1;
    e.finish_ns = finish_of(s, &load);
    return e;
}

struct estimate dip__estimate_waiting(const struct dip_scheduler *s, const struct image *image)
{
    const struct request *request = image->request;
    const struct lane *lane = request->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    struct load load = {.tokens = request->token_count - image->token_count,
                        .steps = request->step_count,
                        .has_hidden = request->has_hidden};
    struct estimate e = {.ahead = dip__lane_ahead(s, lane, image)};
    load.ahead_ar = load.ahead_diffusion = e.ahead;
    e.start_ns = start_of(s, &load);
    return e;
}

int64_t dip__service_ns(const struct dip_scheduler *s, const struct dip_message_submit *submit)
{
    struct load load = load_of(submit);
    int64_t ar_ns = load.has_hidden ? 0 : ar_service_ns(s, load.tokens, 0);
    return ar_ns + diffusion_service_ns(s, load.steps, 0) + s->rates.picture_ns;
}

static int64_t clamp_pushback(int64_t ns)
{
    if (ns < PUSHBACK_NS_SHORTEST)
        return PUSHBACK_NS_SHORTEST;
    return ns < PUSHBACK_NS_LONGEST ? ns : PUSHBACK_NS_LONGEST;
}

int64_t dip__pushback_ns(const struct dip_scheduler *s, const struct dip_message_submit *submit)
{
    struct load load = load_of(submit);
    const struct pool *pool = &s->pool;
    if (pool->diffusion_slots == 0 || dip__share_ns(&s->rates, 1) == 0)
        return DIP_SECOND_NS;
    int64_t every_ns =
        diffusion_service_ns(s, load.steps, pool->diffusion_slots) / pool->diffusion_slots;
    if (!load.has_hidden && pool->ar_slots > 0) {
        int64_t ar_ns = ar_service_ns(s, load.tokens, pool->ar_slots) / pool->ar_slots;
        every_ns = ar_ns > every_ns ? ar_ns : every_ns;
    }
    int waiting = s->ar_lane.count + s->diffusion_lane.count;
    return clamp_pushback(every_ns * (1 + waiting / 10));
}
