"""What counts as a usable box, and how large an image is: shared by readers, checks and summaries."""

import math
from pathlib import Path
from typing import Any

from PIL import Image

_ORIENTATION = 274  # EXIF tag; values 5 to 8 turn the image by a quarter


def parse_xywh(value: Any) -> tuple[float, float, float, float] | None:
    """The four finite numbers of a COCO box (x, y, width, height), or None where it is none."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in value):
        return None
    return tuple(float(number) for number in value)


def is_usable(value: Any) -> bool:
    """Whether a COCO box is finite and has an area."""
    box = parse_xywh(value)
    return box is not None and box[2] > 0 and box[3] > 0


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) with the EXIF orientation applied, as Detectron2 reads it; needs the header only."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from an image's header, upright.

    Raises:
        OSError: missing or not an image.
    """
    with Image.open(path) as image:
        return upright_size(image)
