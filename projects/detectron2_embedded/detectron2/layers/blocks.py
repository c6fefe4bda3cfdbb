"""The base of the blocks that a convolutional backbone is built from."""

from detectron2.layers.batch_norm import FrozenBatchNorm2d
from torch import nn


class CNNBlockBase(nn.Module):
    """A block that maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stop training this block: no parameter requires a gradient, batch norms become frozen ones."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self
