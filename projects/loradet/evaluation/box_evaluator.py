"""Average precision of boxes as COCO defines it, in Detectron2's evaluation loop."""

import itertools
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.errors import UserError
from loradet.evaluation.box_evaluation import BoxEvaluation
from loradet.evaluation.coco_metrics import match_columns, mean_known
from loradet.evaluation.detections.collector import DetectionCollector, ImageDetections
from loradet.evaluation.detections.numbering import MAX_DETECTIONS, write_category_map
from loradet.evaluation.detections.results_file import Detections
from loradet.files import atomic_open
from loradet.run_folder import RunFolder

logger = logging.getLogger(__name__)

_AREAS = {"s": 1, "m": 2, "l": 3}  # suffix of a metric: place among COCO's area ranges


class BoxEvaluator(DetectionCollector):
    """Evaluates boxes with the numbers, names and files of Detectron2's `COCOEvaluator(tasks=("bbox",))`.

    That one parses the annotation file once more, as dicts; this one takes the columns that the data set was read as.

    Args:
        dataset_name: registered name. Its metadata has `json_file`, the ground truth in COCO's format, or the records
            are converted to such a file in `output_dir`.
        output_dir: folder for `coco_instances_results.json` and the note of what it is numbered as; None writes
            nothing.
        max_dets_per_image: largest number of detections of a class in an image that count, 100 by default. A value
            under 10 acts like 10.
        distributed: gather the detections of all processes on the main one; else each evaluates its own.

    Raises:
        UserError: `max_dets_per_image` is under 1; records must be converted and there is no `output_dir`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        distributed: bool = True,
    ):
        super().__init__(dataset_name, output_dir, distributed=distributed)
        self._limit = MAX_DETECTIONS if max_dets_per_image is None else max_dets_per_image
        if type(self._limit) is not int or self._limit < 1:
            raise UserError(f"max_dets_per_image is {max_dets_per_image!r}, expected a whole number above 0, or None.")

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the metrics, and write the detections.

        Returns:
            {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" …}} in percent, NaN where nothing can be
            measured and all NaN without any detection; the classes only where there are several. {} on processes other
            than the main one, and where nothing was processed.

        Raises:
            UserError: detections are of images or categories that the ground truth does not have.
        """
        if (found := self.gather()) is None:
            return {}
        if not found:
            logger.warning("BoxEvaluator got no predictions: nothing was processed. No metrics.")
            return {}
        file = read_annotations(self._ground_truth)
        detections = _columns(file, found)
        if self._output_dir is not None:
            path = Path(self._output_dir, RunFolder.PREDICTIONS)
            _write(path, found)
            write_category_map(path, self._ground_truth, self._limit)
            logger.info("Wrote %d detections to %s.", len(detections), path)
        if not len(detections):
            logger.warning("No detections on any of %d images: metrics are NaN.", len(found))
            return {"bbox": dict.fromkeys(["AP", "AP50", "AP75", "APs", "APm", "APl"], math.nan)}
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        evaluation = match_columns(file, detections, max_detections=self._limit, category_ids=ids)
        return {"bbox": self._metrics(evaluation)}

    def _metrics(self, evaluation: BoxEvaluation) -> dict[str, float]:
        evaluation.accumulate()
        at = evaluation.limit_index(evaluation.max_detections)
        precision = evaluation.eval["precision"][..., at]  # (IoU threshold, recall, class, area)
        results = {"AP": _percent(precision[..., 0])}
        for percent in (50, 75):
            results[f"AP{percent}"] = _percent(precision[np.isclose(evaluation.params.iouThrs, percent / 100)][..., 0])
        results |= {f"AP{size}": _percent(precision[..., area]) for size, area in _AREAS.items()}
        logger.info("Results of bbox:\n%s", create_small_table({**results, **_recalls(evaluation)}))
        if undefined := [name for name, value in results.items() if math.isnan(value)]:
            logger.warning("No ground truth for %s: NaN.", ", ".join(undefined))
        names = self._class_names(evaluation)
        if len(names) < 2:
            return results
        per_class = {name: _percent(precision[:, :, place, 0]) for place, name in enumerate(names)}
        logger.info("bbox AP of each class:\n%s", _class_table(per_class))
        return results | {f"AP-{name}": value for name, value in per_class.items()}

    def _class_names(self, evaluation: BoxEvaluation) -> list[str]:
        """In the order of the evaluation's classes, which is that of the category ids."""
        names = self._metadata.get("thing_classes")
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if names is None or ids is None:
            return [evaluation.class_names[number] for number in evaluation.params.catIds]
        return [names[ids[number]] for number in evaluation.params.catIds]


def _columns(file: AnnotationFile, found: Mapping[Any, ImageDetections]) -> Detections:
    index = file.images.index
    if unknown := sorted(found.keys() - index.keys(), key=str):
        raise UserError(
            f"{len(unknown)} images with predictions, such as image_id {unknown[:5]}, are not in the ground truth "
            f"{file.path}. Evaluate on the data set that the model was run on."
        )
    place = {category.id: position for position, category in enumerate(file.categories)}
    category_ids = np.concatenate([one.category_ids for one in found.values()])
    if foreign := set(category_ids.tolist()) - place.keys():
        raise UserError(f"{file.path} has no category {sorted(foreign)[:5]}, of which there are detections.")
    counts = [len(one.scores) for one in found.values()]
    return Detections(
        np.repeat([index[number] for number in found], counts),
        np.array([place[number] for number in category_ids.tolist()], np.int64),
        np.concatenate([one.xywh.reshape(-1, 4) for one in found.values()]),
        np.concatenate([one.scores for one in found.values()]),
    )


def _write(path: Path, found: Mapping[Any, ImageDetections]) -> None:
    results = [
        {"image_id": number, "category_id": category, "bbox": box, "score": score}
        for number, one in found.items()
        for category, box, score in zip(one.category_ids.tolist(), one.xywh.tolist(), one.scores.tolist())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(json.dumps(results))


def _percent(values: np.ndarray) -> float:
    return 100 * mean_known(values)


def _recalls(evaluation: BoxEvaluation) -> dict[str, float]:
    recall = evaluation.eval["recall"]  # (IoU threshold, class, area, limit of detections)
    limits = [1, 10, evaluation.max_detections]
    at = [evaluation.limit_index(limit) for limit in limits]
    metrics = {f"AR@{limit}": _percent(recall[..., 0, place]) for limit, place in zip(limits, at)}
    return metrics | {f"AR{size}@{limits[-1]}": _percent(recall[..., area, at[-1]]) for size, area in _AREAS.items()}


def _class_table(per_class: Mapping[str, float]) -> str:
    cells = list(per_class.items())
    columns = min(3, len(cells))
    rows = [list(itertools.chain.from_iterable(cells[i : i + columns])) for i in range(0, len(cells), columns)]
    return tabulate(rows, headers=["category", "AP"] * columns, tablefmt="pipe", floatfmt=".3f", numalign="left")
