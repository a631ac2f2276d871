/* ops/plugin.h - what libdiptych-cuda.so exports, and how it is found; private to ops/.
 *
 * The plug-in is a shared object with one symbol, dip_plugin, so that the program starts where
 * neither a GPU nor its libraries are. Both sides are built from these headers; the three numbers
 * say whether from the same ones. */
#pragma once

#include "ops/backend.h"

enum { DIP_PLUGIN_ABI = 3 };

struct dip_plugin {
    uint32_t abi;         /* DIP_PLUGIN_ABI */
    uint32_t ops_bytes;   /* sizeof(struct dip_ops) */
    const char *version;  /* of the program it was built with */
    const char *features; /* libraries it was built with: "cuBLASLt, NCCL" */
    const struct dip_ops *ops;
    /* As dip_device_probe; fills what concerns the machine. */
    enum dip_status (*probe)(int index, struct dip_why *why, struct dip_device_report *ret_report);
};

/* Whether NVIDIA's driver is installed. */
bool dip__plugin_has_driver(void);

/* What stands against loading it, for a report. */
enum dip_device_lack dip__plugin_lack(const char *path);

#define DIP_PLUGIN_SYMBOL "dip_plugin"

/* Loads it and checks that it fits: beside the program, in ../lib/diptych, then where the loader
 * looks; or from `path` alone. It stays loaded until the process ends: what CUDA libraries start
 * they do not take back. Errors: UNSUPPORTED, with a sentence that says what is missing. */
DIP_MUST_USE enum dip_status dip__plugin_load(const char *path, struct dip_why *why,
                                              const struct dip_plugin **ret_plugin);
