/* net/rpc_loop.c - one completion queue, one thread, and three ways to get its attention.
 *
 * gRPC reports finished operations on the queue; dip_rpc_loop_run takes one at a time, calls who
 * asked for it, then starts what that callback asked for (the touched calls). Time comes as the
 * deadline of the wait. Other threads push into a mailbox and, if nobody has yet, wake the queue.
 *
 * Waking. gRPC C core has no call to put an event into a queue. A batch of no operations on any
 * call completes at once, from any thread, so each loop keeps one call for that: on a lame channel,
 * which never connects to anything. The flag makes sure that one wake is out at a time:
 *
 *     poster   push ─► raise the flag ─► was down: start the empty batch
 *     owner    its report comes ─► lower the flag ─► take all posts
 *
 * A post that comes after the owner has looked finds the flag down and wakes again.
 *
 * gRPC is never shut down: grpc_shutdown takes some ten seconds in one run of three (1.51), and
 * there is nothing in it that the end of the process does not do. */
#include "net/rpc_loop.h"

#include <grpc/support/log.h>
#if __has_include(<diptych_grpc_log.h>) /* since 1.66 the core has no function to take its log */
#include <diptych_grpc_log.h>
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/flag.h"
#include "base/mailbox.h"
#include "net/rpc_private.h"

enum { COUNT_DEFAULT = 4096, CALLS_MAX = 1 << 16 };

struct post {
    dip_rpc_post_fn post;
    void *context, *payload;
};

/* A place for a call. The generation tells the calls apart that have held it. */
struct place {
    struct dip_rpc_call *call;
    uint64_t generation;
    int next_free; /* index, -1 = last */
};

struct dip_rpc_loop {
    grpc_completion_queue *queue;
    grpc_channel *lame;
    grpc_call *wake_call;
    struct dip__rpc_op wake_op;
    struct dip_flag is_woken, is_stopping;
    struct dip_mailbox *posts;
    int post_count_max;

    pthread_t owner;
    bool is_owned;
    int hold_count; /* servers, channels and calls */
    struct dip_rpc_call *touched;

    struct place *places; /* [place_count] */
    int place_count, first_free;

    struct dip_rpc_timer **timers; /* [timer_count_max], a heap: the earliest first */
    uint32_t timer_count, timer_count_max;
};

/* ---- gRPC's own words ---- */

static void (*log_to)(const char *text);

static void take_log(gpr_log_func_args *args)
{
    if (log_to && args->severity == GPR_LOG_SEVERITY_ERROR)
        log_to(args->message);
    else if (strstr(args->message, "assertion failed")) /* the process is about to abort */
        fprintf(stderr, "%s:%d: %s\n", args->file, args->line, args->message);
}

void dip_rpc_log_to(void (*log)(const char *text))
{
    log_to = log;
}

/* ---- waking ---- */

void dip__rpc_loop_signal(struct dip_rpc_loop *loop, struct dip__rpc_op *op)
{
    grpc_call_error error = grpc_call_start_batch(loop->wake_call, NULL, 0, op, NULL);
    dip_assert(error == GRPC_CALL_OK);
}

static void wake(struct dip_rpc_loop *loop)
{
    if (dip_flag_raise(&loop->is_woken))
        dip__rpc_loop_signal(loop, &loop->wake_op);
}

/* As many posts as can have been there, so that posters who never pause cannot starve the peers. */
static void take_posts(void *owner, bool is_ok)
{
    (void)is_ok;
    struct dip_rpc_loop *loop = owner;
    struct post post;
    dip_flag_lower(&loop->is_woken);
    for (int i = 0; i < loop->post_count_max; i++) {
        if (dip_mailbox_pop(loop->posts, 0, &post))
            return;
        post.post(post.context, post.payload);
    }
    wake(loop);
}

enum dip_status dip_rpc_loop_post(struct dip_rpc_loop *loop, dip_rpc_post_fn post, void *context,
                                  void *payload)
{
    struct post message = {post, context, payload};
    DIP_TRY(dip_mailbox_push(loop->posts, &message));
    wake(loop);
    return DIP_OK;
}

void dip_rpc_loop_stop(struct dip_rpc_loop *loop)
{
    dip_flag_raise(&loop->is_stopping);
    wake(loop);
}

/* ---- life ---- */

