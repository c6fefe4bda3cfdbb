"""Boxes that are in a file twice."""

import numpy as np


def repeated_boxes(image: np.ndarray, category: np.ndarray, xywh: np.ndarray, crowd: np.ndarray) -> dict[int, int]:
    """Of each box that says the same as one before it, its place, and the place of the first.

    Args:
        image, category, crowd: (B,) numbers that must be the same.
        xywh: (B, 4) which too.
    """
    parts = [image.astype(np.uint64), category.astype(np.int64).view(np.uint64), crowd.astype(np.uint64)]
    parts += list((np.ascontiguousarray(xywh, np.float64) + 0.0).view(np.uint64).T)  # + 0.0: no -0.0
    mixed = np.zeros(len(image), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    alike = mixed[order[1:]] == mixed[order[:-1]]
    candidates = np.zeros(len(image), bool)
    candidates[order[1:][alike]] = True
    candidates[order[:-1][alike]] = True
    # Equal boxes have equal hashes; whether those of equal hashes are equal, they say themselves.
    first: dict[tuple, int] = {}
    again = {}
    for place in np.flatnonzero(candidates).tolist():
        key = (int(image[place]), int(category[place]), bool(crowd[place]), *xywh[place].tolist())
        if (earlier := first.setdefault(key, place)) != place:
            again[place] = earlier
    return again
