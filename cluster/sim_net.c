/* cluster/sim_net.c - links between the coordinator and its workers.
 *
 * A link is a stream: messages keep their order, and the loss of one is the end of the stream. What
 * is sent into a cut is held until the cut is over; the coordinator takes a worker that it has not
 * heard of for a second for lost, and hears nothing more of that stream. */
#include "cluster/sim_state.h"

#define SILENCE_NS DIP_SECOND_NS

static int64_t delay_ns(struct sim *s)
{
    int64_t ns = 100000 + (int64_t)dip__sim_draw(s, 2 * DIP_MS_NS);
    return dip__sim_chance(s, 10000) ? ns + (int64_t)dip__sim_draw(s, 300 * DIP_MS_NS) : ns;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void post(struct sim *s, enum sim_event_kind kind, uint32_t worker, uint32_t stream,
                 int64_t at_ns, const struct sim_message *m)
{
    int index = dip__sim_message_new(s);
    if (index < 0)
        return;
    s->messages[index] = *m;
    dip__sim_push(
        s, (struct sim_event){
               .kind = kind, .at_ns = at_ns, .worker = worker, .stream = stream, .message = index});
}

/* Both ends learn of it, each in its time; nothing that is sent meanwhile arrives. */
static void stream_break(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    s->result.breaks++;
    w->broken_stream = w->coordinator_stream;
    dip__sim_silence(s, worker, delay_ns(s));
    dip__sim_push(s, (struct sim_event){.kind = SIM_CLOSED,
                                        .at_ns = s->now_ns + delay_ns(s),
                                        .worker = worker,
                                        .stream = w->stream,
                                        .message = -1});
}

/* Events about jobs may come a second time, late; each of them knows its job. */
static bool may_repeat(enum dip_message_kind kind)
{
    return kind >= DIP_MESSAGE_PREFILLED && kind <= DIP_MESSAGE_FAILED;
}

void dip__sim_send_up(struct sim *s, uint32_t worker, const struct dip_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->stream == 0 || w->stream == w->broken_stream)
        return;
    struct sim_message message = {.m = *m};
    w->up_ns = later(w->up_ns + 1, later(s->now_ns, w->cut_up_until_ns) + delay_ns(s));
    if (w->stream == w->coordinator_stream && dip__sim_chance(s, s->break_ppm)) {
        stream_break(s, worker); /* with this message in it */
        return;
    }
    post(s, SIM_TO_COORDINATOR, worker, w->stream, w->up_ns, &message);
    if (!may_repeat(m->kind) || !dip__sim_chance(s, s->duplicate_ppm))
        return;
    s->result.duplicates++;
    int64_t again_ns = w->up_ns + (int64_t)dip__sim_draw(s, 5 * DIP_SECOND_NS);
    post(s, SIM_TO_COORDINATOR, worker, w->stream, again_ns, &message);
}

void dip__sim_send_down(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->coordinator_stream == w->broken_stream)
        return;
    w->down_ns = later(w->down_ns + 1, later(s->now_ns, w->cut_down_until_ns) + delay_ns(s));
    if (dip__sim_chance(s, s->break_ppm)) {
        stream_break(s, worker);
        return;
    }
    post(s, SIM_TO_WORKER, worker, w->coordinator_stream, w->down_ns, m);
    if (!dip__sim_chance(s, s->duplicate_ppm))
        return;
    s->result.duplicates++;
    w->down_ns++;
    post(s, SIM_TO_WORKER, worker, w->coordinator_stream, w->down_ns, m);
}

void dip__sim_silence(struct sim *s, uint32_t worker, int64_t after_ns)
{
    uint32_t stream = s->workers[worker].coordinator_stream;
    if (stream == 0)
        return;
    dip__sim_push(s, (struct sim_event){.kind = SIM_SILENCE,
                                        .at_ns = s->now_ns + after_ns,
                                        .worker = worker,
                                        .stream = stream,
                                        .message = -1});
}

void dip__sim_lose(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->coordinator_stream == 0)
        return;
    dip__sim_push(s,
                  (struct sim_event){.kind = SIM_CLOSED,
                                     .at_ns = later(s->now_ns, w->cut_down_until_ns) + delay_ns(s),
                                     .worker = worker,
                                     .stream = w->coordinator_stream,
                                     .message = -1});
    w->coordinator_stream = 0;
    dip__sim_hear(s, worker, &(struct dip_message){.kind = DIP_MESSAGE_LOST});
}

/* Hello: the worker says what it holds; nothing else of before counts. */
void dip__sim_connect(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (!w->is_up || w->stream != 0)
        return;
    if (later(w->cut_up_until_ns, w->cut_down_until_ns) > s->now_ns || w->is_hanging) {
        dip__sim_connect_later(s, worker);
        return;
    }
    dip__sim_lose(s, worker); /* the stream before, if it has not been missed yet */
    if (w->is_leaving)
        dip__sim_worker_reset(w);
    else
        dip__sim_hold(s, worker);
    w->is_leaving = false;
    w->leader = s->leader;
    w->stream = w->coordinator_stream = ++w->stream_serial;
    dip__sim_send_up(s, worker, &(struct dip_message){.kind = DIP_MESSAGE_APPEARED});
    if (!s->groups || w->roles != DIP_ROLE_AR)
        dip__sim_joined_send(s, worker);
}

void dip__sim_connect_later(struct sim *s, uint32_t worker)
{
    const struct sim_worker *w = &s->workers[worker];
    int64_t at_ns = later(s->now_ns, later(w->cut_up_until_ns, w->cut_down_until_ns));
    at_ns += 100 * DIP_MS_NS + (int64_t)dip__sim_draw(s, DIP_SECOND_NS);
    dip__sim_push(s, (struct sim_event){
                         .kind = SIM_CONNECT, .at_ns = at_ns, .worker = worker, .message = -1});
}
