/* tests/unit/pool.c - every part runs exactly once, whatever the sizes; the run waits for all of
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/limits.h"
#include "base/pool.h"

enum { PARTS_MAX = 70000 };

struct tally {
    unsigned char
        runs[PARTS_MAX]; /* plain bytes: a part owns its own, the thread sanitizer watches */
    int part_count;
    atomic_int wrong;
};

static void count_part(void *context, int part_index, int part_count)
{
    struct tally *tally = context;
    if (part_count != tally->part_count)
        atomic_fetch_add(&tally->wrong, 1);
    tally->runs[part_index]++;
}

static struct tally tally;

static void run_and_check(struct dip_pool *pool, int part_count)
{
    memset(tally.runs, 0, (size_t)part_count + 1);
    tally.part_count = part_count;
    dip_pool_run(pool, count_part, &tally, part_count);
    for (int i = 0; i < part_count; i++)
        assert_int_equal(tally.runs[i], 1);
    assert_int_equal(atomic_load(&tally.wrong), 0);
}

static void each_part_runs_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 4, 9};
    for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
        struct dip_pool *pool = NULL;
        assert_int_equal(dip_pool_new(threads[t], &pool), DIP_OK);
        assert_int_equal(dip_pool_threads(pool), threads[t]);
        for (int repeat = 0; repeat < 200; repeat++)
            for (int parts = 0; parts < 10; parts++)
                run_and_check(pool, parts);
        run_and_check(pool, 1000);
        run_and_check(pool, 65535);
        run_and_check(pool, 65536); /* more than one batch of the ticket's field */
        run_and_check(pool, 69999);
        dip_pool_free(pool);
    }
}

static void nap(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void slow_part(void *context, int part_index, int part_count)
{
    if (part_index == part_count - 1)
        nap(3000000);
    count_part(context, part_index, part_count);
}

/* Gaps longer than the spin put the threads to sleep; slow parts put the owner to sleep. */
static void sleepers_wake(void **state)
{
    (void)state;
    struct dip_pool *pool = NULL;
    assert_int_equal(dip_pool_new(2, &pool), DIP_OK);
    for (int repeat = 0; repeat < 30; repeat++) {
        memset(tally.runs, 0, 8);
        tally.part_count = 4;
        dip_pool_run(pool, slow_part, &tally, 4);
        for (int i = 0; i < 4; i++)
            assert_int_equal(tally.runs[i], 1);
        nap(500000);
    }
    dip_pool_free(pool);
}

/* Two parts that wait for each other end only if two threads run them. */
static void meet(void *context, int part_index, int part_count)
{
    (void)part_index;
    atomic_int *arrived = context;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < part_count)
        nap(10000);
}

static void parts_run_in_parallel(void **state)
{
    (void)state;
    struct dip_pool *pool = NULL;
    assert_int_equal(dip_pool_new(4, &pool), DIP_OK);
    for (int parts = 2; parts <= 4; parts++) {
        atomic_int arrived = 0;
        dip_pool_run(pool, meet, &arrived, parts);
        assert_int_equal(atomic_load(&arrived), parts);
        nap(1000000);
    }
    dip_pool_free(pool);
}

static void limits_hold(void **state)
{
    (void)state;
    struct dip_pool *pool = NULL;
    assert_int_equal(dip_pool_new(DIP_THREADS_MAX + 1, &pool), DIP_LIMIT);
    assert_null(pool);
    dip_pool_free(NULL);
    assert_in_range(dip_cpu_count(), 1, DIP_THREADS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_runs_once),
        cmocka_unit_test(sleepers_wake),
        cmocka_unit_test(parts_run_in_parallel),
        cmocka_unit_test(limits_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
