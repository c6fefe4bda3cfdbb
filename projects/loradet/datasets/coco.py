"""COCO instances files as Detectron2 data sets: dicts straight from a config, or registered by name."""

import difflib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from loradet.datasets.boxes import is_usable
from loradet.datasets.classes import real_categories
from loradet.datasets.files import PathLike, expand, fingerprint, read_coco
from loradet.datasets.ground_truth import ground_truth
from loradet.datasets.provenance import says_synthetic

logger = logging.getLogger(__name__)


def coco_dataset(
    json_file: PathLike,
    image_root: PathLike,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    filter_empty: bool = False,
    classes_from: PathLike | None = None,
    min_size: int = 0,
) -> list[dict[str, Any]]:
    """Load a COCO instances file as Detectron2 dataset dicts, and register it for `COCOEvaluator(name)`.

    Crowd boxes keep `iscrowd`; boxes without area and annotations of other classes are left out, with a
    logged count. Segmentations are not read.

    Args:
        json_file: the annotations; `~` and `$VARS` are expanded here and in `image_root`.
        image_root: folder that `file_name` is relative to.
        classes: class names in the order of the contiguous ids; None: the file's categories by ascending id, less an
            empty heading above all others (see `real_categories`). One that this file lacks is allowed, with a
            warning (its AP is NaN), if another one is there.
        name: to register under. None: made from the file's name, content and classes; its metadata tell it.
        filter_empty: leave out images without a box that can be trained on.
        classes_from: where `classes` is None, take the categories of this COCO file instead; the training
            file, so that a split that lists fewer categories keeps the same contiguous ids.
        min_size: leave out images whose shorter edge has fewer pixels.

    Returns:
        dicts with file_name, height, width, image_id, annotations (bbox as XYWH_ABS, contiguous category_id).

    Raises:
        FileNotFoundError: the file, the image folder or all images are missing.
        ValueError: broken file, one without images, no class matches, or `name` stands for other data already.
    """
    content = read_coco(json_file)
    if classes is None and classes_from is not None:
        classes = _class_names(read_coco(classes_from), expand(classes_from), None)
    source = _register(content, json_file, image_root, classes, name)
    records = _to_dicts(content, source)
    return _choose(records, json_file, filter_empty=filter_empty, min_size=min_size)


def register_coco(name: str, json_file: PathLike, image_root: PathLike, classes: Sequence[str] | None = None) -> None:
    """Register a COCO instances file in DatasetCatalog and MetadataCatalog, as `coco_dataset` does.

    The same data may be registered again under its name; other data may not (ValueError).
    """
    _register(read_coco(json_file), json_file, image_root, classes, name)


@dataclass(frozen=True)
class _Source:
    """What a registered name stands for."""

    json_file: Path
    image_root: Path
    classes: tuple[str, ...]
    content: str  # fingerprint of the file

    def load(self) -> list[dict[str, Any]]:
        return _to_dicts(read_coco(self.json_file), self, log=False)


_registered: dict[str, _Source] = {}


def _register(
    content: dict[str, Any],
    json_file: PathLike,
    image_root: PathLike,
    classes: Sequence[str] | None,
    name: str | None,
) -> _Source:
    path, root = expand(json_file).absolute(), expand(image_root).absolute()
    _check_images(content, path, root)
    source = _Source(path, root, _class_names(content, path, classes), fingerprint(path))
    if not content["images"]:
        raise ValueError(f"{path} lists no images; expected one entry of `images` for each image in {root}.")
    name = name or f"{path.stem}_{fingerprint(source)[:8]}"
    if name in DatasetCatalog:
        if _registered.get(name) != source:
            raise ValueError(
                f"The data set name {name!r} stands for {_registered.get(name, 'other data')}, "
                f"so it cannot stand for {source} too. Choose another name, or remove the old one: "
                f"DatasetCatalog.remove({name!r})."
            )
        return source
    evaluated, ids = ground_truth(content, path, source.classes)
    if evaluated != path:
        logger.info("%s is evaluated by its copy %s.", path, evaluated)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)  # left over from a data set that was removed from DatasetCatalog
    if absent := _absent_classes(content, path, source.classes):
        logger.warning("%s. Evaluation gives NaN there.", absent)
    MetadataCatalog.get(name).set(
        absent_classes=absent,
        json_file=str(evaluated),
        image_root=str(root),
        evaluator_type="coco",
        thing_classes=list(source.classes),
        thing_dataset_id_to_contiguous_id=ids,
        source=str(path),
        fingerprint=source.content,
        num_images=len(content["images"]),
        synthetic=says_synthetic(content),
    )
    DatasetCatalog.register(name, source.load)
    _registered[name] = source
    return source


