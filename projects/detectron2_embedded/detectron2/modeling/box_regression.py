"""Boxes as offsets from anchors or proposals."""

import math

import torch
from detectron2._subset import missing_names
from detectron2.layers import cat
from detectron2.layers.losses import ciou_loss, diou_loss, giou_loss, smooth_l1_loss
from detectron2.structures import Boxes

# An anchor grows by this factor at most: exp of a larger delta would run away.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)

IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class Box2BoxTransform:
    """R-CNN's deltas: (dx, dy) shift the centre in units of the box, (dw, dh) are logs of the scale.

    https://arxiv.org/abs/1311.2524, appendix C. Each delta is multiplied by its weight.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        """
        Args:
            weights: of dx, dy, dw, dh.
            scale_clamp: upper limit of dw and dh when deltas are applied.
        """
        self.weights = tuple(weights)
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) that lead from `src_boxes` (N, 4) to `target_boxes` (N, 4).

        Raises:
            AssertionError: a source box has no width.
        """
        src_center, src_size = _center_and_size(src_boxes)
        target_center, target_size = _center_and_size(target_boxes)
        assert (src_size[..., 0] > 0).all(), "Box2BoxTransform: some source boxes have no positive width."
        shift = (target_center - src_center) / src_size
        scale = torch.log(target_size / src_size)
        return torch.cat((shift, scale), dim=-1) * shift.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N, k * 4), float32, that `deltas` (N, k * 4) make of `boxes` (N, 4): k for each."""
        deltas = deltas.float()
        center, size = _center_and_size(boxes.to(deltas.dtype)[:, None])
        per_box = deltas.unflatten(1, (deltas.shape[1] // 4, 4)) / deltas.new_tensor(self.weights)
        new_center = per_box[..., :2] * size + center
        half = per_box[..., 2:].clamp(max=self.scale_clamp).exp() * size / 2
        return torch.cat((new_center - half, new_center + half), dim=-1).flatten(1)


class Box2BoxTransformLinear:
    """FCOS's deltas: distances from a box's centre to the left, top, right and bottom side of the target.

    https://arxiv.org/abs/1904.01355. The centre lies inside the target where all four are positive.
    """

    def __init__(self, normalize_by_size: bool = True) -> None:
        """
        Args:
            normalize_by_size: distances are in units of the box's width and height, else in pixels.
        """
        self.normalize_by_size = normalize_by_size

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) that lead from `src_boxes` (N, 4) to `target_boxes` (N, 4).

        Raises:
            AssertionError: boxes that are no tensors.
        """
        for boxes in (src_boxes, target_boxes):
            assert isinstance(boxes, torch.Tensor), f"Boxes are tensors (N, 4), got {type(boxes).__name__}."
        center = (src_boxes[:, :2] + src_boxes[:, 2:]) / 2
        deltas = torch.cat((center - target_boxes[:, :2], target_boxes[:, 2:] - center), dim=1)
        return deltas / self._unit(src_boxes) if self.normalize_by_size else deltas

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N, k * 4) that `deltas` (N, k * 4) make of `boxes` (N, 4): k for each.

        A negative distance counts as 0, so that no box is inverted. The result has the dtype of `deltas`, float32 at
        least: half precision is off by whole pixels in a large image.
        """
        deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
        boxes = boxes.to(deltas.dtype)
        center = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]
        distances = deltas.unflatten(1, (deltas.shape[1] // 4, 4)).relu()
        if self.normalize_by_size:
            distances = distances * self._unit(boxes)[:, None]
        return torch.cat((center - distances[..., :2], center + distances[..., 2:]), dim=-1).flatten(1)

    @staticmethod
    def _unit(boxes: torch.Tensor) -> torch.Tensor:
        return (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def _center_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform | Box2BoxTransformLinear,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> torch.Tensor:
    """Sum of the box losses over the foreground anchors of a batch.

    Args:
        anchors: per level (R_l, 4); R is the sum of R_l.
        pred_anchor_deltas: per level (N, R_l, 4).
        gt_boxes: per image (R, 4), the ground truth of each anchor; read only where it is foreground.
        fg_mask: (N, R).
        box_reg_loss_type: "smooth_l1" on deltas; "giou", "diou" or "ciou" on boxes.
        smooth_l1_beta: where smooth L1 turns from a parabola to a line; 0 is plain L1.

    Returns:
        A scalar, connected to the predictions even without foreground.

    Raises:
        FloatingPointError: predicted boxes are not finite, where the loss is one on boxes.
    """
    levels = [level.tensor if isinstance(level, Boxes) else level for level in anchors]
    image_index, anchor_index = fg_mask.nonzero(as_tuple=True)
    source = cat(levels)[anchor_index]
    target = torch.stack(gt_boxes)[image_index, anchor_index]
    deltas = cat(pred_anchor_deltas, dim=1)[image_index, anchor_index]
    if box_reg_loss_type == "smooth_l1":
        target_deltas = box2box_transform.get_deltas(source, target)
        return smooth_l1_loss(deltas, target_deltas, beta=smooth_l1_beta, reduction="sum")
    if box_reg_loss_type in IOU_LOSSES:
        boxes = box2box_transform.apply_deltas(deltas, source)
        if not torch.isfinite(boxes).all():
            raise FloatingPointError(
                "The detector predicts boxes that are NaN or infinite: training has diverged. Lower the learning rate, "
                "or warm up longer."
            )
        return IOU_LOSSES[box_reg_loss_type](boxes, target, reduction="sum")
    known = ", ".join(["smooth_l1", *IOU_LOSSES])
    raise ValueError(f"Unknown box_reg_loss_type {box_reg_loss_type!r}; it is one of {known}.")


__getattr__ = missing_names(__name__, ["Box2BoxTransformRotated"])
