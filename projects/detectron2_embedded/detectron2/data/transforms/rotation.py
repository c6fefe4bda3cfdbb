"""Rotation in the image plane. Angles are degrees, counter-clockwise as one sees the image (y points down)."""

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform, TransformList

# OpenCV is imported where it is used: it takes a tenth of a second, and most trainings rotate nothing.


class RotationTransform(Transform):
    """Rotate images of (h, w) pixels by `angle` degrees counter-clockwise; what comes into sight is black.

    Args:
        h, w: size of the image.
        angle: degrees.
        expand: make the result as large as the whole rotated image needs, `bound_h` x `bound_w`. Without, it
            keeps the size and corners are lost.
        center: (x, y) of the fixed point in pixels, by default the middle of the image. It only shifts the
            result, and has no effect with `expand`.
        interp: an interpolation flag of OpenCV, by default `cv2.INTER_LINEAR`.
    """

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: Sequence[float] | None = None,
        interp: int | None = None,
    ):
        import cv2

        super().__init__()
        self.h = h
        self.w = w
        self.angle = angle
        self.expand = expand
        self.image_center = np.array((w / 2, h / 2))
        self.center = self.image_center if center is None else center
        self.interp = cv2.INTER_LINEAR if interp is None else interp
        self.bound_h, self.bound_w = self._size_of_result()
        self.rm_coords = self.create_rotation_matrix()
        # OpenCV puts pixel (0, 0) at the origin; in coordinates its centre is at (0.5, 0.5).
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def _size_of_result(self) -> tuple[int, int]:
        if not self.expand:
            return self.h, self.w
        radians = np.deg2rad(self.angle)
        cos, sin = abs(np.cos(radians)), abs(np.sin(radians))
        height, width = np.rint((self.h * cos + self.w * sin, self.h * sin + self.w * cos))
        return int(height), int(width)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """(2, 3) float64 matrix that takes (x, y, 1) to the result, all coordinates moved by `offset`."""
        import cv2

        center = (self.center[0] + offset, self.center[1] + offset)
        matrix = cv2.getRotationMatrix2D(center, self.angle, 1)
        if self.expand:
            middle = cv2.transform((self.image_center + offset)[None, None], matrix)[0, 0]
            matrix[:, 2] += np.array((self.bound_w / 2, self.bound_h / 2)) + offset - middle
        return matrix

    @property
    def _does_nothing(self) -> bool:
        return self.angle % 360 == 0

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Rotate (H, W) or (H, W, C) of a dtype that OpenCV warps; a single channel (H, W, 1) becomes (H, W).

        Raises:
            AssertionError: the image does not have the size that this transform was made for.
        """
        import cv2

        if len(img) == 0 or self._does_nothing:
            return img
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(
                f"RotationTransform was made for images of (h, w) = {(self.h, self.w)}, got {img.shape[:2]}."
            )
        flags = self.interp if interp is None else interp
        return cv2.warpAffine(img, self.rm_image, (self.bound_w, self.bound_h), flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Rotate (N, 2) points (x, y); float64."""
        import cv2

        coords = np.asarray(coords, dtype=np.float64)
        if len(coords) == 0 or self._does_nothing:
            return coords
        return cv2.transform(coords[:, None], self.rm_coords)[:, 0]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Rotate a label map (H, W) by nearest neighbour."""
        import cv2

        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def inverse(self) -> TransformList:
        """The rotation back and a crop to (h, w). Sizes are whole pixels, so points return to within one.

        Raises:
            NotImplementedError: without `expand`, since corners are lost.
        """
        if not self.expand:
            raise NotImplementedError("RotationTransform with expand=False cuts corners off; it has no inverse.")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        crop = CropTransform((back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2, self.w, self.h)
        return TransformList([back, crop])


class RandomRotation(Augmentation):
    """Rotate by an angle that is drawn.

    Args:
        angle: in degrees: one angle, or (min, max) of a "range", or the list of angles of a "choice".
        expand: see `RotationTransform`.
        center: fixed point relative to the image, (0, 0) its upper left corner and (1, 1) its lower right one:
            one point, or ((min x, min y), (max x, max y)) of a "range", or the list of points of a "choice".
            None is the middle. No effect with `expand`.
        sample_style: "range" draws uniformly, "choice" from the lists.
        interp: see `RotationTransform`.
    """

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[float] | Sequence[Sequence[float]] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ):
        if sample_style not in ("range", "choice"):
            raise AssertionError(f"sample_style must be 'range' or 'choice', got {sample_style!r}.")
        if isinstance(angle, (int, float)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (int, float)):
            center = (center, center)
        self.angle = angle
        self.expand = expand
        self.center = center
        self.sample_style = sample_style
        self.interp = interp
        self.is_range = sample_style == "range"

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        angle, center = self._draw()
        if angle % 360 == 0:
            return NoOpTransform()
        if center is not None:
            center = (width * center[0], height * center[1])
        return RotationTransform(height, width, angle, expand=self.expand, center=center, interp=self.interp)

    def _draw(self) -> tuple[float, Sequence[float] | None]:
        """Angle in degrees and relative centre."""
        if not self.is_range:
            angle = np.random.choice(self.angle)
            return angle, None if self.center is None else self.center[np.random.randint(len(self.center))]
        angle = np.random.uniform(*self.angle)
        if self.center is None:
            return angle, None
        lows, highs = self.center
        return angle, [np.random.uniform(low, high) for low, high in zip(lows, highs)]
