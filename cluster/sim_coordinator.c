/* cluster/sim_coordinator.c - the played coordinator: feeds the real machines, carries out what
 * they decide, and checks every decision. */
#include <string.h>

#include "base/assert.h"
#include "cluster/sim_state.h"

enum { FOUND_MAX = 256 };

#define WAIT_NS_LONGEST (3600 * DIP_SECOND_NS)

int32_t dip__sim_token(uint64_t request_id, int image_index, int position)
{
    return (int32_t)((request_id * 31 + (uint64_t)image_index * 7 + (uint64_t)position) & 0xffff);
}

void dip__sim_digest(uint64_t request_id, unsigned char ret_digest[DIP_DIGEST_BYTES])
{
    memset(ret_digest, 0, DIP_DIGEST_BYTES);
    memcpy(ret_digest, &request_id, sizeof request_id);
}

static void hash_add(struct sim *s, uint64_t word)
{
    uint64_t hash = (s->result.hash ^ word) * UINT64_C(0x9fb21c651e98df25);
    s->result.hash = hash ^ (hash >> 32);
}

static void hash_action(struct sim *s, const struct dip_action *a)
{
    hash_add(s, (uint64_t)s->now_ns);
    hash_add(s, (uint64_t)a->kind << 32 | a->member);
    hash_add(s, a->job_id);
    hash_add(s, a->request_id);
    hash_add(s, (uint64_t)a->image_index << 32 | a->to_member);
    hash_add(s, (uint64_t)a->total << 32 | (uint32_t)a->done);
    hash_add(s, (uint64_t)(a->start_ns ^ a->finish_ns ^ a->retry_ns));
    hash_add(s, (uint64_t)a->stage << 32 | (uint64_t)a->refusal << 16 | (uint64_t)a->end);
}

/* ---- what is told to clients ---- */

static struct sim_request *request_of(struct sim *s, uint64_t id)
{
    dip_assert(id > 0 && id <= (uint64_t)s->options.requests);
    return &s->requests[id - 1];
}

static void told_end(struct sim *s, const struct dip_action *a, struct sim_request *request)
{
    if (request->state != SIM_REQUEST_ADMITTED)
        dip__sim_fail(s, "request %llu ended in state %d", (unsigned long long)a->request_id,
                      request->state);
    int all = (1 << request->images) - 1;
    if (a->end == DIP_END_DONE && !request->is_check && request->images_done != all)
        dip__sim_fail(s, "request %llu is done without all images",
                      (unsigned long long)a->request_id);
    int64_t now_ms = s->now_ns / DIP_MS_NS;
    if (request->deadline_ms > 0 && now_ms > request->deadline_ms + 1000)
        dip__sim_fail(s, "request %llu ended %lld ms after its deadline",
                      (unsigned long long)a->request_id,
                      (long long)(now_ms - request->deadline_ms));
    if (a->end == DIP_END_FAILED)
        dip__sim_fail(s, "request %llu failed: %s", (unsigned long long)a->request_id, a->text);
    bool is_peaceful = !s->has_fault[SIM_FAULT_CRASH] && !s->has_fault[SIM_FAULT_PAUSE] &&
                       !s->has_fault[SIM_FAULT_HANG] && !s->has_fault[SIM_FAULT_CUT] &&
                       !s->has_fault[SIM_FAULT_LEAVE] && s->break_ppm == 0;
    if (is_peaceful && !request->is_poison && a->end == DIP_END_POISONED)
        dip__sim_fail(s, "request %llu was innocent", (unsigned long long)a->request_id);
    request->state = SIM_REQUEST_OVER;
    s->open--;
    s->result.ended[a->end]++;
    int64_t wait_ns = s->now_ns - request->submitted_ms * (int64_t)DIP_MS_NS;
    if (wait_ns > s->result.wait_ns_max)
        s->result.wait_ns_max = wait_ns;
    if (wait_ns > WAIT_NS_LONGEST)
        dip__sim_fail(s, "request %llu waited for %lld s", (unsigned long long)a->request_id,
                      (long long)(wait_ns / DIP_SECOND_NS));
}

