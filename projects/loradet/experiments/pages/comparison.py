"""The report's table of entries minus their baselines."""

from collections.abc import Sequence

from loradet.evaluation.cells import NOTHING
from loradet.experiments.pages.document import Section, Table
from loradet.experiments.results.seed_statistics import PairedDifference, reach
from loradet.experiments.results.table import Comparison

_FEW = 5  # seeds


def comparison_section(compared: Sequence[Comparison]) -> Section:
    """Differences seed by seed with their intervals; empty without any."""
    if not compared:
        return Section("")
    has_reported = any(one.reported for one in compared)
    headers = ["id", "experiment", "minus", "split", "AP difference", "95 % interval", "seeds"]
    headers += ["AP difference reported", "95 % interval reported"] if has_reported else []
    body = []
    for one in compared:
        cells = [one.entry.id, one.entry.title, one.baseline.id, one.split, *_difference(one.ours)]
        cells.append(", ".join(map(str, one.ours.seeds)) if one.ours else NOTHING)
        body.append(cells + (_difference(one.reported) if has_reported else []))
    return Section("Differences from the baselines", [_about_differences(compared)], [Table(headers, body)])


def _about_differences(compared: Sequence[Comparison]) -> str:
    """What the intervals are, for the numbers of seeds that there are."""
    found = (one for pair in compared for one in (pair.ours, pair.reported) if one is not None)
    counts = sorted({len(one.seeds) for one in found})
    several = [count for count in counts if count > 1]
    texts = ["Differences are taken seed by seed."]
    if several:
        reaches = ", ".join(f"{reach(count):.1f} with n = {count}" for count in several)
        texts.append(
            f"Their 95 % interval is Student's, of the mean; it reaches this many sample standard deviations to each "
            f"side: {reaches}. One that holds 0 does not say that two methods are equal."
        )
    if several and several[0] <= _FEW:
        texts.append(f"{'Two' if several[0] == 2 else several[0]} seeds are few: only large differences show.")
    if counts[0] == 1:
        texts.append("With one shared seed there is no interval, and nothing tells a difference from chance.")
    return " ".join(texts)


def _difference(found: PairedDifference | None) -> list[str]:
    if found is None:
        return [NOTHING, NOTHING]
    interval = NOTHING if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
    return [f"{found.mean:+.3f}", interval]
