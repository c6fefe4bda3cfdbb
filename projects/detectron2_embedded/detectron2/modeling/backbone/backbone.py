"""What every backbone offers to necks and detectors."""

from abc import ABCMeta, abstractmethod

import torch
from detectron2.layers import ShapeSpec
from torch import nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """Turns images into named feature maps.

    A subclass sets `_out_features` (names, in order), `_out_feature_channels` and `_out_feature_strides` (by
    name), or overrides `output_shape`.
    """

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) to feature maps by name, each (N, C, H / stride, W / stride)."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0 where any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for the padding of a batch, as `ImageList.from_tensors` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
