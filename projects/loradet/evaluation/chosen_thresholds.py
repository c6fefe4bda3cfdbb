"""Which score threshold a tool works with: the one that is given, else the operating point that the weights have."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loradet.evaluation.operating_point import DEFAULT_THRESHOLD, OperatingPoint
from loradet.wording import shorten

if TYPE_CHECKING:  # an exported detector needs no torch
    from detectron2.structures import Instances
    from torch import Tensor

logger = logging.getLogger(__name__)

KEY = "operating_point"  # in checkpoints, in the metadata of adapters and of exported models


@dataclass(frozen=True)
class ScoreThresholds:
    """Scores from which on detections are taken.

    Attributes:
        by_class: by class number; or one number for all classes.
        source: where they come from, in words.
    """

    by_class: tuple[float, ...] | float
    source: str

    def keep(self, instances: "Instances") -> "Tensor":
        """(N,) bool of N detections."""
        if not isinstance(self.by_class, tuple):
            return instances.scores >= self.by_class
        thresholds = instances.scores.double().new_tensor(self.by_class)
        return instances.scores >= thresholds[instances.pred_classes]

    def keep_arrays(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The same of arrays (N,) of scores and class numbers."""
        if not isinstance(self.by_class, tuple):
            return scores >= self.by_class
        return scores >= np.array(self.by_class, np.float64)[classes]

    def describe(self, names: Sequence[str]) -> str:
        """For people: "0.3 (given)", or "ship 0.41, car 0.37 (best F1 on val)"."""
        if not isinstance(self.by_class, tuple):
            return f"{self.by_class:g} ({self.source})"
        shown = shorten((f"{name} {value:g}" for name, value in zip(names, self.by_class)), 12)
        return f"{shown} ({self.source})"

    def brief(self) -> str:
        """For headings: "0.3", or "that of its class (best F1 on val)"."""
        return f"that of its class ({self.source})" if isinstance(self.by_class, tuple) else f"{self.by_class:g}"

    def plain(self, names: Sequence[str]) -> float | dict[str, float]:
        """For JSON: the number, or numbers by class name."""
        return dict(zip(names, self.by_class)) if isinstance(self.by_class, tuple) else self.by_class


def choose_thresholds(
    given: float | None, point: OperatingPoint | None, names: Sequence[str], weights: str | os.PathLike
) -> ScoreThresholds:
    """What was given; else the operating point of the weights; else 0.3, with a warning.

    Args:
        given: by the user.
        point: of the weights, as `find_operating_point` finds it.
        names: classes by number.
        weights: file that they are in, for the warning.
    """
    if given is not None:
        return ScoreThresholds(given, "given")
    if point is not None and point.overall.threshold is None:
        logger.warning(
            "%s: nothing that it found on %s was right, so it has no operating point: detections with a score of %g or "
            "more are taken; --score-threshold sets another.",
            *(weights, point.split, DEFAULT_THRESHOLD),
        )
        return ScoreThresholds(DEFAULT_THRESHOLD, f"default: nothing right was found on {point.split}")
    if point is not None:
        own = {one.name for one in point.classes if one.threshold is not None}
        others = [name for name in names if name not in own]
        shared = f"; {shorten(others)}: of all classes together" if others else ""
        return ScoreThresholds(point.thresholds(names), f"{point.rule} on {point.split}{shared}")
    logger.warning(
        "%s has no operating point: detections with a score of %g or more are taken. `lazyconfig_train_net.py "
        "--eval-only` finds one; --score-threshold sets another.",
        *(weights, DEFAULT_THRESHOLD),
    )
    return ScoreThresholds(DEFAULT_THRESHOLD, "default")
