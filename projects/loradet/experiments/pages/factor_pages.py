"""The report's page on one factor: a table of its levels, what it says in words, and curves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loradet.evaluation.cells import NOTHING
from loradet.experiments.factors.design import Level, level_text
from loradet.experiments.factors.effects import greatest
from loradet.experiments.factors.runs import AP50, FactorRun, FactorRuns, average
from loradet.experiments.pages.document import Section, Table
from loradet.experiments.pages.factor_plots import level_curves
from loradet.experiments.results.dynamics import GAIN
from loradet.experiments.results.seed_statistics import PairedDifference, paired_difference, summary_cell
from loradet.experiments.study.definition import MAIN_METRIC

SMOKE = "These are smoke runs: they show that the report fills itself, and nothing of the factors."
_EQUAL = 0.0005  # of AP: what three digits do not show
_Value = Callable[[FactorRun], float | None]


def factor_page(runs: FactorRuns, factor: str) -> Section:
    """Levels of a factor side by side, each against the baseline's."""
    levels = {level: runs.at(factor, level) for level in runs.design.factors[factor]}
    texts = [*([SMOKE] if runs.is_short else []), _comparison(runs), *sentences(runs, factor)]
    images = " (smoke runs)" if runs.is_short else ""
    plot = level_curves(factor, levels, runs.label)
    return Section(f"Factor: {factor}{images}", texts, [_table(runs, factor)], plots=[plot] if plot else [])


def _comparison(runs: FactorRuns) -> str:
    if runs.design.is_factorial:
        return (
            "A level is judged by all runs that have it; the others are at the same combinations of the other factors. "
            "Intervals are under «Main effects and interactions», once enough of them have run."
        )
    return (
        f"A level is judged by the runs that differ from {runs.design.baseline.id} in this factor alone. Differences "
        "are taken seed by seed; a difference of two runs of one seed may be chance alone."
    )


def _table(runs: FactorRuns, factor: str) -> Table:
    at = {level: runs.at(factor, level) for level in runs.design.factors[factor]}
    columns: list[tuple[str, Callable[[Level], str]]] = [
        (factor, lambda level: level_text(level) + (" (baseline)" if level == _baseline(runs, factor) else "")),
        ("finished", lambda level: _finished(at[level])),
    ]

    def add(header: str, value: _Value, digits: int, scale: float = 1.0) -> None:
        columns.append((header, lambda level: summary_cell(average(at[level], _scaled(value, scale)), digits)))

    add("AP50", lambda run: run.metric(AP50), 3)
    add("AP", lambda run: run.metric(MAIN_METRIC), 3)
    columns.append((f"{runs.label} − baseline", lambda level: _difference(runs, factor, level)))
    add("converged at epoch", _of("convergence_epoch"), 1)
    add("best epoch", _of("best_epoch"), 1)
    add("oscillation", _of("oscillation"), 4)
    add("gradient variation", _of("gradient_variation"), 2)
    add("gradient spikes", _of("gradient_spikes"), 1)
    add("plateau (epochs)", _of("plateau_epochs"), 1)
    columns.append(("overfits from epoch", lambda level: _overfitting(at[level])))
    add(f"{runs.label} val − test", lambda run: run.gap(runs.metric), 3)
    add("peak memory (MiB)", lambda run: run.record("peak_memory_mb"), 0)
    add("training time (min)", lambda run: run.record("train_seconds"), 1, 1 / 60)
    rows = [[cell(level) for _, cell in columns] for level in runs.design.factors[factor]]
    return Table([header for header, _ in columns], rows)


def _baseline(runs: FactorRuns, factor: str) -> Level:
    return runs.design.baseline.factors[factor]


def _of(name: str) -> _Value:
    return lambda run: getattr(run.dynamics, name) if run.result.state == "finished" else None


def _scaled(value: _Value, scale: float) -> _Value:
    return lambda run: None if (found := value(run)) is None else scale * found


def _finished(runs: Sequence[FactorRun]) -> str:
    if not runs:
        return NOTHING
    done = sum(run.result.state == "finished" for run in runs)
    diverged = sum(run.dynamics.diverged for run in runs)
    return f"{done} of {len(runs)}" + (f"; {diverged} diverged" if diverged else "")


def _overfitting(runs: Sequence[FactorRun]) -> str:
    found = [epoch for run in runs if (epoch := run.dynamics.overfitting_epoch) is not None]
    if not found:
        return NOTHING
    return f"{sum(found) / len(found):.3g} ({len(found)} of {len(runs)} runs)"


def _paired(runs: FactorRuns, factor: str, level: Level) -> PairedDifference | None:
    """Of the primary metric; in a factorial without interval, since its pairs are no repetitions of one another."""
    if runs.design.is_factorial:
        changes = _changes(runs, factor, level)
        return PairedDifference(sum(changes) / len(changes), None, None, ()) if changes else None
    by_seed = ({place[-1]: v for place, v in one.items()} for one in _places(runs, factor, level))
    return paired_difference(*by_seed)


