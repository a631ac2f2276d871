"""tools/demo/sweep.py - score and sharpness of `diptych generate` against guidance and against steps, as a picture.

    python tools/demo/sweep.py PROGRAM --work DIR --out docs/demo-sweep.png [--model models/demo] [--limit 10]

Sharpness is the mean of the steepest 2 % of the brightness differences between neighbouring pixels, 0 to 255. The
dashed line is the sharpness of drawn scenes. What has been painted stays in DIR, and is not painted again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import scenes

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

SCORE = Path(__file__).resolve().parent / "score"
sys.path.insert(0, str(SCORE))
import score  # noqa: E402

# The outer values are where pictures must break; without them a flat curve could as well be an option that does nothing.
GUIDANCES = (0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 8, 16)
STEPS = (1, 2, 3, 4, 6, 8, 10, 14, 20, 30)


def sharpness(image):
    """image uint8 [H, W, 3]"""
    brightness = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    steep = np.concatenate([np.abs(np.diff(brightness, axis=a)).ravel() for a in (0, 1)])
    steep.sort()
    return float(steep[-len(steep) // 50:].mean())


def measure(args, option, value):
    folder = args.work / f"{option}-{value}"
    if not (folder / "prompts.jsonl").exists():
        subprocess.run([sys.executable, str(SCORE / "paint.py"), args.program, "--out", str(folder), "--model",
                        str(args.model), "--limit", str(args.limit), "--", f"--{option}", str(value)], check=True)
    result = score.score(folder)
    sharp = np.mean([sharpness(np.asarray(Image.open(p).convert("RGB"))) for p in sorted(folder.glob("*.png"))])
    row = {"option": option, "value": value, "score": result["overall"], "sharpness": round(float(sharp), 2)}
    print(json.dumps(row), flush=True)
    return row


def plot(series, drawn, settings, count, out):
    figure, axes = pyplot.subplots(1, len(series), figsize=(9, 3.2), squeeze=False)
    for axis, (option, rows) in zip(axes[0], series.items()):
        x = [row["value"] for row in rows]
        axis.plot(x, [row["score"] for row in rows], "o-", color="tab:blue")
        axis.set_xlabel(f"{option} (the checkpoint's own: {settings[option]})")
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks(x, [str(v) for v in x], fontsize=7)
        axis.minorticks_off()
        axis.set_ylabel("score", color="tab:blue")
        axis.set_ylim(0, 1)
        other = axis.twinx()
        other.plot(x, [row["sharpness"] for row in rows], "s-", color="tab:orange")
        other.axhline(drawn, color="tab:orange", linestyle="--", linewidth=0.8)
        other.set_ylabel("sharpness", color="tab:orange")
        other.set_ylim(0, drawn * 1.3)
    figure.suptitle(f"{count} prompts a point", fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=SCORE.parent.parent.parent / "models" / "demo")
    parser.add_argument("--limit", type=int, default=10, help="prompts per category")
    args = parser.parse_args()
    series = {"guidance": [measure(args, "guidance", v) for v in GUIDANCES],
              "steps": [measure(args, "steps", v) for v in STEPS]}
    drawn = [scenes.training_scene(99, i, [1] * 6) for i in range(60)]
    drawn = float(np.mean([sharpness(scenes.draw(s.background, s.things)) for s in drawn]))
    settings = json.loads((args.model / "diptych.json").read_text())
    plot(series, drawn, settings, args.limit * len(scenes.CATEGORIES), args.out)


if __name__ == "__main__":
    main()
