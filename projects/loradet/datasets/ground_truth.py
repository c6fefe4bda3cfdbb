"""The COCO file that detections are evaluated against: the user's own where it suits, else a cached copy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loradet.datasets.annotations import AnnotationFile
from loradet.datasets.files import cache_dir, fingerprint, write_coco

# Part of every copy's name: what an older reader made of a file is not taken for what this one makes.
_VERSION = "2"
_PIECE = 8192  # annotations that are held as objects at once


def ground_truth(
    file: AnnotationFile, classes: Sequence[str], evaluated: np.ndarray | None = None
) -> tuple[Path, dict[int, int]]:
    """The file for COCOEvaluator, and its category ids -> contiguous ids.

    COCOEvaluator gives that file to pycocotools, which takes every category of it, by ascending id, for the
    classes in their order, and needs an area and an id other than 0 for every annotation. A file that differs
    (classes left out, in another order, or absent; values that the reader converted; boxes without area; annotations
    of unknown images; images left out) is evaluated by a copy of it.

    Args:
        file: what was read.
        classes: names in contiguous order.
        evaluated: (N,) bool: the images that are; None: all.
    """
    old_ids = {category.name: category.id for category in file.classes}
    new_ids = _ascending_ids([old_ids.get(name) for name in classes], max(old_ids.values()))
    renumbered = {old_ids[name]: new for name, new in zip(classes, new_ids) if name in old_ids}
    contiguous = {number: place for place, number in enumerate(new_ids)}

    boxes = file.boxes
    category_ids = np.array([renumbered.get(category.id, 0) for category in file.categories] + [0], np.int64)
    chosen = np.array([category.id in renumbered for category in file.categories] + [False], bool)
    listed = np.ones(len(file.images), bool) if evaluated is None else evaluated
    kept = boxes.known & chosen[boxes.category] & np.append(listed, False)[boxes.image]
    same_ids = sorted(category.id for category in file.categories) == new_ids
    same_order = all(old == new for old, new in renumbered.items())
    if file.plain and same_ids and same_order and kept.all() and listed.all():
        return file.path, contiguous

    key = fingerprint(_VERSION, file.fingerprint, tuple(classes), np.packbits(listed).tobytes(), len(listed))
    copy = cache_dir("coco") / f"{file.path.stem}_{key}.json"
    if not copy.is_file():
        images = file.images
        write_coco(
            copy,
            {
                "info": {
                    "description": f"ground truth for evaluation, made from {file.path}",
                    "synthetic": file.synthetic,
                },
                "images": [
                    {
                        "id": images.ids[position],
                        "file_name": images.file_names[position],
                        "width": int(images.widths[position]),
                        "height": int(images.heights[position]),
                    }
                    for position in np.flatnonzero(listed).tolist()
                ],
                "annotations": _entries(file, np.flatnonzero(kept), category_ids),
                "categories": [{"id": number, "name": name} for number, name in zip(new_ids, classes)],
            },
        )
    return copy, contiguous


def _entries(file: AnnotationFile, rows: np.ndarray, category_ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """Annotations of these rows, one after the other; `category_ids` by the position of the category."""
    boxes, images = file.boxes, file.images
    for piece in np.array_split(rows, len(rows) // _PIECE + 1):
        columns = zip(
            boxes.ids[piece].tolist(),
            boxes.image[piece].tolist(),
            category_ids[boxes.category[piece]].tolist(),
            boxes.xywh[piece].tolist(),
            boxes.area[piece].tolist(),
            boxes.crowd[piece].tolist(),
        )
        for number, image, category_id, box, area, crowd in columns:
            yield {
                "id": number,
                "image_id": images.ids[image],
                "category_id": category_id,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }


def _ascending_ids(ids: list[int | None], highest: int) -> list[int]:
    """The same ids, fresh ones for the absent, if they ascend; else 1..K."""
    filled = [highest + 1 + place if number is None else number for place, number in enumerate(ids)]
    return filled if filled == sorted(filled) else list(range(1, len(ids) + 1))
