"""The test resize of a config, as plain values that fit into a file."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loradet.errors import UserError

if TYPE_CHECKING:  # what it says of a file is read without Detectron2, and without torch
    from detectron2.data.transforms import Augmentation


@dataclass(frozen=True)
class Resizing:
    """One resize at most: to a fixed size, or of the shorter edge; neither of them leaves images as they are.

    Attributes:
        size: (height, width) in pixels.
        short_edge: length of the shorter edge in pixels; the longer one keeps the aspect ratio.
        max_size: limit of the longer edge in pixels, None for none.
        interpolation: a filter's number in pillow.
    """

    size: tuple[int, int] | None = None
    short_edge: int | None = None
    max_size: int | None = None
    interpolation: int = 2

    @classmethod
    def from_augmentations(cls, augmentations: Sequence[Any]) -> "Resizing":
        """What the augmentations of a test mapper do.

        Raises:
            ValueError: they are more than one resize of a fixed length.
        """
        from detectron2.data import transforms as T

        if not augmentations:
            return cls()
        only = augmentations[0]
        if len(augmentations) == 1 and type(only) is T.Resize:
            height, width = only.shape
            return cls(size=(int(height), int(width)), interpolation=int(only.interp))
        if len(augmentations) == 1 and type(only) is T.ResizeShortestEdge:
            lengths = {int(length) for length in only.short_edge_length}
            limit = None if only.max_size >= sys.maxsize else int(only.max_size)
            if lengths == {0}:
                return cls()
            if len(lengths) == 1:
                return cls(short_edge=lengths.pop(), max_size=limit, interpolation=int(only.interp))
        names = ", ".join(str(augmentation) for augmentation in augmentations)
        raise UserError(
            f"The augmentations of the test images are {names}; expected Resize, or ResizeShortestEdge of one length, "
            "alone."
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Resizing":
        """Counterpart of `to_dict`."""
        size = values["size"]
        return cls(
            size=None if size is None else (int(size[0]), int(size[1])),
            short_edge=values["short_edge"],
            max_size=values["max_size"],
            interpolation=values["interpolation"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "size": None if self.size is None else list(self.size),
            "short_edge": self.short_edge,
            "max_size": self.max_size,
            "interpolation": self.interpolation,
        }

    def augmentations(self) -> "list[Augmentation]":
        """The same as Detectron2's augmentations."""
        from detectron2.data import transforms as T

        if self.size is not None:
            return [T.Resize(self.size, self.interpolation)]
        if self.short_edge is not None:
            limit = sys.maxsize if self.max_size is None else self.max_size
            return [T.ResizeShortestEdge(self.short_edge, limit, interp=self.interpolation)]
        return []

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to: as Detectron2's `ResizeShortestEdge` has it."""
        if self.size is not None:
            return self.size
        if self.short_edge is None:
            return height, width
        scale = self.short_edge / min(height, width)
        # The short edge is exact before the limit applies.
        sides = [float(self.short_edge) if side == min(height, width) else scale * side for side in (height, width)]
        if self.max_size is not None and max(sides) > self.max_size:
            shrink = float(self.max_size) / max(sides)
            sides = [side * shrink for side in sides]
        return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))

    def largest(self) -> tuple[int, int] | None:
        """(height, width) of the largest image that comes out: landscape where the aspect ratio is kept.

        None where there is no resize.
        """
        if self.size is not None or self.short_edge is None:
            return self.size
        limit = self.short_edge if self.max_size is None else self.max_size
        return min(self.short_edge, limit), limit

    def input_size(self) -> tuple[int, int]:
        """`largest`, which there must be. Raises ValueError where there is no resize."""
        size = self.largest()
        if size is None:
            raise UserError("The test images of this config are not resized: give --input-size HEIGHT WIDTH.")
        return size
