"""Sizes of images and of the batches that an exported program takes."""

from collections.abc import Sequence
from typing import Any

from loradet.errors import UserError


def padded_size(about: dict[str, Any], sizes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """(height, width) of the batch that images of these sizes make.

    Args:
        about: the metadata's `input`.
        sizes: (height, width) of each image.
    """
    if about["size"] is not None:
        return tuple(about["size"])
    multiple = about["multiple_of"]
    largest = [max(sides) for sides in zip(*sizes)]
    height, width = (-(-max(side, low) // multiple) * multiple for side, low in zip(largest, about["smallest"]))
    return height, width


def check_fits(largest: Sequence[int] | None, size: tuple[int, int], file: str) -> None:
    """UserError where an image is, once resized, larger than a program of fixed size takes.

    Args:
        largest: (height, width); None for no limit.
        size: of the image.
        file: that it is of.
    """
    if largest is not None and (size[0] > largest[0] or size[1] > largest[1]):
        raise UserError(
            f"{file} is {size[1]}x{size[0]} (width x height) after resizing, the exported model takes "
            f"{largest[1]}x{largest[0]} at most: export it with --dynamic, or a larger --input-size."
        )
