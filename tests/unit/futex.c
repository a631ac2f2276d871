/* tests/unit/futex.c - doorbells: no wake-up is lost, time-outs end, across threads and processes.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/futex.h"

enum { ROUNDS = 20000 };

/* Two sides that answer each other. */
struct table {
    struct dip_word words[2];
    struct dip_bell bells[2];
};

/* Waits for the other side's word; a lost wake-up would last the full 20 seconds. */
static int await(struct table *t, int side, uint32_t value)
{
    for (;;) {
        uint32_t heard = dip_bell_listen(&t->bells[side]);
        if (dip_word_get(&t->words[!side]) >= value) {
            dip_bell_leave(&t->bells[side]);
            return 0;
        }
        if (dip_bell_wait(&t->bells[side], heard, 20 * DIP_SECOND_NS) == DIP_TIMEOUT)
            return -1;
    }
}

static int play(struct table *t, int side)
{
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        dip_word_set(&t->words[side], i);
        dip_bell_ring(&t->bells[!side]);
        if (await(t, side, i))
            return -1;
    }
    return 0;
}

static void *play_second(void *table)
{
    return play(table, 1) ? table : NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct table t = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, play_second, &t), 0);
    assert_int_equal(play(&t, 0), 0);
    void *result = &t;
    pthread_join(thread, &result);
    assert_null(result);
}

static void test_processes(void **state)
{
    (void)state;
    struct table *t =
        mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(t != MAP_FAILED);
    pid_t pid = fork();
    if (pid == 0)
        _exit(play(t, 1) ? 1 : 0);
    assert_int_equal(play(t, 0), 0);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    munmap(t, sizeof *t);
}

static void test_timeout(void **state)
{
    (void)state;
    struct dip_bell bell = {0};
    int64_t begin_ns = dip_clock_now_ns();
    uint32_t heard = dip_bell_listen(&bell);
    assert_int_equal(dip_bell_wait(&bell, heard, 30 * DIP_MS_NS), DIP_TIMEOUT);
    assert_true(dip_clock_now_ns() - begin_ns >= 30 * DIP_MS_NS);

    heard = dip_bell_listen(&bell);
    dip_bell_ring(&bell); /* between listening and waiting */
    assert_int_equal(dip_bell_wait(&bell, heard, 60 * DIP_SECOND_NS), DIP_OK);
}

static void test_set_once(void **state)
{
    (void)state;
    struct dip_word word = {0};
    assert_true(dip_word_set_once(&word, 7));
    assert_false(dip_word_set_once(&word, 8));
    assert_int_equal(dip_word_get(&word), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_set_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
