"""Random affine augmentation of images with boxes, for Detectron2's mapper."""

import math
from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from loradet.datasets.warping import warp_affine

IGNORED = 255  # Detectron2's label of pixels that do not count


class AffineTransform(T.Transform):
    """An affine map of image, points and boxes; the image keeps its size.

    A box becomes the box around its four mapped corners, clipped to the image. One of which too little is left becomes
    a point, a box without area: Detectron2's own mapper takes such boxes out (`filter_empty_instances`), and transforms
    that follow keep it one. Points (`apply_coords`) are neither clipped nor dropped.

    Args:
        matrix: (2, 3), from (x, y, 1) to (x, y), in pixels. Pixel i covers i to i + 1.
        height, width: of the image.
        fill: value of pixels from outside the image, one or one a channel.
        min_visible: the fraction of a mapped box's area that must lie inside the image for it to be kept, 0 to 1.
    """

    def __init__(
        self,
        matrix: np.ndarray,
        height: int,
        width: int,
        *,
        fill: float | Sequence[float] = 0.0,
        min_visible: float = 0.1,
    ) -> None:
        super().__init__()
        self.matrix = np.asarray(matrix, dtype=np.float64)
        self.height = height
        self.width = width
        self.fill = fill
        self.min_visible = min_visible

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Warp (H, W) or (H, W, C), uint8 or floating point, by bilinear interpolation.

        Raises:
            AssertionError: the image does not have the size that this transform was made for.
        """
        return self._warp(img, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Warp a label map (H, W) by nearest neighbour; what comes from outside the image becomes `IGNORED`."""
        return self._warp(segmentation.astype(np.float64), IGNORED, nearest=True).astype(segmentation.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map (N, 2) points (x, y)."""
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """Map (N, 4) boxes, XYXY in pixels, clip them, and make those that are hardly visible points."""
        around = super().apply_box(np.asarray(box, dtype=np.float64).reshape(-1, 4))
        clipped = np.clip(around, 0.0, [self.width, self.height, self.width, self.height])
        areas, left = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (around, clipped))
        lost = (left <= 0) | (left < self.min_visible * areas)
        clipped[lost, 2:] = clipped[lost, :2]
        return clipped

    def _warp(self, img: np.ndarray, fill: float | Sequence[float], *, nearest: bool = False) -> np.ndarray:
        if img.shape[:2] != (self.height, self.width):
            raise AssertionError(
                f"AffineTransform was made for images of (h, w) = {(self.height, self.width)}, got {img.shape[:2]}."
            )
        channels = img.shape[2] if img.ndim == 3 else 1
        border = [float(value) for value in (fill if isinstance(fill, Sequence) else [fill] * channels)]
        if len(border) != channels:
            raise ValueError(f"fill={fill} has {len(border)} values, the image has {channels} channels.")
        # The warp counts from the middles of pixels.
        matrix = self.matrix.copy()
        matrix[:, 2] += self.matrix[:, :2].sum(axis=1) * 0.5 - 0.5
        return warp_affine(img, matrix, border=border, nearest=nearest)


class RandomAffine(T.Augmentation):
    """Rotate, shear, scale and shift about the image's centre, with probability `prob`.

    The point p goes to centre + shift + R S (p - centre): S scales and shears, x by y and y by x, each by an angle of
    its own; R rotates. All draws are uniform and independent. Boxes: see `AffineTransform`.

    Args:
        rotate: the largest angle either way, degrees.
        shear: the largest angle either way, degrees, under 45.
        translate: the largest shift either way, as a fraction of the width (in x) and of the height (in y).
        scale: (smallest, largest) factor of both sides.
        prob: how often an image is changed at all.
        fill: value of pixels from outside the image, one or one a channel, in the image's own range and channel order.
        min_visible: boxes of whose mapped area a smaller fraction is inside the image are dropped.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        *,
        rotate: float = 5.0,
        shear: float = 3.0,
        translate: float = 0.03,
        scale: Sequence[float] = (0.9, 1.1),
        prob: float = 0.4,
        fill: float | Sequence[float] = 0.0,
        min_visible: float = 0.1,
    ) -> None:
        super().__init__()
        self.rotate, self.shear, self.translate = rotate, shear, translate
        self.scale = tuple(float(factor) for factor in scale)
        self.prob = prob
        # Plain numbers: a config hands its own kind of list over.
        self.fill = float(fill) if isinstance(fill, (int, float)) else tuple(float(value) for value in fill)
        self.min_visible = min_visible
        self._check()

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a transform for an image (H, W, ...); NoOpTransform where it stays as it is."""
        if self._rand_range() >= self.prob:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        angle, shear_x, shear_y = (
            math.radians(self._rand_range(-limit, limit)) for limit in (self.rotate, self.shear, self.shear)
        )
        factor = self._rand_range(*self.scale)
        shift = [self._rand_range(-self.translate, self.translate) * side for side in (width, height)]
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = rotation @ (factor * np.array([[1.0, math.tan(shear_x)], [math.tan(shear_y), 1.0]]))
        centre = np.array([width / 2, height / 2])
        matrix = np.column_stack([linear, centre + shift - linear @ centre])
        return AffineTransform(matrix, height, width, fill=self.fill, min_visible=self.min_visible)

    def _check(self) -> None:
        if self.rotate < 0 or not 0 <= self.shear < 45 or self.translate < 0:
            raise ValueError(
                f"rotate={self.rotate}, shear={self.shear}, translate={self.translate}: expected limits from 0 on, and "
                "a shear under 45 degrees."
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale}: expected (smallest, largest) factor, above 0.")
        if not 0 <= self.prob <= 1 or not 0 <= self.min_visible <= 1:
            raise ValueError(f"prob={self.prob}, min_visible={self.min_visible}: expected fractions from 0 to 1.")
