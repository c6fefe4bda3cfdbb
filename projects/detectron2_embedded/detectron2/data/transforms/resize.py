"""Resizing: the transform, and augmentations that choose a size."""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

_TORCH_MODES = {
    Image.NEAREST: "nearest",
    Image.BILINEAR: "bilinear",
    Image.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize an image of size (h, w) to (new_h, new_w) pixels; `interp` is one of pillow's filters.

    uint8 images go through pillow, whose filters widen with the scale (antialiasing). Other dtypes go through
    `torch.nn.functional.interpolate`, which does not.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h = h
        self.w = w
        self.new_h = new_h
        self.new_w = new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (H, W) or (H, W, C), or (H, W, B, C) of another dtype than uint8.

        Raises:
            AssertionError: the image does not have the size that this transform was made for.
        """
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(
                f"ResizeTransform was made for images of (h, w) = {(self.h, self.w)}, got {img.shape[:2]}."
            )
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return self._resize_with_pillow(img, interp)
        return self._resize_with_torch(img, interp)

    def _resize_with_pillow(self, img: np.ndarray, interp: int) -> np.ndarray:
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if one_channel else resized

    def _resize_with_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        if interp not in _TORCH_MODES:
            raise ValueError(f"Filter {interp} works on uint8 images only; {img.dtype} takes nearest to bicubic.")
        mode = _TORCH_MODES[interp]
        tensor = torch.from_numpy(np.ascontiguousarray(img))
        planes = tensor.reshape(self.h, self.w, -1).permute(2, 0, 1)[None]
        align_corners = None if mode == "nearest" else False
        resized = F.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=align_corners)[0]
        return resized.permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (N, 2) points (x, y) in place, as all transforms do: an integer array loses the fractions."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """Scale (N, 4) boxes XYXY into a new array: floating point of their dtype, integers as float64."""
        box = np.asarray(box)
        return super().apply_box(box if np.issubdtype(box.dtype, np.floating) else box.astype(np.float64))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map (H, W) by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """The resize back to (h, w)."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class Resize(Augmentation):
    """Resize to `shape` = (height, width), or to a square where it is one number."""

    def __init__(self, shape: int | tuple[int, int], interp: int = Image.BILINEAR):
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class RandomResize(Augmentation):
    """Resize to one of the sizes of `shape_list`, a list of (height, width)."""

    def __init__(self, shape_list: list[tuple[int, int]], interp: int = Image.BILINEAR):
        self.shape_list = shape_list
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], height, width, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale the short edge to a drawn length, keeping the aspect ratio, the long edge at most `max_size`.

    Args:
        short_edge_length: one length, or (min, max) of a "range", or the list of lengths of a "choice". 0
            means no resizing.
        max_size: limit of the long edge in pixels.
        sample_style: "range" draws an integer in [min, max], "choice" draws from the list.
        interp: a filter of pillow.
    """

    # TorchScript compiles functions that call `get_output_shape`, and with it all of the class that is not marked, and
    # the types that annotations of what is marked name: `get_transform` has none.
    @torch.jit.unused
    def __init__(
        self,
        short_edge_length: int | list[int] | tuple[int, ...],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
        if sample_style not in ("range", "choice"):
            raise AssertionError(f"sample_style must be 'range' or 'choice', got {sample_style!r}.")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if sample_style == "range" and len(short_edge_length) != 2:
            raise AssertionError(
                f"sample_style='range' takes short_edge_length=(min, max), got {short_edge_length}. "
                "Use sample_style='choice' for a list of lengths."
            )
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.sample_style = sample_style
        self.is_range = sample_style == "range"
        self.interp = interp

    @torch.jit.unused
    def get_transform(self, image):
        height, width = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            length = np.random.randint(low, high + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        new_hw = self.get_output_shape(height, width, length, self.max_size)
        return ResizeTransform(height, width, *new_hw, self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after scaling, rounded half up."""
        # The order of operations decides the last pixel: the short edge is exact before the limit applies.
        scale = float(short_edge_length) / min(oldh, oldw)
        if oldh < oldw:
            height, width = float(short_edge_length), scale * oldw
        else:
            height, width = scale * oldh, float(short_edge_length)
        if max(height, width) > max_size:
            shrink = float(max_size) / max(height, width)
            height, width = height * shrink, width * shrink
        return int(height + 0.5), int(width + 0.5)


class ResizeScale(Augmentation):
    """Fit the image into the target size times a factor drawn from [min_scale, max_scale).

    The aspect ratio is kept. With `FixedSizeCrop` it makes large scale jittering (arXiv:2012.07177).
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ):
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.target_height = target_height
        self.target_width = target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(self.min_scale, self.max_scale)
        size = np.array(image.shape[:2])
        scale = (np.array([self.target_height, self.target_width]) * factor / size).min()
        new_h, new_w = np.round(size * scale).astype(int)
        return ResizeTransform(*image.shape[:2], int(new_h), int(new_w), self.interp)
