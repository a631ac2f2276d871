/* net/rpc_pairs.c - metadata: pairs to be sent, pairs received. */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/rpc_private.h"

static void put(struct rpc_pairs *pairs, grpc_slice key, grpc_slice value)
{
    dip_assert(pairs->count < RPC_PAIRS_MAX + 2);
    pairs->list[pairs->count++] = (grpc_metadata){.key = key, .value = value};
}

enum dip_status dip__rpc_pairs_add(struct rpc_pairs *pairs, const char *key, const void *value,
                                   size_t bytes)
{
    if (pairs->count >= RPC_PAIRS_MAX)
        return DIP_LIMIT;
    grpc_slice key_slice = grpc_slice_from_copied_string(key);
    grpc_slice value_slice = grpc_slice_from_copied_buffer(value, bytes);
    /* gRPC refuses a whole batch for an illegal pair, which would be a broken contract there. */
    if (!grpc_header_key_is_legal(key_slice) ||
        (!grpc_is_binary_header(key_slice) && !grpc_header_nonbin_value_is_legal(value_slice))) {
        grpc_slice_unref(key_slice);
        grpc_slice_unref(value_slice);
        return DIP_INVALID;
    }
    put(pairs, key_slice, value_slice);
    return DIP_OK;
}

void dip__rpc_pairs_add_status(struct rpc_pairs *pairs, const struct dip_rpc_status *status)
{
    if (status->details_bytes)
        put(pairs, grpc_slice_from_static_string("grpc-status-details-bin"),
            grpc_slice_from_copied_buffer(status->details, status->details_bytes));
    if (status->has_pushback) {
        char text[24];
        int64_t ms = status->pushback_ns < 0 ? -1 : status->pushback_ns / DIP_MS_NS;
        snprintf(text, sizeof text, "%lld", (long long)ms);
        put(pairs, grpc_slice_from_static_string("grpc-retry-pushback-ms"),
            grpc_slice_from_copied_string(text));
    }
}

void dip__rpc_pairs_clear(struct rpc_pairs *pairs)
{
    for (size_t i = 0; i < pairs->count; i++) {
        grpc_slice_unref(pairs->list[i].key);
        grpc_slice_unref(pairs->list[i].value);
    }
    pairs->count = 0;
}

const grpc_metadata *dip__rpc_metadata_find(const grpc_metadata_array *array, const char *key)
{
    for (size_t i = 0; i < array->count; i++)
        if (grpc_slice_str_cmp(array->metadata[i].key, key) == 0)
            return &array->metadata[i];
    return NULL;
}