static void told(struct sim *s, const struct dip_action *a)
{
    struct sim_request *request = request_of(s, a->request_id);
    bool is_first = a->kind == DIP_ACTION_ADMITTED || a->kind == DIP_ACTION_REFUSED;
    if (request->state != (is_first ? SIM_REQUEST_NEW : SIM_REQUEST_ADMITTED))
        dip__sim_fail(s, "request %llu hears %d in state %d", (unsigned long long)a->request_id,
                      (int)a->kind, request->state);
    switch (a->kind) {
    case DIP_ACTION_ADMITTED:
        request->state = SIM_REQUEST_ADMITTED;
        s->open++;
        s->result.admitted += !request->was_admitted;
        s->result.returned += request->was_admitted;
        request->was_admitted = true;
        break;
    case DIP_ACTION_REFUSED:
        request->state = SIM_REQUEST_OVER;
        s->result.refused++;
        break;
    case DIP_ACTION_IMAGE:
        if (request->images_done >> a->image_index & 1)
            dip__sim_fail(s, "request %llu gets image %d twice", (unsigned long long)a->request_id,
                          a->image_index);
        request->images_done |= (uint8_t)(1 << a->image_index);
        s->result.images++;
        break;
    case DIP_ACTION_RETRIED:
        s->result.retried++;
        break;
    case DIP_ACTION_ENDED:
        told_end(s, a, request);
        break;
    default:
        break;
    }
}

/* ---- what is told to workers ---- */

/* By the scheduler's own books nobody has more than it said it can hold. */
static void check_books(struct sim *s, uint32_t member)
{
    struct dip_member_stats stats = dip_scheduler_member(s->scheduler, member);
    const struct sim_worker *w = &s->workers[member - 1];
    if (!stats.is_alive)
        dip__sim_fail(s, "worker %u is lost and gets work", member - 1);
    if (stats.ar_live > w->ar_slots || stats.hinges > w->hinge_slots ||
        stats.diffusion_live > w->diffusion_slots)
        dip__sim_fail(s, "worker %u is given %d, %d, %d jobs", member - 1, stats.ar_live,
                      stats.hinges, stats.diffusion_live);
}

/* What is known to be made is not made again. */
static void check_not_made(struct sim *s, const struct dip_action *a)
{
    unsigned char digest[DIP_DIGEST_BYTES];
    struct dip_held_entry found[FOUND_MAX];
    dip__sim_digest(a->request_id, digest);
    int count = dip_held_book_find(s->held, s->now_ns, digest, found, FOUND_MAX);
    for (int i = 0; i < count; i++) {
        const struct dip_offer *o = &found[i].offer;
        if (o->stage == DIP_HELD_PICTURE && o->image_index == a->image_index &&
            dip_scheduler_member(s->scheduler, o->member).is_alive)
            dip__sim_fail(s, "request %llu: image %d is made again, worker %u has it",
                          (unsigned long long)a->request_id, a->image_index, o->member - 1);
    }
}

