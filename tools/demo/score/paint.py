"""tools/demo/score/paint.py - paints the prompts of a list with `diptych generate`, for score.py to look at.

    python tools/demo/score/paint.py PROGRAM --out DIR [--model models/demo] [--prompts FILE] [--limit N] [-- OPTIONS]

Prompt i of the list gets seed i, whatever the limit, so a short run is a part of the long one. OPTIONS go to
`generate` (`-- --steps 8 --guidance 3`). Needs nothing but Python.

--scramble-hidden is the scorer's own test: it paints once, keeps what one panel handed to the other (--trace), puts
the channels of every row into another order, and paints again from that (--inject). A score that does not fall then
measures nothing. (Rows may stand in any order: cross-attention does not see it, and each row knows its place.)
"""

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pick(path, limit):
    """[(index in the list, entry)], at most `limit` per category."""
    taken, picked = {}, []
    for index, line in enumerate(path.read_text().splitlines()):
        entry = json.loads(line)
        taken[entry["category"]] = taken.get(entry["category"], 0) + 1
        if limit is None or taken[entry["category"]] <= limit:
            picked.append((index, entry))
    return picked


def scramble_channels(path, name):
    """Reorder the columns of a float32 matrix in a safetensors file, in all rows alike; keeps only that tensor."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    meta = json.loads(data[8:8 + size])[name]
    assert meta["dtype"] == "F32", meta
    start, end = meta["data_offsets"]
    body = data[8 + size + start:8 + size + end]
    values = [body[i:i + 4] for i in range(0, len(body), 4)]
    width = meta["shape"][-1]
    order = list(range(width))
    random.Random(0).shuffle(order)
    meta["data_offsets"] = [0, len(body)]
    head = json.dumps({name: meta}).encode()
    mixed = (values[row + column] for row in range(0, len(values), width) for column in order)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(mixed))


def paint(program, model, prompt, seed, image, options):
    subprocess.run([program, "generate", "--model", str(model), "--seed", str(seed), "--progress", "never",
                    "--output", str(image), *options, "--", prompt], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=HERE.parent.parent.parent / "models" / "demo")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts.jsonl")
    parser.add_argument("--limit", type=int, help="prompts per category")
    parser.add_argument("--part", default="0/1", help="I/N: only every N-th prompt, for N of these at once")
    parser.add_argument("--traces", action="store_true", help="keep what was drawn by chance, for pipeline.py --traced")
    parser.add_argument("--scramble-hidden", action="store_true")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    for_generate = sys.argv[end + 1:]
    args = parser.parse_args(sys.argv[1:end])
    args.out.mkdir(parents=True, exist_ok=True)
    picked = pick(args.prompts, args.limit)
    part, parts = map(int, args.part.split("/"))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.safetensors"
        for place, (seed, entry) in list(enumerate(picked))[part::parts]:
            image = args.out / f"{place:05d}.png"
            options = for_generate
            if args.traces:
                options = [*options, "--trace", str(image.with_suffix(".safetensors"))]
            if args.scramble_hidden:
                paint(args.program, args.model, entry["prompt"], seed, image, [*options, "--trace", str(trace)])
                scramble_channels(trace, "hidden")
                options = [*options, "--inject", str(trace)]
            paint(args.program, args.model, entry["prompt"], seed, image, options)
    (args.out / "prompts.jsonl").write_text("".join(json.dumps(entry) + "\n" for _, entry in picked))


if __name__ == "__main__":
    main()
