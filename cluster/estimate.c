/* cluster/estimate.c - when a request would be done, and whether that can be promised.
 *
 * Every image decodes a known number of tokens and samples a known number of steps, so with the
 * speed of the members its times follow in closed form. The slots that are taken become free at
 * times that are known (a tree of finishes with ranks), so the image with r before it begins when
 * the r-th slot is free, and one round of service later for every full set of slots before it. An
 * image keeps its hinge until its picture is there: where hinges are the narrower place, it begins
 * when enough pictures have left. The picture's panel is the same again, not before the tokens are
 * drawn.
 *
 * What a client is told is what is likely. What it is promised must hold whoever comes later: all
 * that have asked lately get their tenant's share, whoever must begin before it does so, and of the
 * wait a part is kept in reserve, the more the lower the priority, so that a queue of what is less
 * urgent never reaches up to the deadline of what is more. Nor is anything promised that would make
 * somebody late who has a promise. A queue that is shorter than it could be costs nothing: the
 * workers are as busy. */
#include "base/clock.h"
#include "cluster/state.h"

/* So much of an estimated wait is kept in reserve. */
static const int reserve_percent[PRIORITY_COUNT] = {
    [DIP_PRIORITY_BATCH] = 100, [DIP_PRIORITY_STANDARD] = 33, [DIP_PRIORITY_INTERACTIVE] = 14};
enum { RESERVE_PERCENT_LINE = 50 /* more, for who was not told to come now, while others were */ };

enum {
    SPARE_SHARE = 2, /* of its service is left when an image must begin */
    PACE_ONE = 16,
    PACE_STEP = 16,
    PACE_MOST = 64 * PACE_ONE,
};

/* When it must begin, for the order of a tenant's images, if it need not be in time. */
#define PATIENCE_NS          (600 * DIP_SECOND_NS)
#define PUSHBACK_NS_SHORTEST (DIP_SECOND_NS / 5)
#define PUSHBACK_NS_LONGEST  (60 * DIP_SECOND_NS)

/* What is asked for, and what lies between one image and the next at each panel. */
struct load {
    int tokens, steps, images;
    bool has_hidden;
    int64_t draw_every_ns, paint_every_ns;
};

static int64_t later(int64_t a_ns, int64_t b_ns)
{
    return a_ns > b_ns ? a_ns : b_ns;
}

static int waiting(const struct lane *lane)
{
    return lane->count - dip__tree_count(&lane->hopeless);
}

/* ---- panels ---- */

static int64_t mean(int64_t sum, int count, int own)
{
    count += own > 0;
    return count > 0 ? (sum + own) / count : 0;
}

static int64_t draw_every_ns(const struct dip_scheduler *s, int own)
{
    return dip__draw_every_ns(s, mean(s->ar_lane.all.tokens, s->ar_lane.count, own));
}

static int64_t paint_every_ns(const struct dip_scheduler *s, int own)
{
    const struct lane *lanes[] = {&s->ar_lane, &s->diffusion_lane};
    return dip__paint_every_ns(
        s, mean(lanes[0]->all.steps + lanes[1]->all.steps, lanes[0]->count + lanes[1]->count, own));
}

int64_t dip__every_ns(const struct dip_scheduler *s, int64_t tokens, int64_t steps)
{
    int64_t draw_ns = tokens > 0 ? dip__draw_every_ns(s, tokens) : 0;
    return later(draw_ns, dip__paint_every_ns(s, steps));
}

/* When the image with `ahead` before it gets a slot; 0 = cannot be known. */
static int64_t slot_ns(const struct dip_scheduler *s, const struct capacity *capacity,
                       const struct tree *finishes, int ahead, int64_t every_ns)
{
    int slots = capacity->slots, taken = dip__tree_count(finishes);
    if (slots == 0 || every_ns == 0)
        return 0;
    int room = slots > taken ? slots - taken : 0;
    int64_t free_ns = s->now_ns;
    if (ahead % slots >= room)
        free_ns = later(free_ns, dip__tree_at(finishes, ahead % slots - room)->key);
    return free_ns + ahead / slots * slots * every_ns;
}

static int64_t paint_slot_ns(const struct dip_scheduler *s, const struct load *load, int ahead)
{
    return slot_ns(s, dip__painting(s), &s->diffusion_finishes, ahead, load->paint_every_ns);
}

/* When so many pictures will have left, that there is a place for the hinge of the image with
 * `ahead` before it. */
static int64_t hinge_ns(const struct dip_scheduler *s, const struct load *load, int ahead)
{
    const struct capacity *c = dip__drawing(s);
    int turn = c->hinges + ahead - c->hinge_slots - s->state_counts[IMAGE_ENCODING];
    int painting = dip__tree_count(&s->diffusion_finishes);
    if (turn < 0)
        return s->now_ns;
    if (turn < painting)
        return later(s->now_ns, dip__tree_at(&s->diffusion_finishes, turn)->key) +
               s->rates.picture_ns;
    int64_t begin_ns = paint_slot_ns(s, load, turn - painting);
    return begin_ns > 0 ? begin_ns + dip__paint_hold_ns(s, load->steps, 1) + s->rates.picture_ns
                        : s->now_ns;
}

