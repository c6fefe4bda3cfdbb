"""Colour: transforms that leave coordinates as they are, and augmentations that draw how strong."""

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.data.transforms.augmentation import Augmentation
from fvcore.transforms.transform import BlendTransform, NoOpTransform, Transform
from PIL import Image


class ColorTransform(Transform):
    """What a function makes of the image; boxes and label maps stay as they are.

    Args:
        op: from an image (H, W, C) to an image of the same size. It draws nothing at random, since a transform
            does the same each time.

    Raises:
        ValueError: `op` is no function.
    """

    def __init__(self, op: Callable[[Any], Any]):
        if not callable(op):
            raise ValueError(f"{type(self).__name__}: op must be a function of an image, got {op!r}.")
        super().__init__()
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """`op` of the image."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """The same points."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The same label map."""
        return segmentation

    def inverse(self) -> Transform:
        """Nothing: an inverse is about coordinates."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """`ColorTransform` whose function takes and returns an image of pillow, such as those of `PIL.ImageOps`."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """`op` of the image (H, W) or (H, W, 3), uint8."""
        return np.asarray(self.op(Image.fromarray(img)))


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


class RandomLighting(Augmentation):
    """Add to every pixel of an RGB image one colour, drawn along the principal components of ImageNet's pixels.

    "PCA jittering" of AlexNet (Krizhevsky et al., 2012, section 4.1), which draws with a scale of 0.1 for pixel
    values in [0, 1]: the colour is small for values in [0, 255].

    Args:
        scale: standard deviation of the components' weights.
    """

    # Eigenvectors (columns) and eigenvalues of ImageNet's colours, pixel values in [0, 1]. From
    # https://github.com/facebookarchive/fb.resnet.torch/blob/master/datasets/imagenet.lua
    eigen_vecs = np.array(((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)))
    eigen_vals = np.array((0.2175, 0.0188, 0.0045))

    def __init__(self, scale: float):
        self.scale = scale

    def get_transform(self, image: np.ndarray) -> Transform:
        if image.shape[-1] != 3:
            raise AssertionError(f"RandomLighting takes RGB images (H, W, 3), got {image.shape}.")
        weights = np.random.normal(scale=self.scale, size=3)
        color = self.eigen_vecs.dot(weights * self.eigen_vals)
        return BlendTransform(src_image=color, src_weight=1.0, dst_weight=1.0)
