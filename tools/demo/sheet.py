"""tools/demo/sheet.py - a contact sheet: pictures of a folder in rows, each with its prompt underneath.

    python tools/demo/sheet.py DIR --out docs/demo.png [--columns 6] [--count 24] [--every 1]

DIR is what pipeline.py wrote: numbered pictures and prompts.jsonl.
"""

import argparse
import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

LINE = 11  # pixels of a line of text


def sheet(folder, columns, count, every):
    entries = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    picked = list(range(0, len(entries), every))[:count]
    first = Image.open(folder / "00000.png")
    w, h = first.size
    cell = h + 3 * LINE + 6
    page = Image.new("RGB", (columns * (w + 6) + 6, -(-len(picked) // columns) * cell + 6), "white")
    pen = ImageDraw.Draw(page)
    for place, index in enumerate(picked):
        x, y = 6 + place % columns * (w + 6), 6 + place // columns * cell
        page.paste(Image.open(folder / f"{index:05d}.png"), (x, y))
        for i, line in enumerate(textwrap.wrap(entries[index]["prompt"], w // 6)[:3]):
            pen.text((x, y + h + i * LINE), line, fill="black")
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    sheet(args.folder, args.columns, args.count, args.every).quantize(128).save(args.out, optimize=True)
