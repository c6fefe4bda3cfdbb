"""Decodes the usual JPEG and PNG files to Pillow's pixels, straight into an array and in less time than Pillow."""

from collections.abc import Callable
from typing import IO

import cv2
import numpy as np
from PIL import Image

from loradet.datasets.images.decoding import silent_opencv

try:
    import simplejpeg  # libjpeg-turbo, as Pillow has it
except ImportError:  # no wheel for this platform
    simplejpeg = None


def decode_fast(
    file: IO[bytes], image: Image.Image | None, at_least: tuple[int, int] | None = None
) -> np.ndarray | None:
    """The pixels of a file as they are stored, not turned: grey (H, W) or RGB (H, W, 3) uint8.

    Args:
        file: opened.
        image: what Pillow has opened it as.
        at_least: (height, width) of pixels as they are stored: a JPEG may be decoded at a half, a quarter or an eighth
            of its size, which is not smaller than this.

    Returns:
        None of other formats, palettes, alpha and CMYK, and of what these decoders find anything wrong with: Pillow
        decodes it, or says what it is.
    """
    if image is None or image.mode not in ("L", "RGB") or image.format not in _DECODERS:
        return None
    width, height = image.size
    factor = _reduction((height, width), at_least) if at_least is not None and image.format == "JPEG" else 1
    size = (-(-height // factor), -(-width // factor))
    file.seek(0)
    values = _DECODERS[image.format](file.read(), image.mode == "L", size)
    return values if values is not None and values.shape[:2] == size else None


def reduces_jpegs() -> bool:
    """Whether `at_least` has an effect here."""
    return simplejpeg is not None


def _reduction(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    factors = (factor for factor in (8, 4, 2) if all(s >= factor * least for s, least in zip(size, at_least)))
    return next(factors, 1)


def _decode_jpeg(data: bytes, is_grey: bool, size: tuple[int, int]) -> np.ndarray | None:
    if simplejpeg is None:
        return None
    order = "GRAY" if is_grey else "RGB"
    try:
        values = simplejpeg.decode_jpeg(data, order, min_height=size[0], min_width=size[1], strict=True)
    except ValueError:
        return None
    return values[:, :, 0] if is_grey else values


def _decode_png(data: bytes, is_grey: bool, size: tuple[int, int]) -> np.ndarray | None:  # noqa: ARG001
    if data[24] != 8 or data[25] != (0 if is_grey else 2):  # bits a sample; grey or RGB
        return None
    flags = (cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    with silent_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return values if values is None or is_grey else values[:, :, ::-1]


_DECODERS: dict[str | None, Callable[[bytes, bool, tuple[int, int]], np.ndarray | None]] = {
    "JPEG": _decode_jpeg,
    "PNG": _decode_png,
}
