/* tests/device.h - the device that a test runs on: the CPU, or what the environment says, so that
 * the same tests judge every backend (CMake runs some of them on the emulated GPU; tools/gpu-check
 * on a real one). */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "ops/ops.h"

static inline struct dip_device_options test_device_options(int threads)
{
    const char *backend = getenv("DIPTYCH_TEST_BACKEND");
    return (struct dip_device_options){.backend = backend ? backend : "cpu",
                                       .threads = threads,
                                       .precision = getenv("DIPTYCH_TEST_PRECISION"),
                                       .plugin = getenv("DIPTYCH_TEST_PLUGIN"),
                                       .cudnn = getenv("DIPTYCH_TEST_CUDNN")};
}
