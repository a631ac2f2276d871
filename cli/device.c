/* cli/device.c - see cli/device.h. */
#include "cli/device.h"

#include <string.h>

struct dip_device_options dip__device_options(const struct options *options)
{
    return (struct dip_device_options){.backend = options->backend,
                                       .threads = (int)options->threads,
                                       .index = (int)options->device,
                                       .precision = options->precision,
                                       .plugin = options->cuda_plugin,
                                       .cudnn = options->cudnn};
}

int dip__gpu_count(const struct options *options)
{
    struct dip_device_options device = dip__device_options(options);
    struct dip_device_report report = {0};
    if (strcmp(options->backend, "cpu") == 0)
        return 0;
    (void)!dip_device_probe(&device, NULL, &report); /* why not is the doctor's business */
    return report.device_count;
}
