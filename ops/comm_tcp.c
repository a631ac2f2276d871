/* ops/comm_tcp.c - exchange through sockets: send the own piece to everyone, receive theirs.
 *
 * Each pair has one connection for data. All sends and receives of an exchange advance together in
 * one loop, so that two ranks with full buffers cannot wait for each other. A frame is a header and
 * the piece; a rank may be one exchange ahead, its bytes wait in the socket. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ops/comm_private.h"
#include "ops/comm_socket.h"

struct header {
    uint32_t turn;
    int32_t from;
    uint64_t bytes;
};

/* How far the exchange has come with one rank. */
struct lane {
    size_t sent, send_bytes;
    size_t received, receive_bytes; /* header included */
    bool is_cut;                    /* the connection ended */
    struct header header;           /* theirs */
    char piece[DIP__COMM_PIECE_BYTES];
};

struct tcp {
    int wake_event;
    struct lane lanes[]; /* [count] */
};

static enum dip_status share(int count, int *ret_fd)
{
    (void)count;
    *ret_fd = -1;
    return DIP_OK;
}

static enum dip_status start(struct dip_comm *comm, int shared_fd)
{
    (void)shared_fd;
    size_t bytes = sizeof(struct tcp) + (size_t)comm->count * sizeof(struct lane);
    struct tcp *tcp = calloc(1, bytes);
    if (!tcp)
        return DIP_NO_MEMORY;
    tcp->wake_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (tcp->wake_event < 0) {
        free(tcp);
        return DIP_NO_MEMORY;
    }
    comm->state = tcp;
    return DIP_OK;
}

static void stop(struct dip_comm *comm)
{
    struct tcp *tcp = comm->state;
    if (!tcp)
        return;
    dip__socket_close(tcp->wake_event);
    free(tcp);
}

static void wake(struct dip_comm *comm)
{
    struct tcp *tcp = comm->state;
    dip__event_set(tcp->wake_event);
}

/* ---- exchange ---- */

/* Two parts from byte `done` on; returns how many are left. */
static int skip(struct iovec *parts, size_t done)
{
    if (done < parts[0].iov_len) {
        parts[0].iov_base = (char *)parts[0].iov_base + done;
        parts[0].iov_len -= done;
        return parts[1].iov_len > 0 ? 2 : 1;
    }
    done -= parts[0].iov_len;
    parts[0].iov_base = (char *)parts[1].iov_base + done;
    parts[0].iov_len = parts[1].iov_len - done;
    return 1;
}

/* Nothing moved: later, or never again. Why the connection ended is the watching thread's to find
 * out: the peer may have said it there. */
static void count_moved(struct lane *lane, ssize_t bytes, size_t *total)
{
    if (bytes > 0)
        *total += (size_t)bytes;
    else if (bytes == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        lane->is_cut = true;
}

static void push(struct dip_comm *comm, int rank, struct header *header, const void *mine)
{
    struct tcp *tcp = comm->state;
    struct lane *lane = &tcp->lanes[rank];
    if (lane->is_cut || lane->sent == lane->send_bytes)
        return;
    struct iovec parts[2] = {
        {.iov_base = header, .iov_len = sizeof *header},
        {.iov_base = (void *)mine, .iov_len = lane->send_bytes - sizeof *header}};
    int count = skip(parts, lane->sent);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    int fd = comm->peers[rank].fds[DIP__COMM_DATA];
    count_moved(lane, sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT), &lane->sent);
}

/* Never more than this exchange's bytes: what follows belongs to the next. The header is compared
 * as soon as it is there: a rank that does something else may never send the rest. */
static enum dip_status pull(struct dip_comm *comm, int rank, const struct header *own)
{
    struct tcp *tcp = comm->state;
    struct lane *lane = &tcp->lanes[rank];
    if (lane->is_cut || lane->received == lane->receive_bytes)
        return DIP_OK;
    struct iovec parts[2] = {
        {.iov_base = &lane->header, .iov_len = sizeof lane->header},
        {.iov_base = lane->piece, .iov_len = lane->receive_bytes - sizeof lane->header}};
    int count = skip(parts, lane->received);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    int fd = comm->peers[rank].fds[DIP__COMM_DATA];
    count_moved(lane, recvmsg(fd, &message, MSG_DONTWAIT), &lane->received);
    if (lane->received >= sizeof lane->header && memcmp(&lane->header, own, sizeof *own) != 0)
        return dip__comm_fail(comm, DIP_CORRUPT);
    return DIP_OK;
}

static void begin(struct dip_comm *comm, const struct dip__comm_piece *piece)
{
    struct tcp *tcp = comm->state;
    size_t own = dip__comm_sends(piece, comm->rank) ? piece->bytes : 0;
    for (int r = 0; r < comm->count; r++) {
        struct lane *lane = &tcp->lanes[r];
        size_t theirs = dip__comm_sends(piece, r) ? piece->bytes : 0;
        bool is_self = r == comm->rank;
        lane->sent = 0;
        lane->received = 0;
        lane->send_bytes = is_self ? 0 : sizeof(struct header) + own;
        lane->receive_bytes = is_self ? 0 : sizeof(struct header) + theirs;
    }
}

