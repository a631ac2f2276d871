/* tests/unit/arena.c - alignment, exhaustion, scopes, and the accounting that sizes reservations.
 */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"

static alignas(DIP_ARENA_ALIGN) unsigned char memory[1024];

static void pieces_are_aligned_and_apart(void **state)
{
    (void)state;
    struct dip_arena arena;
    dip_arena_init(&arena, memory, sizeof memory);
    unsigned char *a = dip_arena_push(&arena, 1);
    unsigned char *b = dip_arena_push(&arena, 65);
    unsigned char *c = dip_arena_push(&arena, 64);
    assert_ptr_equal(a, memory);
    assert_ptr_equal(b, memory + 64);
    assert_ptr_equal(c, memory + 192);
    assert_int_equal(arena.used_bytes, 256);
}

static void full_is_null_and_changes_nothing(void **state)
{
    (void)state;
    struct dip_arena arena;
    dip_arena_init(&arena, memory, sizeof memory);
    assert_non_null(dip_arena_push(&arena, 960));
    assert_null(dip_arena_push(&arena, 65));
    assert_null(dip_arena_push(&arena, SIZE_MAX));
    assert_null(dip_arena_push(&arena, SIZE_MAX - 62));
    assert_int_equal(arena.used_bytes, 960);
    assert_non_null(dip_arena_push(&arena, 64));
    assert_null(dip_arena_push(&arena, 1));
    assert_non_null(dip_arena_push(&arena, 0)); /* nothing always fits */
}

static void scopes_give_back_and_the_peak_stays(void **state)
{
    (void)state;
    struct dip_arena arena;
    dip_arena_init(&arena, memory, sizeof memory);
    (void)dip_arena_push(&arena, 10);
    size_t mark = dip_arena_mark(&arena);
    void *first = dip_arena_push(&arena, 500);
    dip_arena_reset(&arena, mark);
    assert_ptr_equal(dip_arena_push(&arena, 100), first);
    dip_arena_reset(&arena, 0);
    assert_int_equal(arena.used_bytes, 0);
    assert_int_equal(arena.peak_bytes, 64 + 512);
}

static void rounding_is_what_push_takes(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 300; bytes++) {
        struct dip_arena arena;
        dip_arena_init(&arena, memory, sizeof memory);
        (void)dip_arena_push(&arena, bytes);
        assert_int_equal(arena.used_bytes, dip_arena_round(bytes));
    }
    assert_true(dip_arena_round(SIZE_MAX) == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_and_apart),
        cmocka_unit_test(full_is_null_and_changes_nothing),
        cmocka_unit_test(scopes_give_back_and_the_peak_stays),
        cmocka_unit_test(rounding_is_what_push_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
