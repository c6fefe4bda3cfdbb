"""Which detections of a whole data set are correct, for all images and classes at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loradet.evaluation.detections.records import DetectionRecords
from loradet.evaluation.matchers.choice import match
from loradet.evaluation.matchers.columns import BoxColumns, Question

# Matched along whatever is asked for: further IoUs cost little, and a calibration's table asks for these.
_COMMON_IOUS = (0.5, 0.6, 0.75, 0.9)


@dataclass(frozen=True)
class JudgedDetections:
    """Detections that are right or wrong.

    Attributes:
        scores: (N,) in 0..1.
        correct: (N,) bool.
        classes: (N,) indices into the class names.
        areas: (N,) of the detected boxes, in square pixels.
        images: (N,) indices into the data set's images.
    """

    scores: np.ndarray
    correct: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, mask: np.ndarray) -> "JudgedDetections":
        """Those of a mask (N,)."""
        return JudgedDetections(*(column[mask] for column in vars(self).values()))

    def with_scores(self, scores: np.ndarray) -> "JudgedDetections":
        """The same detections with other scores (N,)."""
        return replace(self, scores=scores)


@dataclass(frozen=True)
class Correctness:
    """All D detections of a data set, image by image and by falling score, at T IoU thresholds.

    Attributes:
        scores, classes, areas, images: (D,).
        iou_thresholds: T of them.
        correct: (T, D) bool: finds an annotated box.
        ignored: (T, D) bool: finds none and lies in a crowd of its class.
    """

    scores: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    images: np.ndarray
    iou_thresholds: tuple[float, ...]
    correct: np.ndarray
    ignored: np.ndarray

    def at(self, iou_thresholds: tuple[float, ...]) -> "Correctness":
        """At some of the thresholds."""
        if iou_thresholds == self.iou_thresholds:
            return self
        rows = [self.iou_thresholds.index(one) for one in iou_thresholds]
        return replace(self, iou_thresholds=iou_thresholds, correct=self.correct[rows], ignored=self.ignored[rows])

    def every(self, iou_threshold: float) -> JudgedDetections:
        """All detections, those that are ignored too, judged at an IoU threshold, one of the T."""
        correct = self.correct[self.iou_thresholds.index(iou_threshold)]
        return JudgedDetections(self.scores, correct, self.classes, self.areas, self.images)

    def judged(self, iou_threshold: float, score_threshold: float = 0.0) -> JudgedDetections:
        """The detections from a score on, without those that are ignored at an IoU threshold, one of the T."""
        row = self.iou_thresholds.index(iou_threshold)
        kept = ~self.ignored[row] & (self.scores >= score_threshold)
        return self.every(iou_threshold).where(kept)


def match_all(records: DetectionRecords, iou_thresholds: Sequence[float] = (0.5,)) -> Correctness:
    """Match every detection, whatever number of a class in an image counts elsewhere.

    In each image and class, by falling score, a detection takes the free box that it overlaps most, if by the
    threshold at least; each box is found once. One that gets none and lies in a crowd is ignored. What was found is
    kept with the records: several analyses ask the same.

    Raises:
        ValueError: detections of an image do not come by falling score.
    """
    thresholds = tuple(float(value) for value in iou_thresholds)
    for kept in records.correctness:
        if set(thresholds) <= set(kept.iou_thresholds):
            return kept.at(thresholds)
    found = _match_all(records.columns, tuple(sorted({*thresholds, *_COMMON_IOUS})))
    records.correctness.append(found)
    return found.at(thresholds)


def _match_all(columns: BoxColumns, thresholds: tuple[float, ...]) -> Correctness:
    outcomes = match(columns, Question.of_matching(thresholds)).outcomes()
    # Records come image by image and by falling score, outcomes class by class besides.
    order = class_order(columns.category, columns.classes)
    if not np.array_equal(outcomes.scores, columns.scores[order]):
        raise ValueError("Detections of an image do not come by falling score.")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    correct, ignored = (np.ascontiguousarray(flags[place].T) for flags in (outcomes.found, outcomes.ignored))
    areas = columns.xywh[:, 2] * columns.xywh[:, 3]
    return Correctness(columns.scores, columns.category, areas, columns.image, thresholds, correct, ignored)


def class_order(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) indices that bring detections class by class, each in the order that they have."""
    # Numbers of one or two bytes are sorted by digits, several times as fast.
    return np.argsort(classes.astype(np.min_scalar_type(max(num_classes, 1))), kind="stable")