static void places_init(struct dip_rpc_loop *loop)
{
    for (int i = 0; i < loop->place_count; i++)
        loop->places[i] = (struct place){.next_free = i + 1 < loop->place_count ? i + 1 : -1};
}

static int or_default(int count)
{
    return count > 0 ? count : COUNT_DEFAULT;
}

enum dip_status dip_rpc_loop_new(const struct dip_rpc_loop_options *options,
                                 struct dip_rpc_loop **ret_loop)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct dip_rpc_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        goto out;
    loop->post_count_max = or_default(options->post_count_max);
    loop->place_count = or_default(options->call_count_max);
    loop->timer_count_max = (uint32_t)or_default(options->timer_count_max);
    dip_assert(loop->place_count <= CALLS_MAX);
    /* Every call may need a timer of its own beside those of users. */
    loop->timer_count_max += (uint32_t)loop->place_count;
    loop->places = calloc((size_t)loop->place_count, sizeof loop->places[0]);
    loop->timers = calloc(loop->timer_count_max, sizeof(void *)); /* a heap of pointers */
    if (!loop->places || !loop->timers)
        goto out;
    places_init(loop);
    status = dip_mailbox_new(sizeof(struct post), (size_t)loop->post_count_max, &loop->posts);
    if (status)
        goto out;
    gpr_set_log_function(take_log);
    grpc_init();
    loop->queue = grpc_completion_queue_create_for_next(NULL);
    loop->lame = grpc_lame_client_channel_create("wake", GRPC_STATUS_UNAVAILABLE, "");
    loop->wake_call = grpc_channel_create_call(loop->lame, NULL, 0, loop->queue,
                                               grpc_slice_from_static_string("/wake"), NULL,
                                               gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    loop->wake_op = (struct dip__rpc_op){take_posts, loop};
    *ret_loop = loop;
    loop = NULL;
out:
    dip_rpc_loop_free(loop);
    return status;
}

void dip_rpc_loop_free(struct dip_rpc_loop *loop)
{
    if (!loop)
        return;
    dip_assert(loop->hold_count == 0);
    if (loop->queue) {
        grpc_call_unref(loop->wake_call);
        grpc_channel_destroy(loop->lame);
        grpc_completion_queue_shutdown(loop->queue);
        /* A last wake may still be in it; its posts are the posters' loss. */
        while (grpc_completion_queue_next(loop->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL)
                   .type != GRPC_QUEUE_SHUTDOWN)
            continue;
        grpc_completion_queue_destroy(loop->queue);
    }
    dip_mailbox_free(loop->posts);
    free(loop->places);
    free(loop->timers);
    free(loop);
}

grpc_completion_queue *dip__rpc_loop_queue(struct dip_rpc_loop *loop)
{
    return loop->queue;
}

void dip__rpc_loop_hold(struct dip_rpc_loop *loop)
{
    loop->hold_count++;
}

void dip__rpc_loop_drop(struct dip_rpc_loop *loop)
{
    dip_assert(loop->hold_count > 0);
    loop->hold_count--;
}

bool dip_rpc_loop_is_mine(const struct dip_rpc_loop *loop)
{
    return !loop->is_owned || pthread_equal(loop->owner, pthread_self());
}

/* ---- running ---- */

void dip__rpc_loop_touch(struct dip_rpc_loop *loop, struct dip_rpc_call *call)
{
    if (call->is_touched)
        return;
    call->is_touched = true;
    call->touched_next = loop->touched;
    loop->touched = call;
}

static void flush(struct dip_rpc_loop *loop)
{
    while (loop->touched) {
        struct dip_rpc_call *call = loop->touched;
        loop->touched = call->touched_next;
        call->is_touched = false;
        dip__rpc_call_flush(call);
    }
}

static void fire_timers(struct dip_rpc_loop *loop)
{
    if (loop->timer_count == 0)
        return;
    int64_t now_ns = dip_clock_now_ns();
    while (loop->timer_count && loop->timers[0]->at_ns <= now_ns) {
        struct dip_rpc_timer *timer = loop->timers[0];
        dip_rpc_timer_clear(loop, timer);
        timer->fire(timer->context);
        flush(loop);
    }
}

/* Takes one report at most, then what is due. */
static void turn(struct dip_rpc_loop *loop, int64_t until_ns)
{
    if (loop->timer_count && loop->timers[0]->at_ns < until_ns)
        until_ns = loop->timers[0]->at_ns;
    grpc_event event = grpc_completion_queue_next(loop->queue, dip__rpc_time_to(until_ns), NULL);
    if (event.type == GRPC_OP_COMPLETE) {
        struct dip__rpc_op *op = event.tag;
        op->done(op->owner, event.success);
        flush(loop);
    }
    fire_timers(loop);
}

