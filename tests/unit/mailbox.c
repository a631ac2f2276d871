/* tests/unit/mailbox.c - order, bounds, waiting and closing. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mailbox.h"

static struct dip_mailbox *new_mailbox(size_t message_count_max)
{
    struct dip_mailbox *mailbox = NULL;
    assert_int_equal(dip_mailbox_new(sizeof(int), message_count_max, &mailbox), DIP_OK);
    return mailbox;
}

static void first_in_first_out(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(3);
    int next_out = 0;
    int got = -1;
    for (int next_in = 0; next_in < 50; next_in++) { /* round the ring many times */
        assert_int_equal(dip_mailbox_push(mailbox, &next_in), DIP_OK);
        if (next_in % 3 == 2)
            for (int i = 0; i < 3; i++, next_out++) {
                assert_int_equal(dip_mailbox_pop(mailbox, 0, &got), DIP_OK);
                assert_int_equal(got, next_out);
            }
    }
    dip_mailbox_free(mailbox);
}

static void full_is_busy(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(2);
    int message = 5;
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_OK);
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_OK);
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_BUSY);
    assert_int_equal(dip_mailbox_pop(mailbox, 0, &message), DIP_OK);
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_OK);
    dip_mailbox_free(mailbox);
}

static void waiting_ends_in_time(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(1);
    int message = 77;
    assert_int_equal(dip_mailbox_pop(mailbox, 0, &message), DIP_TIMEOUT);
    int64_t begin_ns = dip_clock_now_ns();
    assert_int_equal(dip_mailbox_pop(mailbox, 20 * (int64_t)DIP_MS_NS, &message), DIP_TIMEOUT);
    assert_true(dip_clock_now_ns() - begin_ns >= 20 * (int64_t)DIP_MS_NS);
    assert_int_equal(message, 77); /* untouched on failure */
    dip_mailbox_free(mailbox);
}

static void closed_drains_then_cancels(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(2);
    int message = 1;
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_OK);
    dip_mailbox_close(mailbox);
    assert_int_equal(dip_mailbox_push(mailbox, &message), DIP_CANCELLED);
    message = 0;
    assert_int_equal(dip_mailbox_pop(mailbox, -1, &message), DIP_OK);
    assert_int_equal(message, 1);
    assert_int_equal(dip_mailbox_pop(mailbox, -1, &message), DIP_CANCELLED);
    dip_mailbox_free(mailbox);
    dip_mailbox_free(NULL);
}

enum { MESSAGES = 20000 };

static void *push_all(void *argument)
{
    struct dip_mailbox *mailbox = argument;
    for (int i = 0; i < MESSAGES;)
        i += dip_mailbox_push(mailbox, &i) == DIP_OK;
    dip_mailbox_close(mailbox);
    return NULL;
}

static void between_threads(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(16);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, push_all, mailbox), 0);
    int expected = 0;
    for (int got = -1; dip_mailbox_pop(mailbox, -1, &got) == DIP_OK; expected++)
        if (got != expected)
            break;
    pthread_join(thread, NULL);
    assert_int_equal(expected, MESSAGES);
    dip_mailbox_free(mailbox);
}

/* A waiter without a deadline is woken by the close. */
static void *wait_for_ever(void *argument)
{
    int message;
    return dip_mailbox_pop(argument, -1, &message) == DIP_CANCELLED ? argument : NULL;
}

static void close_wakes_waiters(void **state)
{
    (void)state;
    struct dip_mailbox *mailbox = new_mailbox(1);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_ever, mailbox), 0);
    dip_mailbox_close(mailbox);
    for (int i = 0; i < 3; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, mailbox);
    }
    dip_mailbox_free(mailbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_in_first_out),   cmocka_unit_test(full_is_busy),
        cmocka_unit_test(waiting_ends_in_time), cmocka_unit_test(closed_drains_then_cancels),
        cmocka_unit_test(between_threads),      cmocka_unit_test(close_wakes_waiters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
