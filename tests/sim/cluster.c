/* tests/sim/cluster.c - some hundred small histories of a troubled cluster, and a few larger ones.
 *
 * A failure prints the command that replays it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/cluster.h"

static struct dip_sim_result run(uint64_t seed, int workers, int64_t requests, bool is_kind)
{
    struct dip_sim_options options = {
        .seed = seed, .workers = workers, .requests = requests, .is_kind = is_kind};
    struct dip_sim_result result = {.hash = 0};
    assert_int_equal(dip_sim_run(&options, &result), DIP_OK);
    if (result.failure[0]) {
        print_error("%s\ndiptych sim --seed %llu --workers %d --requests %lld\n", result.failure,
                    (unsigned long long)seed, workers, (long long)requests);
        fail();
    }
    return result;
}

static void small_clusters_keep_the_promises(void **state)
{
    (void)state;
    struct dip_sim_result all = {.hash = 0};
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct dip_sim_result one = run(seed, 4 + (int)(seed % 13), 600, false);
        all.crashes += one.crashes;
        all.cuts += one.cuts;
        all.pauses += one.pauses;
        all.hangs += one.hangs;
        all.duplicates += one.duplicates;
        all.groups_formed += one.groups_formed;
        all.retried += one.retried;
        all.leaders += one.leaders;
        for (int i = 0; i < DIP_HELD_STAGE_COUNT; i++)
            all.adopted[i] += one.adopted[i];
        for (int i = 0; i < DIP_END_COUNT; i++)
            all.ended[i] += one.ended[i];
    }
    /* Trouble there was, of every kind, and most came through it. */
    assert_true(all.crashes > 100 && all.cuts > 100 && all.pauses > 100 && all.hangs > 100);
    assert_true(all.duplicates > 100 && all.groups_formed > 100 && all.retried > 100);
    assert_true(all.leaders > 100);
    assert_true(all.adopted[DIP_HELD_TOKENS] > 10 && all.adopted[DIP_HELD_HINGE] > 100);
    assert_true(all.adopted[DIP_HELD_STEPS] > 10 && all.adopted[DIP_HELD_PICTURE] > 100);
    assert_true(all.ended[DIP_END_CANCELLED] > 100 && all.ended[DIP_END_DEADLINE] > 10);
    assert_true(all.ended[DIP_END_NO_WORKERS] > 0);
    assert_true(all.ended[DIP_END_QUEUE_TIME] > 0 && all.ended[DIP_END_POISONED] > 0);
    assert_true(all.ended[DIP_END_DONE] > 20000);
}

static void large_clusters_keep_them_too(void **state)
{
    (void)state;
    for (uint64_t seed = 1001; seed <= 1006; seed++)
        run(seed, 300, 20000, false);
}

static void one_seed_is_one_history(void **state)
{
    (void)state;
    struct dip_sim_result a = run(42, 20, 1000, false), b = run(42, 20, 1000, false);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_not_equal(a.hash, run(43, 20, 1000, false).hash);
}

/* Without trouble nothing is lost, nothing runs twice. */
static void a_kind_world_loses_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct dip_sim_result result = run(seed, 16, 500, true);
        assert_int_equal(result.retried, 0);
        assert_int_equal(result.ended[DIP_END_POISONED], 0);
        assert_int_equal(result.ended[DIP_END_WORKER_LOST], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_seed_is_one_history),
        cmocka_unit_test(a_kind_world_loses_nothing),
        cmocka_unit_test(small_clusters_keep_the_promises),
        cmocka_unit_test(large_clusters_keep_them_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
