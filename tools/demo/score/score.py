"""tools/demo/score/score.py - finds coloured shapes in pictures by classical vision and checks them against prompts.

    python tools/demo/score/score.py DIR [--json FILE]        score DIR/prompts.jsonl against DIR/00000.png ...
    python tools/demo/score/score.py DIR --at-least 0.8       and exit 1 when the mean of the categories is below
    python tools/demo/score/score.py --make-list FILE [--per-category 500]
    python tools/demo/score/score.py --self-test              drawn scenes must score 1

A picture is right when it shows exactly the things promised: each named shape, as often as said, in the colour said,
standing as said, and nothing else. Method: the background is the median of the border; what differs from it is cut
into connected parts; each part is compared with the eight shapes drawn into the same box, and its colour with the
palette in CIE Lab. A part that matches no shape well (overlap under IOU_MIN) is wrong, however it is coloured.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import scenes  # noqa: E402

LIST_SEED = 20
DIFFERENT_MIN = 12.0  # Lab distance from the background that makes a pixel a thing
AREA_MIN = 60  # pixels; smaller parts are specks, and specks over SPECK_MAX in sum are a fault
SPECK_MAX = 120
IOU_MIN = 0.72
COLOR_MAX = 30.0  # Lab distance from the nearest palette colour


def parts_of(mask):
    """Connected parts (4 neighbours) of a mask, as boolean arrays, by runs and union-find."""
    parent, runs = [], []

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        here = []
        for x0, x1 in zip(edges[::2], edges[1::2]):
            label = len(parent)
            parent.append(label)
            for a0, a1, other in above:
                if a0 < x1 and x0 < a1:
                    parent[root(other)] = root(label)
            here.append((x0, x1, label))
            runs.append((y, x0, x1, label))
        above = here
    parts = {}
    for y, x0, x1, label in runs:
        part = parts.setdefault(root(label), np.zeros(mask.shape, bool))
        part[y, x0:x1] = True
    return list(parts.values())


def unit_box(shape):
    """Bounds x0, y0, x1, y1 of the unit shape."""
    t = np.linspace(-1.1, 1.1, 401)
    inside = scenes.distance(shape, t[None], t[:, None]) < 0
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return t[xs[0]], t[ys[0]], t[xs[-1]], t[ys[-1]]


BOXES = {shape: unit_box(shape) for shape in scenes.SHAPES}


def shape_of(part):
    """The best-matching shape and its overlap with the part, both in the part's own box."""
    ys, xs = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    crop = part[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1]
    h, w = crop.shape
    best = (0.0, None)
    for shape, (x0, y0, x1, y1) in BOXES.items():
        stretch = (w / h) / ((x1 - x0) / (y1 - y0))
        if not 0.7 < stretch < 1.4:
            continue
        x = x0 + (np.arange(w) + 0.5) / w * (x1 - x0)
        y = y0 + (np.arange(h) + 0.5) / h * (y1 - y0)
        drawn = scenes.distance(shape, x[None], y[:, None]) < 0
        best = max(best, ((drawn & crop).sum() / (drawn | crop).sum(), shape))
    return best[1], best[0]


