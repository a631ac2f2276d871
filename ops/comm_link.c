/* ops/comm_link.c - collectives on tensors that the host cannot read.
 *
 * A group is made, watched and ended over sockets (comm_join.c, comm_watch.c) whatever its tensors
 * are. Where every rank has a device of its own, and the devices can be linked (NCCL), partials go
 * from device to device: rank 0's id for the link travels in one exchange of the group. Each rank
 * then holds all partials and sums them in the order of comm.c, so the bits are the same. Else a
 * piece at a time goes through host memory, which also serves ranks that share a device.
 *
 * The link knows little of who lives: a rank that died elsewhere leaves the others' devices
 * waiting. So the group's error aborts the link, from whichever thread met it, behind the error:
 * who then returns from dip_wait asks dip_comm_error before believing anything. A rank that lives
 * and does not come is noticed by the watching thread, which asks the link at every heartbeat
 * whether a gather has been under way for longer than wait_ns_max.
 *
 * Threads take turns inside the link. The device thread waits for its turn; the watching thread
 * asks another time; who aborts waits, and leaves the turn at OVER for good. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ops/comm_private.h"
#include "ops/device.h"

struct introduction {
    uint32_t can_link;
    unsigned char identity[DIP__LINK_IDENTITY_BYTES];
};

/* ---- turns ---- */

/* False: the link is over. */
static bool enter(struct dip__comm_link *l)
{
    while (!dip_word_set_once(&l->turn, DIP__COMM_INSIDE)) {
        if (dip_word_get(&l->turn) == DIP__COMM_OVER)
            return false;
        dip_spin_pause();
    }
    return true;
}

static void leave(struct dip__comm_link *l)
{
    dip_word_set(&l->turn, DIP__COMM_NOBODY);
}

/* ---- attaching ---- */

static bool are_apart(const struct introduction *all, int count)
{
    for (int a = 0; a < count; a++) {
        if (!all[a].can_link)
            return false;
        for (int b = 0; b < a; b++)
            if (memcmp(all[a].identity, all[b].identity, sizeof all[a].identity) == 0)
                return false;
    }
    return true;
}

/* All ranks come to the same answer: it depends on what all have said. */
static enum dip_status can_link(struct dip_comm *comm, struct dip_device *device,
                                bool *ret_can_link)
{
    const void *views[DIP_COMM_RANKS_MAX];
    struct introduction all[DIP_COMM_RANKS_MAX];
    struct introduction mine = {0};
    if (device->ops->link_identity)
        mine.can_link = device->ops->link_identity(device, mine.identity) == DIP_OK;
    DIP_TRY(dip__comm_tell(comm, &mine, sizeof mine, views));
    for (int r = 0; r < comm->count; r++)
        memcpy(&all[r], views[r], sizeof all[r]);
    *ret_can_link = are_apart(all, comm->count);
    return DIP_OK;
}

/* Connections that a link makes at its first gather have no place in a recorded step. */
static enum dip_status gather_first(struct dip_comm *comm, struct dip_stream *s)
{
    enum { BYTES = 16 };
    char *all = comm->link.parts.base;
    dip_assert(comm->link.part_bytes >= BYTES);
    DIP_TRY(dip__comm_link_gather(comm, s, all, all + (size_t)comm->rank * BYTES, BYTES));
    DIP_TRY(dip_wait(s));
    return dip_comm_error(comm);
}

static enum dip_status link_devices(struct dip_comm *comm, struct dip_stream *s, size_t bytes_max)
{
    struct dip__comm_link *l = &comm->link;
    struct {
        enum dip_status status;
        unsigned char id[DIP__LINK_ID_BYTES];
    } word = {0};
    if (comm->rank == 0)
        word.status = l->ops->link_id(l->device, word.id);
    DIP_TRY(dip_comm_broadcast(comm, 0, &word, sizeof word));
    if (word.status)
        return word.status;
    l->part_bytes = bytes_max;
    DIP_TRY(dip_reserve(l->device, bytes_max * (size_t)comm->count, &l->parts));
    struct dip__link_options options = {.id = word.id,
                                        .rank = comm->rank,
                                        .count = comm->count,
                                        .join_ns_max = comm->join_ns_max,
                                        .wait_ns_max = comm->wait_ns_max,
                                        .ended = &comm->error};
    dip_word_set(&l->turn, DIP__COMM_INSIDE); /* nobody asks a link that is being made */
    enum dip_status status = l->ops->link_open(s, &options, &l->link);
    leave(l);
    return status ? dip__comm_fail(comm, status) : gather_first(comm, s);
}

