"""tools/demo/pipeline.py - prompt to picture with the public classes, in float32: the loop of the published script.

    python tools/demo/pipeline.py --model models/demo --out DIR --prompts FILE [--limit N] [--steps N] [--guidance G]
    python tools/demo/pipeline.py --model models/demo --out DIR "a red circle"

Writes DIR/00000.png and so on, and DIR/prompts.jsonl, which is what score.py reads. FILE holds one JSON object per
line with at least `prompt`. Slow and plain on purpose: it is what the engine is compared with.

--traced DIR, a folder that score/paint.py --traces has filled from the same prompts and limit, takes image tokens and
noise from there instead of drawing them. Then the two programs should paint the same pictures, and the scores differ
by rounding only; drawn apart, the scores of n pictures differ by chance too.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel
from diffusers.models.normalization import RMSNorm
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

PROMPT = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nPlease generate image based on "
          "the following caption: {}<|im_end|>\n<|im_start|>assistant\n<im_start><S0>")


class Pipeline:
    """A checkpoint folder, loaded. Batches prompts by masking the pads, so a row is what it would be alone."""

    def __init__(self, folder):
        folder = Path(folder)

        def read(name):
            return json.loads((folder / name).read_text())

        def part(prefix):
            return {k[len(prefix):]: v.float() for k, v in tensors.items() if k.startswith(prefix)}

        tensors = load_file(folder / "model.safetensors")
        self.config, self.settings = read("config.json"), read("diptych.json")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.lm = Qwen3ForCausalLM(Qwen3Config(**self.config)).float().eval()
        missing, _ = self.lm.load_state_dict(tensors, strict=False)
        assert set(missing) <= {"lm_head.weight"}, missing
        self.lm.tie_weights()
        w = part("model.diffusion_connector.")
        width, hidden = w["0.weight"].shape
        self.connector = nn.Sequential(nn.Linear(hidden, width), nn.GELU(approximate="tanh"), nn.Linear(width, width),
                                       RMSNorm(width, eps=1e-5, elementwise_affine=True))
        self.connector.load_state_dict(w)
        self.sana = SanaTransformer2DModel.from_config(read("transformer/config.json")).eval()
        self.sana.load_state_dict(part("model.sana."))
        self.vae = AutoencoderDC.from_config(read("vae/config.json")).eval()
        self.vae.load_state_dict(part("model.sana_vae."))
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(read("scheduler/scheduler_config.json"))

    def draw_token(self, logits, generator):
        """Token ids [n, 1] of logits [n, V]: temperature, then the likeliest k, then the likeliest of probability p."""
        s = self.settings
        logits = logits / s["temperature"]
        kept = torch.topk(logits, min(s["top_k"], logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kept, -torch.inf)
        ranked, order = logits.sort(-1)
        drop = ranked.softmax(-1).cumsum(-1) <= 1 - s["top_p"]
        drop[:, -1] = False
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)

    @torch.no_grad()
    def hidden_states(self, prompts, generator, tokens=None):
        """Sample the image tokens if not given, then run the LM again for the states from <S0> to the last token."""
        s = self.settings
        rows = [self.tokenizer.encode(PROMPT.format(p), add_special_tokens=False).ids for p in prompts]
        longest = max(map(len, rows))
        pad = self.tokenizer.token_to_id("<|endoftext|>")
        ids = torch.tensor([[pad] * (longest - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
        place = mask.cumsum(1) - 1
        count = s["image_grid"][0] * s["image_grid"][1]
        step, cache, full = ids, None, ids
        for i in range(count):
            if tokens is None:
                result = self.lm(input_ids=step, attention_mask=mask, use_cache=True, past_key_values=cache,
                                 position_ids=place[:, -step.shape[1]:].clamp(min=0))
                cache = result.past_key_values
                step = self.draw_token(result.logits[:, -1].float(), generator)
            else:
                step = tokens[:, i:i + 1]
            full = torch.cat([full, step], 1)
            mask = torch.cat([mask, torch.ones_like(step)], 1)
            place = torch.cat([place, place[:, -1:] + 1], 1)
        states = self.lm.model(input_ids=full, attention_mask=mask, position_ids=place.clamp(min=0)).last_hidden_state
        return states[:, -count - 1:], full[:, -count:]

    @torch.no_grad()
    def __call__(self, prompts, seed=0, drawn=None):
        """uint8 [n, H, W, 3] and the sampled token ids. `drawn` are token ids and noise to use instead of chance."""
        s = self.settings
        generator = torch.Generator().manual_seed(seed)
        states, tokens = self.hidden_states(prompts, generator, drawn and drawn[0])
        context = self.connector(torch.cat([torch.zeros_like(states), states]))
        channels = self.sana.config.in_channels
        x = drawn[1] if drawn else torch.randn(len(prompts), channels, *s["latent_size"], generator=generator)
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / s["steps"], s["steps"]))
        for t in self.scheduler.timesteps:
            v = self.sana(torch.cat([x, x]), encoder_hidden_states=context, timestep=t.expand(2 * len(x))).sample
            unconditional, conditional = v.chunk(2)
            v = unconditional + s["guidance"] * (conditional - unconditional)
            x = self.scheduler.step(v, t, x).prev_sample
        image = self.vae.decode(x / self.vae.config.scaling_factor).sample
        image = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        return (image * 255).round().to(torch.uint8).numpy(), tokens


def traced(folder, places):
    """Token ids [n, T] and noise [n, C, h, w] of the engine's traces."""
    traces = [load_file(folder / f"{i:05d}.safetensors") for i in places]
    return torch.stack([t["image_ids"].long() for t in traces]), torch.stack([t["noise"].float() for t in traces])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--limit", type=int, help="prompts per category")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--traced", type=Path)
    parser.add_argument("prompt", nargs="*")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    pipeline = Pipeline(args.model)
    for key in ("steps", "guidance", "top_k", "top_p", "temperature"):
        if getattr(args, key) is not None:
            pipeline.settings[key] = getattr(args, key)
    entries = [{"prompt": p} for p in args.prompt]
    if args.prompts:
        taken = {}
        for line in args.prompts.read_text().splitlines():
            entry = json.loads(line)
            taken[entry.get("category")] = taken.get(entry.get("category"), 0) + 1
            if args.limit is None or taken[entry.get("category")] <= args.limit:
                entries.append(entry)
    args.out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(entries), args.batch):
        part = entries[start:start + args.batch]
        drawn = traced(args.traced, range(start, start + len(part))) if args.traced else None
        images, _ = pipeline([e["prompt"] for e in part], seed=args.seed + start, drawn=drawn)
        for i, image in enumerate(images, start):
            Image.fromarray(image).save(args.out / f"{i:05d}.png")
    (args.out / "prompts.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))


if __name__ == "__main__":
    main()
