/* tests/unit/shard.c - the shard plan: parts meet and cover, bounds fall on chunks, refusals say
 * why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/shard.h"

/* The published model's AR half, without what the plan does not read. */
static const struct dip_ar_config published = {.layers = 28,
                                               .hidden = 2048,
                                               .intermediate = 6144,
                                               .heads = 16,
                                               .kv_heads = 8,
                                               .head_dim = 128,
                                               .vocab = 217205,
                                               .is_tied = true};

/* `range` begins where the one before ended. */
static int64_t follow(int64_t end, struct dip_range range)
{
    assert_int_equal(range.first, end);
    assert_true(range.count > 0);
    return end + range.count;
}

static void check_cover(const struct dip_ar_config *c, int degree)
{
    assert_int_equal(dip_shard_check(c, degree, NULL), DIP_OK);
    int64_t heads = 0;
    int64_t kv_heads = 0;
    int64_t channels = 0;
    int64_t vocab = 0;
    for (int r = 0; r < degree; r++) {
        struct dip_shard s = dip_shard_of(c, r, degree);
        heads = follow(heads, s.heads);
        kv_heads = follow(kv_heads, s.kv_heads);
        channels = follow(channels, s.intermediate);
        vocab = follow(vocab, s.vocab);
        int group = c->heads / c->kv_heads; /* its queries read its own keys */
        assert_int_equal(s.heads.first, s.kv_heads.first * group);
        assert_int_equal(s.heads.count, s.kv_heads.count * group);
        int64_t width = (int64_t)c->heads * c->head_dim;
        assert_int_equal(s.heads.first * c->head_dim % (width / dip_shard_chunks(c, width)), 0);
        assert_int_equal(
            s.intermediate.first % (c->intermediate / dip_shard_chunks(c, c->intermediate)), 0);
    }
    assert_int_equal(heads, c->heads);
    assert_int_equal(kv_heads, c->kv_heads);
    assert_int_equal(channels, c->intermediate);
    assert_int_equal(vocab, c->vocab);
}

static void test_cover(void **state)
{
    (void)state;
    for (int degree = 1; degree <= 8; degree *= 2)
        check_cover(&published, degree);
    struct dip_ar_config six = published; /* heads that are no power of two: 8 chunks */
    six.heads = 12;
    six.kv_heads = 6;
    check_cover(&six, 2);
    assert_int_equal(dip_shard_check(&six, 4, NULL), DIP_UNSUPPORTED);
}

static void test_refused(void **state)
{
    (void)state;
    struct dip_why why = {0};
    assert_int_equal(dip_shard_check(&published, 16, &why), DIP_UNSUPPORTED);
    assert_non_null(strstr(why.text, "at most 8"));
    assert_non_null(strstr(why.text, "8 key/value heads"));
    why = (struct dip_why){0};
    assert_int_equal(dip_shard_check(&published, 3, &why), DIP_UNSUPPORTED);
    assert_non_null(strstr(why.text, "power of two"));
    assert_int_equal(dip_shard_check(&published, 0, NULL), DIP_UNSUPPORTED);
    struct dip_ar_config odd = published; /* MLP channels of 4 x odd: 4 chunks */
    odd.intermediate = 6140;
    assert_int_equal(dip_shard_check(&odd, 4, NULL), DIP_OK);
    assert_int_equal(dip_shard_check(&odd, 8, NULL), DIP_UNSUPPORTED);
    odd.kv_heads = 1;
    assert_int_equal(dip_shard_check(&odd, 2, NULL), DIP_UNSUPPORTED);
}

/* Everything but the table and the norms is divided. */
static void test_bytes(void **state)
{
    (void)state;
    struct dip_ar_config untied = published;
    untied.is_tied = false;
    struct dip_shard whole = dip_shard_of(&untied, 0, 1);
    size_t all = dip_shard_weights_bytes(&untied, &whole, 2);
    /* 2 tables, 28 layers of q, o: 2048 x 2048; k, v: 2048 x 1024; MLP: 3 x 2048 x 6144. */
    size_t layer = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128;
    assert_int_equal(all, 2 * ((size_t)2 * 217205 * 2048 + 28 * layer + 2048));
    size_t sum = 0;
    for (int r = 0; r < 4; r++) {
        struct dip_shard s = dip_shard_of(&untied, r, 4);
        sum += dip_shard_weights_bytes(&untied, &s, 2);
    }
    size_t everywhere = 2 * ((size_t)217205 * 2048 + 28 * (2 * 2048 + 2 * 128) + 2048);
    assert_int_equal(sum, all + 3 * everywhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cover),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
