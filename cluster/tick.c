/* cluster/tick.c - TICK: what is due without anybody saying so.
 *
 * Rule (operations, P1): a request ends at its deadline, whether it runs or waits, and at the end
 * of its patience when no worker has begun it. Those that wait hear of their place at most once a
 * second and only when it has changed. A tick does a bounded part of what is due; while more is
 * left, the next one is due at once. */
#include "base/clock.h"
#include "cluster/state.h"

enum { ENDED_MAX = 128, TOLD_MAX = 128 };

static void expire(struct dip_scheduler *s, struct request *request)
{
    if (request->deadline_ns > 0 && request->deadline_ns <= s->now_ns)
        dip__request_end(s, request, DIP_END_DEADLINE, DIP_TIMEOUT, dip_end_text(DIP_END_DEADLINE));
    else if (request->hold_by_ns > 0 && request->hold_by_ns <= s->now_ns)
        dip__request_end(s, request, DIP_END_NO_WORKERS, DIP_UNREACHABLE,
                         dip_end_text(DIP_END_NO_WORKERS));
    else
        dip__request_end(s, request, DIP_END_QUEUE_TIME, DIP_TIMEOUT,
                         dip_end_text(DIP_END_QUEUE_TIME));
}

static struct image *first_image(const struct request *request)
{
    struct image *first = request->images;
    while (first->sibling) /* admitted last to first */
        first = first->sibling;
    return first;
}

static void tell_place(struct dip_scheduler *s, struct request *request)
{
    const struct image *image = first_image(request);
    struct estimate estimate = dip__estimate_waiting(s, image);
    int64_t moved_ns = estimate.start_ns - request->told_start_ns;
    if (estimate.ahead == request->told_ahead && moved_ns < DIP_SECOND_NS &&
        moved_ns > -DIP_SECOND_NS)
        return;
    request->told_ahead = estimate.ahead;
    request->told_start_ns = estimate.start_ns;
    struct dip_action *action = dip__action_push(s, DIP_ACTION_QUEUE, image);
    action->total = estimate.ahead;
    action->start_ns = estimate.start_ns;
}

void dip__on_tick(struct dip_scheduler *s, const struct dip_message *m)
{
    (void)m;
    for (int i = 0; i < ENDED_MAX && s->expiries.first; i++) {
        if (s->expiries.first->key > s->now_ns)
            break;
        expire(s, dip__tree_owner(s->expiries.first, struct request, expiry));
    }
    for (int i = 0; i < TOLD_MAX && s->news.first; i++) {
        struct request *request = s->news.first;
        if (request->news_ns > s->now_ns)
            break;
        tell_place(s, request);
        dip__list_remove(s, LIST_NEWS, request);
        request->news_ns = s->now_ns + DIP_SECOND_NS;
        dip__list_push(s, LIST_NEWS, request);
    }
}
