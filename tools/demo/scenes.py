"""tools/demo/scenes.py - scenes of coloured shapes, their captions, and what a scorer must find in them.

A *spec* says what the words promise (shapes, colours where named, count, relation, background where named); a *scene*
is one arrangement that keeps the promise. Both come from one counter-based generator, so (seed, index) names a picture
for ever. The six categories are those of the GenEval benchmark.

Held out of training, so that a score measures composition and not memory:
  * the colour-shape pairs in HELD_OUT_PAIRS, wherever they would appear with their colour named or drawn;
  * one in eight of all other specs, by a hash of their canonical text.

Nothing may hint that the held-out pairs do not exist, or a model learns that: a caption that names a pair's colour and
its shape, though for different things, is left out of training too, and things whose colour the caption leaves open
are drawn in PLAIN colours only, which go with every shape.
"""

import dataclasses
import hashlib
import itertools

import numpy as np

SIZE = 128  # pixels a side

COLORS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 215, 40),
    "green": (50, 165, 70),
    "blue": (45, 95, 220),
    "purple": (135, 60, 185),
    "pink": (245, 140, 190),
    "brown": (130, 80, 45),
    "black": (25, 25, 28),
    "white": (250, 250, 250),
}
BACKGROUNDS = {
    "gray": (176, 180, 186),
    "charcoal": (62, 66, 74),
    "cream": (246, 236, 208),
    "sky": (186, 216, 242),
    "mint": (190, 228, 200),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
SIZES = {"small": (20,), "large": (40,)}  # radius in pixels when the caption names the size
RADII = {1: (26, 34), 2: (20, 26), 3: (20,), 4: (20,)}  # the radii to choose from otherwise, by the number of things
LATTICE = 16  # centres lie at multiples of this, the corners of image tokens; see _place
NUMBERS = ("one", "two", "three", "four")
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
HELD_OUT_PAIRS = frozenset({("brown", "star"), ("pink", "cross"), ("orange", "ring"), ("white", "diamond")})
PLAIN = tuple(color for color in COLORS if color not in {c for c, _ in HELD_OUT_PAIRS})


def _polygon(shape):
    """Vertices of a unit shape, y down, inside the unit circle."""
    if shape == "square":
        a = 0.84
        return np.array([(-a, -a), (a, -a), (a, a), (-a, a)])
    if shape == "diamond":
        return np.array([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)])
    if shape == "triangle":
        return np.array([(0, -0.95), (1, 0.78), (-1, 0.78)])
    if shape == "star":
        k = np.arange(10)
        r = np.where(k % 2 == 0, 1.0, 0.42)
        t = k * np.pi / 5 - np.pi / 2
        return np.stack([r * np.cos(t), r * np.sin(t)], 1)
    if shape == "cross":
        a, b = 0.95, 0.32
        return np.array([(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b),
                         (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)])
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x, y - 2.5], 1) / 16
    return None


_POLYGONS = {shape: _polygon(shape) for shape in SHAPES}
RING_INNER = 0.52


def distance(shape, x, y):
    """Signed distance from points to the outline of the unit shape, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 0.96
    if shape == "ring":
        r = np.hypot(x, y)
        return np.maximum(r - 0.98, RING_INNER - r)
    vertices = _POLYGONS[shape]
    best = np.full(np.broadcast(x, y).shape, np.inf)
    inside = np.zeros(best.shape, bool)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, 1, axis=0)):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        if ey != 0:
            crosses = (y >= ay) != (y >= by)
            inside ^= crosses & (wx < ex * wy / ey)
    return np.where(inside, -1, 1) * np.sqrt(best)


def _lab(rgb):
    """CIE Lab of sRGB values 0..255; the last axis is the channel."""
    c = np.asarray(rgb, np.float64) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


lab = _lab
CONTRAST_MIN = 21.0
VISIBLE = {(c, b): float(np.linalg.norm(_lab(COLORS[c]) - _lab(BACKGROUNDS[b]))) > CONTRAST_MIN
           for c in COLORS for b in BACKGROUNDS}


@dataclasses.dataclass
class Thing:
    """One drawn shape: centre and radius in pixels."""
    shape: str
    color: str
    x: float
    y: float
    r: float


@dataclasses.dataclass
class Spec:
    """What a caption promises. `things` holds (shape, colour or None); `count` repeats the only one."""
    category: str
    things: list
    count: int = 1
    relation: str = None
    background: str = None
    size: str = None

    def key(self):
        things = ",".join(f"{c or '?'} {s}" for s, c in self.things)
        return f"{self.category}|{things}|{self.count}|{self.relation}|{self.background}|{self.size}"

    def hints(self):
        """Whether the words hold both halves of a held-out pair, together or apart."""
        return any((c, s) in HELD_OUT_PAIRS for _, c in self.things for s, _ in self.things)

    def is_held_out(self):
        if any((c, s) in HELD_OUT_PAIRS for s, c in self.things):
            return True
        return hashlib.sha256(self.key().encode()).digest()[0] % 8 == 0


@dataclasses.dataclass
class Scene:
    spec: Spec
    background: str
    things: list
    caption: str


def draw(background, things, size=SIZE):
    """RGB uint8 [size, size, 3]. Edges are anti-aliased by the distance to the outline."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = BACKGROUNDS[background]
    scale = size / SIZE
    for thing in things:
        r = thing.r * scale
        x0, x1 = (int(np.clip(thing.x * scale + s * (r + 2), 0, size)) for s in (-1, 1))
        y0, y1 = (int(np.clip(thing.y * scale + s * (r + 2), 0, size)) for s in (-1, 1))
        x = (np.arange(x0, x1) + 0.5 - thing.x * scale) / r
        y = (np.arange(y0, y1) + 0.5 - thing.y * scale) / r
        alpha = np.clip(0.5 - distance(thing.shape, x[None], y[:, None]) * r, 0, 1)[..., None]
        box = image[y0:y1, x0:x1]
        box += alpha.astype(np.float32) * (np.array(COLORS[thing.color], np.float32) - box)
    return np.round(image).astype(np.uint8)


