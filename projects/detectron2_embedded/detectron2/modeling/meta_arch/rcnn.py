"""Two-stage detectors: proposals, then a look at each of them."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2._subset import ADVICE
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.image_detector import ImageDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageDetector):
    """A backbone, a proposal generator, and heads that look at each proposal: Fast, Faster and Cascade R-CNN."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            backbone: gives the maps that the others name.
            proposal_generator: see `RPN`; without one, every input brings its `proposals`.
            roi_heads: see `StandardROIHeads`.
            pixel_mean, pixel_std: per channel of `input_format`, in the range of the images.
            input_format: channel order that the images come in, for those who load or paint them.
            vis_period: only 0: painting training images is not part of this subset.

        Raises:
            NotImplementedError: `vis_period` is positive.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        if vis_period > 0:
            raise NotImplementedError(f"Painting training images (vis_period={vis_period}) {ADVICE}")
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: a dict per image: `image` (C, H, W) in the range of `pixel_mean`; in training
                `instances` with `gt_boxes` and `gt_classes`; else `height` and `width` of the output where
                they differ from the image's; `proposals` (`proposal_boxes`, `objectness_logits`) where there
                is no proposal generator.

        Returns:
            Training: losses by name. Else, a dict per image whose `instances` hold the detections.

        Raises:
            ValueError: an image without `instances` in training, or without `proposals` where it needs them.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        truth = self._ground_truth(batched_inputs)
        features = self.backbone(images.tensor)
        if self.proposal_generator is None:
            proposals, losses = self._given_proposals(batched_inputs), {}
        else:
            proposals, losses = self.proposal_generator(images, features, truth)
        _, detector_losses = self.roi_heads(images, features, proposals, truth)
        return {**detector_losses, **losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[Instances] | list[dict[str, Instances]]:
        """Detections of a batch, in eval mode.

        Args:
            detected_instances: boxes and classes per image that the heads should only add to; no proposals
                are made then.
            do_postprocess: rescale to the `height` and `width` of the inputs; else the result is a list of
                Instances in the coordinates of the input images.
        """
        assert not self.training, "Call model.eval() before inference."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is not None:
            given = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, given)
        else:
            if self.proposal_generator is None:
                proposals = self._given_proposals(batched_inputs)
            else:
                proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def _given_proposals(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        for item in batched_inputs:
            if "proposals" not in item:
                raise ValueError(
                    f"A model without proposal generator needs `proposals` with every image; the input "
                    f"{item.get('file_name', '')} has only {', '.join(item)}."
                )
        return [item["proposals"].to(self.device) for item in batched_inputs]

    @staticmethod
    def _postprocess(
        instances: list[Instances], batched_inputs: list[dict[str, Any]], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Instances]]:
        return [{"instances": result} for result in _rescaled(instances, batched_inputs, image_sizes)]


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageDetector):
    """A backbone and a proposal generator: the first stage by itself."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """See `GeneralizedRCNN`."""
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.proposal_generator = proposal_generator

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: as for `GeneralizedRCNN`.

        Returns:
            Training: losses by name. Else, a dict per image whose `proposals` hold `proposal_boxes` and
            `objectness_logits`.

        Raises:
            ValueError: an image without `instances` in training.
        """
        images = self.preprocess_image(batched_inputs)
        truth = self._ground_truth(batched_inputs) if self.training else None
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, truth)
        if self.training:
            return losses
        return [{"proposals": result} for result in _rescaled(proposals, batched_inputs, images.image_sizes)]


def _rescaled(
    instances: list[Instances], batched_inputs: list[dict[str, Any]], image_sizes: list[tuple[int, int]]
) -> list[Instances]:
    return [
        detector_postprocess(result, item.get("height", size[0]), item.get("width", size[1]))
        for result, item, size in zip(instances, batched_inputs, image_sizes)
    ]
