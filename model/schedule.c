/* model/schedule.c - where the samplers step, and the arithmetic of one step.
 *
 * Levels are computed with the roundings of the reference classes (f64 until the cast, then f32),
 * so sigmas and timesteps are equal bit for bit. */
#include "model/schedule.h"

#include <math.h>

#include "base/assert.h"

/* start + i * (stop - start) / (count - 1), the last exactly stop: numpy's linspace. */
static double linspace(double start, double stop, int count, int i)
{
    if (count > 1 && i == count - 1)
        return stop;
    double step = count > 1 ? (stop - start) / (count - 1) : 0.0;
    return (double)i * step + start;
}

static void euler_levels(struct dip_schedule *schedule, double shift_f64, float train_timesteps)
{
    float shift = (float)shift_f64;
    float shift_less_one = (float)(shift_f64 - 1.0);
    for (int i = 0; i < schedule->steps; i++) {
        float sigma = (float)linspace(1.0, 1.0 / schedule->steps, schedule->steps, i);
        sigma = shift * sigma / (1.0f + shift_less_one * sigma);
        schedule->sigmas[i] = sigma;
        schedule->timesteps[i] = sigma * train_timesteps;
    }
}

/* Timesteps are truncated to whole numbers, sigmas are not. */
static void dpm_levels(struct dip_schedule *schedule, double shift, double train_timesteps)
{
    for (int i = 0; i < schedule->steps; i++) {
        double alpha =
            linspace(1.0, 1.0 / train_timesteps, schedule->steps + 1, schedule->steps - i);
        double sigma = 1.0 - alpha;
        sigma = shift * sigma / (1.0 + (shift - 1.0) * sigma);
        schedule->sigmas[i] = (float)sigma;
        schedule->timesteps[i] = (float)floor(sigma * train_timesteps);
    }
}

enum dip_status dip_schedule_init(struct dip_schedule *schedule, enum dip_sampler sampler,
                                  int steps, const struct dip_scheduler_config *config,
                                  struct dip_why *why)
{
    if (steps < 1 || steps > DIP_STEPS_MAX)
        return dip_fail(why, DIP_LIMIT, "steps is %d, expected 1 to %d", steps, DIP_STEPS_MAX);
    schedule->sampler = sampler;
    schedule->steps = steps;
    if (sampler == DIP_SAMPLER_EULER)
        euler_levels(schedule, config->shift, (float)config->train_timesteps);
    else
        dpm_levels(schedule, config->flow_shift, config->train_timesteps);
    schedule->sigmas[steps] = 0.0f;
    return DIP_OK;
}

/* ln(alpha) - ln(sigma), alpha = 1 - sigma; each logarithm rounded to f32. */
static float log_snr(float sigma)
{
    return (float)log(1.0f - sigma) - (float)log(sigma);
}

/* x' = c[0] x + c[1] x0 + c[2] x0_previous. First order at the start and at the end: there the
 * last sigma is 0, e^-h is 0 and x' is the estimate itself. */
static enum dip_sampler_rule dpm_coefficients(const struct dip_schedule *schedule, int index,
                                              float c[3])
{
    const float *sigma = &schedule->sigmas[index];
    if (index == schedule->steps - 1) {
        c[0] = 0.0f;
        c[1] = 1.0f;
        return DIP_SAMPLER_FIRST;
    }
    float lambda = log_snr(sigma[0]);
    float h = log_snr(sigma[1]) - lambda;
    float clean = -((1.0f - sigma[1]) * ((float)exp(-h) - 1.0f));
    c[0] = sigma[1] / sigma[0];
    c[1] = clean;
    if (index == 0)
        return DIP_SAMPLER_FIRST;
    float slope = 0.5f * clean * (h / (lambda - log_snr(sigma[-1])));
    c[1] += slope;
    c[2] = -slope;
    return DIP_SAMPLER_SECOND;
}

void dip_schedule_item(const struct dip_schedule *schedule, int index,
                       struct dip_sampler_item *item)
{
    dip_assert(index >= 0 && index < schedule->steps);
    const float *sigma = &schedule->sigmas[index];
    item->timestep = schedule->timesteps[index];
    item->to_clean = -sigma[0];
    if (schedule->sampler == DIP_SAMPLER_EULER) {
        item->c[0] = 1.0f;
        item->c[1] = sigma[1] - sigma[0];
        item->rule = DIP_SAMPLER_STRAIGHT;
        return;
    }
    item->rule = dpm_coefficients(schedule, index, item->c);
}
