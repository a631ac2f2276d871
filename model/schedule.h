/* model/schedule.h - noise levels and updates of the samplers; pure host arithmetic plus one blend
 * per step.
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

/* Advances latent in place over step `index`. velocity, latent, clean, clean_previous: equal
 * counts, dense, device memory. clean receives the clean-image estimate x0 = latent - sigma *
 * velocity of this step (computed before the update; previews use it); clean_previous is the
 * estimate of the step before (DPM only, ignored at index 0). */
DIP_MUST_USE enum dip_status dip_schedule_step(const struct dip_schedule *schedule, int index,
                                               struct dip_stream *s, struct dip_tensor latent,
                                               struct dip_tensor velocity, struct dip_tensor clean,
                                               struct dip_tensor clean_previous);
