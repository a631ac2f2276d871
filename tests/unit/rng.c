/* tests/unit/rng.c - Philox against its published answers, normals against the C library and
 * against their own law. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/rng.h"

/* The known-answer vectors that come with Random123 (kat_vectors, philox4x32 with 10 rounds):
 * counter, key, result. Our counter is (position, image, purpose), our key the seed. */
static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t position;
        uint32_t image;
        uint32_t purpose;
        uint64_t seed;
        uint32_t expected[4];
    } cases[] = {
        {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         UINT32_MAX,
         UINT32_MAX,
         UINT64_MAX,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x85a308d3243f6a88,
         0x13198a2e,
         0x03707344,
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct dip_rng_key key = {cases[i].seed, cases[i].image,
                                  (enum dip_rng_purpose)cases[i].purpose};
        uint32_t words[4];
        dip_rng_words(&key, cases[i].position, words);
        assert_memory_equal(words, cases[i].expected, sizeof words);
    }
}

static void uniforms_are_the_top_bits(void **state)
{
    (void)state;
    struct dip_rng_key key = {7, 3, DIP_RNG_TOKEN};
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        uint32_t words[4];
        dip_rng_words(&key, i, words);
        float u = dip_rng_uniform(&key, i);
        assert_true(u >= 0 && u < 1);
        assert_true((double)u * 16777216 == (double)(words[0] >> 8));
        sum += u;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.005); /* 5 standard errors */
}

/* The C library in double as the second opinion: any difference beyond the last bit of an f32 would
 * mean that our series are worse than they claim. */
static void normals_agree_with_the_library(void **state)
{
    (void)state;
    enum { COUNT = 40000 };
    static float normals[COUNT];
    struct dip_rng_key key = {UINT64_C(1) << 40, 1, DIP_RNG_NOISE};
    double error_max = 0;
    int exact = 0;
    dip_rng_normals(&key, normals, COUNT);
    for (int i = 0; i < COUNT; i += 2) {
        uint32_t words[4];
        dip_rng_words(&key, (uint64_t)i / 4, words);
        const uint32_t *pair = words + (i % 4);
        double radius = sqrt(-2 * log(((double)pair[0] + 0.5) / 4294967296.0));
        double angle = 2 * 3.14159265358979323846 * (double)pair[1] / 4294967296.0;
        double expected[2] = {radius * cos(angle), radius * sin(angle)};
        for (int j = 0; j < 2; j++) {
            double error = fabs((double)normals[i + j] - expected[j]);
            double scale = fabs(expected[j]) > 1e-6 ? fabs(expected[j]) : 1e-6;
            error_max = error / scale > error_max ? error / scale : error_max;
            exact += normals[i + j] == (float)expected[j];
        }
    }
    assert_true(error_max < 0x1p-23);
    assert_true(exact >= COUNT - 2); /* a tie of the rounding may fall either way */
}

/* The extremes of both words: no infinity, no NaN, radius at most sqrt(2 * 33 ln 2). */
static void normals_are_bounded(void **state)
{
    (void)state;
    enum { COUNT = 1 << 20 };
    float *normals = malloc(COUNT * sizeof *normals);
    assert_non_null(normals);
    struct dip_rng_key key = {42, 0, DIP_RNG_NOISE};
    dip_rng_normals(&key, normals, COUNT);
    double sum = 0;
    double square = 0;
    double fourth = 0;
    for (int i = 0; i < COUNT; i++) {
        double x = (double)normals[i];
        assert_true(fabs(x) < 6.77);
        sum += x;
        square += x * x;
        fourth += x * x * x * x;
    }
    /* Standard errors of mean, variance and kurtosis are 1, 1.4 and 9.8 thousandths of 1/1024 ...
     */
    assert_true(fabs(sum / COUNT) < 0.005);
    assert_true(fabs(square / COUNT - 1) < 0.007);
    assert_true(fabs(fourth / COUNT - 3) < 0.05);
    free(normals);
}

static void element_depends_on_key_and_index_only(void **state)
{
    (void)state;
    enum { COUNT = 1001 };
    static float whole[COUNT];
    static float part[COUNT];
    struct dip_rng_key key = {9, 2, DIP_RNG_NOISE};
    dip_rng_normals(&key, whole, COUNT);
    for (size_t count = 0; count <= 9; count++) {
        memset(part, 0, sizeof part);
        dip_rng_normals(&key, part, count);
        assert_memory_equal(part, whole, count * sizeof part[0]);
        assert_true(part[count] == 0); /* nothing is written past the end */
    }
    struct dip_rng_key others[] = {
        {8, 2, DIP_RNG_NOISE}, {9, 3, DIP_RNG_NOISE}, {9, 2, DIP_RNG_TEST}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        dip_rng_normals(&others[i], part, COUNT);
        int equal = 0;
        for (int j = 0; j < COUNT; j++)
            equal += part[j] == whole[j];
        assert_true(equal < 3);
    }
}

/* The bits that every machine must give: a change here changes every image ever promised. */
static void normals_are_pinned(void **state)
{
    (void)state;
    static const uint32_t expected[6] = {0x3f12cb54, 0x3fb0b44c, 0x3f90ddf9,
                                         0x3f0fedb4, 0x3f348f67, 0xbf9a7687};
    struct dip_rng_key key = {42, 0, DIP_RNG_NOISE};
    float normals[6];
    dip_rng_normals(&key, normals, 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(dip_f32_bits(normals[i]), expected[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(uniforms_are_the_top_bits),
        cmocka_unit_test(normals_agree_with_the_library),
        cmocka_unit_test(normals_are_bounded),
        cmocka_unit_test(element_depends_on_key_and_index_only),
        cmocka_unit_test(normals_are_pinned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
