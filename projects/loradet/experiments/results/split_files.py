"""Files of a finished run's splits beside the metrics: detections, calibration."""

from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.evaluation.coco_metrics import read_metrics
from loradet.experiments.results.folders import Result
from loradet.files import FileError, read_json
from loradet.json_kinds import NUMBER, WHOLE, entries, list_of, optional
from loradet.run_folder import RunFolder

_ADVICE = "Evaluate that run again."
_LINE = {
    "score_threshold": NUMBER,
    "match_iou": NUMBER,
    "count": WHOLE,
    "ece": optional(NUMBER),
    "nll": optional(NUMBER),
}
_BINS = {"count": list_of(NUMBER), "mean_score": list_of(optional(NUMBER)), "precision": list_of(optional(NUMBER))}
_SIDE = entries({"reliability": entries(_BINS, required=tuple(_BINS))}, required=("reliability",))
_CALIBRATION = entries(
    {
        "table": list_of(entries(_LINE, required=tuple(_LINE))),
        "before": optional(_SIDE),
        "after": optional(_SIDE),
    },
    required=("table", "before", "after"),
)


def provenance(result: Result, split: str) -> dict[str, Any]:
    """The metrics file of a split, with what it says besides metrics; {} where there is none."""
    path = RunFolder(result.folder).split_metrics(split)
    return read_metrics(path) if path.is_file() else {}


def predictions_file(result: Result, split: str) -> Path | None:
    """The detections that a split's metrics are of, COCO's JSON; None where they are gone."""
    # A split that was evaluated later, by itself, lies in a folder that is named after the checkpoint.
    run = RunFolder(result.folder)
    name = provenance(result, split).get("split", split)
    files = [place.predictions(name) for place in (run, run.evaluation(run.best))]
    return next((file for file in files if file.is_file()), None)


def read_calibration(result: Result, split: str) -> dict[str, Any] | None:
    """The `calibration.json` beside a split's detections, and `fitted_on`: what its temperature was fitted on.

    None for a run whose metrics of the split have no calibration.

    Raises:
        ValueError: the file is cut; entry and file are named.
    """
    if not any(name.startswith("calibration/") for name in result.metrics.get(split, {})):
        return None
    from loradet.evaluation.calibration.report import JSON_FILE

    predictions = predictions_file(result, split)
    path = predictions and predictions.with_name(JSON_FILE)
    if path is None or not path.is_file():
        return None
    try:
        content = read_json(path, advice=_ADVICE)
        if (problem := _CALIBRATION(content, "")) is not None:
            raise FileError(f"{path}: {problem}. {_ADVICE}")
    except FileError as error:
        raise UserError(f"{result.entry.id}: {error}") from error
    return {**content, "fitted_on": provenance(result, split).get("temperature_fitted_on")}
