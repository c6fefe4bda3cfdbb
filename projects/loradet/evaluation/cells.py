"""Numbers as the cells of a table."""

import math

NOTHING = "–"


def number_cell(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point; `NOTHING` for None and NaN."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def millions_cell(count: int | None) -> str:
    """A count of parameters in millions, as `4.332`."""
    return number_cell(None if count is None else count / 1e6)
