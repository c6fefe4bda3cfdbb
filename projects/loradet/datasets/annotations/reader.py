"""Reads annotation files, each once: what was read is kept as long as the file stays as it is."""

import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loradet.datasets.annotations import columns, values
from loradet.datasets.annotations.box_reading import IMAGE_ID, WHOLE, BoxReading
from loradet.datasets.annotations.content import (
    CategoryEntry,
    Entries,
    ImageEntry,
    PiecewiseEntries,
    decode_entries,
    decode_in_pieces,
    read_bytes,
)
from loradet.datasets.annotations.faults import Faults, how_to_repair
from loradet.datasets.annotations.table import AnnotationFile, Boxes, Category, Images
from loradet.datasets.files import expand, fingerprint_of_bytes
from loradet.errors import UserError
from loradet.garbage_pause import garbage_collection_paused

_KEPT = 8  # files; the columns of 500,000 annotations take 50 MB
_STEP = 20_000_000  # ns in which a file system may give two changes of a file one time
_files: OrderedDict[Path, tuple[tuple[int, int], AnnotationFile]] = OrderedDict()
_lock = threading.Lock()


def read_annotations(json_file: str | os.PathLike) -> AnnotationFile:
    """What a COCO instances file says, as typed columns; a file that has not changed is not read again.

    Converted are values with one meaning: whole numbers as 1.0 or "1", sizes and boxes as texts, flags as booleans,
    texts or null, an `area` that is absent or not positive (the box's is taken), annotation ids that are no distinct
    whole numbers (annotations are numbered 1 to A). A byte order mark, UTF-16 and UTF-32, and NaN where it is not read
    are fine. Boxes without area, and annotations of images and categories that are not listed, stay in the columns.

    Args:
        json_file: the path; `~` and `$VARS` are expanded. Also a URL (`loradet.remote`).

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
    if (pieces := decode_in_pieces(data)) is not None:
        try:
            return _Reading(path, pieces).result(fingerprint, plain=True)
        except (msgspec.MsgspecError, RecursionError, UserError):
            # Whatever is wrong: what is said of it does not depend on pieces.
            del pieces
    entries, plain = decode_entries(data, path)
    del data
    return _Reading(path, entries).result(fingerprint, plain)


class _Reading:
    """Turns the entries of one file into columns."""

    def __init__(self, path: Path, entries: Entries | PiecewiseEntries) -> None:
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
        boxes = self._boxes(images, categories)
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
                self.faults.add("categories", position, "id", WHOLE, entry.id)
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
                self.faults.add("images", position, "id", IMAGE_ID, entry.id)
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

    def _boxes(self, images: Images, categories: Sequence[Category]) -> Boxes:
        reading = BoxReading(images, categories, self.faults)
        with garbage_collection_paused():
            for piece in self.entries.pieces():
                reading.add(piece)
        boxes = reading.boxes()
        self.converted.update(reading.converted)
        return boxes

    def _note(self, what: str) -> columns.Note:
        def note() -> None:
            self.converted[what] += 1

        return note

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