def _changes(runs: FactorRuns, factor: str, level: Level) -> list[float]:
    """Of the primary metric from the baseline's level, pair by pair of runs that are alike in all else."""
    own, base = _places(runs, factor, level)
    return [own[place] - base[place] for place in own if place in base]


def _places(runs: FactorRuns, factor: str, level: Level) -> tuple[dict[tuple, float], dict[tuple, float]]:
    return runs.by_place(factor, level), runs.by_place(factor, _baseline(runs, factor))


def _difference(runs: FactorRuns, factor: str, level: Level) -> str:
    found = None if level == _baseline(runs, factor) else _paired(runs, factor, level)
    if found is None:
        return NOTHING
    return f"{found.mean:+.3f}" + ("" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})")


def sentences(runs: FactorRuns, factor: str) -> list[str]:
    """What the table says: one sentence a level, then which one is best and whether that is told from the baseline.

    A level's difference of AP is always named; other quantities where they differ from the baseline's by the factors
    and margins below. They come of the runs' means, and are no tests.
    """
    base = _baseline(runs, factor)
    levels = [base, *(level for level in runs.design.factors[factor] if level != base)]
    return [*(_sentence(runs, factor, level) for level in levels), *_best(runs, factor)]


@dataclass(frozen=True, kw_only=True)
class _Ratio:
    """What two levels are compared in: its value, when a difference is named, and the words for more and less.

    Attributes:
        times: from this ratio on, in either direction.
        margin: from this difference on.
        number: format of a mean.
    """

    value: _Value
    times: float
    margin: float
    more: str
    less: str
    number: str


_RATIOS = (
    _Ratio(
        value=_of("convergence_epoch"),
        times=1.2,
        margin=0.5,
        more="converges {times:.1f} times later",
        less="converges {times:.1f} times sooner",
        number="epoch {:.3g}",
    ),
    _Ratio(
        value=_of("oscillation"),
        times=1.5,
        margin=0.002,
        more="oscillates more",
        less="oscillates less",
        number="{:.3f}",
    ),
    _Ratio(
        value=_of("gradient_variation"),
        times=1.25,
        margin=0.05,
        more="has less steady gradients",
        less="has steadier gradients",
        number="{:.2f}",
    ),
    _Ratio(
        value=lambda run: run.record("peak_memory_mb"),
        times=1.1,
        margin=1,
        more="takes more memory",
        less="takes less memory",
        number="{:.0f} MiB",
    ),
    _Ratio(
        value=lambda run: run.record("train_seconds"),
        times=1.25,
        margin=1,
        more="trains {times:.1f} times as long",
        less="trains in less time",
        number="{:.0f} s",
    ),
)
_GAP = 0.01  # of AP between val and test
_LONG = 0.25  # of the training: a plateau


def _sentence(runs: FactorRuns, factor: str, level: Level) -> str:
    own = runs.at(factor, level)
    is_base = level == _baseline(runs, factor)
    name = f"{factor}={level_text(level)}" + (" (baseline)" if is_base else "")
    if not any(run.result.state == "finished" for run in own):
        notes = "; ".join(dict.fromkeys(run.note for run in own if run.note)) or "missing"
        return f"{name}: no run has finished ({notes})."
    if is_base:
        ap = average(own, lambda run: run.metric(runs.metric))
        clauses = [f"{runs.label} {summary_cell(ap, 3)}"]
        if epoch := average(own, _of("convergence_epoch")):
            clauses.append(f"converges at epoch {epoch.mean:.3g}")
    else:
        pairs = _comparable(runs, factor, level)
        clauses = [_ap_clause(runs, factor, level), *_ratio_clauses(*pairs), *_gap_clause(runs, *pairs)]
    clauses += _curve_clauses(own)
    if lost := sum(run.dynamics.diverged for run in own):
        clauses.append(f"{lost} of {len(own)} runs diverged")
    return f"{name}: {'; '.join(clauses)}."


def _ap_clause(runs: FactorRuns, factor: str, level: Level) -> str:
    found = _paired(runs, factor, level)
    base = f"{factor}={level_text(_baseline(runs, factor))}"
    if found is None:
        ap = average(runs.at(factor, level), lambda run: run.metric(runs.metric))
        if ap is None:
            return f"no run of it has a number of {runs.label}"
        return f"its {runs.label} is {summary_cell(ap, 3)}, and no run at {base} is its like in all else"
    words = "within 0.001 of" if abs(found.mean) < _EQUAL else f"{abs(found.mean):.3f} {_side(found.mean)}"
    text = f"{runs.label} is {words} that of {base}"
    if runs.design.is_factorial:
        changes = _changes(runs, factor, level)
        span = f"{min(changes):+.3f} to {max(changes):+.3f} in {len(changes)} pairs of runs"
        return f"{text} on average over the combinations ({span})"
    seeds = f"seed{'s' * (len(found.seeds) > 1)} {', '.join(map(str, found.seeds))}"
    if found.low is None:
        return f"{text} ({seeds} alone, so that chance is not told from effect)"
    zero = ", which holds 0" if found.low <= 0 <= found.high else ""
    return f"{text} ({seeds}: 95 % interval {found.low:+.3f} to {found.high:+.3f}{zero})"


