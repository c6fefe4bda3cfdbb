"""Ten plain geometric shapes on quiet backgrounds: a set for small detectors and short runs.

The shape alone tells the class; colours say nothing.
"""

import cv2
import numpy as np

from loradet.datasets.synthetic.canvas import Canvas, field
from loradet.datasets.synthetic.placement import TRIES, fits
from loradet.datasets.synthetic.shapes import disc, rect, rotation

SHAPE_CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart", "arrow", "bar")

_SHARE = (0.25, 0.5)  # longest side of a box over the shorter side of the image, for up to _ROOMY objects
_ROOMY = 3
_SHORTEST = 10.0  # pixels: below it, shapes look alike
_TILT = np.deg2rad(20)
_REACH = 7  # pixels, about two of them between any two shapes: none hides or touches another
_CONTRAST = 0.5  # distance of an object's RGB to its background's, each channel in 0..1


def shapes_scene(
    size: tuple[int, int], rng: np.random.Generator, *, wanted: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint up to `wanted` shapes, each wholly inside the image.

    Longest sides of boxes are 25 to 50 % of the shorter side of the image where up to three shapes are wanted,
    smaller by √(3 / wanted) where there are more, and never below 10 pixels. Shapes are tilted by up to 20°.
    Boxes share at most 12 % of the smaller one (IoU below 0.064), what is painted nothing.

    Args:
        size: (H, W).
        wanted: shapes to place; where there is no room left, there are fewer.

    Returns:
        image (H, W, 3) uint8 RGB, boxes (N, 4) XYXY in pixels, classes (N,): indices into `SHAPE_CLASSES`.
    """
    canvas = Canvas(size, 3)
    ground = _paint_background(canvas, rng)
    placed = _place(size, wanted, rng)
    for _, outline in placed:
        _paint_shape(canvas, outline, ground, rng)
    boxes = np.array([_box(outline) for _, outline in placed]).reshape(-1, 4).round(2)
    classes = np.array([label for label, _ in placed], np.int64)
    return _finish(canvas, rng), boxes, classes


def _place(size: tuple[int, int], wanted: int, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Classes and outlines in pixels."""
    crowd = min(1.0, np.sqrt(_ROOMY / max(wanted, 1)))
    shortest, longest = (max(share * crowd * min(size), _SHORTEST) for share in _SHARE)
    taken = np.zeros(size, np.uint8)
    placed: list[tuple[int, np.ndarray]] = []
    for _ in range(wanted):
        # Drawn once and then kept: another draw for each place tried would favour shapes that fit anywhere.
        label, length = int(rng.integers(len(SHAPE_CLASSES))), rng.uniform(shortest, longest)
        boxes = [_box(outline) for _, outline in placed]
        for tried in range(TRIES):
            room = shortest + (length - shortest) * (1 - tried / TRIES)  # smaller and smaller, until there is room
            outline = _drop(SHAPE_CLASSES[label], room, size, rng)
            if not fits(_box(outline), boxes, size):
                continue
            mask = np.zeros(size, np.uint8)
            cv2.fillPoly(mask, [np.rint(outline - 0.5).astype(np.int32)], 1)
            if (taken & mask).any():
                continue
            grown: np.ndarray = cv2.dilate(mask, np.ones((_REACH, _REACH), np.uint8))
            taken |= grown
            placed.append((label, outline))
            break
    return placed


def _drop(name: str, length: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Outline of a shape at any place in the image; `length` is the longest side of its box."""
    outline = _OUTLINES[name] @ rotation(rng.uniform(-_TILT, _TILT))
    outline = outline - outline.min(0)
    outline *= length / outline.max()
    return outline + rng.uniform(0, 1, 2) * ((size[1], size[0]) - outline.max(0))


def _box(outline: np.ndarray) -> np.ndarray:
    return np.concatenate([outline.min(0), outline.max(0)])


def _paint_background(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """One colour, or, in half of the scenes, a soft texture about it; returns the colour (3,)."""
    ground = rng.uniform(0.05, 0.95, 3)
    canvas.image[:] = ground
    if rng.random() < 0.5:
        texture = field(rng, canvas.size, max(canvas.size) / rng.uniform(2, 12), octaves=2).clip(-2, 2)
        canvas.image += rng.uniform(0.02, 0.06) * texture[..., None]
    return ground


def _paint_shape(canvas: Canvas, outline: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> None:
    colours = rng.uniform(0, 1, (16, 3))
    distances = np.linalg.norm(colours - ground, axis=1)
    clear = distances > _CONTRAST
    canvas.fill(outline, colours[np.argmax(clear) if clear.any() else np.argmax(distances)])


def _finish(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(canvas.image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.015))
    return np.clip((canvas.image + noise) * 255 + 0.5, 0, 255).astype(np.uint8)


def _points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x, y], 1)


def _star() -> np.ndarray:
    turn = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2, 0.45, 1.0)
    return _points(radius * np.sin(turn), -radius * np.cos(turn))


def _cross() -> np.ndarray:
    arm = 0.32
    quarter = np.array([[-arm, -1.0], [arm, -1.0], [arm, -arm]])
    return np.concatenate([quarter @ rotation(turn * np.pi / 2) for turn in range(4)])


def _ring() -> np.ndarray:
    """There on the outer circle, back on the inner one; the seam between them lies inside the ring."""
    turn = np.linspace(0, 2 * np.pi, 65)
    circle = _points(np.cos(turn), np.sin(turn))
    return np.concatenate([circle, 0.58 * circle[::-1]])


def _crescent() -> np.ndarray:
    """A disc less another of radius r, whose centre lies d to the right."""
    r, d = 0.85, 0.5
    x = (1 - r**2 + d**2) / (2 * d)  # of the two points where the circles cross
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - d)
    there = np.linspace(outer, 2 * np.pi - outer, 48)
    back = np.linspace(2 * np.pi - inner, inner, 40)[1:-1]
    return np.concatenate(
        [_points(np.cos(there), np.sin(there)), _points(d + r * np.cos(back), r * np.sin(back))],
    )


def _heart() -> np.ndarray:
    """The curve x = 16 sin³t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t (https://mathworld.wolfram.com/HeartCurve.html)."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _points(16 * np.sin(t) ** 3, -y)


def _arrow() -> np.ndarray:
    side = np.array([[0.0, -1.0], [0.75, -0.1], [0.28, -0.1], [0.28, 1.0]])
    return np.concatenate([side, side[:0:-1] * (-1, 1)])


# Corners (N, 2), upright, y downwards, at any scale; filled by the even-odd rule.
_OUTLINES: dict[str, np.ndarray] = {
    "circle": disc(0, 0, 1, 64),
    "square": rect(-1, -1, 1, 1),
    "triangle": np.array([[0.0, -1.0], [1.0, 0.732], [-1.0, 0.732]]),
    "star": _star(),
    "cross": _cross(),
    "ring": _ring(),
    "crescent": _crescent(),
    "heart": _heart(),
    "arrow": _arrow(),
    "bar": rect(-1, -0.3, 1, 0.3),
}
