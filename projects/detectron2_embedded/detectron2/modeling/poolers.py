"""Features of boxes from a pyramid, each box from the level that fits its size."""

import math
from collections.abc import Sequence

import torch
from detectron2._subset import ADVICE
from detectron2.layers import ROIAlign, cat
from detectron2.structures import Boxes
from torch import nn
from torch.nn.modules.utils import _pair
from torchvision.ops import RoIPool

__all__ = ["ROIPooler", "assign_boxes_to_levels", "convert_boxes_to_pooler_format"]

# In pixels, left of and above every map: a box there pools to zeros.
_OUTSIDE = -1e6


def assign_boxes_to_levels(
    box_lists: list[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> torch.Tensor:
    """Level of each box: equation (1) of the FPN paper, https://arxiv.org/abs/1612.03144.

    A square of `canonical_box_size` belongs to `canonical_level`, one of twice that side to the level above.

    Args:
        box_lists: boxes of each image, R in all.
        min_level, max_level: levels there are; level k has stride 2**k.
        canonical_box_size: side in pixels.
        canonical_level: its level.

    Returns:
        int64 (R,): level - min_level, so an index into the maps; 0 where the area is NaN or negative.
    """
    areas = cat([boxes.area() for boxes in box_lists])
    doublings = torch.log2(areas.sqrt() / canonical_box_size + 1e-8)
    levels = (canonical_level + doublings).nan_to_num(nan=min_level).floor().clamp(min=min_level, max=max_level)
    return levels.to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> torch.Tensor:
    """Boxes of each image as one tensor (R, 5): index of the image, then XYXY."""
    boxes = cat([boxes.tensor for boxes in box_lists])
    counts = torch.tensor([len(boxes) for boxes in box_lists], device=boxes.device)
    image_index = torch.arange(len(box_lists), device=boxes.device)
    index = image_index.repeat_interleave(counts, output_size=len(boxes))
    return torch.cat((index[:, None].to(boxes.dtype), boxes), dim=1)


class ROIPooler(nn.Module):
    """Samples every box, of any size, to one grid of features."""

    def __init__(
        self,
        output_size: int | tuple[int, int] | list[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        """
        Args:
            output_size: (height, width) of the grid, or one number for both.
            scales: 1 / stride of each map, finest first: neighbouring powers of two.
            sampling_ratio: see `ROIAlign`.
            pooler_type: "ROIAlignV2" (aligned), "ROIAlign" (half a pixel off) or "ROIPool" (maximum of a cell).
            canonical_box_size, canonical_level: see `assign_boxes_to_levels`.

        Raises:
            AssertionError: scales or sizes that do not fit this description.
            NotImplementedError: rotated boxes.
            ValueError: an unknown pooler type.
        """
        super().__init__()
        self.output_size = _pair(output_size) if isinstance(output_size, int) else tuple(output_size)
        assert len(self.output_size) == 2, f"output_size has a height and a width, got {output_size}."
        self.level_poolers = nn.ModuleList([self._pooler(pooler_type, scale, sampling_ratio) for scale in scales])

        levels = [-math.log2(scale) for scale in scales]
        first = round(levels[0])
        assert all(math.isclose(level, first + i) for i, level in enumerate(levels)) and first >= 0, (
            f"The scales of a pooler are 1/2**k, each half of the one before; got {list(scales)}."
        )
        self.min_level, self.max_level = first, first + len(levels) - 1
        assert canonical_box_size > 0, f"canonical_box_size is positive, got {canonical_box_size}."
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def _pooler(self, pooler_type: str, scale: float, sampling_ratio: int) -> nn.Module:
        if pooler_type in ("ROIAlign", "ROIAlignV2"):
            return ROIAlign(self.output_size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
        if pooler_type == "ROIPool":
            return RoIPool(self.output_size, spatial_scale=scale)
        if pooler_type == "ROIAlignRotated":
            raise NotImplementedError(f"The pooler type {pooler_type} {ADVICE}")
        raise ValueError(f"Unknown pooler_type {pooler_type!r}; it is one of ROIAlignV2, ROIAlign, ROIPool.")

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Sample the boxes of all images.

        Args:
            x: a map (N, C, H, W) per scale.
            box_lists: boxes of each of the N images, in pixels of the image and clipped to it; R in all.

        Returns:
            (R, C, *output_size), image by image in the order of the boxes; zeros for a box whose area is NaN,
            infinite or negative.

        Raises:
            AssertionError: another number of maps, or of images.
        """
        assert len(x) == len(self.level_poolers), (
            f"The pooler is made for {len(self.level_poolers)} maps, got {len(x)}."
        )
        assert len(box_lists) == len(x[0]), f"Boxes are given for {len(box_lists)} images, the batch has {len(x[0])}."
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        rois = convert_boxes_to_pooler_format(box_lists)
        areas = cat([boxes.area() for boxes in box_lists])
        # On other boxes torchvision may crash: it counts the samples of a cell from the size.
        valid = (areas >= 0) & (areas < math.inf)
        rois[:, 1:].masked_fill_(~valid[:, None], _OUTSIDE)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        # Every level is sampled, if only for no box: so each map has its place in the graph in every process.
        of_level = [(levels == i).nonzero().flatten() for i in range(len(x))]
        sampled = [pooler(map_, rois[index]) for pooler, map_, index in zip(self.level_poolers, x, of_level)]
        return torch.cat(sampled)[torch.cat(of_level).argsort()]
