"""Parses a YOLO data.yaml: class names, and the images and labels of each split."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.datasets.annotations.values import as_whole
from loradet.datasets.files import PathLike, expand
from loradet.errors import MissingFileError, UserError

logger = logging.getLogger(__name__)

_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class YoloSplit:
    """One split of a YOLO data set. Images are strings: a Path for each of many files costs seconds.

    Attributes:
        names: of the classes, by number.
        images: files, in the order of their paths.
        image_root: folder that all of them are in.
        faults: what is wrong with lists of images, a line each.
        keypoints: numbers behind the box in a line of a pose data set (`kpt_shape`); 0: there are none.
    """

    names: list[str]
    images: list[str]
    image_root: Path
    faults: list[str]
    keypoints: int = 0


def count_yolo_classes(data_yaml: PathLike, classes: Sequence[str] | None = None) -> int:
    """How many classes a model of this data needs: those that are named, else the description's `names`.

    Raises:
        FileNotFoundError, ValueError: no description, or one without names.
    """
    return len(yolo_class_names(data_yaml)) if classes is None else len(classes)


def yolo_class_names(data_yaml: PathLike) -> list[str]:
    """`names` of a description (the file, or its folder), by class number.

    Raises:
        FileNotFoundError, ValueError: no description, or one without names.
    """
    path = find_description(data_yaml)
    return _class_names(_read_yaml(path), path)


def coco_head(data_yaml: PathLike) -> dict[str, Any]:
    """`info` and `categories` of the same data as COCO: ids are class numbers + 1, `synthetic: true` is passed on.

    Raises:
        FileNotFoundError, ValueError: no description, or one without names.
    """
    path = find_description(data_yaml)
    content = _read_yaml(path)
    # Without the folder: the same data elsewhere has the same fingerprint.
    info: dict[str, Any] = {"description": f"made from {path.name}"}
    if content.get("synthetic") is True:
        info["synthetic"] = True
    names = _class_names(content, path)
    return {"info": info, "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)]}


def find_description(data_yaml: PathLike) -> Path:
    """The data.yaml itself, or that of a folder: `data.yaml`, else the only YAML file in it.

    Raises:
        FileNotFoundError: there is none, or several.
    """
    path = expand(data_yaml).absolute()
    if path.is_file():
        return path
    if not path.is_dir():
        expected = f"No YOLO description at {path}. Expected a data.yaml with train, val and names."
        raise MissingFileError(f"{expected} {_other_layout(path)}".rstrip())
    found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    named = [file for file in found if file.stem == "data"]
    if len(named or found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        expected = f"{path} should hold one data.yaml; YAML files there: {names}."
        raise MissingFileError(f"{expected} {_other_layout(path) or 'Give the file itself.'}")
    return (named or found)[0]


def _other_layout(path: Path) -> str:
    from loradet.datasets.layouts import advice  # which stands on this module

    return advice(path)


def read_split(data_yaml: Path, split: str) -> YoloSplit:
    """Class names and images of a split.

    Raises:
        FileNotFoundError, ValueError: as `loradet.datasets.yolo_dataset`, but for single images and labels.
    """
    content = _read_yaml(data_yaml)
    names, keypoints = _class_names(content, data_yaml), _keypoints(content, data_yaml)
    if content.get(split) is None:
        splits = [key for key, value in content.items() if key in ("train", "val", "test", "valid") and value]
        raise UserError(
            f"{data_yaml} has no split {split!r}; it has {', '.join(splits) or 'none'}. "
            f"Write `{split}: FOLDER` into it, or ask for another split."
        )
    folder = content.get("path") or "."
    if not isinstance(folder, str):
        raise UserError(f"{data_yaml}: path is {folder!r}. Expected a folder, in quotes where it is a number.")
    base = data_yaml.parent / expand(folder)
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    images: set[str] = set()
    roots: set[str] = set()
    faults: list[str] = []
    for entry in entries:
        source = _locate(base, str(entry), data_yaml, split)
        if source.is_dir():
            images.update(_in_folder(source))
            roots.add(str(source))
            continue
        listed, absent = _listed(source, base)
        faults += absent
        images.update(listed)
        roots.update(os.path.dirname(image) for image in listed)  # noqa: PTH120
    if not images and not faults:
        raise UserError(
            f"{data_yaml}: no image ({', '.join(SUFFIXES)}) in split {split!r}: {content[split]}. "
            "Correct the folder, or take the line out."
        )
    files = sorted(images)
    if files and not any(os.path.isfile(label_file(image)) for image in files):  # noqa: PTH113
        where = f"{data_yaml}: no image of split {split!r} has a label file"
        # A folder of labels that is there and empty says that all is background; without one the layout is another.
        if not any(_has_label_folder(image) for image in files):
            raise MissingFileError(
                f"{where}. Expected, for example, {label_file(files[0])} for {files[0]}; where all images are "
                f"background, an empty folder {os.path.dirname(label_file(files[0]))} says so."  # noqa: PTH120
            )
        logger.warning("%s: its %d images count as empty.", where, len(files))
    return YoloSplit(names, files, Path(os.path.commonpath(roots)) if roots else base, faults, keypoints)


def label_file(image: str) -> str:
    """Where an image's labels are: the last folder `images` of its path turned to `labels`, suffix `.txt`."""
    above, found, below = image.rpartition(_IMAGES)
    path = f"{above}{_LABELS}{below}" if found else image
    folder, slash, name = path.rpartition(os.sep)
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot else name}.txt"


