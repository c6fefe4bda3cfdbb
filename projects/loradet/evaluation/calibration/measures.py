"""Calibration measures: ECE, NLL, Brier score, D-ECE."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.evaluation.correctness import JudgedDetections

BINS = 15
SCORE_EPSILON = 1e-7  # scores are kept this far from 0 and 1 where a logarithm is taken
# COCO's limits of the area in square pixels: a box belongs to the size whose lower limit it reaches.
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}


@dataclass(frozen=True)
class ReliabilityBins:
    """Detections by score, in M bins of equal width: bin m holds scores in (m / M, (m + 1) / M], the first also 0.

    Attributes:
        counts: (M,).
        mean_scores: (M,), NaN where a bin is empty.
        precisions: (M,) share that is correct, NaN where a bin is empty.
    """

    counts: np.ndarray
    mean_scores: np.ndarray
    precisions: np.ndarray

    @property
    def error(self) -> float:
        """ECE: the mean of |precision - mean score| over the bins, weighted by their counts; NaN without any.

        Guo et al., On Calibration of Modern Neural Networks (https://arxiv.org/abs/1706.04599), equation 3.
        """
        full = self.counts > 0
        if not full.any():
            return math.nan
        gaps = np.abs(self.precisions[full] - self.mean_scores[full])
        return float(np.sum(gaps * self.counts[full]) / self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what an empty bin lacks is None."""
        edges = np.linspace(0, 1, len(self.counts) + 1)
        return {
            "edges": [round(float(edge), 6) for edge in edges],
            "count": self.counts.tolist(),
            "mean_score": list(map(or_none, self.mean_scores)),
            "precision": list(map(or_none, self.precisions)),
        }


def reliability_bins(scores: np.ndarray, correct: np.ndarray, bins: int = BINS) -> ReliabilityBins:
    """Sort scores (N,) in 0..1 and their correctness (N,) into bins."""
    place = np.searchsorted(np.arange(1, bins) / bins, scores, side="left")
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_scores = np.bincount(place, weights=scores, minlength=bins) / counts
        precisions = np.bincount(place, weights=correct, minlength=bins) / counts
    return ReliabilityBins(counts, mean_scores, precisions)


def clip_scores(scores: np.ndarray) -> np.ndarray:
    """Scores (N,) at least `SCORE_EPSILON` from 0 and 1, as float64."""
    return np.clip(np.asarray(scores, np.float64), SCORE_EPSILON, 1 - SCORE_EPSILON)


def negative_log_likelihood(scores: np.ndarray, correct: np.ndarray) -> float:
    """Binary cross-entropy of scores (N,) for correctness (N,), in nats; NaN without detections."""
    if not len(scores):
        return math.nan
    clipped = clip_scores(scores)
    return float(-np.mean(np.where(correct, np.log(clipped), np.log1p(-clipped))))


def brier_score(scores: np.ndarray, correct: np.ndarray) -> float:
    """Mean squared difference of scores (N,) and correctness (N,); NaN without detections."""
    return float(np.mean((scores - correct) ** 2)) if len(scores) else math.nan


@dataclass(frozen=True)
class CalibrationMeasures:
    """Measures of a set of detections; all but the count are NaN where there are none."""

    count: int
    precision: float
    mean_score: float
    ece: float
    nll: float
    brier: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN is None."""
        return {name: or_none(value) for name, value in vars(self).items()}


def measure(detections: JudgedDetections, bins: int = BINS) -> CalibrationMeasures:
    """ECE, NLL and Brier score of detections."""
    scores, correct = detections.scores, detections.correct
    return CalibrationMeasures(
        count=len(detections),
        precision=float(correct.mean()) if len(detections) else math.nan,
        mean_score=float(scores.mean()) if len(detections) else math.nan,
        ece=reliability_bins(scores, correct, bins).error,
        nll=negative_log_likelihood(scores, correct),
        brier=brier_score(scores, correct),
    )


def measure_classes(detections: JudgedDetections, num_classes: int, bins: int = BINS) -> list[CalibrationMeasures]:
    """The same for each class."""
    order = np.argsort(detections.classes, kind="stable")
    by_class = detections.where(order)
    edges = np.searchsorted(by_class.classes, np.arange(num_classes + 1))
    return [measure(by_class.where(slice(a, b)), bins) for a, b in itertools.pairwise(edges)]


def classwise_mean(classes: list[CalibrationMeasures]) -> dict[str, float]:
    """Mean of each measure over the classes that have detections, every class counting the same; NaN without any."""
    known = [one for one in classes if one.count]
    names = ("ece", "nll", "brier")
    return {name: float(np.mean([getattr(one, name) for one in known])) if known else math.nan for name in names}


def box_sizes(areas: np.ndarray) -> np.ndarray:
    """(N,) index into `SIZES` of areas (N,) in square pixels."""
    return np.searchsorted(list(SIZES.values()), areas, side="right") - 1


def measure_sizes(detections: JudgedDetections, bins: int = BINS) -> dict[str, CalibrationMeasures]:
    """The measures of small, medium and large detected boxes."""
    sizes = box_sizes(detections.areas)
    return {name: measure(detections.where(sizes == index), bins) for index, name in enumerate(SIZES)}


def detection_ece(sizes: dict[str, CalibrationMeasures]) -> float:
    """D-ECE over score and box size, of what `measure_sizes` gives; NaN without detections.

    The mean of |precision - mean score| over the cells of a grid, weighted by their counts: M score bins times the
    three sizes of COCO. It is never below the ECE, since over- and underconfidence of different sizes cannot cancel.
    Küppers et al., Multivariate Confidence Calibration for Object Detection (https://arxiv.org/abs/2004.13546),
    whose grid may have any of score, position, width and height of a box as its axes.
    """
    known = [one for one in sizes.values() if one.count]
    return float(np.average([one.ece for one in known], weights=[one.count for one in known])) if known else math.nan


def or_none(value: float) -> float | None:
    """A plain number for JSON, which has no NaN."""
    if isinstance(value, int | np.integer):
        return int(value)
    return None if math.isnan(value) else float(value)
