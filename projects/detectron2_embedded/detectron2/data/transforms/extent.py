"""A rectangle of the image, which may reach beyond it, stretched to a size."""

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import Transform
from PIL import Image


class ExtentTransform(Transform):
    """Stretch the rectangle `src_rect` of an image to `output_size`.

    Args:
        src_rect: (x0, y0, x1, y1) in pixels of the image; what lies outside of it is `fill`.
        output_size: (height, width) of the result.
        interp: a filter of pillow.
        fill: value of all channels outside of the image.
    """

    def __init__(
        self,
        src_rect: Sequence[float],
        output_size: tuple[int, int],
        interp: int = Image.BILINEAR,
        fill: float = 0,
    ):
        super().__init__()
        self.src_rect = src_rect
        self.output_size = output_size
        self.interp = interp
        self.fill = fill

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Cut (H, W) or (H, W, C) of a dtype that pillow knows: uint8, or float32 without channels."""
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        bands = len(image.getbands())
        height, width = self.output_size
        image = image.transform(
            (width, height),
            Image.EXTENT,
            data=self.src_rect,
            resample=self.interp if interp is None else interp,
            fillcolor=self.fill if bands == 1 else (self.fill,) * bands,
        )
        cut = np.asarray(image)
        return cut[:, :, None] if one_channel else cut

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points (N, 2) in the result; float32."""
        coords = coords.astype(np.float32)
        height, width = self.output_size
        x0, y0, x1, y1 = self.src_rect
        # From the rectangle's middle to the result's middle, each axis by its own factor.
        for axis, (low, high, size) in enumerate(((x0, x1, width), (y0, y1, height))):
            coords[:, axis] -= 0.5 * (low + high)
            coords[:, axis] *= size / (high - low)
            coords[:, axis] += 0.5 * size
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Cut a label map (H, W) by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)


class RandomExtent(Augmentation):
    """Cut a rectangle of the image's shape at a random scale and place, without resizing; black outside.

    Args:
        scale_range: (min, max) of the rectangle's edges relative to the image's.
        shift_range: (x, y), how far the middle may move: up to half an image's width times x to the left and to
            the right, half a height times y up and down.
    """

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]):
        self.scale_range = scale_range
        self.shift_range = shift_range

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        rect = np.array((-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height))
        rect *= np.random.uniform(*self.scale_range)
        for axis, size in enumerate((width, height)):
            rect[axis::2] += self.shift_range[axis] * size * (np.random.rand() - 0.5)
            rect[axis::2] += 0.5 * size
        x0, y0, x1, y1 = rect
        return ExtentTransform(src_rect=(x0, y0, x1, y1), output_size=(int(y1 - y0), int(x1 - x0)))
