"""The pictures of a data set with most findings, painted with their boxes."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from loradet.datasets.checks import Problem, SetReport
from loradet.datasets.checks.anchors import AnchorReport
from loradet.datasets.checks.split_content import SplitContent
from loradet.datasets.images.header import sample_format
from loradet.datasets.images.intensity import AUTO, Intensity
from loradet.datasets.images.reading import read_image

_SIDE = 560  # pixels of a painted picture's longer edge
_FAULTY, _OTHER, _HALO = (255, 59, 48), (90, 200, 250), (0, 0, 0)
_STRETCHED = Intensity.parse("percentile:1,99")  # of more than 8 bits
_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class WorstPicture:
    """A picture, what was found in it, and how it looks: a JPEG as a data URI."""

    split: str
    image_id: object
    file_name: str
    findings: Sequence[Problem]
    uri: str


def worst_pictures(report: SetReport, anchors: Mapping[str, AnchorReport], count: int = 20) -> list[WorstPicture]:
    """The pictures with most problems, then with most warnings, then with most boxes that no anchor reaches.

    Pictures that are missing or cannot be read are left out, since there is nothing to paint.
    """
    found: dict[tuple[str, str], list[tuple[int, Problem]]] = {}
    for weight, split, problem in _findings(report, anchors):
        if problem.file_name is not None and split in report.contents:
            found.setdefault((split, problem.file_name), []).append((weight, problem))
    totals = {
        key: [sum(weight == level for weight, _ in several) for level in range(3)] for key, several in found.items()
    }
    worst = []
    for split, name in sorted(found, key=totals.__getitem__, reverse=True):
        if len(worst) == count:
            break
        problems = [problem for _, problem in found[split, name]]
        uri = _painted(report.contents[split], name, [one.box for one in problems if one.box is not None])
        if uri is not None:
            worst.append(WorstPicture(split, problems[0].image_id, name, problems, uri))
    return worst


def _findings(report: SetReport, anchors: Mapping[str, AnchorReport]):
    """(place of its weight, split, finding) of all that was found in single pictures."""
    for split, of_split in report.reports.items():
        yield from ((0, split, problem) for problem in of_split.problems)
        yield from ((1, split, problem) for problem in of_split.warnings)
    yield from ((0, problem.split, problem) for problem in report.problems)
    for split, of_split in anchors.items():
        yield from ((2, split, problem) for problem in of_split.unmatched)


def _painted(content: SplitContent, name: str, faulty: Sequence[tuple]) -> str | None:
    if content.image_root is None:
        return None
    try:
        path = content.image_root / name
        image = read_image(str(path), "RGB", _STRETCHED if sample_format(path).is_deep else AUTO).copy()
    except _ERRORS:
        return None  # it is among the findings as one that cannot be read
    places = [place for place, entry in enumerate(content.images.kept) if entry["file_name"] == name]
    rows = np.flatnonzero(np.isin(content.boxes.image, places))
    factor = _SIDE / max(image.shape[:2])
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    for boxes, color in ((content.boxes.xywh[rows], _OTHER), (np.array(faulty).reshape(-1, 4), _FAULTY)):
        _draw(image, boxes * factor, color)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _draw(image: np.ndarray, xywh: np.ndarray, color: tuple[int, int, int]) -> None:
    reach = 2 * max(image.shape[:2])  # OpenCV draws with 32-bit integers
    corners = np.clip(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), -reach, reach).round().astype(int)
    for left, top, right, bottom in corners.tolist():
        cv2.rectangle(image, (left, top), (right, bottom), _HALO, 4)
        cv2.rectangle(image, (left, top), (right, bottom), color, 2)
