"""Objects that lie across the border of a view: their parts become one box, or go into the box of the whole object.

Two boxes are of one object if they agree in what both of their views see. So each is compared within the other's
window, one axis at a time. Along an axis in which a border cuts them, a few pixels more or less do not count, since
what is seen of the object there may be a sliver.
"""

import numpy as np

from loradet.views.found import BOTTOM, LEFT, RIGHT, TOP, Found

AGREEMENT = 0.5  # product of the overlaps along both axes, from which on two boxes are of one object
_AXES = ((LEFT, RIGHT), (TOP, BOTTOM))


def absorb(
    parts: Found, cut: np.ndarray, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give parts of objects that some view has seen whole to the boxes of these.

    Args:
        parts: N boxes that a border cuts.
        cut: (N, 4) which of their sides.
        boxes, scores, classes: (M, 4), (M,), (M,) of whole objects.

    Returns:
        (N,) bool, the parts that belong to none of them; and the scores (M,), each the best of the object's boxes.
    """
    scores = scores.copy()
    is_left = np.ones(len(parts.boxes), bool)
    if not len(boxes):
        return is_left, scores
    for number, (box, name) in enumerate(zip(parts.boxes, parts.classes)):
        view = parts.views[number]
        values = agreement(box, boxes, parts.windows[view], cut[number], 2 * parts.margins[view])
        values[classes != name] = 0.0
        best = int(values.argmax())
        if values[best] >= AGREEMENT:
            is_left[number] = False
            scores[best] = max(scores[best], parts.scores[number])
    return is_left, scores


def join(parts: Found, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join parts of objects that no view has seen whole, such as those larger than a tile.

    Pairs of different views are joined from the best agreement down; of one view an object has one part. Each side of
    the joined box is that of its best scored part which is not cut there; where all are, the outermost one.

    Args:
        parts: N boxes that a border cuts.
        cut: (N, 4) which of their sides.

    Returns:
        Boxes (M, 4), scores (M,), each the best of its parts, and classes (M,).
    """
    groups = _group(parts, cut)
    boxes = [_joined(parts.boxes[group], parts.scores[group], cut[group]) for group in groups]
    scores = np.array([parts.scores[group].max() for group in groups])
    return np.array(boxes).reshape(-1, 4), scores, parts.classes[[group[0] for group in groups]]


def agreement(
    box: np.ndarray, others: np.ndarray, window: np.ndarray, cut: np.ndarray, tolerance: float | np.ndarray
) -> np.ndarray:
    """How far a box and others (N, 4) agree within a window, 0 to 1: the product of their overlaps along both axes.

    Args:
        box: (4,) XYXY.
        others: (N, 4) XYXY.
        window: (4,) or (N, 4) XYXY: what the views of both see.
        cut: (4,) or (N, 4) bool: sides at which a border cuts the box or the other one.
        tolerance: pixels that do not count along an axis that is cut, for all or (N,).
    """
    product = np.ones(len(others))
    for low, high in _AXES:
        start = np.maximum(np.maximum(box[low], others[:, low]), window[..., low])
        end = np.minimum(np.minimum(box[high], others[:, high]), window[..., high])
        first = np.maximum(np.minimum(box[low], others[:, low]), window[..., low])
        last = np.minimum(np.maximum(box[high], others[:, high]), window[..., high])
        slack = np.where(cut[..., low] | cut[..., high], tolerance, 0.0)
        both, either = (end - start + slack).clip(0), (last - first).clip(0) + slack
        product *= np.divide(both, either, out=np.zeros_like(both), where=either > 0).clip(max=1)
    return product


def _group(parts: Found, cut: np.ndarray) -> list[list[int]]:
    """Numbers of the parts of each object."""
    pairs = [pair for number in range(len(parts.boxes)) for pair in _partners(parts, cut, number)]
    group_of = [[number] for number in range(len(parts.boxes))]
    for _, one, other in sorted(pairs, key=lambda pair: -pair[0]):
        ours, theirs = group_of[one], group_of[other]
        if ours is not theirs and not {parts.views[i] for i in ours} & {parts.views[i] for i in theirs}:
            ours += theirs
            for number in theirs:
                group_of[number] = ours
    return [group for number, group in enumerate(group_of) if group[0] == number]


def _partners(parts: Found, cut: np.ndarray, number: int) -> list[tuple[float, int, int]]:
    """Agreement, `number` and the other number, of each later part that may be of the same object."""
    rest = np.arange(number + 1, len(parts.boxes))
    rest = rest[(parts.classes[rest] == parts.classes[number]) & (parts.views[rest] != parts.views[number])]
    if not len(rest):
        return []
    own, others = parts.windows[parts.views[number]], parts.windows[parts.views[rest]]
    window = np.concatenate([np.maximum(own[:2], others[:, :2]), np.minimum(own[2:], others[:, 2:])], axis=1)
    tolerance = 2 * np.maximum(parts.margins[parts.views[number]], parts.margins[parts.views[rest]])
    values = agreement(parts.boxes[number], parts.boxes[rest], window, cut[number] | cut[rest], tolerance)
    return [(float(values[i]), number, int(rest[i])) for i in np.flatnonzero(values >= AGREEMENT)]


def _joined(boxes: np.ndarray, scores: np.ndarray, cut: np.ndarray) -> list[float]:
    best_first = np.argsort(-scores, kind="stable")
    sides = []
    for side, outermost in ((LEFT, min), (TOP, min), (RIGHT, max), (BOTTOM, max)):
        seen = [number for number in best_first if not cut[number, side]]
        sides.append(float(boxes[seen[0], side] if seen else outermost(boxes[:, side])))
    return sides
