"""A few validation images with what is found on them, for TensorBoard and tracking services."""

from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from loradet.config.build import build
from loradet.config.splits import split_config
from loradet.datasets.annotations import read_annotations
from loradet.datasets.images.reading import read_image
from loradet.datasets.mapper import intensity_of
from loradet.evaluation.detections.records import read_records
from loradet.evaluation.detections.results_file import read_detections
from loradet.evaluation.operating_point import choose_operating_point
from loradet.evaluation.score_thresholds import ScoreThresholds
from loradet.evaluation.split import Split, SplitFiles
from loradet.visualization.detections import make_panel
from loradet.visualization.loaded_split import choose_records
from loradet.visualization.painting import contact_sheet

TILE = 320  # pixels of the ground truth's half, and of the detections'


def paint_validation(split: Split, output_dir: Path, count: int) -> dict[str, np.ndarray]:
    """Ground truth beside the detections of the last evaluation, from their operating point on.

    Args:
        split: which images; the same ones at each call.
        output_dir: what `split.evaluate` was given.
        count: of images, spread over those with boxes.

    Returns:
        RGB uint8 (H, W, 3) by name, as "val/0"; {} where the evaluation leaves no file of detections.
    """
    files, names = split.files(output_dir), split.classes
    if files is None or split.records is None or names is None or not len(split.records):
        return {}
    chosen = choose_records(list(split.records), min(count, len(split.records)))
    found = _detections(files, [record["image_id"] for record in chosen], names)
    point = choose_operating_point(read_records(files.annotations, files.predictions), split=split.name)
    thresholds = ScoreThresholds(point.thresholds(names), f"{point.rule} on {split.name}")
    heading = f"{split.name}: ground truth, detections with score >= {thresholds.brief()}"
    mapper = build(split_config(split.cfg, split.name).mapper, f"dataloader.{split.name}.mapper")
    intensity = intensity_of(mapper)
    pictures = {}
    for number, record in enumerate(chosen):
        image = read_image(record["file_name"], "RGB", intensity)
        panel = make_panel(record, image, found[record["image_id"]], score_threshold=thresholds)
        pictures[f"{split.name}/{number}"] = contact_sheet([panel], names, heading=heading, tile=TILE)
    return pictures


def _detections(files: SplitFiles, image_ids: list, names: list[str]) -> dict[object, Instances]:
    """Those on some images, with class numbers by name."""
    truth = read_annotations(files.annotations)
    found = read_detections(files.predictions, truth)
    by_image = found.by_image(len(truth.images))
    numbers = np.array([names.index(one.name) if one.name in names else -1 for one in truth.categories], np.int64)
    instances = {}
    for image_id in image_ids:
        rows = by_image[truth.images.index[image_id]]
        rows = rows[numbers[found.category[rows]] >= 0]
        boxes = torch.from_numpy(found.xywh[rows].astype(np.float32))
        boxes[:, 2:] += boxes[:, :2]
        instances[image_id] = Instances(
            (1, 1),  # nothing is clipped here
            pred_boxes=Boxes(boxes),
            scores=torch.from_numpy(found.scores[rows]),
            pred_classes=torch.from_numpy(numbers[found.category[rows]]),
        )
    return instances
