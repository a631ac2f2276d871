/* cluster/sim.c - the simulated clock: events in the order of their time, until none is left. */
#include "cluster/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "cluster/sim_state.h"

/* After the last request the world is kind; whoever is not done by then never will be. */
#define PATIENCE_NS (4 * 3600 * DIP_SECOND_NS)

/* ---- chance ---- */

/* SplitMix64 (Steele, Lea and Flood 2014). */
uint64_t dip__sim_draw(struct sim *s, uint64_t below)
{
    uint64_t x = s->random += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (x ^ (x >> 31)) % below;
}

bool dip__sim_chance(struct sim *s, int ppm)
{
    return ppm > 0 && dip__sim_draw(s, 1000000) < (uint64_t)ppm;
}

/* The first broken promise is the one that is told. */
void dip__sim_fail(struct sim *s, const char *format, ...)
{
    if (s->result.failure[0])
        return;
    int begun = snprintf(s->result.failure, sizeof s->result.failure,
                         "at %.6f s: ", (double)s->now_ns / (double)DIP_SECOND_NS);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->result.failure + begun, sizeof s->result.failure - (size_t)begun, format,
              arguments);
    va_end(arguments);
}

/* ---- events ---- */

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->serial < b->serial);
}

static bool heap_grow(struct sim *s)
{
    if (s->heap_count < s->heap_size)
        return true;
    int size = s->heap_size > 0 ? 2 * s->heap_size : 1024;
    struct sim_event *heap = realloc(s->heap, (size_t)size * sizeof *heap);
    if (!heap)
        return false;
    s->heap = heap;
    s->heap_size = size;
    return true;
}