static int64_t start_ns(const struct dip_scheduler *s, const struct load *load, int ahead)
{
    if (load->has_hidden)
        return paint_slot_ns(s, load, ahead);
    int64_t begin_ns = slot_ns(s, dip__drawing(s), &s->ar_finishes, ahead, load->draw_every_ns);
    return begin_ns > 0 ? later(begin_ns, hinge_ns(s, load, ahead)) : 0;
}

/* Of a request with `ahead` before its first image; 0 = cannot be known. */
struct span {
    int64_t start_ns, finish_ns;
};

static struct span span_of(const struct dip_scheduler *s, const struct load *load, int ahead)
{
    struct span span = {.start_ns = start_ns(s, load, ahead)};
    int64_t drawn_ns = 0;
    ahead += load->images - 1; /* done when the last of them is */
    if (!load->has_hidden) {
        int64_t last_ns = load->images > 1 ? start_ns(s, load, ahead) : span.start_ns;
        if (last_ns == 0)
            return span;
        drawn_ns = last_ns + dip__draw_ns(s, load->tokens, load->images);
        /* Those that come to the other panel before it. */
        ahead += s->state_counts[IMAGE_AR_RUNNING] + waiting(&s->diffusion_lane);
    }
    int64_t begin_ns = paint_slot_ns(s, load, ahead);
    if (begin_ns > 0)
        span.finish_ns = later(begin_ns, drawn_ns) +
                         dip__paint_hold_ns(s, load->steps, load->images) + s->rates.picture_ns;
    return span;
}

/* ---- requests ---- */

static struct load load_of(const struct dip_scheduler *s, const struct dip_message_submit *submit)
{
    struct load load = {.tokens = submit->token_count - submit->forced_count,
                        .steps = submit->step_count,
                        .images = submit->image_count,
                        .has_hidden = submit->has_hidden};
    if (!load.has_hidden)
        load.draw_every_ns = draw_every_ns(s, load.tokens);
    load.paint_every_ns = paint_every_ns(s, load.steps);
    return load;
}

/* From its beginning to that of its picture: while it is drawn, those before it are painted. */
static int64_t between_ns(const struct dip_scheduler *s, const struct load *load)
{
    if (load->has_hidden)
        return 0;
    int before = s->state_counts[IMAGE_AR_RUNNING] + waiting(&s->diffusion_lane);
    return later(dip__draw_ns(s, load->tokens, load->images), before * load->paint_every_ns);
}

/* From its beginning to its file. */
static int64_t service_ns(const struct dip_scheduler *s, const struct load *load)
{
    return between_ns(s, load) + dip__paint_hold_ns(s, load->steps, load->images) +
           s->rates.picture_ns;
}

/* When each panel must begin for it to be in time, with something to spare. */
static void keys_set(const struct dip_scheduler *s, const struct dip_message_submit *submit,
                     const struct load *load, struct estimate *e)
{
    int64_t deadline_ns = submit->deadline_ns, begin_by_ns = submit->begin_by_ns;
    e->begin_key = e->paint_key = s->now_ns + PATIENCE_NS;
    if (deadline_ns > 0) {
        int64_t draw_ns = between_ns(s, load);
        int64_t paint_ns = dip__paint_hold_ns(s, load->steps, load->images) + s->rates.picture_ns;
        int64_t paint_key = deadline_ns - paint_ns - paint_ns / SPARE_SHARE;
        int64_t begin_key = paint_key - draw_ns - draw_ns / SPARE_SHARE;
        e->spare_ns = (draw_ns + paint_ns) / SPARE_SHARE;
        e->paint_key = paint_key < e->paint_key ? paint_key : e->paint_key;
        e->begin_key = begin_key < e->begin_key ? begin_key : e->begin_key;
    }
    if (begin_by_ns > 0 && begin_by_ns < e->begin_key)
        e->begin_key = begin_by_ns;
    if (load->has_hidden)
        e->paint_key = e->begin_key;
}

/* When a request begins and ends whatever comes later, with a reserve. `likely`: as it is told. */
static struct span bound_of(const struct dip_scheduler *s, const struct load *load,
                            const struct newcomer *newcomer, const struct estimate *likely,
                            int64_t first_ns, int reserve)
{
    const struct lane *lane = load->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    int64_t every_ns = later(load->draw_every_ns, load->paint_every_ns);
    int64_t promised_ns = dip__lane_promised_ns(s, lane, newcomer);
    int ahead = dip__lane_ahead_at_most(s, lane, newcomer);
    struct span span = {likely->start_ns, likely->finish_ns};
    if (ahead != likely->ahead)
        span = span_of(s, load, ahead);
    int64_t begin_ns = later(first_ns + promised_ns, span.start_ns);
    int64_t last_ns = begin_ns + newcomer->work_ns - newcomer->work_ns / load->images;
    int64_t end_ns = every_ns > 0 ? last_ns + service_ns(s, load) : begin_ns;
    int64_t reserve_ns = later(promised_ns, ahead * every_ns) / 100 * reserve;
    return (struct span){begin_ns + reserve_ns, later(end_ns, span.finish_ns) + reserve_ns};
}