# --- specs --------------------------------------------------------------------------------------------------------


def sample_spec(rng, category):
    """One spec of a category, whether held out or not."""
    shapes = [str(s) for s in rng.permutation(SHAPES)]
    colors = [str(c) for c in rng.permutation(list(COLORS))]
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.35 else None
    size = str(rng.choice(list(SIZES))) if rng.random() < 0.25 else None
    if category == "single_object":
        spec = Spec(category, [(shapes[0], None)], size=size)
    elif category == "colors":
        spec = Spec(category, [(shapes[0], colors[0])], size=size)
    elif category == "counting":
        color = colors[0] if rng.random() < 0.6 else None
        spec = Spec(category, [(shapes[0], color)], count=int(rng.integers(1, 5)))
    elif category == "two_object":
        spec = Spec(category, [(shapes[0], None), (shapes[1], None)])
    elif category == "color_attr":
        other = shapes[1] if rng.random() < 0.85 else shapes[0]
        spec = Spec(category, [(shapes[0], colors[0]), (other, colors[1])])
    elif category == "position":
        named = rng.random() < 0.6
        spec = Spec(category, [(shapes[0], colors[0] if named else None), (shapes[1], colors[1] if named else None)],
                    relation=str(rng.choice(list(RELATIONS))))
    else:
        raise ValueError(category)
    if background and all(c is None or VISIBLE[c, background] for _, c in spec.things):
        spec.background = background
    return spec


def _fits(things, margin=4, gap=6):
    """Inside the picture and apart from each other, by boxes: a triangle's corners lie outside its circle."""
    for i, a in enumerate(things):
        if min(a.x, a.y, SIZE - a.x, SIZE - a.y) < a.r + margin:
            return False
        if any(max(abs(a.x - b.x), abs(a.y - b.y)) < a.r + b.r + gap for b in things[:i]):
            return False
    return True


