"""Chooses who matches detections with boxes: the compiled evaluator, or pycocotools where that is not to be had."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from typing import Protocol

import numpy as np

from loradet.evaluation.matchers.columns import BoxColumns, Curves, Finds, Outcomes, Question
from loradet.evaluation.matchers.reference import ReferenceMatcher

logger = logging.getLogger(__name__)

_chosen: ContextVar[type | None] = ContextVar("chosen matcher", default=None)
_PACKAGE = "ultrafast-pycocotools"


class Matcher(Protocol):
    """Answers a question about boxes."""

    def curves(self) -> Curves: ...

    def outcomes(self, area: int = 0, limit: int | None = None) -> Outcomes: ...

    def finds(self, threshold: int = 0, area: int = 0, limit: int | None = None) -> Finds: ...


def match(columns: BoxColumns, question: Question) -> Matcher:
    """A matcher of boxes: both kinds give the same numbers, to the last bit."""
    return (_chosen.get() or _matcher_class())(columns, question)


@contextlib.contextmanager
def matched_by(kind: type) -> Iterator[None]:
    """Name the kind of matcher, to compare both."""
    token = _chosen.set(kind)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def _matcher_class() -> type:
    """The compiled one if it works here, which is tried once a process; else a warning is given once."""
    try:
        from loradet.evaluation.matchers.compiled import CompiledMatcher

        if not _agree(CompiledMatcher, ReferenceMatcher):
            raise ValueError("it does not give pycocotools' numbers on a small case")
    except Exception as error:  # a package without a fitting binary raises whatever loading that does
        reason = f"{type(error).__name__}: {error}"
        logger.warning(
            "The compiled evaluator is not to be had (%s): pycocotools computes the metrics, with the same numbers but "
            "some 50 times slower. pip install --force-reinstall %s",
            *(reason, _PACKAGE),
        )
        return ReferenceMatcher
    return CompiledMatcher


def _agree(one: type, other: type) -> bool:
    """Whether two kinds of matcher answer alike."""
    columns, question = _small_case()
    ours, theirs = one(columns, question), other(columns, question)
    asked = [
        (ours.curves(), theirs.curves()),
        (ours.outcomes(1), theirs.outcomes(1)),
        (ours.outcomes(0, 1), theirs.outcomes(0, 1)),
        (ours.finds(1), theirs.finds(1)),
    ]
    return all(
        np.array_equal(getattr(mine, name), getattr(yours, name)) for mine, yours in asked for name in vars(yours)
    )


def _small_case() -> tuple[BoxColumns, Question]:
    """Two images with a crowd, equal scores, a class without boxes and one without detections."""
    truth = np.array([[10, 10, 40, 40], [60, 10, 20, 20], [0, 0, 90, 90], [5, 5, 10, 10]], np.float64)
    found = np.array(
        [[12, 10, 40, 38], [10, 12, 40, 40], [61, 10, 20, 20], [30, 30, 20, 20], [5, 5, 10, 9], [0, 0, 9, 9]],
        np.float64,
    )
    columns = BoxColumns(
        images=2,
        classes=3,
        truth_image=np.array([0, 0, 0, 1]),
        truth_class=np.array([0, 0, 0, 1]),
        truth_xywh=truth,
        truth_area=truth[:, 2] * truth[:, 3],
        truth_crowd=np.array([False, False, True, False]),
        image=np.array([0, 0, 0, 0, 1, 1]),
        category=np.array([0, 0, 0, 0, 1, 2]),
        xywh=found,
        scores=np.array([0.9, 0.9, 0.8, 0.3, 0.5, 0.5]),
    )
    return columns, Question((0.5, 0.75), np.linspace(0, 1, 11), ((0, 1e10), (0, 32**2)), (1, 100))
