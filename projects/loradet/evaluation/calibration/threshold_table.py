"""Calibration of the detections from each of several scores on, judged at each of several IoUs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loradet.evaluation.calibration.measures import ReliabilityBins, ScoreTerms, or_none
from loradet.evaluation.correctness import Correctness


@dataclass(frozen=True, kw_only=True)
class RowMeasures:
    """What a row tells of a set of scores; all but the count are NaN where there are no detections."""

    count: int
    ece: float
    nll: float


@dataclass(frozen=True, kw_only=True)
class ThresholdRow:
    """The detections from a score on, judged at an IoU.

    Attributes:
        before: of the scores as they are.
        after: of the scaled ones; None without a temperature.
    """

    score_threshold: float
    match_iou: float
    before: RowMeasures
    after: RowMeasures | None

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
        row = {"score_threshold": self.score_threshold, "match_iou": self.match_iou, "count": self.before.count}
        row |= {"ece": or_none(self.before.ece), "nll": or_none(self.before.nll)}
        if self.after is not None:
            row |= {"ece_after": or_none(self.after.ece), "nll_after": or_none(self.after.nll)}
        return row


def threshold_table(
    matches: Correctness, terms: Sequence[ScoreTerms], thresholds: Sequence[float], ious: Sequence[float]
) -> list[ThresholdRow]:
    """A row for each of the S ascending score thresholds and each IoU.

    Args:
        matches: D detections at these IoUs at least; their scores are what the thresholds are of.
        terms: of the scores as they are, and maybe of the scaled ones.
    """
    # How many of the thresholds a score reaches; those that reach one are among those that reach a lower one.
    level = np.searchsorted(thresholds, matches.scores, side="right").astype(np.min_scalar_type(len(thresholds)))
    rows = {}
    for iou in ious:
        number = matches.iou_thresholds.index(iou)
        reached = level * ~matches.ignored[number]
        chosen = [np.flatnonzero(reached > place) for place in range(len(thresholds))]
        sides = [_measure_nested(one, matches.correct[number], chosen) for one in terms]
        for threshold, before, *after in zip(thresholds, *sides):
            rows[threshold, iou] = ThresholdRow(
                score_threshold=threshold, match_iou=iou, before=before, after=after[0] if after else None
            )
    return [rows[threshold, iou] for threshold in thresholds for iou in ious]


def _measure_nested(terms: ScoreTerms, correct: np.ndarray, chosen: Sequence[np.ndarray]) -> list[RowMeasures]:
    """Measures of some detections, of some of those, and so on.

    Args:
        terms: of D scores.
        correct: (D,) bool.
        chosen: ascending indices; each array holds the following one.
    """
    place, logs = terms.place + correct, np.where(correct, terms.log_right, terms.log_wrong)
    sums, former = np.zeros(terms.bins), None
    measures = []
    for rows in chosen:
        logs_here, place_here = logs[rows], place[rows]
        both = np.bincount(place_here, minlength=2 * terms.bins).reshape(terms.bins, 2)
        counts = both.sum(axis=1)
        # A bin that has lost none has the sum that it had; others are summed anew, in the order of the detections.
        changed = np.ones(terms.bins, bool) if former is None else counts != former
        if changed.any():
            bins = place_here >> 1
            again = slice(None) if former is None else np.flatnonzero(changed[bins])
            anew = np.bincount(bins[again], weights=terms.scores[rows[again]], minlength=terms.bins)
            sums = np.where(changed, anew, sums)
        former = counts
        with np.errstate(invalid="ignore"):
            ece = ReliabilityBins(counts, sums / counts, both[:, 1] / counts).error
        nll = float(-np.mean(logs_here)) if len(rows) else math.nan
        measures.append(RowMeasures(count=len(rows), ece=ece, nll=nll))
    return measures
