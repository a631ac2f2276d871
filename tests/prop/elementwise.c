/* tests/prop/elementwise.c - norms, modulation, activations, blends, embedding, copies, checks. */
#include "tests/prop/prop.h"

static struct dip_stream *any_stream(void)
{
    return prop_streams[prop_int(0, PROP_THREADS_COUNT - 1)];
}

static int64_t random_rows(void)
{
    return PROP_PICK(1, 1, 2, 3, 7, 16, 17, 65);
}

static int64_t random_columns(void)
{
    return PROP_PICK(1, 3, 7, 8, 9, 31, 32, 33, 64, 100, 1000, 2240);
}

/* ---- activations ---- */

/* Over the whole range where they are not trivially 0 or x, and at the edges of float. The fast
 * ones are within a few roundings of x: silu and gelu are below |x|, and their exponential carries
 * 2 roundings plus the rounding of its argument (gelu: 3 of at most 100, only where the result is
 * below 1e-30 x). */
static void check_activation(enum dip_act act, double factor)
{
    enum { COUNT = 20011 };
    struct dip_tensor in = prop_view(DIP_F32, 1, COUNT, 0);
    struct dip_tensor fast = prop_view(DIP_F32, 1, COUNT, 0);
    struct dip_tensor plain = prop_view(DIP_F32, 1, COUNT, 0);
    for (int64_t i = 0; i < COUNT; i++)
        *prop_at(in, 0, i) = (float)(i - COUNT / 2) * (i % 2 ? 1e-3f : 1e-2f);
    static const float edges[] = {0.0f, -0.0f, 88.4f, -88.4f, 1e4f, -1e4f, 1e-30f, -1e-30f};
    memcpy(in.data, edges, sizeof edges);
    prop_ok(dip_activate(prop_streams[0],
                         &(struct dip_activate_args){.out = fast, .in = in, .act = act}));
    prop_ok(
        dip_activate(prop_plain, &(struct dip_activate_args){.out = plain, .in = in, .act = act}));
    for (int64_t i = 0; i < COUNT; i++) {
        double x = *prop_at(in, 0, i);
        double a = *prop_at(fast, 0, i);
        double b = *prop_at(plain, 0, i);
        if (!(fabs(a - b) <= factor * 0x1p-24 * fabs(b) + 1e-30 * fabs(x)))
            fail_msg("act %d at %.9g: %.9g against %.9g", (int)act, x, a, b);
    }
    prop_reset();
}

static void test_activate(void **state)
{
    (void)state;
    check_activation(DIP_ACT_NONE, 0);
    check_activation(DIP_ACT_RELU, 0);
    check_activation(DIP_ACT_SILU, 6);
    check_activation(DIP_ACT_GELU_TANH, 300);
}

/* A value's result does not depend on the lane or the row it stands in, and NaN is not lost. */
static void test_activate_lanes(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        enum dip_act act = (enum dip_act)PROP_PICK(DIP_ACT_SILU, DIP_ACT_GELU_TANH, DIP_ACT_RELU);
        float value = i == 0 ? NAN : 8.0f * prop_float();
        int64_t columns = random_columns();
        struct dip_tensor in = prop_random(DIP_F32, 2, columns, 1);
        struct dip_tensor out = prop_view(DIP_F32, 2, columns, 0);
        struct dip_tensor one = dip_tensor_1d(&value, DIP_F32, 1);
        struct dip_tensor alone = prop_view(DIP_F32, 1, 1, 0);
        int64_t at = prop_int(0, columns - 1);
        *prop_at(in, 1, at) = value;
        prop_ok(dip_activate(any_stream(),
                             &(struct dip_activate_args){.out = out, .in = in, .act = act}));
        prop_ok(dip_activate(prop_streams[0],
                             &(struct dip_activate_args){.out = alone, .in = one, .act = act}));
        prop_same_bits(alone, dip_columns_slice(dip_rows_slice(out, 1, 1), at, 1));
        assert_int_equal(isnan(value) != 0, isnan(*prop_at(alone, 0, 0)) != 0);
        prop_reset();
    }
}

