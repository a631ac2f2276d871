/* ops/comm_shm.c - exchange through shared memory: post the own piece, read the others'.
 *
 *     rank 0                               rank 1
 *     [posted | bell | notes][even][odd]   [posted | bell | notes][even][odd]   ...
 *
 * Exchange t uses the buffers of t's parity. A rank that posts t + 2 has seen everyone post t + 1,
 * and nobody posts t + 1 before it is done with t: so nobody still reads what is overwritten. Waits
 * spin for a moment (the others are a few microseconds away), then sleep on the rank's bell.
 *
 * The memory is anonymous (memfd), sealed against shrinking so that no rank can pull it from under
 * another, and reaches the others over their socket: nothing is left however a rank dies. What
 * another rank writes there is data or a note compared with the own one, never an offset. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ops/comm_private.h"

enum { LINE_BYTES = 64 };

/* What the exchange of a parity is meant to carry. */
struct note {
    int64_t from;
    uint64_t bytes;
};

struct slot {
    _Alignas(LINE_BYTES) struct dip_word posted; /* last exchange this rank has posted */
    _Alignas(LINE_BYTES) struct dip_bell bell;   /* its owner sleeps here */
    _Alignas(LINE_BYTES) struct note notes[2];
    _Alignas(4096) char pieces[2][DIP__COMM_PIECE_BYTES];
};

struct shm {
    struct slot *slots; /* [count] */
};

static enum dip_status share(int count, int *ret_fd)
{
    int fd = memfd_create("diptych", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return DIP_NO_MEMORY;
    if (ftruncate(fd, (off_t)((size_t)count * sizeof(struct slot))) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        close(fd);
        return DIP_NO_MEMORY;
    }
    *ret_fd = fd;
    return DIP_OK;
}

static enum dip_status start(struct dip_comm *comm, int shared_fd)
{
    size_t bytes = (size_t)comm->count * sizeof(struct slot);
    struct stat about;
    if (fstat(shared_fd, &about) || (size_t)about.st_size != bytes ||
        !(fcntl(shared_fd, F_GET_SEALS) & F_SEAL_SHRINK))
        return DIP_CORRUPT;
    struct shm *shm = calloc(1, sizeof *shm);
    if (!shm)
        return DIP_NO_MEMORY;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (base == MAP_FAILED) {
        free(shm);
        return DIP_NO_MEMORY;
    }
    shm->slots = base;
    comm->state = shm;
    return DIP_OK;
}

static void stop(struct dip_comm *comm)
{
    struct shm *shm = comm->state;
    if (!shm)
        return;
    munmap(shm->slots, (size_t)comm->count * sizeof(struct slot));
    free(shm);
}

static void wake(struct dip_comm *comm)
{
    struct shm *shm = comm->state;
    dip_bell_ring(&shm->slots[comm->rank].bell);
}

/* ---- exchange ---- */

static void post(struct dip_comm *comm, const struct dip__comm_piece *piece, const void *mine)
{
    const struct shm *shm = comm->state;
    struct slot *own = &shm->slots[comm->rank];
    own->notes[comm->turn & 1] = (struct note){.from = piece->from, .bytes = piece->bytes};
    if (dip__comm_sends(piece, comm->rank) && piece->bytes > 0)
        memcpy(own->pieces[comm->turn & 1], mine, piece->bytes);
    dip_word_set(&own->posted, comm->turn);
    for (int r = 0; r < comm->count; r++)
        if (r != comm->rank)
            dip_bell_ring(&shm->slots[r].bell);
}

static bool has_posted(struct dip_comm *comm, int rank, uint32_t turn)
{
    const struct shm *shm = comm->state;
    return (int32_t)(dip_word_get(&shm->slots[rank].posted) - turn) >= 0;
}

/* BUSY: not yet. A rank that left may have posted just before. */
static enum dip_status look(struct dip_comm *comm, int rank, uint32_t turn)
{
    bool has_left = dip_word_get(&comm->peers[rank].has_left);
    if (has_posted(comm, rank, turn))
        return DIP_OK;
    enum dip_status error = dip_comm_error(comm);
    if (error)
        return error;
    return has_left ? dip__comm_fail(comm, DIP_UNREACHABLE) : DIP_BUSY;
}

/* Sleeps until the rank has posted exchange `turn`; BUSY when that took longer than wait_ns. */
static enum dip_status sleep_for(struct dip_comm *comm, int rank, uint32_t turn, int64_t wait_ns)
{
    const struct shm *shm = comm->state;
    struct dip_bell *bell = &shm->slots[comm->rank].bell;
    int64_t until_ns = dip_clock_now_ns() + wait_ns;
    for (;;) {
        uint32_t heard = dip_bell_listen(bell);
        enum dip_status status = look(comm, rank, turn);
        if (status != DIP_BUSY) {
            dip_bell_leave(bell);
            return status;
        }
        int64_t left_ns = until_ns - dip_clock_now_ns();
        if (left_ns <= 0 || dip_bell_wait(bell, heard, left_ns) == DIP_TIMEOUT) {
            dip_bell_leave(bell);
            return has_posted(comm, rank, turn) ? DIP_OK : DIP_BUSY;
        }
    }
}

static enum dip_status wait_for(struct dip_comm *comm, int rank)
{
    for (int i = 0; i < comm->spin_turns; i++) {
        if (has_posted(comm, rank, comm->turn))
            return DIP_OK;
        dip_spin_pause();
    }
    enum dip_status status = sleep_for(comm, rank, comm->turn, comm->wait_ns_max);
    return status == DIP_BUSY ? dip__comm_fail(comm, DIP_TIMEOUT) : status;
}

static enum dip_status await(struct dip_comm *comm, int from, int64_t wait_ns)
{
    return sleep_for(comm, from, comm->turn + 1, wait_ns);
}

static enum dip_status exchange(struct dip_comm *comm, const struct dip__comm_piece *piece,
                                const void *mine, const void **views)
{
    const struct shm *shm = comm->state;
    comm->turn++;
    post(comm, piece, mine);
    for (int r = 0; r < comm->count; r++) {
        const struct slot *slot = &shm->slots[r];
        if (r != comm->rank) {
            DIP_TRY(wait_for(comm, r));
            struct note note = slot->notes[comm->turn & 1];
            if (note.from != piece->from || note.bytes != piece->bytes)
                return dip__comm_fail(comm, DIP_CORRUPT);
        }
        views[r] = slot->pieces[comm->turn & 1];
    }
    return DIP_OK;
}

const struct dip__comm_backend dip__comm_shm = {.name = "shm",
                                                .channels = 1,
                                                .share = share,
                                                .start = start,
                                                .stop = stop,
                                                .exchange = exchange,
                                                .await = await,
                                                .wake = wake};
