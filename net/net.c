/* net/net.c - the calls that every transport answers. */
#include "net/net.h"

enum dip_status dip_endpoint_send(struct dip_endpoint *endpoint, uint32_t to, const void *message)
{
    return endpoint->ops->send(endpoint, to, message);
}

enum dip_status dip_endpoint_receive(struct dip_endpoint *endpoint, int64_t wait_ns,
                                     void *ret_message)
{
    return endpoint->ops->receive(endpoint, wait_ns, ret_message);
}

void dip_endpoint_close(struct dip_endpoint *endpoint)
{
    endpoint->ops->close(endpoint);
}
