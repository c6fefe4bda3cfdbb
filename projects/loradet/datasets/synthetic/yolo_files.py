"""Annotations of a synthetic set as YOLO has them: a text file an image, and a data.yaml."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loradet.datasets.synthetic.layouts import Layout
from loradet.files import atomic_open


def write_yolo(
    root: Path,
    layout: Layout,
    records: Mapping[str, Sequence[tuple[str, list, list]]],
    size: tuple[int, int],
    classes: Sequence[str],
) -> None:
    """Write the label files of all splits, then `data.yaml`, whose key `synthetic` marks the set.

    Args:
        root: folder of the set.
        records: (file name, boxes XYXY in pixels, classes) of the images by split.
        size: (H, W) of all images.
        classes: names.
    """
    import yaml

    height, width = size
    for split, images in records.items():
        folder = layout.label_folder(root, split)
        folder.mkdir(parents=True, exist_ok=True)
        for name, boxes, labels in images:
            lines = [
                f"{label} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
                f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
                for (x0, y0, x1, y1), label in zip(boxes, labels)
            ]
            (folder / Path(name).with_suffix(".txt")).write_text("".join(lines), encoding="utf-8")
    folders = {
        split: layout.image_folder(root, split).relative_to(root).as_posix()
        for split, images in records.items()
        if images
    }
    with atomic_open(root / layout.annotations) as file:
        yaml.safe_dump({**folders, "names": list(classes), "synthetic": True}, file, sort_keys=False)
