/* model/schedule.h - noise levels and updates of the samplers; pure host arithmetic.
 *
 * Euler: Lipman et al. 2022, flow matching; reference class FlowMatchEulerDiscreteScheduler with
 * sigmas 1 .. 1/N, key `shift` (1.0 when absent; `flow_shift` is for the other sampler only).
 * DPM-Solver++ 2M with flow sigmas: Lu et al. 2022 (2211.01095); reference class
 * DPMSolverMultistepScheduler. */
#pragma once

#include "base/limits.h"
#include "model/config.h"
#include "ops/ops.h"

struct dip_schedule {
    enum dip_sampler sampler; /* model/config.h: DIP_SAMPLER_EULER, DIP_SAMPLER_DPM */
    int steps;
    float sigmas[DIP_STEPS_MAX + 1]; /* [steps + 1], last is 0 */
    float timesteps[DIP_STEPS_MAX];  /* [steps], fed to the diffusion panel */
};

/* Errors: LIMIT when steps is outside 1..DIP_STEPS_MAX. */
DIP_MUST_USE enum dip_status dip_schedule_init(struct dip_schedule *schedule,
                                               enum dip_sampler sampler, int steps,
                                               const struct dip_scheduler_config *config,
                                               struct dip_why *why);

/* Step `index` as dip_sampler_end takes it: the timestep, the coefficients and the rule of *item;
 * memory and guidance are the caller's. The clean estimate is x0 = latent - sigma * velocity
 * (computed before the update; previews use it); that of the step before is read by DPM only, not
 * at index 0.
 */
void dip_schedule_item(const struct dip_schedule *schedule, int index,
                       struct dip_sampler_item *item);