def _comparable(runs: FactorRuns, factor: str, level: Level) -> tuple[list[FactorRun], list[FactorRun]]:
    """Runs of a level and of the baseline's; in a factorial only those that have a partner among the others."""
    levels = (level, _baseline(runs, factor))
    if not runs.design.is_factorial:
        return tuple(runs.at(factor, one) for one in levels)
    places = [runs.by_place(factor, one) for one in levels]
    shared = places[0].keys() & places[1].keys()
    return tuple([run for run in runs.at(factor, one) if runs.place(factor, run) in shared] for one in levels)


def _side(difference: float) -> str:
    return "above" if difference > 0 else "below"


def _ratio_clauses(own: Sequence[FactorRun], base: Sequence[FactorRun]) -> list[str]:
    clauses = []
    for one in _RATIOS:
        mine, other = average(own, one.value), average(base, one.value)
        if mine is None or other is None or abs(mine.mean - other.mean) < one.margin:
            continue
        low, high = sorted((mine.mean, other.mean))
        if high < one.times * low:
            continue
        words = one.more if mine.mean > other.mean else one.less
        words = words.format(times=high / low if low else math.inf)
        clauses.append(f"{words} ({one.number.format(mine.mean)} against {one.number.format(other.mean)})")
    return clauses


def _gap_clause(runs: FactorRuns, own: Sequence[FactorRun], base: Sequence[FactorRun]) -> list[str]:
    mine, other = (average(some, lambda run: run.gap(runs.metric)) for some in (own, base))
    if mine is None or other is None or abs(mine.mean - other.mean) < _GAP:
        return []
    words = "larger" if mine.mean > other.mean else "smaller"
    return [f"its gap from val to test is {words} ({mine.mean:+.3f} against {other.mean:+.3f})"]


def _curve_clauses(own: Sequence[FactorRun]) -> list[str]:
    clauses = []
    found = [run.dynamics.overfitting_epoch for run in own if run.dynamics.overfitting_epoch is not None]
    if found:
        whole = "" if len(found) == len(own) else f" in {len(found)} of {len(own)} runs"
        clauses.append(f"overfits from epoch {sum(found) / len(found):.3g} on{whole}")
    lengths = [r.dynamics.evaluations[-1][0] for r in own if r.dynamics.evaluations and r.result.state == "finished"]
    plateau = average(own, _of("plateau_epochs"))
    if not found and plateau and lengths and plateau.mean > _LONG * sum(lengths) / len(lengths):
        clauses.append(f"gains no more than {GAIN:g} in its last {plateau.mean:.3g} epochs")
    return clauses


def _best(runs: FactorRuns, factor: str) -> list[str]:
    level = best_level(runs, factor)
    if level is None:
        return []
    if len(level_means(runs, factor)) == 1:
        return [f"Only {factor}={level_text(level)} has finished runs: its levels are not compared yet."]
    name = f"Best by mean {runs.label}: {factor}={level_text(level)}"
    own = runs.at(factor, level)
    if lost := sum(run.dynamics.diverged for run in own):
        name += f" ({lost} of {len(own)} runs there diverged)"
    if level == _baseline(runs, factor):
        return [f"{name}, the baseline's."]
    if runs.design.is_factorial:
        return [f"{name}."]
    found = _paired(runs, factor, level)
    has_interval = found is not None and found.low is not None
    told = has_interval and found.low > 0
    text = name if told else f"{name}; these runs do not tell it from the baseline's level"
    levels = len(runs.design.factors[factor])
    if has_interval and levels > 2:
        text += f" (by its 95 % interval, which is not corrected for the number of levels, {levels})"
    return [f"{text}."]


def level_means(runs: FactorRuns, factor: str) -> dict[Level, float]:
    """Mean of the primary metric by level, of those that have finished runs."""
    return {
        level: summary.mean
        for level in runs.design.factors[factor]
        if (summary := average(runs.at(factor, level), lambda run: run.metric(runs.metric)))
    }


def best_level(runs: FactorRuns, factor: str) -> Level | None:
    """The level whose runs have the greatest mean of the primary metric. None without any.

    Of equals it is the baseline's, which is no change, or else the first.
    """
    means = level_means(runs, factor)
    return greatest(means, _baseline(runs, factor)) if means else None
