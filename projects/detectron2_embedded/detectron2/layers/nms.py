"""Non-maximum suppression."""

import torch
from detectron2._subset import missing_names
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Suppress boxes that overlap a higher-scored box of the same group, in float32.

    Args:
        boxes: (N, 4), XYXY.
        scores: (N,).
        idxs: (N,) group of each box, its class for instance.
        iou_threshold: boxes that overlap by more are suppressed.

    Returns:
        int64 indices of the boxes kept, by falling score.
    """
    assert boxes.shape[-1] == 4, f"Boxes have 4 coordinates each, got shape {tuple(boxes.shape)}."
    return box_ops.batched_nms(boxes.float(), scores.float(), idxs, iou_threshold)


__getattr__ = missing_names(__name__, ["batched_nms_rotated", "nms_rotated"])
