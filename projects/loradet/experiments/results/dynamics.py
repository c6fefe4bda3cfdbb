"""Training dynamics from a run's logs: convergence, oscillation, overfitting, divergence."""

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loradet.experiments.results.folders import Result
from loradet.run_folder import RunFolder
from loradet.training.folder.metrics_log import read_lines

PRIMARY = "bbox/AP50"
CONVERGED = 0.9  # of a run's best
GAIN = 0.005  # of AP: less is no gain
FALL = 0.01  # of AP: less is no fall
SPIKE = 5.0  # medians of the gradient norm
EXPLODED = 3.0  # first losses
STAYED = 3  # logged lines at the end, without which a run that has finished did not diverge
# How the trainer and the proposal generator speak of values that are not finite.
_NOT_FINITE = re.compile(r"not finite at iteration (\d+)")
_DIVERGED = re.compile(r"NonFiniteLossError|NonFiniteCostError|training has diverged")


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """What one run's log says. AP is a fraction; None where the log has too little to say it.

    Attributes:
        evaluations: (epoch, AP) of the periodic evaluations, 0 where nothing was detected; epochs count from 0.0, so
            that the end of the first one is 1.0.
        empty_evaluations: at how many nothing was detected.
        losses: (epoch, training loss) of the logged lines.
        best: greatest AP of the evaluations.
        best_epoch: the first that has it; None, as all that is counted from it, where nothing was learnt: a best
            below 0.005.
        convergence_epoch: the first evaluation with 90 % of the best.
        oscillation: mean back-and-forth of AP an evaluation, from convergence on (see `oscillation`).
        gradient_variation: coefficient of variation of the gradient norm in the second half (see `variation`).
        gradient_spikes: logged gradient norms above 5 medians of them all.
        plateau_epochs: from the last gain of more than 0.005 to the last evaluation.
        overfitting_epoch: the best epoch, where AP falls after it while the loss goes on falling (see `overfits`).
        diverged_at: iteration at which loss or gradient was no longer finite, or at which the loss went up for good.
        diverged: it did, at a known iteration or not.
    """

    evaluations: tuple[tuple[float, float], ...]
    empty_evaluations: int
    losses: tuple[tuple[float, float], ...]
    best: float | None
    best_epoch: float | None
    convergence_epoch: float | None
    oscillation: float | None
    gradient_variation: float | None
    gradient_spikes: int | None
    plateau_epochs: float | None
    overfitting_epoch: float | None
    diverged_at: int | None
    diverged: bool


