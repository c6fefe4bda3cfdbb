"""Precision and recall of weighted images from COCO's matching, which is done once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loradet.evaluation.coco_metrics import BoxEvaluation

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
        """Take over the matches of an evaluation whose `evaluate` has run.

        Args:
            max_detections: of a class in an image; one of the evaluation's own `maxDets`, or less. None: those that
                the evaluation counts.
        """
        limit = evaluation.max_detections if max_detections is None else max_detections
        params = evaluation.params
        images, areas = len(params.imgIds), len(params.areaRng)
        cells = []
        for k in range(len(params.catIds)):
            starts = [(k * areas + a) * images for a in range(areas)]
            cells.append(tuple(_cell(evaluation.evalImgs[s : s + images], limit) for s in starts))
        return cls(
            tuple(params.imgIds),
            tuple(params.catIds),
            np.array(params.iouThrs),
            np.array(params.recThrs),
            tuple(params.areaRngLbl),
            tuple(cells),
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


def _cell(entries: Sequence[dict | None], limit: int) -> _Cell | None:
    """The detections of one class and area range in all images."""
    known = [(image, entry) for image, entry in enumerate(entries) if entry is not None]
    if not known:
        return None
    scores = np.concatenate([entry["dtScores"][:limit] for _, entry in known])
    order = np.argsort(-scores, kind="stable")
    counts = [min(len(entry["dtScores"]), limit) for _, entry in known]
    images = np.repeat([image for image, _ in known], counts)[order]
    matched = np.concatenate([entry["dtMatches"][:, :limit] for _, entry in known], axis=1)[:, order] != 0
    ignored = np.concatenate([entry["dtIgnore"][:, :limit] for _, entry in known], axis=1)[:, order].astype(bool)
    boxes = np.zeros(len(entries))
    for image, entry in known:
        boxes[image] = np.count_nonzero(entry["gtIgnore"] == 0)
    thresholds = []
    for hit, skipped in zip(matched & ~ignored, ignored):
        hits, skips = np.flatnonzero(hit), np.flatnonzero(skipped)
        thresholds.append(_Threshold(hits, images[hits], images[skips], np.searchsorted(skips, hits)))
    return _Cell(images, boxes, tuple(thresholds))


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
