"""What predictions leave behind, whatever found them."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from loradet import __version__
from loradet.evaluation.chosen_thresholds import ScoreThresholds
from loradet.export.classes import Classes

if TYPE_CHECKING:
    from loradet.views import Views

PICTURES = "pictures"


@dataclass(frozen=True)
class Outcome:
    """What `predict` did.

    Attributes:
        output: the COCO file; another one, or a folder, where that was not asked for.
        images: number of images, or frames, done.
        boxes: number of detections in the file.
        failures: a message for each image, or video, that could not be read whole.
        thresholds: scores from which on detections were taken, and where these come from, in words.
        unit: what was looked at, "images" or "frames".
    """

    output: Path
    images: int
    boxes: int
    failures: list[str] = field(default_factory=list)
    thresholds: str = ""
    unit: str = "images"


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


def describe(
    classes: Classes,
    thresholds: ScoreThresholds,
    *,
    source: str,
    image_root: str,
    failed: int,
    views: "Views | None" = None,
) -> dict[str, Any]:
    """`info` of a file of detections."""
    info: dict[str, Any] = {"description": "Detections, not ground truth", "source": source, "image_root": image_root}
    info |= {"score_threshold": thresholds.plain(classes.names), "score_threshold_from": thresholds.source}
    info |= {"loradet": __version__, "images_failed": failed}
    info |= {} if views is None else {"views": views.to_dict()}
    return info | ({"synthetic": True} if classes.synthetic else {})


@contextmanager
def warnings_of(path: Path, progress: tqdm) -> Iterator[None]:
    """Print what libraries warn of inside the block with the file that it is about."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for message in dict.fromkeys(str(one.message) for one in caught):
        text = " ".join(message.split())
        progress.write(f"warning: {text if str(path) in text else f'{path}: {text}'}", file=sys.stderr)
