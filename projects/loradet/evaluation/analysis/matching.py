"""Matching of detections and boxes at one IoU threshold, as COCO does it."""

from dataclasses import dataclass

import numpy as np

from loradet.evaluation.detections.records import DetectionRecords, ImageRecord, box_iou


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, by falling score.

    Attributes:
        image: (D,) position in `DetectionRecords.images`.
        detection: (D,) position among that image's detections.
        scores: (D,).
        truth: (D,) position among that image's annotated boxes of what it finds, -1 where nothing.
        ignored: (D,) bool: neither right nor wrong, since it lies in a crowd.
    """

    image: np.ndarray
    detection: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray


def match_class(
    records: DetectionRecords, class_index: int, iou_threshold: float = 0.5, max_detections: int | None = None
) -> ClassMatches:
    """Match the detections of a class with its annotated boxes.

    Of an image, the `max_detections` best count; None: as many as the records say.

    By falling score, each detection takes the free box that it overlaps most, if by the threshold at least; one
    that gets none and lies in a crowd of its class is ignored. (https://cocodataset.org/#detection-eval)
    """
    limit = records.max_detections if max_detections is None else max_detections
    columns: list[tuple] = []
    for place, image in enumerate(records.images):
        detections = np.flatnonzero(image.found_classes == class_index)[:limit]
        if len(detections):
            truth, ignored = _match_image(image, detections, class_index, iou_threshold)
            columns.append((np.full(len(detections), place), detections, image.scores[detections], truth, ignored))
    if not columns:
        none = np.zeros(0, np.int64)
        return ClassMatches(none, none, np.zeros(0), none, np.zeros(0, bool))
    image_index, detection, scores, truth, ignored = (np.concatenate(column) for column in zip(*columns))
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(image_index[order], detection[order], scores[order], truth[order], ignored[order])


def _match_image(
    image: ImageRecord, detections: np.ndarray, class_index: int, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    truth = np.flatnonzero(image.truth_classes == class_index)
    crowd = image.truth_crowd[truth]
    overlaps = box_iou(image.found_xywh[detections], image.truth_xywh[truth], crowd)
    threshold = min(iou_threshold, 1 - 1e-10)
    matched, ignored = np.full(len(detections), -1), np.zeros(len(detections), bool)
    free = ~crowd
    for row, overlap in enumerate(overlaps):
        able = free & (overlap >= threshold)
        if able.any():
            # The last of equals, as pycocotools has it.
            best = np.flatnonzero(able & (overlap == overlap[able].max()))[-1]
            matched[row], free[best] = truth[best], False
        else:
            ignored[row] = bool((crowd & (overlap >= threshold)).any())
    return matched, ignored
