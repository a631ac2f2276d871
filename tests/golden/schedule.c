/* tests/golden/schedule.c - noise levels of the reference schedulers, bit for bit, and their steps
 * on given velocities. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/golden/golden.h"
#include "tests/sampler.h"

static const struct dip_scheduler_config published = {
    .train_timesteps = 1000, .shift = 1.0, .flow_shift = 3.0};

static const float *tensor(const struct dip_safetensors *file, const char *key)
{
    return (const float *)(const void *)golden_find(file, key, "F32")->data;
}

static void check_levels(const struct dip_safetensors *file, const char *name,
                         enum dip_sampler sampler, const struct dip_scheduler_config *config,
                         int steps)
{
    static struct dip_schedule schedule;
    char key[64];
    golden_ok(dip_schedule_init(&schedule, sampler, steps, config, NULL), name);
    (void)snprintf(key, sizeof key, "%s.%d.sigmas", name, steps);
    assert_memory_equal(schedule.sigmas, tensor(file, key), (size_t)(steps + 1) * sizeof(float));
    (void)snprintf(key, sizeof key, "%s.%d.timesteps", name, steps);
    assert_memory_equal(schedule.timesteps, tensor(file, key), (size_t)steps * sizeof(float));
}

static void levels_are_exact(void **state)
{
    (void)state;
    static const int euler[] = {1, 2, 3, 4, 7, 20, 30, 50};
    static const int dpm[] = {1, 2, 3, 4, 14, 15, 20, 30};
    struct dip_scheduler_config shifted = published;
    shifted.shift = 3.0;
    struct dip_safetensors *file = golden_file("schedules");
    for (size_t i = 0; i < sizeof euler / sizeof euler[0]; i++) {
        check_levels(file, "euler", DIP_SAMPLER_EULER, &published, euler[i]);
        check_levels(file, "euler_shift3", DIP_SAMPLER_EULER, &shifted, euler[i]);
    }
    for (size_t i = 0; i < sizeof dpm / sizeof dpm[0]; i++)
        check_levels(file, "dpm", DIP_SAMPLER_DPM, &published, dpm[i]);
    dip_safetensors_close(file);
}

/* Runs a schedule over given velocities from latent 0; calls back after each step. */
struct run {
    struct dip_device *device;
    struct dip_stream *s;
    struct dip_mem mem;
    struct dip_tensor latent, velocity, clean[2];
    int64_t count;
};

static struct run run_open(int64_t count, const float *start)
{
    struct run r = {.count = count};
    struct dip_device_options options = {.backend = "cpu", .threads = 1};
    golden_ok(dip_device_open(&options, NULL, &r.device), "device");
    golden_ok(dip_stream_open(r.device, &r.s), "stream");
    golden_ok(dip_reserve(r.device, (size_t)count * 16, &r.mem), "reserve");
    struct dip_tensor *parts[4] = {&r.latent, &r.velocity, &r.clean[0], &r.clean[1]};
    for (int i = 0; i < 4; i++)
        *parts[i] = dip_rows((float *)r.mem.base + i * count, DIP_F32, 1, count);
    golden_ok(dip_copy(r.s, r.latent, dip_rows((void *)(uintptr_t)start, DIP_F32, 1, count)),
              "copy");
    return r;
}

static void run_step(struct run *r, const struct dip_schedule *schedule, int k,
                     const float *velocity, float *ret_latent)
{
    golden_ok(
        dip_copy(r->s, r->velocity, dip_rows((void *)(uintptr_t)velocity, DIP_F32, 1, r->count)),
        "copy");
    uint32_t is_bad = 0;
    golden_ok(sampler_step(schedule, k, r->s, r->latent, r->velocity, r->clean[k % 2],
                           r->clean[(k + 1) % 2], &is_bad),
              "step");
    golden_ok(dip_copy(r->s, dip_rows(ret_latent, DIP_F32, 1, r->count), r->latent), "copy");
    golden_ok(dip_wait(r->s), "wait");
}

static void run_close(struct run *r)
{
    dip_release(r->device, &r->mem);
    dip_stream_close(r->s);
    dip_device_close(r->device);
}

/* The whole chain of steps: rounding may add up, hence not exact but near it. */
static void dpm_runs(void **state)
{
    (void)state;
    enum { COUNT = 16 };
    static const int all_steps[] = {1, 2, 3, 4, 14, 15, 20, 30};
    static struct dip_schedule schedule;
    struct golden g = {.variant = "schedules", .backend = "cpu"};
    struct dip_safetensors *file = golden_file("schedules");
    for (size_t i = 0; i < sizeof all_steps / sizeof all_steps[0]; i++) {
        int steps = all_steps[i];
        char key[64], name[64];
        (void)snprintf(key, sizeof key, "dpm.%d.velocity", steps);
        const float *velocity = tensor(file, key);
        (void)snprintf(key, sizeof key, "dpm.%d.latent", steps);
        const float *want = tensor(file, key);
        golden_ok(dip_schedule_init(&schedule, DIP_SAMPLER_DPM, steps, &published, NULL), "init");
        struct run r = run_open(COUNT, want);
        for (int k = 0; k < steps; k++) {
            float latent[COUNT];
            run_step(&r, &schedule, k, velocity + (ptrdiff_t)k * COUNT, latent);
            (void)snprintf(name, sizeof name, "dpm.%d step %d", steps, k);
            golden_close(&g, name, latent, want + (ptrdiff_t)(k + 1) * COUNT, COUNT, 1e-6);
        }
        run_close(&r);
    }
    dip_safetensors_close(file);
}

/* The Euler runs of a tiny model on the reference's own velocities: every latent bit for bit. */
static void euler_runs_are_exact(void **state)
{
    struct golden g = {.backend = "cpu"};
    static struct dip_schedule schedule;
    static const int all_steps[] = {4, 30};
    g.file = golden_file(*state);
    for (size_t i = 0; i < sizeof all_steps / sizeof all_steps[0]; i++) {
        int steps = all_steps[i];
        char key[64];
        (void)snprintf(key, sizeof key, "euler%d/noise", steps);
        int64_t count =
            (int64_t)golden_dim(&g, key, 0) * golden_dim(&g, key, 1) * golden_dim(&g, key, 2);
        golden_ok(dip_schedule_init(&schedule, DIP_SAMPLER_EULER, steps, &published, NULL), "init");
        struct run r = run_open(count, golden_f32(&g, key));
        float *latent = calloc((size_t)count, sizeof *latent);
        assert_non_null(latent);
        for (int k = 0; k < steps; k++) {
            (void)snprintf(key, sizeof key, "euler%d/velocity.%d", steps, k);
            run_step(&r, &schedule, k, golden_f32(&g, key), latent);
            (void)snprintf(key, sizeof key, "euler%d/latent.%d", steps, k);
            assert_memory_equal(latent, golden_f32(&g, key), (size_t)count * sizeof *latent);
        }
        free(latent);
        run_close(&r);
    }
    dip_safetensors_close(g.file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_are_exact),
        cmocka_unit_test(dpm_runs),
        cmocka_unit_test_prestate(euler_runs_are_exact, "tiny-a"),
        cmocka_unit_test_prestate(euler_runs_are_exact, "tiny-b"),
        cmocka_unit_test_prestate(euler_runs_are_exact, "tiny-c"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
