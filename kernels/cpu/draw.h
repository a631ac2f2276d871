/* kernels/cpu/draw.h - the end of sampling that both families share: from sorted candidates to one
 * id, at once or by way of what each rank of a group has found in its slice of the vocabulary. */
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

/* How many of a row's sorted candidates can be drawn: the top_k largest and all ties of the last of
 * them; one when greedy. Of a slice of the row: what of it can be drawn whatever the rest holds,
 * because a slice's k-th largest is never above the row's. */
int64_t dip__draw_keep(const struct dip__candidate *sorted, int64_t count, int64_t top_k);

/* One row of struct dip_job_sample_select's `found` from the slice's sorted candidates. */
void dip__draw_tell(const struct dip__candidate *sorted, int64_t count,
                    const struct dip_job_sample_select *job, int64_t row);

/* candidates: at least the top_k largest of the row and all ties of the last of them, sorted by
 * (value descending, id ascending). weights is room for `count` numbers. Returns the id drawn. */
int32_t dip__draw_pick(const struct dip__candidate *candidates, int64_t count,
                       const struct dip_kernel_draw *draw, double *weights);
