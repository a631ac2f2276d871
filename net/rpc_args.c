/* net/rpc_args.c - arguments of channels and servers, in gRPC's form. */
#include <limits.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc_private.h"

void dip__rpc_args_int(struct rpc_args *args, const char *key, int64_t value)
{
    dip_assert(args->count < RPC_ARGS_MAX);
    grpc_arg *arg = &args->list[args->count++];
    arg->type = GRPC_ARG_INTEGER;
    arg->key = (char *)(uintptr_t)key; /* gRPC copies it */
    arg->value.integer = value > INT_MAX ? INT_MAX : (int)value;
}

void dip__rpc_args_text(struct rpc_args *args, const char *key, const char *value)
{
    dip_assert(args->count < RPC_ARGS_MAX);
    grpc_arg *arg = &args->list[args->count++];
    arg->type = GRPC_ARG_STRING;
    arg->key = (char *)(uintptr_t)key;
    arg->value.string = (char *)(uintptr_t)value;
}

void dip__rpc_args_quota(struct rpc_args *args, grpc_resource_quota *quota)
{
    dip_assert(args->count < RPC_ARGS_MAX);
    grpc_arg *arg = &args->list[args->count++];
    arg->type = GRPC_ARG_POINTER;
    arg->key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA;
    arg->value.pointer.p = quota;
    arg->value.pointer.vtable = grpc_resource_quota_arg_vtable();
}

void dip__rpc_args_ms(struct rpc_args *args, const char *key, int64_t ns)
{
    if (ns > 0)
        dip__rpc_args_int(args, key, ns < DIP_MS_NS ? 1 : ns / DIP_MS_NS);
}

/* gRPC widens the window while it measures that the connection could carry more; a fixed one bounds
 * what a peer can leave unread. */
void dip__rpc_args_window(struct rpc_args *args, size_t bytes)
{
    if (bytes == 0)
        return;
    dip__rpc_args_int(args, GRPC_ARG_HTTP2_BDP_PROBE, 0);
    dip__rpc_args_int(args, GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, (int64_t)bytes);
}
