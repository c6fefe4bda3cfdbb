"""Anchors: the boxes that a detector starts from."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2._subset import missing_names
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry
from torch import nn

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")


class BufferList(nn.Module):
    """Tensors that follow the module from device to device and stay out of the state dict."""

    def __init__(self, buffers: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for i, tensor in enumerate(buffers):
            self.register_buffer(str(i), tensor, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __getitem__(self, i: int) -> torch.Tensor:
        return list(self._buffers.values())[i]


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """At each position of each map, a box of every size and aspect ratio.

    An anchor of size s (pixels) and aspect ratio r (height / width) has the area s * s.
    """

    box_dim: int = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        """
        Args:
            sizes: a list per map, or one list for all maps.
            aspect_ratios: likewise.
            strides: of the maps, in pixels of the image.
            offset: place of the first anchor's centre as a fraction of the stride, in [0, 1).

        Raises:
            AssertionError: a list per map is given for another number of maps, or the offset is out of range.
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, f"The anchor offset lies in [0, 1), got {offset}."
        self.strides = list(strides)
        self.offset = offset
        self.num_features = len(self.strides)
        per_map = zip(self._per_map(sizes, "sizes"), self._per_map(aspect_ratios, "aspect_ratios"))
        self.cell_anchors = BufferList([self.generate_cell_anchors(s, r).float() for s, r in per_map])

    def _per_map(self, values: Sequence[Any], name: str) -> list[Sequence[float]]:
        nested = [values] if not isinstance(values[0], Sequence) else list(values)
        if len(nested) == 1:
            nested = nested * self.num_features
        assert len(nested) == self.num_features, (
            f"Anchor {name} are given for {len(nested)} maps, strides for {self.num_features}."
        )
        return nested

    @property
    def num_anchors(self) -> list[int]:
        """Anchors at one position, for each map."""
        return [len(self.cell_anchors[i]) for i in range(self.num_features)]

    @property
    def num_cell_anchors(self) -> list[int]:
        """Another name for `num_anchors`."""
        return self.num_anchors

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> torch.Tensor:
        """Anchors (len(sizes) * len(aspect_ratios), 4) around (0, 0), sizes outermost."""
        sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size in sizes for ratio in aspect_ratios]
        half = torch.tensor(sides) / 2
        return torch.cat((-half, half), dim=1)

    def forward(self, features: Sequence[torch.Tensor]) -> list[Boxes]:
        """Anchors for maps (N, C, H, W): H * W * num_anchors boxes per map: by row, column, anchor."""
        assert len(features) == self.num_features, (
            f"Anchors are made for {self.num_features} maps, got {len(features)}."
        )
        grids = [feature.shape[-2:] for feature in features]
        return [self._level(i, height, width) for i, (height, width) in enumerate(grids)]

    def _level(self, i: int, height: int, width: int) -> Boxes:
        cell, stride = self.cell_anchors[i], self.strides[i]
        x = (torch.arange(width, device=cell.device, dtype=torch.float32) + self.offset) * stride
        y = (torch.arange(height, device=cell.device, dtype=torch.float32) + self.offset) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack((x, y, x, y), dim=2)
        return Boxes((centers[:, :, None] + cell).reshape(-1, 4))


__getattr__ = missing_names(__name__, ["RotatedAnchorGenerator", "build_anchor_generator"])
