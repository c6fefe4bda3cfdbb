"""Breakdown of a detector's errors by kind, and what each costs in AP50.

The kinds and what it means to mend one are those of TIDE (Bolya et al., ECCV 2020, https://arxiv.org/abs/2008.08115).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.errors import UserError
from loradet.evaluation.analysis.matching import match_classes
from loradet.evaluation.analysis.precision_recall import precision_at_recalls
from loradet.evaluation.detections.records import DetectionRecords, box_iou

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    *("classification", "localisation", "both", "duplicate", "background", "missed"),
)
_FREE = -1  # no annotated box


@dataclass(frozen=True)
class ErrorBreakdown:
    """Numbers of errors and what mending them would give.

    Attributes:
        average_precision: mean AP at the foreground threshold over the classes with boxes, 0..1; NaN without any.
        counts: errors by kind. `missed` counts annotated boxes, the others detections.
        gains: what is added to `average_precision` if all errors of that kind alone are mended; NaN where then
            nothing is left to find.
        class_counts: the same counts by class name; an error is of its detection's class.
        true_positives: detections that find a box.
        ignored: detections in crowds.
        num_truth: boxes to find.
    """

    average_precision: float
    counts: dict[str, int]
    gains: dict[str, float]
    class_counts: dict[str, dict[str, int]]
    true_positives: int
    ignored: int
    num_truth: int
    foreground_iou: float
    background_iou: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN is None."""
        gains = {kind: None if np.isnan(gain) else gain for kind, gain in self.gains.items()}
        average = None if np.isnan(self.average_precision) else self.average_precision
        return {**vars(self), "average_precision": average, "gains": gains}


@dataclass(frozen=True)
class _Table:
    """All detections, a row each; annotated boxes are numbered through all images."""

    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray  # the box that it finds, or _FREE
    kinds: np.ndarray  # position in KINDS, or -1
    targets: np.ndarray  # for classification and localisation errors, the box that was meant

    def mean_precision(self, num_truth: np.ndarray) -> float:
        """Mean AP over the classes with boxes to find; NaN without any."""
        values = []
        for index in np.flatnonzero(num_truth):
            rows = np.flatnonzero(self.classes == index)
            rows = rows[np.argsort(-self.scores[rows], kind="stable")]
            values.append(precision_at_recalls(self.hits[rows] != _FREE, num_truth[index]).mean())
        return float(np.mean(values)) if values else float("nan")

    def keep(self, rows: np.ndarray) -> "_Table":
        return _Table(*(column[rows] for column in vars(self).values()))


def break_down_errors(
    records: DetectionRecords, foreground_iou: float = 0.5, background_iou: float = 0.1
) -> ErrorBreakdown:
    """Tell each wrong detection's kind, and each missed box.

    A detection is right if COCO's matching at `foreground_iou` gives it a box. A wrong one is, in this order,
    - duplicate: a box of its class, already found by a better one, overlaps it by `foreground_iou` or more;
    - classification: a box of another class does;
    - localisation: a box of its class overlaps it by `background_iou` or more;
    - both: a box of another class does;
    - background: none.
    A box is missed if no detection finds it and no classification or localisation error means it, an error's
    meant box being that of the largest overlap. Crowd boxes are not to be found, and detections of their class in
    them not counted.

    Mended are, one kind at a time: classification and localisation errors by giving them class and place of the
    meant box, of several detections of one box the best scored one staying; both, duplicate and background by
    taking them away; missed boxes by not asking for them.

    Raises:
        ValueError: not 0 < background_iou < foreground_iou <= 1.
    """
    if not 0 < background_iou < foreground_iou <= 1:
        raise UserError(f"IoU thresholds: expected 0 < {background_iou} (background) < {foreground_iou} <= 1.")
    truth_classes, crowd = records.columns.truth_class, records.columns.truth_crowd
    table, ignored = _make_table(records, foreground_iou, background_iou)
    num_truth = records.count_truth()
    covered = np.concatenate([table.hits, table.targets])
    missed = ~crowd
    missed[covered[covered != _FREE]] = False
    num_missed = np.bincount(truth_classes[missed], minlength=len(num_truth))
    counts = np.stack([_count(table, kind, len(num_truth)) for kind in range(len(KINDS) - 1)] + [num_missed])

    average = table.mean_precision(num_truth)
    gains = {}
    for number, kind in enumerate(KINDS[:-1]):
        mended = (
            _mend(table, number, truth_classes)
            if kind in (CLASSIFICATION, LOCALISATION)
            else table.keep(table.kinds != number)
        )
        gains[kind] = mended.mean_precision(num_truth) - average
    gains[MISSED] = table.mean_precision(num_truth - num_missed) - average
    return ErrorBreakdown(
        average_precision=average,
        counts=dict(zip(KINDS, counts.sum(axis=1).tolist())),
        gains=gains,
        class_counts={
            name: dict(zip(KINDS, counts[:, index].tolist())) for index, name in enumerate(records.class_names)
        },
        true_positives=int((table.hits != _FREE).sum()),
        ignored=ignored,
        num_truth=int(num_truth.sum()),
        foreground_iou=foreground_iou,
        background_iou=background_iou,
    )


