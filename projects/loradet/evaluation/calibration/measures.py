"""Calibration measures: ECE, NLL, Brier score, D-ECE."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.evaluation.correctness import class_order

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
    return ScoreTerms.of(scores, bins).judged(correct).reliability()


def clip_scores(scores: np.ndarray) -> np.ndarray:
    """Scores (N,) at least `SCORE_EPSILON` from 0 and 1, as float64."""
    return np.clip(np.asarray(scores, np.float64), SCORE_EPSILON, 1 - SCORE_EPSILON)


def negative_log_likelihood(scores: np.ndarray, correct: np.ndarray) -> float:
    """Binary cross-entropy of scores (N,) for correctness (N,), in nats; NaN without detections."""
    if not len(scores):
        return math.nan
    clipped = clip_scores(scores)
    return float(-np.mean(np.where(correct, np.log(clipped), np.log1p(-clipped))))


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


@dataclass(frozen=True)
class ScoreTerms:
    """What N scores add to the measures if they are right and if they are wrong, worked out once for all judgements.

    Attributes:
        place: (N,) twice the bin.
        log_right, log_wrong: (N,) logarithms of the score and of what it lacks to 1.
    """

    bins: int
    scores: np.ndarray
    place: np.ndarray
    log_right: np.ndarray
    log_wrong: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, bins: int = BINS) -> "ScoreTerms":
        """Of scores (N,) in 0..1."""
        clipped = clip_scores(scores)
        place = 2 * np.searchsorted(np.arange(1, bins) / bins, scores, side="left")
        place = place.astype(np.min_scalar_type(2 * bins))  # a byte mostly: what is fetched often should be small
        return cls(bins, scores, place, np.log(clipped), np.log1p(-clipped))

    def judged(self, correct: np.ndarray) -> "JudgedTerms":
        """With the correctness (N,) of each."""
        correct = np.asarray(correct, bool)
        logs = np.where(correct, self.log_right, self.log_wrong)
        return JudgedTerms(self.bins, self.scores, self.place + correct, logs)


@dataclass(frozen=True)
class JudgedTerms:
    """What N detections that are right or wrong add to the measures.

    Attributes:
        scores: (N,).
        place: (N,) twice the bin, and one more where they are right.
        logs: (N,) logarithm of the probability that their scores give to what they are.
    """

    bins: int
    scores: np.ndarray
    place: np.ndarray
    logs: np.ndarray

    def where(self, chosen: np.ndarray | slice) -> "JudgedTerms":
        """Those of a mask (N,), of indices or of a range."""
        if getattr(chosen, "dtype", None) == np.bool_:
            chosen = np.flatnonzero(chosen)
        return JudgedTerms(self.bins, self.scores[chosen], self.place[chosen], self.logs[chosen])

    def reliability(self) -> ReliabilityBins:
        """By score."""
        both = np.bincount(self.place, minlength=2 * self.bins).reshape(self.bins, 2)
        counts = both.sum(axis=1)
        with np.errstate(invalid="ignore"):
            mean_scores = np.bincount(self.place >> 1, weights=self.scores, minlength=self.bins) / counts
            return ReliabilityBins(counts, mean_scores, both[:, 1] / counts)

    def measures(self) -> CalibrationMeasures:
        """ECE, NLL and Brier score."""
        count = len(self.scores)
        if not count:
            return CalibrationMeasures(0, *[math.nan] * 5)
        correct = self.place & 1
        return CalibrationMeasures(
            count=count,
            precision=np.count_nonzero(correct) / count,
            mean_score=float(self.scores.mean()),
            ece=self.reliability().error,
            nll=float(-np.mean(self.logs)),
            brier=float(np.mean((self.scores - correct) ** 2)),
        )

    def measures_of_classes(self, classes: np.ndarray, num_classes: int) -> list[CalibrationMeasures]:
        """Of the detections of each class, of `classes` (N,)."""
        order = class_order(classes, num_classes)
        by_class = self.where(order)
        edges = np.searchsorted(classes[order], np.arange(num_classes + 1))
        return [by_class.where(slice(a, b)).measures() for a, b in itertools.pairwise(edges)]

    def measures_of_sizes(self, areas: np.ndarray) -> dict[str, CalibrationMeasures]:
        """Of small, medium and large detected boxes, of `areas` (N,) in square pixels."""
        sizes = box_sizes(areas)
        return {name: self.where(sizes == index).measures() for index, name in enumerate(SIZES)}


def classwise_mean(classes: list[CalibrationMeasures]) -> dict[str, float]:
    """Mean of each measure over the classes that have detections, every class counting the same; NaN without any."""
    known = [one for one in classes if one.count]
    names = ("ece", "nll", "brier")
    return {name: float(np.mean([getattr(one, name) for one in known])) if known else math.nan for name in names}


def box_sizes(areas: np.ndarray) -> np.ndarray:
    """(N,) index into `SIZES` of areas (N,) in square pixels."""
    return np.searchsorted(list(SIZES.values()), areas, side="right") - 1


def detection_ece(sizes: dict[str, CalibrationMeasures]) -> float:
    """D-ECE over score and box size, of what `measures_of_sizes` gives; NaN without detections.

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
