"""Hungarian matching of queries and objects."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment

from loradet.detectors.detr.box_iou import generalized_box_iou, to_xyxy
from loradet.errors import UserError


class DetrTargets(NamedTuple):
    """The objects of one image.

    Attributes:
        labels: (T,) int64, column of the class head.
        boxes: (T, 4), (centre x, centre y, width, height) as fractions of the image.
    """

    labels: torch.Tensor
    boxes: torch.Tensor


class NonFiniteCostError(UserError, FloatingPointError):
    """Predictions or targets hold NaN or infinity; the message says where. A trainer adds when.

    Attributes:
        image: its place in the batch; None where another process found it.
    """

    def __init__(self, message: str, image: int | None) -> None:
        super().__init__(message)
        self.image = image


class HungarianMatcher:
    """The one-to-one assignment of queries to objects with the least cost.

    cost = cost_bbox · L1 - cost_class · p(class) - cost_giou · GIoU, equation 2 and appendix A.2 of
    https://arxiv.org/abs/2005.12872. All of it is in float32, under autocast too.
    """

    def __init__(self, *, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0) -> None:
        """
        Args:
            cost_class: weight of the softmax probability of the object's class.
            cost_bbox: weight of the L1 distance of boxes (centre and size, fractions of the image).
            cost_giou: weight of the generalized IoU.

        Raises:
            ValueError: all weights are 0.
        """
        if cost_class == cost_bbox == cost_giou == 0:
            raise UserError("cost_class, cost_bbox and cost_giou are all 0: any assignment would do.")
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    @torch.no_grad()
    def costs(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, targets: Sequence[DetrTargets]
    ) -> list[torch.Tensor]:
        """Cost of every query for every object: (L, Q, T) for each image.

        Args: as of a call.
        """
        with torch.autocast(pred_logits.device.type, enabled=False):
            probabilities, pred_boxes = pred_logits.float().softmax(-1), pred_boxes.float()
            return [
                self.cost_bbox * l1_distances(pred_boxes[:, i], target.boxes)
                - self.cost_class * probabilities[:, i][..., target.labels]
                - self.cost_giou
                * generalized_box_iou(to_xyxy(pred_boxes[:, i])[..., None, :], to_xyxy(target.boxes)[None, None])
                for i, target in enumerate(targets)
            ]

    def __call__(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, targets: Sequence[DetrTargets]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """
        Args:
            pred_logits: (L, N, Q, K + 1), of L decoder layers, which are matched each by itself.
            pred_boxes: (L, N, Q, 4), (centre x, centre y, width, height) as fractions of the image.
            targets: of each image.

        Returns:
            For each image, queries and objects (L, min(Q, T)), int64 on the CPU, ascending in the query.

        Raises:
            NonFiniteCostError: a cost is not finite.
        """
        costs = self.costs(pred_logits, pred_boxes, targets)
        # One transfer from the device for all images and layers.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        on_cpu = [part.view(cost.shape) for part, cost in zip(flat.split([c.numel() for c in costs]), costs)]
        if not flat.isfinite().all():
            raise _what_is_not_finite(on_cpu, pred_logits, pred_boxes, targets)
        return [_assign(cost) for cost in on_cpu]


def l1_distances(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(L, Q, T): the sum of |differences| of every box (L, Q, 4) from every other one (T, 4)."""
    if boxes.device.type == "cpu":
        return torch.cdist(boxes, others.expand(len(boxes), -1, -1), p=1)
    # torch.cdist has one block of threads for each pair, of which four threads have something to do.
    return _broadcast_distances(boxes, others)


def _broadcast_distances(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    # The same bits as those of torch.cdist on a CPU, where it takes 3 to 18 times as long.
    return (boxes[..., None, :] - others).abs().sum(-1)


def _assign(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and objects (L, min(Q, T)) for costs (L, Q, T)."""
    pairs = torch.tensor([_pairs(layer) for layer in cost], dtype=torch.int64)
    return pairs[:, 0], pairs[:, 1]


def _pairs(cost: torch.Tensor) -> list[list[int]]:
    queries, objects = linear_sum_assignment(cost.numpy())
    return [queries.tolist(), objects.tolist()]


def _what_is_not_finite(
    costs: list[torch.Tensor],
    pred_logits: torch.Tensor,
    pred_boxes: torch.Tensor,
    targets: Sequence[DetrTargets],
) -> NonFiniteCostError:
    image = next(i for i, cost in enumerate(costs) if not cost.isfinite().all())
    layer = next(i for i, cost in enumerate(costs[image]) if not cost.isfinite().all())
    tensors = {
        "predicted logits": pred_logits[layer, image],
        "predicted boxes": pred_boxes[layer, image],
        "boxes of the ground truth": targets[image].boxes,
    }
    found = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return NonFiniteCostError(
        f"Matching: NaN or infinity in the {' and the '.join(found) or 'costs'} of image {image} of the batch (decoder "
        f"layer {layer}). Check the image and its boxes (loradet data check), the learning rate and "
        "train.clip_grad.max_norm, and mixed precision (bf16 instead of fp16).",
        image,
    )
