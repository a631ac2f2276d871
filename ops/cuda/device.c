/* ops/cuda/device.c - a GPU: opening it, its errors, its memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/pool.h"
#include "ops/cuda/cuda.h"

enum { ARCHITECTURE_MIN = 80 }; /* bf16 products in tensor cores begin there */

enum dip_status dip__cuda_check(struct dip_device *device, cudaError_t error, const char *what)
{
    struct dip__cuda *cuda = dip__cuda(device);
    if (error == cudaSuccess && !cuda->is_dead)
        return DIP_OK;
    if (!cuda->is_dead) {
        cuda->is_dead = true;
        snprintf(device->note.text, sizeof device->note.text, "GPU %d: %s: %s (%s)", cuda->index,
                 what, cudaGetErrorString(error), cudaGetErrorName(error));
    }
    return DIP_DEVICE;
}

/* ---- opening ---- */

static enum dip_status choose_activation(struct dip_device *device, const char *precision,
                                         struct dip_why *why)
{
    if (!precision || strcmp(precision, "auto") == 0 || strcmp(precision, "bf16") == 0)
        device->activation = DIP_BF16;
    else if (strcmp(precision, "f32") == 0)
        device->activation = DIP_F32;
    else
        return dip_fail(why, DIP_UNSUPPORTED, "there is no precision \"%s\"; use auto, bf16 or f32",
                        precision);
    return DIP_OK;
}

static enum dip_status device_choose(int index, struct cudaDeviceProp *ret_properties,
                                     struct dip_why *why)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess)
        return dip_fail(why, DIP_UNSUPPORTED, "no GPU can be used: %s", cudaGetErrorString(error));
    if (index < 0 || index >= count)
        return dip_fail(why, DIP_UNSUPPORTED, "there is no GPU %d: this process sees %d", index,
                        count);
    error = cudaGetDeviceProperties(ret_properties, index);
    if (error == cudaSuccess)
        error = cudaSetDevice(index);
    if (error != cudaSuccess)
        return dip_fail(why, DIP_UNSUPPORTED, "GPU %d cannot be used: %s", index,
                        cudaGetErrorString(error));
    int architecture = 10 * ret_properties->major + ret_properties->minor;
    if (architecture < ARCHITECTURE_MIN)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "GPU %d (%s) has compute capability %d.%d, at least 8.0 is needed", index,
                        ret_properties->name, ret_properties->major, ret_properties->minor);
    return DIP_OK;
}

/* Where equal names mean equal bits: the architecture, the activations, and cuDNN with its version.
 */
static void class_fill(struct dip_device *device, const struct cudaDeviceProp *properties)
{
    struct dip__cuda *cuda = dip__cuda(device);
    size_t cudnn = dip__cuda_cudnn_version(device);
    int bytes =
        snprintf(cuda->class_name, sizeof cuda->class_name, "cuda-sm%d%d-%s", properties->major,
                 properties->minor, device->activation == DIP_F32 ? "f32" : "bf16");
    dip_assert(bytes > 0 && (size_t)bytes < sizeof cuda->class_name);
    if (cudnn)
        snprintf(cuda->class_name + bytes, sizeof cuda->class_name - (size_t)bytes, "-cudnn%zu",
                 cudnn);
}

enum dip_status dip__cuda_open(struct dip_device *device, const struct dip_device_options *options,
                               struct dip_why *why)
{
    struct cudaDeviceProp properties = {0};
    DIP_TRY(choose_activation(device, options->precision, why));
    DIP_TRY(device_choose(options->index, &properties, why));
    struct dip__cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda)
        return dip_fail(why, DIP_NO_MEMORY, "not enough memory to open a device");
    cuda->index = options->index;
    cuda->processor_count = properties.multiProcessorCount;
    cuda->can_launch_early = properties.major >= 9;
    device->state = cuda; /* close takes it from here */
    device->class_name = cuda->class_name;
    device->threads = 1;
    enum dip_status status = dip_pool_new(DIP__CUDA_READERS, &cuda->readers);
    if (!status)
        status = dip__cuda_library_open(device);
    if (!status)
        status = dip__cuda_cudnn_open(device, options);
    class_fill(device, &properties);
    if (status) {
        dip__cuda_close(device);
        return dip_fail(why, status, "no memory for the CUDA backend's threads and libraries");
    }
    return DIP_OK;
}

void dip__cuda_close(struct dip_device *device)
{
    struct dip__cuda *cuda = dip__cuda(device);
    if (!cuda)
        return;
    dip__cuda_cudnn_close(device);
    dip_assert(cuda->range_count == 0 || cuda->is_dead); /* everything was released before */
    dip__cuda_library_close(device);
    dip_pool_free(cuda->readers);
    free(cuda);
}

/* ---- memory ---- */

static void range_note(struct dip_device *device, size_t bytes)
{
    size_t free_bytes = 0;
    size_t all_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &all_bytes);
    snprintf(device->note.text, sizeof device->note.text,
             "GPU %d: %.2f GiB were asked for and %.2f of %.2f GiB are free, %.2f GiB too few: use "
             "fewer slots, smaller pictures or a GPU with more memory",
             dip__cuda(device)->index, (double)bytes / (1 << 30), (double)free_bytes / (1 << 30),
             (double)all_bytes / (1 << 30),
             bytes > free_bytes ? (double)(bytes - free_bytes) / (1 << 30) : 0.0);
}

enum dip_status dip__cuda_allocate(struct dip_device *device, size_t bytes, void **ret_base)
{
    void *base = NULL;
    cudaError_t error = cudaMalloc(&base, bytes);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* this one is not the device's end */
        range_note(device, bytes);
        return DIP_NO_MEMORY;
    }
    DIP_TRY(dip__cuda_check(device, error, "reserving memory"));
    *ret_base = base;
    return DIP_OK;
}

enum dip_status dip__cuda_reserve(struct dip_device *device, size_t bytes, struct dip_mem *ret_mem)
{
    struct dip__cuda *cuda = dip__cuda(device);
    if (cuda->is_dead)
        return DIP_DEVICE;
    if (cuda->range_count == DIP__CUDA_RANGES_MAX)
        return DIP_LIMIT;
    struct dip_mem mem = {.bytes = bytes ? bytes : 1};
    DIP_TRY(dip__cuda_allocate(device, mem.bytes, &mem.base));
    cudaError_t error = cudaMemset(mem.base, 0, mem.bytes);
    if (error == cudaSuccess)
        error = cudaDeviceSynchronize(); /* streams do not wait for the one that clears */
    if (error != cudaSuccess)
        (void)cudaFree(mem.base);
    DIP_TRY(dip__cuda_check(device, error, "clearing memory"));
    cuda->ranges[cuda->range_count++] = mem;
    *ret_mem = mem;
    return DIP_OK;
}

void dip__cuda_release(struct dip_device *device, struct dip_mem *mem)
{
    struct dip__cuda *cuda = dip__cuda(device);
    for (int i = 0; i < cuda->range_count; i++)
        if (cuda->ranges[i].base == mem->base) {
            cuda->ranges[i] = cuda->ranges[--cuda->range_count];
            break;
        }
    (void)cudaFree(mem->base); /* waits for what still uses it; of a dead device it fails */
}

bool dip__cuda_owns(const struct dip_device *device, const void *data)
{
    const struct dip__cuda *cuda = dip__cuda(device);
    for (int i = 0; i < cuda->range_count; i++)
        if ((uintptr_t)data - (uintptr_t)cuda->ranges[i].base < cuda->ranges[i].bytes)
            return true;
    return false;
}
