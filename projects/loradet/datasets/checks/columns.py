"""The annotations of a file as columns, with a mark at those that need no look of their own.

Of a million annotations nearly all are as they should be. Numpy finds those; a walk in Python sees only the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from loradet.datasets.annotations.columns import positions
from loradet.datasets.annotations.table import has_area
from loradet.datasets.annotations.values import MAX_AREA, MAX_PIXELS, as_box, as_whole
from loradet.datasets.boxes import LEAST_SIDE, TOLERANCE
from loradet.datasets.checks.images import ListedImage, ListedImages


@dataclass
class Columns:
    """A annotations in the order of the file; what an entry has not, or not so, is 0 or -1 here.

    Attributes:
        ids: as they mean.
        repeated: (A,) bool: an annotation before has the same id.
        image: (A,) position among the images that are kept; -1: of none of them.
        limits: (A, 2) width and height of the image, infinite where they are not known.
        category: (A,) id in the result.
        xywh: (A, 4) in pixels.
        crowd, ignored: (A,) bool.
        plain: (A,) bool: nothing is wrong with the annotation by itself.
    """

    ids: list
    repeated: np.ndarray
    image: np.ndarray
    limits: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    plain: np.ndarray


def columns_of(entries: Sequence[dict], images: ListedImages, categories: Mapping[Any, int]) -> Columns:
    """Columns of annotation entries.

    Args:
        entries: as they are in the file.
        images: what they may be of.
        categories: ids in the result by keys of ids (`examine_categories`).
    """
    ids, repeated, plain = _ids([entry.get("id") for entry in entries])
    image, limits, fits = _images([entry.get("image_id") for entry in entries], images)
    plain &= fits & ~repeated
    category, fits = _categories([entry.get("category_id") for entry in entries], categories)
    plain &= fits
    xywh, fits = _boxes([entry.get("bbox") for entry in entries])
    plain &= fits & has_area(xywh) & _inside(xywh, limits) & (xywh[:, 2:] >= LEAST_SIDE).all(axis=1)
    plain &= _areas([entry.get("area", 1.0) for entry in entries])
    crowd, fits = _flags([entry.get("iscrowd", 0) for entry in entries])
    plain &= fits
    ignored, fits = _flags([entry.get("ignore", 0) for entry in entries])
    plain &= fits
    return Columns(ids, repeated, image, limits, category, xywh, crowd | ignored, ignored, plain)


def _inside(xywh: np.ndarray, limits: np.ndarray) -> np.ndarray:
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    near = ((low >= -TOLERANCE) & (high <= limits + TOLERANCE)).all(axis=1)
    low = np.maximum(low, 0.0)
    return near & has_area(np.hstack([low, np.minimum(high, limits) - low]))


def _of_type(values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    """(N,) bool: values of one of these types and no other."""
    if set(map(type, values)) <= kinds:
        return np.ones(len(values), bool)
    return np.fromiter((type(value) in kinds for value in values), bool, len(values))


def _whole(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64, and which values are integers that it holds."""
    fits = _of_type(values, {int})
    try:
        if fits.all():
            return np.array(values, np.int64), fits
    except OverflowError:
        pass
    numbers = [as_whole(value) if fit else None for value, fit in zip(values, fits)]
    fits = np.array([number is not None for number in numbers], bool)
    return np.array([number or 0 for number in numbers], np.int64), fits


def _ids(values: Sequence[Any]) -> tuple[list, np.ndarray, np.ndarray]:
    column, fits = _whole(values)
    ids = column.tolist() if fits.all() else [as_whole(value) for value in values]
    repeated = np.zeros(len(values), bool)
    if fits.all():
        order = np.argsort(column, kind="stable")
        repeated[order[1:]] = column[order[1:]] == column[order[:-1]]
    else:
        seen: set[int] = set()
        for position, number in enumerate(ids):
            repeated[position] = number in seen
            if number is not None:
                seen.add(number)
    return ids, repeated, fits


def _images(values: Sequence[Any], images: ListedImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions among the kept images, limits, and which values are written as their image's id."""
    found = [(key, one) for key, one in images.by_key.items() if type(key) is not tuple]
    if images.as_text:
        places = {key: place for place, (key, _) in enumerate(found)}
        place = np.array([places.get(value, -1) if type(value) is str else -1 for value in values], np.int64)
        fits = place >= 0
    else:
        column, fits = _whole(values)
        place = positions(column, [key for key, _ in found])
        fits = fits & (place >= 0)
    listed = [one for _, one in found] + [_NOWHERE]  # which place -1 finds
    position = np.array([one.position for one in listed], np.int64)[place]
    limits = np.array([one.limits for one in listed], np.float64).reshape(-1, 2)[place]
    as_written = np.array([not one.is_alias for one in listed], bool)[place]
    return position, limits, fits & as_written


_NOWHERE = ListedImage({}, 0, -1, (np.inf, np.inf))


def _categories(values: Sequence[Any], categories: Mapping[Any, int]) -> tuple[np.ndarray, np.ndarray]:
    column, fits = _whole(values)
    same = np.array([key for key, number in categories.items() if key == number], np.int64)
    return column, fits & np.isin(column, same)


def _boxes(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    lists = set(map(type, values)) <= {list} and set(map(len, values)) <= {4}
    if lists:
        numbers = list(chain.from_iterable(values))
        if set(map(type, numbers)) <= {int, float}:
            try:
                xywh = np.array(numbers, np.float64).reshape(-1, 4)
            except OverflowError:
                xywh = None
            if xywh is not None:
                fits = (np.abs(xywh) <= MAX_PIXELS).all(axis=1)
                xywh[~fits] = 0.0
                return xywh, fits
    boxes = [as_box(value) for value in values]
    fits = [box is not None and not any(type(number) is str for number in value) for box, value in zip(boxes, values)]
    xywh = np.array([box or (0.0, 0.0, 0.0, 0.0) for box in boxes], np.float64).reshape(-1, 4)
    return xywh, np.array(fits, bool)


def _areas(values: Sequence[Any]) -> np.ndarray:
    fits = _of_type(values, {int, float})
    try:
        areas = np.array(values if fits.all() else [v if fit else 0 for v, fit in zip(values, fits)], np.float64)
    except OverflowError:
        return np.array([fit and 0 < value <= MAX_AREA for value, fit in zip(values, fits)], bool)
    return fits & (areas > 0) & (areas <= MAX_AREA)


def _flags(values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool: what they say, and which are written as 0 or 1."""
    column, fits = _whole(values)
    return column == 1, fits & ((column == 0) | (column == 1))
