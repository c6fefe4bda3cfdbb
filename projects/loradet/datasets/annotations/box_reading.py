"""Annotation entries to typed columns, a piece of a file at a time, so that they need not be held all at once."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from loradet.datasets.annotations import columns, values
from loradet.datasets.annotations.content import AnnotationEntry
from loradet.datasets.annotations.faults import Faults
from loradet.datasets.annotations.table import Boxes, Category, Images, has_area

IMAGE_ID = "a whole number or a text"
WHOLE = "a whole number"

# What is counted as converted, in the order in which it is told.
_CONVERTED = (
    "boxes",
    "category ids of annotations",
    "values of iscrowd",
    "values of ignore",
    "boxes that say ignore",
    "annotation ids, numbered anew",
    "image ids of annotations",
    "areas",
    "areas, taken from the boxes",
)


class BoxReading:
    """Takes the annotations of a file piece by piece, in its order; `boxes` gives all of them as columns.

    Args:
        images, categories: of the file.
        faults: hears of values that have not one meaning.

    Attributes:
        converted: how many values were not written as what they mean, by what they are.
    """

    def __init__(self, images: Images, categories: Sequence[Category], faults: Faults) -> None:
        self.converted: Counter[str] = Counter(dict.fromkeys(_CONVERTED, 0))
        self._images = images
        self._category_ids = [one.id for one in categories]
        self._faults = faults
        self._pieces: list[dict[str, np.ndarray]] = []
        self._count = 0
        self._ids_hold = True  # so far all of them are whole numbers of 64 bits
        self._says_ignore = False
        self._silent = 0  # annotations of pieces without a word of `ignore`

    def add(self, entries: Sequence[AnnotationEntry]) -> None:
        """The next annotations."""
        given = {key: list(map(attrgetter(key), entries)) for key in AnnotationEntry.__struct_fields__}
        reading = _Piece(self, given, self._count)
        self._count += len(entries)
        xywh = reading.boxes()
        category_ids = reading.category_ids()
        crowd, ignored = reading.flags("iscrowd"), self._ignored(reading)
        self._pieces.append(
            {
                "ids": self._ids(given["id"]),
                "image": reading.image_positions(self._images),
                "category": columns.positions(category_ids, self._category_ids),
                "xywh": xywh,
                "area": self._areas(given["area"], xywh),
                "crowd": crowd | ignored,
                "ignored": ignored,
            }
        )

    def boxes(self) -> Boxes:
        """All that were added. To be called once."""
        if not self._pieces:
            self.add([])
        found = {}
        for name in list(self._pieces[0]):  # one after the other, so that only one is there twice
            found[name] = np.concatenate([piece.pop(name) for piece in self._pieces])
        found["ids"] = self._distinct(found["ids"])
        if self._says_ignore:
            self.converted["values of ignore"] += self._silent
        self.converted["boxes that say ignore"] = int(found["ignored"].sum())
        self.converted = +self.converted
        return Boxes(**found)

    def _ignored(self, reading: "_Piece") -> np.ndarray:
        given = reading.given["ignore"]
        if set(map(type, given)) <= {type(None)}:  # nobody but us asks for it
            self._silent += len(given)
            return np.zeros(len(given), bool)
        self._says_ignore = True
        return reading.flags("ignore")

    def _ids(self, given: list) -> np.ndarray:
        if set(map(type, given)) <= {int}:
            with contextlib.suppress(OverflowError):
                return np.array(given, np.int64)
        self._ids_hold = False
        return np.zeros(len(given), np.int64)

    def _distinct(self, ids: np.ndarray) -> np.ndarray:
        """Distinct and not 0, which pycocotools takes for no match."""
        if self._ids_hold and ids.all() and np.diff(np.sort(ids)).all():
            return ids
        self.converted["annotation ids, numbered anew"] = len(ids)
        return np.arange(1, len(ids) + 1)

    def _areas(self, given: list, xywh: np.ndarray) -> np.ndarray:
        of_boxes = np.minimum(xywh[:, 2] * xywh[:, 3], values.MAX_AREA)
        areas = None
        if set(map(type, given)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                areas = np.array(given, np.float64)
        if areas is None:
            areas = np.array([values.as_area(value) or 0.0 for value in given], np.float64)
            self.converted["areas"] += sum(type(value) is str for value in given)
        good = (areas > 0) & (areas <= values.MAX_AREA)
        self.converted["areas, taken from the boxes"] += int((~good & has_area(xywh)).sum())
        return np.where(good, areas, of_boxes)


class _Piece:
    """Consecutive annotations, key by key; `start` is the position of the first in the file."""

    def __init__(self, reading: BoxReading, given: dict[str, list], start: int) -> None:
        self.given = given
        self._reading = reading
        self._start = start

    def boxes(self) -> np.ndarray:
        expected = "[x, y, width, height] in pixels, all numbers"
        return columns.boxes(self.given["bbox"], self._refusal("bbox", expected), self._note("boxes"))

    def category_ids(self) -> np.ndarray:
        note = self._note("category ids of annotations")
        return columns.whole_numbers(
            self.given["category_id"], values.as_whole, self._refusal("category_id", WHOLE), note
        )

    def flags(self, key: str) -> np.ndarray:
        return columns.flags(self.given[key], self._refusal(key, "0 or 1"), self._note(f"values of {key}"))

    def image_positions(self, images: Images) -> np.ndarray:
        note = self._note("image ids of annotations")
        return columns.image_positions(self.given["image_id"], images, self._refusal("image_id", IMAGE_ID), note)

    def _refusal(self, key: str, expected: str) -> columns.Refuse:
        def refuse(position: int) -> None:
            value, number = self.given[key][position], self.given["id"][position]
            self._reading._faults.add("annotations", self._start + position, key, expected, value, number)

        return refuse

    def _note(self, what: str) -> columns.Note:
        def note() -> None:
            self._reading.converted[what] += 1

        return note
