"""The pyramid of ViTDet: https://arxiv.org/abs/2203.16527, section 3."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from torch import nn


class SimpleFeaturePyramid(Backbone):
    """Maps of several strides, each made from the one map of a plain backbone. Outputs: `p<log2 of stride>`."""

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: str = "LN",
        square_pad: int = 0,
    ) -> None:
        """
        Args:
            net: the backbone.
            in_feature: name of its map.
            out_channels: width of every output.
            scale_factors: size of each output in units of the map, largest first: of 4, 2, 1 and 0.5.
            top_block: makes `num_levels` coarser maps out of the one that its `in_feature` names (an output of
                `net` or of the pyramid).
            norm: see `get_norm`; convolutions have a bias only without one.
            square_pad: a batch is padded to a square of this side where positive.

        Raises:
            AssertionError: strides that do not double from one output to the next, or a top block that asks for
                a map that there is not.
            NotImplementedError: another scale factor.
            TypeError: a scale factor of 4 without a norm.
        """
        super().__init__()
        shape = net.output_shape()[in_feature]
        strides = [int(shape.stride / scale) for scale in scale_factors]
        assert all(coarse == 2 * fine for fine, coarse in pairwise(strides)), (
            f"The strides of the outputs double from one to the next, got {strides}."
        )
        self.scale_factors = list(scale_factors)
        levels = [int(math.log2(stride)) for stride in strides]
        for level, scale in zip(levels, scale_factors):
            self.add_module(f"simfp_{level}", _pyramid_stage(scale, shape.channels, out_channels, norm))
        self._stage_names = [f"simfp_{level}" for level in levels]
        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block

        sources = [*net.output_shape(), *(f"p{level}" for level in levels)]
        assert top_block is None or top_block.in_feature in sources, (
            f"The top block takes {top_block.in_feature!r}, which is none of the maps: {', '.join(sources)}."
        )
        extra = getattr(top_block, "num_levels", 0)
        levels += range(levels[-1] + 1, levels[-1] + 1 + extra)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad

    @property
    def stages(self) -> list[nn.Sequential]:
        """What makes each output of the backbone's map, finest first."""
        return [getattr(self, name) for name in self._stage_names]

    @property
    def padding_constraints(self) -> dict[str, int]:
        # The first key is spelled as Detectron2 spells it, and so without effect: a batch is padded to its
        # largest image, or to the square.
        return {"size_divisiblity": self._size_divisibility, "square_size": self._square_pad}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) to maps (N, out_channels, H / stride, W / stride) by name, finest first."""
        bottom_up = self.net(x)
        maps = [stage(bottom_up[self.in_feature]) for stage in self.stages]
        if self.top_block is not None:
            source = self.top_block.in_feature
            top_input = bottom_up[source] if source in bottom_up else maps[self._out_features.index(source)]
            maps.extend(self.top_block(top_input))
        assert len(maps) == len(self._out_features), (
            f"The pyramid made {len(maps)} maps, but announces {len(self._out_features)}."
        )
        return dict(zip(self._out_features, maps))


def _pyramid_stage(scale: float, dim: int, out_channels: int, norm: str) -> nn.Sequential:
    """From the backbone's map (N, dim, H, W) to an output (N, out_channels, H * scale, W * scale)."""
    if scale == 4.0:
        if not norm:
            raise TypeError("A scale factor of 4 has a norm between its two convolutions: norm may not be empty.")
        layers = [
            nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2),
            get_norm(norm, dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, kernel_size=2, stride=2),
        ]
        dim = dim // 4
    elif scale == 2.0:
        layers = [nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2)]
        dim = dim // 2
    elif scale == 1.0:
        layers = []
    elif scale == 0.5:
        layers = [nn.MaxPool2d(kernel_size=2, stride=2)]
    else:
        raise NotImplementedError(f"A scale factor of a simple feature pyramid is 4, 2, 1 or 0.5; got {scale}.")
    for in_channels, kernel_size in ((dim, 1), (out_channels, 3)):
        layers.append(
            Conv2d(
                in_channels,
                out_channels,
                kernel_size=kernel_size,
                padding=kernel_size // 2,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
        )
    return nn.Sequential(*layers)
