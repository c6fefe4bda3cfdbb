"""One list of boxes from those of all views of an image."""

from dataclasses import replace

import numpy as np
import torch
from torchvision.ops import batched_nms

from loradet.views.cut_boxes import absorb, join
from loradet.views.found import Found
from loradet.views.fusion import fuse


def merge(found: Found, how: str, iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge boxes of one class that are of one object.

    Boxes that no border cuts are merged by their IoU. Those that a border of a tile cuts go into the box of a view that
    has the object whole, or else are joined where they meet (`loradet.views.cut_boxes`).

    Args:
        found: of all views.
        how: "nms" or "fusion".
        iou: from which on two whole boxes are of one object.

    Returns:
        Boxes (M, 4), scores (M,) and classes (M,), by falling score.
    """
    cut = found.cut
    is_cut = cut.any(axis=1)
    whole = found.boxes[~is_cut], found.scores[~is_cut], found.classes[~is_cut]
    if how == "fusion":
        boxes, scores, classes = fuse(*whole, iou, lambda fused: found.seen_whole(fused).sum(axis=1))
    else:
        boxes, scores, classes = _suppress(*whole, iou)
    if is_cut.any():
        parts = _choose(found, is_cut)
        is_left, scores = absorb(parts, cut[is_cut], boxes, scores, classes)
        joined = join(_choose(parts, is_left), cut[is_cut][is_left])
        if len(joined[0]):
            columns = zip((boxes, scores, classes), joined)
            boxes, scores, classes = _suppress(*(np.concatenate(pair) for pair in columns), iou)
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], classes[order]


def _choose(found: Found, chosen: np.ndarray) -> Found:
    columns = {name: getattr(found, name)[chosen] for name in ("boxes", "scores", "classes", "views")}
    return replace(found, **columns)


def _suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Non-maximum suppression, class by class."""
    if not len(boxes):
        return boxes, scores, classes
    keep = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), iou).numpy()
    return boxes[keep], scores[keep], classes[keep]
