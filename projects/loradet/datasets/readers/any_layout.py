"""The folder of a data set in any usual layout: recognised, or refused with a reason, and read as COCO."""

from pathlib import Path

from loradet.datasets.files import PathLike, expand
from loradet.datasets.layouts import COCO_PLACES, Layout, is_description, recognise
from loradet.datasets.readers.voc import voc_to_coco
from loradet.datasets.readers.yolo import yolo_to_coco
from loradet.datasets.readers.yolo_description import coco_head
from loradet.errors import MissingFileError, UserError


def layout_of(folder: PathLike) -> Layout:
    """The layout of a folder, or of the folders that a YOLO description (.yaml) names.

    Raises:
        MissingFileError: there is no such folder.
        UserError: it has none that is known; those that are get listed. Its data.yaml is broken.
    """
    root = expand(folder)
    if not root.is_dir() and not is_description(root):
        raise MissingFileError(f"{root}: there is no such folder.")
    layout = recognise(root)
    if layout is None:
        if (description := root if root.is_file() else root / "data.yaml").is_file():
            coco_head(description)  # which says what is wrong with it
        known = [f"{places.name} ({places.annotations.format(split='train')})" for places in COCO_PLACES]
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
        return yolo_to_coco(layout.splits[split][0], split, polygons=polygons, clip=clip, progress=progress)
    if layout.kind == "voc":
        return voc_to_coco(layout.root, split, progress=progress)
    return layout.splits[split]
