"""What counts as a box."""

import math
from collections.abc import Sequence


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
