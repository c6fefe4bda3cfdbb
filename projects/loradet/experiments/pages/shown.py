"""Which experiments the plots of a report tell apart, where a study has more than a page can show."""

from collections.abc import Sequence
from dataclasses import replace

from loradet.experiments.pages.figures import Plot
from loradet.experiments.results.table import Row
from loradet.experiments.study.definition import MAIN_METRIC

MOST = 40  # experiments, all of which are drawn
BEST = 12  # drawn of more than that


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows; of a split with more than `MOST` the `BEST` with the highest AP of ours, in the order given."""
    kept: set[int] = set()
    for split in dict.fromkeys(row.split for row in rows):
        here = [place for place, row in enumerate(rows) if row.split == split]
        count = len(here) if len(here) <= MOST else BEST
        kept |= set(sorted(here, key=lambda place: -_ap(rows[place]))[:count])
    return [row for place, row in enumerate(rows) if place in kept]


def _ap(row: Row) -> float:
    return row.metrics[MAIN_METRIC].mean if MAIN_METRIC in row.metrics else -1.0


def say_so(plot: Plot | None, rows: Sequence[Row], split: str) -> Plot | None:
    """The plot; where `shown` has left rows of its split out, its caption says it."""
    count = sum(row.split == split for row in rows)
    if plot is None or count <= MOST:
        return plot
    return replace(plot, caption=f"{plot.caption} {left_out(count)}")


def left_out(count: int) -> str:
    """A sentence on what is drawn of so many experiments."""
    return f"Shown are the {BEST} of {count} experiments with the highest AP."
