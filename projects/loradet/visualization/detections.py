"""Paints what a trained model finds on images of a config's data."""

import copy
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances
from omegaconf import DictConfig
from torch import nn

from loradet.errors import UserError
from loradet.evaluation.score_thresholds import ScoreThresholds, choose_thresholds, find_operating_point
from loradet.files import truncate_file_name
from loradet.visualization.loaded_split import choose_records, evaluation_mode, load_split
from loradet.visualization.painting import LabelledBoxes, Panel, contact_sheet, paint_pair, save_png

logger = logging.getLogger(__name__)

DEFAULT_IMAGES = 8


def paint_split(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    split: str = "val",
    num_images: int | None = None,
    score_threshold: float | None = None,
    ground_truth: bool = True,
    sheet: bool = False,
    subset: int | None = None,
    subset_seed: int = 0,
) -> list[Path]:
    """Build the config's model, load a checkpoint or an adapter file, and paint images of a split.

    Args:
        checkpoint: `.pth`, or an adapter's `.safetensors`.
        output: a folder, which gets a PNG for each image or `detections.png`; or a PNG file, for one image or
            a sheet.
        split: as in `dataloader.<split>`.
        num_images: images spread evenly over those that have boxes. None: 8, or all of a subset if it is
            not for a sheet.
        score_threshold: detections under it are left out. None: the operating point of the checkpoint, else 0.3.
        ground_truth: paint it beside the detections.
        sheet: one contact sheet instead of a PNG for each image.
        subset: choose from as many images of the split, the same for every model; see `choose_subset`.

    Returns:
        The files written.

    Raises:
        ValueError: no such split, a PNG for several images, or a checkpoint of another model.
    """
    whole_subset = num_images is None and subset is not None and not sheet
    count = num_images if num_images is not None else subset if whole_subset else DEFAULT_IMAGES
    as_file = Path(output).suffix.lower() == ".png"
    if as_file and not sheet and count != 1:
        raise UserError(f"{output} cannot hold {count} images: add --contact-sheet, or name a folder as the output.")
    loaded = load_split(cfg, checkpoint, split, subset=subset, subset_seed=subset_seed)
    names = loaded.class_names
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"))
    thresholds = choose_thresholds(score_threshold, point, names, checkpoint)
    panels = make_panels(
        loaded.model,
        loaded.records if whole_subset else choose_records(loaded.records, count),
        loaded.mapper,
        loaded.read,
        score_threshold=thresholds,
        ground_truth=ground_truth,
    )
    if sheet:
        path = Path(output) if as_file else Path(output) / "detections.png"
        heading = f"{Path(checkpoint).name} on {split}{loaded.origin}, detections with score >= {thresholds.brief()}"
        return [save_png(path, contact_sheet(panels, names, heading=heading))]
    if as_file:
        return [save_png(output, paint_pair(panels[0], names))]
    width = len(str(len(panels) - 1))
    return [
        save_png(
            Path(output) / truncate_file_name(f"{split}_{i:0{width}d}_{Path(panel.title).stem}.png"),
            paint_pair(panel, names),
        )
        for i, panel in enumerate(panels)
    ]


@torch.no_grad()
def make_panels(
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: Any,
    read: Callable[[dict[str, Any]], np.ndarray],
    *,
    score_threshold: float | ScoreThresholds = 0.3,
    ground_truth: bool = True,
) -> list[Panel]:
    """Run the model over Detectron2 records; the model comes back in the mode it was in.

    Args:
        model: takes a list of dicts with `image`, gives a list of dicts with `instances` in pixels of the file.
        records: with `file_name`, and `annotations` where ground truth is painted.
        mapper: turns a record into the model's input, as the split's loader does.
        read: gives the picture of a record to paint on, RGB (H, W, 3) uint8.
    """
    panels = []
    with evaluation_mode(model):
        for record in records:
            instances = model([mapper(copy.deepcopy(record))])[0]["instances"]
            picture = read(record)
            options = {"score_threshold": score_threshold, "ground_truth": ground_truth}
            panels.append(make_panel(record, picture, instances, **options))
    return panels


def make_panel(
    record: dict[str, Any],
    image: np.ndarray,
    instances: Instances,
    *,
    score_threshold: float | ScoreThresholds = 0.3,
    ground_truth: bool = True,
) -> Panel:
    """The image of a record, RGB (H, W, 3) uint8, with what was found in it, in pixels of the file."""
    found = found_boxes(instances, score_threshold)
    logger.debug("%s: %d detections", record["file_name"], len(found))
    return Panel(image, Path(record["file_name"]).name, found, annotated_boxes(record) if ground_truth else None)


def picture_name(record: dict[str, Any]) -> str:
    """A file name for a picture of a record; its id keeps equal names apart, odd letters are replaced."""
    return truncate_file_name(
        re.sub(r"[^\w.-]+", "_", f"{record['image_id']}_{Path(record['file_name']).stem}") + ".png"
    )


def found_boxes(instances: Instances, score_threshold: float | ScoreThresholds = 0.0) -> LabelledBoxes:
    """A model's detections with at least this score, or that of their class."""
    instances = instances.to("cpu")
    by_class = isinstance(score_threshold, ScoreThresholds)
    keep = score_threshold.keep(instances) if by_class else instances.scores >= score_threshold
    return LabelledBoxes(
        instances.pred_boxes.tensor[keep].numpy(),
        instances.pred_classes[keep].numpy(),
        instances.scores[keep].numpy(),
    )


def annotated_boxes(record: dict[str, Any]) -> LabelledBoxes:
    """The annotations of a Detectron2 record, in pixels of the image file."""
    annotations = record.get("annotations", [])
    boxes = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS) for annotation in annotations
    ]
    classes = [annotation["category_id"] for annotation in annotations]
    return LabelledBoxes(np.array(boxes, dtype=np.float64), np.array(classes, dtype=np.int64))
