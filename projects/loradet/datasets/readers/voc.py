"""Pascal VOC data sets (one XML file an image), read as COCO through the cache folder.

Nothing is written beside the data. What each file says is kept by file, the conversion as a whole; see `yolo`.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from loradet.datasets.files import PathLike, cache_dir, expand, fingerprint, write_coco
from loradet.datasets.images.header import image_size
from loradet.datasets.readers.conversion import progress_bar, raise_faults, sidecar_path
from loradet.datasets.readers.file_cache import FaultyFileError, FileCache, stamp
from loradet.datasets.readers.voc_files import VocSplit, read_voc_split, voc_splits
from loradet.datasets.readers.voc_labels import VocObject, read_voc_objects
from loradet.locking import file_lock

logger = logging.getLogger(__name__)

TOLERANCE = 1.0  # pixels that a box may reach over the image's edge: tools differ by where they begin to count

_VERSION = "1"  # part of every key of the cache


def voc_dataset(
    root: PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    filter_empty: bool = False,
) -> Sequence[dict[str, Any]]:
    """Load a split of a Pascal VOC data set as Detectron2 dataset dicts, through a COCO JSON in the cache folder.

    Objects that are `difficult` are neither trained on nor to be found.

    Args:
        root: the folder with `Annotations`, `JPEGImages` and `ImageSets/Main/<split>.txt`, or with folders `train`,
            `valid` (or `val`) and `test` of images and XML files.
        split: "train", "val", "test", or "all" for every file of `Annotations`.
        classes, name, filter_empty: as in `loradet.datasets.coco_dataset`, which reads the JSON. None: the classes of
            the training split, by name.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong; faults of annotations by file and element.
    """
    from loradet.datasets.readers.coco import coco_dataset  # needs detectron2, the conversion does not

    json_file, image_root = voc_to_coco(root, split)
    if classes is None:
        classes = voc_class_names(root if "train" in voc_splits(root) else json_file)
    return coco_dataset(json_file, image_root, classes, name, filter_empty)


def voc_class_names(root: PathLike) -> list[str]:
    """The classes of the training split of a data set, by name; of a converted file, its own.

    Raises:
        FileNotFoundError, ValueError: as `voc_dataset`.
    """
    from loradet.datasets.annotations import read_annotations

    path = expand(root)
    json_file = path if path.is_file() else voc_to_coco(path, "train")[0]
    return [category.name for category in read_annotations(json_file).classes]


def count_voc_classes(root: PathLike, classes: Sequence[str] | None = None) -> int:
    """How many classes a model of this data needs: those that are named, else those of the training split.

    Raises:
        FileNotFoundError, ValueError: as `voc_dataset`.
    """
    return len(voc_class_names(root)) if classes is None else len(classes)


def voc_to_coco(
    root: PathLike, split: str, json_file: PathLike | None = None, *, progress: bool = False
) -> tuple[Path, Path]:
    """Convert a split to COCO instances.

    Corners of VOC count from 1 and belong to the box: x = xmin - 1, width = xmax - xmin + 1. Boxes are clipped to the
    image where they reach over it by up to `TOLERANCE`. Category ids are 1 to K by name. `difficult` becomes `ignore`.

    Args:
        root, split: as in `voc_dataset`.
        json_file: where to write; None: a file in the cache folder, reused until a file changes.
        progress: show a bar on a terminal.

    Returns:
        the COCO file and the image root that its file names are relative to.

    Raises:
        FileNotFoundError: no such data set or split.
        ValueError: images and annotations with faults. Where there are many, the error lists the
            first and names a file in the cache folder that has all.
    """
    folder = expand(root).absolute()
    data = read_voc_split(folder, split)
    xml = {file: stamp(file) for file in data.annotations.values() if file is not None}
    images = {file: stamp(file) for file in data.annotations}
    caches = cache_dir("voc") / f"{folder.name}_{split}_{fingerprint(str(folder), split)}"
    if json_file is None:
        key = fingerprint(_VERSION, str(folder), sorted(images.items()), sorted(xml.items()))
        target = cache_dir("voc") / f"{folder.name}_{split}_{key}.json"
        if target.is_file() and not data.faults:
            return target, data.image_root
    else:
        target = expand(json_file)
    with file_lock(sidecar_path(caches, ".lock"), f"{folder}, split {split}"):
        write_coco(target, _convert(data, images, xml, caches, f"{folder}, split {split}", progress))
    return target, data.image_root


def _convert(data: VocSplit, images: dict, xml: dict, caches: Path, where: str, progress: bool) -> dict[str, Any]:
    bar = progress_bar(progress, "file")
    sizes, wrong_images = FileCache(sidecar_path(caches, ".sizes.json"), _VERSION).values(images, _size, progress=bar)
    objects, wrong_xml = FileCache(sidecar_path(caches, ".objects.json"), _VERSION).values(
        xml, read_voc_objects, progress=bar
    )
    faults = [*data.faults, *wrong_images, *wrong_xml]
    content = _to_coco(data, sizes, objects, faults)
    raise_faults(faults, where, "images and annotations", sidecar_path(caches, ".faults.txt"))
    if empty := sum(file is None for file in data.annotations.values()):
        logger.warning("%s: %d images without an XML file count as empty.", where, empty)
    return content


def _size(file: Path) -> list[int]:
    try:
        return list(image_size(file))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FaultyFileError([f"{file}: cannot be read as an image: {error}"]) from error


def _to_coco(
    data: VocSplit, sizes: dict[str, list[int]], objects: dict[str, list[VocObject]], faults: list[str]
) -> dict[str, Any]:
    """Images and annotations; what is outside of its image is added to `faults`."""
    names = sorted({one[0] for found in objects.values() for one in found})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    root = os.path.join(data.image_root, "")  # noqa: PTH118
    for image_id, (file, xml) in enumerate(data.annotations.items(), start=1):
        if file not in sizes:
            continue
        width, height = sizes[file]
        file_name = file.removeprefix(root).replace(os.sep, "/")
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for number, (name, difficult, *corners) in enumerate(objects.get(xml or "", ()), start=1):
            box = _clipped(corners, width, height)
            if box is None:
                shown = ", ".join(f"{corner:g}" for corner in corners)
                faults.append(
                    f"{xml}: annotation/object[{number}]/bndbox ({name}) is {shown}, outside of its image of "
                    f"{width}x{height}."
                )
                continue
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": numbers[name], "bbox": box}
            entry |= {"area": box[2] * box[3], "iscrowd": 0}
            annotations.append(entry | {"ignore": 1} if difficult else entry)
    return {
        "info": {"description": "made from Pascal VOC"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def _clipped(corners: Sequence[float], width: int, height: int) -> list[float] | None:
    """XYWH within the image; None where a corner is outside of it by more than rounding."""
    x0, y0, x1, y1 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
    if x0 < -TOLERANCE or y0 < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        return None
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return [x0, y0, x1 - x0, y1 - y0] if x1 > x0 and y1 > y0 else None
