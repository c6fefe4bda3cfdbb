"""Example images: what each experiment finds on a few images of a split, painted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import detection_utils

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.datasets.files import expand
from loradet.datasets.subset import choose_ids
from loradet.errors import is_user_error, one_line
from loradet.evaluation.detections.records import ImageRecord, read_records
from loradet.experiments.pages.document import Picture, Section, Strip
from loradet.experiments.results.consistency import read_config
from loradet.experiments.results.folders import Result
from loradet.experiments.results.split_files import predictions_file, provenance
from loradet.experiments.results.table import Row
from loradet.visualization.painting import LabelledBoxes, paint_in_frame

IMAGES = 4  # of each experiment, the same ones
TILE = 300  # width of a picture, pixels
THRESHOLD = 0.3  # detections under it are not painted
_QUALITY = 85
_HOW = (
    f"{IMAGES} images of the split, drawn by a hash of their ids, the same for each experiment; detections with a "
    f"score of {THRESHOLD:g} or more, of the first seed that has numbers."
)


def strip_section(rows: Sequence[Row], split: str) -> Section:
    """A strip of painted images for each experiment of a split, the ground truth first.

    Experiments whose detections, annotations or images are not at hand are named in a note; without any at hand there
    is no section.
    """
    strips: list[Strip] = []
    absent: dict[str, list[str]] = {}
    source = None
    for row in rows:
        if not row.measured:
            continue
        try:
            found = _of_run(row.measured[0], split)
            if isinstance(found, str):
                absent.setdefault(found, []).append(row.entry.id)
                continue
            source = source or found
            images = [source.image(number) for number in source.chosen]
            records = read_records(found.file.path, found.predictions, source.chosen)
        except (ValueError, OSError) as error:
            if not is_user_error(error):
                raise
            absent.setdefault(one_line(error), []).append(row.entry.id)
            continue
        by_id = {record.image_id: record for record in records.images}
        ordered = [by_id[number] for number in source.chosen]
        if not strips:
            strips.append(_strip("ground truth", "truth", images, map(_truth, ordered), records.class_names))
        title = f"{row.entry.id}: {row.entry.title}"
        strips.append(_strip(title, row.entry.id, images, map(_found, ordered), records.class_names))
    if not strips:
        return Section("")
    notes = [f"Not painted: {', '.join(ids)} ({why.rstrip('.')})." for why, ids in absent.items()]
    return Section(f"What they find on {split}", [_HOW], notes=notes, strips=strips)


@dataclass(frozen=True)
class _Source:
    file: AnnotationFile
    predictions: Path
    folder: Path
    chosen: list[Any]

    def image(self, number: Any) -> np.ndarray:
        name = self.file.images.file_names[self.file.images.index[number]]
        return detection_utils.read_image(str(self.folder / name), format="RGB")


def _of_run(run: Result, split: str) -> _Source | str:
    """Where a run's detections and images are, or what is not there."""
    predictions, annotations = predictions_file(run, split), provenance(run, split).get("annotations")
    if predictions is None:
        return "the detections are gone"
    if annotations is None or not Path(annotations).is_file():
        return "the annotation file is gone"
    file = read_annotations(annotations)
    folder = _image_folder(run, provenance(run, split).get("split", split))
    boxes = file.boxes.image[file.boxes.known & ~file.boxes.crowd]
    ids = [file.images.ids[place] for place in np.unique(boxes)] or file.images.ids
    chosen = sorted(choose_ids(ids, IMAGES))
    source = _Source(file, predictions, folder, chosen)
    places = [folder / file.images.file_names[file.images.index[number]] for number in chosen]
    return source if all(place.is_file() for place in places) else f"the images are not in {folder}"


def _image_folder(run: Result, split: str) -> Path:
    """As the run's config names it; elsewhere file names are taken as they are."""
    node: Any = read_config(run)
    for key in ("dataloader", split, "dataset", "image_root"):
        node = node.get(key) if isinstance(node, dict) else None
    return expand(node) if isinstance(node, str) else Path()


def _truth(record: ImageRecord) -> LabelledBoxes:
    return LabelledBoxes(_xyxy(record.truth_xywh), record.truth_classes)


def _found(record: ImageRecord) -> LabelledBoxes:
    keep = record.scores >= THRESHOLD
    return LabelledBoxes(_xyxy(record.found_xywh[keep]), record.found_classes[keep], record.scores[keep])


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])


def _strip(
    title: str, name: str, images: Sequence[np.ndarray], boxes: Iterable[LabelledBoxes], names: Sequence[str]
) -> Strip:
    height = round(TILE * min(1.0, max(image.shape[0] / image.shape[1] for image in images)))
    pictures = []
    for number, (image, labelled) in enumerate(zip(images, boxes)):
        painted = paint_in_frame(image, labelled, names, (height, TILE))
        _, data = cv2.imencode(".jpg", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        alt = f"{title}, image {number + 1}: {len(labelled)} boxes"
        pictures.append(Picture(name=f"{name}_{number}", alt=alt, jpg=data.tobytes(), width=TILE, height=height))
    return Strip(title, pictures)
