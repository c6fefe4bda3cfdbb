"""Runs a detector over image files; detections as COCO JSON and as pictures."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from tqdm import tqdm

from loradet.datasets.images.intensity_check import check_intensity
from loradet.datasets.images.reading import read_image
from loradet.datasets.mapper import intensity_of
from loradet.evaluation.score_thresholds import ScoreThresholds
from loradet.inference.batches import detect_in_batches
from loradet.inference.classes import Classes
from loradet.inference.formats import file_names, save_detections, warn_of_earlier
from loradet.inference.image_files import common_folder
from loradet.inference.outcome import PICTURES, Outcome, annotation, describe, warnings_of
from loradet.views import ViewDetector, ViewMapper, Views
from loradet.visualization.painting import LabelledBoxes, Panel, paint_pair, save_png

Detector = Callable[[list[dict[str, Any]]], list[dict[str, Instances]]]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def predict(
    *,
    detector: Detector,
    mapper: Mapper,
    classes: Classes,
    files: Sequence[Path],
    output: str | os.PathLike,
    score_threshold: float | ScoreThresholds = 0.0,
    batch_size: int = 1,
    pictures: bool = True,
    source: str = "",
    intensity_option: str = "",
    views: Views | None = None,
    save: Sequence[str] = ("coco",),
) -> Outcome:
    """Detect on image files; write `predictions.json`, and painted images in `pictures/`, into a folder.

    That file is COCO's: `images` (`file_name` relative to `info.image_root`), `categories`, and `annotations` with a
    `score` beside `bbox` (XYWH, pixels of the file as its EXIF tag turns it). An image that cannot be read is reported
    on standard error and left out.

    Args:
        detector: takes Detectron2's list of dicts, returns dicts with `instances`.
        mapper: reads and resizes an image of a record with `file_name`.
        classes: of the detector.
        files: images.
        output: folder, made where it is missing.
        score_threshold: detections with lower scores are left out.
        batch_size: images, or views of them, at a time; all of one size, so that the number does not change results.
        pictures: whether to paint.
        source: what the detections are of, stored as `info.source`.
        intensity_option: what the user writes before a rule for images of more than eight bits, for messages.
        views: tiles and the like; None: each image as it is.
        save: `loradet.inference.formats.FORMATS` to write.

    Raises:
        UserError: images would lose their pixels by "auto", see `check_intensity`.
    """
    thresholds = score_threshold
    if not isinstance(thresholds, ScoreThresholds):
        thresholds = ScoreThresholds(thresholds, "given")
    output, root = Path(output), common_folder(files)
    warn_of_earlier(output)
    names = [path.absolute().relative_to(root) for path in files]
    intensity = intensity_of(mapper)
    check_intensity(files, intensity, "the images", option=intensity_option)
    painted = file_names(names, ".png")
    if views is not None:
        detector, mapper = ViewDetector(detector, views, batch_size), ViewMapper(mapper, views)
    failures: list[str] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def read(number: int, path: Path) -> dict[str, Any]:
        return mapper({"file_name": str(path), "image_id": number + 1})

    @torch.no_grad()
    def detect(samples: list[dict[str, Any]]) -> list[Instances]:
        return [result["instances"].to("cpu") for result in detector(samples)]

    with tqdm(total=len(files), unit="image", disable=None) as progress:
        options = {"batch_size": batch_size, "failures": failures, "progress": progress}
        steps = detect_in_batches(files, read, detect, lambda sample: sample["image"].shape, **options)
        for number, sample, found in steps:
            found = found[thresholds.keep(found)]
            record = {"id": number + 1, "file_name": names[number].as_posix()}
            images.append({**record, "width": sample["width"], "height": sample["height"]})
            annotations += to_annotations(found, number + 1, classes.ids, len(annotations))
            if pictures:
                with warnings_of(files[number], progress):
                    image = read_image(str(files[number]), "RGB", intensity)
                picture = output / PICTURES / painted[number]
                try:
                    _paint(image, files[number].name, found, classes.names, picture)
                except OSError as error:  # detections are worth more than pictures
                    progress.write(f"warning: {files[number]}: no picture, {error}", file=sys.stderr)
    images.sort(key=lambda image: image["id"])
    info = describe(classes, thresholds, source=source, image_root=str(root), views=views, failed=len(failures))
    content = {"info": info, "images": images, "categories": classes.categories(), "annotations": annotations}
    file = save_detections(content, output, save)
    return Outcome(file, len(images), len(annotations), failures, thresholds.describe(classes.names))


def to_annotations(found: Instances, image_id: int, category_ids: Sequence[int], before: int) -> list[dict[str, Any]]:
    """Detections as COCO has them, numbered after `before`."""
    boxes = found.pred_boxes.tensor.double()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found.scores.tolist(), found.pred_classes.tolist())
    return [annotation(before + i, image_id, category_ids[k], box, score) for i, (box, score, k) in enumerate(rows, 1)]


def _paint(image: np.ndarray, title: str, found: Instances, names: Sequence[str], output: Path) -> None:
    boxes = LabelledBoxes(found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(), found.scores.numpy())
    save_png(output, paint_pair(Panel(image, title, boxes), names))