def run_dynamics(result: Result, metric: str = PRIMARY) -> Dynamics:
    """Read a run's `metrics.json` and `run.json`; runs that have failed have a log too, up to where they did.

    Args:
        metric: of the periodic evaluations, logged in percent.
    """
    # The log of a run of another config is not this run's; that of a broken one cannot be read.
    lines = [] if result.state in ("changed", "broken") else read_lines(RunFolder(result.folder).metrics)
    # Without the length of an epoch (a record of an earlier version) nothing can be said in epochs.
    length = result.record.get("iterations_per_epoch")
    told = [_with_zero(line, metric) for line in lines]
    evaluations = _series(told, metric, length, 0.01)
    losses = _series(lines, "total_loss", length)
    gradients = [norm for _, norm in _series(lines, "grad_norm", length or 1)]
    values = [value for _, value in evaluations]
    best = max(values, default=None)
    diverged_at = divergence(result, lines)
    message = _message(result)
    found = dict.fromkeys(("best_epoch", "convergence_epoch", "plateau_epochs"))
    settled: list[float] = []
    if best is not None and best >= GAIN:
        converged = next(place for place, value in enumerate(values) if value >= CONVERGED * best)
        settled = values[converged:]
        found = {
            "best_epoch": evaluations[values.index(best)][0],
            "convergence_epoch": evaluations[converged][0],
            "plateau_epochs": evaluations[-1][0] - evaluations[last_gain(values)][0],
        }
    swing = oscillation(settled)
    return Dynamics(
        evaluations=tuple(evaluations),
        empty_evaluations=sum(map(_is_empty, lines)) if length else 0,
        losses=tuple(losses),
        best=best,
        **found,
        oscillation=swing,
        gradient_variation=variation(gradients[len(gradients) // 2 :]),
        gradient_spikes=spikes(gradients) if gradients else None,
        overfitting_epoch=found["best_epoch"] if overfits(evaluations, losses, swing) else None,
        diverged_at=diverged_at,
        diverged=diverged_at is not None or (result.state == "failed" and bool(_DIVERGED.search(message))),
    )


def _is_empty(line: dict[str, Any]) -> bool:
    """Whether it is that of an evaluation of nothing: without detections (or boxes to find) every AP is NaN."""
    return "bbox/AP" in line and not _is_number(line["bbox/AP"])


def _with_zero(line: dict[str, Any], metric: str) -> dict[str, Any]:
    return {**line, metric: 0.0} if _is_empty(line) else line


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _series(
    lines: Sequence[dict[str, Any]], key: str, epoch: int | None, scale: float = 1.0
) -> list[tuple[float, float]]:
    if not epoch:
        return []
    return [
        ((line["iteration"] + 1) / epoch, scale * line[key])
        for line in lines
        if "iteration" in line and _is_number(line.get(key))
    ]


def oscillation(values: Sequence[float]) -> float | None:
    """(Σ|Δ| - |ΣΔ|) / n over the n changes Δ from one value to the next: 0 for a steady rise or fall.

    Returns:
        None for fewer than two changes.
    """
    changes = [after - before for before, after in itertools.pairwise(values)]
    return (sum(map(abs, changes)) - abs(sum(changes))) / len(changes) if len(changes) > 1 else None


def variation(values: Sequence[float]) -> float | None:
    """Sample standard deviation over mean; None for fewer than four values or a mean of 0."""
    if len(values) < 4 or not (mean := statistics.fmean(values)):
        return None
    return statistics.stdev(values) / mean


def spikes(norms: Sequence[float]) -> int:
    """How many norms exceed 5 times the median of them all."""
    bound = SPIKE * statistics.median(norms)
    return sum(norm > bound for norm in norms)


def last_gain(values: Sequence[float]) -> int:
    """Index of the last value that exceeds the last one counted before it by more than 0.005; the first one counts."""
    place = 0
    for index, value in enumerate(values):
        if value > values[place] + GAIN:
            place = index
    return place


def overfits(
    evaluations: Sequence[tuple[float, float]], losses: Sequence[tuple[float, float]], swing: float | None
) -> bool:
    """Whether AP falls after its best while the training loss goes on falling.

    The median of the last three evaluations after the best one lies below it by more than 0.01 and by more than twice
    the oscillation, and of the logged losses the median of the last k is below that of the k up to the best epoch, k
    being 20 or as many as both sides have. A noisy curve always falls from its best: hence the median and the swing.

    Args:
        evaluations, losses: (epoch, value).
        swing: the oscillation; None counts as 0.
    """
    if not evaluations:
        return False
    epoch, best = max(evaluations, key=lambda one: one[1])
    after = [value for at, value in evaluations if at > epoch]
    before, later = ([loss for at, loss in losses if (at > epoch) == side] for side in (False, True))
    count = min(20, len(before), len(later))
    if len(after) < 3 or not count:
        return False
    fell = best - statistics.median(after[-3:]) > max(FALL, 2 * (swing or 0.0))
    return fell and statistics.median(later[-count:]) < statistics.median(before[-count:])


def divergence(result: Result, lines: Sequence[dict[str, Any]]) -> int | None:
    """The iteration at which training diverged; None where it did not, or where nothing tells the iteration.

    It is the one that the error of a failed run names, or else the first logged one from which on every loss is above
    3 times the least of the first three; of a finished run these must be three lines or more, since one may be a spike.
    """
    if result.state == "failed" and (found := _NOT_FINITE.search(_message(result))):
        return int(found[1])
    losses = [(line["iteration"], line["total_loss"]) for line in lines if {"iteration", "total_loss"} <= line.keys()]
    if len(losses) < 4:
        return None
    bound = EXPLODED * min(loss for _, loss in losses[:3])
    # A comparison with NaN is false.
    above = list(itertools.takewhile(lambda line: not line[1] <= bound, reversed(losses)))
    return above[-1][0] if len(above) >= (STAYED if result.state == "finished" else 1) else None


def _message(result: Result) -> str:
    return f"{result.detail} {result.record.get('error') or ''}"


def primary_metric(results: Sequence[Result]) -> str:
    """What the runs chose their best weights by, as "bbox/AP50"; that too where no run tells."""
    names = [(result.record.get("best") or {}).get("metric") for result in results]
    return next((name for name in names if name and name.startswith("bbox/AP")), PRIMARY)
