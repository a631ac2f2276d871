/* ops/comm_private.h - a group from the inside: what its files share.
 *
 *   comm.c        the front door: collectives out of exchanges, the end of a group
 *   comm_join.c   from an id to a full mesh of sockets
 *   comm_watch.c  the thread that tells who lives
 *   comm_shm.c    exchange through shared memory      comm_tcp.c    exchange through sockets
 *   comm_socket.c sockets with deadlines
 *   comm_link.c   tensors in a device's own memory */
#pragma once

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/futex.h"
#include "ops/comm.h"

enum {
    DIP__COMM_PIECE_BYTES = 256 << 10, /* of one rank in one exchange */
    DIP__COMM_KEY_BYTES = 16,
    DIP__COMM_EVERYONE = -1,
};
#define DIP__COMM_JOIN_NS_MAX (30 * DIP_SECOND_NS)
static_assert((int)DIP_COMM_SMALL_BYTES_MAX <= (int)DIP__COMM_PIECE_BYTES, "one exchange");

/* Sockets of a pair. Only tcp has a data channel. */
enum dip__comm_channel { DIP__COMM_LIFE, DIP__COMM_DATA, DIP__COMM_CHANNELS };

struct dip__comm_peer {
    int fds[DIP__COMM_CHANNELS]; /* -1 = none; LIFE is the watching thread's, DATA the device's */
    struct dip_word has_left;    /* said good-bye: no error unless we still wait for it */
};

struct dip__comm_backend;

/* Where tensors are not the host's (comm_link.c). Zeroed on the CPU. */
struct dip__comm_link {
    struct dip_device *device; /* NULL: not attached, or it reads host memory */
    const struct dip_ops *ops;
    float *staging;        /* [a piece] host: what goes out, then what was summed */
    struct dip_link *link; /* NULL: through the host */
    struct dip_mem parts;  /* device: the partials of all ranks */
    size_t part_bytes;     /* of one rank */
    struct dip_word turn;  /* who is inside the link: enum dip__comm_turn */
};

/* Two threads know the link, and the library behind it wants one at a time. */
enum dip__comm_turn { DIP__COMM_NOBODY, DIP__COMM_INSIDE, DIP__COMM_OVER };

struct dip_comm {
    int rank;
    int count;
    int spin_turns; /* 0 when ranks outnumber processors */
    int64_t silence_ns_max;
    int64_t wait_ns_max;
    int64_t join_ns_max;
    const struct dip__comm_backend *backend;
    void *state;   /* the backend's */
    uint32_t turn; /* exchanges so far; device thread */

    struct dip__comm_link link;
    struct dip_word error;   /* enum dip_status, set once */
    struct dip_word missing; /* rank + 1, set once, before the error it explains */
    struct dip_word is_closing;
    int watch_wake; /* eventfd: something for the watching thread */
    bool is_watched;
    pthread_t watch_thread;
    struct dip__comm_peer peers[DIP_COMM_RANKS_MAX];
};

/* What one exchange carries; equal on all ranks. */
struct dip__comm_piece {
    int from; /* a rank, or DIP__COMM_EVERYONE */
    size_t bytes;
};

struct dip__comm_backend {
    const char *name;
    int channels;
    /* Rank 0 makes what the others will be given (*ret_fd, or -1). */
    enum dip_status (*share)(int count, int *ret_fd);
    /* Once all sockets stand. shared_fd stays the caller's. */
    enum dip_status (*start)(struct dip_comm *comm, int shared_fd);
    void (*stop)(struct dip_comm *comm);
    /* views[r] = the piece of rank r, to be read until the next exchange; of ranks that send
     * nothing, undefined. `mine` may be views[rank]. */
    enum dip_status (*exchange)(struct dip_comm *comm, const struct dip__comm_piece *piece,
                                const void *mine, const void **views);
    /* OK: rank `from` has begun the next exchange. BUSY: not within wait_ns. */
    enum dip_status (*await)(struct dip_comm *comm, int from, int64_t wait_ns);
    /* Wakes an exchange that waits, so that it sees comm->error. Any thread. */
    void (*wake)(struct dip_comm *comm);
};

extern const struct dip__comm_backend dip__comm_shm;
extern const struct dip__comm_backend dip__comm_tcp;

/* Whether a rank takes part in a piece with bytes of its own. */
static inline bool dip__comm_sends(const struct dip__comm_piece *piece, int rank)
{
    return piece->from == DIP__COMM_EVERYONE || piece->from == rank;
}

/* Ends the group with a status (the first one stays), tells everyone, returns the one that stayed.
 * Any thread. */
enum dip_status dip__comm_fail(struct dip_comm *comm, enum dip_status status);

/* ---- joining ---- */

/* Fills peers[] and hands the backend's shared object over; *ret_fd is then the caller's. */
enum dip_status dip__comm_join(struct dip_comm *comm, const struct dip_comm_options *options,
                               struct dip_why *why, int *ret_fd);

/* ---- devices ---- */

/* *piece, of device memory, in the staging; of host memory it stays. Waits. */
DIP_MUST_USE enum dip_status dip__comm_to_host(struct dip_comm *comm, struct dip_stream *s,
                                               const void **piece, size_t bytes);
DIP_MUST_USE enum dip_status dip__comm_from_host(struct dip_comm *comm, struct dip_stream *s,
                                                 void *to, const void *from, size_t bytes);
DIP_MUST_USE enum dip_status dip__comm_link_gather(struct dip_comm *comm, struct dip_stream *s,
                                                   void *all, const void *mine, size_t bytes);
DIP_MUST_USE enum dip_status dip__comm_link_sum(struct dip_comm *comm, struct dip_stream *s,
                                                void *partial, size_t bytes);
/* From any thread, once the group has an error: whoever waits for the link on the device is let go.
 */
void dip__comm_link_abort(struct dip_comm *comm);
/* What the link knows of its own; the watching thread asks. */
enum dip_status dip__comm_link_error(struct dip_comm *comm);

/* What every rank says, to all: for small things of the group's own. */
DIP_MUST_USE enum dip_status dip__comm_tell(struct dip_comm *comm, const void *mine, size_t bytes,
                                            const void **views);

/* ---- watching ---- */

enum dip_status dip__comm_watch_start(struct dip_comm *comm);
void dip__comm_watch_stop(struct dip_comm *comm);
void dip__comm_watch_wake(struct dip_comm *comm);

/* Wakes a thread that polls an eventfd, and takes the wake-up back. */
void dip__event_set(int fd);
void dip__event_clear(int fd);
