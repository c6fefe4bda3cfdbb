"""The content of an annotation file as typed columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Category:
    """An entry of `categories`; `supercategory` as it is written."""

    id: int
    name: str
    supercategory: Any = None


@dataclass(frozen=True, eq=False)
class Images:
    """N images in the order of the file.

    Attributes:
        ids: N whole numbers, or N texts: where one id is a text that is no number, all are taken as texts.
        file_names: N of them.
        widths, heights: (N,) positive, in pixels.
    """

    ids: list
    file_names: list[str]
    widths: np.ndarray
    heights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[Any, int]:
        """Positions by id."""
        return {number: position for position, number in enumerate(self.ids)}

    @cached_property
    def positions(self) -> "Positions":
        """Positions by id, of many at once; where the ids are whole numbers."""
        return Positions(self.ids)


class Positions:
    """Finds numbers among distinct ids."""

    def __init__(self, ids: Sequence[int]) -> None:
        known = np.array(ids, np.int64)
        self._order = np.argsort(known, kind="stable")
        self._sorted = known[self._order]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) where each of the numbers (N,) is among the ids; -1 where it is not."""
        if not len(self._sorted):
            return np.full(len(numbers), -1)
        place = np.minimum(np.searchsorted(self._sorted, numbers), len(self._sorted) - 1)
        return np.where(self._sorted[place] == numbers, self._order[place], -1)


@dataclass(frozen=True, eq=False)
class Boxes:
    """A annotations in the order of the file.

    Attributes:
        ids: (A,) distinct and not 0: the file's own, or 1 to A where those are not.
        image: (A,) position of its image; -1 where the file does not list it.
        category: (A,) position of its category; -1 where the file does not list it.
        xywh: (A, 4) boxes in pixels; all zero where the annotation has none.
        area: (A,) in square pixels, positive where the box is: the file's own, or where that is not, the box's.
        crowd: (A,) bool: a region in which nothing is to be found by itself, by `iscrowd` or by `ignore`.
        ignored: (A,) bool: so by `ignore`.
    """

    ids: np.ndarray
    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def usable(self) -> np.ndarray:
        """(A,) bool: boxes that have an area."""
        return has_area(self.xywh)

    @cached_property
    def known(self) -> np.ndarray:
        """(A,) bool: usable boxes of listed images and categories."""
        return self.usable & (self.image >= 0) & (self.category >= 0)


@dataclass(frozen=True, eq=False)
class AnnotationFile:
    """What a COCO instances file says.

    Attributes:
        path: of the file.
        info: as it is written, {} where it is no object.
        fingerprint: of the file's bytes, as `files.fingerprint(path)`.
        plain: nothing had to be converted or filled in, so that pycocotools reads the same from the file.
        converted: number of values that were, by what they are, in words.
    """

    path: Path
    info: Mapping[str, Any]
    images: Images
    boxes: Boxes
    categories: tuple[Category, ...]
    fingerprint: str
    plain: bool
    converted: Mapping[str, int]

    @cached_property
    def classes(self) -> tuple[Category, ...]:
        """The categories by ascending id, less an empty heading above all the others.

        Roboflow's exports begin with such a one: id 0, the name of the project (often that of a class too), the
        `supercategory` of all others and itself in none, no annotation. One that has an annotation always counts.
        """
        annotated = {self.categories[position].id for position in np.unique(self.boxes.category) if position >= 0}
        heading = find_heading(self.categories, annotated)
        return tuple(sorted((one for one in self.categories if one is not heading), key=lambda one: one.id))

    @property
    def synthetic(self) -> bool:
        """Whether the file marks its images as synthetic (`info.synthetic`)."""
        return self.info.get("synthetic") is True


def find_heading(categories: tuple[Category, ...], annotated: set[int]) -> Category | None:
    """The empty heading among categories, if there is one; `annotated` are the ids that have annotations."""
    for heading in categories:
        others = [one for one in categories if one is not heading]
        if heading.name is None or heading.id in annotated or not others:
            continue
        if heading.supercategory not in (None, "", "none"):  # a class that gave its name to a group
            continue
        if all(one.supercategory == heading.name for one in others):
            return heading
    return None


def has_area(xywh: np.ndarray) -> np.ndarray:
    """(A,) bool: boxes XYWH (A, 4) whose sides are positive, and not lost beside their coordinates' rounding."""
    x, y, width, height = xywh.T
    # IoU is worked out from edges: a side must be large against the steps of floats there.
    thick = (width > 1e4 * np.spacing(np.abs(x) + np.abs(width))) & (
        height > 1e4 * np.spacing(np.abs(y) + np.abs(height))
    )
    return thick & (width * height > 0)