def _check_images(content: dict[str, Any], path: Path, root: Path) -> None:
    """Fail early on what would otherwise end a training in its first epoch."""
    if not root.is_dir():
        raise FileNotFoundError(f"No image folder at {root} (image_root of {path}).")
    seen = set()
    for position, image in enumerate(content["images"]):
        absent = [key for key in ("id", "file_name", "width", "height") if image.get(key) is None]
        if absent:
            raise ValueError(
                f"{path}: entry {position} of images (id {image.get('id')}) lacks {', '.join(absent)}. {_repair(path)}"
            )
        if image["id"] in seen:
            raise ValueError(f"{path}: image id {image['id']} is given twice. {_repair(path)}")
        seen.add(image["id"])
    first = [image["file_name"] for image in itertools.islice(content["images"], 8)]
    if first and not any((root / file_name).is_file() for file_name in first):
        raise FileNotFoundError(
            f"None of the first images of {path} is in {root}, as {root / first[0]}. "
            "Expected image_root to be the folder that their file_name is relative to."
        )


def _repair(path: Path) -> str:
    return f"Try: python tools/datasets.py check {path} --images IMAGE_ROOT --fix repaired.json"


def _class_names(content: dict[str, Any], path: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes in contiguous order, checked against the file's categories."""
    categories = real_categories(content)
    if not categories or not all(isinstance(entry.get("id"), int) and "name" in entry for entry in categories):
        raise ValueError(f"{path}: every entry of categories needs an integer id and a name; there must be one.")
    present = [str(entry["name"]) for entry in sorted(categories, key=lambda entry: entry["id"])]
    for what, values in (("id", [entry["id"] for entry in categories]), ("name", present)):
        if twice := _repeated(values):
            raise ValueError(f"{path}: categories share the {what} {twice[0]!r}. Give each one its own.")
    if classes is None:
        return tuple(present)
    names = () if isinstance(classes, str) else tuple(str(name) for name in classes)
    if not names or _repeated(names):
        raise ValueError(f"classes={classes!r}: expected a list of distinct names; {path} has {present}.")
    if not set(names) & set(present):
        raise ValueError(f"{path} has none of the classes {list(names)}; it has {present}.")
    return names


def _absent_classes(content: dict[str, Any], path: Path, classes: Sequence[str]) -> str:
    """Which classes a file does not know, in words; "" where it knows all."""
    present = [str(entry["name"]) for entry in real_categories(content)]
    absent = [name for name in classes if name not in present]
    near = {name: difflib.get_close_matches(name.lower(), [other.lower() for other in present], n=1) for name in absent}
    meant = {name: next(p for p in present if p.lower() == match[0]) for name, match in near.items() if match}
    hint = "".join(f" ({name!r}: meant {other!r}?)" for name, other in meant.items())
    return f"{path} has no category {absent}{hint}; it has {present}" if absent else ""


def _repeated(values: Any) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _to_dicts(content: dict[str, Any], source: _Source, log: bool = True) -> list[dict[str, Any]]:
    place = {name: number for number, name in enumerate(source.classes)}
    categories = real_categories(content)
    contiguous = {category["id"]: place.get(str(category["name"])) for category in categories}
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    dropped: Counter[str] = Counter()
    for ann in content["annotations"]:
        if ann.get("image_id") not in by_image:
            dropped["of images that the file lacks"] += 1
        elif ann.get("category_id") not in contiguous:
            dropped["of categories that the file lacks"] += 1
        elif contiguous[ann["category_id"]] is None:
            dropped["of classes that were not asked for"] += 1
        elif not is_usable(ann.get("bbox")):
            dropped["without a box that has an area"] += 1
        else:
            by_image[ann["image_id"]].append(
                {
                    "bbox": ann["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": contiguous[ann["category_id"]],
                    "iscrowd": int(ann.get("iscrowd", 0)),
                }
            )
    records = [
        {
            "file_name": os.path.join(source.image_root, image["file_name"]),  # noqa: PTH118 (a str, as Detectron2 has it)
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": by_image[image["id"]],
        }
        for image in content["images"]
    ]
    if log:
        boxes = sum(len(record["annotations"]) for record in records)
        level = logging.INFO if boxes else logging.WARNING
        logger.log(level, "%s: %d images, %d boxes.", source.json_file, len(records), boxes)
        for heading in (entry for entry in content["categories"] if entry not in categories):
            what = "left out category %r (id %s), a heading above the others without annotations."
            logger.info(f"%s: {what}", source.json_file, heading["name"], heading.get("id"))
        for reason, count in dropped.items():
            logger.warning("%s: left out %d annotations %s.", source.json_file, count, reason)
    return records


def _choose(
    records: list[dict[str, Any]], json_file: PathLike, *, filter_empty: bool, min_size: int
) -> list[dict[str, Any]]:
    """The records to use; the log says how many are left out, by reason."""
    kept, left_out = [], Counter()
    for record in records:
        if min(record["height"], record["width"]) < min_size:
            left_out[f"under {min_size} pixels"] += 1
        elif filter_empty and all(ann["iscrowd"] for ann in record["annotations"]):
            left_out["without boxes"] += 1
        else:
            kept.append(record)
    for reason, count in left_out.items():
        logger.info("%s: left out %d images %s.", json_file, count, reason)
    return kept