void dip_rpc_loop_run(struct dip_rpc_loop *loop)
{
    loop->owner = pthread_self();
    loop->is_owned = true;
    flush(loop);
    while (loop->hold_count || !dip_flag_is_raised(&loop->is_stopping))
        turn(loop, INT64_MAX);
    loop->is_owned = false;
}

void dip_rpc_loop_turn(struct dip_rpc_loop *loop, int64_t wait_ns)
{
    dip_assert(dip_rpc_loop_is_mine(loop));
    flush(loop);
    turn(loop, dip_clock_now_ns() + wait_ns);
}

/* ---- the table of calls ---- */

uint64_t dip__rpc_loop_enter(struct dip_rpc_loop *loop, struct dip_rpc_call *call)
{
    int index = loop->first_free;
    if (index < 0)
        return 0;
    struct place *place = &loop->places[index];
    loop->first_free = place->next_free;
    place->call = call;
    place->generation++;
    return place->generation * CALLS_MAX + (uint64_t)index;
}

void dip__rpc_loop_leave(struct dip_rpc_loop *loop, uint64_t id)
{
    if (id == 0)
        return;
    int index = (int)(id % CALLS_MAX);
    loop->places[index].call = NULL;
    loop->places[index].next_free = loop->first_free;
    loop->first_free = index;
}

void dip__rpc_loop_cancel(struct dip_rpc_loop *loop, const void *gone_owner)
{
    for (int i = 0; i < loop->place_count; i++)
        if (loop->places[i].call && loop->places[i].call->gone_owner == gone_owner)
            dip_rpc_call_cancel(loop->places[i].call, DIP_RPC_CANCELLED, "the channel was closed");
}

struct dip_rpc_call *dip_rpc_call_find(struct dip_rpc_loop *loop, uint64_t id)
{
    dip_assert(dip_rpc_loop_is_mine(loop));
    uint64_t index = id % CALLS_MAX;
    if (index >= (uint64_t)loop->place_count || loop->places[index].generation != id / CALLS_MAX)
        return NULL;
    return loop->places[index].call;
}

/* ---- timers ---- */

static void timer_put(struct dip_rpc_loop *loop, uint32_t index, struct dip_rpc_timer *timer)
{
    loop->timers[index] = timer;
    timer->heap_rank = index + 1;
}

/* Moves the timer from the hole at `index` to where it belongs. */
static void timer_sift(struct dip_rpc_loop *loop, uint32_t index, struct dip_rpc_timer *timer)
{
    while (index > 0 && loop->timers[(index - 1) / 2]->at_ns > timer->at_ns) {
        timer_put(loop, index, loop->timers[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    for (uint32_t child; (child = 2 * index + 1) < loop->timer_count; index = child) {
        if (child + 1 < loop->timer_count &&
            loop->timers[child + 1]->at_ns < loop->timers[child]->at_ns)
            child++;
        if (loop->timers[child]->at_ns >= timer->at_ns)
            break;
        timer_put(loop, index, loop->timers[child]);
    }
    timer_put(loop, index, timer);
}

enum dip_status dip_rpc_timer_set(struct dip_rpc_loop *loop, struct dip_rpc_timer *timer,
                                  int64_t at_ns)
{
    dip_assert(dip_rpc_loop_is_mine(loop));
    if (!timer->heap_rank && loop->timer_count == loop->timer_count_max)
        return DIP_LIMIT;
    timer->at_ns = at_ns > 0 ? at_ns : 0;
    uint32_t index = timer->heap_rank ? timer->heap_rank - 1 : loop->timer_count++;
    timer_sift(loop, index, timer);
    return DIP_OK;
}

void dip_rpc_timer_clear(struct dip_rpc_loop *loop, struct dip_rpc_timer *timer)
{
    dip_assert(dip_rpc_loop_is_mine(loop));
    if (!timer->heap_rank)
        return;
    uint32_t index = timer->heap_rank - 1;
    dip_assert(loop->timers[index] == timer);
    timer->heap_rank = 0;
    struct dip_rpc_timer *last = loop->timers[--loop->timer_count];
    if (last != timer)
        timer_sift(loop, index, last);
}
