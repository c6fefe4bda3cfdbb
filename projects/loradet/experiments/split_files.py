"""What a finished run has left of a split beside its metrics."""

import json
from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.evaluation.calibration_report import JSON_FILE
from loradet.evaluation.coco_metrics import read_metrics
from loradet.evaluation.splits import PREDICTIONS
from loradet.experiments.results import Result
from loradet.experiments.runs import CHECKPOINT


def provenance(result: Result, split: str) -> dict[str, Any]:
    """The metrics file of a split, with what it says besides metrics; {} where there is none."""
    path = result.folder / f"{split}_metrics.json"
    return read_metrics(path) if path.is_file() else {}


def predictions_file(result: Result, split: str) -> Path | None:
    """The detections that a split's metrics are of, COCO's JSON; None where they are gone."""
    # A split that was evaluated later, by itself, lies in a folder that is named after the checkpoint.
    places = (result.folder, result.folder / f"eval_{Path(CHECKPOINT).stem}")
    name = provenance(result, split).get("split", split)
    files = [place / "predictions" / name / PREDICTIONS for place in places]
    return next((file for file in files if file.is_file()), None)


def read_calibration(result: Result, split: str) -> dict[str, Any] | None:
    """The `calibration.json` beside a split's detections, and `fitted_on`: what its temperature was fitted on.

    None for a run whose metrics of the split have no calibration.

    Raises:
        ValueError: the file is cut; entry and file are named.
    """
    if not any(name.startswith("calibration/") for name in result.metrics.get(split, {})):
        return None
    predictions = predictions_file(result, split)
    path = predictions and predictions.with_name(JSON_FILE)
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{result.entry.id}: {path} is no JSON ({error}); evaluate that run again.") from error
    return {**content, "fitted_on": provenance(result, split).get("temperature_fitted_on")}
