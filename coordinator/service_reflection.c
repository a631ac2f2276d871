/* coordinator/service_reflection.c - grpc.reflection v1 and v1alpha: what is served, for any
 * client.
 */
#include <stdlib.h>

#include "coordinator/front.h"

static void on_message(void *daemon, struct dip_rpc_call *call, const void *data, size_t bytes)
{
    struct dip_coordinator_daemon *d = daemon;
    void *answer;
    size_t answer_bytes;
    enum dip_status status =
        dip_reflection_answer(d->reflection, data, bytes, &answer, &answer_bytes);
    if (status) {
        dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = status == DIP_NO_MEMORY
                                                                       ? DIP_RPC_RESOURCE_EXHAUSTED
                                                                       : DIP_RPC_INVALID_ARGUMENT,
                                                           .message = dip_status_text(status)});
        return;
    }
    if (dip_rpc_call_send(call, answer, answer_bytes, 0) == DIP_OK)
        return;
    free(answer);
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_RESOURCE_EXHAUSTED,
                                                       .message = "answers are not read"});
}

static void on_half_close(void *daemon, struct dip_rpc_call *call)
{
    (void)daemon;
    dip_rpc_call_finish(call, &(struct dip_rpc_status){.code = DIP_RPC_OK});
}

void dip__service_reflection(struct dip_coordinator_daemon *d)
{
    static const struct dip_rpc_handler handler = {.on_message = on_message,
                                                   .on_half_close = on_half_close};
    dip__probe_add(d, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", DIP_RPC_BIDI,
                   &handler);
    dip__probe_add(d, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                   DIP_RPC_BIDI, &handler);
}
