"""Boxes to find and detections as columns, and what a COCO evaluation of them asks: what matchers work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNLIMITED = 2**31 - 1  # detections of a class in an image, where all count


@dataclass(frozen=True, eq=False)
class BoxColumns:
    """G boxes to find and D detections of `images` images and `classes` classes, which are counted from 0.

    Of detections with equal scores, COCO takes first the one of the lower image, in an image the one of the lower row.

    Attributes:
        truth_image, truth_class: (G,).
        truth_xywh: (G, 4) in pixels.
        truth_area: (G,) in square pixels, by which a box is small, medium or large; not always width times height.
        truth_crowd: (G,) bool.
        image, category: (D,), the class as `category`.
        xywh: (D, 4) in pixels.
        scores: (D,).
    """

    images: int
    classes: int
    truth_image: np.ndarray
    truth_class: np.ndarray
    truth_xywh: np.ndarray
    truth_area: np.ndarray
    truth_crowd: np.ndarray
    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    scores: np.ndarray


def truth_entries(columns: BoxColumns) -> list[dict[str, Any]]:
    """The boxes to find as entries of a COCO file. All ids count from 1: 0 is "no match" to COCO's evaluators."""
    values = (
        (columns.truth_image + 1).tolist(),
        (columns.truth_class + 1).tolist(),
        columns.truth_xywh.tolist(),
        columns.truth_area.tolist(),
        columns.truth_crowd.astype(np.int64).tolist(),
    )
    return [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image, category, box, area, crowd) in enumerate(zip(*values), start=1)
    ]


@dataclass(frozen=True)
class Question:
    """What an evaluation asks.

    Attributes:
        iou_thresholds: T of them.
        recalls: R at which precision is taken.
        areas: A ranges in square pixels, both ends in them. A box outside is ignored, and so is a detection outside
            that finds none.
        limits: M ascending numbers of detections of a class in an image that count.
    """

    iou_thresholds: Sequence[float] | np.ndarray
    recalls: Sequence[float] | np.ndarray
    areas: Sequence[Sequence[float]]
    limits: Sequence[int]

    @classmethod
    def of_matching(cls, iou_thresholds: Sequence[float], limit: int = UNLIMITED) -> "Question":
        """Boxes of any area; which detections find which, and no precision."""
        return cls(iou_thresholds, (0.0,), ((-np.inf, np.inf),), (limit,))


@dataclass(frozen=True, eq=False)
class Curves:
    """COCO's accumulated results; -1 where there is nothing to find.

    Attributes:
        precision, scores: (T, R, K, A, M).
        recall: (T, K, A, M).
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Which of the N detections that count find a box: class by class, image by image, by falling score.

    Attributes:
        category, image: (N,).
        scores: (N,).
        found: (N, T) bool: finds a box that counts.
        ignored: (N, T) bool: neither right nor wrong.
    """

    category: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True, eq=False)
class Finds:
    """What each of the N detections that count finds, in the order of `Outcomes`.

    Attributes:
        detection: (N,) row among the detections.
        truth: (N,) row of the box among those to find; -1 where there is none.
        ignored: (N,) bool: neither right nor wrong. `truth` may be a crowd then.
    """

    detection: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray
