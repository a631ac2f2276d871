/* cluster/sim_leader.c - coordinators come and go: the next one begins with empty books, hears of
 * workers and of what they hold, and is asked again by the clients of the one before. */
#include "cluster/sim_state.h"

enum { HELD_MAX = 4096, EPOCH_BITS = 20 };
#define CLIENT_NS_MAX (15 * DIP_SECOND_NS) /* until a client has found out and comes back */
#define EXPECT_NS     (20 * DIP_SECOND_NS)

enum dip_status dip__sim_machines_new(struct sim *s)
{
    int workers = s->options.workers;
    int images = 4 * workers > 2000 ? 4 * workers : 2000;
    struct dip_scheduler_limits limits = {.request_count_max = images,
                                          .image_count_max = images,
                                          .member_count_max = workers + 1,
                                          .token_count_max = SIM_TOKENS_MAX,
                                          .attempt_count_max = s->attempts,
                                          .tenant_count_max = 8};
    if (s->options.seed % 2 == 1)
        limits.hold_ns = (int64_t)(1 + s->options.seed / 2 % 10) * DIP_SECOND_NS;
    s->leader++;
    DIP_TRY(dip_scheduler_new(&limits, &s->scheduler));
    DIP_TRY(dip_held_book_new(HELD_MAX, workers + 1, &s->held));
    if (s->degree == 1)
        return DIP_OK;
    struct dip_groups_options groups = {.member_count_max = workers + 1,
                                        .degree = s->degree,
                                        .allow_smaller = true,
                                        .epoch_first = (s->leader << EPOCH_BITS) + 1,
                                        .prepare_timeout_ns = 5 * DIP_SECOND_NS,
                                        .form_timeout_ns = 10 * DIP_SECOND_NS,
                                        .grace_ns = 5 * DIP_SECOND_NS};
    return dip_groups_new(&groups, &s->groups);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Nobody hears of it: the coordinator is gone. The worker finds out. */
static void stream_end(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->coordinator_stream == 0)
        return;
    int64_t at_ns = later(s->now_ns, w->cut_down_until_ns);
    dip__sim_push(s, (struct sim_event){.kind = SIM_CLOSED,
                                        .at_ns = at_ns + (int64_t)dip__sim_draw(s, DIP_SECOND_NS),
                                        .worker = worker,
                                        .stream = w->coordinator_stream,
                                        .message = -1});
    w->coordinator_stream = 0;
}

static void client_leave(struct sim *s, uint64_t id)
{
    struct sim_request *request = &s->requests[id - 1];
    if (request->state != SIM_REQUEST_ADMITTED)
        return;
    request->state = SIM_REQUEST_NEW;
    request->is_away = true;
    request->images_done = request->kills = 0;
    s->open--;
    dip__sim_push(
        s, (struct sim_event){.kind = SIM_AGAIN,
                              .at_ns = s->now_ns + 1 + (int64_t)dip__sim_draw(s, CLIENT_NS_MAX),
                              .id = id,
                              .message = -1});
}

void dip__sim_leader_change(struct sim *s)
{
    if (s->kind_since_ns > 0)
        return;
    s->result.leaders++;
    for (uint32_t i = 0; i < (uint32_t)s->options.workers; i++)
        stream_end(s, i);
    for (uint64_t id = 1; id <= (uint64_t)s->submitted; id++)
        client_leave(s, id);
    dip_scheduler_free(s->scheduler);
    dip_held_book_free(s->held);
    dip_groups_free(s->groups);
    s->scheduler = NULL;
    s->held = NULL;
    s->groups = NULL;
    s->tick_ns = INT64_MAX;
    if (dip__sim_machines_new(s)) {
        s->is_out_of_memory = true;
        return;
    }
    dip_scheduler_expect_workers(s->scheduler, s->now_ns + EXPECT_NS);
    dip__sim_tick(s);
    int64_t wait_ns = 1 + (int64_t)dip__sim_draw(s, 2 * (uint64_t)s->leader_interval_ns);
    dip__sim_push(
        s, (struct sim_event){.kind = SIM_LEADER, .at_ns = s->now_ns + wait_ns, .message = -1});
}
