"""Runs of a study of factors: each with what its log says, and averages over those of a level."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from loradet.errors import UserError
from loradet.experiments.factors.design import Design, Level
from loradet.experiments.results.consistency import is_short
from loradet.experiments.results.dynamics import GAIN, Dynamics, primary_metric, run_dynamics
from loradet.experiments.results.folders import Result
from loradet.experiments.results.seed_statistics import Summary, summarize
from loradet.experiments.study.definition import MAIN_METRIC, Entry

AP50 = f"{MAIN_METRIC}_50"


@dataclass(frozen=True, kw_only=True)
class FactorRun:
    """A run, finished or not, and its log.

    Attributes:
        split: whose metrics it is judged by: the first one that it is evaluated on.
    """

    result: Result
    dynamics: Dynamics
    split: str

    @property
    def entry(self) -> Entry:
        """What was run."""
        return self.result.entry

    def metric(self, name: str, split: str | None = None) -> float | None:
        """A metric of the best weights, as `coco/bbox_mAP_50`; None where the run has none, or NaN."""
        value = self.result.metrics.get(split or self.split, {}).get(name)
        return None if value is None or math.isnan(value) else value

    def record(self, name: str) -> float | None:
        """A number of its `run.json`, as `peak_memory_mb`; None where it has not finished."""
        return self.result.record.get(name) if self.result.state == "finished" else None

    def gap(self, name: str) -> float | None:
        """Generalisation gap: a metric on `val` minus the same on `test`, of the weights that `val` has chosen."""
        val, test = self.metric(name, "val"), self.metric(name, "test")
        return None if val is None or test is None else val - test

    @property
    def note(self) -> str:
        """What is to be known of its numbers or of there being none, as `diverged at iteration 340`; often empty."""
        notes = []
        if self.dynamics.diverged:
            at = self.dynamics.diverged_at
            notes.append("diverged" + ("" if at is None else f" at iteration {at}"))
            if self.result.state != "finished" and self.dynamics.best_epoch is not None:
                notes.append(f"best before that {self.dynamics.best:.3f} at epoch {self.dynamics.best_epoch:.3g}")
        elif self.result.state != "finished":
            detail = textwrap.shorten(self.result.detail, 60, placeholder=" …")
            notes.append(self.result.state + (f" ({detail})" if detail else ""))
        elif self.result.detail:
            notes.append(self.result.detail)
        if self.dynamics.evaluations and self.dynamics.best_epoch is None:
            notes.append(f"learns nothing: AP below {GAIN} at every evaluation")
        elif empty := self.dynamics.empty_evaluations:
            notes.append(f"detects nothing at {empty} of {len(self.dynamics.evaluations)} evaluations")
        if self.dynamics.overfitting_epoch is not None:
            notes.append(f"overfits from epoch {self.dynamics.overfitting_epoch:.3g} on")
        return "; ".join(notes)


@dataclass(frozen=True, kw_only=True)
class FactorRuns:
    """All runs of a design, full ones, or smoke runs where there are only these.

    Attributes:
        primary: the metric that they are compared by, as "bbox/AP50" in logs.
        metric: the same in metrics files.
    """

    design: Design
    runs: tuple[FactorRun, ...]
    primary: str
    metric: str

    @property
    def label(self) -> str:
        """Of the primary metric: "AP50"."""
        return self.primary.removeprefix("bbox/")

    @property
    def is_short(self) -> bool:
        """Whether they are smoke runs."""
        return any(is_short(run.result) for run in self.runs)

    def of(self, entry: Entry) -> list[FactorRun]:
        """The runs of an entry."""
        return [run for run in self.runs if run.entry.id == entry.id]

    def at(self, factor: str, level: Level) -> list[FactorRun]:
        """The runs that a level is judged by."""
        return [run for entry in self.design.at(factor, level) for run in self.of(entry)]

    def by_place(self, factor: str, level: Level) -> dict[tuple, float]:
        """`place` -> primary metric of a level's runs: what two levels are paired by."""
        values = {self.place(factor, run): run.metric(self.metric) for run in self.at(factor, level)}
        return {place: value for place, value in values.items() if value is not None}

    def place(self, factor: str, run: FactorRun) -> tuple:
        """Levels of the other factors, and seed."""
        others = [name for name in self.design.factors if name != factor]
        return (*(run.entry.factors[name] for name in others), run.result.seed)


def factor_runs(design: Design, results: Sequence[Result]) -> FactorRuns | None:
    """Runs of a design's entries with their logs; None where none has begun.

    Raises:
        ValueError: no finished run has the metric that they are compared by.
    """
    entries = {entry.id: entry for entry in design.entries}
    own = [replace(one, entry=entries[one.entry.id]) for one in results if one.entry.id in entries]
    begun = [result for result in own if result.state != "missing"]
    if not begun:
        return None
    short = all(is_short(result) for result in begun)
    primary = primary_metric(begun)
    metric = file_metric(primary)
    runs = [
        FactorRun(
            result=result,
            dynamics=run_dynamics(result, primary),
            split="smoke" if short else result.entry.splits[0],
        )
        for result in own
        if is_short(result) == short
    ]
    _check_metric(runs, primary, metric)
    return FactorRuns(design=design, runs=tuple(runs), primary=primary, metric=metric)


def file_metric(logged: str) -> str:
    """An AP of logs by its name in metrics files: `coco/bbox_mAP_50` for "bbox/AP50", `coco/bbox_mAP/x` for AP-x."""
    rest = logged.removeprefix("bbox/AP")
    if rest.startswith("-"):
        return f"{MAIN_METRIC}/{rest[1:]}"
    return MAIN_METRIC + (f"_{rest}" if rest else "")


def _check_metric(runs: Sequence[FactorRun], primary: str, metric: str) -> None:
    held = [run.result.metrics.get(run.split, {}) for run in runs if run.result.state == "finished"]
    if held and not any(metric in one for one in held):
        known = ", ".join(sorted({name for one in held for name in one if name.startswith(MAIN_METRIC)}))
        raise UserError(
            f"The runs chose their best weights by train.best.metric={primary!r}, but none of the {len(held)} finished "
            f"runs of this study of factors has {metric!r} in its metrics file, by which to compare them. "
            f"There: {known or 'no AP at all'}."
        )


def average(runs: Sequence[FactorRun], value: Callable[[FactorRun], float | None]) -> Summary | None:
    """Mean and spread of a number over the runs that have it."""
    return summarize(value(run) for run in runs)


def notes(runs: Sequence[FactorRun]) -> str:
    """Notes of some runs of an entry, each once, with the seeds that it holds for where they are not all."""
    seeds: Mapping[str, list[str]] = {}
    for run in runs:
        if run.note:
            seeds.setdefault(run.note, []).append(str(run.result.seed))
    everyone = len(runs)
    return "; ".join(
        note if len(of) == everyone else f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {note}"
        for note, of in seeds.items()
    )
