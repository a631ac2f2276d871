/* tests/unit/cost.c - the counts of model/cost.h are those of the published model's tables, and of
 * the weights at hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/cost.h"
#include "model/model.h"

static void assert_near(double found, double expected, double share)
{
    if (!(fabs(found - expected) <= share * expected))
        print_error("%g, expected %g within %g\n", found, expected, share);
    assert_true(fabs(found - expected) <= share * expected);
}

/* Qwen3-1.7B with the image vocabulary: 1409.4 M parameters in layers, 114,688 bytes of keys and
 * values a token. SANA-1.5 1.6B at 1024 px, 30 guided steps: 157.9 TFLOP; DC-AE: 8.38 TFLOP. */
static void the_published_model_costs_what_its_tables_say(void **state)
{
    (void)state;
    struct dip_config c;
    assert_int_equal(dip_config_shape("full", NULL, &c), DIP_OK);
    struct dip_cost alone = dip_cost_ar(&c.ar, 1, 1, 0, 0);
    assert_near(alone.bytes, 2 * 1409.4e6, 0.002);
    assert_near(dip_cost_kv_bytes(&c.ar, 1, 1), 114688, 0);
    struct dip_cost step = dip_cost_dit_step(&c, 730);
    struct dip_cost context = dip_cost_context(&c, 730);
    assert_near(30 * step.flops + context.flops, 157.9e12, 0.01);
    assert_near(dip_cost_vae(&c).flops, 8.38e12, 0.05);
}

/* What no rank shares is the same; what is cut is cut evenly. */
static void ranks_share_the_work(void **state)
{
    (void)state;
    struct dip_config c;
    assert_int_equal(dip_config_shape("full", NULL, &c), DIP_OK);
    struct dip_cost one = dip_cost_ar(&c.ar, 1, 4, 4, 500), two = dip_cost_ar(&c.ar, 2, 4, 4, 500);
    assert_near(2 * two.bytes, one.bytes, 1e-9);
    assert_near(2 * two.flops, one.flops, 1e-9);
    assert_near(dip_cost_ar(&c.ar, 1, 8, 8, 500).flops, 2 * one.flops, 1e-9);
}

/* Of a model at hand: within a few percent of its files, which also hold norms and biases. */
static void weights_are_those_of_the_files(void **state)
{
    (void)state;
    struct dip_config c;
    struct dip_model *model = NULL;
    double ar = 0;
    assert_int_equal(dip_config_load("models/demo", NULL, &c), DIP_OK);
    assert_int_equal(dip_model_open("models/demo", NULL, &model), DIP_OK);
    for (size_t i = 0; i < dip_weights_count(model->weights); i++) {
        const struct dip_weight *weight = dip_weights_at(model->weights, i);
        double count = 1;
        for (int d = 0; d < weight->rank; d++)
            count *= (double)weight->dims[d];
        if (weight->name[0] == 'm' && weight->name[6] == 'l') /* model.layers. */
            ar += 2 * count;
    }
    assert_true(ar > 0);
    assert_near(dip_cost_ar(&c.ar, 1, 1, 0, 0).bytes, ar, 0.03);
    dip_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_model_costs_what_its_tables_say),
        cmocka_unit_test(ranks_share_the_work),
        cmocka_unit_test(weights_are_those_of_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
