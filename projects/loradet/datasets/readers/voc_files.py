"""Where the files of a Pascal VOC data set are: one XML file an image, and lists or folders that make the splits."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loradet.datasets.files import PathLike, expand
from loradet.datasets.readers.yolo_description import SUFFIXES
from loradet.errors import MissingFileError, UserError

SPLITS = ("train", "val", "test")
ALL = "all"  # the name of a split that has every annotation file, whatever lists there are

_LISTS = Path("ImageSets", "Main")
_CALLED = {"val": ("val", "valid")}  # names of a split's folder, where it has others


@dataclass(frozen=True)
class VocSplit:
    """One split. Files are strings: a Path for each of many costs seconds.

    Attributes:
        annotations: XML file of each image; None where it has none and so is background.
        image_root: folder that all images are in.
        faults: what is wrong with lists and files, a line each.
    """

    annotations: dict[str, str | None]
    image_root: Path
    faults: list[str]


def voc_splits(root: PathLike) -> dict[str, Path]:
    """The list (`ImageSets/Main/train.txt`) or the folder (`train`, with XML files) of each split that there is."""
    root, found = expand(root), {}
    for split in SPLITS:
        names = _CALLED.get(split, (split,))
        lists = [root / _LISTS / f"{name}.txt" for name in names]
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


def read_voc_split(root: PathLike, split: str) -> VocSplit:
    """The images of a split and the XML file of each.

    Raises:
        MissingFileError: there is no such data set or split; those that there are get named.
        UserError: a list cannot be read, or the split has no image.
    """
    folder = expand(root).absolute()
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such folder. Expected a Pascal VOC data set.")
    places = voc_splits(folder)
    if split in places and places[split].is_dir():
        found = _of_folder(places[split])
    elif split in places or (split == ALL and annotation_folder(folder)):
        found = _of_list(folder, places.get(split))
    else:
        raise MissingFileError(_no_split(folder, split, places))
    if not found.annotations and not found.faults:
        raise UserError(f"{places.get(split, folder)}: there is no image in split {split!r}.")
    if found.annotations and not any(found.annotations.values()):
        raise MissingFileError(f"{places.get(split, folder)}: no image of split {split!r} has an XML file.")
    return found


def _no_split(folder: Path, split: str, places: dict[str, Path]) -> str:
    from loradet.datasets.layouts import advice  # which stands on this module

    if places:
        return f"{folder} has no split {split!r}; it has {', '.join(places)}."
    expected = (
        f"{folder} has no split {split!r}: expected {_LISTS / split}.txt with Annotations/ and JPEGImages/, "
        f"or a folder {split}/ with XML files beside the images."
    )
    if annotation_folder(folder):
        return (
            f"{expected} All its XML files together: loradet data voc2coco {folder} all.json, then "
            "loradet data split all.json --val 0.2."
        )
    return f"{expected} {advice(folder)}".rstrip()


def _of_folder(folder: Path) -> VocSplit:
    """Images of a folder with the XML files beside them."""
    images, xml = _Images(), {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(".xml"):
                xml[entry.name[:-4]] = entry.path
    annotations: dict[str, str | None] = {}
    faults: list[str] = []
    for stem in sorted({*images.stems(folder), *xml}):
        _take(annotations, faults, images.find(folder, stem), xml.get(stem), where=xml.get(stem, ""))
    return VocSplit(annotations, folder, faults)


def _of_list(root: Path, list_file: Path | None) -> VocSplit:
    """Images that a list names, or all that have an XML file, in the folders of a VOC data set."""
    xml_folder = annotation_folder(root)
    if xml_folder is None:
        raise MissingFileError(f"{root}: there is no Annotations/ with XML files, which {list_file} names.")
    roots = [root / name for name in ("JPEGImages", "images", "Images") if (root / name).is_dir()]
    image_root = roots[0] if roots else xml_folder
    images = _Images()
    annotations: dict[str, str | None] = {}
    faults: list[str] = []
    for where, name in _listed(list_file) if list_file else _every(xml_folder):
        xml = os.path.join(xml_folder, f"{name}.xml")  # noqa: PTH118
        found = xml if os.path.isfile(xml) else None  # noqa: PTH113
        place = image_root / name
        _take(annotations, faults, images.find(place.parent, place.name), found, where=where)
    return VocSplit(annotations, image_root, faults)


def _take(
    annotations: dict[str, str | None], faults: list[str], images: list[str], xml: str | None, *, where: str
) -> None:
    if len(images) == 1:
        annotations[images[0]] = xml
    elif images:
        faults.append(f"{where or images[0]}: several images have its name: {', '.join(images)}.")
    else:
        faults.append(f"{where}: there is no image of this name ({', '.join(SUFFIXES)}).")


class _Images:
    """Image files by folder and stem; each folder is read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def stems(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._folders:
            found: dict[str, list[str]] = {}
            if folder.is_dir():
                for name in sorted(os.listdir(folder)):  # noqa: PTH208
                    stem, suffix = os.path.splitext(name)  # noqa: PTH122
                    if suffix.lower() in SUFFIXES:
                        found.setdefault(stem, []).append(os.path.join(folder, name))  # noqa: PTH118
            self._folders[folder] = found
        return self._folders[folder]

    def find(self, folder: Path, stem: str) -> list[str]:
        return self.stems(folder).get(stem, [])


def _listed(list_file: Path) -> Iterable[tuple[str, str]]:
    """(place, name) of each line of a list; those of one class have 1, 0 or -1 behind the name."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{list_file} is no list of images: {error}.") from error
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        head, _, flag = line.strip().rpartition(" ")
        name = head.strip() if head and flag in ("1", "0", "-1") else line.strip()
        if name and name not in seen:
            seen.add(name)
            yield f"{list_file}, line {number}", name


def _every(xml_folder: Path) -> Iterable[tuple[str, str]]:
    for file in sorted(xml_folder.iterdir()):
        if file.suffix.lower() == ".xml":
            yield str(file), file.stem
