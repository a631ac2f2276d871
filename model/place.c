/* model/place.c - see model/place.h. */
#include "model/place.h"

#include "base/assert.h"

enum { PLACE_ALIGN = 256 };

static enum dip_status place_at(struct dip__placer *p, size_t at, struct dip_tensor *t,
                                enum dip_weight_use use)
{
    size_t bytes = dip_weight_bytes(dip_stream_device(p->s), *t, use);
    p->used = at + bytes;
    if (!p->memory)
        return DIP_OK;
    dip_assert(p->used <= p->bytes);
    return dip_weight_place(p->s, use, p->memory + at, t);
}

enum dip_status dip__place_tensor(struct dip__placer *p, struct dip_tensor *t,
                                  enum dip_weight_use use)
{
    size_t at = (p->used + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
    return place_at(p, at, t, use);
}

enum dip_status dip__place_joined(struct dip__placer *p, struct dip_tensor *t)
{
    return place_at(p, p->used, t, DIP_WEIGHT_PLAIN);
}

enum dip_status dip__place_all(struct dip_stream *s, dip__place_fn list, void *network,
                               const char *what, struct dip_why *why, struct dip__placed *placed)
{
    struct dip_device *device = dip_stream_device(s);
    if (placed->device || dip_device_reads_host(device)) {
        dip_assert(!placed->device || placed->device == device);
        return DIP_OK;
    }
    struct dip__placer meter = {.s = s};
    DIP_TRY(list(network, &meter));
    enum dip_status status = dip_reserve(device, meter.used, &placed->mem);
    if (status)
        return dip_fail(why, status, "the weights of the %s: %s", what, dip_device_note(device));
    placed->device = device;
    struct dip__placer placer = {.s = s, .memory = placed->mem.base, .bytes = placed->mem.bytes};
    status = list(network, &placer);
    if (!status)
        status = dip_wait(s);
    if (status)
        return dip_fail(why, status, "the weights of the %s: %s", what,
                        status == DIP_DEVICE ? dip_device_note(device) : dip_status_text(status));
    return DIP_OK;
}

void dip__place_release(struct dip__placed *placed)
{
    if (placed->device)
        dip_release(placed->device, &placed->mem);
    *placed = (struct dip__placed){0};
}

bool dip__join(const struct dip_tensor *const *parts, int count, struct dip_tensor *ret_joined)
{
    struct dip_tensor all = *parts[0];
    for (int i = 1; i < count; i++) {
        const struct dip_tensor *next = parts[i];
        size_t bytes = (size_t)dip_tensor_count(all) * dip_dtype_bytes(all.dtype);
        if (next->data != (char *)all.data + bytes || next->dtype != all.dtype ||
            !dip_tensor_is_dense(all) || !dip_tensor_is_dense(*next))
            return false;
        all.dims[0] += next->dims[0];
    }
    *ret_joined = all;
    return true;
}
