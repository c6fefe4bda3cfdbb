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


def decode_fast(file: IO[bytes], image: Image.Image | None) -> np.ndarray | None:
    """The pixels of a file as they are stored, not turned: grey (H, W) or RGB (H, W, 3) uint8.

    Args:
        file: opened.
        image: what Pillow has opened it as.

    Returns:
        None of other formats, palettes, alpha and CMYK, and of what these decoders find anything wrong with: Pillow
        decodes it, or says what it is.
    """
    decoder = _DECODERS.get(image.format) if image is not None and image.mode in ("L", "RGB") else None
    if decoder is None:
        return None
    file.seek(0)
    values = decoder(file.read(), image.mode == "L")
    return values if values is not None and values.shape[1::-1] == image.size else None


def _decode_jpeg(data: bytes, is_grey: bool) -> np.ndarray | None:
    if simplejpeg is None:
        return None
    try:
        values = simplejpeg.decode_jpeg(data, "GRAY" if is_grey else "RGB", strict=True)
    except ValueError:
        return None
    return values[:, :, 0] if is_grey else values


def _decode_png(data: bytes, is_grey: bool) -> np.ndarray | None:
    if data[24] != 8 or data[25] != (0 if is_grey else 2):  # bits a sample; grey or RGB
        return None
    flags = (cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    with silent_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return values if values is None or is_grey else values[:, :, ::-1]


_DECODERS: dict[str | None, Callable[[bytes, bool], np.ndarray | None]] = {"JPEG": _decode_jpeg, "PNG": _decode_png}
