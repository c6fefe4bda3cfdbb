"""The valid content of a split, for notes, comparisons of splits, anchors and histograms."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from loradet.datasets.checks.annotations import KeptBoxes
from loradet.datasets.checks.findings import Findings
from loradet.datasets.checks.images import ListedImages
from loradet.wording import shorten

LONG_BOX = 20.0  # longer side over shorter, beyond which a box is very long


@dataclass(frozen=True)
class SplitContent:
    """A split once what is wrong has been repaired or left out.

    Attributes:
        json_file, image_root: where it is from; None: the pictures were not opened.
        categories: entries.
        images: that are there.
        boxes: of these.
    """

    json_file: Path
    image_root: Path | None
    categories: list[dict]
    images: ListedImages
    boxes: KeptBoxes

    @cached_property
    def sizes(self) -> np.ndarray:
        """(N, 2) width and height of each image, in pixels."""
        return np.array([(one["width"], one["height"]) for one in self.images.kept], np.float64).reshape(-1, 2)

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Number of boxes that are no crowd regions, by class, in the order of the categories."""
        numbers, counts = np.unique(self.boxes.category[~self.boxes.crowd], return_counts=True)
        by_id = dict(zip(numbers.tolist(), counts.tolist()))
        return {one["name"]: by_id.get(one["id"], 0) for one in self.categories}

    @property
    def has_boxes_to_find(self) -> bool:
        """Whether there is a box that is no crowd region."""
        return bool((~self.boxes.crowd).any())

    def image_of(self, box: int) -> dict:
        """The entry of the image that a box, by its place among the kept ones, is of."""
        return self.images.kept[self.boxes.image[box]]


def describe_boxes(content: SplitContent, found: Findings) -> tuple[str, ...]:
    """Notes of what is no fault and good to know; very long boxes are warnings."""
    boxes, lines = content.boxes, []
    if content.image_root is None:
        lines.append("pictures were not opened: give --images")
    if ignored := int(boxes.ignored.sum()):
        names = _ids(boxes, boxes.ignored)
        lines.append(
            f"{ignored} boxes say ignore: they count as crowd regions, neither trained on nor to be found ({names})"
        )
    if not len(boxes.rows):
        lines.append("no box is there: there is nothing to train on and nothing to find")
    elif boxes.crowd.all():
        lines.append(f"all {len(boxes.rows)} boxes are crowd regions: there is nothing to train on and nothing to find")
    sides = boxes.xywh[:, 2:]
    for box in np.flatnonzero(sides.max(axis=1, initial=0) > LONG_BOX * sides.min(axis=1, initial=np.inf)).tolist():
        image, xywh = content.image_of(box), tuple(boxes.xywh[box].tolist())
        message = f"annotation {boxes.ids[box]} is {xywh[2]:.4g} x {xywh[3]:.4g} pixels"
        found.warn("very long box", message, image["id"], image["file_name"], xywh)
    return tuple(lines)


def _ids(boxes: KeptBoxes, which: np.ndarray) -> str:
    return "annotations " + shorten((str(boxes.ids[box]) for box in np.flatnonzero(which).tolist()), limit=5)
