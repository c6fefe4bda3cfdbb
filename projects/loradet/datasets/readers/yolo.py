"""YOLO data sets (data.yaml, images, one label file an image), read as COCO through the cache folder.

Nothing is written beside the data. Image sizes and labels are kept by file, so that a change costs the files that
changed, and the conversion as a whole, so that without a change nothing is opened but the conversion.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from loradet.datasets.files import PathLike, cache_dir, expand, fingerprint, write_coco
from loradet.datasets.images.header import image_size
from loradet.datasets.readers.conversion import progress_bar, raise_faults, sidecar_path
from loradet.datasets.readers.file_cache import FaultyFileError, FileCache, stamp
from loradet.datasets.readers.yolo_description import YoloSplit, coco_head, find_description, label_file, read_split
from loradet.datasets.readers.yolo_labels import LabelRules, read_labels
from loradet.errors import UserError
from loradet.locking import file_lock
from loradet.wording import shorten

logger = logging.getLogger(__name__)


# Part of every key of the cache: what an older reader let pass is read again.
_VERSION = "5"

Stamp = tuple[int, int]


def yolo_dataset(
    data_yaml: PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    filter_empty: bool = False,
    max_images: int | None = None,
    polygons: bool = False,
    clip: bool = False,
) -> Sequence[dict[str, Any]]:
    """Load a split of a YOLO data set as Detectron2 dataset dicts, through a COCO JSON in the cache folder.

    Args:
        data_yaml: the description, or its folder; its paths are relative to itself (or to its `path`).
        split: a key of the description, as "train", "val" or "test".
        classes, name, filter_empty: as in `loradet.datasets.coco_dataset`, which reads the JSON.
        max_images, polygons, clip: see `yolo_to_coco`.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong; all faults of labels and images by file and line.
    """
    from loradet.datasets.readers.coco import coco_dataset  # needs detectron2, the conversion does not

    json_file, image_root = yolo_to_coco(data_yaml, split, max_images=max_images, polygons=polygons, clip=clip)
    return coco_dataset(json_file, image_root, classes, name, filter_empty)


def yolo_to_coco(
    data_yaml: PathLike,
    split: str,
    json_file: PathLike | None = None,
    *,
    max_images: int | None = None,
    polygons: bool = False,
    clip: bool = False,
    progress: bool = False,
) -> tuple[Path, Path]:
    """Convert a split to COCO instances.

    Category ids are the YOLO class numbers + 1. Lines of a file that say the same are one box, boxes that leave the
    image by up to 1 % of its side are clipped, those without area dropped: a warning counts them, every time, with a
    file of each. An image without a label file is empty. Of several processes that convert the same split one reads
    it, the others wait.

    Args:
        json_file: where to write; None: a file in the cache folder, reused until images or labels change.
        max_images: take so many images only, always the same ones, those with labels first; for a quick try.
        polygons: let a label be a polygon too, of which the box is taken; else one that is not five numbers is a fault.
        clip: clip boxes that leave the image by more, too; else they are faults.
        progress: show a bar on a terminal.

    Returns:
        the COCO file and the image root that its file names are relative to.

    Raises:
        FileNotFoundError: no description, folder or labels.
        ValueError: a broken description; or images and labels with faults. Where there are many, the
            error lists the first and names a file in the cache folder that has all.
    """
    path = find_description(data_yaml)
    data = read_split(path, split)
    rules = LabelRules(len(data.names), polygons, data.keypoints, clip)
    files, numbers = _Files.of(data.images), {file: number for number, file in enumerate(data.images, start=1)}
    data.faults.extend(_shared_labels(data.images, files))
    if max_images is not None:
        files = _choose(files, data, max_images)
        data = replace(data, images=list(files.images))
    name = f"{path.parent.name}_{split}"
    is_kept = json_file is None and not data.faults
    if json_file is None:
        key = fingerprint(_VERSION, rules, path, sorted(files.images.items()), sorted(files.labels.items()))
        target = cache_dir("yolo") / f"{name}_{key}.json"
        if is_kept and target.is_file():
            return _said(target, path), data.image_root
    else:
        target = expand(json_file)
    caches = cache_dir("yolo") / f"{name}_{fingerprint(str(path), split, max_images)}"
    where = f"{path}, split {split}"
    with file_lock(sidecar_path(caches, ".lock"), where):
        # Whoever held the lock before may have made it.
        if not (is_kept and target.is_file()):
            sizes, labels = _read(data, files, caches, where, rules, progress)
            content = _to_coco(data, numbers, sizes, {file: found["boxes"] for file, found in labels.items()})
            head = coco_head(path)
            if notes := _notes(labels, path.parent):
                head["info"]["notes"] = notes
            write_coco(target, {**head, **content})
    return _said(target, path), data.image_root


class _Info(msgspec.Struct):
    """What is read of a conversion to say it again."""

    info: dict[str, Any]


def _said(target: Path, data_yaml: Path) -> Path:
    """The conversion, once its notes have been logged: a user hears of them whether it was made now or kept."""
    try:
        notes = msgspec.json.decode(target.read_bytes(), type=_Info).info.get("notes", ())
    except msgspec.MsgspecError as error:
        raise UserError(f"{target} is broken: {error}. Delete it, and it is made anew.") from error
    for note in notes:
        logger.warning("%s: %s", data_yaml, note)
    return target


def _notes(labels: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """What was done to the lines of label files, with counts and the first files, relative to a folder."""

    def note(text: str, counts: Mapping[str, int]) -> list[str]:
        files = [os.path.relpath(file, folder) for file, count in counts.items() if count]
        return [f"{text}: {sum(counts.values())} (in {shorten(files, limit=3)})."] if files else []

    return [
        *note(
            "identical lines of a label file are one box; left out",
            {file: found["repeated"] for file, found in labels.items()},
        ),
        *note(
            "boxes that leave the image are clipped to it",
            {file: found["clipped"] for file, found in labels.items()},
        ),
        *note(
            "boxes without area are left out",
            {
                file: sum((x1 - x0) * (y1 - y0) <= 0 for _, x0, y0, x1, y1 in found["boxes"])
                for file, found in labels.items()
            },
        ),
    ]


def _shared_labels(images: Sequence[str], files: "_Files") -> list[str]:
    """A fault for every label file with boxes that belongs to several images, as a.jpg and a.png have."""
    owners: dict[str, list[str]] = {}
    for image in images:
        owners.setdefault(label_file(image), []).append(image)
    return [
        f"{label}: {' and '.join(Path(image).name for image in several)} have this one label file. Rename one and give "
        "it labels of its own, delete one, or name the wanted images in a text file, which data.yaml may have for a "
        "folder."
        for label, several in owners.items()
        if len(several) > 1 and files.labels.get(label, (0, 0))[0] > 0
    ]


@dataclass(frozen=True)
class _Files:
    """Stamps of a split's images (None: no such file) and of the label files that there are, by path."""

    images: dict[str, Stamp | None]
    labels: dict[str, Stamp]

    @classmethod
    def of(cls, images: Sequence[str]) -> "_Files":
        labels = {file: stamp(file) for file in map(label_file, images)}
        return cls(
            {image: stamp(image) for image in images},
            {file: found for file, found in labels.items() if found is not None},
        )


