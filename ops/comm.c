/* ops/comm.c - collectives out of exchanges, and the life of a group.
 *
 * An exchange lets every rank read a piece of every other (comm_shm.c, comm_tcp.c). Everything else
 * is made of it here, once: a long tensor goes in pieces; a sum is computed by every rank for
 * itself from all partials, in the one order that dip_linear's chunk tree has, so that there is no
 * second exchange to wait for. That moves (n - 1) partials to each rank: right for the few rows of
 * decoding, where the wait is what costs; a long prompt over many ranks would want a scattered sum
 * of the same order instead. */
#include "ops/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/pool.h"
#include "ops/comm_private.h"
#include "ops/comm_socket.h"
#include "ops/device.h"

enum { SPIN_TURNS = 2000, SUM_BLOCK = 64 };

static const int64_t SILENCE_NS_MAX = DIP_SECOND_NS;
static const int64_t WAIT_NS_MAX = 10 * DIP_SECOND_NS;

/* ---- life ---- */

static struct dip_comm *comm_new(const struct dip_comm_options *options)
{
    struct dip_comm *comm = calloc(1, sizeof *comm);
    if (!comm)
        return NULL;
    comm->rank = options->rank;
    comm->count = options->count;
    comm->silence_ns_max = options->silence_ns_max ? options->silence_ns_max : SILENCE_NS_MAX;
    comm->wait_ns_max = options->wait_ns_max ? options->wait_ns_max : WAIT_NS_MAX;
    comm->join_ns_max = options->join_ns_max ? options->join_ns_max : DIP__COMM_JOIN_NS_MAX;
    comm->spin_turns = options->count <= dip_cpu_count() ? SPIN_TURNS : 0;
    comm->watch_wake = -1;
    for (int r = 0; r < DIP_COMM_RANKS_MAX; r++)
        for (int c = 0; c < DIP__COMM_CHANNELS; c++)
            comm->peers[r].fds[c] = -1;
    return comm;
}

enum dip_status dip_comm_open(const struct dip_comm_options *options, struct dip_why *why,
                              struct dip_comm **ret_comm)
{
    dip_assert(options->count >= 1 && options->count <= DIP_COMM_RANKS_MAX);
    dip_assert(options->rank >= 0 && options->rank < options->count);
    enum dip_status status = DIP_NO_MEMORY;
    int shared_fd = -1;
    struct dip_comm *comm = comm_new(options);
    if (!comm)
        goto out;
    if (comm->count > 1) {
        status = dip__comm_join(comm, options, why, &shared_fd);
        if (status)
            goto out;
        status = comm->backend->start(comm, shared_fd);
        if (status)
            goto out;
        status = dip__comm_watch_start(comm);
        if (status)
            goto out;
    }
    *ret_comm = comm;
    comm = NULL;
    status = DIP_OK;
out:
    dip__socket_close(shared_fd);
    dip_comm_close(comm);
    return status;
}

void dip_comm_close(struct dip_comm *comm)
{
    if (!comm)
        return;
    dip__comm_watch_stop(comm); /* first: it may wake the backend */
    dip_assert(!comm->link.device);
    if (comm->state)
        comm->backend->stop(comm);
    for (int r = 0; r < comm->count; r++)
        for (int c = 0; c < DIP__COMM_CHANNELS; c++)
            dip__socket_close(comm->peers[r].fds[c]);
    free(comm);
}

int dip_comm_rank(const struct dip_comm *comm)
{
    return comm->rank;
}

int dip_comm_count(const struct dip_comm *comm)
{
    return comm->count;
}

enum dip_status dip_comm_error(struct dip_comm *comm)
{
    return (enum dip_status)dip_word_get(&comm->error);
}

int dip_comm_missing(struct dip_comm *comm)
{
    return (int)dip_word_get(&comm->missing) - 1;
}

enum dip_status dip__comm_fail(struct dip_comm *comm, enum dip_status status)
{
    dip_assert(status != DIP_OK);
    if (dip_word_set_once(&comm->error, status) && comm->backend) {
        comm->backend->wake(comm);
        dip__comm_watch_wake(comm);
        dip__comm_link_abort(comm); /* behind the error, for whoever waits for the device sees it */
    }
    return dip_comm_error(comm);
}

void dip_comm_abort(struct dip_comm *comm)
{
    (void)dip__comm_fail(comm, DIP_CANCELLED);
}

/* ---- collectives ---- */

static size_t tensor_bytes(struct dip_tensor t)
{
    return (size_t)dip_tensor_count(t) * dip_dtype_bytes(t.dtype);
}

static size_t piece_bytes(size_t left)
{
    return left < DIP__COMM_PIECE_BYTES ? left : (size_t)DIP__COMM_PIECE_BYTES;
}

static enum dip_status exchange(struct dip_comm *comm, int from, size_t bytes, const void *mine,
                                const void **views)
{
    DIP_TRY(dip_comm_error(comm));
    if (comm->count == 1) {
        views[0] = mine;
        return DIP_OK;
    }
    struct dip__comm_piece piece = {.from = from, .bytes = bytes};
    return comm->backend->exchange(comm, &piece, mine, views);
}

enum dip_status dip__comm_tell(struct dip_comm *comm, const void *mine, size_t bytes,
                               const void **views)
{
    return exchange(comm, DIP__COMM_EVERYONE, bytes, mine, views);
}

static enum dip_status gather_again(struct dip_stream *s, const struct dip__pause *pause)
{
    return dip_comm_gather(pause->context, s, pause->a, pause->b);
}

