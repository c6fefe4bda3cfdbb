"""Curves, confusion matrix and error breakdown of detections, each as PNG and JSON."""

import logging
import os
from pathlib import Path

from loradet.errors import UserError
from loradet.evaluation.analysis.confusion import confusion_matrix
from loradet.evaluation.analysis.error_breakdown import break_down_errors
from loradet.evaluation.analysis.precision_recall import RECALLS, precision_recall_curves
from loradet.evaluation.detections.records import DetectionRecords
from loradet.files import write_json
from loradet.visualization.plots import plot_confusion, plot_errors, plot_precision_recall, save_figure

logger = logging.getLogger(__name__)


def analyse(
    records: DetectionRecords,
    output: str | os.PathLike,
    *,
    title: str = "",
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> list[Path]:
    """Write `precision_recall`, `confusion_matrix` and `error_breakdown`, `.json` and `.png`, into a folder.

    Args:
        title: what the detections are of; stands above each plot.
        score_threshold, iou_threshold: of the confusion matrix. The others use all detections, and the IoU
            thresholds that they are defined by.

    Raises:
        ValueError: no images, or a threshold out of its range.
    """
    if not records.images:
        raise UserError("There are no images to analyse.")
    matrix = confusion_matrix(records, score_threshold, iou_threshold)
    curves = precision_recall_curves(records)
    errors = break_down_errors(records)
    kind = "synthetic images" if records.synthetic else "images"
    title = f"{title or 'detections'}, {len(records.images)} {kind}"
    head = {"title": title, "num_images": len(records.images)}
    if records.synthetic:
        head["data"] = "synthetic"
    parts = {
        "precision_recall": (
            {"recall": RECALLS.round(2).tolist(), "curves": [curve.to_dict() for curve in curves]},
            plot_precision_recall(curves, title),
        ),
        "confusion_matrix": (matrix.to_dict(), plot_confusion(matrix, title)),
        "error_breakdown": (errors.to_dict(), plot_errors(errors, title)),
    }
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (content, figure) in parts.items():
        write_json(output / f"{name}.json", {**head, **content})
        written += [output / f"{name}.json", save_figure(output / f"{name}.png", figure)]
    logger.info("Analysis of %s written to %s.", title, output)
    return written
