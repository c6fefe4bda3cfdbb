"""Outlines and details of the six classes, in pixels, centred on the origin, heading along +x."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

CLASSES = ("ship", "aircraft", "car", "tank", "bridge", "harbor")


@dataclass
class Part:
    """A polygon (N, 2); `shade` multiplies the object's brightness, `accent` asks for its second colour."""

    points: np.ndarray
    shade: float
    accent: bool = False


@dataclass
class Shape:
    """What an object looks like: `outline` parts span its box and cast its shadow, `details` lie inside."""

    outline: list[Part]
    details: list[Part] = field(default_factory=list)
    height: float = 2.0  # pixels of shadow

    def extent(self, angle: float) -> np.ndarray:
        """Box (x0, y0, x1, y1) of the outline after rotation by `angle` radians, relative to the origin."""
        points = np.concatenate([part.points for part in self.outline]) @ rotation(angle)
        return np.concatenate([points.min(0), points.max(0)])


def rotation(angle: float) -> np.ndarray:
    """Matrix that rotates row vectors: `points @ rotation(angle)`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def rect(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def disc(x: float, y: float, radius: float, corners: int = 24) -> np.ndarray:
    """Corners of a regular polygon that stands for a circle."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


def _mirror(points: np.ndarray) -> np.ndarray:
    return points * (1, -1)


def ship(rng: np.random.Generator, length: float) -> Shape:
    """A hull with a pointed bow, bow to the right; `length` in pixels."""
    half, w = length / 2, length / rng.uniform(3.2, 5.5) / 2
    taper = rng.uniform(0.35, 0.7)
    side = np.array([[half, 0], [half * taper, w], [-half * 0.85, w], [-half, w * 0.7]])
    hull = np.concatenate([side, _mirror(side[:0:-1])])
    deck = hull * (0.93, 0.72)
    details = [Part(deck, rng.uniform(0.6, 0.85))]
    stern = -half * rng.uniform(0.75, 0.85)
    details.append(Part(rect(stern, -w * 0.8, stern + length * 0.14, w * 0.8), 1.45, True))
    holds = int(rng.integers(0, 5)) if length > 22 else 0
    start, stop = stern + length * 0.2, half * taper
    for index in range(holds):
        x = start + (stop - start) * index / holds
        shade = float(rng.uniform(0.7, 1.3))
        details.append(Part(rect(x, -w * 0.5, x + (stop - start) / holds * 0.7, w * 0.5), shade, bool(index % 2)))
    return Shape([Part(hull, 1.0)], details, height=1.5)


def aircraft(rng: np.random.Generator, length: float) -> Shape:
    """A fuselage with swept wings and a tail, nose to the right; `length` in pixels."""
    half, w = length / 2, length * rng.uniform(0.045, 0.065)
    span, sweep = half * rng.uniform(0.85, 1.1), half * rng.uniform(0.15, 0.5)
    root, chord = half * rng.uniform(0.1, 0.3), half * rng.uniform(0.3, 0.42)
    side = np.array([[half, 0], [half * 0.88, w * 0.8], [half * 0.6, w], [-half * 0.55, w], [-half, w * 0.3]])
    body = np.concatenate([side, _mirror(side[:0:-1])])
    tip = root - sweep
    wing = np.array([[root, 0], [tip, span], [tip - chord * 0.35, span], [root - chord, 0]])
    tail = np.array([[-half * 0.68, 0], [-half * 0.9, half * 0.38], [-half, half * 0.38], [-half * 0.93, 0]])
    outline = [Part(points, 0.85) for points in (wing, _mirror(wing), tail, _mirror(tail))]
    outline.append(Part(body, 1.1))
    details = [Part(rect(-half * 0.95, -w * 0.35, -half * 0.6, w * 0.35), 1.3, True)]
    for place in ((0.35,), (0.3, 0.6))[int(rng.integers(2))]:
        front = root - sweep * place + half * 0.08
        engine = rect(front - half * 0.2, span * place - w * 0.5, front, span * place + w * 0.5)
        details += [Part(engine, 1.4), Part(_mirror(engine), 1.4)]
    return Shape(outline, details, height=2.5)