enum dip_status dip_comm_gather(struct dip_comm *comm, struct dip_stream *s, struct dip_tensor all,
                                struct dip_tensor mine)
{
    size_t bytes = tensor_bytes(mine);
    dip_assert(dip_tensor_is_dense(all));
    dip_assert(dip_tensor_is_dense(mine));
    dip_assert(all.dtype == mine.dtype);
    dip_assert(tensor_bytes(all) == bytes * (size_t)comm->count);
    if (comm->link.link)
        return dip__comm_link_gather(comm, s, all.data, mine.data, bytes);
    if (s->recording)
        return dip__graph_pause(
            s, &(struct dip__pause){.run = gather_again, .context = comm, .a = all, .b = mine});
    DIP_TRY(dip_wait(s));
    for (size_t done = 0; done < bytes;) {
        const void *views[DIP_COMM_RANKS_MAX] = {NULL};
        size_t count = piece_bytes(bytes - done);
        const void *piece = (const char *)mine.data + done;
        DIP_TRY(dip__comm_to_host(comm, s, &piece, count));
        DIP_TRY(exchange(comm, DIP__COMM_EVERYONE, count, piece, views));
        for (int r = 0; r < comm->count; r++)
            DIP_TRY(dip__comm_from_host(comm, s, (char *)all.data + (size_t)r * bytes + done,
                                        views[r], count));
        done += count;
    }
    return DIP_OK;
}

/* Fixed trip counts and no aliasing: the compiler turns these into vector code by itself. */
static void add_block(float *restrict out, const float *restrict a, const float *restrict b)
{
    for (int i = 0; i < SUM_BLOCK; i++)
        out[i] = a[i] + b[i];
}

/* One block of the tree over all ranks. Neighbours join first: a rank's partial is itself a
 * sub-tree of neighbouring chunks. */
static void sum_block(int ranks, const float *const *partials, float *out)
{
    dip_assert(ranks >= 2);
    float sums[DIP_COMM_RANKS_MAX / 2][SUM_BLOCK];
    float joined[SUM_BLOCK];
    for (int r = 0; r < ranks; r += 2)
        add_block(sums[r / 2], partials[r], partials[r + 1]);
    for (int pairs = ranks / 4; pairs > 0; pairs /= 2) {
        for (int r = 0; r < pairs; r++) {
            add_block(joined, sums[2 * r], sums[2 * r + 1]);
            memcpy(sums[r], joined, sizeof joined);
        }
    }
    memcpy(out, sums[0], sizeof sums[0]);
}

static void sum_piece(int ranks, const void *const *views, size_t count, float *out)
{
    const float *partials[DIP_COMM_RANKS_MAX] = {NULL};
    size_t whole = count - count % SUM_BLOCK;
    for (size_t i = 0; i < whole; i += SUM_BLOCK) {
        for (int r = 0; r < ranks; r++)
            partials[r] = (const float *)views[r] + i;
        sum_block(ranks, partials, out + i);
    }
    if (whole == count)
        return;
    float padded[DIP_COMM_RANKS_MAX][SUM_BLOCK] = {{0}};
    float sums[SUM_BLOCK];
    for (int r = 0; r < ranks; r++) {
        memcpy(padded[r], (const float *)views[r] + whole, (count - whole) * sizeof(float));
        partials[r] = padded[r];
    }
    sum_block(ranks, partials, sums);
    memcpy(out + whole, sums, (count - whole) * sizeof(float));
}

static enum dip_status sum_again(struct dip_stream *s, const struct dip__pause *pause)
{
    return dip_comm_sum(pause->context, s, pause->a);
}

enum dip_status dip_comm_sum(struct dip_comm *comm, struct dip_stream *s, struct dip_tensor partial)
{
    dip_assert((comm->count & (comm->count - 1)) == 0);
    dip_assert(partial.dtype == DIP_F32);
    dip_assert(dip_tensor_is_dense(partial));
    if (comm->count == 1)
        return dip_comm_error(comm);
    size_t bytes = tensor_bytes(partial);
    if (comm->link.link)
        return dip__comm_link_sum(comm, s, partial.data, bytes);
    if (s->recording)
        return dip__graph_pause(
            s, &(struct dip__pause){.run = sum_again, .context = comm, .a = partial});
    DIP_TRY(dip_wait(s));
    for (size_t done = 0; done < bytes;) {
        const void *views[DIP_COMM_RANKS_MAX] = {NULL};
        size_t count = piece_bytes(bytes - done);
        char *at = (char *)partial.data + done;
        const void *piece = at;
        DIP_TRY(dip__comm_to_host(comm, s, &piece, count));
        DIP_TRY(exchange(comm, DIP__COMM_EVERYONE, count, piece, views));
        float *sum = comm->link.staging ? comm->link.staging : (float *)(void *)at;
        sum_piece(comm->count, views, count / sizeof(float), sum);
        DIP_TRY(dip__comm_from_host(comm, s, at, sum, count));
        done += count;
    }
    return DIP_OK;
}

enum dip_status dip_comm_await(struct dip_comm *comm, int from, int64_t wait_ns)
{
    dip_assert(from >= 0 && from < comm->count);
    dip_assert(from != comm->rank);
    DIP_TRY(dip_comm_error(comm));
    return comm->backend->await(comm, from, wait_ns);
}

enum dip_status dip_comm_broadcast(struct dip_comm *comm, int from, void *data, size_t bytes)
{
    dip_assert(from >= 0 && from < comm->count);
    dip_assert(bytes <= DIP_COMM_SMALL_BYTES_MAX);
    const void *views[DIP_COMM_RANKS_MAX];
    DIP_TRY(exchange(comm, from, bytes, data, views));
    if (from != comm->rank && bytes > 0)
        memcpy(data, views[from], bytes);
    return DIP_OK;
}
