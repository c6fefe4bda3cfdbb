"""YOLO label files: one line a box, with every fault of a file found at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.datasets.readers.file_cache import FaultyFileError

# How far rounding moves an edge, as a fraction of the image's side. The coarsest exporters round to three digits,
# which moves a centre by up to 0.0005 and half a width by up to 0.00025. Six digits, the usual form, need a thousandth.
SLACK = 1e-3
# What tools that paint beyond the edge leave over: clipped, and counted.
OVERHANG = 1e-2
_EPSILON = 1e-9  # of sums of decimals in binary

Label = tuple[int, float, float, float, float]


@dataclass(frozen=True)
class LabelRules:
    """What a line may be.

    Attributes:
        classes: how many there are.
        polygons: a line may be a class and the points of a polygon, of which the box is taken.
        keypoints: numbers of a pose behind the box, which are not read; 0: there are none.
        clip: boxes that leave the image by more than `OVERHANG` are clipped too, where something of them is inside.
    """

    classes: int
    polygons: bool = False
    keypoints: int = 0
    clip: bool = False


def read_labels(path: Path, rules: LabelRules) -> dict[str, Any]:
    """What a label file says, blank lines skipped.

    Returns:
        `boxes`: (class, x0, y0, x1, y1) as fractions of the image, clipped to it, each once; `repeated`: the number of
        lines that say the same as one before; `clipped`: the number of boxes clipped by more than rounding explains.

    Raises:
        FaultyFileError: has a fault for every faulty line, with file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyFileError([f"{path}: cannot be read as text: {error}. Write it again as UTF-8."]) from error
    labels: dict[Label, int] = {}
    faults, count, clipped = [], 0, 0
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                label, beyond = _parse(words, rules)
            except ValueError as error:
                faults.append(f"{path}, line {number}: {error}")
                continue
            count += 1
            if label not in labels:
                clipped += beyond > SLACK
            labels.setdefault(label, number)
    if faults:
        raise FaultyFileError(faults)
    return {"boxes": list(labels), "repeated": count - len(labels), "clipped": clipped}


def parse_label(words: list[str], classes: int, **rules: Any) -> Label:
    """One line: `class cx cy w h`, those and keypoints, or a class and the points of a polygon, whose box is taken.

    Args:
        words: of the line.
        classes, rules: see `LabelRules`.

    Raises:
        ValueError: another number of values, no numbers, a class out of range, or not inside the image.
    """
    return _parse(words, LabelRules(classes, **rules))[0]


def _parse(words: list[str], rules: LabelRules) -> tuple[Label, float]:
    """The label, and by what fraction of the image's side its box left the image before it was clipped."""
    if len(words) != 5:
        if rules.keypoints and len(words) == 5 + rules.keypoints:
            words = words[:5]
        else:
            _check_polygon(len(words), rules)
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{error}. Expected numbers only, with points for decimals: correct the line.") from error
    if not label.is_integer() or not 0 <= label < rules.classes:
        raise ValueError(
            f"class {words[0]}. Expected an integer from 0 to {rules.classes - 1}, as `names` has: "
            "correct the line, or name the class in data.yaml."
        )
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"{' '.join(words[1:])} has a number that is not finite. Expected numbers from 0 to 1: delete the line."
        )
    box = _centred(values) if len(values) == 4 else _around(values)
    beyond = max(-min(box), max(box) - 1.0, 0.0)
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
    if beyond > OVERHANG + _EPSILON and not (rules.clip and x1 > x0 and y1 > y0):
        raise ValueError(_leaves(box, beyond, rules.clip))
    return (int(label), x0, y0, x1, y1), beyond


def _leaves(box: tuple[float, ...], beyond: float, clip: bool) -> str:
    where = "the box from ({:.6g}, {:.6g}) to ({:.6g}, {:.6g}) leaves the image".format(*box)
    if clip:
        return f"{where} wholly. Expected parts of the image's sides, not pixels: delete the line."
    return (
        f"{where} by {beyond:.3g} of its side. Expected all within 0 to 1: parts of the image's sides, not pixels. "
        "Up to 0.01 is clipped, more by clip=True (data.clip=true in a config, --clip of loradet data)."
    )


def _check_polygon(count: int, rules: LabelRules) -> None:
    if rules.keypoints:
        expected = f"`class cx cy w h` and {rules.keypoints} numbers of keypoints, as kpt_shape says"
    else:
        expected = "`class cx cy w h`"
    if count < 7 or count % 2 == 0:
        more = ", or a class and 3 or more points x y" * rules.polygons
        pose = ". If the others are keypoints, write kpt_shape: [number, 2 or 3] into data.yaml"
        pose *= not rules.keypoints and count >= 7
        raise ValueError(f"{count} values. Expected {expected}{more}{pose or ': correct the line'}.")
    if not rules.polygons:
        raise ValueError(
            f"{count} values. Expected {expected}. If such lines are polygons, ask for their boxes by "
            "polygons=True (data.polygons=true in a config, --polygons of loradet data); if they are "
            "boxes with keypoints, write kpt_shape: [number, 2 or 3] into data.yaml."
        )


def _centred(values: list[float]) -> tuple[float, float, float, float]:
    cx, cy, width, height = values
    if width < 0 or height < 0:
        raise ValueError(f"width {width:g}, height {height:g}. Expected none below 0: correct the line.")
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _around(points: list[float]) -> tuple[float, float, float, float]:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
