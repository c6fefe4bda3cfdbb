"""Backbone and padding, as DETR sees them."""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch.nn import functional as F

from loradet.errors import UserError


class DetrBackbone(Backbone):
    """Another backbone under the name `0`, where published DETR weights have it (`backbone.0.body.…`).

    Args:
        backbone: any Detectron2 backbone; outputs and wishes for padding are its own.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.add_module("0", backbone)

    @property
    def wrapped(self) -> Backbone:
        """The backbone inside."""
        return self.get_submodule("0")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The wrapped backbone's maps by name."""
        return self.wrapped(x)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.wrapped.output_shape()

    @property
    def size_divisibility(self) -> int:
        """As the wrapped backbone's."""
        return self.wrapped.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """As the wrapped backbone's."""
        return self.wrapped.padding_constraints


def fixed_batch_size(
    image_sizes: Sequence[tuple[int, int]], pad_to: tuple[int, int], names: Sequence[str]
) -> tuple[int, int]:
    """Size of a batch that is one of few.

    `pad_to` where all images fit into it, else `pad_to` turned by a quarter where they all fit into that. Where
    some fit only one way and some only the other, each side is the smaller of the two numbers that is large enough.

    Args:
        image_sizes: (height, width) of each image, pixels.
        pad_to: (height, width).
        names: of the images, for errors.

    Raises:
        ValueError: an image fits neither way.
    """
    ways = (pad_to, pad_to[::-1])
    for (height, width), name in zip(image_sizes, names):
        if not any(_fits((height, width), way) for way in ways):
            raise UserError(
                f"{name} comes as {height}x{width} pixels (height x width), but pad_to={pad_to} takes at most "
                f"{pad_to[0]}x{pad_to[1]} or {pad_to[1]}x{pad_to[0]}. Resize it to less in the augmentations, or give "
                "a larger pad_to."
            )
    largest = tuple(max(sides) for sides in zip(*image_sizes))
    for way in ways:
        if _fits(largest, way):
            return way
    height, width = (min(side for side in pad_to if side >= needed) for needed in largest)
    return height, width


def pad_batch(images: ImageList, size: tuple[int, int], divisor: int = 1) -> ImageList:
    """The batch with zeros added at the right and the bottom.

    Args:
        images: a batch; it is never made smaller.
        size: (height, width) that it shall have at least.
        divisor: both sides become multiples of it; 0 asks for nothing.
    """
    height, width = images.tensor.shape[-2:]
    divisor = max(divisor, 1)
    bottom, right = (
        max(-(-wanted // divisor) * divisor - there, 0) for wanted, there in zip(size, (height, width), strict=True)
    )
    return ImageList(F.pad(images.tensor, (0, right, 0, bottom)), images.image_sizes) if bottom or right else images


def _fits(size: tuple[int, ...], room: tuple[int, int]) -> bool:
    return size[0] <= room[0] and size[1] <= room[1]


def padding_mask(
    image_sizes: Sequence[tuple[int, int]],
    batch_size: Sequence[int],
    feature_size: Sequence[int],
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Which cells of a feature map are padding: those whose nearest pixel (towards the top left) is.

    Args:
        image_sizes: (height, width) of each image, pixels.
        batch_size: (H, W) of the padded batch.
        feature_size: (h, w) of the map.

    Returns:
        (N, h, w) bool, True for padding. The first cell of an image never is.
    """
    sizes = torch.tensor(image_sizes, device=device)
    rows, columns = (
        _nearest(torch.arange(padded, device=device) >= sizes[:, axis, None], cells)
        for axis, (padded, cells) in enumerate(zip(batch_size, feature_size))
    )
    return rows[:, :, None] | columns[:, None, :]


def _nearest(padded: torch.Tensor, cells: int) -> torch.Tensor:
    """(N, pixels) to (N, cells)."""
    return F.interpolate(padded[:, None].float(), size=cells, mode="nearest")[:, 0].bool()
