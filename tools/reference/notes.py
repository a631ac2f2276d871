"""notes.py - the page beside a golden file: how it was made, and why its tolerances are what they are."""

import importlib.metadata
import re

from tolerances import EXACT, distance, rule

PACKAGES = ("torch", "transformers", "diffusers", "tokenizers", "safetensors", "numpy", "pillow")

HEAD = """# Golden tensors of {name}

Made by `tools/reference/capture.py`, one thread, float32 arithmetic on the weights of `model/` as
stored; `model/` itself by `tools/reference/make_tiny.py`. Keys are described at the top of
`capture.py` and in `tests/golden/README.md`. Versions: {versions}.

    python tools/reference/make_tiny.py --variant {variant} --out tests/golden/{name}/model
    python tools/reference/capture.py --model tests/golden/{name}/model \\
        --out tests/golden/{name}/golden.safetensors --notes tests/golden/{name}/golden.md

## Tolerances

`limit` is what an engine in float32 may differ from these tensors: relative L2, levels for pictures.
`measured` is the worst distance between this float32 capture and the same capture in float64 (the
library classes keep float32 islands: norms, linear attention, the timestep sinusoid), that is, the
rounding noise of the reference itself. An engine with another summation order shows noise of the
same size; the limits leave it a factor of ten and more, while a wrong operation, order or constant
is off by 1e-3 or worse. A stage whose limit is 1e-6 must be fed the reference's own input
(`hidden` for `condition`, `edit/latent` for `edit/rows`): one Linear-GELU-Linear-norm adds little
noise of its own but hands on that of its input. A picture may differ by one level where a value
falls on a rounding boundary. Integers, schedules and noise are exact.

| keys | limit | measured |
|---|---|---|
"""


def group(key):
    """Keys of a kind share a row: step, timestep and block numbers are dropped."""
    key = re.sub(r"^dit/\d+/", "dit/T/", key)
    key = re.sub(r"^dit/T/\d+/", "dit/T/B/", key)
    return re.sub(r"\.\d+$", ".K", key)


def table(golden, exact):
    """Rows of (group, limit, worst measured distance)."""
    rows = {}
    for key in sorted(golden):
        kind, limit = rule(key)
        shown = "exact" if kind == EXACT else f"{limit:g}" + (" level" if kind == "levels" else "")
        worst = max(distance(key, golden[key], exact[key]), rows.get(group(key), ("", 0.0))[1])
        rows[group(key)] = (shown, worst)
    return [f"| `{name}` | {shown} | {worst:.1e} |" if worst else f"| `{name}` | {shown} | 0 |"
            for name, (shown, worst) in rows.items()]


def versions():
    """The packages that decided the numbers."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def write(path, golden, exact):
    """Write the page; the golden's name is its folder's."""
    name = path.replace("\\", "/").split("/")[-2]
    head = HEAD.format(name=name, variant=name.rsplit("-", 1)[-1], versions=versions())
    with open(path, "w", encoding="utf-8") as file:
        file.write(head + "\n".join(table(golden, exact)) + "\n")
