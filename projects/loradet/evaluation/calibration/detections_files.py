"""Calibration and bootstrap intervals of detections files: no model, no data loader."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradet.datasets.provenance import is_synthetic
from loradet.errors import UserError
from loradet.evaluation.bootstrap import LEVEL, Interval, bootstrap_difference, bootstrap_metrics
from loradet.evaluation.calibration.report import (
    CalibrationReport,
    CalibrationSettings,
    calibration_report,
    fit_on_records,
)
from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import match_detections
from loradet.evaluation.detections.numbering import check_category_map
from loradet.evaluation.detections.records import read_records
from loradet.files import write_json

BOOTSTRAP_FILE = "bootstrap.json"
PathLike = str | os.PathLike


def calibrate_files(
    predictions: PathLike,
    annotations: PathLike,
    output: PathLike,
    *,
    fit_predictions: PathLike | None = None,
    fit_annotations: PathLike | None = None,
    settings: CalibrationSettings,
) -> CalibrationReport:
    """Measure the calibration of a detections file; write `calibration.json` and `reliability_diagram.png`.

    Args:
        predictions: `coco_instances_results.json`.
        annotations: COCO instances of the same images.
        output: a folder, which is made.
        fit_predictions, fit_annotations: of another split, to fit a temperature on; both or none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files that are broken or do not belong together, one of the fit's files alone, or a fit on the
            very file that is measured.
    """
    if (fit_predictions is None) != (fit_annotations is None):
        raise UserError("To fit a temperature, give both the predictions and the annotations of another split.")
    check_category_map(predictions, annotations)
    temperature = None
    if fit_predictions is not None and fit_annotations is not None:
        check_category_map(fit_predictions, fit_annotations)
        if Path(fit_predictions).resolve() == Path(predictions).resolve():
            raise UserError(f"{predictions} cannot be measured after a fit on itself: fit on another split.")
        temperature = fit_on_records(read_records(fit_annotations, fit_predictions), settings)
    records = read_records(annotations, predictions)
    # A title of <run>/predictions/<split>/<file> tells most.
    title = "/".join(Path(predictions).parts[-4:])
    report = calibration_report(records, settings, temperature=temperature, title=title)
    report.write(output)
    return report


def bootstrap_files(
    predictions: PathLike,
    annotations: PathLike,
    output: PathLike,
    *,
    resamples: int,
    seed: int = 0,
    against: PathLike | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, dict[str, Interval]]:
    """Percentile intervals of COCO's metrics over images; written as `bootstrap.json`.

    Args:
        against: another detector's detections on the same images: also the paired difference, the first minus it.
        progress: called with the number of each finished resample.

    Returns:
        {"metrics": by name, "difference": by name, with `against` only}.

    Raises:
        FileNotFoundError, ValueError: as `coco_metrics`; a number of resamples below 1.
    """
    check_category_map(predictions, annotations)
    started = time.perf_counter()
    evaluation = match_detections(annotations, predictions)
    names, matches = evaluation.class_names, AccumulatedMatches.from_evaluation(evaluation)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "progress": progress}
    found = {"metrics": bootstrap_metrics(matches, names, **options)}
    if against is not None:
        check_category_map(against, annotations)
        other = AccumulatedMatches.from_evaluation(match_detections(annotations, against))
        found["difference"] = bootstrap_difference(matches, other, names, **options)
    Path(output).mkdir(parents=True, exist_ok=True)
    write_json(
        Path(output) / BOOTSTRAP_FILE,
        {
            "predictions": str(predictions),
            "annotations": str(annotations),
            **({} if against is None else {"against": str(against)}),
            **({"data": "synthetic"} if is_synthetic(annotations) else {}),
            "num_images": len(matches.image_ids),
            "resamples": resamples,
            "seed": seed,
            "level": LEVEL,
            "seconds": round(time.perf_counter() - started, 1),
            **{kind: {name: one.to_dict() for name, one in values.items()} for kind, values in found.items()},
        },
    )
    return found
