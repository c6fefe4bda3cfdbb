"""Lengths to draw from, relative to the one that a config evaluates at."""

from collections.abc import Sequence

from loradet.errors import UserError


def short_edges(length: int, factors: Sequence[float]) -> list[int]:
    """Lengths for `ResizeShortestEdge`: `length` times each factor, rounded to whole pixels, at least 1, ascending.

    Args:
        length: of the shorter edge in pixels, at factor 1.
        factors: above 0.

    Raises:
        UserError: no factors, or one that is not above 0.
    """
    if not len(factors) or min(factors) <= 0:
        raise UserError(f"short_edges: factors={list(factors)}: expected numbers above 0.")
    return sorted({max(1, round(length * factor)) for factor in factors})
