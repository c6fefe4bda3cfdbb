"""Where the tiles of an image lie."""

from typing import NamedTuple


class Window(NamedTuple):
    """A part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along a side: from end to end, evenly spread, as few as have the overlap.

    Args:
        length: of the side, pixels.
        tile: length of a tile, pixels; a shorter side is one tile.
        overlap: of neighbours, a share of the tile, 0 to under 1; they have at least as much.
    """
    if length <= tile:
        return [0]
    step = max(1, tile - round(tile * overlap))
    count = -(-(length - tile) // step) + 1
    return [number * (length - tile) // (count - 1) for number in range(count)]


def tile_windows(height: int, width: int, tile: int, overlap: float) -> list[Window]:
    """The tiles of an image, row by row, all of one size: a square, cut to the image where that is smaller."""
    size = min(tile, width), min(tile, height)
    return [
        Window(left, top, *size)
        for top in tile_starts(height, tile, overlap)
        for left in tile_starts(width, tile, overlap)
    ]
