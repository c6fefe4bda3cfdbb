"""What all detectors do first: images of a data loader to the batch that a network takes."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList, Instances
from torch import nn


class ImageDetector(nn.Module):
    """Base of detectors: normalises the images, pads them to one batch, and fetches the ground truth."""

    def __init__(self, *, backbone: Backbone, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        """
        Args:
            backbone: says what sizes it takes.
            pixel_mean: per channel, in the channel order and range of the input images.
            pixel_std: likewise.

        Raises:
            AssertionError: the two differ in length.
        """
        super().__init__()
        self.backbone = backbone
        assert len(pixel_mean) == len(pixel_std), (
            f"pixel_mean and pixel_std have a number per channel, got {len(pixel_mean)} and {len(pixel_std)}."
        )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is, and its inputs are moved to."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to one batch."""
        images = [move_device_like(item["image"], self.pixel_mean) for item in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _ground_truth(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        for item in batched_inputs:
            if "instances" not in item:
                raise ValueError(
                    f"Training needs `instances` with every image; the input {item.get('file_name', '')} has "
                    f"only {', '.join(item)}. Use DatasetMapper(is_train=True), or call model.eval()."
                )
        return [item["instances"].to(self.device) for item in batched_inputs]
