/* tests/unit/dtype.c - conversions, over all 16-bit values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"

/* From the definition of binary16, in another way than the code under test. */
static double f16_by_definition(uint16_t bits)
{
    int exponent = bits >> 10 & 31;
    double fraction = bits & 0x3ff;
    double magnitude = exponent == 0    ? ldexp(fraction, -24)
                       : exponent == 31 ? (fraction > 0 ? NAN : INFINITY)
                                        : ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static void f16_is_exact(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        double expected = f16_by_definition((uint16_t)bits);
        float got = dip_f32_from_f16((uint16_t)bits);
        if (isnan(expected))
            assert_true(isnan(got));
        else
            assert_true((double)got == expected && !signbit(got) == !signbit(expected));
    }
}

static void bf16_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        float wide = dip_f32_from_bf16((uint16_t)bits);
        uint16_t back = dip_bf16_from_f32(wide);
        if (isnan(wide))
            assert_true(isnan(dip_f32_from_bf16(back)));
        else
            assert_int_equal(back, bits);
    }
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits;
        uint16_t expected;
    } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, /* below half */
        {0x3f808000, 0x3f80},                       /* tie: even stays */
        {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82}, /* tie: odd goes up */
        {0xbf818000, 0xbf82}, {0x7f7fffff, 0x7f80}, /* largest float becomes infinity */
        {0x00000001, 0x0000}, {0x00008001, 0x0001},
        {0x7f800000, 0x7f80}, {0x7f800001, 0x7fc0}, /* a NaN with only low bits stays a NaN */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(dip_bf16_from_f32(dip_f32_from_bits(cases[i].bits)), cases[i].expected);
}

static void elements_are_read_by_dtype(void **state)
{
    (void)state;
    const float wide[] = {0, -1.5f};
    const uint16_t brain[] = {0, 0xbfc0};
    const uint16_t half[] = {0, 0xbe00};
    assert_true(dip_f32_at(DIP_F32, wide, 1) == -1.5f);
    assert_true(dip_f32_at(DIP_BF16, brain, 1) == -1.5f);
    assert_true(dip_f32_at(DIP_F16, half, 1) == -1.5f);
    assert_int_equal(dip_dtype_bytes(DIP_BF16), 2);
    assert_int_equal(dip_dtype_bytes(DIP_U8), 1);
    assert_string_equal(dip_dtype_name(DIP_I32), "I32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_is_exact),
        cmocka_unit_test(bf16_round_trip),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(elements_are_read_by_dtype),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
