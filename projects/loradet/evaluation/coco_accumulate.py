"""Precision and recall of weighted images from COCO's matching, which is done once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loradet.evaluation.box_evaluation import BoxEvaluation
from loradet.evaluation.matchers.columns import BoxColumns, Outcomes

EPSILON = np.spacing(1)  # with which COCOeval keeps from dividing by zero


@dataclass(frozen=True)
class _Threshold:
    """What one IoU threshold decides of a class in an area range.

    Attributes:
        hits: (H,) places of the detections that find a box, by falling score.
        hit_images: (H,) their images.
        ignored_images: (J,) images of the detections that count as neither right nor wrong, by falling score.
        ignored_before: (H,) how many of those come before each hit.
    """

    hits: np.ndarray
    hit_images: np.ndarray
    ignored_images: np.ndarray
    ignored_before: np.ndarray


@dataclass(frozen=True)
class _Cell:
    """A class in an area range.

    Attributes:
        images: (D,) of all its detections, by falling score.
        boxes: (I,) boxes to find in each image.
        thresholds: T of them.
    """

    images: np.ndarray
    boxes: np.ndarray
    thresholds: tuple[_Threshold, ...]


@dataclass(frozen=True)
class AccumulatedMatches:
    """COCO's matches, ready to be counted with any weights of the images.

    Attributes:
        image_ids: I of them, in COCO's order.
        category_ids: K of them.
        iou_thresholds: (T,).
        recalls: (R,) at which precision is taken.
        areas: names of the A area ranges.
        cells: [K][A]; None where a class has neither boxes nor detections.
        max_detections: of a class in an image that count.
    """

    image_ids: tuple
    category_ids: tuple
    iou_thresholds: np.ndarray
    recalls: np.ndarray
    areas: tuple[str, ...]
    cells: tuple[tuple[_Cell | None, ...], ...]
    max_detections: int

    @classmethod
    def from_evaluation(cls, evaluation: BoxEvaluation, max_detections: int | None = None) -> "AccumulatedMatches":
        """Take over the matches of an evaluation.

        Args:
            max_detections: of a class in an image; one of the evaluation's own `maxDets`, or less. None: those that
                the evaluation counts.
        """
        limit = evaluation.max_detections if max_detections is None else max_detections
        params, columns = evaluation.params, evaluation.columns
        by_area = [
            _cells(evaluation.matcher.outcomes(place, limit), _boxes_to_find(columns, limits))
            for place, limits in enumerate(params.areaRng)
        ]
        return cls(
            tuple(params.imgIds),
            tuple(params.catIds),
            np.array(params.iouThrs),
            np.array(params.recThrs),
            tuple(params.areaRngLbl),
            tuple(zip(*by_area)),
            limit,
        )

    def of_areas(self, areas: Sequence[str]) -> "AccumulatedMatches":
        """The same with some of the area ranges only, which takes less time to count."""
        places = [self.areas.index(name) for name in areas]
        cells = tuple(tuple(row[place] for place in places) for row in self.cells)
        return replace(self, areas=tuple(areas), cells=cells)

    def accumulate(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall where each image counts as often as its weight says.

        With weights that are counts this is what COCOeval gives for a data set in which the images are repeated, up
        to the order of detections of equal score in one image.

        Args:
            weights: (I,) not negative, whole numbers; None counts every image once.

        Returns:
            precision (T, R, K, A) and recall (T, K, A), -1 where there is nothing to find.
        """
        weights = np.ones(len(self.image_ids)) if weights is None else np.asarray(weights, np.float64)
        shape = (len(self.iou_thresholds), len(self.recalls), len(self.category_ids), len(self.areas))
        precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
        for k, row in enumerate(self.cells):
            for a, cell in enumerate(row):
                total = 0 if cell is None else cell.boxes @ weights
                if total:
                    counted = np.cumsum(weights[cell.images])
                    for t, threshold in enumerate(cell.thresholds):
                        precision[t, :, k, a], recall[t, k, a] = _curve(
                            threshold, counted, weights, total, self.recalls
                        )
        return precision, recall


def _boxes_to_find(columns: BoxColumns, area: Sequence[float]) -> np.ndarray:
    """(K, I) boxes of an area range, crowds left out."""
    low, high = area
    counted = ~columns.truth_crowd & (columns.truth_area >= low) & (columns.truth_area <= high)
    place = columns.truth_class[counted] * columns.images + columns.truth_image[counted]
    counts = np.bincount(place, minlength=columns.classes * columns.images)
    return counts.reshape(columns.classes, columns.images).astype(np.float64)


def _cells(outcomes: Outcomes, boxes: np.ndarray) -> list[_Cell | None]:
    """A cell a class, of one area range."""
    edges = np.searchsorted(outcomes.category, np.arange(len(boxes) + 1))
    cells = []
    for of_class, start, stop in zip(boxes, edges, edges[1:]):
        order = start + np.argsort(-outcomes.scores[start:stop], kind="stable")
        images = outcomes.image[order]
        thresholds = []
        for hit, skipped in zip(outcomes.found[order].T, outcomes.ignored[order].T):
            hits, skips = np.flatnonzero(hit), np.flatnonzero(skipped)
            thresholds.append(_Threshold(hits, images[hits], images[skips], np.searchsorted(skips, hits)))
        cells.append(_Cell(images, of_class, tuple(thresholds)) if len(images) or of_class.any() else None)
    return cells


def _curve(
    threshold: _Threshold, counted: np.ndarray, weights: np.ndarray, total: float, recalls: np.ndarray
) -> tuple[np.ndarray, float]:
    """Precision (R,) at the recalls, and the highest recall.

    Only at hits can the interpolated precision or the recall change, so that nothing else is looked at.
    """
    found = np.cumsum(weights[threshold.hit_images])
    if not len(found):
        return np.zeros(len(recalls)), 0.0
    skipped = np.concatenate([[0.0], np.cumsum(weights[threshold.ignored_images])])
    judged = counted[threshold.hits] - skipped[threshold.ignored_before]
    precision = found / (judged + EPSILON)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    recall = found / total
    return np.append(highest, 0.0)[np.searchsorted(recall, recalls, side="left")], float(recall[-1])
