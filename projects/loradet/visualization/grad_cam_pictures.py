"""Grad-CAM overlays of a split, an image a file, and one contact sheet."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.modeling.postprocessing import detector_postprocess
from omegaconf import DictConfig
from tqdm import tqdm

from loradet.errors import UserError
from loradet.files import fitting_name

from .detections import DEFAULT_IMAGES, found_boxes, picture_name
from .grad_cam import ImageHeat, LevelHeat, check_levels, grad_cam
from .grid import SHEET_ROWS, Cell, grid
from .painting import LabelledBoxes, paint_in_frame, save_png
from .split import LoadedSplit, choose_records, load_split, spread

TILE = 300  # side of a picture, pixels
SHEET = "grad_cam.png"


def paint_grad_cam(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    levels: Sequence[str],
    split: str = "val",
    num_images: int | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    class_name: str | None = None,
    top: int = 5,
    score_threshold: float = 0.3,
) -> list[Path]:
    """Overlays of the levels' heat beside the detections, `grad_cam_<id>_<name>.png` for each image and a sheet.

    Args:
        checkpoint: `.pth`, or an adapter's `.safetensors`.
        output: a folder; `grad_cam.png` in it is the sheet, of at most 24 images spread over all.
        levels: as `p3`.
        num_images, subset, subset_seed: as in `paint_split`.
        class_name, top, score_threshold: what the heat speaks for, see `grad_cam`.

    Returns:
        The files written, the sheet first.

    Raises:
        ValueError: no RetinaNet, no such level, class or split, or a checkpoint of another model.
    """
    output = Path(output)
    if output.suffix.lower() == ".png":
        raise UserError(f"{output}: Grad-CAM writes several pictures; give a folder as the output.")
    loaded = load_split(cfg, checkpoint, split, subset=subset, subset_seed=subset_seed)
    check_levels(loaded.model, levels)
    class_index = _class_index(loaded.class_names, class_name)
    records = loaded.records
    if num_images is not None or subset is None:
        records = choose_records(records, DEFAULT_IMAGES if num_images is None else num_images)
    about = f"class {class_name}" if class_name else f"top {top} detections"
    heading = f"Grad-CAM, {about}, {Path(checkpoint).name} on {split}{loaded.origin}"
    on_sheet = {record["image_id"] for record in spread(records, SHEET_ROWS)}
    rows, written = [], []
    for record in tqdm(records, desc="Grad-CAM", unit="image"):
        inputs = loaded.mapper(copy.deepcopy(record))
        heat = grad_cam(loaded.model, inputs, levels, class_index=class_index, top=top, score_threshold=score_threshold)
        row = _row(record, heat, loaded, by_level=class_name is not None)
        written.append(
            save_png(output / fitting_name(f"grad_cam_{picture_name(record)}"), grid([row], heading=heading))
        )
        if record["image_id"] in on_sheet:
            rows.append(row)
    if len(rows) < len(records):
        heading += f", {len(rows)} of {len(records)} images"
    return [save_png(output / SHEET, grid(rows, heading=heading)), *written]


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """An RGB uint8 image (H, W, 3), darkened to grey, under the colours of a heat map (H, W) in 0..1.

    Cold places keep the image as it is, in grey.
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    levels = np.clip(np.round(255 * heat), 0, 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB).astype(np.float32)
    # A little heat shows already.
    weight = (strength * np.clip(heat * 4, 0, 1))[..., None].astype(np.float32)
    return np.round(grey * (1 - weight) + colors * weight).astype(np.uint8)


def _row(record: dict[str, Any], heat: ImageHeat, loaded: LoadedSplit, *, by_level: bool) -> list[Cell]:
    image = loaded.read(record)
    height, width = image.shape[:2]
    found = found_boxes(detector_postprocess(heat.detections, height, width))
    names, size = loaded.class_names, (TILE, TILE)
    cells = [Cell(Path(record["file_name"]).name, paint_in_frame(image, found, names, size))]
    for name, level in heat.levels.items():
        painted = overlay(image, heat.on_image(name, height, width).numpy())
        title = _title(name, level, len(found), by_level=by_level)
        cells.append(Cell(title, paint_in_frame(painted, LabelledBoxes([], []), names, size)))
    return cells


def _title(name: str, level: LevelHeat, total: int, *, by_level: bool) -> str:
    if by_level:
        return f"{name}: best score {level.best_score:.2f}"
    if level.num_scores:
        return f"{name}: {level.num_scores} of {total}, best {level.best_score:.2f}"
    return f"{name}: none of {total} detections" if total else f"{name}: no detections"


def _class_index(names: Sequence[str], class_name: str | None) -> int | None:
    if class_name is not None and class_name not in names:
        raise UserError(f"The data has no class {class_name!r}; it has {', '.join(names)}.")
    return None if class_name is None else list(names).index(class_name)
