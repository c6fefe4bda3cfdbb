"""Image files as arrays: the one way in which trainings, evaluations and all tools read pixels."""

from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image

from loradet.datasets.images.decoding import decode, turn_array
from loradet.datasets.images.fast_decoding import decode_fast
from loradet.datasets.images.header import SampleFormat, parse_header, swaps_height_and_width
from loradet.datasets.images.intensity import AUTO, Intensity


def read_image(file_name: str, format: str = "RGB", intensity: Intensity = AUTO) -> np.ndarray:
    """Read an image file upright, its values brought into 0..255 by a rule.

    An image of eight bits a sample is what pillow makes of it, unless the rule is for these too. Alpha is left out.

    Args:
        file_name: path.
        format: "RGB", "BGR", "L" and the others of `detectron2.data.detection_utils.read_image`.
        intensity: the rule.

    Returns:
        (H, W, 3) uint8, read-only or not; (H, W, 1) of "L".

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read or decoded; the message names it.
    """
    image, samples, _ = _read(file_name)
    return _finish(image, samples, format, intensity)


def read_reduced(
    file_name: str, at_least: tuple[int, int], format: str = "RGB", intensity: Intensity = AUTO
) -> tuple[np.ndarray, tuple[int, int]]:
    """`read_image`, of a JPEG at a half, a quarter or an eighth of its size, where that is not smaller than `at_least`.

    The decoder leaves out the finer waves of each block: that is quick, and nearly an average over pixels.

    Args:
        at_least: (height, width) in pixels, upright.
        file_name, format, intensity: as of `read_image`.

    Returns:
        The image, and (height, width) of the file's, upright.
    """
    image, samples, size = _read(file_name, at_least)
    return _finish(image, samples, format, intensity), size


def _finish(image: Image.Image | np.ndarray, samples: SampleFormat, format: str, intensity: Intensity) -> np.ndarray:
    if isinstance(image, Image.Image) and intensity.changes(samples):
        image = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    if isinstance(image, Image.Image):
        return _of_pillow(image, format)
    return _in_format(intensity.apply(image, samples), format)


def _of_pillow(image: Image.Image, format: str) -> np.ndarray:
    if format in ("RGB", "BGR"):  # an exported detector reads images without Detectron2, and without torch
        return np.asarray(image.convert("RGB"))[:, :, :: 1 if format == "RGB" else -1]
    from detectron2.data.detection_utils import convert_PIL_to_numpy

    return convert_PIL_to_numpy(image, format)


def _open(file_name: str) -> IO[bytes]:
    if "://" not in str(file_name):
        return Path(file_name).open("rb")
    from detectron2.utils.file_io import PathManager

    return PathManager.open(file_name, "rb")


def _in_format(image: np.ndarray, format: str) -> np.ndarray:
    """An array of eight bits, grey (H, W) or RGB (H, W, 3), as Detectron2's `convert_PIL_to_numpy` has its picture."""
    if image.ndim == 2 and format == "L":
        return image[:, :, None]
    if image.ndim == 2 and format in ("RGB", "BGR"):
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.ndim == 3 and format in ("RGB", "BGR"):
        return image if format == "RGB" else image[:, :, ::-1]
    return _of_pillow(Image.fromarray(image), format)


def read_values(file_name: str) -> tuple[np.ndarray, SampleFormat]:
    """The values of an image as the file has them, upright: (H, W) or RGB (H, W, 3), and what they are.

    Raises:
        As `read_image`.
    """
    image, samples, _ = _read(file_name)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    return image, samples


def _read(
    file_name: str, at_least: tuple[int, int] | None = None
) -> tuple[Image.Image | np.ndarray, SampleFormat, tuple[int, int]]:
    """Upright pixels, what a sample is, and (height, width) of the file.

    Of eight bits an array where there is a fast decoder for it, else as pillow has it; deeper an array.
    """
    try:
        with _open(file_name) as file:
            header, image = parse_header(file)
            size = header.height, header.width
            if at_least is not None and swaps_height_and_width(header.turn):
                at_least = at_least[::-1]
            values = None if header.samples.is_deep else decode_fast(file, image, at_least)
            if values is None:
                file.seek(0)
                return *decode(file), size
            return values if header.turn is None else turn_array(values, header.turn), header.samples, size
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Image file {file_name} does not exist.") from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and more on broken files
        raise OSError(f"Cannot read image file {file_name}: {type(error).__name__}: {error}") from error
