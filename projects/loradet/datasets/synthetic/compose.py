"""One scene: scenery, then objects with their boxes and classes."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from loradet.datasets.synthetic.canvas import Canvas
from loradet.datasets.synthetic.geometric import SHAPE_CLASSES, shapes_scene
from loradet.datasets.synthetic.placement import TRIES, fits
from loradet.datasets.synthetic.scenery import CLASS_SHARE, Scenery, paint_scenery
from loradet.datasets.synthetic.shapes import CLASSES, LENGTHS, SHAPES, Part, Shape, rotation
from loradet.datasets.synthetic.styles import SAR, STYLES, Optical

STYLE_CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**dict.fromkeys(STYLES, CLASSES), "shapes": SHAPE_CLASSES}
)
MAX_OBJECTS = 8
_EMPTY_SHARE = 0.04


def scene(
    style: str, size: int | tuple[int, int], rng: np.random.Generator, *, max_objects: int = MAX_OBJECTS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint a scene. One in 25 is empty; the others have 1 to `max_objects` objects, all numbers alike often.

    Args:
        style: "sar", "optical" or "shapes".
        size: side in pixels, or (H, W).
        rng: the only source of randomness.
        max_objects: objects at most; there are fewer than drawn where no room is left.

    Returns:
        image (H, W, 3) uint8 RGB, boxes (N, 4) XYXY in pixels, classes (N,): indices into `STYLE_CLASSES[style]`.

    Raises:
        ValueError: unknown style, a side under 32 pixels, or `max_objects` not in 1 to 100.
    """
    height, width = parse_size(size)
    check_style(style)
    check_max_objects(max_objects)
    if style == "shapes":
        return shapes_scene((height, width), rng, wanted=_wanted(rng, max_objects))
    look = STYLES[style](rng)
    canvas = Canvas((height, width), look.channels)
    scenery = paint_scenery(canvas, look, rng)
    placed = _place_objects(scenery, max_objects, rng)
    for name, shape, angle, center in placed:
        if name == "ship" and rng.random() < 0.5:
            _paint_wake(canvas, shape, angle, center, rng)
        _paint_object(canvas, look, name, shape, angle, center, rng)
    boxes = np.array([_box(shape, angle, center) for _, shape, angle, center in placed]).reshape(-1, 4)
    boxes = boxes.clip(0, (width, height, width, height)).round(2)
    classes = np.array([CLASSES.index(name) for name, *_ in placed], np.int64)
    return look.finish(canvas, rng), boxes, classes


def parse_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of a side or of a pair."""
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(height, width) < 32:
        raise ValueError(f"size={size!r}: a scene needs at least 32 pixels a side.")
    return height, width


def check_style(style: str) -> None:
    """Raises ValueError where there is no such style."""
    if style not in STYLE_CLASSES:
        raise ValueError(f"style={style!r}: expected one of {', '.join(STYLE_CLASSES)}.")


def check_max_objects(max_objects: int) -> None:
    """Raises ValueError outside 1 to 100, the number of detections that COCO's evaluation looks at."""
    if not 1 <= max_objects <= 100:
        raise ValueError(f"max_objects={max_objects}: expected 1 to 100.")


def _wanted(rng: np.random.Generator, max_objects: int) -> int:
    return 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, max_objects + 1))


Placed = tuple[str, Shape, float, np.ndarray]


def _place_objects(scenery: Scenery, max_objects: int, rng: np.random.Generator) -> list[Placed]:
    wanted = _wanted(rng, max_objects)
    names, shares = zip(*CLASS_SHARE[scenery.kind].items())
    zoom = rng.uniform(0.75, 1.3)
    placed: list[Placed] = []
    boxes: list[np.ndarray] = []
    for attempt in range(wanted * TRIES):
        if len(placed) == wanted:
            break
        if attempt == 0 and scenery.kind in ("coast", "river") and rng.random() < 0.7:
            name = {"coast": "harbor", "river": "bridge"}[scenery.kind]
        else:
            name = str(rng.choice(names, p=shares))
        candidate = _candidate(name, scenery, zoom, placed, rng)
        if candidate is None or (name == "harbor" and sum(kind == "harbor" for kind, *_ in placed) > 1):
            continue
        box = _box(*candidate[1:])
        if fits(box, boxes, scenery.distance.shape):
            placed.append(candidate)
            boxes.append(box)
    return placed


