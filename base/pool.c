/* base/pool.c - fork-join with parts handed out by one atomic word.
 *
 * The word ("ticket") holds the job's generation, its part count and the next part:
 *
 *     63            32 31        16 15         0
 *    [   generation   | part count |    next    ]
 *
 * A thread claims a part by compare-and-swap on the whole word, so a thread that was asleep through
 * several jobs can never take a part of a job it did not look at, and nobody has to wait for it: a
 * job is done when its parts are done, not when every thread has woken up. The fields that describe
 * a job are written before its ticket is published and not again before its last part is done; a
 * claim that succeeds therefore proves that the fields read before it belong to the claimed job.
 *
 * Between jobs threads spin briefly (the next operation of a step follows within microseconds),
 * then sleep. They do not spin when there are more threads than CPUs: that would burn the time of
 * the thread they wait for. Thread: owned by the caller of dip_pool_run. */
#include "base/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/limits.h"

enum { SPIN_NS_MAX = 20000, BATCH_PARTS_MAX = 0xffff };

struct dip_pool {
    int thread_count; /* with the caller */
    int started_count;
    int64_t spin_ns;
    bool is_running; /* the owner's own guard against nesting */

    _Atomic uint64_t ticket;
    _Atomic(dip_pool_part_fn) part;
    _Atomic(void *) context;
    _Atomic int first_part; /* of this batch */
    _Atomic int part_count; /* of the whole job, for the callback */
    _Atomic uint32_t done_count;

    pthread_mutex_t lock; /* only for going to sleep and waking up */
    pthread_cond_t is_work;
    pthread_cond_t is_done;
    _Atomic int sleeper_count;
    _Atomic bool is_owner_asleep;
    _Atomic bool is_stopping;

    pthread_t threads[DIP_THREADS_MAX];
};

static uint32_t ticket_count(uint64_t ticket)
{
    return (uint32_t)(ticket >> 16) & 0xffff;
}

static uint32_t ticket_next(uint64_t ticket)
{
    return (uint32_t)ticket & 0xffff;
}

static bool is_work_left(struct dip_pool *pool)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    return ticket_next(ticket) < ticket_count(ticket);
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* The last part of a job wakes the owner if it went to sleep. */
static void finish_part(struct dip_pool *pool, uint32_t batch_count)
{
    uint32_t done = atomic_fetch_add(&pool->done_count, 1) + 1;
    if (done != batch_count || !atomic_load(&pool->is_owner_asleep))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->is_done);
    pthread_mutex_unlock(&pool->lock);
}

/* Claims and runs parts until none is left to claim. */
static void work(struct dip_pool *pool)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    while (ticket_next(ticket) < ticket_count(ticket)) {
        dip_pool_part_fn part = atomic_load_explicit(&pool->part, memory_order_relaxed);
        void *context = atomic_load_explicit(&pool->context, memory_order_relaxed);
        int first = atomic_load_explicit(&pool->first_part, memory_order_relaxed);
        int part_count = atomic_load_explicit(&pool->part_count, memory_order_relaxed);
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1))
            continue; /* `ticket` now holds the current word */
        part(context, first + (int)ticket_next(ticket), part_count);
        finish_part(pool, ticket_count(ticket));
        ticket = atomic_load(&pool->ticket);
    }
}

static bool spin_for_work(struct dip_pool *pool)
{
    if (pool->spin_ns == 0)
        return is_work_left(pool);
    int64_t until_ns = dip_clock_now_ns() + pool->spin_ns;
    do {
        for (int i = 0; i < 32; i++) {
            if (is_work_left(pool))
                return true;
            pause_briefly();
        }
    } while (dip_clock_now_ns() < until_ns);
    return false;
}

/* The count goes up before the last look at the ticket, and the owner publishes before it looks at
 * the count: one of the two sees the other, so no wake-up is lost. */