static void test_silu_mul(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        int64_t rows = random_rows(), columns = random_columns();
        struct dip_tensor wide = prop_random(DIP_F32, rows, 2 * columns, 1);
        struct dip_tensor gate = dip_columns_slice(wide, 0, columns);
        struct dip_tensor up = dip_columns_slice(wide, columns, columns);
        struct dip_tensor fast = prop_view(DIP_F32, rows, columns, 0);
        struct dip_tensor plain = prop_view(DIP_F32, rows, columns, 0);
        struct dip_silu_mul_args a = {.out = fast, .gate = gate, .up = up};
        prop_ok(dip_silu_mul(any_stream(), &a));
        a.out = plain;
        prop_ok(dip_silu_mul(prop_plain, &a));
        prop_near_all(fast, plain, 8 * 0x1p-24);
        a.out = gate; /* in place */
        prop_ok(dip_silu_mul(any_stream(), &a));
        prop_same_bits(gate, fast);
        prop_reset();
    }
}

/* ---- norms ---- */

/* Unit variance data: results below 4 |weight|; squares in chains of columns / 32 roundings. */
static void test_norm_rms(void **state)
{
    (void)state;
    for (int i = 0; i < 120; i++) {
        int64_t rows = random_rows(), group = random_columns(), groups = PROP_PICK(1, 1, 3, 8);
        struct dip_tensor in = prop_random(DIP_F32, rows, group * groups, prop_int(0, 3));
        struct dip_tensor weight = prop_random_1d(prop_dtype(), group);
        struct dip_tensor bias = prop_random_1d(prop_dtype(), group);
        struct dip_norm_rms_args a = {
            .in = in,
            .weight = weight,
            .bias = prop_int(0, 1) ? &bias : NULL,
            .group = groups == 1 ? 0 : (int)group,
            .eps = 1e-5f,
            .act = prop_int(0, 1) ? DIP_ACT_RELU : DIP_ACT_NONE,
            .is_added = prop_int(0, 1),
        };
        struct dip_tensor start = prop_random(DIP_F32, rows, group * groups, 1);
        struct dip_tensor fast = a.out = prop_clone(start);
        prop_ok(dip_norm_rms(any_stream(), &a));
        struct dip_tensor plain = a.out = prop_clone(start);
        prop_ok(dip_norm_rms(prop_plain, &a));
        double largest = sqrt((double)group) + 2.0; /* one channel may hold all of the energy */
        prop_near_all(fast, plain, 0x1p-24 * largest * ((double)group / 64.0 + 8.0));
        int64_t row = prop_int(0, rows - 1);
        a.in = prop_clone(dip_rows_slice(in, row, 1));
        a.out = prop_clone(dip_rows_slice(start, row, 1));
        prop_ok(dip_norm_rms(prop_streams[0], &a));
        prop_same_bits(a.out, dip_rows_slice(fast, row, 1));
        prop_reset();
    }
}

static void test_norm_layer(void **state)
{
    (void)state;
    for (int i = 0; i < 80; i++) {
        int64_t per_item = prop_int(1, 20), items = prop_int(1, 4);
        int64_t rows = per_item * items, columns = PROP_PICK(8, 9, 31, 64, 100, 1000, 2240);
        struct dip_tensor in = prop_random(DIP_F32, rows, columns, prop_int(0, 3));
        struct dip_tensor table = prop_random(DIP_F32, items, 6 * columns, 0);
        struct dip_norm_layer_args a = {.in = in,
                                        .scale = dip_columns_slice(table, columns, columns),
                                        .shift = dip_columns_slice(table, 0, columns),
                                        .rows_per_item = per_item,
                                        .eps = 1e-6f};
        struct dip_tensor fast = a.out = prop_view(DIP_F32, rows, columns, 0);
        prop_ok(dip_norm_layer(any_stream(), &a));
        struct dip_tensor plain = a.out = prop_view(DIP_F32, rows, columns, 0);
        prop_ok(dip_norm_layer(prop_plain, &a));
        prop_near_all(fast, plain,
                      0x1p-24 * 2.0 * sqrt((double)columns) * ((double)columns / 32.0 + 12.0));
        int64_t row = prop_int(0, rows - 1);
        a.in = prop_clone(dip_rows_slice(in, row, 1));
        a.scale = dip_rows_slice(a.scale, row / per_item, 1);
        a.shift = dip_rows_slice(a.shift, row / per_item, 1);
        a.out = a.in; /* in place */
        prop_ok(dip_norm_layer(prop_streams[0], &a));
        prop_same_bits(a.out, dip_rows_slice(fast, row, 1));
        prop_reset();
    }
}

/* ---- sums with prescribed rounding: both families, the same bits ---- */