/* By how much a promise might be broken: the one to this request, or one to another. */
static int64_t late_ns(const struct dip_scheduler *s, const struct dip_message_submit *submit,
                       const struct load *load, const struct newcomer *newcomer,
                       const struct estimate *likely, int reserve)
{
    const struct lane *lane = load->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    int64_t first_ns = likely->ahead > 0 ? start_ns(s, load, 0) : likely->start_ns;
    first_ns = later(s->now_ns, first_ns);
    struct span bound = bound_of(s, load, newcomer, likely, first_ns, reserve);
    int64_t most_ns = 0;
    if (submit->deadline_ns > 0)
        most_ns = later(most_ns, bound.finish_ns + 1 - submit->deadline_ns);
    if (submit->begin_by_ns > 0)
        most_ns = later(most_ns, bound.start_ns - submit->begin_by_ns);
    if (newcomer->is_promised && newcomer->work_ns > 0)
        most_ns = later(most_ns, dip__lane_harm_ns(s, lane, newcomer, first_ns));
    return most_ns;
}

static int64_t turn_ns(int64_t every_ns, int64_t turns)
{
    return turns > 0 && every_ns > PUSHBACK_NS_LONGEST / turns ? PUSHBACK_NS_LONGEST
                                                               : every_ns * turns;
}

struct estimate dip__estimate_new(const struct dip_scheduler *s,
                                  const struct dip_message_submit *submit, const struct flow *flow,
                                  bool is_expected)
{
    struct load load = load_of(s, submit);
    const struct lane *lane = submit->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    struct newcomer newcomer = {.priority = submit->priority,
                                .tenant = submit->tenant % (uint32_t)s->limits.tenant_count_max,
                                .is_promised = submit->deadline_ns > 0 || submit->begin_by_ns > 0};
    struct estimate e = {0};
    keys_set(s, submit, &load, &e);
    newcomer.begin_key = e.begin_key;
    newcomer.work_ns =
        load.images * dip__every_ns(s, load.has_hidden ? 0 : load.tokens, load.steps);
    e.ahead = dip__lane_ahead_of_new(s, lane, &newcomer);
    struct span span = span_of(s, &load, e.ahead);
    e.start_ns = span.start_ns;
    e.finish_ns = span.finish_ns;
    e.turn_ns = turn_ns(later(load.draw_every_ns, load.paint_every_ns),
                        dip__lane_turns(s, lane, &newcomer));
    int reserve = reserve_percent[submit->priority];
    if (!is_expected && flow->retry_ns > s->now_ns)
        reserve += RESERVE_PERCENT_LINE;
    e.late_ns = late_ns(s, submit, &load, &newcomer, &e, reserve);
    return e;
}

struct estimate dip__estimate_waiting(const struct dip_scheduler *s, const struct image *image)
{
    const struct request *request = image->request;
    const struct lane *lane = request->has_hidden ? &s->diffusion_lane : &s->ar_lane;
    struct load load = {.tokens = request->token_count - image->token_count,
                        .steps = request->step_count,
                        .images = 1,
                        .has_hidden = request->has_hidden,
                        .draw_every_ns = draw_every_ns(s, 0),
                        .paint_every_ns = paint_every_ns(s, 0)};
    struct estimate e = {.ahead = dip__lane_ahead(s, lane, image)};
    e.start_ns = start_ns(s, &load, e.ahead);
    return e;
}

/* Not before there is room, and each one of a tenant that is refused after the one before, as fast
 * as its share lets them through: those that come again when they were told do not meet. */
int64_t dip__pushback_ns(const struct dip_scheduler *s, struct flow *flow,
                         const struct estimate *estimate, int images)
{
    int64_t most_ns = s->now_ns + PUSHBACK_NS_LONGEST;
    if (estimate->turn_ns == 0)
        return DIP_SECOND_NS;
    int64_t retry_ns = later(flow->retry_ns, s->now_ns + estimate->late_ns) +
                       images * estimate->turn_ns * (PACE_ONE + flow->pace) / PACE_ONE;
    flow->retry_ns = retry_ns < most_ns ? retry_ns : most_ns;
    return later(flow->retry_ns - s->now_ns, PUSHBACK_NS_SHORTEST);
}

/* The line is let in more slowly as long as it comes in vain: higher priorities take what its share
 * would be, or it meets others who were not told anything. */
void dip__pushback_learn(struct flow *flow, bool is_admitted)
{
    int step = (flow->pace + PACE_ONE) / PACE_STEP;
    int pace = is_admitted ? flow->pace - step : flow->pace + step;
    flow->pace = pace < 0 ? 0 : pace > PACE_MOST ? PACE_MOST : pace;
}
