"""Images of different sizes in one padded tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class ImageList:
    """A batch padded to one size: `tensor` (N, ..., H, W) and the true (height, width) of each image."""

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Image `idx` without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        """The batch with `tensor.to(...)` applied."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Device of the batch."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> "ImageList":
        """Pad images at the right and the bottom to one size.

        Args:
            tensors: images (H, W) or (C_1, ..., H, W), alike but for H and W.
            size_divisibility: both sides of the batch become multiples of it; 0 or 1 asks for nothing.
            pad_value: what the padding holds.
            padding_constraints: may hold `size_divisibility`, which replaces the argument, and `square_size`:
                where positive, the batch is a square of that side (before divisibility).

        Raises:
            AssertionError: no images, or images that differ in more than their size.
            RuntimeError: `square_size` is smaller than an image.
        """
        assert len(tensors) > 0, "A batch needs at least one image."
        leading = tensors[0].shape[:-2]
        assert all(image.shape[:-2] == leading for image in tensors), (
            f"Images of one batch differ in more than height and width: {[tuple(t.shape) for t in tensors]}"
        )
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
        height, width = _batch_size(sizes, size_divisibility, padding_constraints or {})
        batch = tensors[0].new_full((len(tensors), *leading, height, width), pad_value)
        for slot, image, (h, w) in zip(batch, tensors, sizes):
            slot[..., :h, :w].copy_(image)
        return ImageList(batch, sizes)


def _batch_size(sizes: list[tuple[int, int]], divisibility: int, constraints: Mapping[str, int]) -> tuple[int, int]:
    height, width = (max(sides) for sides in zip(*sizes))
    square = constraints.get("square_size", 0)
    if square > 0:
        if max(height, width) > square:
            raise RuntimeError(
                f"The backbone takes squares of {square} pixels, but the images of the batch need "
                f"{height}x{width} (height, width). Resize or crop them in the augmentations."
            )
        height = width = square
    divisor = max(constraints.get("size_divisibility", divisibility), 1)
    return tuple(-(-side // divisor) * divisor for side in (height, width))
