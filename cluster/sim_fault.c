/* cluster/sim_fault.c - trouble: who suffers what, when, and for how long. */
#include "cluster/sim_state.h"

#define HANGING_NS (10 * DIP_SECOND_NS)
#define GRACE_NS   (5 * DIP_SECOND_NS)

void dip__sim_faults_init(struct sim *s)
{
    /* From half of what the workers can do to three times as much. */
    s->interval_ns = (int64_t)(100 + dip__sim_draw(s, 500)) * DIP_MS_NS / s->options.workers;
    if (s->options.is_kind)
        return;
    for (int i = 0; i < SIM_FAULT_COUNT; i++)
        s->has_fault[i] = dip__sim_chance(s, 600000);
    s->has_poison = dip__sim_chance(s, 400000);
    s->has_skew = dip__sim_chance(s, 500000);
    s->duplicate_ppm = dip__sim_chance(s, 500000) ? 20000 : 0;
    s->break_ppm = dip__sim_chance(s, 500000) ? (int)dip__sim_draw(s, 1000) : 0;
    s->refuse_ppm = dip__sim_chance(s, 500000) ? 3000 : 0;
    if (dip__sim_chance(s, 500000)) {
        s->leader_interval_ns = 3 * DIP_SECOND_NS + (int64_t)dip__sim_draw(s, 20 * DIP_SECOND_NS);
        dip__sim_push(s, (struct sim_event){
                             .kind = SIM_LEADER, .at_ns = s->leader_interval_ns, .message = -1});
    }
    /* Every worker is thought of once in five seconds to a minute. */
    int64_t each_ns = 5 * DIP_SECOND_NS + (int64_t)dip__sim_draw(s, 55 * DIP_SECOND_NS);
    s->fault_interval_ns = each_ns / s->options.workers;
    dip__sim_push(s,
                  (struct sim_event){.kind = SIM_FAULT, .at_ns = 5 * DIP_SECOND_NS, .message = -1});
}

static void at(struct sim *s, enum sim_event_kind kind, uint32_t worker, int64_t wait_ns)
{
    dip__sim_push(s, (struct sim_event){.kind = kind,
                                        .at_ns = s->now_ns + wait_ns,
                                        .worker = worker,
                                        .stream = s->workers[worker].coordinator_stream,
                                        .message = -1});
}

void dip__sim_crash(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (!w->is_up)
        return;
    s->result.crashes++;
    w->is_up = w->is_hanging = w->is_leaving = false;
    w->stream = 0;
    dip__sim_worker_reset(w);
    w->epoch_seen = 0; /* a new process */
    /* The end of a stream comes after what was said in it. When the whole host is down nobody says
     * that it has ended. */
    int64_t said_ns = w->up_ns > s->now_ns ? w->up_ns - s->now_ns : 0;
    bool is_host_up = dip__sim_chance(s, 700000);
    dip__sim_silence(s, worker, is_host_up ? said_ns + DIP_MS_NS : DIP_SECOND_NS);
    at(s, SIM_RESTART, worker, 500 * DIP_MS_NS + (int64_t)dip__sim_draw(s, 20 * DIP_SECOND_NS));
}

static void pause(struct sim *s, uint32_t worker, int64_t length_ns)
{
    s->result.pauses++;
    s->workers[worker].paused_until_ns = s->now_ns + length_ns;
    if (length_ns > DIP_SECOND_NS)
        dip__sim_silence(s, worker, DIP_SECOND_NS);
}

static void hang(struct sim *s, uint32_t worker, int64_t length_ns)
{
    s->result.hangs++;
    s->workers[worker].is_hanging = true;
    at(s, SIM_HANGING, worker, HANGING_NS);
    at(s, SIM_RECOVER, worker, HANGING_NS / 2 + length_ns);
}

/* Up, down, or both. Without what comes up the coordinator gives the worker up; without what goes
 * down the worker's acknowledgements are missed as well. */
static void cut(struct sim *s, uint32_t worker, int64_t length_ns)
{
    struct sim_worker *w = &s->workers[worker];
    uint64_t ways = 1 + dip__sim_draw(s, 3);
    s->result.cuts++;
    if (ways & 1)
        w->cut_up_until_ns = s->now_ns + length_ns;
    if (ways & 2)
        w->cut_down_until_ns = s->now_ns + length_ns;
    if (length_ns > DIP_SECOND_NS)
        dip__sim_silence(s, worker, DIP_SECOND_NS);
}

static void leave(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (!w->is_up || w->stream == 0)
        return;
    s->result.drains++;
    w->is_leaving = true;
    dip__sim_send_up(s, worker, &(struct dip_message){.kind = DIP_MESSAGE_LEAVING});
    at(s, SIM_LEAVE, worker, GRACE_NS);
}

static void suffer(struct sim *s, uint32_t worker, enum sim_fault_kind kind)
{
    struct sim_worker *w = &s->workers[worker];
    int64_t length_ns = 50 * DIP_MS_NS + (int64_t)dip__sim_draw(s, 8 * DIP_SECOND_NS);
    switch (kind) {
    case SIM_FAULT_CRASH:
        dip__sim_crash(s, worker);
        break;
    case SIM_FAULT_PAUSE:
        pause(s, worker, length_ns);
        break;
    case SIM_FAULT_HANG:
        hang(s, worker, length_ns);
        break;
    case SIM_FAULT_CUT:
        cut(s, worker, length_ns);
        break;
    case SIM_FAULT_BREAK:
        s->result.breaks++;
        dip__sim_lose(s, worker);
        break;
    case SIM_FAULT_SLOW:
        w->slowness = 2 + (int)dip__sim_draw(s, 10);
        at(s, SIM_RECOVER, worker, 4 * length_ns);
        break;
    case SIM_FAULT_DRAIN:
        s->result.drains++;
        dip__sim_hear(s, worker, &(struct dip_message){.kind = DIP_MESSAGE_DRAIN});
        at(s, SIM_UNDRAIN, worker, 2 * length_ns);
        break;
    default:
        leave(s, worker);
        break;
    }
}

void dip__sim_fault(struct sim *s)
{
    if (s->kind_since_ns > 0)
        return;
    enum sim_fault_kind kind = (enum sim_fault_kind)dip__sim_draw(s, SIM_FAULT_COUNT);
    uint32_t worker = (uint32_t)dip__sim_draw(s, (uint64_t)s->options.workers);
    if (s->has_fault[kind])
        suffer(s, worker, kind);
    int64_t wait_ns = 1 + (int64_t)dip__sim_draw(s, 2 * (uint64_t)s->fault_interval_ns);
    dip__sim_push(
        s, (struct sim_event){.kind = SIM_FAULT, .at_ns = s->now_ns + wait_ns, .message = -1});
}