enum dip_status dip_comm_attach(struct dip_comm *comm, struct dip_stream *s, size_t bytes_max)
{
    struct dip__comm_link *l = &comm->link;
    struct dip_device *device = dip_stream_device(s);
    bool is_linked = false;
    if (dip_device_reads_host(device))
        return DIP_OK;
    dip_assert(!l->device);
    l->staging = malloc(DIP__COMM_PIECE_BYTES);
    if (!l->staging)
        return DIP_NO_MEMORY;
    l->device = device;
    l->ops = device->ops;
    if (comm->count == 1)
        return DIP_OK;
    DIP_TRY(can_link(comm, device, &is_linked));
    return is_linked ? link_devices(comm, s, bytes_max) : DIP_OK;
}

void dip_comm_detach(struct dip_comm *comm)
{
    struct dip__comm_link *l = &comm->link;
    if (!l->device)
        return;
    (void)enter(l); /* nobody else comes in any more */
    dip_word_set(&l->turn, DIP__COMM_OVER);
    if (l->link)
        l->ops->link_close(l->link);
    dip_release(l->device, &l->parts);
    free(l->staging);
    l->link = NULL;
    l->staging = NULL;
    l->device = NULL;
}

const char *dip_comm_transport(const struct dip_comm *comm)
{
    if (comm->link.link)
        return "nccl";
    return comm->backend ? comm->backend->name : "none";
}

/* ---- the link's end ---- */

void dip__comm_link_abort(struct dip_comm *comm)
{
    struct dip__comm_link *l = &comm->link;
    if (!l->ops || !enter(l))
        return;
    if (l->link)
        l->ops->link_abort(l->link);
    dip_word_set(&l->turn, DIP__COMM_OVER);
}

enum dip_status dip__comm_link_error(struct dip_comm *comm)
{
    struct dip__comm_link *l = &comm->link;
    enum dip_status status = DIP_OK;
    if (!dip_word_set_once(&l->turn, DIP__COMM_INSIDE))
        return DIP_OK;
    if (l->link)
        status = l->ops->link_error(l->link);
    leave(l);
    return status;
}

/* ---- through the host ---- */

enum dip_status dip__comm_to_host(struct dip_comm *comm, struct dip_stream *s, const void **piece,
                                  size_t bytes)
{
    struct dip__comm_link *l = &comm->link;
    if (!l->device)
        return DIP_OK;
    dip_assert(bytes <= DIP__COMM_PIECE_BYTES);
    void *from = (void *)(uintptr_t)*piece;
    DIP_TRY(dip_copy(s, dip_tensor_1d(l->staging, DIP_U8, (int64_t)bytes),
                     dip_tensor_1d(from, DIP_U8, (int64_t)bytes)));
    *piece = l->staging;
    return dip_wait(s);
}

enum dip_status dip__comm_from_host(struct dip_comm *comm, struct dip_stream *s, void *to,
                                    const void *from, size_t bytes)
{
    if (!comm->link.device) {
        if (to != from)
            memcpy(to, from, bytes);
        return DIP_OK;
    }
    void *source = (void *)(uintptr_t)from;
    return dip_copy(s, dip_tensor_1d(to, DIP_U8, (int64_t)bytes),
                    dip_tensor_1d(source, DIP_U8, (int64_t)bytes));
}

/* ---- from device to device ---- */

/* A recording holds the link's gathers: it may be launched while the link lives, by whose turn it
 * is.
 */
static enum dip_status launch_enter(void *context)
{
    struct dip_comm *comm = context;
    DIP_TRY(dip_comm_error(comm));
    return enter(&comm->link) ? DIP_OK : dip_comm_error(comm);
}

static enum dip_status launch_leave(struct dip_stream *s, void *context)
{
    struct dip_comm *comm = context;
    enum dip_status status = comm->link.ops->link_mark(s, comm->link.link);
    leave(&comm->link);
    return status ? dip__comm_fail(comm, status) : DIP_OK;
}

enum dip_status dip__comm_link_gather(struct dip_comm *comm, struct dip_stream *s, void *all,
                                      const void *mine, size_t bytes)
{
    struct dip__comm_link *l = &comm->link;
    DIP_TRY(dip_comm_error(comm));
    if (!enter(l))
        return dip_comm_error(comm);
    if (s->recording)
        dip__graph_guard(s, &(struct dip__guard){launch_enter, launch_leave, comm});
    enum dip_status status = l->ops->link_gather(s, l->link, all, mine, bytes);
    leave(l);
    return status ? dip__comm_fail(comm, status) : DIP_OK;
}

enum dip_status dip__comm_link_sum(struct dip_comm *comm, struct dip_stream *s, void *partial,
                                   size_t bytes)
{
    struct dip__comm_link *l = &comm->link;
    for (size_t done = 0; done < bytes; done += l->part_bytes) {
        size_t count = bytes - done < l->part_bytes ? bytes - done : l->part_bytes;
        char *at = (char *)partial + done;
        DIP_TRY(dip__comm_link_gather(comm, s, l->parts.base, at, count));
        DIP_TRY(l->ops->tree_sum(s, (float *)(void *)at, l->parts.base, comm->count,
                                 (int64_t)(count / sizeof(float))));
    }
    return DIP_OK;
}
