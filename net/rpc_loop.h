/* net/rpc_loop.h - a thread that waits for peers, for time and for other threads.
 *
 * Servers, channels and calls live on a loop; everything about them happens on the one thread that
 * runs it, so none of their state is locked. Other threads hand work over with dip_rpc_loop_post.
 * Callbacks run one after the other, never from inside a call that you make, and must not block:
 * while one runs, nothing else on the loop moves.
 *
 *     peers ──► gRPC ──► completion queue ─┐
 *     other threads ──► mailbox + wake ────┼──► dip_rpc_loop_run: callbacks, then what they asked
 *     timers ──────────────────────────────┘    for goes out as one batch
 *
 * A process that forks must do so before its first loop: gRPC starts threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dip_rpc_loop;

struct dip_rpc_loop_options {
    int post_count_max;  /* posts that wait; 0 = 4096 */
    int call_count_max;  /* live calls of all servers and channels; 0 = 4096, at most 65536 */
    int timer_count_max; /* timers of users; 0 = 4096 */
};

/* Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_rpc_loop_new(const struct dip_rpc_loop_options *options,
                                              struct dip_rpc_loop **ret_loop);

/* After dip_rpc_loop_run has returned, or before it was ever called, and after the last post. */
void dip_rpc_loop_free(struct dip_rpc_loop *loop);

/* Serves on the calling thread, the owner from now on, until dip_rpc_loop_stop was called and no
 * server, channel or call is left on the loop. */
void dip_rpc_loop_run(struct dip_rpc_loop *loop);

/* Instead of run, for who has a loop of their own: takes at most one event, waiting for it up to
 * wait_ns, and what is due. */
void dip_rpc_loop_turn(struct dip_rpc_loop *loop, int64_t wait_ns);

/* From any thread, but from no signal handler: neither this nor a post. gRPC does not wake the
 * thread that calls it, and the handler may have interrupted just the loop's. */
void dip_rpc_loop_stop(struct dip_rpc_loop *loop);

/* On the owner thread, or while nobody runs the loop. */
bool dip_rpc_loop_is_mine(const struct dip_rpc_loop *loop);

/* ---- from other threads ---- */

typedef void (*dip_rpc_post_fn)(void *context, void *payload);

/* Has the owner thread call post(context, payload). What `payload` points to moves with it.
 * From any thread; never waits. Errors: BUSY (too many wait: slow down; nothing has moved). */
DIP_MUST_USE enum dip_status dip_rpc_loop_post(struct dip_rpc_loop *loop, dip_rpc_post_fn post,
                                               void *context, void *payload);

/* ---- time ---- */

/* Embedded in its user's struct; zero-initialise. `fire` may set it again. */
struct dip_rpc_timer {
    void (*fire)(void *context);
    void *context;
    int64_t at_ns;      /* of dip_clock_now_ns */
    uint32_t heap_rank; /* 0 = not set; else 1 + its place in the loop's heap */
};

/* Sets or moves it. Owner thread. Errors: LIMIT (timer_count_max). */
DIP_MUST_USE enum dip_status dip_rpc_timer_set(struct dip_rpc_loop *loop,
                                               struct dip_rpc_timer *timer, int64_t at_ns);
/* Afterwards it does not fire. Owner thread; also when it is not set. */
void dip_rpc_timer_clear(struct dip_rpc_loop *loop, struct dip_rpc_timer *timer);

/* ---- gRPC's own words ---- */

/* gRPC complains about peers (handshakes that fail, broken frames) in its own log, which is dropped
 * unless somebody wants it. Set before the first loop; called from any thread. */
void dip_rpc_log_to(void (*log)(const char *text));