static void command(struct sim *s, const struct dip_action *a)
{
    struct sim_message message = {.m = {.job_id = a->job_id}, .request_id = a->request_id};
    message.image_index = a->image_index;
    if (a->kind == DIP_ACTION_AR || a->kind == DIP_ACTION_DIFFUSION) {
        struct sim_request *request = request_of(s, a->request_id);
        if (request->state != SIM_REQUEST_ADMITTED)
            dip__sim_fail(s, "request %llu runs in state %d", (unsigned long long)a->request_id,
                          request->state);
        check_books(s, a->member);
        check_not_made(s, a);
        dip__sim_shape(a->request_id, &message.token_count, &message.step_count,
                       &message.has_hidden);
    }
    switch (a->kind) {
    case DIP_ACTION_AR:
        if (s->groups && !dip_groups_may_join(s->groups, a->member))
            dip__sim_fail(s, "worker %u is to draw without its group", a->member - 1);
        message.m.kind = DIP_MESSAGE_AR;
        message.forced_count = a->forced_count;
        for (int i = 0; i < a->forced_count; i++)
            if (a->forced_ids[i] != dip__sim_token(a->request_id, a->image_index, i))
                dip__sim_fail(s, "request %llu resumes from a wrong token %d",
                              (unsigned long long)a->request_id, i);
        break;
    case DIP_ACTION_HAND_OVER:
        message.m.kind = DIP_MESSAGE_HAND_OVER;
        message.m.as.hand_over.to = a->to_member;
        message.m.as.hand_over.to_job_id = a->to_job_id;
        break;
    case DIP_ACTION_DIFFUSION:
        message.m.kind = DIP_MESSAGE_DIFFUSION;
        break;
    case DIP_ACTION_ADOPT:
        message.m.kind = DIP_MESSAGE_ADOPT;
        message.m.as.adopt.held_epoch = a->held_epoch;
        message.m.as.adopt.held_job_id = a->held_job_id;
        s->result.adopted[a->held_stage]++;
        check_books(s, a->member);
        if (!dip_held_book_drop(s->held, a->member, a->held_epoch, a->held_job_id))
            dip__sim_fail(s, "worker %u is asked for what it has not offered", a->member - 1);
        break;
    default:
        message.m.kind = DIP_MESSAGE_RELEASE;
        break;
    }
    dip__sim_send_down(s, a->member - 1, &message);
}

static void feed(struct sim *s, const struct dip_message *m)
{
    s->result.decisions++;
    dip_scheduler_feed(s->scheduler, s->now_ns, m);
    struct dip_action action;
    while (dip_scheduler_next(s->scheduler, &action)) {
        hash_action(s, &action);
        if (action.kind <= DIP_ACTION_RELEASE)
            command(s, &action);
        else if (action.kind != DIP_ACTION_DRAINED)
            told(s, &action);
        else if (s->workers[action.member - 1].is_leaving)
            dip__sim_crash(s, action.member - 1); /* it has nothing left: it goes */
    }
}

/* ---- what workers hold: as coordinator/takeover.c does it ---- */

static bool is_live(const struct sim *s, const unsigned char digest[DIP_DIGEST_BYTES],
                    uint64_t *ret_id)
{
    memcpy(ret_id, digest, sizeof *ret_id);
    return s->requests[*ret_id - 1].state == SIM_REQUEST_ADMITTED;
}

static void settle(struct sim *s, const struct dip_held_entry *found, int count)
{
    for (int i = 0; i < count; i++) {
        const struct dip_offer *o = &found[i].offer;
        uint64_t id;
        bool is_for_later = !is_live(s, found[i].digest, &id) && o->held_epoch != s->leader;
        if (is_for_later || !dip_scheduler_member(s->scheduler, o->member).is_alive ||
            !dip_held_book_drop(s->held, o->member, o->held_epoch, o->held_job_id))
            continue;
        struct sim_message forget = {.m = {.kind = DIP_MESSAGE_ADOPT}};
        forget.m.as.adopt.held_epoch = o->held_epoch;
        forget.m.as.adopt.held_job_id = o->held_job_id;
        dip__sim_send_down(s, o->member - 1, &forget);
    }
}

