"""Boxes that are written as fractions of the picture's sides, where COCO has pixels."""

import enum
from collections.abc import Sequence

import numpy as np

from loradet.datasets.boxes import LEAST_SIDE


class Fractions(enum.Enum):
    """What the four numbers of such boxes are."""

    CORNER = "x, y, width, height"
    CENTRE = "centre x, centre y, width, height"


def find_fractions(xywh: np.ndarray) -> Fractions | None:
    """How a file writes its boxes (A, 4) as fractions; None where it does not.

    It does where at least half of the boxes that have sides lie within the first pixel, and not each of them fills it.
    They start at the centre where they would leave the picture from their corners, and all fit so.
    """
    sided = xywh[(xywh[:, 2:] > 0).all(axis=1)]
    within = sided[is_fraction(sided)]
    if 2 * len(within) < len(sided) or not (within[:, 2:] < LEAST_SIDE).any():
        return None
    slack = 0.01
    low, sides = within[:, :2], within[:, 2:]
    leaves = (low + sides > 1 + slack).any()
    fits = ((low - sides / 2 > -slack) & (low + sides / 2 < 1 + slack)).all()
    return Fractions.CENTRE if leaves and fits else Fractions.CORNER


def is_fraction(xywh: np.ndarray) -> np.ndarray:
    """(A,) bool: boxes (A, 4) all of whose numbers are within 0 and 1."""
    return ((xywh >= 0) & (xywh <= 1)).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)


def in_pixels(box: Sequence[float], written: Fractions, size: tuple[float, float]) -> tuple[float, float, float, float]:
    """A box XYWH in pixels of a picture of a size (width, height), clipped to it."""
    x, y, width, height = box
    if written is Fractions.CENTRE:
        x, y = x - width / 2, y - height / 2
    x0, y0 = max(x, 0.0) * size[0], max(y, 0.0) * size[1]
    x1, y1 = min(x + width, 1.0) * size[0], min(y + height, 1.0) * size[1]
    return x0, y0, x1 - x0, y1 - y0
