/* cli/device.h - the device that the options ask for. */
#pragma once

#include "cli/options.h"
#include "ops/ops.h"

struct dip_device_options dip__device_options(const struct options *options);

/* GPUs that this process could use; 0 without a driver, a plug-in or a wish for one. */
int dip__gpu_count(const struct options *options);
