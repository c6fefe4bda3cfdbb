"""Makes the views of an image: cut from the image as given, then mapped as the test images of a config are."""

import sys
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from torch import Tensor

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.mapper import DetectionMapper, intensity_of
from loradet.errors import UserError
from loradet.views.plan import Views
from loradet.views.windows import Window

VIEWS = "views"  # of a sample, beside the image of the first of them

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class View:
    """A look at an image.

    Attributes:
        window: of the image as given.
        flipped: whether the pixels are mirrored, left to right.
        image: (3, h, w) uint8, the window as the model takes it.
    """

    window: Window
    flipped: bool
    image: Tensor


class ViewMapper:
    """A test mapper that gives the views of an image besides.

    Args:
        mapper: `DetectionMapper`, or one with such an attribute `mapper`, as `CheckedMapper`.
        views: how to look at an image.

    Raises:
        UserError: a mapper of another kind, which cannot be given a part of an image; or scales with augmentations
            that are not one resize at most.
    """

    def __init__(self, mapper: Mapper, views: Views):
        self.mapper = mapper
        self.views = views
        self._reader = pixel_reader(mapper)
        for scale in views.scales:
            _scaled(self._reader, scale, 640, 640)

    @property
    def intensity(self) -> Intensity:
        """The rule that images are read by."""
        return intensity_of(self._reader)

    @property
    def image_format(self) -> str:
        """As "RGB", of the arrays that `map_image` takes."""
        return self._reader.image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map the record of an image file.

        Returns:
            The record with `height` and `width` of the image, `views`, a tuple of `View`, and `image`, that of the
            first one.

        Raises:
            OSError: the image cannot be read.
            SizeMismatchError: the image's size is not that of the record.
            UserError: a view is too large for the model.
        """
        return self.map_image(record, self._reader.read_image(record["file_name"], self.image_format))

    def map_image(self, record: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """The same of an image (H, W, 3) uint8 in `image_format` that is read already."""
        record = {key: value for key, value in record.items() if key != "annotations"}
        utils.check_image_size(record, image)
        views = tuple(self._look(record, image, *look) for look in self.views.looks(*image.shape[:2]))
        return {**record, "image": views[0].image, VIEWS: views}

    def _look(self, record: dict[str, Any], image: np.ndarray, window: Window, scale: float, flipped: bool) -> View:
        left, top, width, height = window
        part = np.ascontiguousarray(image[top : top + height, left : left + width])
        about = {"file_name": record["file_name"], "image_id": record.get("image_id")}
        pixels = map_pixels(self.mapper, part, about, scale)["image"]
        return View(window, flipped, pixels.flip(-1) if flipped else pixels)


def map_pixels(mapper: Mapper, image: np.ndarray, record: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    """What a mapper makes of an image that is read already.

    Args:
        mapper: as of `ViewMapper`.
        image: (H, W, 3) uint8 in the mapper's format.
        record: `file_name` is for messages alone.
        scale: of the size that the mapper gives it.
    """
    return _with_reader(mapper, lambda reader: _given(_scaled(reader, scale, *image.shape[:2]), image))(record)


def pixel_reader(mapper: Any) -> DetectionMapper:
    """The mapper inside that reads the pixels. Raises UserError where it is of an unknown kind."""
    inner = mapper
    while not isinstance(inner, DetectionMapper) and hasattr(inner, "mapper"):
        inner = inner.mapper
    if not isinstance(inner, DetectionMapper):
        raise UserError(
            f"The test mapper is a {type(inner).__name__}, which reads files alone: tiles, other views and frames of a "
            "video take a loradet.datasets.mapper.DetectionMapper, as the config's dataloader.val.mapper."
        )
    return inner


def _with_reader(mapper: Any, change: Callable[[DetectionMapper], DetectionMapper]) -> Any:
    """A copy of a mapper whose innermost one is changed."""
    if isinstance(mapper, DetectionMapper):
        return change(mapper)
    other = copy(mapper)
    other.mapper = _with_reader(mapper.mapper, change)
    return other


def _given(reader: DetectionMapper, image: np.ndarray) -> DetectionMapper:
    """A copy that takes an image for whatever file it is told to read."""
    other = copy(reader)
    other.cache, other.reduced_decode = None, False
    other.read_image = lambda file_name, format: image  # type: ignore[method-assign] # noqa: ARG005
    return other


def _scaled(reader: DetectionMapper, scale: float, height: int, width: int) -> DetectionMapper:
    """A copy that makes images of a size (height, width) larger by a factor than the mapper does."""
    if scale == 1.0:
        return reader
    augmentations = reader.augmentations.augs
    only: Any = augmentations[0] if augmentations else None
    if only is None or (type(only) is T.ResizeShortestEdge and set(only.short_edge_length) == {0}):
        only = T.Resize((height, width))
    if len(augmentations) > 1 or type(only) not in (T.Resize, T.ResizeShortestEdge):
        names = ", ".join(type(one).__name__ for one in augmentations)
        raise UserError(
            f"The augmentations of the test images are {names}; scales need Resize or ResizeShortestEdge, alone."
        )
    other = copy(reader)
    other.augmentations = T.AugmentationList([_resize(only, scale)])
    return other


def _resize(resize: Any, scale: float) -> Any:
    if type(resize) is T.Resize:
        height, width = (max(1, round(side * scale)) for side in resize.shape)
        return T.Resize((height, width), resize.interp)
    lengths = [round(length * scale) for length in resize.short_edge_length]
    limit = resize.max_size if resize.max_size >= sys.maxsize else round(resize.max_size * scale)
    style = "range" if resize.is_range else "choice"
    return T.ResizeShortestEdge(lengths, limit, style, resize.interp)
