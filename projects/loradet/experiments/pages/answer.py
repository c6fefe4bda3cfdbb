"""The opening of a report: which experiment is best, with what certainty, and a plot."""

from collections.abc import Sequence

from loradet.experiments.pages.document import Section
from loradet.experiments.pages.plots import ap_against_parameters
from loradet.experiments.pages.shown import say_so, shown
from loradet.experiments.results.intervals import Intervals
from loradet.experiments.results.seed_statistics import PairedDifference, interval_of_mean, paired_difference
from loradet.experiments.results.table import Row, by_seed
from loradet.experiments.study.definition import MAIN_METRIC

_SHOWN = 6  # ids that a sentence lists
_AHEAD, _UNSURE = "it is ahead of", "it is not distinguishable from"


def main_split(table: Sequence[Row]) -> str | None:
    """The first split of full runs that has AP, else "smoke"; None where nothing is measured."""
    measured = [row.split for row in table if MAIN_METRIC in row.metrics]
    return next((split for split in measured if split != "smoke"), measured[0] if measured else None)


def answer_section(table: Sequence[Row], intervals: Intervals | None) -> Section:
    """A sentence on what the runs show, how it was found, and AP against trained parameters with intervals.

    Args:
        intervals: over the images, for experiments of one seed.
    """
    split = main_split(table)
    if split is None:
        return Section("Answer", ["No run has numbers yet: there is nothing to say."])
    rows = [row for row in table if row.split == split and MAIN_METRIC in row.metrics]
    sentence = _sentence(rows, split)
    texts = [sentence, *([_HOW] if _AHEAD in sentence or _UNSURE in sentence else [])]

    def interval(row: Row) -> tuple[float, float] | None:
        return interval_of_mean(row.metrics[MAIN_METRIC]) or _over_images(row, intervals)

    plot = say_so(ap_against_parameters(shown(table), split, interval=interval), table, split)
    notes = [_bars(rows, intervals)] if plot else []
    return Section("Answer", texts, plots=[plot] if plot else [], notes=notes)


_HOW = (
    "Ahead: the 95 % interval of the difference, seed by seed, lies above 0. Not distinguishable: it holds 0, which "
    "does not say that two are equal. The intervals are not corrected for the number of comparisons."
)


def _sentence(rows: Sequence[Row], split: str) -> str:
    best = max(rows, key=lambda row: row.metrics[MAIN_METRIC].mean)
    ap = best.metrics[MAIN_METRIC]
    count = best.parameters("all")
    trained = "" if count is None else f", with {count / 1e6:.3f} M trained parameters"
    where = "In the smoke runs" if split == "smoke" else f"On {split}"
    where += " (synthetic images)" if best.data else ""
    head = f"{where}, {_name(best)} has {{}}AP {ap.mean:.3f} ({_seeds(ap.n)}){trained}"
    others = [row for row in rows if row is not best]
    if not others:
        return head.format("") + "; no other experiment has numbers to hold it against."
    ends = " Smoke runs say nothing of the methods." if split == "smoke" else ""
    return head.format("the highest ") + f": {_support(best, others)}.{ends}"


def _name(row: Row) -> str:
    return row.entry.id if row.entry.title == row.entry.id else f"{row.entry.id} ({row.entry.title})"


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"mean of {n} seeds"


def _support(best: Row, others: Sequence[Row]) -> str:
    ahead, unsure, untold = [], [], []
    shared: set[int] = set()
    for row in others:
        found = paired_difference(by_seed(best), by_seed(row))
        if found is None or found.low is None:
            untold.append(row.entry.id)
            continue
        (ahead if found.low > 0 else unsure).append(row.entry.id)
        if found.low <= 0:
            shared.add(_number(found))
    parts = []
    if ahead:
        parts.append(f"{_AHEAD} {_ids(ahead)}")
    if unsure:
        counts = " to ".join(map(str, sorted({min(shared), max(shared)})))
        parts.append(f"{_UNSURE} {_ids(unsure)} with {counts} seeds")
    if untold:
        why = "fewer than two shared seeds say nothing of chance"
        parts.append(f"whether it is better than {_ids(untold)} the data do not say ({why})")
    return "; ".join(parts)


def _number(found: PairedDifference) -> int:
    return len(found.seeds)


def _ids(names: Sequence[str]) -> str:
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return ", ".join(names[: _SHOWN - 1]) + f" and {len(names) - _SHOWN + 1} others"


def _over_images(row: Row, intervals: Intervals | None) -> tuple[float, float] | None:
    found = (intervals or {}).get((row.measured[0].folder, row.split)) or {}
    one = found.get("mAP")
    return None if one is None or not one.low <= one.high else (one.low, one.high)


def _bars(rows: Sequence[Row], intervals: Intervals | None) -> str:
    several = [row for row in rows if row.metrics[MAIN_METRIC].n > 1]
    single = [row for row in rows if row.metrics[MAIN_METRIC].n == 1]
    parts = []
    if several:
        parts.append("Bars of several seeds: Student's interval of their mean.")
    if single and any(_over_images(row, intervals) for row in single):
        parts.append("Bars of one seed: over the choice of images alone, by the bootstrap.")
    elif single:
        parts.append("Points without bars have one seed, and so no interval; --bootstrap N gives one over the images.")
    return " ".join(parts)
