"""The COCO file that detections are evaluated against: the user's own where it suits, else a cached copy."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loradet.datasets.boxes import is_usable
from loradet.datasets.classes import real_categories
from loradet.datasets.files import cache_dir, fingerprint, write_coco
from loradet.datasets.provenance import says_synthetic


def ground_truth(content: dict[str, Any], json_file: Path, classes: Sequence[str]) -> tuple[Path, dict[int, int]]:
    """The file for COCOEvaluator, and its category ids -> contiguous ids.

    COCOEvaluator gives that file to pycocotools, which takes every category of it, by ascending id, for the
    classes in their order, and needs an area and an id other than 0 for every annotation. A file that differs
    (classes left out, in another order, or absent; boxes without area; annotations of unknown images) is
    evaluated by a copy of it.

    Args:
        content: of the file; category ids and names distinct, image ids distinct.
        json_file: where it was read from.
        classes: names in contiguous order.
    """
    old_ids = {str(category["name"]): category["id"] for category in real_categories(content)}
    new_ids = _ascending_ids([old_ids.get(name) for name in classes], max(old_ids.values()))
    renumbered = {old_ids[name]: new for name, new in zip(classes, new_ids) if name in old_ids}
    contiguous = {number: place for place, number in enumerate(new_ids)}

    images = {image["id"] for image in content["images"]}
    kept = [
        ann
        for ann in content["annotations"]
        if ann.get("category_id") in renumbered and ann.get("image_id") in images and is_usable(ann.get("bbox"))
    ]
    numbered = all(ann.get("id") for ann in kept) and len({ann["id"] for ann in kept}) == len(kept)
    complete = all(_has_area(ann) and ann.get("iscrowd") in (0, 1) for ann in kept)
    same_ids = sorted(category["id"] for category in content["categories"]) == new_ids
    same_order = all(old == new for old, new in renumbered.items())
    if same_ids and same_order and numbered and complete and len(kept) == len(content["annotations"]):
        return json_file, contiguous

    copy = cache_dir("coco") / f"{json_file.stem}_{fingerprint(json_file, tuple(classes))}.json"
    if not copy.is_file():
        write_coco(
            copy,
            {
                "info": {
                    "description": f"ground truth for evaluation, made from {json_file}",
                    "synthetic": says_synthetic(content),
                },
                "images": content["images"],
                "annotations": [
                    {
                        "id": ann["id"] if numbered else position,
                        "image_id": ann["image_id"],
                        "category_id": renumbered[ann["category_id"]],
                        "bbox": ann["bbox"],
                        "area": ann["area"] if _has_area(ann) else ann["bbox"][2] * ann["bbox"][3],
                        "iscrowd": int(bool(ann.get("iscrowd", 0))),
                    }
                    for position, ann in enumerate(kept, start=1)
                ],
                "categories": [{"id": number, "name": name} for number, name in zip(new_ids, classes)],
            },
        )
    return copy, contiguous


def _ascending_ids(ids: list[int | None], highest: int) -> list[int]:
    """The same ids, fresh ones for the absent, if they ascend; else 1..K."""
    filled = [highest + 1 + place if number is None else number for place, number in enumerate(ids)]
    return filled if filled == sorted(filled) else list(range(1, len(ids) + 1))


def _has_area(annotation: dict[str, Any]) -> bool:
    area = annotation.get("area")
    return isinstance(area, (int, float)) and math.isfinite(area)
