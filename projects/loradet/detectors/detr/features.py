"""Backbone and padding, as DETR sees them."""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch.nn import functional as F


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
