/* tests/sampler.h - one step of a sampler on one picture, by hand. */
#pragma once

#include "model/schedule.h"

/* latent after step `index` of the schedule along `velocity`; clean receives the estimate, of which
 * the step before left clean_previous. */
static inline enum dip_status sampler_step(const struct dip_schedule *schedule, int index,
                                           struct dip_stream *s, struct dip_tensor latent,
                                           struct dip_tensor velocity, struct dip_tensor clean,
                                           struct dip_tensor clean_previous, uint32_t *is_bad)
{
    struct dip_sampler_item item = {.latent = latent.data,
                                    .clean = clean.data,
                                    .clean_previous = clean_previous.data,
                                    .guidance = 1.0f};
    struct dip_tensor row = dip_rows(velocity.data, DIP_F32, 1, dip_tensor_count(velocity));
    dip_schedule_item(schedule, index, &item);
    struct dip_sampler_end_args a = {
        .velocity = row, .cond = row, .items = &item, .is_bad = is_bad};
    return dip_sampler_end(s, &a);
}
