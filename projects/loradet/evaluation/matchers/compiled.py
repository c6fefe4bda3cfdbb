"""COCO's matching by ultrafast-pycocotools (Rust, BSD-2-Clause), which gives the numbers of pycocotools bit for bit."""

import numpy as np
from ultrafast_pycocotools import _ufcoco

from loradet.evaluation.matchers.columns import BoxColumns, Curves, Finds, Outcomes, Question, truth_entries
from loradet.garbage_pause import garbage_collection_paused


class CompiledMatcher:
    """Answers a question about boxes as `ReferenceMatcher` does.

    Its engine is used without the package's `COCO` and `COCOeval`: those take detections as columns too, but always
    accumulate, and do not give outcomes detection by detection. `matcher` tries it on a small case before it is used.
    """

    def __init__(self, columns: BoxColumns, question: Question) -> None:
        # All ids count from 1: 0 is "no match" to it, as to pycocotools.
        rows = np.column_stack([columns.image + 1, columns.xywh, columns.scores, columns.category + 1])
        found = _ufcoco.load_compact_array(np.ascontiguousarray(rows, np.float64))
        del rows
        with garbage_collection_paused():
            truth = truth_entries(columns)
        self._engine = _ufcoco.Evaluator(
            truth,
            found,
            {},  # sizes of images, for masks
            list(range(1, columns.images + 1)),
            list(range(1, columns.classes + 1)),
            [float(value) for value in question.iou_thresholds],
            [float(value) for value in question.recalls],
            [int(value) for value in question.limits],
            [[float(low), float(high)] for low, high in question.areas],
            True,  # class by class
            "bbox",
            [],  # for keypoints
        )
        self._most = max(question.limits)

    def curves(self) -> Curves:
        """Precision, recall and scores."""
        found = self._engine.run()
        return Curves(found["precision"], found["recall"], found["scores"])

    def outcomes(self, area: int = 0, limit: int | None = None) -> Outcomes:
        """Of an area range, by its position; `limit` detections of a class in an image count, None: the most."""
        given = self._engine.outcomes(area, self._most if limit is None else limit)
        outcome = given["outcome"]
        return Outcomes(
            given["cat_slot"],
            given["image_id"] - 1,
            given["score"],
            outcome == _ufcoco.OUTCOME_TRUE_POSITIVE,
            outcome == _ufcoco.OUTCOME_IGNORED,
        )

    def finds(self, threshold: int = 0, area: int = 0, limit: int | None = None) -> Finds:
        """At an IoU threshold and of an area range, by their positions."""
        given, _ = self._engine.per_instance(threshold, area, self._most if limit is None else limit)
        truth = given["gt_id"]
        return Finds(given["dt_id"] - 1, np.where(truth > 0, truth - 1, -1), given["ignore"])
