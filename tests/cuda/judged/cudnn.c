/* tests/cuda/judged/cudnn.c - the decoder's convolutions, judged by the real cuDNN without a GPU.
 *
 * cuDNN makes plans for a device that is described to it: it reads every descriptor, runs its
 * heuristics for that device and finalizes engines, and only running them needs the device. Without
 * a driver it compiles no kernels, so a fused activation has no engine here and comes apart; that
 * it has one on a device is for tools/gpu-check. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ops/cuda/cudnn_plan.h"

static struct dip__cudnn_api api;

/* What cuDNN wants to know of a device. */
static const char description[] =
    "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
    "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"warpSize\":32,"
    "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,\"memClockRateKHz\":3201000,"
    "\"l2CacheSize\":62914560,\"deviceName\":\"%s\",\"deviceVer\":%d,\"driverVer\":13000,"
    "\"cudaDeviceId\":0,\"totalGlobalMem\":%lld}";

struct device {
    const char *name;
    int version, processors, shared_bytes;
};

static const struct device devices[] = {{"NVIDIA H200", 900, 132, 232448},
                                        {"NVIDIA A100", 800, 108, 166912}};

static cudnnBackendDescriptor_t describe(const struct device *d)
{
    char text[1024];
    cudnnBackendDescriptor_t described = NULL;
    int bytes = snprintf(text, sizeof text, description, d->processors, d->shared_bytes, d->name,
                         d->version, (long long)80 << 30);
    assert_true(bytes > 0 && (size_t)bytes < sizeof text);
    assert_int_equal(
        api.cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &described), 0);
    assert_int_equal(api.cudnnBackendSetAttribute(described,
                                                  CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                                  CUDNN_TYPE_CHAR, bytes + 1, text),
                     0);
    assert_int_equal(api.cudnnBackendFinalize(described), 0);
    return described;
}

/* DC-AE at 1,024 pixels: every convolution that cuDNN is to compute. */
static const struct dip__cudnn_conv convs[] = {
#define PLAIN(edge_, in, out, act_, bias)                                                          \
    {.height = edge_,                                                                              \
     .width = edge_,                                                                               \
     .in_channels = in,                                                                            \
     .out_channels = out,                                                                          \
     .edge = 3,                                                                                    \
     .stride = 1,                                                                                  \
     .pad_before = {1, 1},                                                                         \
     .pad_after = {1, 1},                                                                          \
     .out_step = 1,                                                                                \
     .has_bias = bias,                                                                             \
     .act = act_},
#define PHASE(edge_, in, out, a, b)                                                                \
    {.height = edge_,                                                                              \
     .width = edge_,                                                                               \
     .in_channels = in,                                                                            \
     .out_channels = out,                                                                          \
     .edge = 2,                                                                                    \
     .stride = 1,                                                                                  \
     .pad_before = {1 - (a), 1 - (b)},                                                             \
     .pad_after = {a, b},                                                                          \
     .out_step = 2,                                                                                \
     .has_bias = 1},
#define PHASES(edge_, in, out)                                                                     \
    PHASE(edge_, in, out, 0, 0)                                                                    \
    PHASE(edge_, in, out, 0, 1) PHASE(edge_, in, out, 1, 0) PHASE(edge_, in, out, 1, 1)
    PLAIN(32, 32, 1024, DIP_ACT_NONE, 1) PHASES(32, 1024, 1024) PHASES(64, 1024, 512)
        PHASES(128, 512, 512) PLAIN(256, 512, 512, DIP_ACT_SILU, 1)
            PLAIN(256, 512, 512, DIP_ACT_NONE, 0) PHASES(256, 512, 256)
                PLAIN(512, 256, 256, DIP_ACT_SILU, 1) PLAIN(512, 256, 256, DIP_ACT_NONE, 0)
                    PHASES(512, 256, 128) PLAIN(1024, 128, 128, DIP_ACT_SILU, 1)
                        PLAIN(1024, 128, 128, DIP_ACT_NONE, 0)};

static void plan_all(const struct device *d)
{
    struct dip__cudnn_owner owner = {.described = describe(d)};
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) {
        const struct dip__cudnn_conv *c = &convs[i];
        struct dip__cudnn_plan plan = {0};
        struct dip_why why = {0};
        if (dip__cudnn_plan_make(&api, &owner, c, (int64_t)1 << 30, &why, &plan))
            fail_msg("%s: %s", d->name, why.text);
        printf("%s: %lld x %lld, %lld to %lld%s%s: engine %lld, %.2f MB of workspace%s\n", d->name,
               (long long)c->height, (long long)c->edge, (long long)c->in_channels,
               (long long)c->out_channels, c->has_bias ? ", bias" : "",
               c->act == DIP_ACT_SILU ? ", SiLU" : "", (long long)plan.engine,
               (double)plan.workspace_bytes / 1e6, plan.is_act_apart ? ", activation apart" : "");
        assert_non_null(plan.execution);
        dip__cudnn_plan_free(&api, &plan);
    }
    assert_int_equal(api.cudnnBackendDestroyDescriptor(owner.described), 0);
}

static void test_plans(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        plan_all(&devices[i]);
}

/* What cannot be is refused with cuDNN's words: a picture smaller than the kernel. */
static void test_refused(void **state)
{
    (void)state;
    struct dip__cudnn_conv small = convs[0];
    struct dip__cudnn_owner owner = {.described = describe(&devices[0])};
    struct dip__cudnn_plan plan = {0};
    struct dip_why why = {0};
    small.height = small.width = 1;
    small.pad_before[0] = small.pad_after[0] = small.pad_before[1] = small.pad_after[1] = 0;
    assert_int_equal(dip__cudnn_plan_make(&api, &owner, &small, 1 << 30, &why, &plan),
                     DIP_UNSUPPORTED);
    assert_non_null(strstr(why.text, "cuDNN has no plan for a 3 x 3 convolution of 1 x 1 pixels"));
    assert_int_equal(api.cudnnBackendDestroyDescriptor(owner.described), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plans),
                                       cmocka_unit_test(test_refused)};
    struct dip_why why = {0};
    if (dip__cudnn_load(DIP_CUDNN, &why, &api)) {
        fprintf(stderr, "%s\n", why.text);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
