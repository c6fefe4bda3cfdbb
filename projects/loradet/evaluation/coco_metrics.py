"""COCO's box metrics under the names that the studies use, as fractions of 1."""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.errors import UserError
from loradet.evaluation.box_evaluation import BoxEvaluation, chosen_columns
from loradet.evaluation.detections.numbering import recorded_max_detections
from loradet.evaluation.detections.results_file import Detections, read_detections
from loradet.files import FileError, read_json, write_json
from loradet.json_kinds import NUMBER, TEXT, WHOLE, entries, optional

logger = logging.getLogger(__name__)

PREFIX = "coco/bbox_"
_AREAS = {"": 0, "_s": 1, "_m": 2, "_l": 3}  # suffix of a metric: place among COCOeval's area ranges
# What `coco_metrics` gives, for the reference; patterns as fnmatch has them.
MEANINGS = {
    "coco/bbox_mAP": "AP, the mean over IoU 0.50, 0.55 … 0.95 and over classes",
    "coco/bbox_mAP_50": "AP at IoU 0.50 alone",
    "coco/bbox_mAP_75": "AP at IoU 0.75 alone",
    "coco/bbox_mAP_s": "AP of boxes with an area under 32² pixels",
    "coco/bbox_mAP_m": "from there to 96²",
    "coco/bbox_mAP_l": "from there on",
    "coco/bbox_AR@*": "average recall with so many detections an image: 1, 10, 100, and the limit where it is larger",
    "coco/bbox_AR_[sml]@*": "the same by area",
    "coco/bbox_mAP/*": "AP of one class",
    "coco/bbox_AR@100/*": "AR of one class",
}
_LEAST = 10  # the least limit of detections of an image, as Detectron2's COCOEvaluator has it


def coco_metrics(
    ground_truth: str | os.PathLike,
    predictions: str | os.PathLike,
    image_ids: Iterable[int] | None = None,
    *,
    max_detections: int | None = None,
) -> dict[str, float]:
    """Evaluate a detections file against its ground truth, with the numbers of pycocotools.

    Args:
        ground_truth: COCO annotations (`images`, `categories`, `annotations`).
        predictions: `coco_instances_results.json` as `COCOEvaluator` writes it.
        image_ids: evaluate these images only; None means all of the ground truth.
        max_detections: how many detections of a class in an image count, as COCOEvaluator's `max_dets_per_image`;
            None: as is noted beside the predictions, else 100. Recalls say by their names how many they count.

    Returns:
        `coco/bbox_mAP`, `_50`, `_75`, `_s`, `_m`, `_l`, `coco/bbox_AR@1`, `@10`, `@100`,
        `coco/bbox_AR_s@100`, `_m`, `_l`, and for each class `coco/bbox_mAP/<class>` and `coco/bbox_AR@100/<class>`,
        in 0..1; NaN where there is no ground truth to find, zero where nothing was detected. With more than 100
        detections N, `coco/bbox_AR@N`, `_s@N`, `_m@N`, `_l@N` too.

    Raises:
        MissingFileError: a file is missing.
        UserError: a file is broken, or predictions are of other images or categories.
    """
    file, found, limit = _read(ground_truth, predictions, max_detections)
    evaluation = match_columns(file, found, image_ids, max_detections=limit)
    evaluation.accumulate()
    if not (file.boxes.known & ~file.boxes.crowd).any():
        logger.warning("%s has no boxes: every metric is NaN.", ground_truth)
    elif not len(found):
        logger.warning("%s has no detections: every metric of it is zero (Detectron2's log has NaN).", predictions)

    limit = evaluation.max_detections
    precision = evaluation.eval["precision"][..., evaluation.limit_index(limit)]  # (IoU, recall, class, area)
    recalls = {n: evaluation.eval["recall"][..., evaluation.limit_index(n)] for n in evaluation.params.maxDets}
    half, three_quarters = (np.isclose(evaluation.params.iouThrs, at) for at in (0.5, 0.75))
    metrics = {
        "mAP": mean_known(precision[..., 0]),
        "mAP_50": mean_known(precision[half][..., 0]),
        "mAP_75": mean_known(precision[three_quarters][..., 0]),
    }
    metrics |= {f"mAP{size}": mean_known(precision[..., area]) for size, area in _AREAS.items() if size}
    metrics |= {f"AR@{n}": mean_known(recalls[n][..., 0]) for n in (1, 10, 100)}
    metrics |= {f"AR{size}@100": mean_known(recalls[100][..., area]) for size, area in _AREAS.items() if size}
    if limit > 100:
        metrics |= {f"AR{size}@{limit}": mean_known(recalls[limit][..., area]) for size, area in _AREAS.items()}
    names = [evaluation.class_names[category_id] for category_id in evaluation.params.catIds]
    metrics |= {f"mAP/{name}": mean_known(precision[:, :, index, 0]) for index, name in enumerate(names)}
    metrics |= {f"AR@100/{name}": mean_known(recalls[100][:, index, 0]) for index, name in enumerate(names)}
    return {PREFIX + name: value for name, value in metrics.items()}


