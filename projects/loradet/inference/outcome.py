"""What predictions leave behind, whatever found them."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loradet.files import truncate_file_name

PREDICTIONS = "predictions.json"
PICTURES = "pictures"


@dataclass(frozen=True)
class Outcome:
    """What `predict` did.

    Attributes:
        output: the COCO file.
        images: number of images done.
        boxes: number of detections in the file.
        failures: a message for each image that could not be read.
        thresholds: scores from which on detections were taken, and where these come from, in words.
    """

    output: Path
    images: int
    boxes: int
    failures: list[str] = field(default_factory=list)
    thresholds: str = ""


def annotation(number: int, image_id: int, category_id: int, box: Sequence[float], score: float) -> dict[str, Any]:
    """A detection as COCO has it; `box` is XYWH."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        "score": score,
    }


@contextmanager
def warnings_of(path: Path, progress: tqdm) -> Iterator[None]:
    """Print what libraries warn of inside the block with the file that it is about."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for message in dict.fromkeys(str(one.message) for one in caught):
        text = " ".join(message.split())
        progress.write(f"warning: {text if str(path) in text else f'{path}: {text}'}", file=sys.stderr)


def picture_names(names: Sequence[Path]) -> list[Path]:
    """`a/b.png` for `a/b.jpg`, but `a/b.jpg.png` where another image would take that name; none is too long."""
    short = [name.with_suffix(".png") for name in names]
    counts: dict[Path, int] = {}
    for name in short:
        counts[name] = counts.get(name, 0) + 1
    chosen = [s if counts[s] == 1 else name.with_name(f"{name.name}.png") for s, name in zip(short, names)]
    return [name.with_name(truncate_file_name(name.name)) for name in chosen]
