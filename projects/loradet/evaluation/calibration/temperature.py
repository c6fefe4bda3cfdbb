"""Temperature scaling: one number that makes all scores more or less sure, and keeps their order."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.evaluation.calibration.measures import clip_scores
from loradet.evaluation.correctness import JudgedDetections

LIMITS = (0.01, 100.0)
_ITERATIONS = 200
_TOLERANCE = 1e-12  # relative, of the inverse temperature


@dataclass(frozen=True)
class Temperature:
    """A score s becomes sigmoid(logit(s) / value), with s clipped to `SCORE_EPSILON` from 0 and 1.

    Guo et al., On Calibration of Modern Neural Networks (https://arxiv.org/abs/1706.04599), section 4.2, for the
    binary question whether a detection is correct.

    Attributes:
        value: above 0; over 1 draws scores towards 0.5, under 1 away from it.
        detections: that it was fitted on; 0 where it was given.
        note: why it is 1 or at a limit, if it is.
    """

    value: float
    detections: int = 0
    note: str = ""

    def __post_init__(self):
        if not (0 < self.value < math.inf):
            raise UserError(f"A temperature of {self.value}: expected a number above 0.")

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scores (N,) in 0..1, scaled; a temperature of 1 changes none, not even 0 and 1."""
        scores = np.asarray(scores, np.float64)
        return scores if self.value == 1 else _sigmoid(_logits(scores) / self.value)

    def scale(self, detections: JudgedDetections) -> JudgedDetections:
        """The detections with scaled scores."""
        return detections.with_scores(self.apply(detections.scores))

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        # A fit on no detections has a note.
        is_fitted = self.detections or self.note
        origin = f"fitted on {self.detections} detections of another split" if is_fitted else "given"
        return f"temperature {self.value:.4f}, {origin}{note}"

    @property
    def label(self) -> str:
        """Of a diagram."""
        return f"temperature {self.value:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "fitted_on_detections": self.detections, "note": self.note or None}


def fit_temperature(scores: np.ndarray, correct: np.ndarray) -> Temperature:
    """The temperature within `LIMITS` at which the scores' binary cross-entropy for correctness is least.

    The cross-entropy is convex in the inverse temperature: Newton's steps on its derivative, halving the bracket
    where a step leaves it, in float64. Where there is nothing to learn it is 1, and `note` says why: no detections,
    all of them correct or all wrong (the least would lie at a limit or say nothing of wrong ones), all scores 0.5.

    Args:
        scores: (N,) in 0..1.
        correct: (N,) bool.
    """
    logits, correct = _logits(np.asarray(scores, np.float64)), np.asarray(correct, bool)
    count = len(logits)
    reasons = {
        "no detections to fit on": not count,
        "every detection is correct, so there is nothing to fit": count and correct.all(),
        "no detection is correct, so there is nothing to fit": count and not correct.any(),
        "every score is 0.5, which no temperature changes": count and not logits.any(),
    }
    if note := next((reason for reason, holds in reasons.items() if holds), ""):
        return Temperature(1.0, count, note)

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    squares = logits**2
    if _slope(logits, squares, correct, low)[0] >= 0:
        return Temperature(LIMITS[1], count, "at the upper limit: a score of 0.5 for all would do no worse")
    if _slope(logits, squares, correct, high)[0] <= 0:
        return Temperature(LIMITS[0], count, "at the lower limit: scores above 0.5 are right and those below wrong")
    inverse = 1.0
    for _ in range(_ITERATIONS):
        slope, curvature = _slope(logits, squares, correct, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        following = step if low < step < high else (low + high) / 2
        done = abs(following - inverse) <= _TOLERANCE * inverse
        inverse = following
        if slope == 0 or done:
            break
    return Temperature(1 / inverse, count)


def _logits(scores: np.ndarray) -> np.ndarray:
    clipped = clip_scores(scores)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # exp of a number that is never positive cannot overflow.
    small = np.abs(logits)
    np.negative(small, out=small)
    np.exp(small, out=small)
    upper = np.where(logits >= 0, 1.0, small)
    small += 1
    upper /= small
    return upper


def _slope(logits: np.ndarray, squares: np.ndarray, correct: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy by the inverse temperature."""
    probability = _sigmoid(logits * inverse)
    first = probability - correct
    first *= logits
    second = 1 - probability
    second *= probability
    second *= squares
    return float(np.mean(first)), float(np.mean(second))
