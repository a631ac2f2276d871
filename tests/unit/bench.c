/* tests/unit/bench.c - the benchmark's counts against the published table, and its rows on a tiny
 * model. */
#include <math.h>

#include "engine/bench_private.h"
#include "ops/bench.h"
#include "tests/engine_fixture.h"

/* A model of published sizes without any weight: the counts come from the sizes alone. */
static void costs_are_those_of_the_table(void **state)
{
    (void)state;
    struct dip_model model = {0};
    assert_int_equal(dip_config_shape("full", NULL, &model.config), DIP_OK);
    assert_int_equal(dip_weights_random(1, &model.weights), DIP_OK);
    /* model.md 7.3: 8.37 TFLOP at 1024 x 1024 pixels. */
    assert_true(fabs(dip__cost_vae(&model, 32, 32).flops - 8.37e12) < 0.02e12);
    assert_true(fabs(dip__cost_vae(&model, 16, 16).flops - 8.37e12 / 4) < 0.02e12);
    /* 5.7: 2.92 and 2.37 TFLOP a branch, less the 41.4 GFLOP of the first block's shared part. */
    double step = dip__cost_dit_step(&model, 1, 32, 32, 730).flops;
    assert_true(fabs(step - (2.92e12 + 2.37e12 - 0.041e12)) < 0.02e12);
    assert_true(fabs(dip__cost_dit_step(&model, 4, 32, 32, 730).flops - 4 * step) < 1e9);
    /* 20 blocks' keys and values and the caption's two products, plus the connector. */
    double connector = 2.0 * 730 * 2304 * (2048 + 2304);
    assert_true(fabs(dip__cost_context(&model, 730).flops - connector - 0.309e12) < 0.005e12);
    dip_weights_close(model.weights);
}

static void ar_costs_count_the_weights(void **state)
{
    (void)state;
    struct fixture f;
    fixture_open(&f, "tiny-a", 1);
    const struct dip_ar_config *c = &f.config->ar;
    double q = (double)c->heads * c->head_dim;
    double kv = (double)c->kv_heads * c->head_dim;
    double layer =
        c->hidden * (2 * q + 2 * kv + 3.0 * c->intermediate) + 2.0 * c->hidden + 2.0 * c->head_dim;
    double head = (double)c->vocab * c->hidden;
    struct dip__cost one = dip__cost_ar(f.model, 1, 1, 0, 4);
    assert_true(one.flops == 2 * (c->layers * layer + head));
    assert_true(one.bytes == 2 * (c->layers * layer + head)); /* two bytes a weight */
    struct dip__cost prefill = dip__cost_ar(f.model, 10, 0, 0, 4);
    assert_true(prefill.flops == 20 * c->layers * layer);
    struct dip__cost cached = dip__cost_ar(f.model, 1, 0, 100, 4);
    assert_true(cached.bytes - 2 * c->layers * layer == 100.0 * c->layers * 2 * kv * 4);
    fixture_close(&f);
}

struct seen {
    int machines;
    int rows;
};

static const char *const expected[] = {
    "ar.prefill",    "ar.decode.b1",  "ar.tokens.b1", "ar.decode.b4",  "ar.tokens.b4",
    "ar.decode.b16", "ar.tokens.b16", "ar.sample",    "dit.gemm",      "dit.depthwise",
    "dit.norm",      "dit.step.b1",   "dit.step.b4",  "vae.conv",      "vae.decode",
    "png.encode",    "e2e.model",     "e2e.ar",       "e2e.diffusion", "e2e.decode",
};
enum { EXPECTED = sizeof expected / sizeof *expected };

static void see_machine(void *context, const struct dip_bench_limits *machine)
{
    struct seen *seen = context;
    assert_int_equal(seen->rows, 0);
    assert_int_equal(machine->threads, 2);
    assert_true(machine->read_bytes_s > 1e8 && machine->read_bytes_s < 1e13);
    assert_true(machine->copy_bytes_s > 1e8 && machine->copy_bytes_s < 1e13);
    assert_true(machine->fma_flops_s > 1e8 && machine->fma_flops_s < 1e14);
    seen->machines++;
}

static void see_row(void *context, const struct dip_bench_row *row)
{
    struct seen *seen = context;
    assert_true(seen->rows < EXPECTED);
    assert_string_equal(row->name, expected[seen->rows++]);
    assert_true(isfinite(row->value) && row->value > 0);
    assert_true(isfinite(row->bound) && row->bound > 0);
    bool is_time = strcmp(row->unit, "ms") == 0;
    double share = is_time ? row->bound / row->value : row->value / row->bound;
    assert_true(fabs(row->share / share - 1) < 1e-9);
    assert_true(is_time ? row->median >= row->value : row->median <= row->value);
    assert_true(row->repeats >= 0 && strlen(row->note) > 0);
}

