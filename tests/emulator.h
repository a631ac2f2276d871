/* tests/emulator.h - the emulated GPU: opening it, and making it misbehave. */
#pragma once

#include <dlfcn.h>

#include "ops/ops.h"

/* NULL options: what the backend does by itself. */
static inline struct dip_device *emulator_open(const char *precision)
{
    struct dip_why why = {0};
    struct dip_device *device = NULL;
    struct dip_device_options options = {
        .backend = "cuda", .precision = precision, .plugin = DIP_EMULATED_PLUGIN};
    if (dip_device_open(&options, &why, &device))
        fail_msg("%s", why.text);
    return device;
}

/* A function of tests/cuda_emulator, found in the plug-in that the process has loaded. */
static inline void *emulator_symbol(const char *name)
{
    void *handle = dlopen(DIP_EMULATED_PLUGIN, RTLD_NOW | RTLD_NOLOAD);
    void *symbol = handle ? dlsym(handle, name) : NULL;
    if (handle)
        dlclose(handle); /* this reference, not the plug-in */
    if (!symbol)
        fail_msg("the emulated plug-in has no %s", name);
    return symbol;
}
