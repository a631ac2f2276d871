/* tests/unit/schedule.c - step counts at their bounds, the published levels, and steps whose result
 * is known without a reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sampler.h"

enum { COUNT = 5 };
static const struct dip_scheduler_config published = {
    .train_timesteps = 1000, .shift = 1.0, .flow_shift = 3.0};
static struct dip_schedule schedule; /* large: not for the stack */

static void init(enum dip_sampler sampler, int steps)
{
    assert_int_equal(dip_schedule_init(&schedule, sampler, steps, &published, NULL), DIP_OK);
}

static void step_counts_have_bounds(void **state)
{
    (void)state;
    static const int bad[] = {0, -1, DIP_STEPS_MAX + 1};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dip_why why = {0};
        assert_int_equal(dip_schedule_init(&schedule, DIP_SAMPLER_EULER, bad[i], &published, &why),
                         DIP_LIMIT);
        assert_non_null(strstr(why.text, "1 to 1000"));
    }
    init(DIP_SAMPLER_EULER, 1);
    init(DIP_SAMPLER_EULER, DIP_STEPS_MAX);
    init(DIP_SAMPLER_DPM, DIP_STEPS_MAX);
}

static void levels_fall_to_zero(void **state)
{
    (void)state;
    static const int counts[] = {1, 2, 17, DIP_STEPS_MAX};
    for (int sampler = 0; sampler < 2; sampler++) {
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            init(sampler ? DIP_SAMPLER_DPM : DIP_SAMPLER_EULER, counts[i]);
            for (int k = 0; k < counts[i]; k++)
                assert_true(schedule.sigmas[k + 1] < schedule.sigmas[k]);
            assert_true(schedule.sigmas[0] <= 1.0f);
            assert_true(schedule.sigmas[counts[i]] == 0.0f);
        }
    }
}

/* flow_shift of the published scheduler file belongs to the other sampler: shift stays 1. */
static void euler_ignores_the_flow_shift(void **state)
{
    (void)state;
    static const float sigmas[] = {1.0f, 0.75f, 0.5f, 0.25f, 0.0f};
    init(DIP_SAMPLER_EULER, 4);
    assert_memory_equal(schedule.sigmas, sigmas, sizeof sigmas);
    init(DIP_SAMPLER_EULER, 30);
    assert_true(schedule.timesteps[1] == 966.666626f);
    assert_true(schedule.timesteps[29] == 33.3333359f);
}

static void dpm_timesteps_are_truncated(void **state)
{
    (void)state;
    static const float timesteps[] = {999.0f, 899.0f, 749.0f, 499.0f};
    init(DIP_SAMPLER_DPM, 4);
    assert_memory_equal(schedule.timesteps, timesteps, sizeof timesteps);
    assert_true(fabsf(schedule.sigmas[0] - 0.9996665f) < 1e-7f);
}

struct flow {
    struct dip_device *device;
    struct dip_stream *s;
    struct dip_mem mem;
    struct dip_tensor latent, velocity, clean[2];
};

static struct flow flow_open(void)
{
    struct flow f = {0};
    struct dip_device_options options = {.backend = "cpu", .threads = 1};
    assert_int_equal(dip_device_open(&options, NULL, &f.device), DIP_OK);
    assert_int_equal(dip_stream_open(f.device, &f.s), DIP_OK);
    assert_int_equal(dip_reserve(f.device, sizeof(float) * 4 * COUNT, &f.mem), DIP_OK);
    struct dip_tensor *parts[4] = {&f.latent, &f.velocity, &f.clean[0], &f.clean[1]};
    for (int i = 0; i < 4; i++)
        *parts[i] = dip_rows((float *)f.mem.base + (ptrdiff_t)i * COUNT, DIP_F32, 1, COUNT);
    return f;
}

static void flow_close(struct flow *f)
{
    dip_release(f->device, &f->mem);
    dip_stream_close(f->s);
    dip_device_close(f->device);
}

/* With the exact velocity of a straight path, noise - data, both samplers arrive at the data, and
 * every estimate on the way is the data. */
static void a_straight_path_leads_to_the_data(void **state)
{
    (void)state;
    static const float data[COUNT] = {0.5f, -2.0f, 1.25f, 0.0f, 3.0f};
    static const float noise[COUNT] = {-1.0f, 0.25f, 2.0f, 1.0f, -0.5f};
    for (int sampler = 0; sampler < 2; sampler++) {
        struct flow f = flow_open();
        init(sampler ? DIP_SAMPLER_DPM : DIP_SAMPLER_EULER, 16);
        float start = schedule.sigmas[0], row[2][COUNT];
        for (int i = 0; i < COUNT; i++) {
            row[0][i] = (1.0f - start) * data[i] + start * noise[i];
            row[1][i] = noise[i] - data[i];
        }
        assert_int_equal(dip_copy(f.s, f.latent, dip_rows(row[0], DIP_F32, 1, COUNT)), DIP_OK);
        assert_int_equal(dip_copy(f.s, f.velocity, dip_rows(row[1], DIP_F32, 1, COUNT)), DIP_OK);
        for (int k = 0; k < 16; k++) {
            float clean[COUNT];
            uint32_t is_bad = 0;
            assert_int_equal(sampler_step(&schedule, k, f.s, f.latent, f.velocity, f.clean[k % 2],
                                          f.clean[(k + 1) % 2], &is_bad),
                             DIP_OK);
            assert_int_equal(dip_copy(f.s, dip_rows(clean, DIP_F32, 1, COUNT), f.clean[k % 2]),
                             DIP_OK);
            assert_int_equal(dip_wait(f.s), DIP_OK);
            for (int i = 0; i < COUNT; i++)
                assert_true(fabsf(clean[i] - data[i]) < 1e-5f);
        }
        float last[COUNT];
        assert_int_equal(dip_copy(f.s, dip_rows(last, DIP_F32, 1, COUNT), f.latent), DIP_OK);
        assert_int_equal(dip_wait(f.s), DIP_OK);
        for (int i = 0; i < COUNT; i++)
            assert_true(fabsf(last[i] - data[i]) < 1e-5f);
        flow_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(step_counts_have_bounds),
        cmocka_unit_test(levels_fall_to_zero),
        cmocka_unit_test(euler_ignores_the_flow_shift),
        cmocka_unit_test(dpm_timesteps_are_truncated),
        cmocka_unit_test(a_straight_path_leads_to_the_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
