"""The splits of a Pascal VOC folder, told by its lists and folders alone."""

import os
from pathlib import Path

from loradet.datasets.files import PathLike, expand

SPLITS = ("train", "val", "test")
ALL = "all"  # the name of a split that has every annotation file, whatever lists there are
LISTS = Path("ImageSets", "Main")

_CALLED = {"val": ("val", "valid")}  # names of a split's folder, where it has others


def voc_splits(root: PathLike) -> dict[str, Path]:
    """The list (`ImageSets/Main/train.txt`) or the folder (`train`, with XML files) of each split that there is."""
    root, found = expand(root), {}
    for split in SPLITS:
        names = _CALLED.get(split, (split,))
        lists = [root / LISTS / f"{name}.txt" for name in names]
        places = [file for file in lists if file.is_file()]
        places += [root / name for name in names if has_xml(root / name)]
        if places:
            found[split] = places[0]
    return found


def has_xml(folder: Path) -> bool:
    """Whether there is an XML file in a folder."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(".xml") for entry in entries)
    except OSError:
        return False


def annotation_folder(root: Path) -> Path | None:
    """`Annotations` (or `annotations`) of a data set, where it holds XML files."""
    return next((root / name for name in ("Annotations", "annotations") if has_xml(root / name)), None)
