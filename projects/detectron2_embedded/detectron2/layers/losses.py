"""Losses for dense detectors: fvcore's and torchvision's, under the names of the field.

Box losses take (R, 4) XYXY boxes. `reduction` is "none", "sum" or "mean".
"""

from fvcore.nn import giou_loss, sigmoid_focal_loss, smooth_l1_loss
from torchvision.ops import complete_box_iou_loss as ciou_loss
from torchvision.ops import distance_box_iou_loss as diou_loss

__all__ = ["ciou_loss", "diou_loss", "giou_loss", "sigmoid_focal_loss", "smooth_l1_loss"]
