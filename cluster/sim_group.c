/* cluster/sim_group.c - the played ranks of a group: they meet, step together, and part. */
#include "cluster/sim_state.h"

#define LOOK_AGAIN_NS (100 * DIP_MS_NS)

static void group_say(struct sim *s, uint32_t worker, enum dip_message_kind kind, uint64_t epoch)
{
    struct dip_message m = {.kind = kind};
    m.as.group.epoch = epoch;
    m.as.group.missing_rank = -1;
    m.as.group.comm_id_bytes = sizeof epoch;
    for (size_t i = 0; i < sizeof epoch; i++)
        m.as.group.comm_id[i] = (unsigned char)(epoch >> 8 * i);
    dip__sim_send_up(s, worker, &m);
}

static void look_later(struct sim *s, uint32_t worker, int64_t wait_ns)
{
    dip__sim_push(s, (struct sim_event){.kind = SIM_GROUP,
                                        .at_ns = s->now_ns + wait_ns,
                                        .worker = worker,
                                        .id = s->workers[worker].epoch,
                                        .message = -1});
}

static void form(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    const struct dip_message_group *command = &m->m.as.group;
    if (w->epoch == command->epoch)
        return; /* said twice */
    if (w->epoch != 0)
        dip__sim_fail(s, "worker %u joins a group while it is in one", worker);
    for (size_t i = 0; i < sizeof command->epoch; i++)
        if (command->comm_id[i] != (unsigned char)(command->epoch >> 8 * i))
            dip__sim_fail(s, "worker %u is sent to another forming's rendezvous", worker);
    if (command->epoch <= w->epoch_joined)
        dip__sim_fail(s, "worker %u joins group epoch %llu twice", worker,
                      (unsigned long long)command->epoch);
    dip__sim_part(w);
    w->epoch = w->epoch_joined = command->epoch;
    w->rank = command->rank;
    w->size = command->size;
    w->form_ends_ns = s->now_ns + command->timeout_ns;
    w->apart_since_ns = 0;
    for (int i = 0; i < w->size; i++)
        w->ranks[i] = m->ranks[i];
    look_later(s, worker, LOOK_AGAIN_NS + (int64_t)dip__sim_draw(s, 400 * DIP_MS_NS));
}

void dip__sim_group_take(struct sim *s, uint32_t worker, const struct sim_message *m)
{
    struct sim_worker *w = &s->workers[worker];
    uint64_t epoch = m->m.as.group.epoch;
    if (epoch < w->epoch_seen)
        dip__sim_fail(s, "worker %u hears of group epoch %llu after %llu", worker,
                      (unsigned long long)epoch, (unsigned long long)w->epoch_seen);
    w->epoch_seen = epoch;
    if (m->m.kind == DIP_MESSAGE_PREPARE_GROUP)
        group_say(s, worker, DIP_MESSAGE_GROUP_PREPARED, epoch);
    else if (m->m.kind == DIP_MESSAGE_FORM_GROUP)
        form(s, worker, m);
    else if (m->m.kind == DIP_MESSAGE_DISSOLVE_GROUP)
        dip__sim_part(w);
}

static bool are_together(const struct sim *s, const struct sim_worker *w)
{
    for (int i = 0; i < w->size; i++) {
        const struct sim_worker *peer = &s->workers[w->ranks[i]];
        if (!peer->is_up || peer->is_hanging || peer->paused_until_ns > s->now_ns ||
            peer->epoch != w->epoch)
            return false;
    }
    return true;
}

static void group_leave(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    uint64_t epoch = w->epoch;
    dip__sim_part(w);
    group_say(s, worker, DIP_MESSAGE_GROUP_LOST, epoch);
}

/* Waits for the others; then rank 0 takes work. */
void dip__sim_group_go(struct sim *s, uint32_t worker, uint64_t epoch)
{
    struct sim_worker *w = &s->workers[worker];
    if (!w->is_up || w->epoch != epoch || w->is_formed)
        return;
    if (!w->is_hanging && are_together(s, w)) {
        w->is_formed = true;
        s->result.groups_formed += w->rank == 0;
        group_say(s, worker, DIP_MESSAGE_GROUP_FORMED, epoch);
        if (w->rank == 0)
            dip__sim_joined_send(s, worker);
    } else if (s->now_ns >= w->form_ends_ns) {
        group_leave(s, worker);
    } else {
        look_later(s, worker, LOOK_AGAIN_NS);
    }
}

bool dip__sim_group_steps(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->epoch < w->epoch_seen)
        dip__sim_fail(s, "worker %u steps in group epoch %llu after it heard of %llu", worker,
                      (unsigned long long)w->epoch, (unsigned long long)w->epoch_seen);
    if (are_together(s, w)) {
        w->apart_since_ns = 0;
        return true;
    }
    if (w->apart_since_ns == 0)
        w->apart_since_ns = s->now_ns;
    if (s->now_ns - w->apart_since_ns >= DIP_SECOND_NS)
        group_leave(s, worker);
    return false;
}