def _has_label_folder(image: str) -> bool:
    """Whether the folder for an image's labels is there, and is not that of the images."""
    folder = os.path.dirname(label_file(image))  # noqa: PTH120
    return folder != os.path.dirname(image) and os.path.isdir(folder)  # noqa: PTH112, PTH120


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text)
        # YAML takes on, off, yes, no, null and 007 for other things than the names that they are.
        as_written = yaml.load(text, Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}: correct that line.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys like train, val and names. Give the data.yaml of a YOLO data set.")
    if "names" in content:
        content["names"] = as_written["names"]
    return content


def _class_names(content: dict[str, Any], path: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        by_number = {str(number): name for number, name in names.items()}
        if by_number.keys() != set(map(str, range(len(names)))):
            raise UserError(f"{path}: the keys of names are {list(names)}. Expected 0 to {len(names) - 1}.")
        names = [by_number[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names is {names!r}. Expected a list of class names, or a dict from 0 on.")
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{path}: names has {wrong[0]!r}. Expected a name for each class.")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{path}: names has {twice[0]!r} twice. Give each class a name of its own.")
    if "nc" in content and as_whole(content["nc"]) != len(names):
        raise UserError(
            f"{path}: nc is {content['nc']!r}, but names has {len(names)} entries. Name them all, or take nc out."
        )
    return names


def _keypoints(content: dict[str, Any], path: Path) -> int:
    """How many numbers of a pose follow the box in a line."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    count, values = map(as_whole, shape) if isinstance(shape, list) and len(shape) == 2 else (None, None)
    if count is None or values is None or count < 1 or values not in (2, 3):
        raise UserError(
            f"{path}: kpt_shape is {shape!r}. Expected [number of keypoints, 2 or 3]; of boxes alone, take it out."
        )
    return count * values


def _locate(base: Path, entry: str, data_yaml: Path, split: str) -> Path:
    path = base / expand(entry)
    # Some exporters write `../train/images` for a folder beside the description.
    candidates = [path, base / entry.removeprefix("../")]
    for candidate in candidates:
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    raise MissingFileError(
        f"{data_yaml}: {split} is {entry!r}, but there is no {path}. Correct it, or `path`, from which it is counted."
    )


def _in_folder(folder: Path) -> Iterator[str]:
    """Images below a folder, in linked folders too; each folder once, under its own path where that is below."""
    given = set()
    for follow in (False, True):
        walked = set()
        for root, folders, files in os.walk(folder, followlinks=follow):
            if (real := os.path.realpath(root)) in walked:
                folders.clear()
                continue
            walked.add(real)
            if real not in given:
                given.add(real)
                yield from (os.path.join(root, file) for file in files if file.lower().endswith(SUFFIXES))  # noqa: PTH118


def _listed(list_file: Path, base: Path) -> tuple[list[str], list[str]]:
    """Images that a text file names, a line each, relative to the description's base; a fault for each absent one."""
    images, faults = [], []
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{list_file} is no list of images: {error}. Expected UTF-8 text, a path a line.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            image = os.path.normpath(base / expand(line.strip()))
            if os.path.isfile(image):  # noqa: PTH113
                images.append(image)
            else:
                faults.append(f"{list_file}, line {number}: there is no {image}: correct or delete the line.")
    return images, faults
