/* ops/comm_watch.c - the thread that tells who lives.
 *
 * Each pair of ranks has a connection of which this thread owns the near end. Over it go single
 * bytes: a heartbeat four times per silence_ns_max, a good-bye, or a status that ends the group for
 * all. The kernel closes the connection of a dead process, which is seen at once; a stopped
 * process, a hung machine or a cut network is seen by its silence. Silence is judged after
 * everything that came has been read, so a process that was itself stopped does not accuse the
 * others when it wakes up.
 *
 * Heartbeats come from this thread, not from the device thread: a rank may compute for long between
 * two collectives and is not lost for it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "ops/comm_private.h"
#include "ops/comm_socket.h"

enum { BEATS_PER_SILENCE = 4, BEAT = 0, GOOD_BYE = 255 };
static_assert((int)DIP_STATUS_COUNT < (int)GOOD_BYE, "a status is a byte of its own");

struct watch {
    struct dip_comm *comm;
    int64_t beat_ns; /* from one heartbeat to the next */
    int64_t next_beat_ns;
    int64_t heard_ns[DIP_COMM_RANKS_MAX];
    bool is_over[DIP_COMM_RANKS_MAX]; /* nothing more is expected from this rank */
    bool is_told;
};

void dip__event_set(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one); /* fails only when it is set already */
    (void)written;
}

void dip__event_clear(int fd)
{
    uint64_t count = 0;
    ssize_t got = read(fd, &count, sizeof count);
    (void)got;
}

/* Never waits: a full buffer means that the other side does not read, which is its own bad sign. */
static void tell_all(struct dip_comm *comm, uint8_t byte)
{
    for (int r = 0; r < comm->count; r++)
        if (r != comm->rank)
            (void)send(comm->peers[r].fds[DIP__COMM_LIFE], &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void lose(struct watch *w, int rank, enum dip_status status)
{
    w->is_over[rank] = true;
    (void)dip__comm_fail(w->comm, status);
}

/* Noticed here, not heard of from another rank. */
static void miss(struct watch *w, int rank, enum dip_status status)
{
    if (!dip_comm_error(w->comm))
        (void)dip_word_set_once(&w->comm->missing, (uint32_t)rank + 1);
    lose(w, rank, status);
}

static void hear(struct watch *w, int rank, uint8_t byte)
{
    struct dip_comm *comm = w->comm;
    if (byte == BEAT)
        return;
    if (byte != GOOD_BYE) {
        lose(w, rank, byte < DIP_STATUS_COUNT ? (enum dip_status)byte : DIP_CORRUPT);
        return;
    }
    w->is_over[rank] = true;
    dip_word_set(&comm->peers[rank].has_left, 1);
    comm->backend->wake(comm);
}

static void listen_to(struct watch *w, int rank)
{
    uint8_t bytes[64];
    while (!w->is_over[rank]) {
        ssize_t got =
            recv(w->comm->peers[rank].fds[DIP__COMM_LIFE], bytes, sizeof bytes, MSG_DONTWAIT);
        for (ssize_t i = 0; i < got && !w->is_over[rank]; i++)
            hear(w, rank, bytes[i]);
        if (got > 0)
            w->heard_ns[rank] = dip_clock_now_ns();
        else if (got < 0 && errno == EINTR)
            continue;
        else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        else if (!w->is_over[rank])
            miss(w, rank, DIP_UNREACHABLE);
    }
}

static void wait_for_news(struct watch *w)
{
    struct dip_comm *comm = w->comm;
    struct pollfd fds[DIP_COMM_RANKS_MAX + 1];
    for (int r = 0; r < comm->count; r++) {
        bool is_mute = r == comm->rank || w->is_over[r];
        fds[r] = (struct pollfd){.fd = is_mute ? -1 : comm->peers[r].fds[DIP__COMM_LIFE],
                                 .events = POLLIN};
    }
    fds[comm->count] = (struct pollfd){.fd = comm->watch_wake, .events = POLLIN};
    int64_t left_ns = w->next_beat_ns - dip_clock_now_ns();
    int left_ms = left_ns <= 0 ? 0 : (int)(left_ns / DIP_MS_NS) + 1;
    if (poll(fds, (nfds_t)comm->count + 1, left_ms) > 0 && fds[comm->count].revents)
        dip__event_clear(comm->watch_wake);
}

static void keep_time(struct watch *w)
{
    struct dip_comm *comm = w->comm;
    int64_t now_ns = dip_clock_now_ns();
    if (now_ns < w->next_beat_ns)
        return;
    tell_all(comm, BEAT);
    enum dip_status status = dip__comm_link_error(comm);
    if (status)
        (void)dip__comm_fail(comm, status);
    w->next_beat_ns = now_ns + w->beat_ns;
    for (int r = 0; r < comm->count; r++)
        if (r != comm->rank && !w->is_over[r] && now_ns - w->heard_ns[r] > comm->silence_ns_max)
            miss(w, r, DIP_TIMEOUT);
}

static void *watch_main(void *argument)
{
    struct dip_comm *comm = argument;
    struct watch w = {.comm = comm, .beat_ns = comm->silence_ns_max / BEATS_PER_SILENCE};
    w.next_beat_ns = dip_clock_now_ns() + w.beat_ns;
    for (int r = 0; r < comm->count; r++)
        w.heard_ns[r] = dip_clock_now_ns();
    for (;;) {
        bool is_closing = dip_word_get(&comm->is_closing); /* before the last look at the error */
        for (int r = 0; r < comm->count; r++)
            if (r != comm->rank)
                listen_to(&w, r);
        keep_time(&w);
        uint32_t error = dip_word_get(&comm->error);
        if (error && !w.is_told)
            tell_all(comm, (uint8_t)error);
        w.is_told = error != 0;
        if (is_closing)
            break;
        wait_for_news(&w);
    }
    if (!w.is_told)
        tell_all(comm, GOOD_BYE);
    return NULL;
}

/* Signals belong to the main thread: this one inherits a full mask. */
enum dip_status dip__comm_watch_start(struct dip_comm *comm)
{
    comm->watch_wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (comm->watch_wake < 0)
        return DIP_NO_MEMORY;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    comm->is_watched = pthread_create(&comm->watch_thread, NULL, watch_main, comm) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return comm->is_watched ? DIP_OK : DIP_NO_MEMORY;
}

void dip__comm_watch_wake(struct dip_comm *comm)
{
    if (comm->watch_wake >= 0)
        dip__event_set(comm->watch_wake);
}

void dip__comm_watch_stop(struct dip_comm *comm)
{
    if (comm->is_watched) {
        dip_word_set(&comm->is_closing, 1);
        dip__comm_watch_wake(comm);
        pthread_join(comm->watch_thread, NULL);
    }
    dip__socket_close(comm->watch_wake);
}
