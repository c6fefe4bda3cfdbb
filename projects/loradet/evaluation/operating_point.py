"""The operating point of a detector: for each class the score from which on its detections are taken."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from loradet.errors import UserError
from loradet.evaluation.correctness import match_all
from loradet.evaluation.detections.records import DetectionRecords
from loradet.json_kinds import FINITE, SHARE, TEXT, TRUTH, WHOLE, entries, list_of, optional

ALL = "all classes"
DEFAULT_THRESHOLD = 0.3  # of weights without an operating point


@dataclass(frozen=True, kw_only=True)
class ClassPoint:
    """The threshold of a class, and what it gives on the split that it was chosen on.

    Attributes:
        name: of the class, or `ALL`.
        threshold: half-way between the lowest score that is taken and the next one under it (0, where there is none).
            None: no detection of the class is right, or there is no box of it.
        precision, recall, f1: at the threshold; None without one.
        boxes: to be found.
        reached: whether a wished precision is; True where none was wished.
    """

    name: str
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    boxes: int = 0
    reached: bool = True


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Thresholds by class, chosen on a split.

    Attributes:
        split: its name.
        match_iou: IoU from which on a detection finds a box.
        wished_precision: the threshold is the lowest that reaches it; None: the one of the best F1.
        overall: one threshold for all classes together; for those that have none of their own.
        classes: by ascending category id.
    """

    split: str
    match_iou: float
    wished_precision: float | None
    overall: ClassPoint
    classes: tuple[ClassPoint, ...]

    @property
    def rule(self) -> str:
        """How the thresholds were chosen, in words."""
        return "best F1" if self.wished_precision is None else f"precision {self.wished_precision:g}"

    def thresholds(self, names: Sequence[str]) -> tuple[float, ...]:
        """A score threshold for each of these classes, in their order."""
        own = {point.name: point.threshold for point in self.classes}
        overall = DEFAULT_THRESHOLD if self.overall.threshold is None else self.overall.threshold
        return tuple(overall if own.get(name) is None else own[name] for name in names)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "classes": [asdict(point) for point in self.classes]}

    @classmethod
    def parse(cls, value: Any, source: str) -> "OperatingPoint":
        """What `to_dict` gave; other entries are left out.

        Raises:
            UserError: it is something else; begins with `source`.
        """
        if (problem := _KIND(value, "")) is not None:
            raise UserError(f"{source} holds no operating point: {problem}.")
        return cls(
            split=value["split"],
            match_iou=value["match_iou"],
            wished_precision=value["wished_precision"],
            overall=_parse_class(value["overall"]),
            classes=tuple(map(_parse_class, value["classes"])),
        )


_CLASS = entries(
    {
        "name": TEXT,
        "boxes": WHOLE,
        "reached": TRUTH,
        "threshold": optional(FINITE),
        **dict.fromkeys(("precision", "recall", "f1"), optional(SHARE)),
    },
    required=("name", "threshold", "precision", "recall", "f1", "boxes", "reached"),
)
_KIND = entries(
    {
        "split": TEXT,
        "match_iou": SHARE,
        "wished_precision": optional(SHARE),
        "overall": _CLASS,
        "classes": list_of(_CLASS),
    },
    required=("split", "match_iou", "wished_precision", "overall", "classes"),
)


def _parse_class(value: Mapping[str, Any]) -> ClassPoint:
    return ClassPoint(**{key: value[key] for key in ClassPoint.__dataclass_fields__})


def choose_operating_point(
    records: DetectionRecords, *, split: str, match_iou: float = 0.5, wished_precision: float | None = None
) -> OperatingPoint:
    """Choose thresholds by the detections on a split.

    A detection is right if COCO's matching at `match_iou` gives it a box of its class; one that lies in a crowd counts
    nowhere. At a threshold with t right ones among n detections of b boxes, precision is t/n, recall t/b, and
    F1 = 2t / (n + b). Of thresholds with the same F1 the highest is taken.

    Args:
        records: boxes and detections.
        split: their name.
        match_iou: in (0, 1].
        wished_precision: in (0, 1]: the lowest threshold with this precision is taken, which has the most recall;
            where no threshold has it, the one with the most precision. None: the best F1.
    """
    found = match_all(records, (match_iou,)).judged(match_iou)
    counts = records.count_truth()

    def point(name: str, chosen: np.ndarray, boxes: int) -> ClassPoint:
        return _choose(name, found.scores[chosen], found.correct[chosen], boxes, wished_precision)

    classes = tuple(
        point(name, found.classes == index, int(counts[index])) for index, name in enumerate(records.class_names)
    )
    return OperatingPoint(
        split=split,
        match_iou=match_iou,
        wished_precision=wished_precision,
        overall=point(ALL, np.ones(len(found), bool), int(counts.sum())),
        classes=classes,
    )


def _choose(name: str, scores: np.ndarray, correct: np.ndarray, boxes: int, wished: float | None) -> ClassPoint:
    """The point of D detections (D,) that are right or not."""
    if not boxes or not correct.any():
        return ClassPoint(name=name, boxes=boxes)
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(correct[order])
    # A threshold takes all of equal scores or none.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    taken, right = last + 1, right[last]
    precision, recall, f1 = right / taken, right / boxes, 2 * right / (taken + boxes)
    reached = True
    if wished is None:
        best = int(np.argmax(f1))
    elif (able := np.flatnonzero(precision >= wished)).size:
        # The first of equal recall has the better precision.
        best = int(able[np.argmax(recall[able])])
    else:
        reached, best = False, int(np.lexsort((recall, precision))[-1])
    lower = scores[last[best + 1]] if best + 1 < len(last) else 0.0
    return ClassPoint(
        name=name,
        threshold=_between(float(lower), float(scores[last[best]])),
        precision=float(precision[best]),
        recall=float(recall[best]),
        f1=float(f1[best]),
        boxes=boxes,
        reached=reached,
    )


def _between(low: float, high: float) -> float:
    """The middle, in as few digits as keep it above `low` and at `high` at most: a person has to read it."""
    middle = (low + high) / 2
    for digits in (3, 4, 6):
        if low < (rounded := round(middle, digits)) <= high:
            return rounded
    return middle if math.isfinite(middle) and low < middle <= high else high


def operating_point_table(point: OperatingPoint) -> str:
    """For people: a line a class, all classes together last."""
    points = point.classes if len(point.classes) == 1 else (*point.classes, point.overall)
    rows = [
        (
            one.name,
            "-" if one.threshold is None else f"{one.threshold:g}{'' if one.reached else ' *'}",
            *("-" if share is None else f"{share:.3f}" for share in (one.precision, one.recall, one.f1)),
            one.boxes,
        )
        for one in points
    ]
    names = ("class", "score from", "precision", "recall", "F1", "boxes")
    align = ("left", *("right",) * (len(names) - 1))
    table = tabulate(rows, headers=names, disable_numparse=True, colalign=align)
    missed = any(not one.reached for one in points)
    return f"{table}\n* no threshold reaches the wished precision; this one comes nearest" if missed else table
