"""Blocks of convolutional networks."""

from collections.abc import Callable

import torch
from detectron2.layers.batch_norm import FrozenBatchNorm2d, get_norm
from detectron2.layers.wrappers import Conv2d
from fvcore.nn.weight_init import c2_msra_fill
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


class DepthwiseSeparableConv2d(nn.Module):
    """A convolution of each channel by itself, then a 1x1 convolution that mixes them.

    Xception (https://arxiv.org/abs/1610.02357) has norm and activation behind the second one only, MobileNet
    (https://arxiv.org/abs/1704.04861) behind both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: str | Callable[[int], nn.Module] | None = None,
        activation1: Callable[[torch.Tensor], torch.Tensor] | None = None,
        norm2: str | Callable[[int], nn.Module] | None = None,
        activation2: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """
        Args:
            kernel_size, padding, dilation: of the first convolution.
            norm1, norm2: see `get_norm`; a convolution has a bias where it has no norm.
            activation1, activation2: follow the norms.
        """
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        for conv in (self.depthwise, self.pointwise):
            c2_msra_fill(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W'), as the first convolution sizes them."""
        return self.pointwise(self.depthwise(x))
