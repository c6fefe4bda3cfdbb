"""COCO's JSON format: reading it into records, writing records as such a file, registering it."""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2._subset import missing_names
from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager, replace_file
from pycocotools import mask as coco_mask

logger = logging.getLogger(__name__)


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a file in COCO's format.

    Args:
        json_file: path of the annotations.
        image_root: folder of the images.
        dataset_name: name whose metadata get `thing_classes` and `thing_dataset_id_to_contiguous_id`;
            category ids of the records are contiguous then, in the order of the file's ids. None keeps the
            file's ids and sets nothing.
        extra_annotation_keys: further keys of annotations to keep.

    Returns:
        A record for each image, by image id, also without annotations: "file_name", "height", "width",
            "image_id",
        "annotations" with "bbox", "bbox_mode" (XYWH_ABS), "category_id" and, if the file has them, "iscrowd",
        "segmentation", "keypoints".

    Raises:
        KeyError: an annotation has a category id that is not among the categories.
        ValueError: the file is not COCO JSON, or an annotation has an empty box.
        AssertionError: annotation ids repeat, or an annotation has "ignore" set.
    """
    content = _read_json(json_file)
    id_map = None
    if dataset_name is not None:
        id_map = _set_class_metadata(content["categories"], dataset_name)
    annotations = content.get("annotations", [])
    _check_annotation_ids(annotations, json_file)
    of_image = defaultdict(list)
    for annotation in annotations:
        of_image[annotation["image_id"]].append(annotation)

    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or ())]
    records = []
    num_dropped = 0
    for image in sorted(content["images"], key=lambda image: image["id"]):
        parsed = [_parse_annotation(a, keys, id_map, json_file) for a in of_image[image["id"]]]
        kept = [annotation for annotation in parsed if annotation is not None]
        num_dropped += len(parsed) - len(kept)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),  # noqa: PTH118  image_root may be a URL
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": kept,
            }
        )
    logger.info("Read %d images and %d annotations from %s.", len(records), len(annotations), json_file)
    if num_dropped:
        logger.warning("%s: left out %d annotations whose polygons have under 3 points.", json_file, num_dropped)
    return records


def _read_json(json_file: str) -> dict[str, Any]:
    with PathManager.open(json_file, "r", encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{json_file} is not valid JSON: {error}") from error
    missing = [k for k in ("images", "categories") if not isinstance(content, dict) or k not in content]
    if missing:
        raise ValueError(f"{json_file} is not in COCO's format: it has no {' and no '.join(missing)}.")
    return content


def _set_class_metadata(categories: list[dict[str, Any]], dataset_name: str) -> dict[int, int]:
    categories = sorted(categories, key=lambda category: category["id"])
    ids = [category["id"] for category in categories]
    id_map = {category_id: index for index, category_id in enumerate(ids)}
    if ids != list(range(1, len(ids) + 1)):
        logger.warning(
            "Category ids of %r are not 1 to %d; mapping them to 0 to %d.",
            dataset_name,
            len(ids),
            len(ids) - 1,
        )
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=id_map,
    )
    return id_map


def _check_annotation_ids(annotations: list[dict[str, Any]], json_file: str) -> None:
    counts = Counter(annotation["id"] for annotation in annotations if "id" in annotation)
    repeated = [annotation_id for annotation_id, count in counts.items() if count > 1]
    if repeated:
        raise AssertionError(
            f"{json_file}: {len(repeated)} annotation ids are used more than once, such as {repeated[:5]}; "
            "evaluation would lose boxes. Give every annotation its own id."
        )


def _parse_annotation(
    annotation: dict[str, Any], keys: list[str], id_map: dict[int, int] | None, json_file: str
) -> dict[str, Any] | None:
    """The parts of an annotation that a record keeps; None where its polygons are unusable."""
    where = f"{json_file}: annotation {annotation.get('id')} of image {annotation['image_id']}"
    if annotation.get("ignore", 0):
        raise AssertionError(f"{where} has 'ignore' set, which is not supported. Remove it, or mark it as iscrowd.")
    parsed = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in parsed and len(parsed["bbox"]) == 0:
        raise ValueError(f"{where} has an empty bbox. Write [x, y, width, height], or remove the annotation.")
    if annotation.get("segmentation"):
        parsed["segmentation"] = _usable_segmentation(annotation["segmentation"])
        if not parsed["segmentation"]:
            return None
    if parsed.get("keypoints"):
        # COCO stores pixel indices; coordinates here are continuous, a pixel's centre is at +0.5.
        parsed["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(parsed["keypoints"])]
    parsed["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map is not None:
        if parsed["category_id"] not in id_map:
            raise KeyError(
                f"{where} has category_id {parsed['category_id']}, "
                f"which is not among the categories of the file: {sorted(id_map)}."
            )
        parsed["category_id"] = id_map[parsed["category_id"]]
    return parsed


def _usable_segmentation(segmentation: dict[str, Any] | list[list[float]]) -> Any:
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]


def register_coco_instances(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Register a data set in COCO's format; it is read on first use. The same again, as by a config that is read
    twice, changes nothing.

    Args:
        name: such as "ships_train".
        metadata: further metadata; may be empty.
        json_file: path of the annotations.
        image_root: folder of the images.

    Raises:
        AssertionError: the name is taken by other files.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """The records of a registered data set in COCO's format; polygons and RLE masks come along and give the area.

    Category ids are those of `thing_dataset_id_to_contiguous_id` where the metadata has it, else contiguous.
    """
    records = DatasetCatalog.get(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    id_map = metadata.get("thing_dataset_id_to_contiguous_id")
    if id_map is None:
        id_map = {index: index for index in range(len(metadata.thing_classes))}
    original_id = {contiguous: original for original, contiguous in id_map.items()}
    images, annotations = [], []
    for index, record in enumerate(records):
        image_id = record.get("image_id", index)
        size = {"width": int(record["width"]), "height": int(record["height"])}
        images.append({"id": image_id, **size, "file_name": str(record["file_name"])})
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(list(map(float, annotation["bbox"])), annotation["bbox_mode"], BoxMode.XYWH_ABS)
            converted = {
                "id": len(annotations) + 1,  # 0 would read as "no match" in pycocotools
                "image_id": image_id,
                "bbox": [round(float(value), 3) for value in box],
                "area": _area(annotation.get("segmentation"), box),
                "iscrowd": int(annotation.get("iscrowd", 0)),
                "category_id": original_id[annotation["category_id"]],
            }
            if "segmentation" in annotation:
                converted["segmentation"] = _segmentation_for_json(annotation["segmentation"])
            annotations.append(converted)
    categories = [{"id": original_id[i], "name": name} for i, name in enumerate(metadata.thing_classes)]
    return {
        "info": {},
        "images": images,
        "categories": categories,
        "annotations": annotations,
        "licenses": None,
    }


def _segmentation_for_json(segmentation: dict[str, Any] | Sequence[Any]) -> Any:
    """Polygons as lists of numbers, RLE with its counts as text."""
    if not isinstance(segmentation, dict):
        return [np.asarray(polygon).reshape(-1).tolist() for polygon in segmentation]
    counts = segmentation["counts"]
    return {**segmentation, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _area(segmentation: Any, box: Sequence[float]) -> float:
    if isinstance(segmentation, dict):
        return float(coco_mask.area(_usable_segmentation(segmentation)))
    if not segmentation:
        return float(box[2] * box[3])
    area = 0.0
    for polygon in segmentation:
        x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
        area += 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return float(area)


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered data set as a COCO file.

    Args:
        dataset_name: registered name.
        output_file: path; folders are made.
        allow_cached: keep a file that is there already, with a warning.
    """
    path = Path(output_file)
    if path.exists() and allow_cached:
        logger.warning("Using %s as it is; remove it if data set %r has changed.", path, dataset_name)
        return
    content = convert_to_coco_dict(dataset_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(json.dumps(content))
    logger.info("Wrote data set %r in COCO's format to %s.", dataset_name, path)


__getattr__ = missing_names(__name__, ["main", "load_sem_seg"])
