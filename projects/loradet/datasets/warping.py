"""Affine warping that is the same under every OpenCV: positions are rounded to 1/32 of a pixel, as OpenCV 4 does.

OpenCV 5's own `warpAffine` does not round them, so that seeded augmentation would depend on the version.
"""

from collections.abc import Sequence

import cv2
import numpy as np

_FIXED_BITS = 10  # of a coordinate's fraction while it is computed
_BITS = 5  # and of the one that `remap` interpolates by
_FAR = 1 << 29
_LOWEST, _HIGHEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


def warp_affine(image: np.ndarray, matrix: np.ndarray, *, border: Sequence[float], nearest: bool = False) -> np.ndarray:
    """What OpenCV 4's `warpAffine` gives of an image, in its own size, bit for bit.

    Args:
        image: (H, W) or (H, W, C) with at most four channels, uint8 or floating point.
        matrix: (2, 3), from positions of the image to those of the result; (0, 0) is the middle of the first pixel.
        border: value of what comes from outside the image, by channel.
        nearest: take the nearest pixel instead of interpolating between four.
    """
    height, width = image.shape[:2]
    (a, b, c), (d, e, f) = _inverse(np.asarray(matrix, dtype=np.float64))
    one = 1 << _FIXED_BITS
    shift = _FIXED_BITS if nearest else _FIXED_BITS - _BITS
    half = 1 << (shift - 1)
    columns, rows = np.arange(width), np.arange(height)
    x = _sums((b * rows + c) * one, a * columns * one, half)
    y = _sums((e * rows + f) * one, d * columns * one, half)
    x >>= shift
    y >>= shift
    fractions = None
    if not nearest:
        mask = (1 << _BITS) - 1
        fractions = np.bitwise_and(y, mask, dtype=np.int32)
        fractions <<= _BITS
        fractions += x & mask
        fractions = fractions.astype(np.uint16)
        x >>= _BITS
        y >>= _BITS
    places = np.empty((height, width, 2), np.int16)
    for axis, positions in enumerate((x, y)):
        np.copyto(places[..., axis], positions.clip(_LOWEST, _HIGHEST), casting="unsafe")
    warped = cv2.remap(
        np.ascontiguousarray(image),
        places,
        fractions,
        cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(border),
    )
    return warped.reshape(image.shape)


def _inverse(matrix: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The map back. The order of operations is OpenCV's: a last digit moves a position over 1/32."""
    (a, b, c), (d, e, f) = matrix.tolist()
    determinant = a * e - b * d
    scale = 1.0 / determinant if determinant != 0 else 0.0
    a, e = e * scale, a * scale
    b, d = b * -scale, d * -scale
    return (a, b, -a * c - b * f), (d, e, -d * c - e * f)


def _sums(of_rows: np.ndarray, of_columns: np.ndarray, more: int) -> np.ndarray:
    """(H, W) int32: whole numbers of a row and a column, added; where that is far outside any image, less far."""
    rows, columns = (np.rint(values).clip(-_FAR, _FAR).astype(np.int32) for values in (of_rows, of_columns))
    return (rows + more)[:, None] + columns
