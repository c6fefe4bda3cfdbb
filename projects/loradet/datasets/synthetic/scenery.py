"""Backgrounds: sea, coast, river, airfield and open land, with clutter that makes detection non-trivial."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loradet.datasets.synthetic.canvas import Canvas, field
from loradet.datasets.synthetic.shapes import Part, rect, rotation
from loradet.datasets.synthetic.styles import SAR, Optical

# Share of each kind of scenery, and of the classes that are placed on it.
KINDS = {"sea": 0.15, "coast": 0.27, "river": 0.22, "airfield": 0.2, "land": 0.16}
CLASS_SHARE = {
    "sea": {"ship": 1.0},
    "coast": {"ship": 0.45, "harbor": 0.25, "tank": 0.15, "car": 0.15},
    "river": {"bridge": 0.25, "ship": 0.25, "car": 0.3, "tank": 0.2},
    "airfield": {"aircraft": 0.7, "car": 0.2, "tank": 0.1},
    "land": {"car": 0.5, "tank": 0.4, "aircraft": 0.1},
}


@dataclass
class Scenery:
    """Where what can stand.

    `distance` (H, W) is the distance to the shore in pixels, negative on water; `middle` the same to the
    middle of a river (None where there is none), whose half width is `reach`.
    """

    kind: str
    distance: np.ndarray
    middle: np.ndarray | None = None
    reach: float = 0.0


def paint_scenery(canvas: Canvas, style: SAR | Optical, rng: np.random.Generator) -> Scenery:
    """Paint a random background and its clutter; returns where water and land are."""
    size = canvas.size
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    scenery = _terrain(kind, size, rng)
    _paint_land(canvas, style, kind, rng)
    if kind == "airfield":
        _paint_apron(canvas, style, rng)
    _paint_roads(canvas, style, kind, rng)
    _paint_buildings(canvas, style, 0 if kind == "sea" else int(rng.integers(0, 12)), rng)
    if kind in ("sea", "coast", "river"):
        _paint_water(canvas, style, scenery, rng)
    _paint_scatterers(canvas, scenery, style, rng)
    return scenery


def _terrain(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Scenery:
    height, width = size
    if kind == "sea":
        return Scenery(kind, np.full(size, -1e3, np.float32))
    if kind in ("airfield", "land"):
        return Scenery(kind, np.full(size, 1e3, np.float32))
    turn = rng.uniform(0, 2 * np.pi)
    rows, cols = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    across = np.float32(np.cos(turn)) * (cols - width / 2) + np.float32(np.sin(turn)) * (rows - height / 2)
    across = across + field(rng, size, max(min(size) / 2.5, 8.0)) * np.float32(rng.uniform(2, 9))
    shift = rng.uniform(-0.2, 0.2) * min(size)
    if kind == "coast":
        return Scenery(kind, across - np.float32(shift))
    reach = rng.uniform(0.07, 0.16) * min(size)
    middle = across - np.float32(shift)
    return Scenery(kind, np.abs(middle) - np.float32(reach), middle, reach)


def _paint_land(canvas: Canvas, style: SAR | Optical, kind: str, rng: np.random.Generator) -> None:
    size = canvas.size
    canvas.image[:] = style.material("field", rng)
    if kind == "sea":
        return
    span = float(np.hypot(*size))
    cell = rng.uniform(0.18, 0.5) * min(size)
    count = int(np.ceil(span / cell)) + 1
    lines_x = np.sort(rng.uniform(-span / 2, span / 2, count))
    lines_y = np.sort(rng.uniform(-span / 2, span / 2, count))
    turn, center = rotation(rng.uniform(0, np.pi)), np.array(size[::-1]) / 2
    stripes = _furrows(size, rng)
    kinds = ["field", "field", "soil", "forest"] if kind != "airfield" else ["field", "field", "soil"]
    for x0, x1 in pairwise(lines_x):
        for y0, y1 in pairwise(lines_y):
            if rng.random() < 0.6:
                name = kinds[int(rng.integers(len(kinds)))]
                texture = stripes if name == "field" and rng.random() < 0.5 else None
                plot = rect(x0, y0, x1, y1) @ turn + center
                canvas.fill(plot, style.material(name, rng), 0.9, texture, supersample=1)
    woods = field(rng, size, max(min(size) / 5, 6.0), 2)
    if rng.random() < 0.6:
        crowns = field(rng, size, 4.0)
        alpha = np.clip((woods - rng.uniform(0.6, 1.4)) * 5, 0, 1)[..., None]
        leaves = style.material("forest", rng) * (1 + 0.3 * crowns[..., None])
        canvas.image += alpha * (leaves - canvas.image)
    grain = field(rng, size, rng.uniform(3, 24), 3)
    canvas.image *= np.clip(1 + style.texture * grain, 0.3, 2)[..., None]


def _furrows(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    turn, period = rng.uniform(0, np.pi), rng.uniform(3.5, 9)
    rows, cols = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    phase = (np.float32(np.cos(turn)) * cols + np.float32(np.sin(turn)) * rows) * np.float32(2 * np.pi / period)
    return 1 + np.float32(0.12) * np.sin(phase)


def _paint_apron(canvas: Canvas, style: SAR | Optical, rng: np.random.Generator) -> None:
    height, width = canvas.size
    turn, value = rng.uniform(0, np.pi), style.material("tarmac", rng)
    center = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    length, breadth = max(height, width) * 1.6, min(height, width) * rng.uniform(0.25, 0.6)
    strip = rect(-length / 2, -breadth / 2, length / 2, breadth / 2) @ rotation(turn) + center
    canvas.fill(strip, value, supersample=1)
    for offset in rng.uniform(-0.5, 0.5, int(rng.integers(1, 4))) * breadth:
        line = np.array([[-length / 2, offset], [length / 2, offset]]) @ rotation(turn) + center
        canvas.stroke(line, 1, value * rng.uniform(1.3, 1.7), 0.7)
    if rng.random() < 0.6:
        taxiway = np.array([[0, -length / 2], [0, length / 2]]) @ rotation(turn) + center
        canvas.stroke(taxiway, int(rng.integers(10, 22)), style.material("tarmac", rng))


def _paint_roads(canvas: Canvas, style: SAR | Optical, kind: str, rng: np.random.Generator) -> None:
    height, width = canvas.size
    for _ in range(0 if kind == "sea" else int(rng.integers(0, 3))):
        start, stop = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0, 1, 2) * (width, height)
        step = stop - start
        step /= max(np.hypot(*step), 1.0)
        along = np.linspace(-1.2, 1.2, 13)[:, None] * max(height, width)
        bend = rng.uniform(-0.12, 0.12) * max(height, width) * np.sin(along / max(height, width) * 2.5)
        line = start + along * step + bend * np.array([-step[1], step[0]])
        canvas.stroke(line, int(rng.integers(3, 9)), style.material("road", rng), 0.9)


def _paint_buildings(canvas: Canvas, style: SAR | Optical, count: int, rng: np.random.Generator) -> None:
    """Blocks of roofs with a ridge, a bright wall towards the sensor and a shadow away from it."""
    height, width = canvas.size
    anchor, angle = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0, np.pi)
    for _ in range(count):
        where = anchor + rng.normal(0, 0.22, 2) * (width, height)
        half_x, half_y = rng.uniform(7, 18), rng.uniform(5, 11)
        block = rect(-half_x, -half_y, half_x, half_y) @ rotation(angle) + where
        canvas.fill(block + style.shadow * 3, 0.0, style.shadow_opacity, supersample=1)
        roof = style.material("roof", rng)
        canvas.fill(block, roof, supersample=2)
        lit = rect(-half_x, 0, half_x, half_y) @ rotation(angle) + where
        canvas.fill(lit, roof * rng.uniform(0.7, 0.9), supersample=2)
        if rng.random() < 0.5:
            style.glints(canvas, [Part(block, 1.0)], 0.8, rng)


def _paint_water(canvas: Canvas, style: SAR | Optical, scenery: Scenery, rng: np.random.Generator) -> None:
    size = canvas.size
    base = style.material("water", rng)
    swell = field(rng, size, rng.uniform(5, 14), 2) * np.float32(rng.uniform(0.03, 0.14))
    slick = field(rng, size, min(size) / 2) * np.float32(rng.uniform(0.05, 0.2))
    water = base * np.clip(1 + swell + slick, 0.4, 2)[..., None]
    beach = rng.uniform(1, 6)
    if scenery.kind != "sea":
        edge = np.clip(1 - np.abs(scenery.distance) / beach, 0, 1)[..., None]
        canvas.image += edge * 0.8 * (style.material("shore", rng) - canvas.image)
    wet = np.clip(0.5 - scenery.distance, 0, 1)[..., None]
    canvas.image += wet * (water - canvas.image)


def _paint_scatterers(canvas: Canvas, scenery: Scenery, style: SAR | Optical, rng: np.random.Generator) -> None:
    """Masts, buoys, rocks, trees: dots of one or two pixels, few of them on water."""
    height, width = canvas.size
    for x, y in rng.uniform(0, 1, (int(rng.integers(0, 40)), 2)) * (width, height):
        wet = scenery.distance[int(y), int(x)] < 0
        if wet and rng.random() < 0.8:
            continue
        radius = rng.uniform(0.6, 1.6)
        dot = rect(x - radius, y - radius, x + radius, y + radius)
        name = "roof" if style.channels == 1 or rng.random() < 0.4 else "forest"
        canvas.fill(dot, style.material(name, rng) * rng.uniform(0.7, 1.5))
