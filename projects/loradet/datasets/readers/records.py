"""Detectron2's dataset dicts of an annotation file, made of its columns when they are asked for."""

import operator
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode

from loradet.datasets.annotations import AnnotationFile


class Records(Sequence[dict[str, Any]]):
    """A sequence of dataset dicts, of which none is held: what is done to one stays outside.

    Where dicts are to be changed, change those of `list(records)`. Two million boxes take 100 MB here and 1.2 GB as
    dicts, and data processes share them: nothing here has a reference count.

    Args:
        file: what was read.
        image_root: folder that its file names are relative to.
        labels: (A,) contiguous class id of each annotation; -1: left out, as are those that are not `known`.
        chosen: (N,) bool: the images, in the order of the file.
    """

    def __init__(self, file: AnnotationFile, image_root: Path, labels: np.ndarray, chosen: np.ndarray) -> None:
        boxes, images = file.boxes, file.images
        rows = np.flatnonzero(boxes.known & (labels >= 0) & np.append(chosen, False)[boxes.image])
        rows = rows[np.argsort(boxes.image[rows], kind="stable")]
        positions = np.flatnonzero(chosen)
        self._root = str(image_root)
        self._file_names = _Texts([images.file_names[position] for position in positions.tolist()])
        self._image_ids = _ids([images.ids[position] for position in positions.tolist()])
        self._heights = _Column(images.heights[positions])
        self._widths = _Column(images.widths[positions])
        ends = np.searchsorted(boxes.image[rows], positions, side="right")
        self._ends = _Column(np.concatenate([[0], ends]))
        self._xywh = _Column(boxes.xywh[rows])
        self._labels = _Column(labels[rows].astype(np.int32))
        self._crowd = _Column(boxes.crowd[rows].astype(np.uint8))

    def __len__(self) -> int:
        return len(self._heights.array)

    def __getitem__(self, index: Any) -> Any:
        """The dict at a position; a list of them for a slice."""
        if isinstance(index, slice):
            return [self._dict(position) for position in range(*index.indices(len(self)))]
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} records")
        return self._dict(position % len(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._dict, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records | list):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*self, *other]

    def __radd__(self, other: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*other, *self]

    def __repr__(self) -> str:
        return f"<Records of {len(self)} images with {len(self._labels.array)} boxes below {self._root}>"

    def column(self, key: str) -> list[Any]:
        """The values of `file_name`, `image_id`, `height` or `width` of all images."""
        readers: dict[str, Callable[[], list[Any]]] = {
            "file_name": lambda: [self._file_name(position) for position in range(len(self))],
            "image_id": lambda: [self._image_ids[position] for position in range(len(self))],
            "height": self._heights.array.tolist,
            "width": self._widths.array.tolist,
        }
        return readers[key]()

    def _file_name(self, position: int) -> str:
        return os.path.join(self._root, self._file_names[position])  # noqa: PTH118 (a str, as Detectron2 has it)

    def _dict(self, position: int) -> dict[str, Any]:
        start, end = self._ends.array[position : position + 2].tolist()
        columns = zip(*(one.array[start:end].tolist() for one in (self._xywh, self._labels, self._crowd)))
        mode = BoxMode.XYWH_ABS
        return {
            "file_name": self._file_name(position),
            "height": int(self._heights.array[position]),
            "width": int(self._widths.array[position]),
            "image_id": self._image_ids[position],
            "annotations": [
                {"bbox": box, "bbox_mode": mode, "category_id": label, "iscrowd": crowd}
                for box, label, crowd in columns
            ],
        }


def column(records: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """The values of a key of all records, without their dicts where they are `Records`."""
    return records.column(key) if isinstance(records, Records) else [record[key] for record in records]


class _Column:
    """Numbers, as an array to read from; a process that is spawned is given the tensor of it in shared memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._tensor = torch.from_numpy(array)  # it has to live until that process has begun

    def __reduce__(self) -> tuple[Callable, tuple[torch.Tensor]]:
        return _column_of, (self._tensor,)


def _column_of(tensor: torch.Tensor) -> _Column:
    return _Column(tensor.numpy())


class _Texts:
    """Texts in one column of UTF-8."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._ends = _Column(np.cumsum([0, *map(len, encoded)]))
        self._bytes = _Column(np.frombuffer(b"".join(encoded), np.uint8).copy())

    def __getitem__(self, position: int) -> str:
        start, end = self._ends.array[position : position + 2].tolist()
        return self._bytes.array[start:end].tobytes().decode()


class _Numbers:
    """Whole numbers in one column."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._values = _Column(np.array(numbers, np.int64))

    def __getitem__(self, position: int) -> int:
        return int(self._values.array[position])


def _ids(ids: Sequence[Any]) -> _Texts | _Numbers:
    return _Texts(ids) if ids and isinstance(ids[0], str) else _Numbers(ids)
