"""Decoded images of a small training set in memory that all data processes share."""

import logging
import math
import mmap
import multiprocessing
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from loradet.datasets.mapper import DetectionMapper
from loradet.datasets.seeding import seeded
from loradet.errors import UserError

logger = logging.getLogger(__name__)

_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class ImageCache:
    """Images by file name, each in a place of its own, filled by whichever process reads it first.

    The memory is anonymous and shared with processes that are forked afterwards: it needs no room in /dev/shm, and is
    taken as it is filled. What `get` gives is read-only.

    Args:
        shapes: (height, width, channels) of each file's image.
    """

    def __init__(self, shapes: dict[str, tuple[int, int, int]]):
        self._shapes = shapes
        self._starts: dict[str, int] = {}
        end = 0
        for name, shape in shapes.items():
            self._starts[name] = end
            end += math.prod(shape)
        self.size = end
        self._numbers = {name: number for number, name in enumerate(shapes)}
        self._pixels = mmap.mmap(-1, max(1, end))
        self._is_filled = mmap.mmap(-1, max(1, len(shapes)))
        # It orders the memory too: where an image is said to be there, all of it is.
        self._lock = multiprocessing.get_context("fork" if _forks() else None).Lock()

    def __len__(self) -> int:
        """How many images are in it so far."""
        with self._lock:
            return self._is_filled[:].count(1)

    def get(self, name: str) -> np.ndarray | None:
        """(H, W, C) uint8; None where it is not there yet."""
        number = self._numbers.get(name)
        if number is None:
            return None
        with self._lock:
            is_filled = self._is_filled[number]
        if not is_filled:
            return None
        image = self._place(name)
        image.flags.writeable = False
        return image

    def put(self, name: str, image: np.ndarray) -> None:
        """Keep an image. One of another shape than was said, or of an unknown name, is not kept."""
        if self._shapes.get(name) != image.shape or image.dtype != np.uint8:
            return
        self._place(name)[...] = image
        with self._lock:
            self._is_filled[self._numbers[name]] = 1

    def _place(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        flat = np.frombuffer(self._pixels, np.uint8, math.prod(shape), self._starts[name])
        return flat.reshape(shape)

    def __deepcopy__(self, memo: dict) -> "ImageCache":
        return self

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "data.cache=memory: data processes that are not forked cannot share it (as on Windows and macOS); set "
            "dataloader.train.num_workers=0, or leave it off."
        )


def cache_images(mapper: Any, records: Sequence[dict[str, Any]], *, where: str, max_gb: float) -> DetectionMapper:
    """A copy of a mapper that keeps each image: resized, where its augmentations begin with a resize to a fixed size.

    Args:
        mapper: the project's.
        records: Detectron2's dicts of all images, with `width` and `height`.
        where: "memory".
        max_gb: refuse to take more, in 10^9 bytes.

    Raises:
        UserError: the images are too large, or the mapper is another one.
    """
    if where != "memory":
        raise UserError(f'data.cache={where!r}: expected "memory", or null for none.')
    if not isinstance(mapper, DetectionMapper):
        raise UserError(f"data.cache=memory needs loradet's DetectionMapper, not {type(mapper).__name__}.")
    channels = _CHANNELS.get(mapper.image_format)
    if channels is None:
        raise UserError(
            f"data.cache=memory: images of image_format={mapper.image_format!r} have no eight bits a channel; expected "
            f"one of {', '.join(_CHANNELS)}."
        )
    with seeded(0):  # sizes are asked of the augmentation, which draws
        shapes = {
            record["file_name"]: (*mapper.cached_size(record["height"], record["width"]), channels)
            for record in records
        }
    size = sum(map(math.prod, shapes.values()))
    what = "resized" if mapper.has_fixed_resize else "not resized, because augmentations draw the size"
    if mapper.reduced_decode and not mapper.has_fixed_resize:
        raise UserError(
            "data.cache=memory keeps whole images where augmentations draw the size: data.reduced_decode=True decodes "
            "none. Take one of the two."
        )
    if size > max_gb * 1e9:
        raise UserError(
            f"data.cache=memory: {len(shapes)} images ({what}) take {_gb(size)}, more than data.cache_gb={max_gb:g}. "
            "Raise that where each training process of this machine has so much memory, or leave the cache off."
        )
    logger.info(
        "Cache of %d images (%s): %s of memory once all were read, for each training process.",
        len(shapes),
        what,
        _gb(size),
    )
    return mapper.with_cache(ImageCache(shapes))


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _forks() -> bool:
    return "fork" in multiprocessing.get_all_start_methods()
