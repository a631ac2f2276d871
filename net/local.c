/* net/local.c - the in-process transport: one mailbox per party. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/mailbox.h"
#include "net/net.h"

struct local_endpoint {
    struct dip_endpoint endpoint; /* first, so that one pointer is both */
    struct dip_local_net *net;
    struct dip_mailbox *inbox;
};

struct dip_local_net {
    uint32_t endpoint_count;
    struct local_endpoint endpoints[];
};

static enum dip_status local_send(struct dip_endpoint *endpoint, uint32_t to, const void *message)
{
    struct dip_local_net *net = ((struct local_endpoint *)endpoint)->net;
    if (to >= net->endpoint_count)
        return DIP_UNREACHABLE;
    return dip_mailbox_push(net->endpoints[to].inbox, message);
}

static enum dip_status local_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                     void *ret_message)
{
    return dip_mailbox_pop(((struct local_endpoint *)endpoint)->inbox, wait_ns, ret_message);
}

static void local_close(struct dip_endpoint *endpoint)
{
    dip_mailbox_close(((struct local_endpoint *)endpoint)->inbox);
}

static const struct dip_endpoint_ops local_ops = {local_send, local_receive, local_close};

enum dip_status dip_local_net_new(size_t message_bytes, size_t message_count_max,
                                  uint32_t endpoint_count, struct dip_local_net **ret_net)
{
    enum dip_status status = DIP_OK;
    struct dip_local_net *net = calloc(1, sizeof *net + endpoint_count * sizeof net->endpoints[0]);
    if (!net)
        return DIP_NO_MEMORY;
    net->endpoint_count = endpoint_count;
    for (uint32_t i = 0; i < endpoint_count && !status; i++) {
        struct local_endpoint *local = &net->endpoints[i];
        *local = (struct local_endpoint){.endpoint = {.ops = &local_ops, .address = i}, .net = net};
        status = dip_mailbox_new(message_bytes, message_count_max, &local->inbox);
    }
    if (status) {
        dip_local_net_free(net);
        return status;
    }
    *ret_net = net;
    return DIP_OK;
}

void dip_local_net_free(struct dip_local_net *net)
{
    if (!net)
        return;
    for (uint32_t i = 0; i < net->endpoint_count; i++)
        dip_mailbox_free(net->endpoints[i].inbox);
    free(net);
}

struct dip_endpoint *dip_local_net_endpoint(struct dip_local_net *net, uint32_t address)
{
    dip_assert(address < net->endpoint_count);
    return &net->endpoints[address].endpoint;
}