def holds(relation, a, b):
    """Whether centre a stands in the relation to centre b; the wanted axis must dominate."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    return {"left of": dx < 0 and -dx > abs(dy), "right of": dx > 0 and dx > abs(dy),
            "above": dy < 0 and -dy > abs(dx), "below": dy > 0 and dy > abs(dx)}[relation]


def _reads_in_order(a, b):
    """Whether b is to the right of a and not higher, or below it."""
    return a.x < b.x and a.y <= b.y if abs(a.x - b.x) > abs(a.y - b.y) else a.y < b.y


def _place(rng, spec, background):
    """Things that keep the promise of the spec, colours filled in.

    Centres lie on a lattice and radii are few. With free ones the image tokens, 16 pixels wide, have to tell where an
    outline runs within them, and there are too few of them for that times colours and backgrounds. Of two things
    that stand in no relation the one named first comes first in reading order, so that the AR panel, which paints in
    that order, has one way less to be right.
    """
    free = [c for c in PLAIN if VISIBLE[c, background]]
    pairs = [pair for pair in spec.things for _ in range(spec.count)]
    colors = []
    for i, (shape, color) in enumerate(pairs):
        if color is None and i and spec.count > 1:
            color = colors[0]
        while color is None:
            pick = str(rng.choice(free))
            if pick not in colors:
                color = pick
        colors.append(color)
    r = float(rng.choice(SIZES.get(spec.size) or RADII[len(pairs)]))
    middle = SIZE // 2
    reach = LATTICE if len(pairs) == 1 else int((middle - r - 4) // LATTICE * LATTICE)
    centres = np.arange(middle - reach, middle + reach + 1, LATTICE, dtype=np.float64)
    for _ in range(2000):
        things = [Thing(shape, color, *rng.choice(centres, 2), r) for (shape, _), color in zip(pairs, colors)]
        if spec.relation:
            a, b = things
            dx, dy = abs(a.x - b.x), abs(a.y - b.y)
            if max(dx, dy) < 1.5 * min(dx, dy) or not holds(spec.relation, (a.x, a.y), (b.x, b.y)):
                continue
        elif len(spec.things) == 2 and not _reads_in_order(*things):
            continue
        if _fits(things):
            return things
    raise RuntimeError(f"no room for {spec.key()}")


# --- words --------------------------------------------------------------------------------------------------------


def _article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def _phrase(shape, color, size=None):
    return _article(" ".join(w for w in (size, color, shape) if w))


def describe(rng, spec):
    """A caption of the spec in one of many wordings."""
    shape, color = spec.things[0]
    if spec.category == "counting":
        n = spec.count
        noun = shape if n == 1 else PLURALS[shape]
        number = str(n) if rng.random() < 0.2 else NUMBERS[n - 1]
        text = " ".join(w for w in (number, color, noun) if w)
    elif len(spec.things) == 1:
        text = _phrase(shape, color, spec.size)
    elif spec.relation:
        words = RELATIONS[spec.relation]
        text = f"{_phrase(shape, color)} {words[rng.integers(len(words))]} {_phrase(*spec.things[1])}"
    else:
        joint = ("and", "and", "and", "next to", "with")[rng.integers(5)]
        text = f"{_phrase(shape, color)} {joint} {_phrase(*spec.things[1])}"
    lead = ("", "", "", "a photo of ", "a photo of ", "a picture of ", "an image of ", "a drawing of ")
    text = lead[rng.integers(len(lead))] + text
    if spec.background:
        joint = ("on", "on", "against")[rng.integers(3)]
        name = spec.background + (" blue" if spec.background == "sky" and rng.random() < 0.3 else "")
        text += f" {joint} {_article(name)} background"
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.1:
        text += "."
    return text


# --- what callers use ---------------------------------------------------------------------------------------------


def scene_of(rng, spec):
    """Arrange a spec and put it into words."""
    named = [c for _, c in spec.things if c]
    grounds = [b for b in BACKGROUNDS if all(VISIBLE[c, b] for c in named)]
    background = spec.background or str(rng.choice(grounds))
    things = _place(rng, spec, background)
    order = rng.permutation(len(things))  # what is drawn first does not matter, nothing overlaps
    return Scene(spec, background, [things[i] for i in order], describe(rng, spec))


def training_scene(seed, index, weights):
    """Scene `index` of the training stream; weights are over CATEGORIES. Never held out."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    weights = np.asarray(weights, np.float64)
    while True:
        spec = sample_spec(rng, CATEGORIES[rng.choice(len(CATEGORIES), p=weights / weights.sum())])
        if spec.is_held_out() or spec.hints():
            continue
        try:
            return scene_of(rng, spec)
        except RuntimeError:
            continue


def some_captions(seed, count):
    """Captions of specs that are not held out, all categories alike."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 41]))
    specs = (sample_spec(rng, CATEGORIES[rng.integers(len(CATEGORIES))]) for _ in iter(int, 1))
    return [describe(rng, spec) for spec in itertools.islice((s for s in specs if not s.is_held_out()), count)]


def held_out_prompts(seed, per_category):
    """The test list: dictionaries of prompt and promise, no prompt twice."""
    prompts = []
    for c, category in enumerate(CATEGORIES):
        rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 40 | c]))
        seen = set()
        while len(seen) < per_category:
            spec = sample_spec(rng, category)
            text = describe(rng, spec)
            # "single object" has too few specs for hundreds of held-out ones: there the wording varies freely.
            if text in seen or not (spec.is_held_out() or category == "single_object"):
                continue
            seen.add(text)
            prompts.append({"category": category, "prompt": text, "things": [list(t) for t in spec.things],
                            "count": spec.count, "relation": spec.relation, "background": spec.background,
                            "size": spec.size})
    return prompts
