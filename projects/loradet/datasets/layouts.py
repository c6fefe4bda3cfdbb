"""Detects which of the usual layouts a data set's folder has: where its splits lie, and which config reads it."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loradet.datasets.files import PathLike, expand
from loradet.datasets.readers.voc_files import ALL, annotation_folder, voc_splits
from loradet.errors import MissingFileError, UserError

SPLITS = ("train", "val", "test")


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


_COCO = (
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
    """The layout of a folder; None where it is none of those that are known, or not there."""
    root = expand(folder)
    if not root.is_dir():
        return None
    return next(_layouts(root), None)


def _layouts(root: Path) -> Iterator[Layout]:
    found = [layout for places in _COCO if (layout := _coco_layout(places, root)) is not None]
    # Where a file system makes no difference between Annotations and annotations, the images do.
    yield from sorted(found, key=lambda layout: not any(images.is_dir() for _, images in layout.splits.values()))
    if (description := _description(root)) is not None:
        file, names = description
        config = f"configs/custom_yolo.py {_key('data.data_yaml', file)}"
        yield Layout("YOLO", "yolo", root, config, dict.fromkeys(names, (file, file)), (file,))
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


def _description(root: Path) -> tuple[Path, list[str]] | None:
    """A YOLO description in a folder, and the splits that it names: data.yaml, or the only YAML file with `names`."""
    import yaml

    with os.scandir(root) as entries:
        files = sorted(Path(entry.path) for entry in entries if entry.name.endswith((".yaml", ".yml")))
    named = [file for file in files if file.stem == "data"]
    if len(named or files) != 1:
        return None
    file = (named or files)[0]
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or "names" not in content:
        return None
    return file, [split for split in SPLITS if content.get(split)]


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


def layout_of(folder: PathLike) -> Layout:
    """The layout of a folder.

    Raises:
        MissingFileError: there is no such folder.
        UserError: it has none that is known; those that are get listed. Its data.yaml is broken.
    """
    root = expand(folder)
    if not root.is_dir():
        raise MissingFileError(f"{root}: there is no such folder.")
    layout = recognise(root)
    if layout is None:
        if (description := root / "data.yaml").is_file():
            from loradet.datasets.readers.yolo_description import coco_head

            coco_head(description)  # which says what is wrong with it
        known = [f"{places.name} ({places.annotations.format(split='train')})" for places in _COCO]
        raise UserError(
            f"{root} is laid out in no way that is known: {', '.join(known)}, YOLO (data.yaml), "
            "Pascal VOC (ImageSets/Main/train.txt, or train/ with XML files)."
        )
    return layout


def split_as_coco(
    layout: Layout, split: str, *, polygons: bool = False, clip: bool = False, progress: bool = False
) -> tuple[Path, Path]:
    """The COCO file of a split and its image folder; of YOLO and VOC a conversion in the cache folder.

    Args:
        layout: of the folder.
        split: one of `layout.splits`.
        polygons, clip: of YOLO, see `yolo_to_coco`.
        progress: show a bar on a terminal.

    Raises:
        UserError: faults of labels, or of XML files.
    """
    if layout.kind == "yolo":
        from loradet.datasets.readers.yolo import yolo_to_coco

        return yolo_to_coco(layout.splits[split][0], split, polygons=polygons, clip=clip, progress=progress)
    if layout.kind == "voc":
        from loradet.datasets.readers.voc import voc_to_coco

        return voc_to_coco(layout.root, split, progress=progress)
    return layout.splits[split]
