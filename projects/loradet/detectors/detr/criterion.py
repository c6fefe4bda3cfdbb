"""DETR's losses."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.utils import comm
from torch import distributed
from torch.nn import functional as F

from loradet.detectors.detr.box_iou import generalized_box_iou, to_xyxy
from loradet.detectors.detr.matcher import DetrTargets, HungarianMatcher, NonFiniteCostError
from loradet.errors import UserError


class SetLosses(NamedTuple):
    """What `SetCriterion` finds.

    Attributes:
        losses: scalars to train by, unweighted.
        metrics: scalars to log, float64.
    """

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor]


class SetCriterion:
    """Classification of all queries, and boxes of the matched ones, for every decoder layer.

    Section 3.1 of https://arxiv.org/abs/2005.12872. For the last layer the losses are `loss_ce` (cross-entropy, the
    mean over all queries of the batch, weighted by class), `loss_bbox` (L1 of centre and size) and `loss_giou`
    (1 - GIoU), the latter two sums over matched pairs, divided by the number of objects in the batch, averaged over
    processes and at least 1. Earlier layers have the same with `_0`, `_1` … behind the name. All of it is in float32,
    under autocast too, and stays connected to the predictions where no image has an object.

    Metrics: `class_error`, percent of the last layer's matched queries whose best class is wrong (100 where nothing is
    matched), and `cardinality_error` of every layer, the mean over images of |queries that are an object - objects|.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        weight_class: float = 1.0,
        weight_bbox: float = 5.0,
        weight_giou: float = 2.0,
        eos_coef: float = 0.1,
    ) -> None:
        """
        Args:
            matcher: decides which query answers for which object.
            weight_class, weight_bbox, weight_giou: of `loss_ce`, `loss_bbox` and `loss_giou` in what is trained.
            eos_coef: weight of "no object" in the cross-entropy; that of every class is 1.

        Raises:
            ValueError: `eos_coef` is not above 0: a batch without objects would have no loss.
        """
        if eos_coef <= 0:
            raise UserError(f"eos_coef={eos_coef}: expected more than 0, else a batch without objects has no loss.")
        self.matcher = matcher
        self.loss_weights = {"loss_ce": weight_class, "loss_bbox": weight_bbox, "loss_giou": weight_giou}
        self.eos_coef = eos_coef

    def __call__(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, targets: Sequence[DetrTargets]
    ) -> SetLosses:
        """
        Args:
            pred_logits: (L, N, Q, K + 1) of L decoder layers, the last one last; the last column is "no object".
            pred_boxes: (L, N, Q, 4), (centre x, centre y, width, height) as fractions of the image.
            targets: of each image.

        Raises:
            NonFiniteCostError: predictions or targets are not finite, here or in another process.
        """
        with torch.autocast(pred_logits.device.type, enabled=False):
            pred_logits, pred_boxes = pred_logits.float(), pred_boxes.float()
            pairs, count = self._match(pred_logits, pred_boxes, targets)
            matches = _Matches.of(pairs, targets, pred_logits.device)
            losses = {
                "loss_ce": self._classification(pred_logits, matches),
                **_boxes(pred_boxes, matches, count),
            }
            return SetLosses(
                {f"{name}{suffix}": value[i] for i, suffix in _suffixes(pred_logits) for name, value in losses.items()},
                _metrics(pred_logits.detach(), matches, targets),
            )

    def weighted(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses times their weights: their sum is what is trained."""
        return {name: value * self.loss_weights[re.sub(r"_\d+$", "", name)] for name, value in losses.items()}

    def class_weights(self, num_classes: int, device: torch.device | None = None) -> torch.Tensor:
        """Weights (K + 1,) of the classes and of "no object" in the cross-entropy."""
        weights = torch.ones(num_classes + 1, device=device)
        weights[-1] = self.eos_coef
        return weights

    def _match(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, targets: Sequence[DetrTargets]
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Pairs, and what to divide losses of boxes by: objects in the batch, averaged over processes, at least 1."""
        pairs, failure = [], None
        try:
            pairs = self.matcher(pred_logits, pred_boxes, targets)
        except NonFiniteCostError as error:
            failure = error
        count = float(sum(len(target.labels) for target in targets))
        row = torch.tensor([count, failure is not None], device=pred_boxes.device)
        if comm.get_world_size() > 1:
            # Processes fail together: one that stops alone leaves the others waiting for it.
            distributed.all_reduce(row)
            if failure is None and row[1].item():
                failure = NonFiniteCostError(
                    "Matching: another process found NaN or infinity; its message says where.", None
                )
        if failure is not None:
            raise failure
        return pairs, (row[0] / comm.get_world_size()).clamp(min=1)

    def _classification(self, pred_logits: torch.Tensor, matches: "_Matches") -> torch.Tensor:
        """(L,): the weighted mean of every layer."""
        no_object = pred_logits.shape[-1] - 1
        wanted = torch.full(pred_logits.shape[:3], no_object, device=pred_logits.device)
        wanted[matches.place] = matches.labels
        weights = self.class_weights(no_object, pred_logits.device)
        losses = F.cross_entropy(pred_logits.flatten(0, 2), wanted.flatten(), weights, reduction="none")
        return losses.view_as(wanted).sum((1, 2)) / weights[wanted].sum((1, 2))


class _Matches(NamedTuple):
    """M matched pairs of each of L layers, on the device.

    Attributes:
        place: index into (L, N, Q), three tensors that broadcast to (L, M).
        labels: (L, M).
        boxes: (L, M, 4).
    """

    place: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    labels: torch.Tensor
    boxes: torch.Tensor

    @classmethod
    def of(
        cls,
        pairs: list[tuple[torch.Tensor, torch.Tensor]],
        targets: Sequence[DetrTargets],
        device: torch.device,
    ) -> "_Matches":
        # Every layer matches the same number of objects of an image, so that pairs of all layers are one tensor.
        counts = torch.tensor([len(target.labels) for target in targets])
        starts = counts.cumsum(0) - counts
        queries = torch.cat([query for query, _ in pairs], dim=1)
        objects = torch.cat([number + start for (_, number), start in zip(pairs, starts)], dim=1)
        images = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(pairs)], dim=1)
        layers = torch.arange(len(queries))[:, None].expand_as(queries)
        layers, images, queries, objects = torch.stack([layers, images, queries, objects]).to(device)
        labels = torch.cat([target.labels for target in targets])
        boxes = torch.cat([target.boxes for target in targets])
        return cls((layers, images, queries), labels[objects], boxes[objects])


