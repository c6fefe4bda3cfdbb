"""Reads `coco_instances_results.json` as typed columns, beside the annotation file that it is numbered as."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loradet.datasets.annotations import AnnotationFile, columns
from loradet.datasets.annotations.content import decode_json
from loradet.datasets.annotations.values import as_number, as_whole, is_no_box, show
from loradet.errors import MissingFileError, UserError
from loradet.garbage_pause import garbage_collection_paused


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections in the order of their file.

    Attributes:
        image: (D,) positions in the annotation file's images.
        category: (D,) positions in its categories.
        xywh: (D, 4) boxes in pixels.
        scores: (D,).
    """

    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def by_image(self, images: int) -> list[np.ndarray]:
        """Rows of each of the images, in the order of the file."""
        rows = np.argsort(self.image, kind="stable")
        return np.split(rows, np.searchsorted(self.image[rows], np.arange(1, images)))


class _PlainEntry(msgspec.Struct, gc=False):
    """As every entry of most files is."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _TextEntry(msgspec.Struct, gc=False):
    """As every entry is where ids of images are texts."""

    image_id: str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _Entry(msgspec.Struct, gc=False):
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    score: Any = None


_PLAIN_DECODERS = {int: msgspec.json.Decoder(list[_PlainEntry]), str: msgspec.json.Decoder(list[_TextEntry])}
_DECODER = msgspec.json.Decoder(list[_Entry])
_ADVICE = "A detections file is a list of boxes."
_KEYS = ("image_id", "category_id", "bbox", "score")


def read_detections(predictions: str | os.PathLike, file: AnnotationFile) -> Detections:
    """Read a detections file.

    Args:
        predictions: `coco_instances_results.json`, boxes XYWH with the annotation file's ids.
        file: the annotations of the same images.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is broken, or of images or categories that the annotations lack.
    """
    path = Path(predictions)
    data = _read(path)
    with garbage_collection_paused():
        found = _plain_detections(data, file)
    return _any_detections(_entries(data, path), path, file) if found is None else found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: there is no such file. {_ADVICE}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _plain_detections(data: bytes, file: AnnotationFile) -> Detections | None:
    """A sound file of numbers that are written as what they are; None: a closer look has to tell."""
    ids = file.images.ids
    try:
        entries = _PLAIN_DECODERS[type(ids[0]) if ids else int].decode(data)
        count = len(entries)
        if ids and type(ids[0]) is str:
            place = file.images.index
            image = np.fromiter((place.get(entry.image_id, -1) for entry in entries), np.int64, count)
        else:
            image = columns.positions(np.fromiter(map(attrgetter("image_id"), entries), np.int64, count), ids)
        numbers = np.fromiter(map(attrgetter("category_id"), entries), np.int64, count)
        scores = np.fromiter(map(attrgetter("score"), entries), np.float64, count)
        xywh = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), entries)), np.float64, 4 * count)
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return None
    category = columns.positions(numbers, [category.id for category in file.categories])
    sound = np.isfinite(scores).all() and columns.are_in_range(xywh)
    if not sound or (image < 0).any() or (category < 0).any():
        return None
    return Detections(image, category, xywh.reshape(-1, 4), scores)


def _any_detections(entries: Sequence[_Entry], path: Path, file: AnnotationFile) -> Detections:
    """Of entries that may be written otherwise, or broken."""
    given = {key: [getattr(entry, key) for entry in entries] for key in _KEYS}
    refuse = _Refusal(path, given)
    image = columns.image_positions(given["image_id"], file.images, refuse.of("image_id"), _nothing)
    numbers = columns.whole_numbers(given["category_id"], as_whole, refuse.of("category_id"), _nothing)
    category = columns.positions(numbers, [category.id for category in file.categories])
    for key, found in (("image_id", image), ("category_id", category)):
        if len(rows := np.flatnonzero(found < 0)):
            what = f"detection {rows[0]} has {key} {show(given[key][rows[0]])}, which {file.path} does not have"
            raise UserError(f"{path}: {what}{f' (and so in {len(rows) - 1} more)' if len(rows) > 1 else ''}.")
    for row, box in enumerate(given["bbox"]):
        if is_no_box(box):
            refuse.of("bbox")(row)
    xywh = columns.boxes(given["bbox"], refuse.of("bbox"), _nothing)
    return Detections(image, category, xywh, _scores(given["score"], refuse.of("score")))


def _entries(data: bytes, path: Path) -> list[_Entry]:
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        pass
    content = decode_json(data, path, list, _ADVICE)
    if not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path} is no detections file: expected a JSON list of boxes.")
    return msgspec.convert(content, list[_Entry])


class _Refusal:
    """Raises UserError for a value, by its position and key."""

    def __init__(self, path: Path, given: dict[str, list]) -> None:
        self.path = path
        self.given = given

    def of(self, key: str) -> columns.Refuse:
        expected = {"bbox": "[x, y, width, height]", "score": "a number"}.get(key, "an id of the annotation file")

        def refuse(position: int) -> None:
            value = self.given[key][position]
            if value is None:
                raise UserError(f"{self.path}: detection {position} lacks {key}.")
            raise UserError(f"{self.path}: detection {position} has {key} {show(value)}; expected {expected}.")

        return refuse


def _nothing() -> None:
    """Nobody asks how values of detections were written."""


def _scores(given: list, refuse: columns.Refuse) -> np.ndarray:
    if set(map(type, given)) <= {float}:
        scores = np.array(given, np.float64)
        if np.isfinite(scores).all():
            return scores
    found = np.zeros(len(given))
    for row, value in enumerate(given):
        number = as_number(value)
        if number is None:
            refuse(row)
        found[row] = number
    return found
