"""Which annotations and images of a file a data set takes, of its columns."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from loradet.datasets.annotations import AnnotationFile
from loradet.datasets.boxes import TOLERANCE


def class_positions(file: AnnotationFile, classes: Sequence[str]) -> np.ndarray:
    """(K + 1,) contiguous id of each category of a file, -1 of one that is no class; last, -1 for an unknown one."""
    place = {name: number for number, name in enumerate(classes)}
    real = {category.id for category in file.classes}
    found = [place.get(category.name, -1) if category.id in real else -1 for category in file.categories]
    return np.array([*found, -1], np.int64)


def is_large(file: AnnotationFile, min_size: int) -> np.ndarray:
    """(N,) bool: images whose shorter edge has `min_size` pixels at least."""
    return np.minimum(file.images.widths, file.images.heights) >= min_size


def left_out_boxes(file: AnnotationFile, classes: Sequence[str]) -> dict[str, int]:
    """How many annotations are left out, by reason, each counted once."""
    boxes = file.boxes
    wanted = class_positions(file, classes)[boxes.category] >= 0
    rest = np.ones(len(boxes), bool)
    counts: Counter[str] = Counter()
    for reason, fine in (
        ("of images that the file lacks", boxes.image >= 0),
        ("of categories that the file lacks", boxes.category >= 0),
        ("of classes that were not asked for", wanted),
        ("without a box that has an area", boxes.usable),
    ):
        counts[reason] = int((rest & ~fine).sum())
        rest &= fine
    return dict(+counts)


def boxes_over_the_edge(file: AnnotationFile) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that reach over an edge of their image by more than `TOLERANCE`, and those outside: two (A,) bool."""
    boxes = file.boxes
    sizes = np.stack([file.images.widths, file.images.heights], axis=1)[boxes.image].astype(np.float64)
    low, high = boxes.xywh[:, :2], boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    over = ((low < -TOLERANCE) | (high > sizes + TOLERANCE)).any(axis=1)
    outside = ((high <= 0) | (low >= sizes)).any(axis=1)
    return boxes.known & over, boxes.known & outside
