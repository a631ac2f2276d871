/* ops/comm_socket.h - stream sockets with deadlines; private to the collectives.
 *
 * Every wait ends in time: TIMEOUT, or CANCELLED. A peer that closed or refuses: UNREACHABLE.
 * Sockets are non-blocking and closed on exec. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* How long to wait: until a moment (monotonic), or, asked every DIP__WANTED_MS, until nobody wants
 * to any more. */
enum { DIP__WANTED_MS = 20 };
struct dip__until {
    int64_t ns;
    bool (*is_wanted)(void *context); /* NULL = always */
    void *context;
};

/* A socket address: unix (abstract), IPv4 or IPv6. */
struct dip__endpoint {
    uint32_t length;
    uint8_t bytes[28];
};

/* A numeric address with port 0. Errors: INVALID. */
enum dip_status dip__endpoint_parse(const char *text, struct dip__endpoint *ret_endpoint);
/* An abstract unix address that the kernel will choose. */
struct dip__endpoint dip__endpoint_unix(void);
/* The local address of a connected socket, with port 0 or a name to be chosen: where this host is
 * reached by whoever is at the other end. */
enum dip_status dip__endpoint_beside(int fd, struct dip__endpoint *ret_endpoint);

enum dip_status dip__socket_listen(const struct dip__endpoint *at, int *ret_fd,
                                   struct dip__endpoint *ret_bound);
enum dip_status dip__socket_connect(const struct dip__endpoint *to, const struct dip__until *until,
                                    int *ret_fd);
enum dip_status dip__socket_accept(int listener, const struct dip__until *until, int *ret_fd);
enum dip_status dip__socket_send(int fd, const void *data, size_t bytes,
                                 const struct dip__until *until);
enum dip_status dip__socket_receive(int fd, void *data, size_t bytes,
                                    const struct dip__until *until);

/* One byte with a descriptor beside it (unix sockets). */
enum dip_status dip__socket_send_fd(int fd, int sent_fd, const struct dip__until *until);
enum dip_status dip__socket_receive_fd(int fd, const struct dip__until *until, int *ret_fd);

/* Accepts -1. */
void dip__socket_close(int fd);
