"""Overlap of boxes."""

import torch

# Under this area (a fraction of the image) a box counts as empty: 0 / 0 of two empty boxes becomes 0.
_SMALLEST = 1e-9


def generalized_box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalized IoU (https://arxiv.org/abs/1902.09630): IoU - (hull - union) / hull, in -1..1.

    Args:
        a, b: boxes (..., 4), XYXY, of shapes that broadcast.

    Returns:
        (...): 1 for equal boxes, towards -1 for boxes far apart; no NaN where boxes are empty.
    """
    ax0, ay0, ax1, ay1 = a.unbind(-1)
    bx0, by0, bx1, by1 = b.unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    intersection = width * height
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - intersection
    hull = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)) * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    return intersection / union.clamp(min=_SMALLEST) - (hull - union) / hull.clamp(min=_SMALLEST)


def to_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) from (centre x, centre y, width, height) to XYXY."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_centre_size(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (..., 4) from XYXY to (centre x, centre y, width, height)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
