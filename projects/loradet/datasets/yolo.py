"""YOLO data sets (data.yaml, images, one label file an image), converted to COCO JSON once and cached."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.datasets.boxes import image_size
from loradet.datasets.files import PathLike, cache_dir, expand, fingerprint, write_coco

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
_SLACK = 1e-3  # normalised coordinates are rounded


@dataclass(frozen=True)
class YoloSplit:
    """One split of a YOLO data set."""

    names: list[str]
    images: list[Path]
    image_root: Path


def yolo_dataset(
    data_yaml: PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    filter_empty: bool = False,
) -> list[dict[str, Any]]:
    """Load a split of a YOLO data set as Detectron2 dataset dicts, through a COCO JSON in the cache folder.

    Args:
        data_yaml: the description, or its folder; its paths are relative to itself (or to its `path`).
        split: a key of the description, as "train", "val" or "test".
        classes, name, filter_empty: as in `loradet.datasets.coco_dataset`, which reads the JSON.

    Raises:
        FileNotFoundError, ValueError: what is missing or wrong, by file and line.
    """
    from loradet.datasets.coco import coco_dataset  # needs detectron2, the conversion does not

    json_file, image_root = yolo_to_coco(data_yaml, split)
    return coco_dataset(json_file, image_root, classes, name, filter_empty)


def yolo_to_coco(
    data_yaml: PathLike, split: str, json_file: PathLike | None = None, *, progress: bool = False
) -> tuple[Path, Path]:
    """Convert a split to COCO instances.

    Category ids are the YOLO class numbers + 1. A label of five numbers is a box, a longer one a polygon
    whose box is taken. Boxes are clipped to the image, those without area dropped. An image without a label
    file is empty.

    Args:
        json_file: where to write; None: a file in the cache folder, reused until images or labels change.

    Returns:
        the COCO file and the image root that its file names are relative to.
    """
    path = find_description(data_yaml)
    data = read_split(path, split)
    if json_file is None:
        key = fingerprint(path, [_stamp(image) + _stamp(label_file(image)) for image in data.images])
        target = cache_dir("yolo") / f"{path.parent.name}_{split}_{key}.json"
        if target.is_file():
            return target, data.image_root
    else:
        target = expand(json_file)
    write_coco(target, _to_coco(data, path, split, progress))
    return target, data.image_root


def find_description(data_yaml: PathLike) -> Path:
    """The data.yaml itself, or that of a folder: `data.yaml`, else the only YAML file in it.

    Raises:
        FileNotFoundError: there is none, or several.
    """
    path = expand(data_yaml).absolute()
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"No YOLO description at {path}. Expected a data.yaml with train, val and names.")
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    named = [file for file in found if file.stem == "data"]
    if len(named or found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise FileNotFoundError(f"{path} should hold one data.yaml; YAML files there: {names}. Give the file itself.")
    return (named or found)[0]


def read_split(data_yaml: Path, split: str) -> YoloSplit:
    """Class names and images of a split, images in the order of their paths.

    Raises:
        FileNotFoundError, ValueError: as `yolo_dataset`.
    """
    content = _read_yaml(data_yaml)
    names = _class_names(content, data_yaml)
    if content.get(split) is None:
        splits = [key for key, value in content.items() if key in ("train", "val", "test", "valid") and value]
        raise ValueError(f"{data_yaml} has no split {split!r}; it has {', '.join(splits) or 'none'}.")
    base = data_yaml.parent / expand(content.get("path") or ".")
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    images: list[Path] = []
    roots: list[Path] = []
    for entry in entries:
        source = _locate(base, str(entry), data_yaml, split)
        found = list(_listed(source, base) if source.is_file() else _in_folder(source))
        images += found
        roots += [source] if source.is_dir() else [image.parent for image in found]
    if not images:
        raise ValueError(f"{data_yaml}: no image ({', '.join(sorted(SUFFIXES))}) in split {split!r}: {content[split]}.")
    if not any(label_file(image).is_file() for image in images):
        raise FileNotFoundError(
            f"{data_yaml}: no image of split {split!r} has a label file. Expected, for example, "
            f"{label_file(images[0])} for {images[0]}."
        )
    return YoloSplit(names, sorted(set(images)), Path(os.path.commonpath(roots)))


def label_file(image: Path) -> Path:
    """Where an image's labels are: the last folder `images` of its path turned to `labels`, suffix `.txt`."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_labels(path: Path, classes: int) -> list[tuple[int, float, float, float, float]]:
    """(class, x0, y0, x1, y1) of every line, normalised to the image, clipped to it.

    Raises:
        ValueError: names file and line.
    """
    labels = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words:
            labels.append(_parse(words, classes, f"{path}, line {number}"))
    return labels


def _parse(words: list[str], classes: int, where: str) -> tuple[int, float, float, float, float]:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(
            f"{where}: {len(words)} values. Expected `class cx cy w h`, or a class and 3 or more points x y."
        )
    try:
        label, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Expected numbers only.") from error
    if not label.is_integer() or not 0 <= label < classes:
        raise ValueError(f"{where}: class {words[0]}. Expected an integer from 0 to {classes - 1}, as `names` has.")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):  # false for NaN too
        raise ValueError(f"{where}: {words[1:]} is not within 0 to 1. Expected coordinates as parts of the image.")
    if len(values) == 4:
        cx, cy, width, height = values
        corners = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
    else:
        corners = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
    x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
    return int(label), x0, y0, x1, y1


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys like train, val and names.")
    return content


def _class_names(content: dict[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{path}: the keys of names are {list(names)}. Expected 0 to {len(names) - 1}.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: names is {names!r}. Expected a list of class names, or a dict from 0 on.")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(f"{path}: nc is {content['nc']}, but names has {len(names)} entries.")
    return [str(name) for name in names]


def _locate(base: Path, entry: str, data_yaml: Path, split: str) -> Path:
    path = base / expand(entry)
    # Some exporters write `../train/images` for a folder beside the description.
    candidates = [path, base / entry.removeprefix("../")]
    for candidate in candidates:
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    raise FileNotFoundError(f"{data_yaml}: {split} is {entry!r}, but there is no {path}.")


def _in_folder(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _listed(list_file: Path, base: Path) -> Iterator[Path]:
    """Images that a text file names, one a line, relative to the description's base."""
    for number, line in enumerate(list_file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            image = Path(os.path.normpath(base / expand(line.strip())))
            if not image.is_file():
                raise FileNotFoundError(f"{list_file}, line {number}: there is no {image}.")
            yield image


def _stamp(path: Path) -> tuple:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (str(path),)
    return str(path), status.st_size, status.st_mtime_ns


def _to_coco(data: YoloSplit, path: Path, split: str, progress: bool) -> dict[str, Any]:
    images, annotations = [], []
    files: Any = data.images
    if progress:
        from tqdm import tqdm

        files = tqdm(files, unit="image", disable=None)
    for image_id, file in enumerate(files, start=1):
        try:
            width, height = image_size(file)
        except OSError as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        file_name = file.relative_to(data.image_root).as_posix()
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        labels = label_file(file)
        for label, x0, y0, x1, y1 in read_labels(labels, len(data.names)) if labels.is_file() else ():
            box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            if math.prod(box[2:]) > 0:
                number = len(annotations) + 1
                entry = {"id": number, "image_id": image_id, "category_id": label + 1, "iscrowd": 0}
                annotations.append(entry | {"bbox": box, "area": box[2] * box[3]})
    return {
        "info": {"description": f"made from {path}, split {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(data.names, start=1)],
    }
