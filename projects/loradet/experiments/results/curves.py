"""Loss and AP of runs over their training, with the spread of the seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.experiments.results.folders import Result
from loradet.experiments.study.definition import Entry
from loradet.files import FileError
from loradet.run_folder import RunFolder
from loradet.training.folder.metrics_log import read_whole_lines

LOSS, AP = "total_loss", "bbox/AP"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of an experiment's runs over training.

    Attributes:
        x: epochs (iterations over those that one pass over the training images takes) or iterations, rising.
        mean, low, high: over the seeds at each x: mean, least and greatest.
        seeds: number of runs.
        in_epochs: what `x` counts.
    """

    entry: Entry
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int
    in_epochs: bool


@dataclass(frozen=True)
class RunLog:
    """A finished run and what is drawn of its `metrics.json`; all of a thousand logs would fill the memory.

    Attributes:
        series: name in the log -> (iterations, values), (N,) each, where the value is finite.
    """

    result: Result
    series: dict[str, tuple[np.ndarray, np.ndarray]]


def read_log(result: Result) -> RunLog:
    """What is drawn of a finished run's `metrics.json`; nothing where the file is gone.

    Raises:
        ValueError: the file is cut or damaged; entry, file and line are named.
    """
    path = RunFolder(result.folder).metrics
    if not path.is_file():
        return RunLog(result, {})
    where = f"{result.entry.id}: {path}"
    try:
        lines, count = read_whole_lines(path)
    except FileError as error:
        raise UserError(f"{result.entry.id}: {error}") from error
    if len(lines) < count:
        raise UserError(
            f"{where} is cut or damaged: line {len(lines) + 1} of {count} is no JSON, though the run is "
            f"finished. {_ADVICE}"
        )
    if wrong := [number for number, line in enumerate(lines, start=1) if not isinstance(line, dict)]:
        raise UserError(f"{where} is damaged: line {wrong[0]} holds no metrics. {_ADVICE}")
    last, end = max((line.get("iteration", -1) for line in lines), default=-1), result.record.get("iteration")
    if end is not None and last < end:
        raise UserError(f"{where} is cut: it ends at iteration {last}, the finished run at {end}. {_ADVICE}")
    return RunLog(result, {key: _series(lines, key) for key in (LOSS, AP)})


_ADVICE = "Put the whole file back, or run that seed again."


def read_logs(results: Sequence[Result], known: Mapping[Path, RunLog] | None = None) -> list[RunLog]:
    """The logs of the finished training runs. Raises what `read_log` raises.

    Args:
        known: those that have been read already, by folder.
    """
    finished = [r for r in results if r.state == "finished" and r.entry.kind == "training"]
    return [(known or {}).get(result.folder) or read_log(result) for result in finished]


def curves(logs: Sequence[RunLog], key: str, scale: float = 1.0) -> list[Curve]:
    """A curve for each entry whose runs have logged `key`, over the iterations that all its seeds have.

    Args:
        logs: of runs of one mode.
        key: `LOSS` or `AP`.
        scale: factor of the values; 0.01 for what is logged in percent.
    """
    found: dict[str, list[tuple[Result, dict[int, float]]]] = {}
    # The smoke run of an entry whose full run is the same one counts once.
    for log in {(log.result.entry.id, log.result.seed): log for log in logs}.values():
        if series := dict(zip(*(array.tolist() for array in log.series.get(key, ())))):
            found.setdefault(log.result.entry.id, []).append((log.result, series))
    passes = {name: _passes_per_iteration(runs[0][0]) for name, runs in found.items()}
    in_epochs = None not in passes.values()
    drawn = [
        _curve(runs[0][0].entry, [series for _, series in runs], scale, passes[name] if in_epochs else None)
        for name, runs in found.items()
    ]
    return [curve for curve in drawn if curve.x]


def _series(lines: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    known = [
        (line["iteration"], line[key])
        for line in lines
        if "iteration" in line and isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    return np.array([one for one, _ in known], dtype=np.int64), np.array([value for _, value in known], dtype=float)


def _passes_per_iteration(result: Result) -> float | None:
    """Part of an epoch that an iteration is; None where the run's record does not say."""
    iterations = result.record.get("iterations_per_epoch")
    return 1 / iterations if iterations else None


def _curve(entry: Entry, series: Sequence[dict[int, float]], scale: float, epochs: float | None) -> Curve:
    shared = sorted(set.intersection(*(set(one) for one in series)))
    values = [[scale * one[iteration] for one in series] for iteration in shared]
    return Curve(
        entry=entry,
        x=tuple((iteration + 1) * (epochs or 1) for iteration in shared),
        mean=tuple(sum(v) / len(v) for v in values),
        low=tuple(min(v) for v in values),
        high=tuple(max(v) for v in values),
        seeds=len(series),
        in_epochs=epochs is not None,
    )
