"""Precision over recall, and the area under it, at single IoU thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.evaluation.analysis.matching import match_classes
from loradet.evaluation.detections.records import DetectionRecords

RECALLS = np.linspace(0, 1, 101)
MEAN = "mean"


@dataclass(frozen=True)
class PrecisionRecall:
    """A curve.

    Attributes:
        name: of the class, or `mean` for the mean of all classes that have boxes to find.
        iou_threshold: of the matching.
        precision: (101,) highest precision at each recall 0, 0.01 … 1 or beyond; NaN without boxes to find.
    """

    name: str
    iou_threshold: float
    precision: np.ndarray

    @property
    def average_precision(self) -> float:
        """Mean over the recalls, 0..1; NaN where there is nothing to find."""
        return float(self.precision.mean())

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN is None."""
        known = not np.isnan(self.precision).any()
        return {
            "name": self.name,
            "iou_threshold": self.iou_threshold,
            "average_precision": self.average_precision if known else None,
            "precision": [round(float(value), 6) for value in self.precision] if known else None,
        }


def precision_at_recalls(hits: np.ndarray, num_truth: int) -> np.ndarray:
    """COCO's interpolated precision at its 101 recalls.

    Args:
        hits: (D,) bool by falling score: whether each detection finds a box of its own.
        num_truth: boxes to find.

    Returns:
        (101,), zero at recalls that are not reached; NaN where there is nothing to find.
    """
    if num_truth == 0:
        return np.full(len(RECALLS), np.nan)
    found = np.cumsum(hits)
    recall = found / num_truth
    precision = found / np.maximum(np.arange(1, len(hits) + 1), 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return np.append(highest, 0.0)[places]


def precision_recall_curves(
    records: DetectionRecords, iou_thresholds: Sequence[float] = (0.5, 0.75)
) -> list[PrecisionRecall]:
    """For each threshold the mean curve, then one a class in the order of the class names."""
    counts = records.count_truth()
    curves = []
    for threshold in iou_thresholds:
        of_classes = []
        for index, (name, matches) in enumerate(zip(records.class_names, match_classes(records, threshold))):
            hits = matches.truth[~matches.ignored] >= 0
            of_classes.append(PrecisionRecall(name, threshold, precision_at_recalls(hits, counts[index])))
        known = [curve.precision for curve, count in zip(of_classes, counts) if count]
        mean = np.mean(known, axis=0) if known else np.full(len(RECALLS), np.nan)
        curves += [PrecisionRecall(MEAN, threshold, mean), *of_classes]
    return curves
