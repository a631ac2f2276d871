/* net/kv.c - the calls that every store answers. */
#include "net/kv.h"

#include <string.h>

#include "base/assert.h"

enum dip_status dip_kv_send(struct dip_kv *kv, int64_t now_ns, const struct dip_kv_request *request)
{
    dip_assert(request->id != 0);
    dip_assert((unsigned)request->kind < DIP_KV_KIND_COUNT);
    if (request->key && strlen(request->key) >= DIP_KV_KEY_BYTES)
        return DIP_LIMIT;
    if (request->guard_key && strlen(request->guard_key) >= DIP_KV_KEY_BYTES)
        return DIP_LIMIT;
    if (request->value_bytes >= DIP_KV_VALUE_BYTES)
        return DIP_LIMIT;
    return kv->ops->send(kv, now_ns, request);
}

void dip_kv_cancel(struct dip_kv *kv, uint64_t id)
{
    kv->ops->cancel(kv, id);
}

void dip_kv_poll(struct dip_kv *kv, int64_t now_ns, int64_t wait_ns)
{
    kv->ops->poll(kv, now_ns, wait_ns);
}

bool dip_kv_next(struct dip_kv *kv, int64_t now_ns, struct dip_kv_reply *ret_reply)
{
    return kv->ops->next(kv, now_ns, ret_reply);
}

void dip_kv_wake(struct dip_kv *kv)
{
    kv->ops->wake(kv);
}

void dip_kv_close(struct dip_kv *kv)
{
    if (kv)
        kv->ops->close(kv);
}