/* An event that was put off keeps its serial, and with it its place among the others put off. */
void dip__sim_push(struct sim *s, struct sim_event event)
{
    if (!heap_grow(s)) {
        s->is_out_of_memory = true;
        return;
    }
    if (event.serial == 0)
        event.serial = ++s->serial;
    int i = s->heap_count++;
    for (; i > 0 && is_before(&event, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = event;
}

static struct sim_event heap_pop(struct sim *s)
{
    struct sim_event first = s->heap[0], last = s->heap[--s->heap_count];
    int i = 0;
    for (int child = 1; child < s->heap_count; child = 2 * i + 1) {
        if (child + 1 < s->heap_count && is_before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!is_before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return first;
}

/* ---- messages ---- */

static bool messages_grow(struct sim *s)
{
    int size = s->message_size > 0 ? 2 * s->message_size : 256;
    struct sim_message *messages = realloc(s->messages, (size_t)size * sizeof *messages);
    if (!messages)
        return false;
    s->messages = messages;
    for (int i = size - 1; i >= s->message_size; i--) {
        messages[i].next_free = s->message_free;
        s->message_free = i;
    }
    s->message_size = size;
    return true;
}

int dip__sim_message_new(struct sim *s)
{
    if (s->message_free < 0 && !messages_grow(s)) {
        s->is_out_of_memory = true;
        return -1;
    }
    int index = s->message_free;
    s->message_free = s->messages[index].next_free;
    return index;
}

void dip__sim_message_free(struct sim *s, int index)
{
    s->messages[index].next_free = s->message_free;
    s->message_free = index;
}

/* ---- the loop ---- */

/* A stopped process sees nothing; what was meant for it happens when it goes on. */
static bool is_put_off(struct sim *s, const struct sim_event *event)
{
    switch (event->kind) {
    case SIM_TO_WORKER:
    case SIM_CLOSED:
    case SIM_CONNECT:
    case SIM_JOB:
    case SIM_HINGE:
    case SIM_GROUP:
        break;
    default:
        return false;
    }
    int64_t until_ns = s->workers[event->worker].paused_until_ns;
    if (until_ns <= s->now_ns)
        return false;
    struct sim_event later = *event;
    later.at_ns = until_ns;
    dip__sim_push(s, later);
    return true;
}

static void deliver_up(struct sim *s, const struct sim_event *event)
{
    struct sim_message message = s->messages[event->message];
    dip__sim_message_free(s, event->message);
    if (s->workers[event->worker].coordinator_stream != event->stream)
        return; /* of a stream that has ended */
    s->result.messages++;
    struct dip_member_facts facts = {.roles = s->workers[event->worker].roles};
    struct sim_held_list held;
    if (message.m.kind == DIP_MESSAGE_APPEARED) {
        dip__sim_held_list(s, event->worker, &held);
        message.m.as.appeared.held = (struct dip_message_held){
            .entries = {held.entries, (size_t)held.count * sizeof held.entries[0]},
            .ids = {held.ids, (size_t)held.id_count * sizeof held.ids[0]}};
        snprintf(facts.host_id, sizeof facts.host_id, "host-%u", event->worker / 4);
        message.m.as.appeared.facts = (struct dip_payload){&facts, sizeof facts};
    }
    dip__sim_hear(s, event->worker, &message.m);
}

static void deliver_down(struct sim *s, const struct sim_event *event)
{
    struct sim_message message = s->messages[event->message];
    dip__sim_message_free(s, event->message);
    const struct sim_worker *w = &s->workers[event->worker];
    if (!w->is_up || w->stream != event->stream)
        return;
    s->result.messages++;
    dip__sim_worker_take(s, event->worker, &message);
}

static void closed(struct sim *s, const struct sim_event *event)
{
    struct sim_worker *w = &s->workers[event->worker];
    if (!w->is_up || w->stream != event->stream)
        return;
    w->stream = 0;
    dip__sim_connect_later(s, event->worker);
}

static void restart(struct sim *s, uint32_t worker)
{
    struct sim_worker *w = &s->workers[worker];
    if (w->is_up)
        return;
    w->is_up = true;
    dip__sim_connect_later(s, worker);
}

static void recover(struct sim *s, uint32_t worker)
{
    s->workers[worker].is_hanging = false;
    s->workers[worker].slowness = 1;
}

/* Nothing moved for so long that the stream is closed, though heartbeats came. */
static void hanging(struct sim *s, const struct sim_event *event)
{
    const struct sim_worker *w = &s->workers[event->worker];
    if (w->coordinator_stream == event->stream && w->is_hanging && w->job_count > 0)
        dip__sim_lose(s, event->worker);
}

static void event_happen(struct sim *s, const struct sim_event *event)
{
    switch (event->kind) {
    case SIM_SUBMIT:
        dip__sim_request_send(s);
        break;
    case SIM_CANCEL:
        dip__sim_request_cancel(s, event->id);
        break;
    case SIM_TICK:
        dip__sim_tick(s);
        break;
    case SIM_TO_COORDINATOR:
        deliver_up(s, event);
        break;
    case SIM_TO_WORKER:
        deliver_down(s, event);
        break;
    case SIM_SILENCE:
        if (s->workers[event->worker].coordinator_stream == event->stream)
            dip__sim_lose(s, event->worker);
        break;
    case SIM_HANGING:
        hanging(s, event);
        break;
    case SIM_CLOSED:
        closed(s, event);
        break;
    case SIM_CONNECT:
        dip__sim_connect(s, event->worker);
        break;
    case SIM_RESTART:
        restart(s, event->worker);
        break;
    case SIM_RECOVER:
        recover(s, event->worker);
        break;
    case SIM_LEAVE:
        if (s->workers[event->worker].is_leaving)
            dip__sim_crash(s, event->worker);
        break;
    case SIM_UNDRAIN:
        dip__sim_hear(s, event->worker, &(struct dip_message){.kind = DIP_MESSAGE_UNDRAIN});
        break;
    case SIM_JOB:
        dip__sim_job_go(s, event->worker, event->id);
        break;
    case SIM_HINGE:
        dip__sim_hinge_go(s, event->worker, event->id);
        break;
    case SIM_GROUP:
        dip__sim_group_go(s, event->worker, event->id);
        break;
    case SIM_FAULT:
        dip__sim_fault(s);
        break;
    case SIM_LEADER:
        dip__sim_leader_change(s);
        break;
    case SIM_AGAIN:
        dip__sim_request_again(s, event->id);
        break;
    }
}

/* Everybody has ended, everything has been given back. */
static void check_end(struct sim *s)
{
    struct dip_scheduler_stats stats = dip_scheduler_stats(s->scheduler);
    if (s->open > 0)
        dip__sim_fail(s, "%lld admitted requests never ended", (long long)s->open);
    int64_t ends = s->result.refused + s->result.lapsed;
    for (int i = 0; i < DIP_END_COUNT; i++)
        ends += s->result.ended[i];
    if (ends != s->submitted)
        dip__sim_fail(s, "%lld requests have %lld ends", (long long)s->submitted, (long long)ends);
    if (stats.requests != 0 || stats.images != 0)
        dip__sim_fail(s, "the scheduler keeps %d requests, %d images", stats.requests,
                      stats.images);
    for (int i = 0; i < s->options.workers; i++) {
        struct dip_member_stats member = dip_scheduler_member(s->scheduler, (uint32_t)i + 1);
        if (member.jobs != 0 || member.ar_live != 0 || member.diffusion_live != 0 ||
            member.backlog_steps != 0)
            dip__sim_fail(s, "the scheduler keeps %d jobs of worker %d", member.jobs, i);
        int jobs = dip__sim_count_stages(&s->workers[i], SIM_JOB_PREFILL, SIM_JOB_ENCODE);
        if (jobs != 0)
            dip__sim_fail(s, "worker %d keeps %d jobs", i, jobs);
    }
}

static void loop(struct sim *s)
{
    while (s->heap_count > 0 && !s->result.failure[0] && !s->is_out_of_memory) {
        struct sim_event event = heap_pop(s);
        s->now_ns = event.at_ns;
        s->result.events++;
        if (s->kind_since_ns > 0 && s->now_ns - s->kind_since_ns > PATIENCE_NS) {
            dip__sim_fail(s, "%lld requests go on for ever", (long long)s->open);
            return;
        }
        if (!is_put_off(s, &event))
            event_happen(s, &event);
    }
    if (!s->result.failure[0] && !s->is_out_of_memory)
        check_end(s);
}

/* ---- begin and end ---- */

static enum dip_status world_new(struct sim *s)
{
    s->workers = calloc((size_t)s->options.workers, sizeof *s->workers);
    s->requests = calloc((size_t)s->options.requests, sizeof *s->requests);
    if (!s->workers || !s->requests)
        return DIP_NO_MEMORY;
    s->degree = s->options.degree;
    if (s->degree == 0)
        s->degree = 1 << dip__sim_draw(s, 3);
    s->attempts = 2 + (int)dip__sim_draw(s, 2);
    DIP_TRY(dip__sim_machines_new(s));
    dip__sim_faults_init(s);
    for (uint32_t i = 0; i < (uint32_t)s->options.workers; i++) {
        dip__sim_worker_init(s, i);
        dip__sim_push(s, (struct sim_event){.kind = SIM_RESTART,
                                            .at_ns = (int64_t)dip__sim_draw(s, DIP_SECOND_NS),
                                            .worker = i,
                                            .message = -1});
    }
    dip__sim_push(
        s, (struct sim_event){.kind = SIM_SUBMIT, .at_ns = 3 * DIP_SECOND_NS, .message = -1});
    return DIP_OK;
}

enum dip_status dip_sim_run(const struct dip_sim_options *options,
                            struct dip_sim_result *ret_result)
{
    if (options->workers < 2 || options->workers > DIP_SIM_WORKERS_MAX || options->requests < 1 ||
        options->requests > DIP_SIM_REQUESTS_MAX || options->degree < 0 ||
        options->degree > SIM_DEGREE_MAX)
        return DIP_INVALID;
    struct sim *s = calloc(1, sizeof *s);
    if (!s)
        return DIP_NO_MEMORY;
    s->options = *options;
    s->random = options->seed * UINT64_C(0x2545f4914f6cdd1d) + 1;
    s->message_free = -1;
    s->tick_ns = INT64_MAX;
    enum dip_status status = world_new(s);
    if (!status)
        loop(s);
    if (s->is_out_of_memory)
        status = DIP_NO_MEMORY;
    s->result.simulated_ns = s->now_ns;
    if (!status)
        *ret_result = s->result;
    dip_scheduler_free(s->scheduler);
    dip_groups_free(s->groups);
    dip_held_book_free(s->held);
    free(s->heap);
    free(s->messages);
    free(s->workers);
    free(s->requests);
    free(s);
    return status;
}