static bool is_open(const struct lane *lane)
{
    return lane->sent < lane->send_bytes || lane->received < lane->receive_bytes;
}

/* Fills fds with what can still move and the wake-up; 0 when all is done. */
static int list_open(struct dip_comm *comm, struct pollfd *fds)
{
    const struct tcp *tcp = comm->state;
    int count = 0;
    bool is_any_open = false;
    for (int r = 0; r < comm->count; r++) {
        const struct lane *lane = &tcp->lanes[r];
        short events = 0;
        if (lane->sent < lane->send_bytes)
            events |= POLLOUT;
        if (lane->received < lane->receive_bytes)
            events |= POLLIN;
        is_any_open = is_any_open || is_open(lane);
        if (events && !lane->is_cut)
            fds[count++] =
                (struct pollfd){.fd = comm->peers[r].fds[DIP__COMM_DATA], .events = events};
    }
    if (!is_any_open)
        return 0;
    fds[count++] = (struct pollfd){.fd = tcp->wake_event, .events = POLLIN};
    return count;
}

/* Someone went in good order while this rank still waits for it. */
static bool is_left_alone(struct dip_comm *comm)
{
    const struct tcp *tcp = comm->state;
    for (int r = 0; r < comm->count; r++)
        if (tcp->lanes[r].is_cut && is_open(&tcp->lanes[r]) &&
            dip_word_get(&comm->peers[r].has_left))
            return true;
    return false;
}

static enum dip_status wait_for_any(struct dip_comm *comm, struct pollfd *fds, int count,
                                    int64_t until_ns)
{
    enum dip_status error = dip_comm_error(comm);
    if (error)
        return error;
    if (is_left_alone(comm))
        return dip__comm_fail(comm, DIP_UNREACHABLE);
    int64_t left_ns = until_ns - dip_clock_now_ns();
    if (left_ns <= 0)
        return dip__comm_fail(comm, DIP_TIMEOUT);
    int64_t left_ms = left_ns / DIP_MS_NS + 1;
    int ready = poll(fds, (nfds_t)count, left_ms < 60000 ? (int)left_ms : 60000);
    if (ready < 0 && errno != EINTR)
        return dip__comm_fail(comm, DIP_IO);
    const struct tcp *tcp = comm->state;
    if (ready > 0 && fds[count - 1].revents)
        dip__event_clear(tcp->wake_event);
    return DIP_OK;
}

static enum dip_status exchange(struct dip_comm *comm, const struct dip__comm_piece *piece,
                                const void *mine, const void **views)
{
    struct tcp *tcp = comm->state;
    struct header header = {.turn = ++comm->turn, .from = piece->from, .bytes = piece->bytes};
    int64_t until_ns = dip_clock_now_ns() + comm->wait_ns_max;
    begin(comm, piece);
    for (;;) {
        for (int r = 0; r < comm->count; r++) {
            push(comm, r, &header, mine);
            DIP_TRY(pull(comm, r, &header));
        }
        struct pollfd fds[DIP_COMM_RANKS_MAX + 1];
        int open_count = list_open(comm, fds);
        if (open_count == 0)
            break;
        DIP_TRY(wait_for_any(comm, fds, open_count, until_ns));
    }
    for (int r = 0; r < comm->count; r++)
        views[r] = r == comm->rank ? mine : tcp->lanes[r].piece;
    return DIP_OK;
}

/* 1: bytes of the next exchange are here; 0: none; -1: the connection has ended. Why it ended is
 * the watching thread's to find out. */
static int peek(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    return got > 0 ? 1 : -1;
}

static enum dip_status await(struct dip_comm *comm, int from, int64_t wait_ns)
{
    const struct tcp *tcp = comm->state;
    int data = comm->peers[from].fds[DIP__COMM_DATA];
    int64_t until_ns = dip_clock_now_ns() + wait_ns;
    for (;;) {
        bool has_left =
            dip_word_get(&comm->peers[from].has_left); /* it may have sent just before */
        int seen = peek(data);
        DIP_TRY(dip_comm_error(comm));
        if (seen > 0)
            return DIP_OK;
        if (has_left)
            return dip__comm_fail(comm, DIP_UNREACHABLE);
        int64_t left_ns = until_ns - dip_clock_now_ns();
        if (left_ns <= 0)
            return DIP_BUSY;
        struct pollfd fds[2] = {{.fd = seen < 0 ? -1 : data, .events = POLLIN},
                                {.fd = tcp->wake_event, .events = POLLIN}};
        int64_t left_ms = left_ns / DIP_MS_NS + 1;
        int ready = poll(fds, 2, left_ms < 60000 ? (int)left_ms : 60000);
        if (ready < 0 && errno != EINTR)
            return dip__comm_fail(comm, DIP_IO);
        if (ready > 0 && fds[1].revents)
            dip__event_clear(tcp->wake_event);
    }
}

const struct dip__comm_backend dip__comm_tcp = {.name = "tcp",
                                                .channels = DIP__COMM_CHANNELS,
                                                .share = share,
                                                .start = start,
                                                .stop = stop,
                                                .exchange = exchange,
                                                .await = await,
                                                .wake = wake};
