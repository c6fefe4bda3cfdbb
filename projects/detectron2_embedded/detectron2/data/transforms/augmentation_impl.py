"""Random augmentations: flips, resizes, crops and colour."""

import sys
from typing import Any

import numpy as np
from detectron2.data.transforms.augmentation import AugInput, Augmentation, as_augmentation
from detectron2.data.transforms.transform import ResizeTransform
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image


class RandomApply(Augmentation):
    """Apply an augmentation or a transform with probability `prob`."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5):
        if not 0.0 <= prob <= 1.0:
            raise AssertionError(f"prob must be in [0, 1], got {prob}.")
        self.aug = as_augmentation(tfm_or_aug)
        self.prob = prob

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()

    def __repr__(self) -> str:
        return f"RandomApply({self.aug!r}, prob={self.prob})"

    __str__ = __repr__


class RandomFlip(Augmentation):
    """Flip with probability `prob`, horizontally or vertically (one of the two)."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError(
                f"RandomFlip takes exactly one of horizontal and vertical, got horizontal={horizontal}, "
                f"vertical={vertical}. Use two RandomFlip for both."
            )
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to `shape` = (height, width), or to a square where it is one number."""

    def __init__(self, shape: int | tuple[int, int], interp: int = Image.BILINEAR):
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale the short edge to a drawn length, keeping the aspect ratio, the long edge at most `max_size`.

    Args:
        short_edge_length: one length, or (min, max) of a "range", or the list of lengths of a "choice". 0
            means no resizing.
        max_size: limit of the long edge in pixels.
        sample_style: "range" draws an integer in [min, max], "choice" draws from the list.
        interp: a filter of pillow.
    """

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
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.sample_style == "range":
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


class FixedSizeCrop(Augmentation):
    """Crop to at most `crop_size` = (height, width); with `pad`, fill up on the right and at the bottom."""

    def __init__(
        self,
        crop_size: tuple[int, int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ):
        self.crop_size = crop_size
        self.pad = pad
        self.pad_value = pad_value
        self.seg_pad_value = seg_pad_value

    def get_transform(self, image: np.ndarray) -> TransformList:
        transforms = [self._crop(image)]
        if self.pad:
            transforms.append(self._pad(image))
        return TransformList(transforms)

    def _crop(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        spare = np.maximum(np.subtract((height, width), self.crop_size), 0)
        y0, x0 = np.round(spare * np.random.uniform(0.0, 1.0)).astype(int)
        return CropTransform(int(x0), int(y0), self.crop_size[1], self.crop_size[0], width, height)

    def _pad(self, image: np.ndarray) -> Transform:
        cropped_h, cropped_w = (min(edge, limit) for edge, limit in zip(image.shape, self.crop_size))
        return PadTransform(
            0,
            0,
            self.crop_size[1] - cropped_w,
            self.crop_size[0] - cropped_h,
            cropped_w,
            cropped_h,
            self.pad_value,
            self.seg_pad_value,
        )


class RandomCrop(Augmentation):
    """Crop a window at a random place.

    Args:
        crop_type: "relative": `crop_size` is a fraction (h, w) of the image; "relative_range": a fraction
            drawn from [crop_size, 1); "absolute": pixels (h, w), at most the image; "absolute_range": height
            and width are both drawn from crop_size = (min, max) pixels.
        crop_size: two numbers, as `crop_type` says.
    """

    CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")

    def __init__(self, crop_type: str, crop_size: tuple[float, float]):
        if crop_type not in self.CROP_TYPES:
            raise AssertionError(f"crop_type must be one of {self.CROP_TYPES}, got {crop_type!r}.")
        if crop_type == "absolute_range" and crop_size[0] > crop_size[1]:
            raise AssertionError(f"crop_size of 'absolute_range' must be (min, max), got {crop_size}.")
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        if crop_h > height or crop_w > width:
            raise AssertionError(
                f"RandomCrop({self.crop_type!r}, {self.crop_size}) does not fit into {(height, width)}."
            )
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the window for an image of (height, width); draws for the range types."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            crop_h = np.random.randint(min(height, first), min(height, second) + 1)
            crop_w = np.random.randint(min(width, first), min(width, second) + 1)
            return crop_h, crop_w
        fraction = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative":
            return int(height * first + 0.5), int(width * second + 0.5)
        fraction = fraction + np.random.rand(2) * (1 - fraction)
        return int(height * fraction[0] + 0.5), int(width * fraction[1] + 0.5)


class _RandomBlend(Augmentation):
    """Blend with a drawn weight w: w * image + (1 - w) * reference."""

    def __init__(self, intensity_min: float, intensity_max: float):
        self.intensity_min = intensity_min
        self.intensity_max = intensity_max

    def get_transform(self, image: np.ndarray) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=self._reference(image), src_weight=1 - weight, dst_weight=weight)

    def _reference(self, image: np.ndarray) -> Any:
        raise NotImplementedError


class RandomContrast(_RandomBlend):
    """Contrast factor in [intensity_min, intensity_max): 1 keeps the image, 0 gives its mean."""

    def _reference(self, image: np.ndarray) -> float:
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Brightness factor in [intensity_min, intensity_max): 1 keeps the image, 0 gives black."""

    def _reference(self, image: np.ndarray) -> int:  # noqa: ARG002
        return 0


class RandomSaturation(_RandomBlend):
    """Saturation factor in [intensity_min, intensity_max) of an RGB image: 1 keeps it, 0 gives gray."""

    def _reference(self, image: np.ndarray) -> np.ndarray:
        if image.ndim != 3 or image.shape[-1] != 3:
            raise AssertionError(f"RandomSaturation takes RGB images (H, W, 3), got {image.shape}.")
        luma = image.dot([0.299, 0.587, 0.114])  # ITU-R BT.601
        return luma[:, :, np.newaxis]
