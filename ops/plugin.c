/* ops/plugin.c - finding and loading the CUDA plug-in.
 *
 * A machine without NVIDIA's driver never loads it: half a gigabyte of libraries would be mapped
 * only to be told so. A path given by hand is loaded whatever there is. */
#include "ops/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"

static const char PLUGIN_NAME[] = "libdiptych-cuda.so";
static const char DRIVER_NAME[] = "libcuda.so.1";

/* The folder of the running program, without a trailing slash; false when it cannot be known. */
static bool program_folder(char folder[DIP_PATH_BYTES_MAX])
{
    ssize_t bytes = readlink("/proc/self/exe", folder, DIP_PATH_BYTES_MAX - 1);
    folder[bytes > 0 ? bytes : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    return slash != NULL;
}

/* Where it lies, or its bare name for the loader to look up. */
static const char *plugin_find(char path[DIP_PATH_BYTES_MAX])
{
    static const char *const beside[] = {"", "../lib/diptych/"};
    char folder[DIP_PATH_BYTES_MAX];
    for (size_t i = 0; i < sizeof beside / sizeof *beside && program_folder(folder); i++) {
        int bytes = snprintf(path, DIP_PATH_BYTES_MAX, "%s/%s%s", folder, beside[i], PLUGIN_NAME);
        if (bytes > 0 && bytes < DIP_PATH_BYTES_MAX && access(path, F_OK) == 0)
            return path;
    }
    return PLUGIN_NAME;
}

bool dip__plugin_has_driver(void)
{
    void *driver = dlopen(DRIVER_NAME, RTLD_LAZY | RTLD_LOCAL);
    if (driver)
        dlclose(driver);
    return driver != NULL;
}

/* Of a plug-in that is there the loader misses something else. */
enum dip_device_lack dip__plugin_lack(const char *path)
{
    char found[DIP_PATH_BYTES_MAX];
    if (!path && !dip__plugin_has_driver())
        return DIP_LACK_DRIVER;
    path = path ? path : plugin_find(found);
    if (access(path, F_OK) != 0)
        return DIP_LACK_PLUGIN;
    void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (handle)
        dlclose(handle);
    return handle ? DIP_LACK_PLUGIN : DIP_LACK_LIBRARY;
}

/* The symbol is the struct itself: a pointer to a function is none to data in ISO C. */
static enum dip_status plugin_check(const struct dip_plugin *plugin, const char *path,
                                    struct dip_why *why)
{
    if (!plugin)
        return dip_fail(why, DIP_UNSUPPORTED, "%s is no plug-in of this program: it has no %s",
                        path, DIP_PLUGIN_SYMBOL);
    if (plugin->abi != DIP_PLUGIN_ABI || plugin->ops_bytes != sizeof(struct dip_ops) ||
        strcmp(plugin->version, DIP_VERSION) != 0)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "%s was built for another program than this one (%s, interface %u, "
                        "expected %s, interface %d): build both together",
                        path, plugin->version, plugin->abi, DIP_VERSION, DIP_PLUGIN_ABI);
    return DIP_OK;
}

enum dip_status dip__plugin_load(const char *path, struct dip_why *why,
                                 const struct dip_plugin **ret_plugin)
{
    char found[DIP_PATH_BYTES_MAX];
    if (!path) {
        if (!dip__plugin_has_driver())
            return dip_fail(why, DIP_UNSUPPORTED,
                            "this machine has no NVIDIA driver (%s was not found)", DRIVER_NAME);
        path = plugin_find(found);
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *reason = dlerror();
        return dip_fail(why, DIP_UNSUPPORTED, "the CUDA plug-in cannot be loaded: %s",
                        reason ? reason : path);
    }
    const struct dip_plugin *plugin = dlsym(handle, DIP_PLUGIN_SYMBOL);
    enum dip_status status = plugin_check(plugin, path, why);
    if (status)
        dlclose(handle);
    else
        *ret_plugin = plugin;
    return status;
}
