"""run.py - prompt to picture with the published classes and the published loop, on any model directory.

    python run.py --model DIR --prompt TEXT [-o out.png] [--trace FILE] [--inject FILE]
                  [--steps N] [--guidance G] [--seed S] [--greedy] [--sampler euler|dpm]
                  [--dtype float32|bfloat16|float64] [--device cpu|cuda] [--threads N] [--time]

The trace has the engine's keys: prompt_ids, image_ids (i32), hidden, condition, noise, velocity.K,
latent.K (after step K), latent (f32), image (u8). --inject takes prompt_ids, image_ids, hidden and
noise from such a file instead of drawing them, so the two programs can be made to agree on everything
random. Token sampling and noise are torch's, not the engine's.
"""

import argparse
import json
import time

import torch
from safetensors.torch import load_file, save_file

from reference import Reference, to_rgb


class Clock:
    """Wall time per named stage, in milliseconds."""

    def __init__(self):
        self.stages, self.mark = {}, time.perf_counter()

    def lap(self, name):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + (now - self.mark) * 1000
        self.mark = now


def run_ar(model, args, injected, trace, clock):
    """Hidden states: injected, of injected ids, or of sampled ids."""
    trace.update({key: injected[key] for key in ("prompt_ids", "image_ids") if key in injected})
    if "hidden" in injected:
        return injected["hidden"]
    prompt = injected["prompt_ids"].tolist() if "prompt_ids" in injected else model.prompt_ids(args.prompt)
    if "image_ids" in injected:
        drawn = injected["image_ids"].tolist()
    else:
        drawn = model.sample(prompt, args.greedy, args.seed, args.temperature, args.top_k, args.top_p)
    clock.lap("sample")
    hidden, _ = model.states(prompt, drawn)
    clock.lap("states")
    trace["prompt_ids"] = torch.tensor(prompt, dtype=torch.int32)
    trace["image_ids"] = torch.tensor(drawn, dtype=torch.int32)
    return hidden


def run(model, args, injected, clock):
    """The whole loop; returns the trace."""
    trace = {}
    hidden = run_ar(model, args, injected, trace, clock)
    conditions = model.conditions(hidden)
    noise = injected["noise"] if "noise" in injected else model.noise(args.seed)
    clock.lap("connector")

    def record(k, velocity, latent):
        trace[f"velocity.{k}"], trace[f"latent.{k}"] = velocity, latent

    latent = model.denoise(conditions, noise, args.steps, args.guidance, args.sampler,
                           record if args.trace else None)
    clock.lap("diffusion")
    image = to_rgb(model.decode(latent))
    clock.lap("decode")
    trace.update(hidden=hidden, condition=conditions[0], noise=noise, latent=latent, image=image)
    return trace


def plain(tensor):
    """The trace's dtypes: i32 and u8 stay, floats become f32."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.detach().cpu().contiguous().clone()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", default="")
    parser.add_argument("-o", "--out", help="PNG to write")
    parser.add_argument("--trace", help="safetensors file to write")
    parser.add_argument("--inject", help="safetensors file to take ids, states or noise from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--size", help="picture size WxH when not the model's own")
    parser.add_argument("--sampler", choices=("euler", "dpm"), default="euler")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--time", action="store_true", help="print wall milliseconds per stage as JSON")
    parser.add_argument("--repeat", type=int, default=1, help="run the loop again, timing the last run")
    return parser.parse_args()


def main():
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = Clock()
    model = Reference(args.model, getattr(torch, args.dtype), args.device)
    clock.lap("load")
    load_ms = clock.stages["load"]
    args.steps = args.steps or model.engine["steps"]
    args.guidance = model.engine["guidance"] if args.guidance is None else args.guidance
    if args.size:
        model.set_size(*map(int, args.size.split("x")))
    injected = load_file(args.inject) if args.inject else {}
    for _ in range(args.repeat):
        clock = Clock()
        trace = run(model, args, injected, clock)
    if args.trace:
        save_file({name: plain(tensor) for name, tensor in trace.items()}, args.trace)
    if args.out:
        from PIL import Image
        Image.fromarray(trace["image"].numpy()).save(args.out)
    if args.time:
        stages = {name: round(ms, 3) for name, ms in clock.stages.items()}
        print(json.dumps({"load": round(load_ms, 3), **stages, "total": round(sum(clock.stages.values()), 3),
                          "steps": args.steps, "dtype": args.dtype, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
