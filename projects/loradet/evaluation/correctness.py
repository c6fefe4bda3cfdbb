"""Which detections of a whole data set are correct, worked out for all images and classes at once."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from loradet.evaluation.detections.records import DetectionRecords

_MAX_PAIRS = 4_000_000  # of a detection with a box whose overlaps are in memory together


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
        truth: (T, D) the annotated box that each one finds, counted through the images' boxes; -1 where none.
        ignored: (T, D) bool: it finds none and lies in a crowd of its class.
    """

    scores: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    images: np.ndarray
    iou_thresholds: tuple[float, ...]
    truth: np.ndarray
    ignored: np.ndarray

    def judged(self, iou_threshold: float, score_threshold: float = 0.0) -> JudgedDetections:
        """The detections from a score on, without those that are ignored at an IoU threshold, one of the T."""
        row = self.iou_thresholds.index(iou_threshold)
        kept = ~self.ignored[row] & (self.scores >= score_threshold)
        correct = self.truth[row] >= 0
        return JudgedDetections(self.scores, correct, self.classes, self.areas, self.images).where(kept)


class _Pairs(NamedTuple):
    """P detections and boxes of the same image and class that overlap: their indices and IoU, (P,) each."""

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def where(self, chosen: np.ndarray) -> "_Pairs":
        return _Pairs(*(column[chosen] for column in self))


def match_all(records: DetectionRecords, iou_thresholds: Sequence[float] = (0.5,)) -> Correctness:
    """Match every detection, as `matching.match_class` does class by class, without its limit of detections.

    In each image and class, by falling score, a detection takes the free box that it overlaps most, if by the
    threshold at least; each box is found once. One that gets none and lies in a crowd is ignored.
    """
    images = records.images
    xywh, truth_xywh = _join([i.found_xywh for i in images], 4), _join([i.truth_xywh for i in images], 4)
    scores, classes = _join([i.scores for i in images]), _join([i.found_classes for i in images]).astype(np.int64)
    crowd = _join([i.truth_crowd for i in images]).astype(bool)
    kinds = max(len(records.class_names), 1)
    places = _image_index([len(i.scores) for i in images])
    group = places * kinds + classes
    truth_group = _image_index([len(i.truth_classes) for i in images]) * kinds
    truth_group += _join([i.truth_classes for i in images]).astype(np.int64)

    thresholds = tuple(float(value) for value in iou_thresholds)
    pairs = _overlapping_pairs(xywh, group, truth_xywh, truth_group, crowd, min(map(_reachable, thresholds)))
    shape = (len(thresholds), len(scores))
    truth, ignored = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    rounds, ordered = _in_order_of_choice(pairs.where(~crowd[pairs.truth]), group)
    in_crowd = pairs.where(crowd[pairs.truth])
    for row, threshold in enumerate(map(_reachable, thresholds)):
        near = ordered.iou >= threshold
        _choose(rounds[near], ordered.where(near), truth[row], len(truth_xywh))
        ignored[row, in_crowd.detection[in_crowd.iou >= threshold]] = True
    areas = xywh[:, 2] * xywh[:, 3]
    return Correctness(scores, classes, areas, places, thresholds, truth, ignored & (truth < 0))


def _reachable(threshold: float) -> float:
    """COCO's own limit: equal boxes may come to a hair under 1."""
    return min(threshold, 1 - 1e-10)


def _join(arrays: list[np.ndarray], *columns: int) -> np.ndarray:
    return np.concatenate([*arrays, np.zeros((0, *columns))])


def _image_index(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), np.array(counts, np.int64))


def _overlapping_pairs(
    xywh: np.ndarray,
    group: np.ndarray,
    truth_xywh: np.ndarray,
    truth_group: np.ndarray,
    crowd: np.ndarray,
    threshold: float,
) -> _Pairs:
    """Every pair of a group from the threshold on."""
    by_group = np.argsort(truth_group, kind="stable")
    first = np.searchsorted(truth_group[by_group], group, side="left")
    counts = np.searchsorted(truth_group[by_group], group, side="right") - first
    none = np.zeros(0, np.int64)
    found = [_Pairs(none, none, np.zeros(0))]
    for start, stop in _blocks(counts):
        here = counts[start:stop]
        detection = np.repeat(np.arange(start, stop), here)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(here) - here, here)
        truth = by_group[np.repeat(first[start:stop], here) + within]
        iou = _iou(xywh[detection], truth_xywh[truth], crowd[truth])
        near = iou >= threshold
        found.append(_Pairs(detection, truth, iou).where(near))
    return _Pairs(*(np.concatenate(column) for column in zip(*found)))


def _blocks(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of detections with at most `_MAX_PAIRS` pairs, or a single detection."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(int(np.searchsorted(ends, before + _MAX_PAIRS, side="right")), start + 1)
        yield start, stop
        start = stop


def _iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (P,) of boxes XYWH (P, 4) pair by pair; over a crowd, the share of the first that lies in it."""
    width = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inner = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = a[:, 2] * a[:, 3]
    union = np.where(crowd, area, area + b[:, 2] * b[:, 3] - inner)
    return np.divide(inner, union, out=np.zeros_like(inner), where=inner > 0)


def _in_order_of_choice(pairs: _Pairs, group: np.ndarray) -> tuple[np.ndarray, _Pairs]:
    """The round (P,) of each pair, and the pairs, sorted so that a detection's best choice is its last pair.

    The detections of a group choose one after the other, in rounds that all groups go through together: a group's
    n-th detection that overlaps anything is in round n.
    """
    choosers = np.unique(pairs.detection)
    by_group = choosers[np.argsort(group[choosers], kind="stable")]
    sizes = np.unique(group[by_group], return_counts=True)[1]
    turn = np.zeros(len(group), np.int64)
    turn[by_group] = np.arange(len(by_group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rounds = turn[pairs.detection]
    # Of equal overlaps the last box is taken, as pycocotools has it.
    order = np.lexsort((pairs.truth, pairs.iou, pairs.detection, rounds))
    return rounds[order], pairs.where(order)


def _choose(rounds: np.ndarray, pairs: _Pairs, matched: np.ndarray, boxes: int) -> None:
    """Fill `matched` (D,) with the box that each detection gets, round by round."""
    free = np.ones(boxes, bool)
    edges = np.searchsorted(rounds, np.arange(rounds.max(initial=-1) + 2))
    for start, stop in itertools.pairwise(edges):
        able = free[pairs.truth[start:stop]]
        chooser, box = pairs.detection[start:stop][able], pairs.truth[start:stop][able]
        if len(chooser):
            best = np.append(chooser[1:] != chooser[:-1], True)
            matched[chooser[best]] = box[best]
            free[box[best]] = False
