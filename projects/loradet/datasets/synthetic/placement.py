"""Where the next object may stand: how much of it lies in the image, how much it shares with the others."""

import numpy as np

TRIES = 25  # draws for each object wanted; where none suits, a scene has fewer
VISIBLE = 0.75  # of a box, at least, lies inside the image
OVERLAP = 0.12  # of the smaller box, at most, is covered by another; the IoU is then below 0.064


def fits(box: np.ndarray, others: list[np.ndarray], size: tuple[int, int]) -> bool:
    """Whether a box (XYXY, pixels) lies in an image of (H, W) and keeps clear of `others`, as said above."""
    height, width = size
    area = (box[2] - box[0]) * (box[3] - box[1])
    inside = box.clip(0, (width, height, width, height))
    if (inside[2] - inside[0]) * (inside[3] - inside[1]) < VISIBLE * area:
        return False
    for other in others:
        overlap = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        smaller = min(area, (other[2] - other[0]) * (other[3] - other[1]))
        if overlap.min() > 0 and overlap.prod() > OVERLAP * smaller:
            return False
    return True
