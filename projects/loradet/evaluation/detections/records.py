"""Ground truth and detections of a data set as arrays, image by image: what the analyses work on."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.errors import UserError
from loradet.evaluation.detections.numbering import MAX_DETECTIONS, recorded_max_detections
from loradet.evaluation.detections.results_file import read_detections
from loradet.evaluation.matchers.columns import BoxColumns


@dataclass(frozen=True)
class ImageRecord:
    """One image; boxes are XYWH in pixels, classes are indices into the data set's class names.

    Attributes:
        image_id: as in the annotation file.
        truth_xywh: (G, 4) annotated boxes.
        truth_classes: (G,).
        truth_crowd: (G,) bool: a box around many objects, of which none is to be found by itself.
        found_xywh: (D, 4) detections by falling score.
        found_classes: (D,).
        scores: (D,) in 0..1.
    """

    image_id: Any
    truth_xywh: np.ndarray
    truth_classes: np.ndarray
    truth_crowd: np.ndarray
    found_xywh: np.ndarray
    found_classes: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_lists(cls, image_id: Any, truth: list[tuple], found: list[tuple]) -> "ImageRecord":
        """Make one from (box XYWH, class, crowd) and (box XYWH, class, score); detections get sorted."""
        found = sorted(found, key=lambda entry: -entry[2])
        return cls(
            image_id,
            np.array([entry[0] for entry in truth], dtype=np.float64).reshape(-1, 4),
            np.array([entry[1] for entry in truth], dtype=np.int64),
            np.array([entry[2] for entry in truth], dtype=bool),
            np.array([entry[0] for entry in found], dtype=np.float64).reshape(-1, 4),
            np.array([entry[1] for entry in found], dtype=np.int64),
            np.array([entry[2] for entry in found], dtype=np.float64),
        )


@dataclass(frozen=True)
class DetectionRecords:
    """A data set's images in the order of their ids, its class names by ascending category id, and its origin.

    `max_detections` of a class in an image count for average precision.
    """

    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    synthetic: bool = False
    max_detections: int = MAX_DETECTIONS

    @cached_property
    def correctness(self) -> list[Any]:
        """Where `correctness.match_all` keeps what it has found."""
        return []

    @cached_property
    def columns(self) -> BoxColumns:
        """All boxes and detections, image by image."""
        images = self.images
        xywh, truth_xywh = _join([one.found_xywh for one in images], 4), _join([one.truth_xywh for one in images], 4)
        return BoxColumns(
            images=len(images),
            classes=len(self.class_names),
            truth_image=_places([len(one.truth_classes) for one in images]),
            truth_class=_join([one.truth_classes for one in images]).astype(np.int64),
            truth_xywh=truth_xywh,
            truth_area=truth_xywh[:, 2] * truth_xywh[:, 3],
            truth_crowd=_join([one.truth_crowd for one in images]).astype(bool),
            image=_places([len(one.scores) for one in images]),
            category=_join([one.found_classes for one in images]).astype(np.int64),
            xywh=xywh,
            scores=_join([one.scores for one in images]),
        )

    def count_truth(self) -> np.ndarray:
        """(K,) boxes to find of each class; crowds do not count."""
        columns = self.columns
        return np.bincount(columns.truth_class[~columns.truth_crowd], minlength=len(self.class_names))


def _join(arrays: list[np.ndarray], *columns: int) -> np.ndarray:
    return np.concatenate([*arrays, np.zeros((0, *columns))])


def _places(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), np.array(counts, np.int64))


def box_iou(found_xywh: np.ndarray, truth_xywh: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU (D, G) as COCO computes it: over a crowd box, the share of the detection that lies in it."""
    if not len(found_xywh) or not len(truth_xywh):
        return np.zeros((len(found_xywh), len(truth_xywh)))
    crowd = np.zeros(len(truth_xywh), bool) if crowd is None else crowd
    return mask.iou(found_xywh, truth_xywh, crowd.astype(np.uint8))


def read_records(
    ground_truth: str | os.PathLike, predictions: str | os.PathLike, image_ids: Iterable[Any] | None = None
) -> DetectionRecords:
    """Read a COCO annotation file and a detections file of the same images.

    Args:
        ground_truth: COCO instances.
        predictions: `coco_instances_results.json`, boxes XYWH with the annotation file's category ids.
        image_ids: read these images only.

    Raises:
        MissingFileError: a file is missing.
        UserError: a file is broken, or the detections are of images or categories that the annotations lack.
    """
    truth = _Truth(read_annotations(ground_truth))
    found = read_detections(predictions, truth.file)
    by_image = found.by_image(len(truth.file.images))
    wanted = set(truth.file.images.ids if image_ids is None else image_ids)
    if unknown := wanted - truth.file.images.index.keys():
        raise UserError(f"{ground_truth} has no images with the ids {sorted(unknown, key=str)[:5]}.")
    images = []
    for number in sorted(wanted):
        rows = by_image[truth.file.images.index[number]]
        classes = truth.classes[found.category[rows]]
        images.append(truth.record(number, found.xywh[rows], classes, found.scores[rows]))
    limit = recorded_max_detections(predictions)
    return DetectionRecords(tuple(images), truth.names, truth.file.synthetic, limit)


def join_records(
    ground_truth: str | os.PathLike, found: Mapping[Any, tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> DetectionRecords:
    """Put detections that are arrays beside their annotation file.

    Args:
        ground_truth: COCO instances.
        found: by image id, boxes XYWH (D, 4), category ids of the file (D,) and scores (D,); an image that is not
            there has no detections.

    Raises:
        MissingFileError: no such file.
        UserError: the file is broken, or the detections are of images or categories that it lacks.
    """
    truth = _Truth(read_annotations(ground_truth))
    index = truth.file.images.index
    if unknown := found.keys() - index.keys():
        raise UserError(f"{ground_truth} has no images with the ids {sorted(unknown, key=str)[:5]}.")
    nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)
    place = {category.id: truth.classes[position] for position, category in enumerate(truth.file.categories)}
    images = []
    for number in sorted(index):
        xywh, categories, scores = found.get(number, nothing)
        if foreign := set(categories.tolist()) - place.keys():
            raise UserError(
                f"Image {number} has detections of the categories {sorted(foreign)[:5]}, which {ground_truth} lacks."
            )
        classes = np.array([place[category] for category in categories.tolist()], np.int64)
        images.append(truth.record(number, xywh.reshape(-1, 4), classes, scores))
    return DetectionRecords(tuple(images), truth.names, truth.file.synthetic)


class _Truth:
    """The annotated boxes of a file, image by image.

    Attributes:
        names: of all its categories by ascending id: the classes.
        classes: (K,) class of each category in the order of the file.
    """

    def __init__(self, file: AnnotationFile) -> None:
        self.file = file
        ids = np.array([category.id for category in file.categories], np.int64)
        order = np.argsort(ids)
        self.names = tuple(file.categories[position].name for position in order)
        self.classes = np.argsort(order)
        rows = np.flatnonzero(file.boxes.known)
        rows = rows[np.argsort(file.boxes.image[rows], kind="stable")]
        self._rows = np.split(rows, np.searchsorted(file.boxes.image[rows], np.arange(1, len(file.images))))

    def record(self, image_id: Any, xywh: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> ImageRecord:
        """An image with detections of any order."""
        boxes, rows = self.file.boxes, self._rows[self.file.images.index[image_id]]
        order = np.argsort(-scores, kind="stable")
        return ImageRecord(
            image_id,
            boxes.xywh[rows],
            self.classes[boxes.category[rows]],
            boxes.crowd[rows],
            xywh[order],
            classes[order],
            scores[order],
        )
