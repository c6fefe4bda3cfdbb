"""The second stage: features, classes and boxes for the proposals of the first."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2._subset import ADVICE, missing_names
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")


class ROIHeads(nn.Module):
    """Chooses the proposals to train on; what is done with them is left to subclasses."""

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        """
        Args:
            num_classes: K, without the background.
            batch_size_per_image: proposals drawn per image in training.
            positive_fraction: largest part of them that is foreground.
            proposal_matcher: labels proposals by IoU with the ground truth.
            proposal_append_gt: ground truth joins the proposals before they are drawn.
        """
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Proposals and losses in training, else detections and no losses."""
        raise NotImplementedError(f"{type(self).__name__} has no forward: take a subclass, such as StandardROIHeads.")

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match, label and draw proposals.

        Args:
            proposals: per image, `proposal_boxes` and `objectness_logits`.
            targets: per image, `gt_boxes`, `gt_classes` and perhaps more fields named `gt_...`.

        Returns:
            Per image the proposals drawn, foreground first, with `gt_classes` (K for background) and, in images
            with objects, every other `gt_...` field of the matched object.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled, num_foreground, num_background = [], 0, 0
        for of_image, truth in zip(proposals, targets):
            matches, labels = self.proposal_matcher(pairwise_iou(truth.gt_boxes, of_image.proposal_boxes))
            chosen, gt_classes = self._sample_proposals(matches, labels, truth.gt_classes)
            of_image = of_image[chosen]
            of_image.gt_classes = gt_classes
            if len(truth) > 0:
                for name, values in truth.get_fields().items():
                    if name.startswith("gt_") and not of_image.has(name):
                        of_image.set(name, values[matches[chosen]])
            background = int((gt_classes == self.num_classes).sum())
            num_background += background
            num_foreground += len(gt_classes) - background
            sampled.append(of_image)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", num_foreground / max(len(targets), 1))
        storage.put_scalar("roi_head/num_bg_samples", num_background / max(len(targets), 1))
        return sampled

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the proposals of one image that are drawn, and their classes.

        Args:
            matched_idxs: (R,), object that each proposal is matched to.
            matched_labels: (R,), 1 for foreground, 0 for background, -1 for ignored.
            gt_classes: (M,), of the objects.
        """
        if len(gt_classes) > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        drawn = subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        chosen = torch.cat(drawn)
        return chosen, classes[chosen]


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """One box head for all proposals: Fast and Faster R-CNN."""

    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: Sequence[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_in_features: names of the maps that features are taken from, finest first.
            box_pooler: samples them for each box.
            box_head: (R, C, H, W) to the predictor's input.
            box_predictor: see `FastRCNNOutputLayers`.
            mask_in_features, mask_pooler, mask_head: only None: masks are not part of this subset.
            keypoint_in_features, keypoint_pooler, keypoint_head: likewise.
            train_on_pred_boxes: the proposals that training returns have the boxes predicted for them.
            kwargs: the arguments of `ROIHeads`.

        Raises:
            NotImplementedError: an argument for masks or keypoints.
        """
        super().__init__(**kwargs)
        absent = {
            "mask_in_features": mask_in_features,
            "mask_pooler": mask_pooler,
            "mask_head": mask_head,
            "keypoint_in_features": keypoint_in_features,
            "keypoint_pooler": keypoint_pooler,
            "keypoint_head": keypoint_head,
        }
        given = [name for name, value in absent.items() if value is not None]
        if given:
            raise NotImplementedError(f"StandardROIHeads({', '.join(given)}) {ADVICE}")
        self.in_features = self.box_in_features = list(box_in_features)
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.train_on_pred_boxes = train_on_pred_boxes

    def forward(
        self,
        images: ImageList,  # noqa: ARG002
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """
        Args:
            images: not used by heads that look at features alone.
            features: maps by name.
            proposals: per image, `proposal_boxes` and `objectness_logits`.
            targets: ground truth of each image; needed in training.

        Returns:
            In training, the proposals drawn and the losses by name. Else detections of each image (`pred_boxes`,
            `scores`, `pred_classes`) in the coordinates of the input image, and an empty dict.
        """
        if self.training:
            assert targets is not None, "ROI heads need ground truth in training."
            proposals = self.label_and_sample_proposals(proposals, targets)
            return proposals, self._forward_box(features, proposals)
        detections = self._forward_box(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def forward_with_given_boxes(
        self,
        features: dict[str, torch.Tensor],  # noqa: ARG002
        instances: list[Instances],
    ) -> list[Instances]:
        """What heads other than the box head add to detections: nothing here, where there are none."""
        assert not self.training, "Heads run on given boxes in eval mode only."
        assert all(x.has("pred_boxes") and x.has("pred_classes") for x in instances), (
            "Given boxes need the fields pred_boxes and pred_classes."
        )
        return instances

    def _forward_box(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Losses in training, else detections of each image."""
        maps = [features[name] for name in self.box_in_features]
        box_features = self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals]))
        predictions = self.box_predictor(box_features)
        if not self.training:
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return detections
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                predicted = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for of_image, boxes in zip(proposals, predicted):
                of_image.proposal_boxes = Boxes(boxes)
        return losses


__getattr__ = missing_names(
    __name__,
    ["Res5ROIHeads", "build_roi_heads", "select_foreground_proposals", "select_proposals_with_visible_keypoints"],
)
