/* net/net.h - front door of net/: messages between the parties of one cluster.
 *
 * A party (the coordinator, a worker) holds one endpoint. It has an address, an inbox and may send
 * to any other address. Messages are structs of one fixed size, copied; what they point to changes
 * owner with the send. Messages from one sender to one receiver arrive in order. The transport
 * delivers and never interprets: the in-process one (below) passes structs between threads, others
 * encode them.
 *
 * Thread: send from any; receive from the endpoint's owner only. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dip_endpoint;

/* What a transport implements. */
struct dip_endpoint_ops {
    enum dip_status (*send)(struct dip_endpoint *endpoint, uint32_t to, const void *message);
    enum dip_status (*receive)(struct dip_endpoint *endpoint, int64_t wait_ns, void *ret_message);
    void (*close)(struct dip_endpoint *endpoint);
};

struct dip_endpoint {
    const struct dip_endpoint_ops *ops;
    uint32_t address;
};

/* Never waits. Errors: BUSY (the receiver's inbox is full: slow down), UNREACHABLE (no such
 * address), CANCELLED (the receiver has closed). On failure the message still belongs to the
 * sender. */
DIP_MUST_USE enum dip_status dip_endpoint_send(struct dip_endpoint *endpoint, uint32_t to,
                                               const void *message);

/* Waits up to wait_ns (0 polls, negative waits for ever). Errors: TIMEOUT, CANCELLED once closed
 * and empty. */
DIP_MUST_USE enum dip_status dip_endpoint_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                                  void *ret_message);

/* Nothing more is taken in; what is inside can still be received. */
void dip_endpoint_close(struct dip_endpoint *endpoint);

/* ---- the in-process transport ---- */

struct dip_local_net;

/* endpoint_count parties with the addresses 0, 1, ..., each with an inbox of message_count_max.
 * Errors: NO_MEMORY. */
DIP_MUST_USE enum dip_status dip_local_net_new(size_t message_bytes, size_t message_count_max,
                                               uint32_t endpoint_count,
                                               struct dip_local_net **ret_net);
/* After every party has stopped using its endpoint. */
void dip_local_net_free(struct dip_local_net *net);

/* Lives as long as the net. */
struct dip_endpoint *dip_local_net_endpoint(struct dip_local_net *net, uint32_t address);
