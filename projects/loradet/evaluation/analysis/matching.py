"""Matching of detections and boxes at one IoU threshold, as COCO does it."""

import itertools
from dataclasses import dataclass

import numpy as np

from loradet.evaluation.detections.records import DetectionRecords
from loradet.evaluation.matchers.choice import match
from loradet.evaluation.matchers.columns import Question


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, by falling score.

    Attributes:
        image: (D,) position in `DetectionRecords.images`.
        detection: (D,) position among that image's detections.
        scores: (D,).
        truth: (D,) position among that image's annotated boxes of what it finds, -1 where nothing.
        ignored: (D,) bool: neither right nor wrong, since it lies in a crowd.
    """

    image: np.ndarray
    detection: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray


def match_classes(
    records: DetectionRecords, iou_threshold: float = 0.5, max_detections: int | None = None
) -> list[ClassMatches]:
    """Match the detections of each class with its annotated boxes.

    Of an image, the `max_detections` best of a class count; None: as many as the records say.

    By falling score, each detection takes the free box that it overlaps most, if by the threshold at least; one
    that gets none and lies in a crowd of its class is ignored. (https://cocodataset.org/#detection-eval)
    """
    limit = records.max_detections if max_detections is None else max_detections
    columns = records.columns
    finds = match(columns, Question.of_matching((iou_threshold,), limit)).finds()
    rows, ignored = finds.detection, finds.ignored
    truth = np.where(ignored, -1, finds.truth)
    first, first_truth = (_firsts(places, columns.images) for places in (columns.image, columns.truth_image))
    image, scores = columns.image[rows], columns.scores[rows]
    within = np.where(truth >= 0, truth - first_truth[image], -1)
    edges = np.searchsorted(columns.category[rows], np.arange(columns.classes + 1))
    found = []
    for start, stop in itertools.pairwise(edges):
        order = start + np.argsort(-scores[start:stop], kind="stable")
        place = image[order]
        found.append(ClassMatches(place, rows[order] - first[place], scores[order], within[order], ignored[order]))
    return found


def _firsts(places: np.ndarray, images: int) -> np.ndarray:
    """(I,) the first row of each image, of rows that come image by image."""
    return np.searchsorted(places, np.arange(images))
