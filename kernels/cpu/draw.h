/* kernels/cpu/draw.h - the end of sampling that both families share: from sorted candidates to one
 * id. */
#pragma once

#include "kernels/kernels.h"

struct dip__candidate {
    float value; /* logit over temperature; never NaN, never -0 */
    int32_t id;
};

/* The value both families sort by. NaN counts as minus infinity, so that a broken row still has one
 * answer. Adding zero turns -0 into +0: equal values have equal bits. */
static inline float dip__draw_value(float logit, float temperature)
{
    float value = logit / temperature + 0.0f;
    return value == value ? value : -__builtin_inff();
}

/* candidates: at least the top_k largest of the row and all ties of the last of them, sorted by
 * (value descending, id ascending). weights is room for `count` numbers. Returns the id drawn. */
int32_t dip__draw_pick(const struct dip__candidate *candidates, int64_t count,
                       const struct dip_kernel_draw *draw, double *weights);
