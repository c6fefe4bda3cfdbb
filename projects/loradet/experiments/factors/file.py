"""What a report says of factors, as plain values for programs: `factors.json`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loradet.experiments.factors.effects import FactorialAnalysis
from loradet.experiments.factors.runs import FactorRun, FactorRuns

FILE = "factors.json"
_CURVES = ("evaluations", "losses")  # are in the runs' own `metrics.json`


def factors_to_dict(runs: FactorRuns, analyses: Mapping[str, FactorialAnalysis]) -> dict[str, Any]:
    """Design, what each run's log says (see `Dynamics`), and the analysis of each metric of a factorial."""
    return {
        "factors": {name: list(levels) for name, levels in runs.design.factors.items()},
        "baseline": runs.design.baseline.id,
        "factorial": runs.design.is_factorial,
        "metric": runs.metric,
        "runs": [_plain_run(run) for run in runs.runs],
        "analyses": {metric: _plain_analysis(analysis) for metric, analysis in analyses.items()},
    }


def _plain_run(run: FactorRun) -> dict[str, Any]:
    told = {name: value for name, value in asdict(run.dynamics).items() if name not in _CURVES}
    result = run.result
    head = {"id": run.entry.id, "levels": dict(run.entry.factors), "mode": result.mode, "seed": result.seed}
    return head | {"state": result.state, "note": run.note} | told


def _plain_analysis(analysis: FactorialAnalysis) -> dict[str, Any]:
    cells = [{"levels": list(levels), **asdict(summary)} for levels, summary in analysis.cells.items()]
    return asdict(analysis) | {"cells": cells}
