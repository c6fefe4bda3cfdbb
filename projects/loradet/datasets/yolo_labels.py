"""YOLO label files: one line a box, with every fault of a file found at once."""

import math
from pathlib import Path

from loradet.datasets.file_cache import FaultyFileError

# How far a box may leave the image, as a fraction of its side. Labels are rounded: to three digits by the coarsest
# exporters, which moves a centre by up to 0.0005 and half a width by up to 0.00025, an edge by 0.00075 in all.
# Six digits, the usual form, need a thousandth of that.
SLACK = 1e-3

Label = tuple[int, float, float, float, float]


def read_labels(path: Path, classes: int, *, polygons: bool = False) -> list[Label]:
    """(class, x0, y0, x1, y1) of every line that is not blank, as fractions of the image, clipped to it.

    Args:
        path: the label file.
        classes, polygons: see `parse_label`.

    Raises:
        FaultyFileError: has a fault for every faulty line, with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyFileError([f"{path}: cannot be read as text: {error}."]) from error
    labels, faults = [], []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                labels.append(parse_label(words, classes, polygons=polygons))
            except ValueError as error:
                faults.append(f"{path}, line {number}: {error}")
    if faults:
        raise FaultyFileError(faults)
    return labels


def parse_label(words: list[str], classes: int, *, polygons: bool = False) -> Label:
    """One line: `class cx cy w h`, or a class and the points of a polygon, whose box is taken.

    Args:
        words: of the line.
        classes: how many there are.
        polygons: whether it may be a polygon.

    Raises:
        ValueError: another number of values, no numbers, a class out of range, or not inside the image.
    """
    if len(words) != 5:
        _check_polygon(len(words), polygons)
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{error}. Expected numbers only.") from error
    if not label.is_integer() or not 0 <= label < classes:
        raise ValueError(f"class {words[0]}. Expected an integer from 0 to {classes - 1}, as `names` has.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{' '.join(words[1:])} has a number that is not finite. Expected numbers from 0 to 1.")
    box = _centred(values) if len(values) == 4 else _around(values)
    if not all(-SLACK <= edge <= 1 + SLACK for edge in box):
        x0, y0, x1, y1 = box
        raise ValueError(
            f"the box from ({x0:.6g}, {y0:.6g}) to ({x1:.6g}, {y1:.6g}) leaves the image. "
            "Expected all within 0 to 1: parts of the image's sides, not pixels."
        )
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
    return int(label), x0, y0, x1, y1


def _check_polygon(count: int, allowed: bool) -> None:
    if count < 7 or count % 2 == 0:
        more = ", or a class and 3 or more points x y" * allowed
        raise ValueError(f"{count} values. Expected `class cx cy w h`{more}.")
    if not allowed:
        raise ValueError(
            f"{count} values. Expected `class cx cy w h`. If such lines are polygons, ask for their boxes by "
            "polygons=True (data.polygons=true in a config, --polygons of tools/datasets.py yolo2coco)."
        )


def _centred(values: list[float]) -> tuple[float, float, float, float]:
    cx, cy, width, height = values
    if width < 0 or height < 0:
        raise ValueError(f"width {width:g}, height {height:g}. Expected none below 0.")
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _around(points: list[float]) -> tuple[float, float, float, float]:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
