/* tests/cuda_emulator/nccl.cpp - a small NCCL between processes with emulated GPUs.
 *
 * Ranks meet in a file of shared memory that the unique id names; the file goes when all have come.
 * Nothing blocks: initialisation and finalisation are in progress until somebody has polled, as is
 * every other all-gather's first answer. An all-gather waits on the stream for the others, for as
 * long as it takes: only an abort lets it go. Two ranks with one device are refused. */
#include <nccl.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <memory>

#include "tests/cuda_emulator/played.h"
#include "tests/cuda_emulator/wait.h"

namespace
{

enum { RANKS_MAX = 16, PIECE_BYTES = 64 << 10 };

/* A rank that has finished piece t has seen all others begin it, so two places are enough. */
struct board {
    std::atomic<int> joined;
    std::atomic<unsigned int> turns[RANKS_MAX]; /* pieces that a rank has laid out */
    char devices[RANKS_MAX][16];
    char data[2][RANKS_MAX][PIECE_BYTES];
};

struct dip_nccl_play played;

} // namespace

/* Kept by whoever still waits on a stream, beyond the communicator. */
struct group {
    board *shared;
    int rank, count;
    std::atomic<bool> is_aborted;
    unsigned int turn; /* of the stream */

    ~group()
    {
        munmap(shared, sizeof *shared);
    }
};

struct ncclComm {
    std::shared_ptr<group> all;
    char path[NCCL_UNIQUE_ID_BYTES];
    bool is_joined, is_leaving, is_busy;
};

namespace
{

struct piece {
    std::shared_ptr<group> all;
    const char *mine;
    char *to;
    size_t bytes, pitch;
    bool is_laid;
};

/* Lays out what is ours once; true when all others have. */
bool may_run(piece *p)
{
    group *g = p->all.get();
    if (g->is_aborted)
        return true;
    if (!p->is_laid) {
        memcpy(g->shared->data[g->turn % 2][g->rank], p->mine, p->bytes);
        g->shared->turns[g->rank] = ++g->turn;
        p->is_laid = true;
    }
    for (int r = 0; r < g->count; r++)
        if ((int)(g->shared->turns[r] - g->turn) < 0)
            return false;
    return true;
}

void run(piece *p)
{
    group *g = p->all.get();
    p->is_laid = false; /* a graph may come back to it */
    for (int r = 0; r < g->count && !g->is_aborted; r++)
        memcpy(p->to + (size_t)r * p->pitch, g->shared->data[(g->turn - 1) % 2][r], p->bytes);
}

board *board_open(const char *path, bool is_new)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | (is_new ? O_CREAT | O_EXCL : 0), 0600);
    if (fd < 0)
        return NULL;
    void *at = ftruncate(fd, sizeof(board))
                   ? MAP_FAILED
                   : mmap(NULL, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? NULL : (board *)at;
}

/* NCCL finds two ranks on one device when all have come. */
bool are_apart(const group *g)
{
    for (int a = 0; a < g->count; a++)
        for (int b = 0; b < a; b++)
            if (memcmp(g->shared->devices[a], g->shared->devices[b], 16) == 0)
                return false;
    return true;
}

void drop(ncclComm_t comm)
{
    if (comm->all->rank == 0)
        unlink(comm->path);
    delete comm;
}

} // namespace

extern "C" {

struct dip_nccl_play *dip_played_nccl(void)
{
    return &played;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInvalidUsage:
        return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "another error";
    }
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/dev/shm/diptych-nccl-%d-%lld", (int)getpid(),
             (long long)t.tv_sec * 1000000000 + t.tv_nsec);
    board *made = board_open(id->internal, true);
    if (!made)
        return ncclSystemError;
    munmap(made, sizeof *made);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int count, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    struct cudaDeviceProp properties;
    *comm = NULL;
    if (count < 1 || count > RANKS_MAX || rank < 0 || rank >= count ||
        config->size != sizeof *config || config->magic != 0xcafebeef || config->blocking != 0)
        return ncclInvalidArgument;
    board *shared = board_open(id.internal, false);
    if (!shared || cudaGetDeviceProperties(&properties, 0))
        return ncclSystemError;
    ncclComm_t made = new ncclComm();
    made->all = std::make_shared<group>();
    made->all->shared = shared;
    made->all->rank = rank;
    made->all->count = count;
    memcpy(made->path, id.internal, sizeof made->path);
    memcpy(shared->devices[rank], properties.uuid.bytes, 16);
    if (__atomic_load_n(&played.play, __ATOMIC_ACQUIRE) != DIP_NCCL_ABSENT)
        shared->joined++;
    played.opened++;
    *comm = made;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    group *g = comm->all.get();
    *state = ncclSuccess;
    if (__atomic_load_n(&played.play, __ATOMIC_ACQUIRE) == DIP_NCCL_BROKEN) {
        *state = ncclRemoteError;
    } else if (!comm->is_joined) {
        comm->is_joined = g->shared->joined == g->count;
        *state = !comm->is_joined ? ncclInProgress : are_apart(g) ? ncclSuccess : ncclInvalidUsage;
        if (comm->is_joined && g->rank == 0)
            unlink(comm->path);
    } else if (comm->is_leaving) {
        *state = comm->all.use_count() > 1 ? ncclInProgress : ncclSuccess;
        (void)cudaDeviceSynchronize();
    } else if (comm->is_busy) {
        comm->is_busy = false;
    }
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    comm->is_leaving = true;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    played.destroyed++;
    drop(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    played.aborted++;
    comm->all->is_aborted = true;
    drop(comm);
    return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *mine, void *all, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    if (type != ncclUint8 || !comm->is_joined || comm->is_leaving)
        return ncclInvalidArgument;
    for (size_t done = 0; done < count; done += PIECE_BYTES) {
        size_t some = count - done < PIECE_BYTES ? count - done : (size_t)PIECE_BYTES;
        auto p = std::make_shared<piece>(
            piece{comm->all, (const char *)mine + done, (char *)all + done, some, count, false});
        dip_emulator_enqueue_wait(
            stream, [=] { return may_run(p.get()); }, [=] { run(p.get()); });
    }
    comm->is_busy = true;
    return ncclInProgress;
}

} // extern "C"
