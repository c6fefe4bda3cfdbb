"""Detects which of the usual layouts a data set's folder has: where its splits lie, and which config reads it."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loradet.datasets.files import PathLike, expand
from loradet.datasets.readers.voc_folders import ALL, annotation_folder, voc_splits

SPLITS = ("train", "val", "test")
_DESCRIPTIONS = (".yaml", ".yml")


@dataclass(frozen=True)
class CocoPlaces:
    """Where annotation files and images of a COCO layout lie below its folder.

    Attributes:
        name: of the layout.
        annotations: a pattern with {split}.
        images: patterns of which one is there.
        config: that has the layout for its own.
        called: other names of splits in these patterns.
    """

    name: str
    annotations: str
    images: tuple[str, ...]
    config: str | None = None
    called: tuple[tuple[str, str], ...] = ()

    def json_file(self, root: Path, split: str) -> Path:
        return root / self.annotations.format(split=dict(self.called).get(split, split))

    def image_folder(self, root: Path, split: str) -> Path:
        split = dict(self.called).get(split, split)
        folders = [root / pattern.format(split=split) for pattern in self.images]
        return next((folder for folder in folders if folder.is_dir()), folders[0])


COCO_PLACES = (
    CocoPlaces(
        "Roboflow's COCO export",
        "{split}/_annotations.coco.json",
        ("{split}",),
        "configs/custom_roboflow.py",
        (("val", "valid"),),
    ),
    CocoPlaces("SARDet-100K", "Annotations/{split}.json", ("JPEGImages/{split}",)),
    CocoPlaces("COCO 2017", "annotations/instances_{split}2017.json", ("{split}2017", "images/{split}2017")),
    CocoPlaces("COCO", "annotations/{split}.json", ("images/{split}",), "configs/custom_coco.py"),
    CocoPlaces("COCO", "annotations/instances_{split}.json", ("images/{split}", "{split}", "images")),
)


@dataclass(frozen=True)
class Layout:
    """What a folder was recognised as.

    Attributes:
        name: for people.
        kind: "coco", "yolo" or "voc": what reads it.
        root: the folder.
        config: the config for it, with the overrides that it needs.
        splits: by name. Of COCO the annotation file and the image folder; of YOLO twice the description; of VOC the
            list, or the folder, of the split and the root.
        expected: annotation files that the layout has if the split is there.
    """

    name: str
    kind: str
    root: Path
    config: str
    splits: dict[str, tuple[Path, Path]]
    expected: tuple[Path, ...] = ()


def recognise(folder: PathLike) -> Layout | None:
    """The layout of a folder, or what a YOLO description (.yaml) says; None where it is not known, or not there."""
    root = expand(folder)
    if is_description(root):
        return _yolo_layout(root, root.parent)
    if not root.is_dir():
        return None
    return next(_layouts(root), None)


def _layouts(root: Path) -> Iterator[Layout]:
    found = [layout for places in COCO_PLACES if (layout := _coco_layout(places, root)) is not None]
    # Where a file system makes no difference between Annotations and annotations, the images do.
    yield from sorted(found, key=lambda layout: not any(images.is_dir() for _, images in layout.splits.values()))
    if (file := _description(root)) is not None and (layout := _yolo_layout(file, root)) is not None:
        yield layout
    splits = {split: (place, root) for split, place in voc_splits(root).items()}
    if not splits and (xml := annotation_folder(root)) is not None:
        splits = {ALL: (xml, root)}
    if splits:
        yield Layout("Pascal VOC", "voc", root, f"configs/custom_voc.py {_key('data.root', root)}", splits)


def _coco_layout(places: CocoPlaces, root: Path) -> Layout | None:
    expected = {split: places.json_file(root, split) for split in SPLITS}
    splits = {split: (file, places.image_folder(root, split)) for split, file in expected.items() if file.is_file()}
    if not splits:
        return None
    return Layout(places.name, "coco", root, _coco_config(places, root, splits), splits, tuple(expected.values()))


def _coco_config(places: CocoPlaces, root: Path, splits: dict[str, tuple[Path, Path]]) -> str:
    """A config and its overrides: of a layout that no config has for its own, every file and folder by its key."""
    if places.config is not None:
        return f"{places.config} {_key('data.root', root)}"
    keys = [_key("data.root", root)]
    for split, (annotations, images) in splits.items():
        keys += [_key(f"data.{split}_json", annotations), _key(f"data.{split}_images", images)]
    return f"configs/custom_coco.py {' '.join(keys)}"


def _key(key: str, path: Path) -> str:
    return shlex.quote(f"{key}={path}")


def is_description(path: Path) -> bool:
    """Whether a path is a file that may be a YOLO description."""
    return path.suffix in _DESCRIPTIONS and path.is_file()


def _yolo_layout(file: Path, root: Path) -> Layout | None:
    """The splits that a YOLO description names; None where the file is none."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or "names" not in content:
        return None
    config = f"configs/custom_yolo.py {_key('data.data_yaml', file)}"
    splits = {split: (file, file) for split in SPLITS if content.get(split)}
    return Layout("YOLO", "yolo", root, config, splits, (file,))


def _description(root: Path) -> Path | None:
    """The file of a folder that may be a YOLO description: data.yaml, or its only YAML file."""
    with os.scandir(root) as entries:
        files = sorted(Path(entry.path) for entry in entries if entry.name.endswith(_DESCRIPTIONS))
    named = [file for file in files if file.stem == "data"]
    return (named or files)[0] if len(named or files) == 1 else None


def advice(missing: PathLike) -> str:
    """A sentence for the error of a file or folder that is not there, or of a folder that is no such data set.

    It says which config reads the folder that the path is in; "" where that has no layout that is known, or the one
    by which the path is named.
    """
    try:
        path = expand(missing).absolute()
        found = ((folder, recognise(folder)) for folder in (path, *path.parents[:2]))
        folder, layout = next(((folder, layout) for folder, layout in found if layout is not None), (path, None))
    except (OSError, ValueError):  # a path that no file can have, or a folder that may not be looked into
        return ""
    if layout is None or path in layout.expected:
        return ""
    return f"{folder} is laid out as {layout.name}: take --config-file {layout.config}"
