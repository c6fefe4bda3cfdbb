"""Lists of values of any type to numpy columns: all at once where they are what they should be, else one by one."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from loradet.datasets.annotations.table import Images, Positions
from loradet.datasets.annotations.values import MAX_PIXELS, as_box, as_flag, as_image_id, is_no_box

Refuse = Callable[[int], None]  # hears of the position of each value that has not one meaning
Note = Callable[[], None]  # hears of each value that is not written as what it means


def whole_numbers(
    values: Sequence[Any], convert: Callable[[Any], int | None], refuse: Refuse, note: Note
) -> np.ndarray:
    """(N,) int64; `convert` takes what is no integer; 0 where refused."""
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    column = np.zeros(len(values), np.int64)
    for position, value in enumerate(values):
        number = convert(value)
        if number is None:
            refuse(position)
            continue
        if type(value) is not int:
            note()
        column[position] = number
    return column


def flags(values: Sequence[Any], refuse: Refuse, note: Note) -> np.ndarray:
    """(N,) bool; False where refused."""
    if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
        return np.array(values, bool)
    column = np.zeros(len(values), bool)
    for position, value in enumerate(values):
        flag = as_flag(value)
        if flag is None:
            refuse(position)
            continue
        if type(value) is not int:
            note()
        column[position] = flag
    return column


def boxes(values: Sequence[Any], refuse: Refuse, note: Note) -> np.ndarray:
    """(N, 4) float64; zeros for annotations without a box and where refused."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        numbers = list(chain.from_iterable(values))
        if set(map(type, numbers)) <= {int, float}:
            try:
                column = np.array(numbers, np.float64).reshape(-1, 4)
            except OverflowError:
                column = np.full((len(values), 4), np.inf)
            if are_in_range(column):
                return column
    column = np.zeros((len(values), 4))
    for position, value in enumerate(values):
        if is_no_box(value):
            continue
        if (box := as_box(value)) is None:
            refuse(position)
            continue
        if any(type(number) is str for number in value):
            note()
        column[position] = box
    return column


def are_in_range(coordinates: np.ndarray) -> bool:
    """Whether all are numbers of pixels that boxes may have; NaN is none."""
    return bool((np.abs(coordinates) <= MAX_PIXELS).all())


def positions(numbers: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """(N,) where each of the numbers (N,) is among distinct ids; -1 where it is not."""
    return Positions(ids).of(numbers)


def image_positions(values: Sequence[Any], images: Images, refuse: Refuse, note: Note) -> np.ndarray:
    """(N,) where image ids are among a file's images; -1 where they are not, or refused."""
    as_text = bool(images.ids) and type(images.ids[0]) is str
    if not as_text and set(map(type, values)) <= {int}:
        try:
            return images.positions.of(np.array(values, np.int64))
        except OverflowError:
            pass
    found = np.full(len(values), -1)
    for position, value in enumerate(values):
        number = as_image_id(value)
        if number is None:
            refuse(position)
            continue
        if as_text:
            number = str(number)
        if type(number) is not type(value):
            note()
        found[position] = images.index.get(number, -1)
    return found
