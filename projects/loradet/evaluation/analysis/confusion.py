"""Confusion matrix of classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.evaluation.detections.records import DetectionRecords, ImageRecord, box_iou

BACKGROUND = "background"


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of pairs.

    Attributes:
        counts: (K + 1, K + 1): row is the annotated class, column the detected one. Last row: detections of
            nothing; last column: boxes that were missed.
        class_names: K names.
    """

    counts: np.ndarray
    class_names: tuple[str, ...]
    score_threshold: float
    iou_threshold: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": "ground truth",
            "columns": "detections",
            "labels": [*self.class_names, BACKGROUND],
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "counts": self.counts.tolist(),
        }


def confusion_matrix(
    records: DetectionRecords, score_threshold: float = 0.3, iou_threshold: float = 0.5
) -> ConfusionMatrix:
    """Match detections with annotated boxes whatever their classes are, and count the classes of each pair.

    In each image, pairs are made by falling IoU (between equals, by falling score); a detection and a box are in
    one pair at most. A detection without a partner that lies in a crowd of its class is not counted.

    Args:
        score_threshold: detections under it are left out.
        iou_threshold: pairs under it are not made; in (0, 1].

    Raises:
        ValueError: a threshold out of its range.
    """
    if not 0 < iou_threshold <= 1 or not 0 <= score_threshold <= 1:
        raise UserError(
            f"Thresholds: expected a score in 0..1 and an IoU above 0 up to 1, got {score_threshold} and "
            f"{iou_threshold}."
        )
    size = len(records.class_names)
    counts = np.zeros((size + 1, size + 1), np.int64)
    for image in records.images:
        for truth, found in _pairs(image, score_threshold, iou_threshold):
            row = size if truth is None else image.truth_classes[truth]
            column = size if found is None else image.found_classes[found]
            counts[row, column] += 1
    return ConfusionMatrix(counts, records.class_names, score_threshold, iou_threshold)


def _pairs(image: ImageRecord, score_threshold: float, iou_threshold: float) -> list[tuple[int | None, int | None]]:
    """(box, detection) by position; None for the partner that is missing."""
    found = np.flatnonzero(image.scores >= score_threshold)
    overlaps = box_iou(image.found_xywh[found], image.truth_xywh, image.truth_crowd)
    able = overlaps >= iou_threshold
    rows, columns = np.nonzero(able & ~image.truth_crowd)
    # Detections come by falling score, so a stable sort leaves equals in that order.
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    truth_of: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if row not in truth_of and column not in taken:
            truth_of[row] = column
            taken.add(column)
    pairs: list[tuple[int | None, int | None]] = [(truth, int(found[row])) for row, truth in truth_of.items()]
    for row, detection in enumerate(found.tolist()):
        own_crowd = image.truth_crowd & (image.truth_classes == image.found_classes[detection])
        if row not in truth_of and not (able[row] & own_crowd).any():
            pairs.append((None, detection))
    missed = set(np.flatnonzero(~image.truth_crowd).tolist()) - taken
    return pairs + [(truth, None) for truth in sorted(missed)]
