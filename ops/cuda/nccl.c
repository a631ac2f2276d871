/* ops/cuda/nccl.c - the link between the GPUs of a group, one rank on each: NCCL's all-gather.
 *
 * Communicators are made without blocking, so that a rank that never comes costs a deadline and not
 * the process: any call may answer "in progress" and is polled, until the group has an error of its
 * own. NCCL adds nothing up here: its sums have no promised order. A GPU that serves two ranks is
 * refused by NCCL itself; ops/comm_link.c does not ask for it.
 *
 * NCCL has no deadline for a gather whose other rank lives and does not come: the kernel waits on
 * the device. So an event is recorded behind every gather, and who watches the group asks whether
 * the last one has passed. One is late when nothing has been enqueued since and the event has not
 * passed for wait_ns_max: the host waits for the device at every step, so it cannot run ahead for
 * long. Calls take turns (ops/comm_link.c), whatever thread they come from. */
#include "ops/cuda/entries.h"

#ifdef DIP_CUDA_NCCL

#include <assert.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/futex.h"

static_assert((int)DIP__LINK_ID_BYTES == (int)NCCL_UNIQUE_ID_BYTES, "ids agree");

struct dip_link {
    ncclComm_t comm; /* NULL: aborted */
    struct dip_device *device;
    struct dip_word *ended; /* the group's error */
    cudaEvent_t last;       /* behind the last gather */
    uint64_t gather_count;
    /* What the last look saw: so many gathers, the last of them under way since then. */
    uint64_t seen_count;
    int64_t since_ns;
    int64_t wait_ns_max;
};

static enum dip_status note(struct dip_device *device, ncclResult_t result, const char *what)
{
    if (result == ncclSuccess)
        return DIP_OK;
    (void)dip_fail(&device->note, DIP_DEVICE, "NCCL: %s: %s", what, ncclGetErrorString(result));
    return DIP_DEVICE;
}

/* Until NCCL has an answer: OK, TIMEOUT, CANCELLED, or DEVICE. */
static enum dip_status settle(struct dip_link *link, int64_t wait_ns, const char *what)
{
    ncclResult_t state = ncclInProgress;
    int64_t end_ns = dip_clock_now_ns() + wait_ns;
    for (;;) {
        ncclResult_t result = ncclCommGetAsyncError(link->comm, &state);
        if (result != ncclSuccess || state != ncclInProgress)
            return note(link->device, result != ncclSuccess ? result : state, what);
        if (dip_word_get(link->ended))
            return DIP_CANCELLED;
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

static enum dip_status join(struct dip_link *link, const struct dip__link_options *options)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    memcpy(id.internal, options->id, DIP__LINK_ID_BYTES);
    config.blocking = 0;
    config.commName = "diptych";
    ncclResult_t result =
        ncclCommInitRankConfig(&link->comm, options->count, id, options->rank, &config);
    if (result != ncclInProgress)
        DIP_TRY(note(link->device, result, "joining"));
    return link->comm ? settle(link, options->join_ns_max, "joining") : DIP_DEVICE;
}

enum dip_status dip__cuda_link_open(struct dip_stream *s, const struct dip__link_options *options,
                                    struct dip_link **ret_link)
{
    struct dip_link *link = calloc(1, sizeof *link);
    if (!link)
        return DIP_NO_MEMORY;
    link->device = s->device;
    link->ended = options->ended;
    link->wait_ns_max = options->wait_ns_max;
    enum dip_status status = dip__cuda_check(
        s->device, cudaEventCreateWithFlags(&link->last, cudaEventDisableTiming), "an event");
    if (!status)
        status = join(link, options);
    if (!status) {
        *ret_link = link;
        return DIP_OK;
    }
    dip__cuda_link_abort(link);
    dip__cuda_link_close(link);
    return status;
}

enum dip_status dip__cuda_link_gather(struct dip_stream *s, struct dip_link *link, void *all,
                                      const void *mine, size_t bytes)
{
    cudaStream_t stream = dip__cuda_stream(s)->stream;
    ncclResult_t result = ncclAllGather(mine, all, bytes, ncclUint8, link->comm, stream);
    DIP_TRY(result == ncclInProgress ? settle(link, link->wait_ns_max, "gathering")
                                     : note(s->device, result, "gathering"));
    /* A recorded gather is marked when it is launched. */
    return dip__cuda_stream(s)->is_capturing ? DIP_OK : dip__cuda_link_mark(s, link);
}

enum dip_status dip__cuda_link_mark(struct dip_stream *s, struct dip_link *link)
{
    cudaError_t error = cudaEventRecord(link->last, dip__cuda_stream(s)->stream);
    link->gather_count++;
    return dip__cuda_check(s->device, error, "an event");
}

/* Whether the last gather has been under way for too long. */
static enum dip_status look(struct dip_link *link)
{
    int64_t now_ns = dip_clock_now_ns();
    bool is_last = link->gather_count == link->seen_count;
    link->seen_count = link->gather_count;
    if (!is_last || link->gather_count == 0 || cudaEventQuery(link->last) == cudaSuccess)
        link->since_ns = now_ns;
    (void)cudaGetLastError(); /* "not ready" is no error; a dead device is the device thread's to
                                 say */
    if (now_ns - link->since_ns <= link->wait_ns_max)
        return DIP_OK;
    return dip_fail(&link->device->note, DIP_TIMEOUT, "NCCL: gathering: a rank lives and is late");
}

enum dip_status dip__cuda_link_error(struct dip_link *link)
{
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = ncclCommGetAsyncError(link->comm, &state);
    if (result != ncclSuccess || (state != ncclSuccess && state != ncclInProgress))
        return DIP_DEVICE;
    (void)cudaSetDevice(dip__cuda(link->device)->index); /* of this thread */
    return look(link);
}

/* Also ends kernels that wait on the device for a rank that is gone. */
void dip__cuda_link_abort(struct dip_link *link)
{
    if (link->comm)
        (void)ncclCommAbort(link->comm);
    link->comm = NULL;
}

void dip__cuda_link_close(struct dip_link *link)
{
    if (link->comm) {
        (void)ncclCommFinalize(link->comm);
        (void)settle(link, 5 * DIP_SECOND_NS, "leaving");
        (void)ncclCommDestroy(link->comm);
    }
    if (link->last)
        (void)cudaEventDestroy(link->last);
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
