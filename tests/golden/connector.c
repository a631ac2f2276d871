/* tests/golden/connector.c - the connector fed the reference's own hidden states, and zeros. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"

static const double LIMIT = 1e-6; /* derivation: tests/golden/tiny-a/golden.md */

static struct dip_tensor connect(struct golden *g, struct dip_tensor hidden)
{
    const struct dip_connector *connector = g->model->connector;
    int64_t rows = dip_tensor_rows(hidden);
    struct dip_tensor condition = golden_rows(g, rows, g->model->config.dit.caption_channels);
    struct dip_arena scratch = golden_scratch(g, dip_connector_scratch_bytes(connector, rows));
    golden_ok(dip_connector_forward(connector, g->s, condition, hidden, &scratch), "connector");
    return condition;
}

static void check(struct golden *g, const char *key, struct dip_tensor condition)
{
    float *got = golden_read(g, condition);
    assert_int_equal(dip_tensor_rows(condition), golden_dim(g, key, 0));
    golden_close(g, key, got, golden_f32(g, key), (size_t)dip_tensor_count(condition), LIMIT);
    free(got);
}

static void conditions(void **state)
{
    struct golden *g = *state;
    check(g, "greedy/condition", connect(g, golden_load(g, "greedy/hidden")));
    check(g, "forced/condition", connect(g, golden_load(g, "forced/hidden")));
}

/* The unconditional context is the connector of zeros: not zero, all rows equal. */
static void the_unconditional_context(void **state)
{
    struct golden *g = *state;
    struct dip_tensor zeros = golden_load(g, "forced/hidden");
    golden_ok(dip_fill(g->s, zeros, 0.0f), "fill");
    check(g, "forced/condition_uncond", connect(g, zeros));
}

static void neighbours_do_not_change_a_row(void **state)
{
    struct golden *g = *state;
    struct dip_tensor hidden = golden_load(g, "forced/hidden");
    float *all = golden_read(g, connect(g, hidden));
    int64_t columns = g->model->config.dit.caption_channels;
    for (int64_t r = 0; r < dip_tensor_rows(hidden); r++) {
        float *one = golden_read(g, connect(g, dip_rows_slice(hidden, r, 1)));
        assert_memory_equal(one, all + r * columns, (size_t)columns * sizeof *one);
        free(one);
    }
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        GOLDEN_TESTS(conditions),
        GOLDEN_TESTS(the_unconditional_context),
        GOLDEN_TESTS(neighbours_do_not_change_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
