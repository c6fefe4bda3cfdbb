"""Four images in one: each in a quarter of the canvas, at a scale of its own."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from loradet.errors import UserError

# Gives the size (height, width) of a record's image, and the image as a resize makes it.
SizeOf = Callable[[dict[str, Any]], tuple[int, int]]
ReadResized = Callable[[dict[str, Any], T.ResizeTransform], np.ndarray]


@dataclass(frozen=True)
class Tile:
    """One of the four.

    Attributes:
        record: of its image.
        resize: of that image.
        corner: (x, y) of the resized image's upper left corner on the canvas, pixels; may be outside of it.
        window: (x0, y0, x1, y1) what is seen of it on the canvas.
    """

    record: dict[str, Any]
    resize: T.ResizeTransform
    corner: tuple[int, int]
    window: tuple[int, int, int, int]

    def annotations(self, min_visible: float) -> list[dict[str, Any]]:
        """Those whose boxes are seen, with boxes XYXY in pixels of the canvas; crowds among them, masks left out."""
        given = self.record.get("annotations", [])
        if not given:
            return []
        boxes = [BoxMode.convert(list(map(float, one["bbox"])), one["bbox_mode"], BoxMode.XYXY_ABS) for one in given]
        whole = self.resize.apply_box(np.array(boxes, np.float64)) + np.array(self.corner * 2)
        left, top, right, bottom = self.window
        seen = whole.clip([left, top, left, top], [right, bottom, right, bottom])
        areas, seen_areas = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (whole, seen))
        kept = (seen_areas > 0) & (seen_areas >= min_visible * areas)
        return [
            {
                **{key: value for key, value in one.items() if key not in ("segmentation", "keypoints")},
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
            }
            for one, box, is_kept in zip(given, seen.tolist(), kept.tolist())
            if is_kept
        ]


@dataclass(frozen=True)
class MosaicPlan:
    """A mosaic whose numbers are drawn.

    Attributes:
        size: (height, width) of the canvas, pixels.
        tiles: upper left, upper right, lower left, lower right.
        fill: value of what no image covers.
        min_visible: boxes of which less is seen are left out, as a fraction of their area.
    """

    size: tuple[int, int]
    tiles: tuple[Tile, ...]
    fill: int
    min_visible: float

    def paint(self, read: ReadResized) -> np.ndarray:
        """The canvas, (H, W, C) uint8."""
        images = [read(tile.record, tile.resize) for tile in self.tiles]
        canvas = np.full((*self.size, images[0].shape[2]), self.fill, images[0].dtype)
        for tile, image in zip(self.tiles, images):
            x, y = tile.corner
            left, top, right, bottom = tile.window
            canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
        return canvas

    def annotations(self) -> list[dict[str, Any]]:
        """Of all four, with boxes XYXY in pixels of the canvas."""
        return [one for tile in self.tiles for one in tile.annotations(self.min_visible)]


class Mosaic(T.Augmentation):
    """With probability `prob` an image becomes a mosaic of itself and three others, drawn from all (arXiv:2004.10934).

    The canvas is as large as the image would be after `ResizeShortestEdge(image_size, max_size)`. A point of it is
    drawn, at which the corners of four images meet: the image itself above and to the left. Each is resized to what it
    would be alone times a factor of its own, and cut off where its quarter ends. Crowds stay crowds.

    It stands in front of the other augmentations, which are done to the mosaic, and is for loradet's `DetectionMapper`
    in loradet's training loader: an image of another mapper has no others.

    Args:
        image_size: pixels of the shorter edge.
        max_size: limit of the longer edge.
        prob: 0 to 1.
        scale: (smallest, largest) factor.
        centre: (least, most) position of the point where the images meet, as fractions of width and height.
        min_visible: boxes of which a smaller fraction is seen are dropped, 0 to 1.
        fill: value of what no image covers, 0 to 255.

    Raises:
        UserError: a value out of its range.
    """

    def __init__(
        self,
        *,
        image_size: int,
        max_size: int,
        prob: float = 0.5,
        scale: Sequence[float] = (0.5, 1.0),
        centre: Sequence[float] = (0.3, 0.7),
        min_visible: float = 0.1,
        fill: int = 128,
    ) -> None:
        super().__init__()
        self.image_size, self.max_size, self.prob = image_size, max_size, prob
        self.scale, self.centre = tuple(map(float, scale)), tuple(map(float, centre))
        self.min_visible, self.fill = min_visible, fill
        self._check()

    def get_transform(self, image: np.ndarray) -> NoReturn:  # noqa: ARG002
        """Not of an image alone.

        Raises:
            UserError: always; `DetectionMapper` calls `draw`.
        """
        raise UserError(
            "Mosaic needs the other images of the data set: put it in front of the augmentations of loradet's "
            "DetectionMapper, in a loader of loradet.datasets.loader.build_train_loader."
        )

    def draw(self, record: dict[str, Any], records: Sequence[dict[str, Any]], size_of: SizeOf) -> MosaicPlan | None:
        """Draw a mosaic, by numpy's generator; None where the image stays alone.

        Args:
            record: of the image.
            records: of all images.
            size_of: gives (height, width) of a record's image.
        """
        if self._rand_range() >= self.prob:
            return None
        others = [deepcopy(records[int(index)]) for index in np.random.randint(len(records), size=3)]
        height, width = T.ResizeShortestEdge.get_output_shape(*size_of(record), self.image_size, self.max_size)
        x, y = (round(self._rand_range(*self.centre) * side) for side in (width, height))
        tiles = []
        for number, one in enumerate([record, *others]):
            is_right, is_lower = number % 2, number // 2
            resize = self._resize(size_of(one))
            left = x if is_right else x - resize.new_w
            top = y if is_lower else y - resize.new_h
            quarter = (x, width) if is_right else (0, x), (y, height) if is_lower else (0, y)
            (x0, x1), (y0, y1) = (
                (max(start, low), min(start + length, high))
                for start, length, (low, high) in zip((left, top), (resize.new_w, resize.new_h), quarter)
            )
            tiles.append(Tile(one, resize, (left, top), (x0, y0, x1, y1)))
        return MosaicPlan((height, width), tuple(tiles), self.fill, self.min_visible)

    def _resize(self, size: tuple[int, int]) -> T.ResizeTransform:
        factor = self._rand_range(*self.scale)
        new_h, new_w = T.ResizeShortestEdge.get_output_shape(*size, self.image_size * factor, self.max_size * factor)
        return T.ResizeTransform(*size, max(1, new_h), max(1, new_w))

    def _check(self) -> None:
        if self.image_size < 2 or self.max_size < self.image_size:
            raise UserError(
                f"Mosaic: image_size={self.image_size}, max_size={self.max_size}: expected pixels from 2 on, the "
                "second no less than the first."
            )
        if not 0 <= self.prob <= 1 or not 0 <= self.min_visible <= 1:
            raise UserError(f"Mosaic: prob={self.prob}, min_visible={self.min_visible}: expected 0 to 1.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"Mosaic: scale={self.scale}: expected (smallest, largest) factor, above 0.")
        if len(self.centre) != 2 or not 0 <= self.centre[0] <= self.centre[1] <= 1:
            raise UserError(f"Mosaic: centre={self.centre}: expected (least, most) from 0 to 1.")
        if not 0 <= self.fill <= 255:
            raise UserError(f"Mosaic: fill={self.fill}: expected 0 to 255.")