def _make_table(records: DetectionRecords, foreground: float, background: float) -> tuple[_Table, int]:
    """All detections that are not ignored, class by class and by falling score; the number of those that are."""
    matches = match_classes(records, foreground)
    counts = [len(of_class.scores) for of_class in matches]
    classes = np.repeat(np.arange(len(matches)), np.array(counts, np.int64))
    image, detection, scores, truth, ignored = (
        np.concatenate([*(getattr(of_class, name) for of_class in matches), np.zeros(0, kind)])
        for name, kind in (
            *(("image", np.int64), ("detection", np.int64), ("scores", np.float64)),
            *(("truth", np.int64), ("ignored", bool)),
        )
    )
    first = np.cumsum([0, *(len(one.scores) for one in records.images)])
    first_truth = np.cumsum([0, *(len(one.truth_classes) for one in records.images)])
    kinds, targets = (column[first[image] + detection] for column in _diagnose(records, foreground, background))
    hits = np.where(truth >= 0, first_truth[image] + truth, _FREE)
    right = truth >= 0
    table = _Table(classes, scores, hits, np.where(right, -1, kinds), np.where(right, _FREE, targets))
    return table.keep(~ignored), int(ignored.sum())


def _diagnose(records: DetectionRecords, foreground: float, background: float) -> tuple[np.ndarray, np.ndarray]:
    """What kind of error each detection is where it finds nothing, and the box meant, in the order of the columns."""
    columns = records.columns
    shape = len(columns.scores)
    same, other = np.zeros(shape), np.zeros(shape)  # the largest IoU with a box of its class, and of another one
    same_box, other_box = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    start = first_box = 0
    for image in records.images:
        stop = start + len(image.scores)
        if stop > start and len(image.truth_classes):
            overlaps = box_iou(image.found_xywh, image.truth_xywh)
            overlaps[:, image.truth_crowd] = 0.0
            own = image.found_classes[:, None] == image.truth_classes
            for best, box, of in ((same, same_box, own), (other, other_box, ~own)):
                values = np.where(of, overlaps, 0.0)
                best[start:stop], box[start:stop] = values.max(axis=1), values.argmax(axis=1) + first_box
        start, first_box = stop, first_box + len(image.truth_classes)
    cases = [
        (DUPLICATE, same >= min(foreground, 1 - 1e-10), None),
        (CLASSIFICATION, other >= foreground, other_box),
        (LOCALISATION, same >= background, same_box),
        (BOTH, other >= background, None),
    ]
    holds = [where for _, where, _ in cases]
    free = np.full(shape, _FREE)
    kinds = np.select(holds, [KINDS.index(kind) for kind, _, _ in cases], KINDS.index(BACKGROUND))
    return kinds, np.select(holds, [free if box is None else box for _, _, box in cases], _FREE)


def _mend(table: _Table, kind: int, truth_classes: np.ndarray) -> _Table:
    """The errors of a kind find their boxes; of all that find one box, the best scored one stays."""
    wrong = table.kinds == kind
    hits = np.where(wrong, table.targets, table.hits)
    classes = table.classes.copy()
    classes[wrong] = truth_classes[table.targets[wrong]]
    finds = np.flatnonzero(hits != _FREE)
    # A box's own detection goes before a mended one of the same score.
    order = finds[np.lexsort((wrong[finds], -table.scores[finds]))]
    _, first = np.unique(hits[order], return_index=True)
    keep = hits == _FREE
    keep[order[first]] = True
    return _Table(classes, table.scores, hits, table.kinds, table.targets).keep(keep)


def _count(table: _Table, kind: int, num_classes: int) -> np.ndarray:
    return np.bincount(table.classes[table.kinds == kind], minlength=num_classes)
