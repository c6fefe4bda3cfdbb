"""COCO's box metrics under the names that the studies use, as fractions of 1."""

import contextlib
import io
import logging
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.errors import UserError
from loradet.files import read_json, write_json

logger = logging.getLogger(__name__)

PREFIX = "coco/bbox_"
# In the order of COCOeval.stats, see https://cocodataset.org/#detection-eval
SUMMARY = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"),
)


def coco_metrics(
    ground_truth: str | os.PathLike,
    predictions: str | os.PathLike,
    image_ids: Iterable[int] | None = None,
) -> dict[str, float]:
    """Evaluate a detections file against its ground truth, by pycocotools.

    Args:
        ground_truth: COCO annotations (`images`, `categories`, `annotations`).
        predictions: `coco_instances_results.json` as `COCOEvaluator` writes it.
        image_ids: evaluate these images only; None means all of the ground truth.

    Returns:
        `coco/bbox_mAP`, `_50`, `_75`, `_s`, `_m`, `_l`, `coco/bbox_AR@1`, `@10`, `@100`,
        `coco/bbox_AR_s@100`, `_m`, `_l`, and for each class `coco/bbox_mAP/<class>` and `coco/bbox_AR@100/<class>`,
        in 0..1; NaN where there is no ground truth to find, zero where nothing was detected.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no JSON of its kind, or predictions are of other images or categories.
    """
    evaluation = match_detections(ground_truth, predictions, image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    truth = evaluation.cocoGt
    if not any(not annotation["iscrowd"] for annotation in truth.dataset["annotations"]):
        logger.warning("%s has no boxes: every metric is NaN.", ground_truth)
    elif not evaluation.cocoDt.dataset["annotations"]:
        logger.warning("%s has no detections: every metric of it is zero (Detectron2's log has NaN).", predictions)

    metrics = {PREFIX + name: _or_nan(value) for name, value in zip(SUMMARY, evaluation.stats)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas, 100 detections
    recall = evaluation.eval["recall"][:, :, 0, -1]  # (IoU, class)
    names = [truth.cats[category_id]["name"] for category_id in evaluation.params.catIds]
    metrics |= {f"{PREFIX}mAP/{name}": _mean_known(precision[:, :, index]) for index, name in enumerate(names)}
    metrics |= {f"{PREFIX}AR@100/{name}": _mean_known(recall[:, index]) for index, name in enumerate(names)}
    return metrics


def match_detections(
    ground_truth: str | os.PathLike, predictions: str | os.PathLike, image_ids: Iterable[int] | None = None
) -> COCOeval:
    """pycocotools' evaluation of two files after its matching (`evaluate`) and before `accumulate`.

    Arguments and errors are those of `coco_metrics`.
    """
    truth = _index(_read_truth(ground_truth))
    detections = _read_detections(predictions, truth, ground_truth)
    evaluation = COCOeval(truth, _index({**truth.dataset, "annotations": detections}), "bbox")
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


def write_metrics(path: str | os.PathLike, metrics: Mapping[str, Any], **provenance: Any) -> None:
    """Write metrics and where they come from (`checkpoint`, `iteration`, `split` ...) as JSON; NaN is null.

    Raises:
        ValueError: a name is used by both.
    """
    if clash := metrics.keys() & provenance.keys():
        raise UserError(f"{', '.join(sorted(clash))}: names of metrics, not to be used for provenance.")
    content = {**provenance, **metrics}
    write_json(
        path,
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in content.items()},
    )


def read_metrics(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_metrics` wrote, with null metrics (their names have a "/") as NaN again."""
    content = read_json(path)
    return {name: math.nan if value is None and "/" in name else value for name, value in content.items()}


def _read_truth(path: str | os.PathLike) -> dict[str, Any]:
    content = read_json(path)
    absent = [key for key in ("images", "categories") if key not in content]
    if absent:
        raise UserError(f"{path} is no COCO annotation file: it has no {' and no '.join(absent)}.")
    # COCOeval takes the id 0 for "no match". It needs crowd and area, which hand-made files often lack.
    annotations = [
        {
            **annotation,
            "id": number,
            "iscrowd": annotation.get("iscrowd", 0),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        }
        for number, annotation in enumerate(content.get("annotations", []), start=1)
    ]
    return {**content, "annotations": annotations}


def _read_detections(path: str | os.PathLike, truth: COCO, ground_truth: str | os.PathLike) -> list[dict[str, Any]]:
    content = read_json(path, list, advice="A detections file is a list of boxes.")
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        foreign = {entry[key] for entry in content} - known.keys()
        if foreign:
            examples = ", ".join(str(value) for value in sorted(foreign, key=str)[:5])
            raise UserError(f"{path} has {key} {examples}, which {ground_truth} does not have.")
    return [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(content, start=1)
    ]


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _mean_known(values: np.ndarray) -> float:
    """Mean of what is not -1."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else math.nan


def _or_nan(value: float) -> float:
    """COCOeval says -1 where there is nothing to find."""
    return math.nan if value < 0 else float(value)
