"""tolerances.py - how close two files of tensors have to be, key by key.

The first matching rule decides. A limit is a relative L2 distance, except for pictures (levels) and
for `exact`. The numbers belong to a float32 engine against the float32 reference on the same stored
weights. Limits of a single stage (connector 1e-6) suppose that the stage was fed the reference's own
input; behind an engine's own hidden states the connector inherits their limit.
"""

import re

import torch

EXACT, LEVELS, RELATIVE = "exact", "levels", "relative"

RULES = [
    (r"(prompt_ids|image_ids|codes)$", EXACT, 0),
    (r"(sigmas|timesteps|guidance|noise)$", EXACT, 0),
    (r"^vision/image$|encode_pixels$", EXACT, 0),
    (r"image$", LEVELS, 1),
    (r"condition(_uncond)?$|^edit/rows$", RELATIVE, 1e-6),
    (r"", RELATIVE, 1e-5),
]


def rule(key):
    """(kind, limit) for a key."""
    return next((kind, limit) for pattern, kind, limit in RULES if re.search(pattern, key))


def relative_l2(a, b):
    """||a - b|| / ||b||, in float64; b is the reference."""
    a, b = a.double(), b.double()
    scale = b.norm().item()
    return (a - b).norm().item() / scale if scale else (a - b).norm().item()


def distance(key, a, b):
    """The distance that the key's rule limits."""
    kind, _ = rule(key)
    if kind == RELATIVE:
        return relative_l2(a, b)
    worst = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
    return worst if torch.isfinite(torch.tensor(worst)) else float("inf")
