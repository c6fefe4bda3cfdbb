"""Resizes images of eight bits to Pillow's pixels by torch's integer kernels, which take a part of its time.

Both filter the rows, round to eight bits, and filter the columns; Pillow has weights of 22 bits and torch of 15 or so.
So a value that lies next to the middle between two levels may be rounded the other way. Some scales, as 5:4, put many
values exactly there: an axis is tried once on noise, and a size at which the two differ too often is left to Pillow.
"""

import warnings
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

# Of the values of white noise, over both axes. Photographs have half as many that differ, or fewer.
MOST_DIFFERENT = 0.0125
_BILINEAR = int(Image.Resampling.BILINEAR)
_TRIED_PIXELS = 1 << 12


def resize(image: np.ndarray, size: tuple[int, int], interp: int = _BILINEAR) -> np.ndarray:
    """What `PIL.Image.resize` makes of an image, but for a few values that are one level apart.

    Of photographs these are 0.1 % or so, at most 0.6 % at any size; of white noise up to twice as many.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8, of any strides. Other channels go through Pillow.
        size: (height, width) in pixels, at least 1.
        interp: a filter's number in Pillow. Others than the bilinear one go through Pillow.

    Returns:
        Of `size` and as many dimensions; the image itself, not a copy, where it has that size already.
    """
    if image.shape[:2] == size:
        return image
    height, width = image.shape[:2]
    is_strip = height > 50 * width  # Pillow filters the columns of such ones first
    is_usual = interp == _BILINEAR and (image.ndim == 2 or image.shape[2:] in ((1,), (3,))) and not is_strip
    if not is_usual or sum(map(_difference, image.shape[:2], size)) > MOST_DIFFERENT:
        return _resize_by_pillow(image, size, interp)
    return _resize_by_torch(image, size)


def to_planes(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) as a new contiguous (C, H, W); mirrored views and BGR ones are followed, not copied first."""
    if image.ndim == 2:
        return np.array(image[None], order="C")
    usual = image.dtype == np.uint8 and image.shape[2] == 3
    if not usual or abs(image.strides[2]) != 1 or abs(image.strides[1]) != 3 or image.strides[0] < 1:
        return np.array(image.transpose(2, 0, 1), order="C")
    is_mirrored, is_reversed = image.strides[1] < 0, image.strides[2] < 0
    pixels = image[:, :: -1 if is_mirrored else 1, :: -1 if is_reversed else 1]
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes[::-1] if is_reversed else planes))
    if is_mirrored:
        for plane in planes:
            cv2.flip(plane, 1, plane)
    return planes


@lru_cache(maxsize=1 << 14)
def _difference(old: int, new: int) -> float:
    """The share of values of noise that torch rounds otherwise along an axis; 1 where one is two levels apart."""
    if old == new:
        return 0.0
    rows = max(16, _TRIED_PIXELS // new)
    noise = np.random.default_rng(0).integers(0, 256, (rows, old, 3), dtype=np.uint8)
    distances = cv2.absdiff(_resize_by_torch(noise, (rows, new)), _resize_by_pillow(noise, (rows, new), _BILINEAR))
    return float((distances > 0).mean()) if distances.max() <= 1 else 1.0


def _resize_by_torch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    is_reversed = image.ndim == 3 and image.strides[2] < 0
    pixels = image[:, :, ::-1] if is_reversed else image
    if min(pixels.strides) < 0:
        pixels = np.ascontiguousarray(pixels)
    with warnings.catch_warnings():
        # An array over Pillow's memory is read-only; nothing is written here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        tensor = torch.from_numpy(pixels)
    # The batch comes first, so that its stride says «channels last» and torch puts no planes together.
    batch = tensor.reshape(1, *image.shape[:2], -1).permute(0, 3, 1, 2)
    resized = F.interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    array = resized.permute(0, 2, 3, 1)[0].numpy().reshape(*size, *image.shape[2:])
    return array[:, :, ::-1] if is_reversed else array


def _resize_by_pillow(image: np.ndarray, size: tuple[int, int], interp: int) -> np.ndarray:
    one_channel = image.ndim == 3 and image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if one_channel else image)
    resized = np.asarray(picture.resize(size[::-1], interp))
    return resized[:, :, None] if one_channel else resized
