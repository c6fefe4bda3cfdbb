"""Pictures of equal size in rows, each under its title."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loradet.errors import UserError
from loradet.visualization.text import GAP, LINE, text_block, text_line

SHEET_ROWS = 24  # images on a contact sheet: more would make a picture that few viewers open


@dataclass(frozen=True)
class Cell:
    """A picture (H, W, 3), RGB uint8, and the line above it; `kind` is the end of that line, which stays whole."""

    title: str
    image: np.ndarray
    kind: str = ""


def grid(rows: Sequence[Sequence[Cell]], *, heading: str = "") -> np.ndarray:
    """One picture of all cells; what is missing at the end of a row stays white.

    Args:
        rows: cells of one size.
        heading: above the grid, in as many lines as it needs.

    Raises:
        ValueError: no cells, or their sizes differ.
    """
    sizes = {cell.image.shape for row in rows for cell in row}
    if len(sizes) != 1:
        raise UserError(f"A grid needs cells of one size, got {sorted(sizes) or 'none'}.")
    height, width, _ = sizes.pop()
    columns = max(len(row) for row in rows)
    total = GAP + columns * (width + GAP)
    strips = [text_block(heading, total)] if heading else []
    for row in rows:
        strip = np.full((LINE + height + GAP, total, 3), 255, np.uint8)
        for column, cell in enumerate(row):
            left = GAP + column * (width + GAP)
            strip[:LINE, left : left + width] = text_line(cell.title, width, keep=cell.kind)
            strip[LINE : LINE + height, left : left + width] = cell.image
        strips.append(strip)
    return np.vstack(strips)


def wrap(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """The cells in rows of as many columns."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]
