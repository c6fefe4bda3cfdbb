"""Weighted boxes fusion: boxes of one object become their mean, weighted by their scores.

Solovyev, Wang, Gabruseva: Weighted boxes fusion: Ensembling boxes from different object detection models. Image and
Vision Computing 107 (2021), https://arxiv.org/abs/1910.13302.
"""

from collections.abc import Callable

import numpy as np

_LEAST_WEIGHT = 1e-9  # of boxes with a score of zero


def fuse(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou: float,
    looks: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuse the boxes of all views, class by class.

    From the best score down, a box joins the fused box of its class that it overlaps most, if that is more than `iou`,
    or begins a new one. A fused box has the mean of its boxes weighted by their scores. Its score is C · min(T, N) / N:
    C is the mean of the scores of its T boxes, N the number of views that see all of it.

    Args:
        boxes: (N, 4) XYXY.
        scores: (N,).
        classes: (N,).
        iou: see above.
        looks: of boxes (M, 4), how many views see each of them (M,); at least one is taken.

    Returns:
        Fused boxes (M, 4), scores (M,) and classes (M,), in no particular order.
    """
    parts = [_fuse_class(boxes[classes == one], scores[classes == one], iou) for one in np.unique(classes)]
    names = [np.full(len(counts), one) for one, (*_, counts) in zip(np.unique(classes), parts)]
    if not parts:
        return boxes[:0], scores[:0], classes[:0]
    fused, means, counts = (np.concatenate(columns) for columns in zip(*parts))
    views = np.maximum(looks(fused), 1)
    return fused, means * np.minimum(counts, views) / views, np.concatenate(names)


def _fuse_class(boxes: np.ndarray, scores: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fused boxes, means of their scores, and how many each is made of."""
    order = np.argsort(-scores, kind="stable")
    fused, sums = np.empty_like(boxes), np.zeros_like(boxes)
    weights, totals, counts = np.zeros(len(boxes)), np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    used = 0
    for box, score in zip(boxes[order], scores[order]):
        overlaps = overlap(box, fused[:used])
        place = int(overlaps.argmax()) if used else 0
        if not used or overlaps[place] <= iou:
            place, used = used, used + 1
        weight = max(float(score), _LEAST_WEIGHT)
        sums[place] += weight * box
        weights[place] += weight
        totals[place] += score
        counts[place] += 1
        # Of one box, the box itself, without what multiplication and division round.
        fused[place] = box if counts[place] == 1 else sums[place] / weights[place]
    return fused[:used], totals[:used] / np.maximum(counts[:used], 1), counts[:used]


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with each of others (N, 4), XYXY; 0 where neither has an area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = sides.clip(0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)
