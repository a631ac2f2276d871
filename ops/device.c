/* ops/device.c - opening a backend by name, its memory and its streams. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ops/device.h"

static enum dip_status open_backend(struct dip_device *device, const char *backend, int threads,
                                    struct dip_why *why)
{
    if (strcmp(backend, "auto") == 0 || strcmp(backend, "cpu") == 0)
        return dip__cpu_open(device, threads, DIP__CPU_BEST, why);
    /* For tests: the definitions, and the narrower of the fast families. */
    if (strcmp(backend, "cpu-plain") == 0)
        return dip__cpu_open(device, threads, DIP__CPU_PLAIN, why);
    if (strcmp(backend, "cpu-avx2") == 0)
        return dip__cpu_open(device, threads, DIP__CPU_AVX2, why);
    if (strcmp(backend, "cuda") == 0)
        return dip_fail(why, DIP_UNSUPPORTED, "this build has no CUDA backend; use --backend cpu");
    return dip_fail(why, DIP_UNSUPPORTED, "there is no backend \"%s\"; use auto, cpu or cuda",
                    backend);
}

enum dip_status dip_device_open(const struct dip_device_options *options, struct dip_why *why,
                                struct dip_device **ret_device)
{
    const char *backend = options && options->backend ? options->backend : "auto";
    struct dip_device *device = calloc(1, sizeof *device);
    if (!device)
        return dip_fail(why, DIP_NO_MEMORY, "not enough memory to open a device");
    enum dip_status status = open_backend(device, backend, options ? options->threads : 0, why);
    if (status) {
        free(device);
        return status;
    }
    *ret_device = device;
    return DIP_OK;
}

void dip_device_close(struct dip_device *device)
{
    if (!device)
        return;
    dip__cpu_close(device);
    free(device);
}

const char *dip_device_backend(const struct dip_device *device)
{
    return device->ops->name;
}

const char *dip_device_class(const struct dip_device *device)
{
    return device->class_name;
}

int dip_device_threads(const struct dip_device *device)
{
    return device->threads;
}

enum dip_status dip_reserve(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem)
{
    return device->ops->reserve(device, bytes, ret_mem);
}

void dip_release(struct dip_device *device, struct dip_mem *mem)
{
    if (mem->base)
        device->ops->release(device, mem);
    *mem = (struct dip_mem){0};
}

enum dip_status dip_stream_open(struct dip_device *device, struct dip_stream **ret_stream)
{
    struct dip_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return DIP_NO_MEMORY;
    stream->device = device;
    enum dip_status status = dip__cpu_stream_open(stream);
    if (status) {
        free(stream);
        return status;
    }
    *ret_stream = stream;
    return DIP_OK;
}

void dip_stream_close(struct dip_stream *stream)
{
    if (!stream)
        return;
    dip__cpu_stream_close(stream);
    free(stream);
}

struct dip_device *dip_stream_device(const struct dip_stream *stream)
{
    return stream->device;
}
