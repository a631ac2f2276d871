"""capture_schedules.py - golden noise schedules, exact in float32.

    python capture_schedules.py --out tests/golden/schedules/golden.safetensors

  euler.N.sigmas [N+1], euler.N.timesteps [N]               published loop: shift 1, ends at 1/N, then 0
  euler_shift3.N.sigmas, euler_shift3.N.timesteps           the same with a scheduler file that has shift 3
  dpm.N.sigmas [N+1], dpm.N.timesteps [N]                   DPM-Solver++ 2M, flow sigmas, flow_shift 3;
                                                            timesteps are whole numbers stored as f32
  dpm.N.velocity [N, 16], dpm.N.latent [N+1, 16]            one solver run on given velocities: row 0 is
                                                            the start, row K+1 the latent after step K
"""

import argparse

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

from reference import PUBLISHED_SCHEDULER

EULER_STEPS = (1, 2, 3, 4, 7, 20, 30, 50)
DPM_STEPS = (1, 2, 3, 4, 14, 15, 20, 30)


def euler(golden, prefix, config):
    """Sigmas and timesteps as the published script asks for them."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    for steps in EULER_STEPS:
        scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps))
        golden[f"{prefix}.{steps}.sigmas"] = scheduler.sigmas.clone()
        golden[f"{prefix}.{steps}.timesteps"] = scheduler.timesteps.clone()


def dpm(golden):
    """Sigmas, timesteps and one run on random velocities."""
    for steps in DPM_STEPS:
        scheduler = DPMSolverMultistepScheduler.from_config(PUBLISHED_SCHEDULER)
        scheduler.set_timesteps(steps)
        generator = torch.Generator().manual_seed(steps)
        velocity = torch.randn(steps, 16, generator=generator)
        latent = [torch.randn(16, generator=generator)]
        for timestep, v in zip(scheduler.timesteps, velocity):
            latent.append(scheduler.step(v, timestep, latent[-1], return_dict=False)[0])
        golden[f"dpm.{steps}.sigmas"] = scheduler.sigmas.float()
        golden[f"dpm.{steps}.timesteps"] = scheduler.timesteps.float()
        golden[f"dpm.{steps}.velocity"], golden[f"dpm.{steps}.latent"] = velocity, torch.stack(latent)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    golden = {}
    euler(golden, "euler", PUBLISHED_SCHEDULER)
    euler(golden, "euler_shift3", {**PUBLISHED_SCHEDULER, "shift": 3.0})
    dpm(golden)
    save_file(golden, args.out)
    print(f"{args.out}: {len(golden)} tensors")


if __name__ == "__main__":
    main()
