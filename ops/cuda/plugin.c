/* ops/cuda/plugin.c - the one symbol of libdiptych-cuda.so: the table of operations, and a look at
 * the machine. */
#include "ops/plugin.h"

#include <stdio.h>

#include "ops/cuda/entries.h"

static void version_text(int version, char *text, size_t bytes)
{
    if (version > 0)
        snprintf(text, bytes, "%d.%d", version / 1000, version % 1000 / 10);
}

static enum dip_status probe(int index, struct dip_why *why, struct dip_device_report *ret_report)
{
    struct dip_device_report *r = ret_report;
    int driver = 0;
    int runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    version_text(driver, r->driver, sizeof r->driver);
    version_text(runtime, r->runtime, sizeof r->runtime);
    cudaError_t error = cudaGetDeviceCount(&r->device_count);
    r->lack = error == cudaErrorInsufficientDriver ? DIP_LACK_NEW_DRIVER : DIP_LACK_DEVICE;
    if (error == cudaErrorInsufficientDriver)
        return dip_fail(why, DIP_UNSUPPORTED,
                        "NVIDIA's driver speaks CUDA %s, and this plug-in CUDA %s",
                        r->driver[0] ? r->driver : "of no version", r->runtime);
    if (error != cudaSuccess)
        return dip_fail(why, DIP_UNSUPPORTED, "no GPU can be used: %s", cudaGetErrorString(error));
    if (index < 0 || index >= r->device_count)
        return dip_fail(why, DIP_UNSUPPORTED, "there is no GPU %d: this process sees %d", index,
                        r->device_count);
    struct cudaDeviceProp properties = {0};
    size_t free_bytes = 0;
    size_t all_bytes = 0;
    error = cudaGetDeviceProperties(&properties, index);
    if (error == cudaSuccess)
        error = cudaSetDevice(index);
    if (error == cudaSuccess)
        error = cudaMemGetInfo(&free_bytes, &all_bytes);
    if (error != cudaSuccess)
        return dip_fail(why, DIP_UNSUPPORTED, "GPU %d cannot be used: %s", index,
                        cudaGetErrorString(error));
    snprintf(r->device, sizeof r->device, "%.60s, compute capability %d.%d, %d processors",
             properties.name, properties.major, properties.minor, properties.multiProcessorCount);
    r->lack = DIP_LACK_NONE;
    r->memory_bytes = all_bytes;
    r->memory_free_bytes = free_bytes;
    return DIP_OK;
}

#ifdef DIP_CUDA_EMULATED
#define PRODUCTS "emulated"
#else
#define PRODUCTS "cuBLASLt"
#endif
#ifdef DIP_CUDA_CUDNN
#define CONVOLUTIONS ", cuDNN"
#else
#define CONVOLUTIONS ""
#endif
#ifdef DIP_CUDA_NCCL
#define LINKS ", NCCL"
#else
#define LINKS ""
#endif

/* clang-format off */
#define ENTRY(op) .op = dip__cuda_##op,
static const struct dip_ops cuda_ops = {
    .name = "cuda",
    .open = dip__cuda_open,
    .close = dip__cuda_close,
    .stream_open = dip__cuda_stream_open,
    .stream_close = dip__cuda_stream_close,
    .reserve = dip__cuda_reserve,
    .release = dip__cuda_release,
    .wait = dip__cuda_wait,
    .copy = dip__cuda_copy,
    .owns = dip__cuda_owns,
    .weight_bytes = dip__cuda_weight_bytes,
    .weight_place = dip__cuda_weight_place,
    .plans_begin = dip__cuda_plans_begin,
    .plans_end = dip__cuda_plans_end,
    .stage = dip__cuda_stage,
    .cast = dip__cuda_cast,
    .fill = dip__cuda_fill,
    .check_finite = dip__cuda_check_finite,
    ENTRY(graph_begin) ENTRY(graph_end) ENTRY(graph_launch) ENTRY(graph_free)
    ENTRY(fence_new) ENTRY(fence_free) ENTRY(fence_set) ENTRY(fence_wait)
#ifdef DIP_CUDA_NCCL
    ENTRY(link_identity) ENTRY(link_id) ENTRY(link_open) ENTRY(link_gather) ENTRY(link_mark)
    ENTRY(link_error) ENTRY(link_abort) ENTRY(link_close)
#endif
    ENTRY(tree_sum)
    ENTRY(reserve_shared) ENTRY(release_shared) ENTRY(decode_begin) ENTRY(decode_end)
    DIP_OPS_LIST(ENTRY) DIP_OPS_JOINT_LIST(ENTRY)
};
/* clang-format on */

extern const struct dip_plugin dip_plugin;
__attribute__((visibility("default"))) const struct dip_plugin dip_plugin = {
    .abi = DIP_PLUGIN_ABI,
    .ops_bytes = sizeof(struct dip_ops),
    .version = DIP_VERSION,
    .features = PRODUCTS CONVOLUTIONS LINKS,
    .ops = &cuda_ops,
    .probe = probe,
};
