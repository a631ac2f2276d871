/* ops/comm_socket.c - stream sockets with deadlines. */
#include "ops/comm_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
    struct sockaddr_storage all;
};

static socklen_t unpack(const struct dip__endpoint *e, union address *ret_address)
{
    memset(ret_address, 0, sizeof *ret_address);
    size_t length = e->length <= sizeof e->bytes ? e->length : 0;
    memcpy(ret_address, e->bytes, length);
    return (socklen_t)length;
}

static enum dip_status pack(const union address *address, socklen_t length,
                            struct dip__endpoint *ret_endpoint)
{
    struct dip__endpoint e = {.length = length};
    if (length < sizeof(sa_family_t) || length > sizeof e.bytes)
        return DIP_INVALID;
    memcpy(e.bytes, address, length);
    *ret_endpoint = e;
    return DIP_OK;
}

enum dip_status dip__endpoint_parse(const char *text, struct dip__endpoint *ret_endpoint)
{
    union address a = {.v4 = {.sin_family = AF_INET}};
    if (inet_pton(AF_INET, text, &a.v4.sin_addr) == 1)
        return pack(&a, sizeof a.v4, ret_endpoint);
    a = (union address){.v6 = {.sin6_family = AF_INET6}};
    if (inet_pton(AF_INET6, text, &a.v6.sin6_addr) == 1)
        return pack(&a, sizeof a.v6, ret_endpoint);
    return DIP_INVALID;
}

struct dip__endpoint dip__endpoint_unix(void)
{
    sa_family_t family = AF_UNIX;
    struct dip__endpoint e = {.length = sizeof family};
    memcpy(e.bytes, &family, sizeof family);
    return e;
}

enum dip_status dip__endpoint_beside(int fd, struct dip__endpoint *ret_endpoint)
{
    union address a = {0};
    socklen_t length = sizeof a;
    if (getsockname(fd, &a.any, &length))
        return DIP_IO;
    if (a.any.sa_family == AF_UNIX) {
        *ret_endpoint = dip__endpoint_unix();
        return DIP_OK;
    }
    if (a.any.sa_family == AF_INET)
        a.v4.sin_port = 0;
    else
        a.v6.sin6_port = 0;
    return pack(&a, length, ret_endpoint);
}

static enum dip_status open_socket(int family, int *ret_fd)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? DIP_NO_MEMORY : DIP_IO;
    *ret_fd = fd;
    return DIP_OK;
}

/* Messages are small and waited for; and a line that is cut while a rank waits on it must end. Once
 * a group stands, silence is noticed sooner, by ops/comm_watch.c. */
static void hurry(int fd, int family)
{
    static const struct {
        int level, name, value;
    } wishes[] = {{IPPROTO_TCP, TCP_NODELAY, 1},  {SOL_SOCKET, SO_KEEPALIVE, 1},
                  {IPPROTO_TCP, TCP_KEEPIDLE, 1}, {IPPROTO_TCP, TCP_KEEPINTVL, 1},
                  {IPPROTO_TCP, TCP_KEEPCNT, 3},  {IPPROTO_TCP, TCP_USER_TIMEOUT, 4000}};
    for (size_t i = 0; family != AF_UNIX && i < sizeof wishes / sizeof wishes[0]; i++)
        (void)setsockopt(fd, wishes[i].level, wishes[i].name, &wishes[i].value,
                         sizeof wishes[i].value);
}

enum dip_status dip__socket_listen(const struct dip__endpoint *at, int *ret_fd,
                                   struct dip__endpoint *ret_bound)
{
    union address a;
    socklen_t length = unpack(at, &a);
    int fd = -1;
    enum dip_status status = open_socket(a.any.sa_family, &fd);
    if (status)
        return status;
    status = DIP_INVALID;
    if (bind(fd, &a.any, length))
        goto out;
    status = DIP_IO;
    length = sizeof a;
    if (listen(fd, SOMAXCONN) || getsockname(fd, &a.any, &length))
        goto out;
    status = pack(&a, length, ret_bound);
    if (status)
        goto out;
    *ret_fd = fd;
    fd = -1;
out:
    dip__socket_close(fd);
    return status;
}

