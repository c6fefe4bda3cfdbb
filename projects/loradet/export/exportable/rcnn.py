"""Inference of Faster and Cascade R-CNN as a function of tensors."""

from typing import Any

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable, per_anchor
from loradet.export.exportable.detections import ABSENT, best, clip, finish, suppress, suppress_by_class, take

# Objectness is a logit of any sign: what is no proposal has less than any.
_NO_PROPOSAL = -1e9


class ExportableRCNN(Exportable):
    """See `Exportable`. Every image has the same number of proposals; those that it lacks score nothing.

    Tensors are made from the values of others, not from their shapes: TorchScript takes the example's for fixed.
    """

    inputs = ("images", "sizes")

    def __init__(self, *, model: nn.Module, image_format: str = "RGB"):
        super().__init__(model=model, image_format=image_format)
        parts = {"proposal_generator": RPN, "roi_heads": (StandardROIHeads, CascadeROIHeads)}
        for name, kinds in parts.items():
            part = getattr(model, name)
            if not isinstance(part, kinds):
                raise UserError(f"A detector whose {name} is a {type(part).__name__} cannot be exported.")
        heads = model.roi_heads
        if getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False):
            raise UserError("A detector of masks or keypoints cannot be exported: boxes alone can.")
        self.stages = heads.num_cascade_stages if isinstance(heads, CascadeROIHeads) else 0

    @property
    def score_threshold(self) -> float:
        """Scores that are not larger are left out."""
        return float(self._predictors()[-1].test_score_thresh)

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._predictors()[-1].test_score_thresh = value

    def limits(self) -> dict[str, Any]:
        last, rpn = self._predictors()[-1], self.model.proposal_generator
        return {
            "score_threshold": float(last.test_score_thresh),
            "nms_threshold": float(last.test_nms_thresh),
            "candidates_per_level": int(rpn.pre_nms_topk[False]),
            "proposals": int(rpn.post_nms_topk[False]),
            "max_detections": int(last.test_topk_per_image),
        }

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255.
            sizes: (N, 2) int64, height and width of each image in the batch.

        Returns:
            boxes (N, D, 4), XYXY pixels, clipped to the image; scores (N, D), falling; classes (N, D) int64; counts
            (N,) int64. Of each image the first `counts` entries are detections, the others are zeros.
        """
        maps = self.model.backbone(self.prepare(images))
        height, width = (sizes[:, axis, None, None].to(torch.float32) for axis in (0, 1))
        proposals, real = self._proposals(maps, height, width)
        boxes, scores = self._looked_at(maps, proposals, height, width)  # (N, C or 1, P, 4), (N, P, K)
        last = self._predictors()[-1]
        scores = torch.where(real[..., None], scores, ABSENT).transpose(1, 2)
        boxes = clip(boxes, height[..., None], width[..., None])
        scores = suppress_by_class(
            boxes, scores, iou=last.test_nms_thresh, above=last.test_score_thresh, for_onnx=self.for_onnx
        )
        classes = (scores * 0).long() + torch.arange(scores.shape[1], device=scores.device)[:, None]
        boxes = boxes.expand(-1, scores.shape[1], -1, -1)
        flat = boxes.flatten(1, 2), scores.flatten(1), classes.flatten(1)
        return finish(*take(*flat, last.test_topk_per_image))

    def _predictors(self) -> list[nn.Module]:
        predictor = self.model.roi_heads.box_predictor
        return list(predictor) if self.stages else [predictor]

    def _proposals(self, maps: dict[str, Tensor], height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, P, 4) of the proposals, and which of them there are: (N, P)."""
        rpn = self.model.proposal_generator
        features = [maps[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(features)
        levels = []
        for level, of_level in enumerate(zip(rpn.anchor_generator(features), logits, deltas)):
            anchors, scores = of_level[0].tensor, per_anchor(of_level[1], 1).flatten(1)
            scores, place = best(scores, rpn.pre_nms_topk[False], for_onnx=self.for_onnx, absent=_NO_PROPOSAL)
            chosen = per_anchor(of_level[2], 4).gather(1, place[..., None].expand(-1, -1, 4))
            boxes = rpn.box2box_transform.apply_deltas(chosen.flatten(0, 1), anchors[place.flatten()])
            levels.append((boxes.unflatten(0, (-1, scores.shape[1])), scores, place * 0 + level))
        boxes, scores, groups = (torch.cat(values, dim=1) for values in zip(*levels))
        boxes = clip(boxes, height, width)
        large = ((boxes[..., 2:] - boxes[..., :2]) > rpn.min_box_size).all(dim=-1)
        scores = suppress(
            boxes,
            torch.where(large, scores, _NO_PROPOSAL),
            groups,
            number=len(levels),
            iou=rpn.nms_thresh,
            above=_NO_PROPOSAL / 2,
            for_onnx=self.for_onnx,
            absent=_NO_PROPOSAL,
        )
        boxes, scores, _ = take(boxes, scores, groups, rpn.post_nms_topk[False], _NO_PROPOSAL)
        real = scores > _NO_PROPOSAL / 2
        return boxes * real[..., None], real

    def _looked_at(
        self, maps: dict[str, Tensor], proposals: Tensor, height: Tensor, width: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, C, P, 4), C being 1 where they are the same for all classes, and scores (N, P, K)."""
        heads = self.model.roi_heads
        features = [maps[name] for name in heads.box_in_features]
        count = self.model.proposal_generator.post_nms_topk[False]
        box_heads = list(heads.box_head) if self.stages else [heads.box_head]
        total: Any = 0.0
        for stage, (head, predictor) in enumerate(zip(box_heads, self._predictors())):
            if stage > 0:
                proposals = clip(boxes[:, 0], height, width)  # noqa: F821 (of the stage before)
            logits, deltas = predictor(head(pool(heads.box_pooler, features, proposals)))
            changed = predictor.box2box_transform.apply_deltas(deltas, proposals.flatten(0, 1))
            boxes = changed.reshape(-1, count, int(changed.shape[1]) // 4, 4).transpose(1, 2)
            scores = logits.sigmoid() if getattr(predictor, "use_sigmoid_ce", False) else logits.softmax(dim=-1)
            total = total + scores[:, :-1]
        scores = (total * (1.0 / len(box_heads))).reshape(-1, count, int(total.shape[1]))
        return boxes, scores


def pool(pooler: nn.Module, features: list[Tensor], boxes: Tensor) -> Tensor:
    """Detectron2's `ROIPooler` without data-dependent shapes: every box on every level.

    On levels other than its own a box has no size: it gives zeros, and costs next to nothing.

    Args:
        pooler: its level poolers are used.
        features: a map (N, C, H, W) per level.
        boxes: (N, P, 4).

    Returns:
        (N * P, C, h, w).
    """
    index = ((boxes[..., :1] * 0 + 1).cumsum(0) - 1).flatten(0, 1)
    flat = boxes.flatten(0, 1)
    if len(features) == 1:
        return pooler.level_poolers[0](features[0], torch.cat((index, flat), dim=1))
    areas = (flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1])
    # Equation (1) of the FPN paper, https://arxiv.org/abs/1612.03144.
    doublings = torch.log2(areas.sqrt() / pooler.canonical_box_size + 1e-8)
    level = (pooler.canonical_level + doublings).floor().clamp(min=pooler.min_level, max=pooler.max_level)
    total: Any = 0.0
    for number, (level_pooler, feature) in enumerate(zip(pooler.level_poolers, features), start=pooler.min_level):
        own = (level == number)[:, None]
        sampled = level_pooler(feature, torch.cat((index, flat * own), dim=1))
        total = total + sampled * own[..., None, None]
    return total
