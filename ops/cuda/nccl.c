/* ops/cuda/nccl.c - the link between the GPUs of a group, one rank on each: NCCL's all-gather.
 *
 * Communicators are made without blocking, so that a rank that never comes costs a deadline and not
 * the process: any call may answer "in progress" and is polled. NCCL adds nothing up here: its sums
 * have no promised order. A GPU that serves two ranks is refused by NCCL itself; ops/comm_link.c
 * does not ask for it. */
#include "ops/cuda/entries.h"

#ifdef DIP_CUDA_NCCL

#include <assert.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static_assert((int)DIP__LINK_ID_BYTES == (int)NCCL_UNIQUE_ID_BYTES, "ids agree");

struct dip_link {
    ncclComm_t comm;
    struct dip_device *device;
};

static enum dip_status note(struct dip_device *device, ncclResult_t result, const char *what)
{
    if (result == ncclSuccess)
        return DIP_OK;
    (void)dip_fail(&device->note, DIP_DEVICE, "NCCL: %s: %s", what, ncclGetErrorString(result));
    return DIP_DEVICE;
}

/* Until NCCL has an answer: OK, TIMEOUT, or DEVICE. */
static enum dip_status settle(struct dip_device *device, ncclComm_t comm, int64_t wait_ns,
                              const char *what)
{
    ncclResult_t state = ncclInProgress;
    int64_t end_ns = dip_clock_now_ns() + wait_ns;
    for (;;) {
        ncclResult_t result = ncclCommGetAsyncError(comm, &state);
        if (result != ncclSuccess || state != ncclInProgress)
            return note(device, result != ncclSuccess ? result : state, what);
        if (dip_clock_now_ns() > end_ns)
            return DIP_TIMEOUT;
        dip_clock_sleep(DIP_MS_NS / 20);
    }
}

enum dip_status dip__cuda_link_identity(struct dip_device *device,
                                        unsigned char ret_identity[DIP__LINK_IDENTITY_BYTES])
{
    struct cudaDeviceProp properties = {0};
    cudaError_t error = cudaGetDeviceProperties(&properties, dip__cuda(device)->index);
    DIP_TRY(dip__cuda_check(device, error, "asking the GPU who it is"));
    memcpy(ret_identity, properties.uuid.bytes, DIP__LINK_IDENTITY_BYTES);
    return DIP_OK;
}

enum dip_status dip__cuda_link_id(struct dip_device *device,
                                  unsigned char ret_id[DIP__LINK_ID_BYTES])
{
    ncclUniqueId id;
    DIP_TRY(note(device, ncclGetUniqueId(&id), "making an id"));
    memcpy(ret_id, id.internal, DIP__LINK_ID_BYTES);
    return DIP_OK;
}

enum dip_status dip__cuda_link_open(struct dip_stream *s, const struct dip__link_options *options,
                                    struct dip_link **ret_link)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct dip_link *link = calloc(1, sizeof *link);
    if (!link)
        return DIP_NO_MEMORY;
    memcpy(id.internal, options->id, DIP__LINK_ID_BYTES);
    config.blocking = 0;
    config.commName = "diptych";
    link->device = s->device;
    ncclResult_t result =
        ncclCommInitRankConfig(&link->comm, options->count, id, options->rank, &config);
    enum dip_status status = result == ncclInProgress ? DIP_OK : note(s->device, result, "joining");
    if (!status && link->comm)
        status = settle(s->device, link->comm, options->join_ns_max, "joining");
    if (status) {
        if (link->comm)
            (void)ncclCommAbort(link->comm);
        free(link);
        return status;
    }
    *ret_link = link;
    return DIP_OK;
}

enum dip_status dip__cuda_link_gather(struct dip_stream *s, struct dip_link *link, void *all,
                                      const void *mine, size_t bytes)
{
    cudaStream_t stream = dip__cuda_stream(s)->stream;
    ncclResult_t result = ncclAllGather(mine, all, bytes, ncclUint8, link->comm, stream);
    if (result != ncclInProgress)
        return note(s->device, result, "gathering");
    return settle(s->device, link->comm, 10 * DIP_SECOND_NS, "gathering");
}

enum dip_status dip__cuda_link_error(struct dip_link *link)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = ncclCommGetAsyncError(link->comm, &state);
    return result == ncclSuccess && (state == ncclSuccess || state == ncclInProgress) ? DIP_OK
                                                                                      : DIP_DEVICE;
}

/* Also ends kernels that wait on the device for a rank that is gone. */
void dip__cuda_link_abort(struct dip_link *link)
{
    (void)ncclCommAbort(link->comm);
    free(link);
}

void dip__cuda_link_close(struct dip_link *link)
{
    (void)ncclCommFinalize(link->comm);
    (void)settle(link->device, link->comm, 5 * DIP_SECOND_NS, "leaving");
    (void)ncclCommDestroy(link->comm);
    free(link);
}

#endif

enum dip_status dip__cuda_tree_sum(struct dip_stream *s, float *sum, const float *parts,
                                   int part_count, int64_t count)
{
    struct dip_cuda_view out = {
        .data = sum, .dtype = DIP_F32, .rows = 1, .columns = count, .stride = count};
    return DIP__CUDA_LAUNCH(s, tree_sum, .out = out, .parts = parts, .part_count = part_count,
                            .part_stride = count);
}
