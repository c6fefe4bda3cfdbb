"""Paints what a trained model finds on images of a config's data."""

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import detection_utils
from detectron2.structures import BoxMode
from omegaconf import DictConfig
from torch import nn

from loradet.evaluation.splits import dataset_metadata, split_config
from loradet.training.finish import load_for_evaluation
from loradet.training.setup import choose_device

from .painting import LabelledBoxes, Panel, contact_sheet, paint_pair, save_png

logger = logging.getLogger(__name__)


def paint_split(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    split: str = "val",
    num_images: int = 8,
    score_threshold: float = 0.3,
    ground_truth: bool = True,
    sheet: bool = False,
) -> list[Path]:
    """Build the config's model, load a checkpoint or an adapter file, and paint images of a split.

    Args:
        checkpoint: `.pth`, or an adapter's `.safetensors`.
        output: a folder, which gets a PNG for each image or `detections.png`; or a PNG file, for one image or
            a sheet.
        split: as in `dataloader.<split>`.
        num_images: images spread evenly over those that have boxes.
        score_threshold: detections under it are left out.
        ground_truth: paint it beside the detections.
        sheet: one contact sheet instead of a PNG for each image.

    Returns:
        The files written.

    Raises:
        ValueError: no such split, a PNG for several images, or a checkpoint of another model.
    """
    as_file = Path(output).suffix.lower() == ".png"
    if as_file and not sheet and num_images != 1:
        raise ValueError(
            f"{output} cannot hold {num_images} images: add --contact-sheet, or name a folder as the output."
        )
    loader = split_config(cfg, split)
    records = instantiate(loader.dataset)  # before the model: it registers the class names
    device = choose_device(cfg.train.get("device", "auto"))
    model = instantiate(cfg.model).to(device)
    load_for_evaluation(model, str(checkpoint), cfg.train.get("init_checkpoint") or "")
    names = class_names(cfg, split)
    panels = make_panels(
        model,
        choose_records(records, num_images),
        instantiate(loader.mapper),
        score_threshold=score_threshold,
        ground_truth=ground_truth,
    )
    if sheet:
        path = Path(output) if as_file else Path(output) / "detections.png"
        heading = f"{Path(checkpoint).name} on {split}, detections with score >= {score_threshold:g}"
        return [save_png(path, contact_sheet(panels, names, heading=heading))]
    if as_file:
        return [save_png(output, paint_pair(panels[0], names))]
    width = len(str(len(panels) - 1))
    return [
        save_png(Path(output) / f"{split}_{i:0{width}d}_{Path(panel.title).stem}.png", paint_pair(panel, names))
        for i, panel in enumerate(panels)
    ]


def class_names(cfg: DictConfig, split: str) -> list[str]:
    """Names by contiguous id of a split whose data set has been loaded."""
    return list(dataset_metadata(cfg, split).thing_classes)


def choose_records(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` records spread evenly over those with annotations (over all where these are too few).

    Raises:
        ValueError: there are no records, or `count` is not positive.
    """
    if count < 1 or not records:
        raise ValueError(f"{count} images asked for, of {len(records)}: nothing to paint.")
    annotated = [record for record in records if record.get("annotations")]
    pool = annotated if len(annotated) >= count else list(records)
    positions = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
    return [pool[position] for position in positions]


@torch.no_grad()
def make_panels(
    model: nn.Module,
    records: Sequence[dict[str, Any]],
    mapper: Any,
    *,
    score_threshold: float = 0.3,
    ground_truth: bool = True,
) -> list[Panel]:
    """Run the model over Detectron2 records; the model comes back in the mode it was in.

    Args:
        model: takes a list of dicts with `image`, gives a list of dicts with `instances` in pixels of the file.
        records: with `file_name`, and `annotations` where ground truth is painted.
        mapper: turns a record into the model's input, as the split's loader does.
    """
    was_training = model.training
    model.eval()
    try:
        panels = []
        for record in records:
            image = detection_utils.read_image(record["file_name"], format="RGB")
            instances = model([mapper(copy.deepcopy(record))])[0]["instances"].to("cpu")
            keep = instances.scores >= score_threshold
            found = LabelledBoxes(
                instances.pred_boxes.tensor[keep].numpy(),
                instances.pred_classes[keep].numpy(),
                instances.scores[keep].numpy(),
            )
            truth = annotated_boxes(record) if ground_truth else None
            panels.append(Panel(image, Path(record["file_name"]).name, found, truth))
            logger.debug("%s: %d detections", record["file_name"], len(found))
        return panels
    finally:
        model.train(was_training)


def annotated_boxes(record: dict[str, Any]) -> LabelledBoxes:
    """The annotations of a Detectron2 record, in pixels of the image file."""
    annotations = record.get("annotations", [])
    boxes = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS) for annotation in annotations
    ]
    classes = [annotation["category_id"] for annotation in annotations]
    return LabelledBoxes(np.array(boxes, dtype=np.float64), np.array(classes, dtype=np.int64))