static void every_row_comes_once_in_order(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct dip_why why = {0};
    struct dip_bench_options options = {.parts = DIP_BENCH_AR | DIP_BENCH_DIFFUSION |
                                                 DIP_BENCH_DECODE | DIP_BENCH_E2E,
                                        .directory = "tests/golden/tiny-a/model/",
                                        .device = {.backend = "cpu", .threads = 2},
                                        .row_ns = 1000000,
                                        .on_machine = see_machine,
                                        .on_row = see_row,
                                        .context = &seen};
    if (dip_bench_run(&options, &why))
        fail_msg("%s", why.text);
    assert_int_equal(seen.machines, 1);
    assert_int_equal(seen.rows, EXPECTED);
}

/* ---- a device with memory of its own ---- */

static const char *const expected_on_gpu[] = {"dit.gemm",    "dit.depthwise", "dit.norm",
                                              "dit.step.b1", "dit.step.b4",   "vae.conv",
                                              "vae.conv.up", "vae.decode",    "png.encode"};
enum { EXPECTED_ON_GPU = sizeof expected_on_gpu / sizeof *expected_on_gpu };

static void see_gpu(void *context, const struct dip_bench_limits *machine)
{
    struct seen *seen = context;
    assert_string_equal(machine->backend, "cuda");
    assert_string_equal(machine->device_class, "cuda-sm90-bf16-cudnn90000");
    assert_true(machine->read_bytes_s > 0 && machine->fma_flops_s > 0 && machine->launch_s > 0);
    seen->machines++;
}

static void see_gpu_row(void *context, const struct dip_bench_row *row)
{
    struct seen *seen = context;
    assert_true(seen->rows < EXPECTED_ON_GPU);
    assert_string_equal(row->name, expected_on_gpu[seen->rows++]);
    assert_true(isfinite(row->value) && row->value > 0);
    assert_true(isfinite(row->share) && row->share > 0);
}

/* Nothing that a benchmark hands to the device is the host's, and convolutions go by plans. */
static void rows_come_from_an_emulated_gpu(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct dip_why why = {0};
    struct dip_bench_options options = {
        .parts = DIP_BENCH_DIFFUSION | DIP_BENCH_DECODE,
        .directory = "tests/golden/tiny-b/model/",
        .device = {.backend = "cuda", .plugin = DIP_EMULATED_PLUGIN, .cudnn = DIP_PLAYED_CUDNN},
        .row_ns = 1000000,
        .product_edge = 64,
        .on_machine = see_gpu,
        .on_row = see_gpu_row,
        .context = &seen};
    if (dip_bench_run(&options, &why))
        fail_msg("%s", why.text);
    assert_int_equal(seen.machines, 1);
    assert_int_equal(seen.rows, EXPECTED_ON_GPU);
}

/* The operations of the first panel, whose rows above would take an emulator too long. */
static void first_panel_runs_on_an_emulated_gpu(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = {.backend = "cuda", .plugin = DIP_EMULATED_PLUGIN};
    struct dip_bench_result result = {0};
    if (dip_device_open(&options, &why, &device))
        fail_msg("%s", why.text);
    assert_int_equal(dip_bench_sample(device, 1, 3000, &result), DIP_OK);
    assert_true(result.seconds > 0 && result.bytes == 4.0 * 3000);
    struct dip_bench_attend shape = {
        .rows = 2, .keys = 20, .heads = 4, .kv_heads = 2, .head_dim = 32};
    assert_int_equal(dip_bench_attend(device, &shape, &result), DIP_OK);
    assert_true(result.seconds > 0 &&
                result.bytes == 2.0 * 2 * 2 * 20 * 2 * 32); /* k and v, bf16 */
    dip_device_close(device);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    const struct dip_bench_options bad[] = {
        {.parts = 0},
        {.parts = 16},
        {.parts = DIP_BENCH_AR, .directory = "a", .shape = "b"},
        {.parts = DIP_BENCH_AR, .latent_edge = -1},
        {.parts = DIP_BENCH_AR, .device = {.backend = "abacus"}},
        {.parts = DIP_BENCH_AR, .shape = "no such shape"},
        {.parts = DIP_BENCH_AR, .directory = "tests/golden/none"},
        {.parts = DIP_BENCH_E2E},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct dip_why why = {0};
        assert_int_not_equal(dip_bench_run(&bad[i], &why), DIP_OK);
        assert_true(strlen(why.text) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(costs_are_those_of_the_table),
        cmocka_unit_test(ar_costs_count_the_weights),
        cmocka_unit_test(every_row_comes_once_in_order),
        cmocka_unit_test(rows_come_from_an_emulated_gpu),
        cmocka_unit_test(first_panel_runs_on_an_emulated_gpu),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