def _choose(files: _Files, data: YoloSplit, count: int) -> _Files:
    if count < 1:
        raise UserError(f"max_images={count}: expected at least 1.")

    def rank(image: str) -> tuple[bool, str]:
        size, _ = files.labels.get(label_file(image), (0, 0))
        name = os.path.relpath(image, data.image_root)
        return size == 0, hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()

    return _Files.of(sorted(sorted(data.images, key=rank)[:count]))


def _read(
    data: YoloSplit, files: _Files, caches: Path, where: str, rules: LabelRules, progress: bool
) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]]]:
    """Sizes of the images and what the label files say, by path; ValueError with all faults of both."""
    faults = [
        *data.faults,
        *(f"{file}: there is no such file: restore it." for file, found in files.images.items() if not found),
    ]
    found = {file: found for file, found in files.images.items() if found}
    sizes, wrong_images = FileCache(sidecar_path(caches, ".sizes.json"), _VERSION).values(
        found, _read_size, progress=progress_bar(progress, "image")
    )
    labels, wrong_labels = FileCache(sidecar_path(caches, ".labels.json"), f"{_VERSION}, {rules}").values(
        files.labels, lambda file: read_labels(file, rules), progress=progress_bar(progress, "label file")
    )
    faults += wrong_images + wrong_labels
    raise_faults(faults, where, "images and labels", sidecar_path(caches, ".faults.txt"))
    return sizes, labels


def _read_size(file: Path) -> list[int]:
    try:
        return list(image_size(file))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FaultyFileError(
            [f"{file}: cannot be read as an image: {error}. Replace it, or move it and its label file away."]
        ) from error


def _to_coco(
    data: YoloSplit, numbers: dict[str, int], sizes: dict[str, list[int]], boxes: dict[str, list]
) -> dict[str, Any]:
    """Images and annotations; an image has the same id whether all of the split is there or a part."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    root = os.path.join(data.image_root, "")  # noqa: PTH118
    for file in data.images:
        image_id = numbers[file]
        width, height = sizes[file]
        file_name = file.removeprefix(root).replace(os.sep, "/")
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for label, x0, y0, x1, y1 in boxes.get(label_file(file), ()):
            box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            area = box[2] * box[3]
            if area <= 0:
                continue
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": box, "area": area})
    return {"images": images, "annotations": annotations}
