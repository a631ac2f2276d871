/* net/sockets.c - sock_diag over netlink: one question for each family, counted message by message.
 *
 * The kernel compares ports itself, by a program of two jumps: "own port >= P, else leave" and "own
 * port <= P, else leave". An offset leads so many bytes on; the end of the program accepts, four
 * bytes beyond it refuse. */
#include "net/sockets.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

struct question {
    struct nlmsghdr head;
    struct inet_diag_req_v2 request;
    struct rtattr program_head;
    struct inet_diag_bc_op program[4];
};

static enum dip_status ask(int fd, unsigned char family, int port)
{
    enum { BYTES = 4 * sizeof(struct inet_diag_bc_op) };
    struct question q = {
        .head = {.nlmsg_len = sizeof q,
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .request = {.sdiag_family = family,
                    .sdiag_protocol = IPPROTO_TCP,
                    .idiag_states = 1U << TCP_ESTABLISHED},
        .program_head = {.rta_len = sizeof q.program_head + BYTES,
                         .rta_type = INET_DIAG_REQ_BYTECODE},
        .program = {{INET_DIAG_BC_S_GE, BYTES / 2, BYTES + 4},
                    {.no = (unsigned short)port},
                    {INET_DIAG_BC_S_LE, BYTES / 2, BYTES / 2 + 4},
                    {.no = (unsigned short)port}},
    };
    return send(fd, &q, sizeof q, 0) == (ssize_t)sizeof q ? DIP_OK : DIP_IO;
}

/* Adds what one part of the answer holds; *ret_is_last with the last part. */
static enum dip_status count_part(const char *part, size_t bytes, int *count, bool *ret_is_last)
{
    const struct nlmsghdr *head = (const void *)part;
    for (; NLMSG_OK(head, bytes); head = NLMSG_NEXT(head, bytes)) {
        if (head->nlmsg_type == NLMSG_ERROR)
            return DIP_UNSUPPORTED;
        if (head->nlmsg_type == NLMSG_DONE) {
            *ret_is_last = true;
            return DIP_OK;
        }
        *count += head->nlmsg_type == SOCK_DIAG_BY_FAMILY;
    }
    return DIP_OK;
}

static enum dip_status count_family(int fd, unsigned char family, int port, int *count)
{
    _Alignas(struct nlmsghdr) char part[32768];
    bool is_last = false;
    DIP_TRY(ask(fd, family, port));
    while (!is_last) {
        ssize_t bytes = recv(fd, part, sizeof part, 0);
        if (bytes <= 0 && errno == EINTR)
            continue;
        if (bytes <= 0)
            return DIP_IO;
        DIP_TRY(count_part(part, (size_t)bytes, count, &is_last));
    }
    return DIP_OK;
}

enum dip_status dip_sockets_count(int port, int *ret_count)
{
    int count = 0;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return DIP_UNSUPPORTED;
    enum dip_status status = count_family(fd, AF_INET, port, &count);
    if (!status)
        status = count_family(fd, AF_INET6, port, &count);
    close(fd);
    if (!status)
        *ret_count = count;
    return status;
}