static void test_add(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        int64_t per_item = prop_int(1, 9), items = prop_int(1, 4);
        int64_t rows = per_item * items, columns = random_columns();
        bool is_broadcast = prop_int(0, 1);
        struct dip_tensor gate = prop_random(DIP_F32, items, columns, prop_int(0, 3));
        struct dip_tensor x = prop_random(DIP_F32, is_broadcast ? items : rows, columns, 1);
        struct dip_tensor start = prop_random(DIP_F32, rows, columns, 2);
        struct dip_add_args a = {.sum = prop_clone(start),
                                 .x = x,
                                 .gate = prop_int(0, 1) ? &gate : NULL,
                                 .rows_per_item = per_item,
                                 .is_broadcast = is_broadcast};
        prop_ok(dip_add(any_stream(), &a));
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < columns; c++) {
                float y = *prop_at(x, is_broadcast ? r / per_item : r, c);
                if (a.gate)
                    y *= *prop_at(gate, r / per_item, c);
                assert_true(*prop_at(a.sum, r, c) == *prop_at(start, r, c) + y);
            }
        }
        prop_reset();
    }
}

static void test_blend(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        int items = (int)prop_int(1, 4);
        int64_t each = random_columns();
        float coefficients[DIP_BLEND_MAX * 4];
        struct dip_blend_args a = {.coefficients = coefficients,
                                   .count = (int)prop_int(1, DIP_BLEND_MAX),
                                   .items = items == 1 ? 0 : items};
        for (int c = 0; c < a.count; c++)
            a.in[c] = prop_random_1d(DIP_F32, each * items);
        for (int c = 0; c < a.count * items; c++)
            coefficients[c] = 3.0f * prop_float();
        a.out = prop_view(DIP_F32, 1, each * items, 0);
        prop_ok(dip_blend(any_stream(), &a));
        for (int64_t e = 0; e < each * items; e++) {
            volatile float sum = coefficients[e / each] * *prop_at(a.in[0], 0, e);
            for (int c = 1; c < a.count; c++) {
                volatile float product =
                    coefficients[c * items + e / each] * *prop_at(a.in[c], 0, e);
                sum = sum + product;
            }
            assert_true(sum == *prop_at(a.out, 0, e));
        }
        struct dip_tensor out = a.out;
        a.out = a.in[a.count - 1]; /* in place */
        prop_ok(dip_blend(any_stream(), &a));
        prop_same_bits(dip_rows(a.out.data, DIP_F32, 1, each * items), out);
        prop_reset();
    }
}

static void test_guide(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        int64_t count = prop_int(1, 70000);
        struct dip_tensor cond = prop_random_1d(DIP_F32, count);
        struct dip_tensor uncond = prop_random_1d(DIP_F32, count);
        struct dip_tensor out = prop_random_1d(DIP_F32, count);
        struct dip_guide_args a = {.out = out, .uncond = uncond, .cond = cond, .scale = 2.5f};
        prop_ok(dip_guide(any_stream(), &a));
        for (int64_t e = 0; e < count; e++) {
            volatile float step = *prop_at(cond, 0, e) - *prop_at(uncond, 0, e);
            step = 2.5f * step;
            assert_true(*prop_at(out, 0, e) == *prop_at(uncond, 0, e) + step);
        }
        prop_reset();
    }
}

/* ---- the rest ---- */

static void test_embed(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        enum dip_dtype dtype = prop_dtype();
        int64_t vocab = prop_int(1, 50), columns = random_columns(), rows = random_rows();
        struct dip_tensor table = prop_random(dtype, vocab, columns, 0);
        struct dip_tensor ids = prop_view(DIP_I32, 1, rows, 0);
        for (int64_t r = 0; r < rows; r++)
            ((int32_t *)ids.data)[r] = (int32_t)prop_int(0, vocab - 1);
        struct dip_tensor out = prop_view(DIP_F32, rows, columns, 2);
        prop_ok(dip_embed(any_stream(),
                          &(struct dip_embed_args){.out = out, .table = table, .ids = ids}));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++)
                assert_true(*prop_at(out, r, c) ==
                            dip_f32_at(dtype, table.data,
                                       (size_t)(((int32_t *)ids.data)[r] * columns + c)));
        prop_reset();
    }
}