static void sleep_for_work(struct dip_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeper_count, 1);
    while (!is_work_left(pool) && !atomic_load(&pool->is_stopping))
        pthread_cond_wait(&pool->is_work, &pool->lock);
    atomic_fetch_sub(&pool->sleeper_count, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *thread_main(void *argument)
{
    struct dip_pool *pool = argument;
    while (!atomic_load(&pool->is_stopping)) {
        if (!spin_for_work(pool))
            sleep_for_work(pool);
        work(pool);
    }
    return NULL;
}

/* Signals belong to the main thread: the children inherit a full mask. */
static enum dip_status start_threads(struct dip_pool *pool)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    for (int i = 0; i < pool->thread_count - 1 && !error; i++) {
        error = pthread_create(&pool->threads[i], NULL, thread_main, pool);
        if (!error)
            pool->started_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error ? DIP_NO_MEMORY : DIP_OK;
}

enum dip_status dip_pool_new(int thread_count, struct dip_pool **ret_pool)
{
    dip_assert(thread_count >= 1);
    if (thread_count > DIP_THREADS_MAX)
        return DIP_LIMIT;
    struct dip_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return DIP_NO_MEMORY;
    pool->thread_count = thread_count;
    pool->spin_ns = thread_count > dip_cpu_count() ? 0 : SPIN_NS_MAX;
    pthread_mutex_init(&pool->lock, NULL); /* default attributes: these cannot fail on Linux */
    pthread_cond_init(&pool->is_work, NULL);
    pthread_cond_init(&pool->is_done, NULL);
    enum dip_status status = start_threads(pool);
    if (status) {
        dip_pool_free(pool);
        return status;
    }
    *ret_pool = pool;
    return DIP_OK;
}

void dip_pool_free(struct dip_pool *pool)
{
    if (!pool)
        return;
    dip_assert(!pool->is_running);
    atomic_store(&pool->is_stopping, true);
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->is_work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->is_done);
    pthread_cond_destroy(&pool->is_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int dip_pool_threads(const struct dip_pool *pool)
{
    return pool->thread_count;
}

static void wake(struct dip_pool *pool, int useful_count)
{
    int sleepers = atomic_load(&pool->sleeper_count);
    if (sleepers == 0 || useful_count == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    if (useful_count >= sleepers)
        pthread_cond_broadcast(&pool->is_work);
    else
        for (int i = 0; i < useful_count; i++)
            pthread_cond_signal(&pool->is_work);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_until_done(struct dip_pool *pool, uint32_t batch_count)
{
    if (pool->spin_ns > 0) {
        int64_t until_ns = dip_clock_now_ns() + pool->spin_ns;
        do {
            for (int i = 0; i < 32; i++) {
                if (atomic_load(&pool->done_count) == batch_count)
                    return;
                pause_briefly();
            }
        } while (dip_clock_now_ns() < until_ns);
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->is_owner_asleep, true); /* before the look at the count, as above */
    while (atomic_load(&pool->done_count) != batch_count)
        pthread_cond_wait(&pool->is_done, &pool->lock);
    atomic_store(&pool->is_owner_asleep, false);
    pthread_mutex_unlock(&pool->lock);
}

static void run_batch(struct dip_pool *pool, int first, uint32_t batch_count)
{
    uint64_t generation = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store_explicit(&pool->first_part, first, memory_order_relaxed);
    atomic_store_explicit(&pool->done_count, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, generation << 32 | (uint64_t)batch_count << 16);
    wake(pool, (int)batch_count - 1);
    work(pool);
    wait_until_done(pool, batch_count);
}

void dip_pool_run(struct dip_pool *pool, dip_pool_part_fn part, void *context, int part_count)
{
    dip_assert(!pool->is_running);
    dip_assert(part_count >= 0);
    pool->is_running = true;
    if (pool->thread_count == 1 || part_count == 1) {
        for (int i = 0; i < part_count; i++)
            part(context, i, part_count);
    } else {
        atomic_store_explicit(&pool->part, part, memory_order_relaxed);
        atomic_store_explicit(&pool->context, context, memory_order_relaxed);
        atomic_store_explicit(&pool->part_count, part_count, memory_order_relaxed);
        for (int first = 0; first < part_count; first += BATCH_PARTS_MAX) {
            int left = part_count - first;
            run_batch(pool, first, (uint32_t)(left < BATCH_PARTS_MAX ? left : BATCH_PARTS_MAX));
        }
    }
    pool->is_running = false;
}