static void schedule(struct sim *s, const struct dip_message *said)
{
    struct dip_message m = *said;
    struct dip_held_entry found[FOUND_MAX];
    struct dip_offer offers[FOUND_MAX];
    unsigned char digest[DIP_DIGEST_BYTES];
    int found_count = 0, count = 0;
    uint64_t id = m.request_id;
    if (m.kind == DIP_MESSAGE_APPEARED)
        dip_held_book_take(s->held, s->now_ns, m.from, &m.as.appeared.held);
    if (m.kind == DIP_MESSAGE_LOST)
        dip_held_book_lose(s->held, m.from);
    if (m.kind == DIP_MESSAGE_SUBMIT && !m.as.submit.is_check) {
        dip__sim_digest(id, digest);
        found_count = dip_held_book_find(s->held, s->now_ns, digest, found, FOUND_MAX);
        for (; count < found_count; count++)
            offers[count] = found[count].offer;
        m.as.submit.offers = offers;
        m.as.submit.offer_count = count;
    } else if (m.kind == DIP_MESSAGE_JOINED) {
        found_count = dip_held_book_of(s->held, s->now_ns, m.from, found, FOUND_MAX);
        for (int i = 0; i < found_count; i++) {
            offers[count] = found[i].offer;
            if (is_live(s, found[i].digest, &offers[count].request_id))
                count++;
        }
        m.as.joined.offers = offers;
        m.as.joined.offer_count = count;
    }
    feed(s, &m);
    settle(s, found, found_count);
}

/* ---- groups ---- */

static void group_command(struct sim *s, const struct dip_group_action *a)
{
    struct sim_message message = {.m = {.kind = a->message, .as.group = a->group}};
    struct dip_group_view view;
    int index = 0, rank = 0;
    if (a->message == DIP_MESSAGE_FORM_GROUP &&
        dip_groups_place(s->groups, a->member, &index, &rank) &&
        dip_groups_view(s->groups, index, &view))
        for (int i = 0; i < view.size; i++)
            message.ranks[i] = view.ranks[i] - 1;
    dip__sim_send_down(s, a->member - 1, &message);
    if (a->message == DIP_MESSAGE_DISSOLVE_GROUP && a->group.rank == 0)
        schedule(s, &(struct dip_message){.kind = DIP_MESSAGE_GROUP_LOST, .from = a->member});
}

static void group(struct sim *s, const struct dip_message *m)
{
    dip_groups_feed(s->groups, s->now_ns, m);
    struct dip_group_action action;
    while (dip_groups_next(s->groups, &action)) {
        hash_add(s, (uint64_t)action.kind << 40 | (uint64_t)action.message << 32 | action.member);
        hash_add(s, action.group.epoch << 8 | (uint64_t)action.group.rank);
        if (action.kind == DIP_GROUP_ACTION_SEND)
            group_command(s, &action);
        else
            schedule(s, &(struct dip_message){.kind = action.kind == DIP_GROUP_ACTION_DRAIN
                                                          ? DIP_MESSAGE_DRAIN
                                                          : DIP_MESSAGE_UNDRAIN,
                                              .from = action.member});
    }
}

/* ---- in ---- */

static void tick_later(struct sim *s)
{
    int64_t wake_ns = dip_scheduler_wake_ns(s->scheduler);
    int64_t groups_ns = s->groups ? dip_groups_wake_ns(s->groups) : INT64_MAX;
    wake_ns = groups_ns < wake_ns ? groups_ns : wake_ns;
    if (wake_ns >= s->tick_ns)
        return;
    s->tick_ns = wake_ns > s->now_ns ? wake_ns : s->now_ns;
    dip__sim_push(s, (struct sim_event){.kind = SIM_TICK, .at_ns = s->tick_ns, .message = -1});
}

void dip__sim_hear(struct sim *s, uint32_t worker, const struct dip_message *said)
{
    struct dip_message m = *said;
    m.from = worker + 1;
    bool is_ar = s->workers[worker].roles == DIP_ROLE_AR;
    if (s->groups && is_ar)
        group(s, &m);
    bool counts =
        m.kind != DIP_MESSAGE_JOINED || !s->groups || dip_groups_may_join(s->groups, m.from);
    if (counts)
        schedule(s, &m);
    tick_later(s);
}

void dip__sim_submit(struct sim *s, const struct dip_message *m)
{
    schedule(s, m);
    tick_later(s);
}

void dip__sim_tick(struct sim *s)
{
    if (s->tick_ns == s->now_ns)
        s->tick_ns = INT64_MAX;
    const struct dip_message tick = {.kind = DIP_MESSAGE_TICK};
    if (s->groups)
        group(s, &tick);
    schedule(s, &tick);
    tick_later(s);
}
