"""Atrous spatial pyramid pooling of DeepLabv3: https://arxiv.org/abs/1706.05587."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from detectron2.layers.batch_norm import get_norm
from detectron2.layers.blocks import DepthwiseSeparableConv2d
from detectron2.layers.wrappers import Conv2d
from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn
from torch.nn import functional as F

Norm = str | Callable[[int], nn.Module]
Activation = Callable[[torch.Tensor], torch.Tensor]


class ASPP(nn.Module):
    """Looks at a map at five scales (one position, three dilated neighbourhoods, the whole map) and mixes them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: Norm,
        activation: Activation,
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        """
        Args:
            in_channels: of the input.
            out_channels: of every branch and of the result.
            dilations: of the three 3x3 convolutions.
            norm: see `get_norm`; follows every convolution but the one behind the pooling, whose map may be of one
                pixel. Convolutions have a bias where it is "".
            activation: follows every convolution; each takes a copy, so that one with parameters shares none.
            pool_kernel_size: (height, width) that the pooling branch averages over, for evaluation on larger maps
                than in training; None averages over the whole map.
            dropout: of the result, a fraction.
            use_depthwise_separable_conv: the dilated convolutions are `DepthwiseSeparableConv2d` (DeepLabv3+).

        Raises:
            AssertionError: another number of dilations than three.
        """
        super().__init__()
        assert len(dilations) == 3, f"ASPP takes 3 dilations, got {len(dilations)}: {list(dilations)}."
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout

        def conv(channels: int, kernel_size: int = 1, **options: int) -> Conv2d:
            return _filled(
                Conv2d(
                    channels,
                    out_channels,
                    kernel_size,
                    bias=norm == "",
                    norm=get_norm(norm, out_channels),
                    activation=deepcopy(activation),
                    **options,
                )
            )

        def dilated(dilation: int) -> nn.Module:
            if not use_depthwise_separable_conv:
                return conv(in_channels, kernel_size=3, padding=dilation, dilation=dilation)
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                kernel_size=3,
                padding=dilation,
                dilation=dilation,
                norm1=norm,
                activation1=deepcopy(activation),
                norm2=norm,
                activation2=deepcopy(activation),
            )

        branches = [conv(in_channels), *map(dilated, dilations)]
        pool = nn.AdaptiveAvgPool2d(1) if pool_kernel_size is None else nn.AvgPool2d(pool_kernel_size, stride=1)
        pooled = _filled(Conv2d(in_channels, out_channels, 1, activation=deepcopy(activation)))
        self.convs = nn.ModuleList([*branches, nn.Sequential(pool, pooled)])
        self.project = conv(len(self.convs) * out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W).

        Raises:
            ValueError: H or W is no multiple of `pool_kernel_size`.
        """
        size = x.shape[-2:]
        if self.pool_kernel_size is not None and any(
            side % kernel for side, kernel in zip(size, self.pool_kernel_size)
        ):
            raise ValueError(
                f"ASPP pools windows of {tuple(self.pool_kernel_size)} (pool_kernel_size); height and width of its "
                f"input are multiples of these, got {tuple(size)}."
            )
        *maps, pooled = [branch(x) for branch in self.convs]
        maps.append(F.interpolate(pooled, size=size, mode="bilinear", align_corners=False))
        mixed = self.project(torch.cat(maps, dim=1))
        return F.dropout(mixed, self.dropout, training=self.training)


def _filled(conv: Conv2d) -> Conv2d:
    c2_xavier_fill(conv)
    return conv
