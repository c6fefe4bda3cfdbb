"""From image files to the batches that an exported program takes, without torch."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image
from loradet.errors import UserError
from loradet.export.padding import Padding
from loradet.export.resizing import Resizing

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_resized(
    file: str | os.PathLike, resizing: Resizing, intensity: Intensity, about: dict[str, Any]
) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file, upright, resized by Pillow.

    Args:
        file: path.
        resizing: of the test images.
        intensity: the rule that it is read by.
        about: the metadata's `input`.

    Returns:
        (h, w, 3) uint8 RGB, and (height, width) of the file as it is shown.

    Raises:
        OSError: it cannot be read; the message names it.
        UserError: see `check_fits`.
    """
    image = read_image(os.fspath(file), "RGB", intensity)
    height, width = image.shape[:2]
    size = resizing.size_of(height, width)
    check_fits(about, size, os.fspath(file))
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


def padded_size(about: dict[str, Any], sizes: Sequence[tuple[int, ...]], names: Sequence[str] = ()) -> tuple[int, int]:
    """(height, width) of the batch that images of these sizes make.

    Args:
        about: the metadata's `input`.
        sizes: (height, width) of each image; they are of one of the `groups`.
        names: of the images, for errors.

    Raises:
        UserError: see `check_fits`.
    """
    for (height, width), name in zip(sizes, names or ["An image"] * len(sizes)):
        check_fits(about, (height, width), name)
    if about["size"] is not None:
        return tuple(about["size"])
    if (padding := Padding.of_metadata(about)) is not None:
        # Not to `smallest`, which is a square: a strip of fewer rows may have enough positions.
        return padding.size_of(*sizes[0])
    multiple = about["multiple_of"]
    largest = [max(sides) for sides in zip(*sizes)]
    height, width = (-(-max(side, low) // multiple) * multiple for side, low in zip(largest, about["smallest"]))
    return height, width


def groups(about: dict[str, Any], sizes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Places of the images that a program may see in one batch.

    Args:
        about: the metadata's `input`.
        sizes: (height, width) of each image.
    """
    if about["batch"] == 1:
        return [[place] for place in range(len(sizes))]
    padding = Padding.of_metadata(about)
    found: dict[tuple[int, int] | None, list[int]] = {}
    for place, size in enumerate(sizes):
        found.setdefault(None if padding is None else padding.size_of(*size), []).append(place)
    return list(found.values())


def run_in_groups(
    run: Callable[[list[_Item]], Sequence[_Result]],
    items: Sequence[_Item],
    sizes: Sequence[tuple[int, ...]],
    about: dict[str, Any],
) -> list[_Result]:
    """What `run` gives for each item, called with one of the `groups` after the other."""
    results: dict[int, _Result] = {}
    for places in groups(about, sizes):
        results.update(zip(places, run([items[place] for place in places])))
    return [results[place] for place in range(len(items))]


def check_fits(about: dict[str, Any], size: tuple[int, int], file: str) -> None:
    """Refuse an image that a program of fixed size does not take as its detector does.

    Args:
        about: the metadata's `input`.
        size: (height, width) of the image, resized.
        file: that it is of.

    Raises:
        UserError: it is too large; or it would be padded more than the detector pads it, and its network sees padding.
    """
    if about["size"] is None:
        return
    fixed, padding = tuple(about["size"]), Padding.of_metadata(about)
    here = f"{file} is {size[1]}x{size[0]} (width x height) after resizing, the exported model takes"
    if padding is not None:
        if padding.size_of(*size) != fixed:
            raise UserError(
                f"{here} images of {padding.describe(fixed)} alone, since its network sees padding: resize the test "
                "images to one size (T.Resize), set model.pad_to, or export with an --input-size that all images have."
            )
    elif size[0] > fixed[0] or size[1] > fixed[1]:
        raise UserError(f"{here} {fixed[1]}x{fixed[0]} at most: export it with --dynamic, or a larger --input-size.")


@contextlib.contextmanager
def small_images_named(about: dict[str, Any], size: tuple[int, ...], name: str) -> Iterator[None]:
    """Where a program fails on a batch of fewer pixels than the smallest square that it takes, say that.

    Args:
        about: the metadata's `input`.
        size: (height, width) of the batch.
        name: of an image of it.
    """
    low = about["smallest"]
    try:
        yield
    except UserError as error:
        if Padding.of_metadata(about) is None or size[0] * size[1] >= low[0] * low[1]:
            raise
        raise UserError(
            f"{name} is {size[1]}x{size[0]} (width x height) once resized and padded, which the exported model cannot "
            f"take: give it as many pixels as {low[1]}x{low[0]}. ({error})"
        ) from error
