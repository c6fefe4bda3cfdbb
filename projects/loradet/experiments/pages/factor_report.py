"""What a report adds for a study of factors: comparison, a page a factor, effects, the next run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loradet.evaluation.cells import NOTHING
from loradet.experiments.factors.design import Level, design, level_text, levels_text
from loradet.experiments.factors.effects import FactorialAnalysis, Observation, analyse
from loradet.experiments.factors.file import FILE as NUMBERS
from loradet.experiments.factors.file import factors_to_dict
from loradet.experiments.factors.next_run import FILE, CombinationError, NextRun, next_run
from loradet.experiments.factors.runs import AP50, FactorRun, FactorRuns, average, factor_runs, notes
from loradet.experiments.pages.document import Section, Table
from loradet.experiments.pages.factor_pages import SMOKE, best_level, factor_page, level_means
from loradet.experiments.pages.factor_plots import interaction_plot
from loradet.experiments.results.dynamics import CONVERGED, FALL, GAIN, SPIKE
from loradet.experiments.results.folders import Result
from loradet.experiments.results.seed_statistics import Summary, summary_cell
from loradet.experiments.study.definition import MAIN_METRIC, Study

_COMPARISON = (
    "Metrics are of the best weights on {split}, means over the finished runs; the best epoch is that of the periodic "
    "evaluations. Training time is that of the iterations alone."
)
_RULES = (
    "On the pages of the factors, with AP that of the periodic evaluations: converged = first evaluation with "
    f"{CONVERGED:.0%} of the run's best; oscillation = (Σ|Δ| - |ΣΔ|) / n over the n changes Δ of AP from there on; "
    "gradient variation = standard deviation over mean of the gradient norm in the second half of training; spikes = "
    f"norms above {SPIKE:g} medians; plateau = epochs after the last gain of more than {GAIN:g}; overfits = the best "
    f"epoch, where the last three evaluations have fallen (their median, by more than {FALL:g} and twice the "
    "oscillation) while the loss went on falling. Losses and norms are as logged: medians of up to 20 iterations."
)
_METHOD = (
    "Least squares with mean, main effects and two-way interactions, sum coding: the effect of a level is its mean "
    "over all combinations minus the mean of all of them, that of a pair what is left when both levels' effects are "
    "taken off. The share is of the total sum of squares (η²)."
)
_WITHIN = (
    "Intervals and F are held against the variance of the seeds within combinations, with {degrees} degrees of "
    "freedom. They take the runs for independent, normal and equally spread, and many effects are tested at once: with "
    "two or three seeds a small p is a hint."
)
_NO_ERROR = "No combination has two runs, so that nothing says how much of this is chance: no intervals, no tests."


@dataclass(frozen=True)
class FactorReport:
    """Sections for the report, and files to lie beside it: name -> text."""

    sections: Sequence[Section] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def factor_report(study: Study, results: Sequence[Result]) -> FactorReport:
    """Everything about the factors of a study; empty for a study without them, and before its first run.

    Plots are drawn in the style that is set (see `figures.drawing_style`).

    Raises:
        ValueError: an entry lacks a factor.
    """
    plan = design(_with_entries_of(results, study))
    runs = None if plan is None else factor_runs(plan, results)
    if runs is None:
        return FactorReport()
    analyses = _analyses(runs)
    following = _next_section(study, runs, analyses.get(runs.metric))
    sections = [
        _comparison_section(runs),
        *(factor_page(runs, factor) for factor in plan.factors),
        *_effect_sections(runs, analyses),
        *following.sections,
    ]
    numbers = json.dumps(factors_to_dict(runs, analyses), indent=2)
    return FactorReport(sections, {NUMBERS: numbers, **following.files})


def _with_entries_of(results: Sequence[Result], study: Study) -> Study:
    """The study with the entries of its results, which have been read already."""
    read = {result.entry.id: result.entry for result in results}
    return replace(study, entries=tuple(read.get(entry.id, entry) for entry in study.entries))


def _comparison_section(runs: FactorRuns) -> Section:
    headers = ["experiment", "mAP@0.5", "mAP@0.5:0.95", "training time", "best epoch", "peak memory (MiB)", "notes"]
    rows = []
    for entry in runs.design.entries:
        own = runs.of(entry)
        if not own:
            continue
        done = [run for run in own if run.result.state == "finished"]
        rows.append(
            [
                entry.title,
                summary_cell(average(own, lambda run: run.metric(AP50)), 3),
                summary_cell(average(own, lambda run: run.metric(MAIN_METRIC)), 3),
                _duration(average(done, lambda run: run.record("train_seconds"))),
                summary_cell(average(done, lambda run: run.dynamics.best_epoch), 1),
                summary_cell(average(done, lambda run: run.record("peak_memory_mb")), 0),
                notes(own) or NOTHING,
            ]
        )
    synthetic = " Synthetic images." if any(run.result.synthetic for run in runs.runs) else ""
    text = _COMPARISON.format(split=runs.runs[0].split) + synthetic
    title = "Comparison" + (" (smoke runs)" if runs.is_short else "")
    return Section(title, [text], [Table(headers, rows)], notes=[_RULES])


def _duration(seconds: Summary | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds.mean < 90:
        return f"{seconds.mean:.0f} s"
    minutes = seconds.mean / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _analyses(runs: FactorRuns) -> dict[str, FactorialAnalysis]:
    """Metric -> analysis, the primary one first, of those that the runs allow; empty for one factor at a time."""
    if not runs.design.is_factorial:
        return {}
    names = dict.fromkeys((runs.metric, AP50, MAIN_METRIC))
    found = {name: analyse(_observations(runs, name), runs.design.factors) for name in names}
    return {name: analysis for name, analysis in found.items() if analysis is not None}


def _observations(runs: FactorRuns, metric: str) -> list[Observation]:
    values = [(run.entry.factors, run.metric(metric)) for run in runs.runs]
    return [Observation(levels, value) for levels, value in values if value is not None]


def _effect_sections(runs: FactorRuns, analyses: Mapping[str, FactorialAnalysis]) -> list[Section]:
    """Effects on the primary metric, or else on the first of those that have an analysis."""
    if not analyses:
        return []
    metric, first = next(iter(analyses.items()))
    lost = [run for run in runs.runs if run.metric(metric) is None]
    degrees = sum(s.n - 1 for s in first.cells.values())
    texts = [_METHOD, _WITHIN.format(degrees=degrees) if degrees else _NO_ERROR]
    if metric != runs.metric:
        texts.insert(0, _without_primary(runs, _label(metric)))
    if lost:
        texts.append(_lost(lost))
    if not first.balanced:
        texts.append(
            "Combinations do not have the same number of runs, or some have none: sums of squares are those of leaving "
            "a term out (type III), and shares need not add up to 1."
        )
    if first.left_out:
        pairs = ", ".join(" × ".join(pair) for pair in first.left_out)
        texts.append(
            f"Not told from other terms by these runs, and so left out (what they do is in the rest): {pairs}."
        )
    labels = {name: _label(name) for name in analyses}
    tables = [_variance_table(analyses, labels)]
    tables += [_effect_table(first, labels[metric], order) for order in (1, 2)]
    pairs = [e.factors for e in first.effects if len(e.factors) == 2]
    plots = [interaction_plot(first, *pair, labels[metric]) for pair in dict.fromkeys(pairs)]
    return [Section("Main effects and interactions", texts, [one for one in tables if one.rows], plots=plots)]


def _without_primary(runs: FactorRuns, label: str) -> str:
    known = len(_observations(runs, runs.metric))
    return (
        f"There is no analysis of {runs.label}, by which the runs chose their weights: {known or 'none'} of the "
        f"{len(runs.runs)} runs {'has' if known < 2 else 'have'} a number of it, too few to tell the factors' effects "
        f"apart. The effects here are those on {label}."
    )


def _lost(runs: Sequence[FactorRun]) -> str:
    diverged = sum(run.dynamics.diverged for run in runs)
    why = f" (of them diverged: {diverged}; what is said here is of the others)" if diverged else ""
    return f"Runs without numbers, and so left out: {len(runs)}{why}."


def _label(metric: str) -> str:
    return "AP" + metric.removeprefix(MAIN_METRIC).removeprefix("_")


def _variance_table(analyses: Mapping[str, FactorialAnalysis], labels: Mapping[str, str]) -> Table:
    tested = any(row.f is not None for analysis in analyses.values() for row in analysis.variance)
    headers = ["metric", "term", "degrees of freedom", "sum of squares", "share"] + (["F", "p"] if tested else [])
    rows = []
    for name, analysis in analyses.items():
        for row in analysis.variance:
            cells = [labels[name], row.name, str(row.degrees), f"{row.sum_of_squares:.3g}"]
            cells.append(NOTHING if row.share is None else f"{100 * row.share:.1f} %")
            if tested:
                cells += [NOTHING, NOTHING] if row.f is None else [f"{row.f:.1f}", f"{row.p:.2g}"]
            rows.append(cells)
    return Table(headers, rows)


def _effect_table(analysis: FactorialAnalysis, label: str, order: int) -> Table:
    """Effects of levels (order 1), or of pairs of levels (2)."""
    has_interval = any(effect.low is not None for effect in analysis.effects)
    headers = ["levels" if order == 2 else "level", f"effect on {label}"]
    headers += ["standard error", "95 % interval"] if has_interval else []
    headers += [f"mean {label}"] if order == 1 else []
    rows = []
    for effect in (one for one in analysis.effects if len(one.factors) == order):
        cells = [levels_text(dict(zip(effect.factors, effect.levels))), f"{effect.estimate:+.4f}"]
        if has_interval:
            cells += [f"{effect.standard_error:.4f}", f"{effect.low:+.4f} to {effect.high:+.4f}"]
        if order == 1:
            cells.append(f"{analysis.mean + effect.estimate:.3f}")
        rows.append(cells)
    return Table(headers, rows)


def _next_section(study: Study, runs: FactorRuns, analysis: FactorialAnalysis | None) -> FactorReport:
    """The best levels together; of a factorial that has run them, its best combination."""
    base = runs.design.baseline.factors
    best = analysis.best_levels(base) if analysis else {name: best_level(runs, name) for name in runs.design.factors}
    if all(level is None for level in best.values()):
        return FactorReport()
    together = {name: base[name] if level is None else level for name, level in best.items()}
    texts = [SMOKE] if runs.is_short else []
    texts.append(f"The best level of each factor, by mean {runs.label}: {levels_text(together)}.")
    if alone := [name for name in runs.design.factors if len(level_means(runs, name)) < 2]:
        texts.append(f"Not compared yet, for want of finished runs at two levels: {', '.join(alone)}.")
    chosen, more = _choose(runs, together, analysis)
    rows = [
        [name, level_text(level), summary_cell(average(runs.at(name, level), lambda run: run.metric(runs.metric)), 3)]
        for name, level in together.items()
    ]
    table = Table(["factor", "best level", f"mean {runs.label}"], rows)
    try:
        run = next_run(runs.design, chosen, f"work_dirs/{study.name.replace('/', '_')}_next")
    except CombinationError as error:
        return FactorReport([Section("Next run", [*texts, more, str(error)], [table])])
    return FactorReport([Section("Next run", [*texts, more, *_how(study, runs, run)], [table])], {FILE: run.text})


def _choose(
    runs: FactorRuns, together: dict[str, Level], analysis: FactorialAnalysis | None
) -> tuple[dict[str, Level], str]:
    """The levels to run next, and why."""
    if not runs.design.is_factorial:
        return together, "One factor at a time says nothing of how they act together: the run itself will."
    if analysis is None:
        return together, f"Too few combinations have a number of {runs.label} to tell the factors' effects apart."
    cell = analysis.best_cell()
    value = analysis.cells[tuple(cell.values())].text(3)
    reached = analysis.cells.get(tuple(together.values()))
    if reached is None:
        return together, f"The best combination among those that were run: {levels_text(cell)}, {runs.label} {value}."
    if cell == together:
        return together, f"It is the best combination of those that were run, too: {runs.label} {value}."
    return cell, (
        f"Together they reach {reached.text(3)}. The best combination of all is another one, since the factors "
        f"interact or by chance: {levels_text(cell)}, {runs.label} {value}."
    )


def _how(study: Study, runs: FactorRuns, run: NextRun) -> list[str]:
    if run.existing is None:
        return [
            f"Not run yet. Its config is {FILE} beside this report: "
            f"python tools/lazyconfig_train_net.py --config-file <this folder>/{FILE}"
        ]
    again = f"python tools/experiments.py --study {study.path or study.name} run {run.existing.id}"
    if not any(one.result.state == "finished" for one in runs.of(run.existing)):
        return [f"It is the entry {run.existing.id}, which no run has finished: {again} ({FILE} has its config, too)."]
    seed = 1 + max(one.result.seed for one in runs.of(run.existing))
    return [
        f"Run already, as {run.existing.id}; more seeds say more: {again} --seeds {seed} ({FILE} has its config, too)."
    ]
