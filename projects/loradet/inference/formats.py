"""Writes detections as COCO, YOLO or CSV."""

import csv
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loradet.datasets.files import write_coco
from loradet.files import atomic_open, truncate_file_name
from loradet.inference.outcome import PICTURES

logger = logging.getLogger(__name__)

COCO, LABELS, CLASSES, CSV = "predictions.json", "labels", "classes.txt", "detections.csv"

Content = Mapping[str, Any]


def save_detections(content: Content, output: Path, formats: Sequence[str] = ("coco",)) -> Path:
    """Write detections in some of `FORMATS`.

    Args:
        content: as COCO has it: `images`, `categories`, and `annotations` with a `score`.
        output: folder, made where it is missing.
        formats: "coco": `predictions.json`; "yolo": `labels/`, a text file an image, and `classes.txt`; "csv":
            `detections.csv`, a line a detection.

    Returns:
        The file or folder of the first format.
    """
    output.mkdir(parents=True, exist_ok=True)
    first, *_ = [FORMATS[name](content, output) for name in formats]
    return first


def warn_of_earlier(output: Path) -> None:
    """Say that a folder holds what an earlier prediction left: what is not written anew stays, of other images too."""
    names = (COCO, LABELS, CLASSES, CSV, PICTURES)
    if earlier := [name for name in names if (output / name).exists()]:
        logger.warning(
            "%s holds %s of an earlier prediction: what this one does not write anew stays there.",
            *(output, ", ".join(earlier)),
        )


def file_names(names: Sequence[Path], suffix: str) -> list[Path]:
    """`a/b.png` for `a/b.jpg`, but `a/b.jpg.png` where another image would take that name; none is too long."""
    counts = Counter(name.with_suffix(suffix) for name in names)
    chosen = [
        name.with_suffix(suffix) if counts[name.with_suffix(suffix)] == 1 else name.with_name(f"{name.name}{suffix}")
        for name in names
    ]
    return [name.with_name(truncate_file_name(name.name)) for name in chosen]


def _write_coco(content: Content, output: Path) -> Path:
    return write_coco(output / COCO, dict(content))


def _write_yolo(content: Content, output: Path) -> Path:
    """`class cx cy w h score` a line: the class from 0 on, the box as parts of the image's sides; empty: nothing."""
    place = {category["id"]: number for number, category in enumerate(content["categories"])}
    lines: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for row in content["annotations"]:
        (width, height), (x, y, w, h) = sizes[row["image_id"]], row["bbox"]
        values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height, row["score"]
        numbers = " ".join(f"{value:.7f}" for value in values)
        lines[row["image_id"]].append(f"{place[row['category_id']]} {numbers}\n")
    for image, name in zip(content["images"], file_names([Path(i["file_name"]) for i in content["images"]], ".txt")):
        file = output / LABELS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(file, sync=False) as opened:
            opened.writelines(lines[image["id"]])
    with atomic_open(output / CLASSES) as opened:
        # A name is a line, whatever is in it.
        opened.writelines(f"{' '.join(category['name'].split())}\n" for category in content["categories"])
    return output / LABELS


def _write_csv(content: Content, output: Path) -> Path:
    images = {image["id"]: image for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    with atomic_open(output / CSV) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "width", "height", "class", "category_id", "score", "x0", "y0", "x1", "y1"])
        for row in content["annotations"]:
            image, (x, y, w, h) = images[row["image_id"]], row["bbox"]
            about = [image["file_name"], image["width"], image["height"], classes[row["category_id"]]]
            writer.writerow([*about, row["category_id"], row["score"], x, y, x + w, y + h])
    return output / CSV


FORMATS: dict[str, Callable[[Content, Path], Path]] = {"coco": _write_coco, "yolo": _write_yolo, "csv": _write_csv}
