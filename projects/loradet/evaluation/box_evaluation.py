"""One evaluation of detections against boxes: its parameters, its matcher and its results."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools.cocoeval import Params

from loradet.datasets.annotations import AnnotationFile
from loradet.evaluation.detections.results_file import Detections
from loradet.evaluation.matchers.choice import Matcher, match
from loradet.evaluation.matchers.columns import BoxColumns, Question


class BoxEvaluation:
    """COCO's evaluation of boxes, with the parameters, the arrays and the numbers of pycocotools' `COCOeval`.

    Args:
        columns: boxes and detections, images and classes in the order of the ids.
        image_ids, category_ids: ascending.
        class_names: by category id; may hold more.
        limits: ascending numbers of detections of a class in an image; recalls are of each.
        max_detections: the one of them that counts for AP.

    Attributes:
        params: as COCOeval has them.
        eval: once `accumulate` has run: `precision` and `scores` (T, R, K, A, M) and `recall` (T, K, A, M), of IoU
            thresholds, recalls, classes, area ranges and limits; -1 where there is nothing to find.
    """

    def __init__(
        self,
        columns: BoxColumns,
        image_ids: Sequence[Any],
        category_ids: Sequence[int],
        class_names: Mapping[int, str],
        *,
        limits: Sequence[int],
        max_detections: int,
    ) -> None:
        self.columns = columns
        self.class_names = class_names
        self.max_detections = max_detections
        self.params = Params("bbox")
        self.params.imgIds, self.params.catIds = list(image_ids), list(category_ids)
        self.params.maxDets = list(limits)
        self.eval: dict[str, np.ndarray] = {}

    @cached_property
    def matcher(self) -> Matcher:
        """Which detections find which boxes."""
        params = self.params
        return match(self.columns, Question(params.iouThrs, params.recThrs, params.areaRng, params.maxDets))

    def accumulate(self) -> None:
        """Fill `eval`."""
        self.eval = dict(vars(self.matcher.curves()))

    def limit_index(self, limit: int) -> int:
        """Where results at a limit of detections are along the last axis of `eval`'s arrays."""
        return self.params.maxDets.index(limit)


def chosen_columns(
    file: AnnotationFile, found: Detections, image_ids: Sequence[Any], category_ids: Sequence[int]
) -> BoxColumns:
    """Boxes and detections of some images and categories, which are counted anew in the order of these ids.

    Ids that the file does not have stand for images and classes without boxes.
    """
    boxes = file.boxes
    images = _places(file.images.ids, image_ids)
    classes = _places([category.id for category in file.categories], category_ids)
    truth_image, truth_class = images[boxes.image], classes[boxes.category]
    rows = np.flatnonzero(boxes.known & (truth_image >= 0) & (truth_class >= 0))
    image, category = images[found.image], classes[found.category]
    kept = (image >= 0) & (category >= 0)
    if kept.all():
        kept = slice(None)
    return BoxColumns(
        images=len(image_ids),
        classes=len(category_ids),
        truth_image=truth_image[rows],
        truth_class=truth_class[rows],
        truth_xywh=boxes.xywh[rows],
        truth_area=boxes.area[rows],
        truth_crowd=boxes.crowd[rows],
        image=image[kept],
        category=category[kept],
        xywh=found.xywh[kept],
        scores=found.scores[kept],
    )


def _places(ids: Sequence[Any], chosen: Sequence[Any]) -> np.ndarray:
    """(N + 1,) where each id is among the chosen ones; -1 where it is not, and at the end for what has no id."""
    place = {number: position for position, number in enumerate(chosen)}
    return np.array([*(place.get(number, -1) for number in ids), -1], np.int64)