def _boxes(pred_boxes: torch.Tensor, matches: _Matches, count: torch.Tensor) -> dict[str, torch.Tensor]:
    """`loss_bbox` and `loss_giou`, (L,) each."""
    found = pred_boxes[matches.place]
    overlap = generalized_box_iou(to_xyxy(found), to_xyxy(matches.boxes))
    return {
        "loss_bbox": (found - matches.boxes).abs().sum((1, 2)) / count,
        "loss_giou": (1 - overlap).sum(1) / count,
    }


@torch.no_grad()
def _metrics(pred_logits: torch.Tensor, matches: _Matches, targets: Sequence[DetrTargets]) -> dict[str, torch.Tensor]:
    best = pred_logits.argmax(-1)
    right = (best[matches.place] == matches.labels)[-1]
    counts = torch.tensor([len(target.labels) for target in targets], device=best.device)
    found = (best != pred_logits.shape[-1] - 1).sum(-1)
    cardinality = (found - counts).abs().float().mean(1).double()
    class_error = 100.0 - 100.0 * right.sum().double() / max(len(right), 1)
    return {
        "class_error": class_error,
        **{f"cardinality_error{suffix}": cardinality[i] for i, suffix in _suffixes(pred_logits)},
    }


def _suffixes(pred_logits: torch.Tensor) -> list[tuple[int, str]]:
    """Layers and what their names end in, the last layer first."""
    last = len(pred_logits) - 1
    return [(last, ""), *((i, f"_{i}") for i in range(last))]
