"""How a detector pads an image whose network does not tell padding from image, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Padding:
    """The size that an image is padded to, each for itself: more or less of it gives other detections.

    Attributes:
        multiple_of: both sides are multiples of it.
        is_square: both sides are equal.
        at_least: (height, width) in pixels.
    """

    multiple_of: int
    is_square: bool = False
    at_least: tuple[int, int] = (0, 0)

    @classmethod
    def of_metadata(cls, about: Mapping[str, Any]) -> "Padding | None":
        """Of the metadata's `input`; None where padding changes little, and for files of before, which do not say."""
        values = about.get("padding")
        if values is None:
            return None
        height, width = values["at_least"]
        return cls(int(values["multiple_of"]), bool(values["is_square"]), (int(height), int(width)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"at_least": list(self.at_least)}

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is padded to."""
        height, width = max(height, self.at_least[0]), max(width, self.at_least[1])
        if self.is_square:
            height = width = max(height, width)
        return -(-height // self.multiple_of) * self.multiple_of, -(-width // self.multiple_of) * self.multiple_of

    def describe(self, size: Sequence[int]) -> str:
        """In words, the images that are padded to this (height, width)."""
        # Sides of such a length or less are padded to another length.
        least = [max(self.at_least)] * 2 if self.is_square else self.at_least
        low = [side - self.multiple_of for side in size]
        low = [0 if at_least > side else side for side, at_least in zip(low, least)]
        if self.is_square or not any(low):
            at_most = f"at most {size[1]}x{size[0]} pixels (width x height)"
            return f"{at_most}, the longer side more than {low[0]}" if any(low) else at_most
        ranges = [str(side) if side - below == 1 else f"{below + 1} to {side}" for side, below in zip(size, low)]
        return f"{ranges[1]} pixels wide and {ranges[0]} high"
