"""capture_sampling.py - golden candidate sets of temperature, top-k and top-p.

    python capture_sampling.py --out tests/golden/sampling/golden.safetensors

Computed with the logits warpers of `transformers`, in the published order. For each logit vector NAME:
  NAME.logits [V]        f32
  NAME.params [J, 3]     f32 temperature, top_k, top_p; top_k 0 and top_p 1 mean off
  NAME.keep [J, V]       u8, 1 where a token survives
  NAME.count [J]         i32 survivors
  NAME.straddle [J]      u8, 1 where the top-p cut falls among equal logits. The library then keeps
                         whichever of the equals its sort put last (the larger ids); an engine that
                         orders equal logits by id keeps the smaller ids. Compare only the count and
                         the sorted logits of the survivors there.
  NAME.probs [J, V]      f32 probabilities after the cut (vectors up to 1000 entries)

Every stored top-p cut is at least 1e-6 of probability away from its threshold, so that the order of
summation cannot decide it.
"""

import argparse

import torch
from safetensors.torch import save_file
from transformers.generation.logits_process import (TemperatureLogitsWarper, TopKLogitsWarper,
                                                    TopPLogitsWarper)

MARGIN = 1e-6


def vectors():
    """The logit vectors: plain, with ties, flat, peaked, and one of a larger vocabulary."""
    draw = lambda seed, count: torch.randn(count, generator=torch.Generator().manual_seed(seed))
    ties = (draw(2, 395) * 3).round() / 2
    peaked = draw(4, 395)
    peaked[17] = 30.0
    masked = draw(6, 395) * 2
    masked[100:300] = -1e30
    return {
        "plain": draw(1, 395) * 2,
        "ties": ties,
        "flat": torch.zeros(395),
        "peaked": peaked,
        "negative": draw(5, 395) * 4 - 200,
        "masked": masked,
        "bf16": (draw(7, 5003) * 3).bfloat16().float(),
        "large": draw(8, 5003) * 3,
    }


def parameters():
    """Combinations worth testing: the defaults, each alone, the edges."""
    return [(1.0, 1200, 0.95), (1.0, 20, 0.95), (0.6, 20, 0.95), (1.0, 0, 1.0), (1.0, 0, 0.95),
            (1.0, 0, 0.5), (1.0, 50, 1.0), (1.0, 1, 1.0), (1.0, 2, 0.5), (0.7, 0, 0.9), (1.5, 100, 0.8),
            (2.5, 7, 0.99), (1.0, 0, 0.01), (1.0, 394, 0.999), (0.1, 1200, 0.95)]


def warp(logits, temperature, top_k, top_p):
    """Warped scores, and the scores that entered top-p."""
    ids, scores = torch.zeros(1, 1, dtype=torch.long), logits[None].clone()
    if temperature != 1.0:
        scores = TemperatureLogitsWarper(temperature)(ids, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    before = scores[0]
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    return scores[0], before


def is_straddling(before, keep):
    """Whether a removed entry equals a kept one."""
    removed = before[~keep & torch.isfinite(before)]
    return bool(len(removed)) and bool((before[keep].min() == removed.max()))


def is_clear(before, top_p):
    """Whether no cumulative sum, in float64, is within MARGIN of the threshold. Equal logits are
    summed like any others: the count of survivors is clear too."""
    if top_p >= 1.0:
        return True
    sums = before.double().sort().values.softmax(-1).cumsum(-1)
    return bool((sums - (1 - top_p)).abs().min() > MARGIN)


def cases(logits):
    """All clear parameter sets of one vector."""
    out = {"params": [], "keep": [], "count": [], "straddle": [], "probs": []}
    for temperature, top_k, top_p in parameters():
        scores, before = warp(logits, temperature, top_k, top_p)
        if not is_clear(before, top_p):
            continue
        keep = torch.isfinite(scores)
        out["params"].append(torch.tensor([temperature, top_k, top_p]))
        out["keep"].append(keep.to(torch.uint8))
        out["count"].append(keep.sum().to(torch.int32))
        out["straddle"].append(torch.tensor(is_straddling(before, keep), dtype=torch.uint8))
        out["probs"].append(scores.softmax(-1))
    return {name: torch.stack(rows) for name, rows in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    golden = {}
    for name, logits in vectors().items():
        golden[f"{name}.logits"] = logits
        for key, value in cases(logits).items():
            if key != "probs" or len(logits) <= 1000:
                golden[f"{name}.{key}"] = value
        print(name, golden[f"{name}.count"].tolist(), golden[f"{name}.straddle"].tolist())
    save_file(golden, args.out)
    print(f"{args.out}: {len(golden)} tensors")


if __name__ == "__main__":
    main()