def nearest(color, palette):
    distances = {name: float(np.linalg.norm(color - scenes.lab(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.get)
    return name, distances[name]


def detect(image):
    """What a picture shows: background name, things (shape, colour, x, y, area, overlap), area of specks."""
    scale = image.shape[0] / scenes.SIZE
    colors = scenes.lab(image)
    border = np.concatenate([colors[:2].reshape(-1, 3), colors[-2:].reshape(-1, 3),
                             colors[:, :2].reshape(-1, 3), colors[:, -2:].reshape(-1, 3)])
    ground = np.median(border, 0)
    far = np.linalg.norm(colors - ground, axis=-1)
    things, specks = [], 0
    for part in parts_of(far > DIFFERENT_MIN):
        area = int(part.sum())
        if area < AREA_MIN * scale * scale:
            specks += area
            continue
        # the colour is that of the part's inner pixels; its outline is the line half way to the background
        inner = part.copy()
        inner[1:] &= part[:-1]
        inner[:-1] &= part[1:]
        inner[:, 1:] &= part[:, :-1]
        inner[:, :-1] &= part[:, 1:]
        color = np.median(colors[inner if inner.sum() > 20 else part], 0)
        away = np.linalg.norm(color - ground)
        along = (colors - ground) @ (color - ground) / max(away * away, 1e-6)
        outline = part & (along > 0.5)
        if outline.sum() < AREA_MIN * scale * scale / 2:
            outline = part
        shape, overlap = shape_of(outline)
        name, distance = nearest(color, scenes.COLORS)
        ys, xs = np.nonzero(part)
        things.append({"shape": shape if overlap >= IOU_MIN else None, "overlap": round(float(overlap), 3),
                       "color": name if distance <= COLOR_MAX else None, "x": float(xs.mean()), "y": float(ys.mean()),
                       "area": area})
    return {"background": nearest(ground, scenes.BACKGROUNDS)[0], "things": things,
            "specks": specks / (scale * scale)}


def judge(promise, found):
    """True when the picture keeps the promise; otherwise the first reason why not."""
    wanted = [tuple(t) for t in promise["things"] for _ in range(promise.get("count") or 1)]
    things = found["things"]
    if found["specks"] > SPECK_MAX:
        return "specks"
    if any(t["shape"] is None for t in things):
        return "unclear shape"
    if len(things) != len(wanted):
        return "count"
    if sorted(s for s, _ in wanted) != sorted(t["shape"] for t in things):
        return "shape"

    def matches(order):
        return all(t["shape"] == s and (c is None or t["color"] == c) for t, (s, c) in zip(order, wanted))

    orders = [things] if len(things) != 2 else [things, things[::-1]]
    orders = [o for o in orders if matches(o)]
    if not orders:
        return "color"
    relation = promise.get("relation")
    if relation and not any(scenes.holds(relation, (o[0]["x"], o[0]["y"]), (o[1]["x"], o[1]["y"])) for o in orders):
        return "position"
    if promise.get("background") and found["background"] != promise["background"]:
        return "background"
    return True


def score(folder):
    """Per-category accuracy, overall mean of categories, and the reasons of failure."""
    entries = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    right, total, reasons, verdicts = {}, {}, {}, []
    for i, entry in enumerate(entries):
        path = next((p for p in (folder / f"{i:05d}.png", folder / f"out-{i}.png") if p.exists()), None)
        if path is None or "things" not in entry:
            continue
        verdict = judge(entry, detect(np.asarray(Image.open(path).convert("RGB"))))
        verdicts.append({"prompt": entry["prompt"], "verdict": verdict})
        category = entry["category"]
        total[category] = total.get(category, 0) + 1
        right[category] = right.get(category, 0) + (verdict is True)
        if verdict is not True:
            reasons.setdefault(category, {}).setdefault(verdict, 0)
            reasons[category][verdict] += 1
    if not total:
        sys.exit(f"no picture of a promise in {folder}")
    by = {c: round(right[c] / total[c], 4) for c in total}
    return {"overall": round(sum(by.values()) / len(by), 4), "categories": by, "images": sum(total.values()),
            "reasons": reasons, "verdicts": verdicts}


def self_test(count=600):
    """Drawn scenes, scored as if they had been generated."""
    wrong = []
    for i in range(count):
        s = scenes.training_scene(99, i, [1] * 6)
        promise = {"things": s.spec.things, "count": s.spec.count, "relation": s.spec.relation,
                   "background": s.spec.background}
        verdict = judge(promise, detect(scenes.draw(s.background, s.things)))
        if verdict is not True:
            wrong.append((verdict, s.caption))
    return 1 - len(wrong) / count, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--json", type=Path, help="write all verdicts there")
    parser.add_argument("--at-least", type=float, default=0.0)
    parser.add_argument("--at-most", type=float, default=1.0)
    parser.add_argument("--make-list", type=Path)
    parser.add_argument("--per-category", type=int, default=500)
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.make_list:
        entries = scenes.held_out_prompts(LIST_SEED, args.per_category)
        lines = [json.dumps({k: v for k, v in e.items() if v not in (None, 1)}) + "\n" for e in entries]
        args.make_list.write_text("".join(lines))
    elif args.self_test:
        share, wrong = self_test()
        print(share, wrong[:20])
        if share < 0.99:
            sys.exit("the scorer does not recognise what is drawn")
    elif args.folder:
        result = score(args.folder)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
        result.pop("verdicts")
        print(json.dumps(result, indent=1))
        if not args.at_least <= result["overall"] <= args.at_most:
            sys.exit(f"the score {result['overall']} is not within {args.at_least} and {args.at_most}")
    else:
        parser.error("a folder, --make-list or --self-test is needed")


if __name__ == "__main__":
    main()
