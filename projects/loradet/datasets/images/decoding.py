"""Decodes image files of any depth, upright."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import cv2
import numpy as np
from PIL import Image

from loradet.datasets.images.header import ImageHeader, SampleFormat, parse_header

_opencv_log = getattr(cv2.utils, "logging", cv2)  # since OpenCV 5
_LOG_LEVEL = _opencv_log.getLogLevel()


def decode(file: IO[bytes]) -> tuple[Image.Image | np.ndarray, SampleFormat]:
    """The pixels of an opened image file, upright, and what a sample of them is.

    Returns:
        Pillow's image where a sample has eight bits; else an array (H, W) or RGB (H, W, 3) of the file's values.

    Raises:
        Exception: decoders raise OSError, SyntaxError, ValueError, struct.error and more on broken files.
    """
    header, image = parse_header(file)
    if header.samples.is_deep:
        file.seek(0)
        return _decode_deep(file.read(), header), header.samples
    image = image or _reopen(file)
    image.load()
    return image if header.turn is None else image.transpose(header.turn), header.samples


def _reopen(file: IO[bytes]) -> Image.Image:
    file.seek(0)
    return Image.open(file)


def _decode_deep(data: bytes, header: ImageHeader) -> np.ndarray:
    """(H, W) or RGB (H, W, 3), upright. Pillow would cut what is deeper than eight bits."""
    samples = header.samples
    if header.obstacle is not None:
        raise ValueError(f"{samples} samples: {header.obstacle}")
    with silent_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype.kind != samples.kind[0].replace("s", "i") or values.itemsize * 8 < samples.bits:
        raise ValueError(f"OpenCV {cv2.__version__} cannot decode its {samples} samples")
    channels = values.shape[2] if values.ndim == 3 else 1
    if channels not in (1, 3, 4) or (header.channels is not None and channels != header.channels):
        raise ValueError(f"{samples} samples: decoded to {channels} channels, expected grey, RGB or RGBA")
    values = values[:, :, 2::-1] if channels > 1 else values.reshape(values.shape[:2])
    if header.turn is not None:
        values = turn_array(values, header.turn)
    height, width = values.shape[:2]
    if (height, width) != (header.height, header.width):
        raise ValueError(f"decoded to {width}x{height} pixels, its header says {header.width}x{header.height}")
    if header.is_inverted:
        values = np.invert(values)
    return np.ascontiguousarray(values)


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Nothing on standard error of what is wrong with a file, which OpenCV does not name."""
    _opencv_log.setLogLevel(0)
    try:
        yield
    finally:
        _opencv_log.setLogLevel(_LOG_LEVEL)  # not what it was before: another thread may decode too


def turn_array(values: np.ndarray, turn: Image.Transpose) -> np.ndarray:
    """What `Image.transpose` does, of an array (H, W, ...)."""
    return {
        Image.Transpose.FLIP_LEFT_RIGHT: lambda v: v[:, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: lambda v: v[::-1],
        Image.Transpose.ROTATE_90: np.rot90,
        Image.Transpose.ROTATE_180: lambda v: v[::-1, ::-1],
        Image.Transpose.ROTATE_270: lambda v: np.rot90(v, -1),
        Image.Transpose.TRANSPOSE: lambda v: v.swapaxes(0, 1),
        Image.Transpose.TRANSVERSE: lambda v: v[::-1, ::-1].swapaxes(0, 1),
    }[turn](values)
