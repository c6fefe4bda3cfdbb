"""Colours, dashes and fonts of what `visualizer` paints."""

import colorsys
import itertools
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageColor, ImageFont

Color = str | Sequence[float]
Point = tuple[float, float]

_LETTERS = {
    "b": (0.0, 0.0, 1.0),
    "c": (0.0, 0.75, 0.75),
    "g": (0.0, 0.5, 0.0),
    "k": (0.0, 0.0, 0.0),
    "m": (0.75, 0.0, 0.75),
    "r": (1.0, 0.0, 0.0),
    "w": (1.0, 1.0, 1.0),
    "y": (0.75, 0.75, 0.0),
}

# Length of a period in line widths, and the painted parts of it.
_DASHES = {"--": (4, [(0.0, 0.6)]), ":": (2, [(0.0, 0.5)]), "-.": (6, [(0.0, 0.5), (0.7, 0.85)])}


def palette(index: int) -> tuple[float, float, float]:
    """Bright colours; the golden ratio spreads the hues of neighbours."""
    return colorsys.hsv_to_rgb((0.33 + index * 0.618034) % 1.0, 0.75, 1.0 if index % 2 == 0 else 0.85)


def wave(index: int) -> float:
    return math.sin(12.9898 * (index + 1))


def rgb255(color: Color) -> tuple[int, int, int]:
    if isinstance(color, str):
        if color in _LETTERS:
            color = _LETTERS[color]
        else:
            return ImageColor.getrgb(color)[:3]
    return tuple(round(255 * min(max(float(v), 0.0), 1.0)) for v in list(color)[:3])


def brightened(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour, made bright enough to be read on a dark ground."""
    factor = max(max(color) / 255, 0.01)
    if factor >= 0.8:
        return color
    return tuple(min(round(51 + v / factor * 0.8), 255) for v in color)


def pieces(points: Sequence[Point], style: str, width: float) -> Iterator[tuple[Point, Point]]:
    """The painted parts of the line through some points.

    Raises:
        ValueError: a style other than "-", "--", ":" and "-.".
    """
    if style != "-" and style not in _DASHES:
        raise ValueError(f"Line style {style!r}: expected '-', {', '.join(map(repr, _DASHES))}.")
    for start, end in itertools.pairwise(points):
        if style == "-":
            yield start, end
        else:
            yield from _dashed(start, end, style, width)


def _dashed(start: Point, end: Point, style: str, width: float) -> Iterator[tuple[Point, Point]]:
    period, parts = _DASHES[style]
    count = max(int(math.dist(start, end) // (period * width)), 1)

    def point(t: float) -> Point:
        return start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t

    for i in range(count):
        for first, last in parts:
            yield point((i + first) / count), point((i + last) / count)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib brings it, for its many scripts; else Pillow's own font."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin:
        path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), max(size, 4))
    return ImageFont.load_default(max(size, 4))
