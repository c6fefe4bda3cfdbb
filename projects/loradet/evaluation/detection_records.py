"""Ground truth and detections of a data set as arrays, image by image: what the analyses work on."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask

from loradet.datasets.files import read_coco
from loradet.datasets.provenance import says_synthetic
from loradet.errors import UserError
from loradet.files import read_json


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
    """A data set's images in the order of their ids, its class names by ascending category id, and its origin."""

    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    synthetic: bool = False

    def count_truth(self) -> np.ndarray:
        """(K,) boxes to find of each class; crowds do not count."""
        classes = [image.truth_classes[~image.truth_crowd] for image in self.images]
        return np.bincount(np.concatenate([*classes, np.zeros(0, np.int64)]), minlength=len(self.class_names))


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
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or the detections are of images or categories that the annotations lack.
    """
    truth, classes, content = _read_truth(ground_truth)
    found: dict[Any, list[tuple]] = {number: [] for number in truth}
    for entry in _checked(_read_predictions(predictions), truth, classes, str(predictions), "detection", "score"):
        found[entry["image_id"]].append((entry["bbox"], classes[entry["category_id"]], entry["score"]))
    wanted = set(truth) if image_ids is None else set(image_ids)
    if unknown := wanted - set(truth):
        raise UserError(f"{ground_truth} has no images with the ids {sorted(unknown, key=str)[:5]}.")
    images = (ImageRecord.from_lists(number, truth[number], found[number]) for number in sorted(wanted))
    return DetectionRecords(tuple(images), _names(content), says_synthetic(content))


def join_records(
    ground_truth: str | os.PathLike, found: Mapping[Any, tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> DetectionRecords:
    """Put detections that are arrays beside their annotation file.

    Args:
        ground_truth: COCO instances.
        found: by image id, boxes XYWH (D, 4), category ids of the file (D,) and scores (D,); an image that is not
            there has no detections.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is broken, or the detections are of images or categories that it lacks.
    """
    truth, classes, content = _read_truth(ground_truth)
    if unknown := found.keys() - truth.keys():
        raise UserError(f"{ground_truth} has no images with the ids {sorted(unknown, key=str)[:5]}.")
    images = []
    for number in sorted(truth):
        image = ImageRecord.from_lists(number, truth[number], [])
        xywh, categories, scores = found.get(number, (image.found_xywh, image.found_classes, image.scores))
        if foreign := set(categories.tolist()) - classes.keys():
            raise UserError(
                f"Image {number} has detections of the categories {sorted(foreign)[:5]}, which {ground_truth} lacks."
            )
        order = np.argsort(-scores, kind="stable")
        indices = np.array([classes[category] for category in categories.tolist()], np.int64)
        images.append(
            replace(image, found_xywh=xywh[order].reshape(-1, 4), found_classes=indices[order], scores=scores[order])
        )
    return DetectionRecords(tuple(images), _names(content), says_synthetic(content))


def _read_truth(path: str | os.PathLike) -> tuple[dict[Any, list[tuple]], dict[Any, int], dict[str, Any]]:
    """Annotated boxes by image id, class indices by category id, and the whole content of the file."""
    content = read_coco(path)
    classes = {category["id"]: place for place, category in enumerate(_categories(content))}
    truth: dict[Any, list[tuple]] = {image["id"]: [] for image in content["images"]}
    for entry in _checked(content["annotations"], truth, classes, str(path), "annotation"):
        truth[entry["image_id"]].append((entry["bbox"], classes[entry["category_id"]], bool(entry.get("iscrowd", 0))))
    return truth, classes, content


def _categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(content["categories"], key=lambda category: category["id"])


def _names(content: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(category["name"]) for category in _categories(content))


def _read_predictions(path: str | os.PathLike) -> list[dict[str, Any]]:
    content = read_json(path, list, advice="A detections file is a list of boxes.")
    if not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path} is no detections file: expected a JSON list of boxes.")
    return content


def _checked(entries: list[dict], images: dict, classes: dict, file: str, what: str, *more: str) -> list[dict]:
    for position, entry in enumerate(entries):
        absent = [key for key in ("image_id", "category_id", "bbox", *more) if entry.get(key) is None]
        if absent:
            raise UserError(f"{file}: {what} {position} lacks {', '.join(absent)}.")
        for key, known in (("image_id", images), ("category_id", classes)):
            if entry[key] not in known:
                raise UserError(f"{file}: {what} {position} has {key} {entry[key]}, which the annotation file lacks.")
        if len(entry["bbox"]) != 4:
            raise UserError(f"{file}: {what} {position} has bbox {entry['bbox']}; expected [x, y, width, height].")
    return entries
