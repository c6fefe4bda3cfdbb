"""COCO's matching by pycocotools: the reference, and what computes where the compiled evaluator is not to be had."""

import contextlib
import io
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.evaluation.matchers.columns import BoxColumns, Curves, Finds, Outcomes, Question, truth_entries


class ReferenceMatcher:
    """Answers a question about boxes by pycocotools."""

    def __init__(self, columns: BoxColumns, question: Question) -> None:
        self._columns, self._question = columns, question

    @cached_property
    def _evaluation(self) -> COCOeval:
        columns, question = self._columns, self._question
        # All ids count from 1: COCOeval takes 0 for "no match".
        head = {
            "info": {},
            "images": [{"id": number} for number in range(1, columns.images + 1)],
            "categories": [{"id": number} for number in range(1, columns.classes + 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth, found = (
                _index({**head, "annotations": truth_entries(columns)}),
                _index({**head, "annotations": _detections(columns)}),
            )
            evaluation = COCOeval(truth, found, "bbox")
            params = evaluation.params
            params.iouThrs, params.recThrs = np.array(question.iou_thresholds), np.array(question.recalls)
            params.areaRng, params.maxDets = [list(limits) for limits in question.areas], list(question.limits)
            params.areaRngLbl = [str(number) for number in range(len(question.areas))]
            evaluation.evaluate()
        return evaluation

    def curves(self) -> Curves:
        """Precision, recall and scores."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._evaluation.accumulate()
        return Curves(*(self._evaluation.eval[name] for name in ("precision", "recall", "scores")))

    def outcomes(self, area: int = 0, limit: int | None = None) -> Outcomes:
        """Of an area range, by its position; `limit` detections of a class in an image count, None: the most."""
        known = [*self._cells(area, limit)]
        counts = [len(entry["dtScores"][:limit]) for _, _, entry in known]
        thresholds = len(self._question.iou_thresholds)
        matched = [entry["dtMatches"][:, :limit].T != 0 for _, _, entry in known]
        ignored = _stack([entry["dtIgnore"][:, :limit].T for _, _, entry in known], thresholds).astype(bool)
        return Outcomes(
            np.repeat(np.array([place for place, _, _ in known], np.int64), counts),
            np.repeat(np.array([image for _, image, _ in known], np.int64), counts),
            np.concatenate([*(entry["dtScores"][:limit] for _, _, entry in known), np.zeros(0)]),
            _stack(matched, thresholds).astype(bool) & ~ignored,
            ignored,
        )

    def finds(self, threshold: int = 0, area: int = 0, limit: int | None = None) -> Finds:
        """At an IoU threshold and of an area range, by their positions."""
        known = [entry for _, _, entry in self._cells(area, limit)]
        none = np.zeros(0)
        return Finds(
            np.concatenate([*(entry["dtIds"][:limit] for entry in known), none]).astype(np.int64) - 1,
            np.concatenate([*(entry["dtMatches"][threshold, :limit] for entry in known), none]).astype(np.int64) - 1,
            np.concatenate([*(entry["dtIgnore"][threshold, :limit] for entry in known), none]).astype(bool),
        )

    def _cells(self, area: int, limit: int | None) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Class, image and entry of those that have detections."""
        columns, areas = self._columns, len(self._question.areas)
        for place in range(columns.classes):
            start = (place * areas + area) * columns.images
            for image, entry in enumerate(self._evaluation.evalImgs[start : start + columns.images]):
                if entry is not None and entry["dtScores"][:limit]:
                    yield place, image, entry


def _stack(parts: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([*parts, np.zeros((0, width))])


def _detections(columns: BoxColumns) -> list[dict[str, Any]]:
    values = (
        (columns.image + 1).tolist(),
        (columns.category + 1).tolist(),
        columns.xywh.tolist(),
        (columns.xywh[:, 2] * columns.xywh[:, 3]).tolist(),
        columns.scores.tolist(),
    )
    return [
        {"id": number, "image_id": i, "category_id": k, "bbox": box, "area": area, "iscrowd": 0, "score": score}
        for number, (i, k, box, area, score) in enumerate(zip(*values), start=1)
    ]


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
