/* tests/unit/flag.c - of several threads that raise a flag at once, one sees that it was down. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/flag.h"

enum { THREADS = 4, ROUNDS = 20000 };

static struct dip_flag flag;
static int guarded; /* written only by who holds the flag */

static void *take_turns(void *context)
{
    int *wins = context;
    while (*wins < ROUNDS)
        if (dip_flag_raise(&flag)) {
            guarded++; /* seen by the next one that raises it */
            ++*wins;
            dip_flag_lower(&flag);
        }
    return NULL;
}

static void one_wins(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    int wins[THREADS] = {0};
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_turns, &wins[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(guarded, THREADS * ROUNDS);
}

static void answers_say_what_was_before(void **state)
{
    (void)state;
    assert_false(dip_flag_is_raised(&flag));
    assert_true(dip_flag_raise(&flag));
    assert_false(dip_flag_raise(&flag));
    assert_true(dip_flag_is_raised(&flag));
    assert_true(dip_flag_lower(&flag));
    assert_false(dip_flag_lower(&flag));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_say_what_was_before),
        cmocka_unit_test(one_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
