"""Tries an evaluation on its own ground truth before the first step of a training: what it would crash on, or get wrong
without a word, ends the run there."""

import contextlib
import io
import logging
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loradet.datasets.annotations import AnnotationFile, Boxes, Images, read_annotations
from loradet.datasets.annotations.faults import how_to_repair
from loradet.datasets.readers.coco_records import left_out_boxes
from loradet.errors import UserError
from loradet.evaluation.coco_metrics import match_columns
from loradet.evaluation.detections.numbering import MAX_DETECTIONS
from loradet.evaluation.detections.results_file import Detections

logger = logging.getLogger(__name__)

_IMAGES = 200  # that the boxes of a large file are tried on
_HAIR = 1e-9


def check_ground_truth(metadata: Any, *, max_detections: int = MAX_DETECTIONS) -> None:
    """Feed annotated boxes back as detections: their AP must be 1.

    Of a large file, some images are tried, among them one of each class.

    Args:
        metadata: Detectron2's, of a registered data set: `json_file`, which is evaluated against (without it nothing
            is checked), `source`, which that is made of, and `thing_classes`.
        max_detections: of a class in an image that the evaluation counts.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is broken, nothing in it is to be found, or pycocotools does not find the boxes that are in it.
    """
    json_file = metadata.get("json_file")
    if json_file is None:
        return
    file = read_annotations(json_file)
    to_find = file.boxes.known & ~file.boxes.crowd
    if not to_find.any():
        source = read_annotations(metadata.get("source") or json_file)
        raise UserError(_nothing_to_find(source, metadata.get("thing_classes")))
    if not file.plain:
        _try_as_written(file)
    _warn_of_dense_images(file, to_find, max_detections)
    tried = _some_images(file)
    found = as_detections(tried)
    evaluation = match_columns(tried, found, max_detections=len(found))
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, evaluation.limit_index(evaluation.max_detections)]
    expected = np.unique(tried.boxes.category[tried.boxes.known & ~tried.boxes.crowd])
    order = np.argsort([category.id for category in tried.categories])  # as pycocotools has them
    per_class = precision.min(axis=(0, 1))
    for place, position in enumerate(order):
        if position in expected and per_class[place] < 1 - _HAIR:
            name = tried.categories[position].name
            raise UserError(
                f"{file.path}: its own boxes of {name!r}, taken for detections, have an AP below 1: they cannot be "
                f"evaluated. {how_to_repair(file.path)}"
            )


def as_detections(file: AnnotationFile) -> Detections:
    """The boxes to find of a file, in the form of detections of score 1."""
    boxes = file.boxes
    rows = np.flatnonzero(boxes.known & ~boxes.crowd)
    return Detections(boxes.image[rows], boxes.category[rows], boxes.xywh[rows], np.ones(len(rows)))


def _nothing_to_find(file: AnnotationFile, classes: Any) -> str:
    names = [category.name for category in file.classes] if classes is None else list(classes)
    counts = left_out_boxes(file, names)
    boxes = file.boxes
    crowd = int((boxes.known & boxes.crowd).sum())
    reasons = [f"{count} {reason}" for reason, count in counts.items()]
    reasons += [f"{crowd} crowd regions (iscrowd or ignore is 1)"] if crowd else []
    why = f": {', '.join(reasons)}" if reasons else ""
    return (
        f"{file.path}: none of its {len(boxes)} annotations is a box to find{why}. An evaluation on it would give NaN: "
        "name another split, or leave evaluation out by train.eval_splits=[]."
    )


def _warn_of_dense_images(file: AnnotationFile, to_find: np.ndarray, limit: int) -> None:
    boxes = file.boxes
    groups = boxes.image[to_find] * len(file.categories) + boxes.category[to_find]
    groups, counts = np.unique(groups, return_counts=True)
    dense = np.unique(groups[counts > limit] // len(file.categories))
    if len(dense):
        logger.warning(
            "%s: %d images have more than %d boxes of a class (up to %d), of which an evaluation counts %d detections: "
            "dataloader.evaluator.max_dets_per_image raises that.",
            *(file.path, len(dense), limit, counts.max(), limit),
        )


def _some_images(file: AnnotationFile) -> AnnotationFile:
    """The file with few images: the first of each class, and others spread over the file."""
    boxes, count = file.boxes, len(file.images)
    if count <= _IMAGES:
        return file
    known = np.flatnonzero(boxes.known & ~boxes.crowd)
    _, first = np.unique(boxes.category[known], return_index=True)
    chosen = np.zeros(count, bool)
    chosen[boxes.image[known[first]]] = True
    chosen[np.linspace(0, count - 1, _IMAGES).astype(int)] = True
    place = np.append(np.cumsum(chosen) - 1, -1)
    rows = np.flatnonzero(np.append(chosen, False)[boxes.image])
    columns = {name: column[rows] for name, column in vars(boxes).items() if name in Boxes.__dataclass_fields__}
    columns["image"] = place[columns["image"]]
    positions = np.flatnonzero(chosen).tolist()
    images = Images(
        [file.images.ids[position] for position in positions],
        [file.images.file_names[position] for position in positions],
        file.images.widths[chosen],
        file.images.heights[chosen],
    )
    return replace(file, images=images, boxes=Boxes(**columns))


def _try_as_written(file: AnnotationFile) -> None:
    """Let pycocotools read a file that another reader than ours has registered, and that is not as it needs it."""
    ids = [category.id for category in file.categories]
    found = as_detections(file)
    columns = zip(found.image.tolist(), found.category.tolist(), found.xywh.tolist(), found.scores.tolist())
    detections = [
        {"image_id": file.images.ids[image], "category_id": ids[category], "bbox": box, "score": score}
        for image, category, box, score in columns
    ]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file.path))
            truth.dataset.setdefault("info", {})
            evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
            evaluation.params.maxDets = [1, 10, max(len(detections), 11)]
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]
    except Exception as error:  # pycocotools raises whatever Python does
        reason = f"{type(error).__name__}: {error}"
    else:
        if precision.max() > -1 and precision[precision > -1].min() > 1 - _HAIR:
            return
        reason = "its own boxes, taken for detections, have an AP below 1"
    odd = ", ".join(f"{count} {what}" for what, count in file.converted.items()) or "its encoding"
    raise UserError(
        f"{file.path}: pycocotools cannot evaluate against it ({reason}). Not written as COCO has it: {odd}. "
        "Read it by loradet.datasets.coco_dataset or register_coco, which make a copy that it can."
    )
