"""Results as plain values, for programs: what `collect` prints and `results.json` holds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from loradet.evaluation.bootstrap import Interval
from loradet.experiments.results.folders import Result
from loradet.experiments.results.intervals import Intervals
from loradet.experiments.results.split_files import read_calibration
from loradet.experiments.results.table import Row, comparisons
from loradet.experiments.study.definition import Entry, Study


def result_to_dict(result: Result) -> dict[str, Any]:
    """A run with all its numbers; NaN is None.

    `calibration` has, by split, what `calibration.json` has; `record` is `run.json`: parameters, cost, efficiency.
    """
    plain = {"id": result.entry.id, "mode": result.mode, "seed": result.seed, "folder": str(result.folder)}
    plain |= {"state": result.state, "detail": result.detail, "synthetic": result.synthetic}
    plain["metrics"] = _without_nan(result.metrics)
    found = {split: read_calibration(result, split) for split in result.metrics}
    plain["calibration"] = {split: content for split, content in found.items() if content is not None}
    return plain | {"record": result.record}


def study_to_dict(
    study: Study, results: Sequence[Result], table: Sequence[Row], intervals: Intervals | None = None
) -> dict[str, Any]:
    """All numbers of a report.

    Args:
        table: rows of the results.
        intervals: of AP over images.

    Returns:
        `entries` (what each is, what was reported of it, and its metrics over the seeds by split), `differences` from
        the baselines, and `runs`.
    """
    runs = []
    for result in results:
        own = {split: (intervals or {}).get((result.folder, split)) for split in result.metrics}
        own = {split: _plain_intervals(found) for split, found in own.items() if found is not None}
        runs.append(result_to_dict(result) | ({} if intervals is None else {"intervals": own}))
    by_entry: dict[str, list[Row]] = {}
    for row in table:
        by_entry.setdefault(row.entry.id, []).append(row)
    full = [row for row in table if row.split != "smoke"]
    return {
        "study": study.name,
        "title": study.title,
        "source": study.source,
        "entries": [_plain_entry(own[-1].entry, own) for own in by_entry.values()],
        "differences": [
            {"id": one.entry.id, "minus": one.baseline.id, "split": one.split}
            | {side: found and asdict(found) for side, found in (("ours", one.ours), ("reported", one.reported))}
            for one in comparisons(study, full or table)
        ],
        "runs": runs,
    }


def _plain_entry(entry: Entry, table: Sequence[Row]) -> dict[str, Any]:
    names = ("id", "title", "objective", "model", "weights", "method", "targets", "rank", "alpha", "note")
    return {
        **{name: getattr(entry, name) for name in names},
        "reported": [{"split": r.split, "seed": r.seed, "metrics": dict(r.metrics)} for r in entry.reported],
        "splits": {
            row.split: {
                "runs": row.states,
                "data": row.data or None,
                "metrics": {name: asdict(summary) for name, summary in row.metrics.items()},
            }
            for row in table
        },
    }


def _plain_intervals(found: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.to_dict() for name, interval in found.items()}


def _without_nan(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        split: {name: None if math.isnan(value) else value for name, value in values.items()}
        for split, values in metrics.items()
    }
