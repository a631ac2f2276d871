/* ops/device.c - opening a backend by name, its memory and its streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ops/device.h"
#include "ops/plugin.h"

/* ---- which backend ---- */

static enum dip_status open_cpu(struct dip_device *device, const struct dip_device_options *o,
                                enum dip__cpu_family family, struct dip_why *why)
{
    if (o->precision && strcmp(o->precision, "auto") != 0 && strcmp(o->precision, "f32") != 0)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "the CPU computes in f32, not in %s: use --precision f32 or auto",
                        o->precision);
    return dip__cpu_open(device, o->threads, family, why);
}

static enum dip_status open_cuda(struct dip_device *device, const struct dip_device_options *o,
                                 struct dip_why *why)
{
    const struct dip_plugin *plugin = NULL;
    DIP_TRY(dip__plugin_load(o->plugin, why, &plugin));
    device->ops = plugin->ops;
    return plugin->ops->open(device, o, why);
}

/* A GPU where there is one; the note says why not. What fails for want of memory fails: to fall
 * back a hundredfold in speed is nobody's wish. */
static enum dip_status open_auto(struct dip_device *device, const struct dip_device_options *o,
                                 struct dip_why *why)
{
    struct dip_why cuda = {0};
    enum dip_status status = open_cuda(device, o, &cuda);
    if (!status)
        return DIP_OK;
    if (status != DIP_UNSUPPORTED)
        return dip_fail(why, status, "%s", cuda.text);
    *device = (struct dip_device){0};
    DIP_TRY(open_cpu(device, o, DIP__CPU_BEST, why));
    device->note = cuda;
    return DIP_OK;
}

static enum dip_status open_backend(struct dip_device *device, const struct dip_device_options *o,
                                    struct dip_why *why)
{
    const char *backend = o->backend ? o->backend : "auto";
    if (strcmp(backend, "auto") == 0)
        return open_auto(device, o, why);
    if (strcmp(backend, "cpu") == 0)
        return open_cpu(device, o, DIP__CPU_BEST, why);
    /* For tests: the definitions, and the narrower of the fast families. */
    if (strcmp(backend, "cpu-plain") == 0)
        return open_cpu(device, o, DIP__CPU_PLAIN, why);
    if (strcmp(backend, "cpu-avx2") == 0)
        return open_cpu(device, o, DIP__CPU_AVX2, why);
    if (strcmp(backend, "cuda") == 0)
        return open_cuda(device, o, why);
    return dip_fail(why, DIP_UNSUPPORTED, "there is no backend \"%s\"; use auto, cpu or cuda",
                    backend);
}

enum dip_status dip_device_open(const struct dip_device_options *options, struct dip_why *why,
                                struct dip_device **ret_device)
{
    static const struct dip_device_options standard = {0};
    struct dip_device *device = calloc(1, sizeof *device);
    if (!device)
        return dip_fail(why, DIP_NO_MEMORY, "not enough memory to open a device");
    enum dip_status status = open_backend(device, options ? options : &standard, why);
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
    device->ops->close(device);
    free(device);
}

/* ---- asking it ---- */

enum dip_status dip_device_probe(const struct dip_device_options *options, struct dip_why *why,
                                 struct dip_device_report *ret_report)
{
    const struct dip_plugin *plugin = NULL;
    *ret_report = (struct dip_device_report){.has_driver = dip__plugin_has_driver()};
    enum dip_status status = dip__plugin_load(options->plugin, why, &plugin);
    if (status) {
        ret_report->lack = dip__plugin_lack(options->plugin);
        return status;
    }
    ret_report->has_plugin = true;
    snprintf(ret_report->features, sizeof ret_report->features, "%s", plugin->features);
    return plugin->probe(options->index, why, ret_report);
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

enum dip_dtype dip_device_activation(const struct dip_device *device)
{
    return device->activation;
}

const char *dip_device_note(const struct dip_device *device)
{
    return device->note.text;
}

const char *dip_device_remark(const struct dip_device *device)
{
    return device->remark.text;
}

/* ---- memory and streams ---- */

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
    enum dip_status status = device->ops->stream_open(stream);
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
    stream->device->ops->stream_close(stream);
    free(stream);
}

struct dip_device *dip_stream_device(const struct dip_stream *stream)
{
    return stream->device;
}
