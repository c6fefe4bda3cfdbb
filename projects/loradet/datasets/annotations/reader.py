"""Reads annotation files, each once: what was read is kept as long as the file stays as it is."""

import contextlib
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loradet.datasets.annotations import columns, values
from loradet.datasets.annotations.content import (
    AnnotationEntry,
    CategoryEntry,
    Entries,
    ImageEntry,
    decode_entries,
    read_bytes,
)
from loradet.datasets.annotations.faults import Faults, how_to_repair
from loradet.datasets.annotations.table import AnnotationFile, Boxes, Category, Images, has_area
from loradet.datasets.files import expand, fingerprint_of_bytes
from loradet.errors import UserError

_KEPT = 8  # files; the columns of 500,000 annotations take 50 MB
_STEP = 20_000_000  # ns in which a file system may give two changes of a file one time
_files: OrderedDict[Path, tuple[tuple[int, int], AnnotationFile]] = OrderedDict()
_lock = threading.Lock()

_IMAGE_ID = "a whole number or a text"
_WHOLE = "a whole number"


def read_annotations(json_file: str | os.PathLike) -> AnnotationFile:
    """What a COCO instances file says, as typed columns; a file that has not changed is not read again.

    Converted are values with one meaning: whole numbers as 1.0 or "1", sizes and boxes as texts, flags as booleans,
    texts or null, an `area` that is absent or not positive (the box's is taken), annotation ids that are no distinct
    whole numbers (annotations are numbered 1 to A). A byte order mark, UTF-16 and UTF-32, and NaN where it is not read
    are fine. Boxes without area, and annotations of images and categories that are not listed, stay in the columns.

    Args:
        json_file: the path; `~` and `$VARS` are expanded.

    Raises:
        MissingFileError: there is no such file.
        UserError: not JSON, not COCO instances, image or category ids that are not distinct, or a value without one
            meaning; names the file, the entry and the key.
    """
    path = expand(json_file).absolute()
    with _lock:
        stamp = _stamp(path)
        kept = _files.get(path)
        if kept is not None and kept[0] == stamp:
            _files.move_to_end(path)
            return kept[1]
        is_settled = not 0 <= time.time_ns() - stamp[1] < _STEP
        found = _read(path)
        if is_settled:
            _files[path] = stamp, found
        while len(_files) > _KEPT:
            _files.popitem(last=False)
        return found


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (OSError, ValueError):  # reading says it better
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read(path: Path) -> AnnotationFile:
    data = read_bytes(path)
    fingerprint = fingerprint_of_bytes(data)
    entries, plain = decode_entries(data, path)
    del data
    return _Reading(path, entries).result(fingerprint, plain)


