"""What counts as a box, and how large an image is."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_ORIENTATION = 274  # EXIF tag; values 5 to 8 turn the image by a quarter


def has_sides(box: Sequence[float]) -> bool:
    """Whether a box XYWH has an area: sides that are positive, and not lost beside their coordinates' rounding.

    The same for many boxes is `loradet.datasets.annotations.table.has_area`.
    """
    x, y, width, height = box
    return (
        width > 1e4 * math.ulp(abs(x) + abs(width))
        and height > 1e4 * math.ulp(abs(y) + abs(height))
        and width * height > 0
    )


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