def match_detections(
    ground_truth: str | os.PathLike,
    predictions: str | os.PathLike,
    image_ids: Iterable[int] | None = None,
    *,
    max_detections: int | None = None,
) -> BoxEvaluation:
    """The evaluation of two files before its `accumulate`.

    Arguments and errors are those of `coco_metrics`.
    """
    file, found, limit = _read(ground_truth, predictions, max_detections)
    return match_columns(file, found, image_ids, max_detections=limit)


def _read(
    ground_truth: str | os.PathLike, predictions: str | os.PathLike, max_detections: int | None
) -> tuple[AnnotationFile, Detections, int]:
    """Both files, and how many detections of a class in an image count."""
    file = read_annotations(ground_truth)
    found = read_detections(predictions, file)
    limit = recorded_max_detections(predictions) if max_detections is None else max_detections
    if (most := _most_of_a_class(found, len(file.categories))) > max(limit, _LEAST):
        what = "%s: up to %d detections of a class in an image, of which the %d of the highest scores count."
        logger.warning(
            f"{what} Where the evaluator had another limit, name it: max_detections=%d.",
            *(predictions, most),
            limit,
            most,
        )
    return file, found, limit


def _most_of_a_class(found: Detections, classes: int) -> int:
    """The largest number of detections of one class in an image."""
    return int(np.unique(found.image * classes + found.category, return_counts=True)[1].max(initial=0))


def match_columns(
    file: AnnotationFile,
    found: Detections,
    image_ids: Iterable[int] | None = None,
    *,
    max_detections: int,
    category_ids: Iterable[int] | None = None,
) -> BoxEvaluation:
    """`match_detections` of what was read; with `category_ids`, of these categories only."""
    limits = sorted({1, 10, 100, max(max_detections, _LEAST)})
    image_ids = sorted(set(file.images.ids if image_ids is None else image_ids))
    of_file = {category.id: category.name for category in file.categories}
    category_ids = sorted(set(of_file if category_ids is None else category_ids))
    return BoxEvaluation(
        chosen_columns(file, found, image_ids, category_ids),
        image_ids,
        category_ids,
        of_file,
        limits=limits,
        max_detections=max(max_detections, _LEAST),
    )


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
    """What `write_metrics` wrote, with null metrics (their names have a "/") as NaN again.

    Raises:
        FileError: the file is missing or broken, or a metric is no number.
    """
    content = read_json(path)
    kinds = {name: optional(NUMBER) for name in content if "/" in name} | _PROVENANCE
    if (problem := entries(kinds)(content, "")) is not None:
        raise FileError(f"{path}: {problem}. Evaluate that checkpoint again (--eval-only).")
    return {name: math.nan if value is None and "/" in name else value for name, value in content.items()}


_PROVENANCE = {"checkpoint": TEXT, "iteration": optional(WHOLE), "split": TEXT, "data": optional(TEXT)}


def mean_known(values: np.ndarray) -> float:
    """Mean of what is not -1, NaN of nothing."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else math.nan
