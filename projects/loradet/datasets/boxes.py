"""The definition of a valid box."""

import math
from collections.abc import Sequence

# Pixels that a box may reach over the image's edge: coordinates are often rounded.
TOLERANCE = 0.5
# The least side of a box, in pixels, less what sums of decimals in binary lose.
LEAST_SIDE = 1 - 1e-6


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
