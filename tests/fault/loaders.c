/* tests/fault/loaders.c - the loaders of a model directory when the nth allocation fails: the right
 * status, an honest sentence, nothing leaked, no crash inside a library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/config.h"
#include "model/weights.h"

/* A sanitizer brings its own allocator: only the plain build runs this. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_STARVABLE 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_STARVABLE 0
#endif
#endif
#ifndef IS_STARVABLE
#define IS_STARVABLE 1
#endif

/* ---- an allocator that fails once, on request ---- */

static bool is_counting;
static long allocation_count; /* since counting began */
static long failing_index;
static atomic_long live_count;

#if IS_STARVABLE
/* The C library's own names for its allocator, so that ours can stand in front of it. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *space, size_t bytes);
extern void __libc_free(void *space);

static bool is_refused(void)
{
    return is_counting && allocation_count++ == failing_index;
}

void *malloc(size_t bytes)
{
    void *space = is_refused() ? NULL : __libc_malloc(bytes);
    live_count += space != NULL;
    return space;
}

void *calloc(size_t count, size_t bytes)
{
    void *space = is_refused() ? NULL : __libc_calloc(count, bytes);
    live_count += space != NULL;
    return space;
}

void *realloc(void *old, size_t bytes)
{
    if (is_refused())
        return NULL;
    void *space = __libc_realloc(old, bytes);
    live_count += space != NULL && old == NULL;
    return space;
}

void free(void *space)
{
    live_count -= space != NULL;
    __libc_free(space);
}
#endif

/* ---- the scenarios ---- */

static enum dip_status load_config(struct dip_why *why)
{
    struct dip_config config;
    return dip_config_load("tests/golden/tiny-a/model", why, &config);
}

static enum dip_status open_shards(struct dip_why *why)
{
    struct dip_weights *weights = NULL;
    enum dip_status status = dip_weights_open("tests/golden/tiny-b/model", why, &weights);
    if (status == DIP_OK) /* whole, or not at all */
        assert_int_equal(dip_weights_count(weights), 361);
    dip_weights_close(weights);
    return status;
}

/* Fails every stride-th allocation of a scenario in turn; returns how many allocations it makes. */
static long starve(enum dip_status (*scenario)(struct dip_why *why), long stride)
{
    struct dip_why warm = {0};
    assert_int_equal(scenario(&warm), DIP_OK); /* what libraries keep for ever is there now */
    long refused = 0;
    for (failing_index = 0;; failing_index += stride) {
        struct dip_why why = {0};
        long before = live_count;
        allocation_count = 0;
        is_counting = true;
        enum dip_status status = scenario(&why);
        is_counting = false;
        assert_int_equal(live_count, before);
        if (allocation_count <= failing_index) {
            assert_int_equal(status, DIP_OK);
            assert_true(refused * stride > allocation_count / 2); /* else this tested nothing */
            return allocation_count;
        }
        if (status == DIP_OK)
            continue; /* qsort sorts in place when it gets no buffer */
        refused++;
        if (status != DIP_NO_MEMORY || !strstr(why.text, "no memory"))
            fail_msg("allocation %ld: %s: %s", failing_index, dip_status_text(status), why.text);
    }
}

static void config_survives_every_failure(void **state)
{
    (void)state;
    if (!IS_STARVABLE)
        skip();
    assert_true(starve(load_config, 1) > 300);
}

static void shards_survive_failures(void **state)
{
    (void)state;
    if (!IS_STARVABLE)
        skip();
    assert_true(starve(open_shards, 11) > 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_survives_every_failure),
        cmocka_unit_test(shards_survive_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