def car(rng: np.random.Generator, length: float) -> Shape:
    """A small body with windows; `length` in pixels."""
    half, w = length / 2, length * rng.uniform(0.42, 0.52) / 2
    side = np.array([[half, w * 0.6], [half * 0.85, w], [-half * 0.9, w], [-half, w * 0.75]])
    body = np.concatenate([side, _mirror(side[::-1])])
    details = [
        Part(rect(half * 0.15, -w * 0.8, half * 0.42, w * 0.8), 0.35),
        Part(rect(-half * 0.75, -w * 0.8, -half * 0.55, w * 0.8), 0.45),
        Part(rect(-half * 0.5, -w * 0.7, half * 0.12, w * 0.7), 1.25),
    ]
    return Shape([Part(body, 1.0)], details, height=1.2)


def tank(rng: np.random.Generator, length: float) -> Shape:
    """A round storage tank seen from above; `length` is its diameter in pixels."""
    radius = length / 2
    details = [Part(disc(0, 0, radius * 0.78), rng.uniform(0.45, 0.8), bool(rng.random() < 0.3))]
    if rng.random() < 0.6:
        details.append(Part(disc(0, 0, radius * 0.22, 12), 1.3))
    if rng.random() < 0.5:
        details.append(Part(rect(0, -radius * 0.06, radius * 0.95, radius * 0.1), 1.2))
    return Shape([Part(disc(0, 0, radius), 1.1)], details, height=max(2.0, radius * 0.35))


def bridge(rng: np.random.Generator, length: float) -> Shape:
    """A deck with cross beams; `length` in pixels."""
    half, w = length / 2, max(length * rng.uniform(0.08, 0.14), 5.0) / 2
    details = [Part(rect(-half, -w * 0.55, half, w * 0.55), rng.uniform(0.4, 0.65))]
    for x in np.linspace(-half * 0.85, half * 0.85, max(int(length / rng.uniform(12, 20)), 2)):
        details.append(Part(rect(x - 1, -w, x + 1, w), 1.4, True))
    if w > 4:
        details += [Part(rect(x, -w * 0.08, x + 4, w * 0.08), 1.3) for x in np.arange(-half, half - 4, 9.0)]
    return Shape([Part(rect(-half, -w, half, w), 1.0)], details, height=3.0)


def harbor(rng: np.random.Generator, length: float) -> Shape:
    """A quay along y with piers that reach out along +x."""
    half, depth = length / 2, length * rng.uniform(0.4, 0.65)
    quay = length * rng.uniform(0.12, 0.2)
    back = -(quay + depth) / 2
    outline = [Part(rect(back, -half, back + quay, half), 0.9)]
    details = []
    piers = int(rng.integers(2, 6))
    breadth = min(length * rng.uniform(0.06, 0.12), length / piers * 0.45)
    for y in np.linspace(-half + breadth / 2, half - breadth / 2, piers):
        reach = back + quay + depth * rng.uniform(0.75, 1.0)
        outline.append(Part(rect(back + quay * 0.9, y - breadth / 2, reach, y + breadth / 2), 1.0))
        details.append(Part(rect(back + quay, y - breadth * 0.12, reach, y + breadth * 0.12), 0.7))
        details.append(Part(rect(reach - breadth * 0.8, y - breadth * 0.4, reach, y + breadth * 0.4), 1.3, True))
    for y in np.arange(-half + 3, half - 5, 7.0):
        if rng.random() < 0.6:
            stack = rect(back + quay * 0.2, y, back + quay * 0.7, y + 4.5)
            details.append(Part(stack, rng.uniform(0.6, 1.4), bool(rng.random() < 0.6)))
    return Shape(outline, details, height=1.5)


SHAPES: dict[str, Callable[[np.random.Generator, float], Shape]] = {
    "ship": ship,
    "aircraft": aircraft,
    "car": car,
    "tank": tank,
    "bridge": bridge,
    "harbor": harbor,
}

# Shortest and longest in pixels, before a scene's zoom. Bridges and harbours fit what they stand on.
LENGTHS: dict[str, tuple[float, float]] = {
    "ship": (13, 58),
    "aircraft": (20, 54),
    "car": (9, 14),
    "tank": (11, 30),
    "bridge": (40, 130),
    "harbor": (44, 100),
}
