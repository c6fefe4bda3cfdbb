"""From image files to the batches that an exported program takes, without torch."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image
from loradet.errors import UserError
from loradet.export.resizing import Resizing


def read_resized(
    file: str | os.PathLike, resizing: Resizing, intensity: Intensity, largest: Sequence[int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file, upright, resized by Pillow.

    Args:
        file: path.
        resizing: of the test images.
        intensity: the rule that it is read by.
        largest: (height, width) that a program of fixed size takes; None for no limit.

    Returns:
        (h, w, 3) uint8 RGB, and (height, width) of the file as it is shown.

    Raises:
        OSError: it cannot be read; the message names it.
        UserError: it is too large.
    """
    image = read_image(os.fspath(file), "RGB", intensity)
    height, width = image.shape[:2]
    size = resizing.size_of(height, width)
    check_fits(largest, size, os.fspath(file))
    if size != (height, width):
        image = np.asarray(Image.fromarray(image).resize(size[::-1], resizing.interpolation))
    return image, (height, width)


def make_batch(images: Sequence[np.ndarray], metadata: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images (h, w, 3) as what a program takes.

    Args:
        images: as `read_resized` gives them.
        metadata: of the program.

    Returns:
        (N, 3, H, W) float32, padded at the right and the bottom with the mean, which is zero once normalised; and the
        images' own sizes, (N, 2) int64.
    """
    sizes = [image.shape[:2] for image in images]
    height, width = padded_size(metadata["input"], sizes)
    mean = np.array(metadata["pixel_mean"], np.float32)
    batch = np.empty((len(images), 3, height, width), np.float32)
    batch[:] = mean[:, None, None]
    for slot, image, (h, w) in zip(batch, images, sizes):
        slot[:, :h, :w] = image.transpose(2, 0, 1)
    return batch, np.array(sizes, np.int64)


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
