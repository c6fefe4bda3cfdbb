"""Feature pyramid network: https://arxiv.org/abs/1612.03144."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2._subset import missing_names
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn
from torch.nn import functional as F


class FPN(Backbone):
    """Maps of one width at every stride, each mixed with the upsampled map of the next coarser one.

    Outputs are named `p<log2 of stride>`.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        """
        Args:
            bottom_up: the network that gives the maps to mix.
            in_features: names of its maps, finest first, each of twice the stride of the one before.
            out_channels: width of every output.
            norm: see `get_norm`; convolutions have a bias only without one.
            top_block: makes `num_levels` coarser maps out of the one that its `in_feature` names (an output
                of `bottom_up` or of the pyramid).
            fuse_type: "sum" or "avg" of the two maps.
            square_pad: a batch is padded to a square of this side where positive.

        Raises:
            AssertionError: unknown features, strides that do not double, unknown fuse type.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        unknown = [name for name in in_features if name not in shapes]
        assert in_features and not unknown, (
            f"in_features are taken from those of the bottom-up network ({', '.join(shapes)}), got {list(in_features)}."
        )
        assert fuse_type in ("sum", "avg"), f"fuse_type is 'sum' or 'avg', got {fuse_type!r}."
        strides = [shapes[name].stride for name in in_features]
        assert all(coarse == 2 * fine for fine, coarse in pairwise(strides)), (
            f"The strides of in_features double from one to the next, got {dict(zip(in_features, strides))}."
        )

        self._levels = [int(math.log2(stride)) for stride in strides]
        for level, name in zip(self._levels, in_features):
            lateral = Conv2d(
                shapes[name].channels,
                out_channels,
                kernel_size=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            output = Conv2d(
                out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            c2_xavier_fill(lateral)
            c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up

        last, extra = self._levels[-1], getattr(top_block, "num_levels", 0)
        levels = [*self._levels, *range(last + 1, last + 1 + extra)]
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def lateral_convs(self) -> list[nn.Module]:
        """The 1x1 convolutions, coarsest level first."""
        return [getattr(self, f"fpn_lateral{level}") for level in reversed(self._levels)]

    @property
    def output_convs(self) -> list[nn.Module]:
        """The 3x3 convolutions, coarsest level first."""
        return [getattr(self, f"fpn_output{level}") for level in reversed(self._levels)]

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) to maps (N, out_channels, H / stride, W / stride) by name, finest first."""
        bottom_up = self.bottom_up(x)
        mixed, maps = None, []
        for name, lateral, output in zip(reversed(self.in_features), self.lateral_convs, self.output_convs):
            here = lateral(bottom_up[name])
            mixed = here if mixed is None else self._fuse(here, mixed)
            maps.append(output(mixed))
        maps.reverse()

        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in bottom_up:
                top_input = bottom_up[source]
            else:
                top_input = maps[self._out_features.index(source)]
            maps.extend(self.top_block(top_input))
        assert len(maps) == len(self._out_features), (
            f"The top block made {len(maps) - len(self._levels)} levels, its num_levels says "
            f"{self.top_block.num_levels}."
        )
        return dict(zip(self._out_features, maps))

    def _fuse(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        total = fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return total / 2 if self._fuse_type == "avg" else total


class LastLevelMaxPool(nn.Module):
    """One coarser level, p6, by taking every second position of p5 (Faster R-CNN with FPN)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, C, H, W) to one map (N, C, H / 2, W / 2)."""
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """Two coarser levels, p6 and p7, by convolutions of stride 2 (RetinaNet)."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for conv in (self.p6, self.p7):
            c2_xavier_fill(conv)

    def forward(self, c5: torch.Tensor) -> list[torch.Tensor]:
        """(N, in_channels, H, W) to maps of half and a quarter of the size, each with out_channels."""
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


__getattr__ = missing_names(__name__, ["build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"])
