"""Cascade R-CNN: https://arxiv.org/abs/1712.00726."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.fast_rcnn import Predictions, fast_rcnn_inference
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import nn


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.scale, None


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Box heads in a row: each takes the boxes of the one before, and asks for a better overlap."""

    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_in_features, box_pooler: as for `StandardROIHeads`, the same for all stages.
            box_heads: one per stage.
            box_predictors: one per stage, with `cls_agnostic_bbox_reg=True`. The thresholds of the last one hold.
            proposal_matchers: one per stage; the first labels the proposals that are drawn.
            kwargs: the other arguments of `StandardROIHeads`.

        Raises:
            AssertionError: lists of different length, or `proposal_matcher` besides `proposal_matchers`.
        """
        assert "proposal_matcher" not in kwargs, (
            "CascadeROIHeads takes proposal_matchers, one per stage, and no proposal_matcher."
        )
        self.num_cascade_stages = len(box_heads)
        assert len(box_predictors) == len(proposal_matchers) == self.num_cascade_stages, (
            f"A cascade has a head, a predictor and a matcher per stage, got {len(box_heads)}, "
            f"{len(box_predictors)} and {len(proposal_matchers)}."
        )
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.proposal_matchers = list(proposal_matchers)

    def forward(
        self,
        images: ImageList,  # noqa: ARG002
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """As `StandardROIHeads.forward`; the losses end in `_stage0`, `_stage1` ...

        Raises:
            FloatingPointError: a stage predicts a box that is not finite, in training; else such boxes are dropped.
        """
        if self.training:
            assert targets is not None, "ROI heads need ground truth in training."
            proposals = self.label_and_sample_proposals(proposals, targets)
            return proposals, self._forward_box(features, proposals, targets)
        detections = self._forward_box(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def _forward_box(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Losses of all stages in training, else detections of each image."""
        maps = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        outputs: list[tuple[Predictions, list[Instances]]] = []
        boxes: Sequence[torch.Tensor] = ()
        for stage in range(self.num_cascade_stages):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(maps, proposals, stage)
            boxes = self.box_predictor[stage].predict_boxes(predictions, proposals)
            if self.training and not torch.isfinite(cat(list(boxes))).all():
                raise FloatingPointError(
                    f"Stage {stage} of the cascade predicts boxes that are NaN or infinite: training has diverged. "
                    "Lower the learning rate, or warm up longer."
                )
            outputs.append((predictions, proposals))
        if self.training:
            return self._stage_losses(outputs)

        # The mean score of the stages, on the boxes of the last one; those that are not finite are dropped here.
        scores = zip(*[predictor.predict_probs(*output) for predictor, output in zip(self.box_predictor, outputs)])
        last = self.box_predictor[-1]
        detections, _ = fast_rcnn_inference(
            boxes,
            [sum(of_image) * (1.0 / self.num_cascade_stages) for of_image in scores],
            image_sizes,
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )
        return detections

    def _stage_losses(self, outputs: list[tuple[Predictions, list[Instances]]]) -> dict[str, torch.Tensor]:
        losses = {}
        for stage, output in enumerate(outputs):
            with get_event_storage().name_scope(f"stage{stage}"):
                of_stage = self.box_predictor[stage].losses(*output)
            losses |= {f"{name}_stage{stage}": loss for name, loss in of_stage.items()}
        return losses

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Give the proposals of each image `gt_classes` (K for background) and `gt_boxes`, by the stage's matcher."""
        num_foreground = num_background = 0
        for of_image, truth in zip(proposals, targets):
            matches, labels = self.proposal_matchers[stage](pairwise_iou(truth.gt_boxes, of_image.proposal_boxes))
            if len(truth) > 0:
                classes = truth.gt_classes[matches]
                classes[labels == 0] = self.num_classes
                matched = truth.gt_boxes[matches]
            else:
                classes = torch.full_like(matches, self.num_classes)
                matched = Boxes(torch.zeros_like(of_image.proposal_boxes.tensor))
            of_image.gt_classes, of_image.gt_boxes = classes, matched
            num_foreground += int((labels == 1).sum())
            num_background += int((labels == 0).sum())
        storage = get_event_storage()
        prefix = f"stage{stage}/roi_head"
        storage.put_scalar(f"{prefix}/num_fg_samples", num_foreground / max(len(proposals), 1))
        storage.put_scalar(f"{prefix}/num_bg_samples", num_background / max(len(proposals), 1))
        return proposals

    def _run_stage(self, features: list[torch.Tensor], proposals: list[Instances], stage: int) -> Predictions:
        """Logits (R, K + 1) and deltas (R, 4) of one stage."""
        pooled = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        if self.training:
            # The stages share the maps: together they move them as far as one head does.
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _create_proposals_from_boxes(
        self, boxes: Sequence[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Boxes (R_i, 4) of each image as the next stage's proposals: constants, clipped, in training not empty.

        A box that is not finite becomes NaN, and so does every box that later stages make of it: the rows of all
        stages stay in line.
        """
        proposals = []
        for of_image, size in zip(boxes, image_sizes):
            assert of_image.shape[1] == 4, (
                f"A stage of a cascade needs one box per proposal (cls_agnostic_bbox_reg=True), got "
                f"{of_image.shape[1] // 4}."
            )
            finite = torch.isfinite(of_image).all(dim=1, keepdim=True)
            clipped = Boxes(of_image.detach().masked_fill(~finite, 0.0))
            clipped.clip(size)
            clipped.tensor.masked_fill_(~finite, math.nan)
            if self.training:
                clipped = clipped[clipped.nonempty()]
            proposals.append(Instances(size, proposal_boxes=clipped))
        return proposals
