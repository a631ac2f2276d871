"""race.py - the engine and the published classes side by side on one model, alternating, in one run.

    python race.py --program build/release/diptych --model DIR [--prompt TEXT] [--repeat N] [--threads N]

Both are timed from prompt to picture with the model already loaded (the engine's `timings_ms.total`, the
reference's loop without loading), with the same steps, guidance and token count. Best and median of the
repeats are printed; the ratio is reference over engine. Both run float32 arithmetic on the CPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def engine(args, out):
    """One run of the engine; its stages in milliseconds."""
    command = [args.program, "generate", "--model", args.model, "--seed", "1", "--json", "-o", out]
    command += ["--threads", str(args.threads), "--progress", "never", args.prompt]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["timings_ms"]


def reference(args, out):
    """One run of the published loop; its stages in milliseconds. The second of two loops is timed."""
    command = [sys.executable, str(HERE / "run.py"), "--model", args.model, "--seed", "1", "--time"]
    command += ["--threads", str(args.threads), "--repeat", "2", "-o", out, "--prompt", args.prompt]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    report = json.loads(lines[-1])
    return {name: report[name] for name in report if name not in ("load", "steps", "dtype", "threads")}


def summary(name, runs):
    """Prints one line a program; returns the best total."""
    totals = [run["total"] for run in runs]
    best = min(runs, key=lambda run: run["total"])
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in best.items() if stage != "total")
    print(f"{name:10s} best {min(totals):10.1f} ms   median {statistics.median(totals):10.1f} ms   ({stages})")
    return min(totals)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", default="a red circle")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeat):
            ours.append(engine(args, f"{folder}/engine.png"))
            theirs.append(reference(args, f"{folder}/reference.png"))
    fast, slow = summary("diptych", ours), summary("reference", theirs)
    print(f"ratio      {slow / fast:.1f} (reference over engine, best of {args.repeat})")


if __name__ == "__main__":
    main()