static enum dip_status wait_for(int fd, short events, const struct dip__until *until)
{
    for (;;) {
        int64_t left_ns = until->ns - dip_clock_now_ns();
        if (left_ns <= 0)
            return DIP_TIMEOUT;
        if (until->is_wanted && !until->is_wanted(until->context))
            return DIP_CANCELLED;
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left_ms = left_ns / DIP_MS_NS + 1;
        int64_t wait_ms = until->is_wanted ? DIP__WANTED_MS : 60000;
        int ready = poll(&p, 1, (int)(left_ms < wait_ms ? left_ms : wait_ms));
        if (ready > 0)
            return DIP_OK;
        if (ready < 0 && errno != EINTR)
            return DIP_IO;
    }
}

static enum dip_status connected(int fd, const struct dip__until *until)
{
    DIP_TRY(wait_for(fd, POLLOUT, until));
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length))
        return DIP_IO;
    return error ? DIP_UNREACHABLE : DIP_OK;
}

enum dip_status dip__socket_connect(const struct dip__endpoint *to, const struct dip__until *until,
                                    int *ret_fd)
{
    union address a;
    socklen_t length = unpack(to, &a);
    int fd = -1;
    enum dip_status status = open_socket(a.any.sa_family, &fd);
    if (status)
        return status;
    hurry(fd, a.any.sa_family);
    if (connect(fd, &a.any, length))
        status = errno == EINPROGRESS ? connected(fd, until) : DIP_UNREACHABLE;
    if (status) {
        dip__socket_close(fd);
        return status;
    }
    *ret_fd = fd;
    return DIP_OK;
}

enum dip_status dip__socket_accept(int listener, const struct dip__until *until, int *ret_fd)
{
    for (;;) {
        union address a = {0};
        socklen_t length = sizeof a;
        int fd = accept4(listener, &a.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            hurry(fd, a.any.sa_family);
            *ret_fd = fd;
            return DIP_OK;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            return DIP_NO_MEMORY;
        if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK)
            return DIP_IO;
        DIP_TRY(wait_for(listener, POLLIN, until)); /* none there, or one that gave up */
    }
}

enum dip_status dip__socket_send(int fd, const void *data, size_t bytes,
                                 const struct dip__until *until)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t sent = send(fd, (const char *)data + done, bytes - done, MSG_NOSIGNAL);
        if (sent > 0)
            done += (size_t)sent;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            DIP_TRY(wait_for(fd, POLLOUT, until));
        else if (errno != EINTR)
            return DIP_UNREACHABLE;
    }
    return DIP_OK;
}

enum dip_status dip__socket_receive(int fd, void *data, size_t bytes,
                                    const struct dip__until *until)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = recv(fd, (char *)data + done, bytes - done, 0);
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            return DIP_UNREACHABLE;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            DIP_TRY(wait_for(fd, POLLIN, until));
        else if (errno != EINTR)
            return DIP_UNREACHABLE;
    }
    return DIP_OK;
}

/* ---- descriptors ---- */

union control {
    struct cmsghdr header; /* for its alignment */
    char bytes[CMSG_SPACE(sizeof(int))];
};

enum dip_status dip__socket_send_fd(int fd, int sent_fd, const struct dip__until *until)
{
    char byte = 'f';
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    union control control = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof sent_fd);
    memcpy(CMSG_DATA(header), &sent_fd, sizeof sent_fd);
    for (;;) {
        if (sendmsg(fd, &message, MSG_NOSIGNAL) == 1)
            return DIP_OK;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            DIP_TRY(wait_for(fd, POLLOUT, until));
        else if (errno != EINTR)
            return DIP_UNREACHABLE;
    }
}

static enum dip_status take_fd(struct msghdr *message, int *ret_fd)
{
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof *ret_fd))
        return DIP_CORRUPT;
    memcpy(ret_fd, CMSG_DATA(header), sizeof *ret_fd);
    return DIP_OK;
}

enum dip_status dip__socket_receive_fd(int fd, const struct dip__until *until, int *ret_fd)
{
    for (;;) {
        char byte = 0;
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        union control control = {0};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control.bytes};
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (got == 1)
            return take_fd(&message, ret_fd);
        if (got == 0)
            return DIP_UNREACHABLE;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            DIP_TRY(wait_for(fd, POLLIN, until));
        else if (errno != EINTR)
            return DIP_UNREACHABLE;
    }
}

void dip__socket_close(int fd)
{
    if (fd >= 0)
        close(fd);
}