def _candidate(
    name: str, scenery: Scenery, zoom: float, placed: list[Placed], rng: np.random.Generator
) -> Placed | None:
    """One random object where its kind may stand, or None where this draw does not suit."""
    height, width = scenery.distance.shape
    low, high = LENGTHS[name]
    length = min(np.exp(rng.uniform(np.log(low), np.log(high))) * zoom, 0.5 * min(height, width))
    center, angle = rng.uniform(0.02, 0.98, 2) * (width, height), rng.uniform(0, 2 * np.pi)
    previous = placed[-1] if placed else None
    if previous and previous[0] == name and name not in ("bridge", "harbor") and rng.random() < 0.5:
        center, angle = _beside(previous, length, rng)
        if not (0 <= center[0] < width and 0 <= center[1] < height):
            return None
    if name in ("bridge", "harbor"):
        line = scenery.middle if name == "bridge" else scenery.distance
        found = _on_line(line, rng)
        if found is None:
            return None
        center, angle = found
        if name == "bridge":
            length = 2 * scenery.reach * rng.uniform(1.15, 1.5) + 6
            angle += rng.normal(0, 0.12)
        else:
            angle += np.pi + rng.normal(0, 0.15)  # piers reach into the water
    ground = scenery.distance[int(center[1]), int(center[0])]
    margin = length * 0.4
    if (name == "ship" and ground > -margin) or (name in ("aircraft", "car", "tank") and ground < margin):
        return None
    return name, SHAPES[name](rng, length), angle, center


def _beside(previous: Placed, length: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Parked in a row: next to the previous object, heading nearly the same way."""
    _, shape, angle, center = previous
    _, low_y, _, high_y = shape.extent(0.0)
    step = np.array([0.0, (high_y - low_y) / 2 + length * rng.uniform(0.3, 0.8)]) * rng.choice([-1, 1])
    return center + step @ rotation(angle), angle + rng.normal(0, 0.08)


def _on_line(line: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, float] | None:
    """A pixel near the zero of a distance field and the direction in which the field grows."""
    if line is None:
        return None
    height, width = line.shape
    inner = line[1:-1, 1:-1]
    near = np.flatnonzero(np.abs(inner) < 1.0)
    if not len(near):
        return None
    row, col = divmod(int(near[rng.integers(len(near))]), width - 2)
    row, col = row + 1, col + 1
    r0, r1, c0, c1 = max(row - 6, 0), min(row + 6, height - 1), max(col - 6, 0), min(col + 6, width - 1)
    slope = np.array([line[row, c1] - line[row, c0], line[r1, col] - line[r0, col]])
    return np.array([col + 0.5, row + 0.5]), float(np.arctan2(slope[1], slope[0]))


def _box(shape: Shape, angle: float, center: np.ndarray) -> np.ndarray:
    return shape.extent(angle) + np.concatenate([center, center])


def _paint_object(
    canvas: Canvas,
    style: SAR | Optical,
    name: str,
    shape: Shape,
    angle: float,
    center: np.ndarray,
    rng: np.random.Generator,
) -> None:
    turn = rotation(angle)
    outline = [Part(part.points @ turn + center, part.shade) for part in shape.outline]
    base, accent = style.body(name, rng)
    for part in outline:
        canvas.fill(part.points + style.shadow * shape.height, 0.0, style.shadow_opacity * 0.8, supersample=2)
    for part in outline:
        canvas.fill(part.points, base * part.shade)
    for part in shape.details:
        canvas.fill(part.points @ turn + center, (accent if part.accent else base) * part.shade)
    if name != "harbor":
        style.glints(canvas, outline, float(base.mean()), rng)


def _paint_wake(canvas: Canvas, shape: Shape, angle: float, center: np.ndarray, rng: np.random.Generator) -> None:
    """A fading trail behind the stern, not part of the box."""
    stern_x, _, _, beam = shape.extent(0.0)
    length, turn = -stern_x * rng.uniform(1.5, 4.0), rotation(angle)
    brightness = float(canvas.image.mean()) * rng.uniform(1.4, 2.2)
    for step in range(4):
        near, far = step / 4, (step + 1) / 4
        w0, w1 = beam * (0.5 + 0.8 * near), beam * (0.5 + 0.8 * far)
        x0, x1 = stern_x - length * near, stern_x - length * far
        trail = np.array([[x0, -w0], [x0, w0], [x1, w1], [x1, -w1]]) @ turn + center
        canvas.fill(trail, brightness, 0.3 * (1 - near), supersample=1)
