/* tests/unit/plugin.c - finding the CUDA plug-in, refusing what is none, and doing without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/ops.h"
#include "ops/plugin.h"

static void refuse(const char *plugin, const char *part)
{
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = {.backend = "cuda", .plugin = plugin};
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_UNSUPPORTED);
    assert_null(device);
    if (!strstr(why.text, part))
        fail_msg("\"%s\" does not say \"%s\"", why.text, part);
}

static void test_refusal(void **state)
{
    (void)state;
    refuse("/nowhere/libdiptych-cuda.so", "/nowhere/libdiptych-cuda.so");
    refuse("README.md", "README.md");            /* no shared object */
    refuse("libz.so.1", "it has no dip_plugin"); /* somebody else's */
}

/* What auto does on a machine without a GPU, and how it explains itself. */
static void test_auto(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = {.threads = 1, .plugin = "/nowhere/libdiptych-cuda.so"};
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_OK);
    assert_string_equal(dip_device_backend(device), "cpu");
    assert_int_equal(dip_device_activation(device), DIP_F32);
    assert_non_null(strstr(dip_device_note(device), "/nowhere/libdiptych-cuda.so"));
    dip_device_close(device);

    options = (struct dip_device_options){.backend = "cpu", .threads = 1};
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_OK);
    assert_string_equal(dip_device_note(device), "");
    dip_device_close(device);

    options.precision = "bf16";
    assert_int_equal(dip_device_open(&options, &why, &device), DIP_UNSUPPORTED);
    assert_non_null(strstr(why.text, "bf16"));
}

static void test_probe(void **state)
{
    (void)state;
    struct dip_why why = {0};
    struct dip_device_report report = {.has_plugin = true, .device_count = 3};
    struct dip_device_options options = {.plugin = "/nowhere/libdiptych-cuda.so"};
    assert_int_equal(dip_device_probe(&options, &why, &report), DIP_UNSUPPORTED);
    assert_false(report.has_plugin);
    assert_int_equal(report.device_count, 0);
    assert_int_equal(report.has_driver, dip__plugin_has_driver());
}

/* The real plug-in, where it has been built: it loads without a driver and says that none is there.
 */
static void test_built(void **state)
{
    (void)state;
    static const char program[] = DIP_PROGRAM;
    char path[4096];
    struct dip_why why = {0};
    struct dip_device_report report = {0};
    int folder = (int)(strrchr(program, '/') - program);
    snprintf(path, sizeof path, "%.*s/libdiptych-cuda.so", folder, program);
    struct dip_device_options options = {.plugin = path};
    enum dip_status status = dip_device_probe(&options, &why, &report);
    if (!report.has_plugin) {
        print_message("NOT CHECKED: the plug-in for GPUs, which is not built here: %s\n", why.text);
        skip();
    }
    assert_non_null(strstr(report.features, "cuBLASLt")); /* NCCL only where it is installed */
    assert_true(report.runtime[0] == '1' && report.runtime[1] == '3');
    if (report.device_count == 0) {
        assert_int_equal(status, DIP_UNSUPPORTED);
        assert_non_null(strstr(why.text, "no GPU can be used"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_built),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
