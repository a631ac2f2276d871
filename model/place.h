/* model/place.h - a network's weights onto a device that cannot read host memory; private to
 * model/.
 *
 * Each network lists its tensors once (a dip__place_fn that hands each to dip__place_tensor). The
 * list runs twice: measuring, then placing into one reservation, in its order. Weights that one
 * product may read at a stroke (q, k, v; gate, up) are listed one after the other and lie side by
 * side then. On a device that reads host memory nothing happens: tensors stay views of their files.
 */
#pragma once

#include "ops/ops.h"

struct dip__placed {
    struct dip_device *device; /* NULL: nothing is placed */
    struct dip_mem mem;
};

struct dip__placer {
    struct dip_stream *s;
    unsigned char *memory; /* NULL while measuring */
    size_t used, bytes;
};

/* One tensor of the list, starting at a multiple of 256 bytes unless it is `joined` to the one
 * before. */
DIP_MUST_USE enum dip_status dip__place_tensor(struct dip__placer *p, struct dip_tensor *t,
                                               enum dip_weight_use use);
DIP_MUST_USE enum dip_status dip__place_joined(struct dip__placer *p, struct dip_tensor *t);

typedef enum dip_status (*dip__place_fn)(void *network, struct dip__placer *p);

/* All of a network, and a wait. Once: what is placed stays. Errors: NO_MEMORY with what was
 * missing, DEVICE. */
DIP_MUST_USE enum dip_status dip__place_all(struct dip_stream *s, dip__place_fn list, void *network,
                                            const char *what, struct dip_why *why,
                                            struct dip__placed *placed);
void dip__place_release(struct dip__placed *placed);

/* Two or three weights that lie side by side as one with their rows together; false when they do
 * not. */
bool dip__join(const struct dip_tensor *const *parts, int count, struct dip_tensor *ret_joined);