static void test_copy_and_fill(void **state)
{
    (void)state;
    for (int i = 0; i < 60; i++) {
        int64_t rows = random_rows(), columns = random_columns();
        struct dip_tensor from = prop_random(DIP_F32, rows, columns, prop_int(0, 3));
        struct dip_tensor to = prop_view(DIP_F32, rows, columns, prop_int(0, 3));
        struct dip_tensor flat = prop_view(DIP_F32, 1, rows * columns, 0);
        prop_ok(dip_copy(prop_streams[0], to, from));
        prop_same_bits(to, from);
        prop_ok(dip_copy(prop_streams[0], flat, from));
        prop_same_bits(dip_rows(flat.data, DIP_F32, rows, columns), from);
        prop_ok(dip_fill(prop_streams[0], to, 2.5f));
        prop_ok(dip_wait(prop_streams[0]));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++)
                assert_true(*prop_at(to, r, c) == 2.5f);
        prop_reset();
    }
}

static void test_finite(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        enum dip_dtype dtype = prop_dtype();
        int64_t rows = prop_int(1, 200), columns = PROP_PICK(1, 7, 8, 33, 1000);
        struct dip_tensor t = prop_random(dtype, rows, columns, prop_int(0, 3));
        bool is_finite = false;
        struct dip_stream *s = i % 3 ? any_stream() : prop_plain;
        prop_ok(dip_check_finite(s, t, &is_finite));
        assert_true(is_finite);
        size_t at = (size_t)(prop_int(0, rows - 1) * t.row_stride + prop_int(0, columns - 1));
        bool is_nan = prop_int(0, 1);
        if (dtype == DIP_F32)
            ((float *)t.data)[at] = is_nan ? NAN : -INFINITY;
        else if (dtype == DIP_BF16)
            ((uint16_t *)t.data)[at] = is_nan ? 0x7fc0 : 0xff80;
        else
            ((uint16_t *)t.data)[at] = is_nan ? 0x7e00 : 0xfc00;
        prop_ok(dip_check_finite(s, t, &is_finite));
        assert_false(is_finite);
        prop_reset();
    }
}

/* Values printed by the reference (model contract, section 5.3), to the digits given. */
static void test_sinusoid(void **state)
{
    (void)state;
    static const struct {
        int column;
        double value[3];
    } cases[] = {{0, {0.5623791, 0.5866249, -0.3397142}},
                 {1, {0.7896267, 0.4911224, 0.9222804}},
                 {127, {0.9942316, 0.9946095, 0.9999936}},
                 {128, {0.8268796, -0.8098587, 0.9405287}},
                 {255, {0.1072541, 0.1036920, 0.0035820}}};
    const float t[3] = {1000.0f, 966.666626f, 33.3333359f};
    struct dip_tensor out = prop_view(DIP_F32, 3, 256, 4);
    prop_ok(dip_sinusoid(prop_streams[1], &(struct dip_sinusoid_args){.out = out, .t = t}));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int r = 0; r < 3; r++)
            assert_true(fabs(*prop_at(out, r, cases[i].column) - cases[i].value[r]) < 1e-7);
    prop_reset();
}

static void test_device(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = {.backend = "tpu"};
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_UNSUPPORTED);
    assert_string_equal(why.text, "there is no backend \"tpu\"; use auto, cpu or cuda");
    assert_null(device);
    assert_string_equal(dip_device_backend(prop_devices[0]), "cpu");
    assert_string_equal(dip_device_class(prop_devices[PROP_THREADS_COUNT]), "cpu-plain");
    assert_int_equal(dip_device_threads(prop_devices[1]), 2);
    assert_ptr_equal(dip_stream_device(prop_streams[1]), prop_devices[1]);
    struct dip_mem mem = {0};
    prop_ok(dip_reserve(prop_devices[0], 1000, &mem));
    assert_int_equal((uintptr_t)mem.base % 64, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(((char *)mem.base)[i], 0);
    dip_release(prop_devices[0], &mem);
    assert_null(mem.base);
    dip_release(prop_devices[0], &mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activate),   cmocka_unit_test(test_activate_lanes),
        cmocka_unit_test(test_silu_mul),   cmocka_unit_test(test_norm_rms),
        cmocka_unit_test(test_norm_layer), cmocka_unit_test(test_add),
        cmocka_unit_test(test_blend),      cmocka_unit_test(test_guide),
        cmocka_unit_test(test_embed),      cmocka_unit_test(test_copy_and_fill),
        cmocka_unit_test(test_finite),     cmocka_unit_test(test_sinusoid),
        cmocka_unit_test(test_device),
    };
    return cmocka_run_group_tests(tests, prop_start, prop_stop);
}