class _Reading:
    """Turns the entries of one file into columns."""

    def __init__(self, path: Path, entries: Entries) -> None:
        self.path = path
        self.entries = entries
        self.faults = Faults(path)
        self.converted: Counter[str] = Counter()

    def result(self, fingerprint: str, plain: bool) -> AnnotationFile:
        categories = self._categories(self.entries.categories)
        images = self._images(self.entries.images)
        self.faults.refuse()
        self._refuse_repeated("images", images.ids)
        self._refuse_repeated("categories", [one.id for one in categories])
        boxes = self._boxes(self.entries.annotations, images, categories)
        self.faults.refuse()
        info = self.entries.info if isinstance(self.entries.info, dict) else {}
        plain = plain and not self.converted
        file = AnnotationFile(self.path, info, images, boxes, categories, fingerprint, plain, dict(self.converted))
        names: dict[str, Category] = {}
        for category in file.classes:
            if (first := names.setdefault(category.name, category)) is not category:
                raise UserError(
                    f"{self.path}: the categories {first.id} and {category.id} are both {category.name!r}. "
                    f"{how_to_repair(self.path)}"
                )
        return file

    def _categories(self, entries: Sequence[CategoryEntry]) -> tuple[Category, ...]:
        found = []
        for position, entry in enumerate(entries):
            number, name = values.as_whole(entry.id), values.as_name(entry.name)
            if number is None:
                self.faults.add("categories", position, "id", _WHOLE, entry.id)
            elif type(entry.id) is not int:
                self.converted["ids of categories"] += 1
            if name is None:
                self.faults.add("categories", position, "name", "a text", entry.name, entry.id)
            elif type(entry.name) is not str:
                self.converted["names of categories"] += 1
            above = values.as_name(entry.supercategory)
            found.append(Category(number or 0, name or "", entry.supercategory if above is None else above))
        return tuple(found)

    def _images(self, entries: Sequence[ImageEntry]) -> Images:
        ids, names = [], []
        for position, entry in enumerate(entries):
            number, name = values.as_image_id(entry.id), values.as_name(entry.file_name)
            if number is None:
                self.faults.add("images", position, "id", _IMAGE_ID, entry.id)
            elif type(number) is not type(entry.id):
                self.converted["ids of images"] += 1
            if not name:
                self.faults.add("images", position, "file_name", "a text", entry.file_name, entry.id)
            elif type(entry.file_name) is not str:
                self.converted["file names"] += 1
            ids.append(number)
            names.append(name or "")
        if len(set(map(type, ids))) > 1:
            self.converted["ids of images, as texts since some are"] += len(ids)
            ids = [str(number) for number in ids]
        return Images(ids, names, self._sides("width"), self._sides("height"))

    def _sides(self, key: str) -> np.ndarray:
        entries = self.entries.images
        given = [getattr(entry, key) for entry in entries]
        refused = set()

        def refuse(position: int) -> None:
            if position not in refused:
                refused.add(position)
                expected = "a whole number of pixels above 0"
                self.faults.add("images", position, key, expected, given[position], entries[position].id)

        column = columns.whole_numbers(given, values.as_whole, refuse, self._note("sizes of images"))
        for position in np.flatnonzero(column <= 0).tolist():
            refuse(position)
        return column

    def _boxes(self, entries: Sequence[AnnotationEntry], images: Images, categories: Sequence[Category]) -> Boxes:
        xywh = columns.boxes(
            [entry.bbox for entry in entries],
            self._refusal("bbox", "[x, y, width, height] in pixels, all numbers"),
            self._note("boxes"),
        )
        category_ids = columns.whole_numbers(
            [entry.category_id for entry in entries],
            values.as_whole,
            self._refusal("category_id", _WHOLE),
            self._note("category ids of annotations"),
        )
        crowd, ignored = self._flags("iscrowd"), self._flags("ignore")
        if ignored.any():
            self.converted["boxes that say ignore"] += int(ignored.sum())
        return Boxes(
            ids=self._annotation_ids([entry.id for entry in entries]),
            image=columns.image_positions(
                [entry.image_id for entry in entries],
                images,
                self._refusal("image_id", _IMAGE_ID),
                self._note("image ids of annotations"),
            ),
            category=columns.positions(category_ids, [one.id for one in categories]),
            xywh=xywh,
            area=self._areas([entry.area for entry in entries], xywh),
            crowd=crowd | ignored,
            ignored=ignored,
        )

    def _refusal(self, key: str, expected: str) -> columns.Refuse:
        def refuse(position: int) -> None:
            entry = self.entries.annotations[position]
            self.faults.add("annotations", position, key, expected, getattr(entry, key), entry.id)

        return refuse

    def _note(self, what: str) -> columns.Note:
        def note(count: int = 1) -> None:
            self.converted[what] += count

        return note

    def _flags(self, key: str) -> np.ndarray:
        given = [getattr(entry, key) for entry in self.entries.annotations]
        if key == "ignore" and set(map(type, given)) <= {type(None)}:  # nobody but us asks for it
            return np.zeros(len(given), bool)
        return columns.flags(given, self._refusal(key, "0 or 1"), self._note(f"values of {key}"))

    def _annotation_ids(self, given: list) -> np.ndarray:
        """Distinct and not 0, which pycocotools takes for no match."""
        if set(map(type, given)) <= {int}:
            try:
                found = np.array(given, np.int64)
            except OverflowError:
                found = np.zeros(len(given), np.int64)
            if found.all() and np.diff(np.sort(found)).all():
                return found
        self.converted["annotation ids, numbered anew"] += len(given)
        return np.arange(1, len(given) + 1)

    def _areas(self, given: list, xywh: np.ndarray) -> np.ndarray:
        of_boxes = np.minimum(xywh[:, 2] * xywh[:, 3], values.MAX_AREA)
        areas = None
        if set(map(type, given)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                areas = np.array(given, np.float64)
        if areas is None:
            areas = np.array([values.as_area(value) or 0.0 for value in given], np.float64)
            if texts := sum(type(value) is str for value in given):
                self.converted["areas"] += texts
        good = (areas > 0) & (areas <= values.MAX_AREA)
        if filled := int((~good & has_area(xywh)).sum()):
            self.converted["areas, taken from the boxes"] += filled
        return np.where(good, areas, of_boxes)

    def _refuse_repeated(self, table: str, given: list) -> None:
        if len(set(given)) == len(given):
            return
        first: dict[Any, int] = {}
        for position, value in enumerate(given):
            if value in first:
                raise UserError(
                    f"{self.path}: the id {value!r} is repeated in {table} (entries {first[value]} and {position}). "
                    f"{how_to_repair(self.path)}"
                )
            first[value] = position
