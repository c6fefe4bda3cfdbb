"""Heat of detections, painted: an image a file, one contact sheet, and how often the hottest pixel lies in the box."""

import copy
import logging
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
from loradet.files import truncate_file_name, write_json
from loradet.visualization.detections import DEFAULT_IMAGES, found_boxes, picture_name
from loradet.visualization.grad_cam.heat import ImageHeat, check_levels, grad_cam, is_attention, method_of
from loradet.visualization.grid import SHEET_ROWS, Cell, grid
from loradet.visualization.loaded_split import LoadedSplit, choose_records, load_split, spread
from loradet.visualization.painting import WHITE, LabelledBoxes, enlarge, fit_in_frame, paint_in_frame, save_png

logger = logging.getLogger(__name__)

TILE = 300  # side of a picture, pixels
SHEET, NUMBERS = "grad_cam.png", "grad_cam.json"


def paint_grad_cam(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    levels: Sequence[str] | None = None,
    split: str = "val",
    num_images: int | None = None,
    subset: int | None = None,
    subset_seed: int = 0,
    class_name: str | None = None,
    top: int = 5,
    score_threshold: float | None = None,
) -> list[Path]:
    """The best detections of each image, each with its heat: `grad_cam_<id>_<name>.png`, and one sheet of all.

    `grad_cam.json` has a line for each detection: its hottest pixel, and whether that lies in its box.

    Args:
        checkpoint: `.pth`, or an adapter's `.safetensors`.
        output: a folder; `grad_cam.png` in it is the sheet, of at most 24 images spread over all.
        levels: as `p3`: detections made from other levels are left out; None: all of them.
        num_images, subset, subset_seed: as in `paint_split`.
        class_name, top: detections to ask about, see `grad_cam`.
        score_threshold: detections under it are left out. None: 0.3; with `class_name` 0, so that there is something to
            look at where the class is hardly found.

    Returns:
        The files written, the sheet first.

    Raises:
        ValueError: a model of another kind, no such level, class or split, or a checkpoint of another model.
    """
    output = Path(output)
    if output.suffix.lower() == ".png":
        raise UserError(f"{output}: Grad-CAM writes several pictures; give a folder as the output.")
    loaded = load_split(cfg, checkpoint, split, subset=subset, subset_seed=subset_seed)
    levels = check_levels(loaded.model, levels)
    class_index = _class_index(loaded.class_names, class_name)
    if score_threshold is None:
        score_threshold = 0.3 if class_name is None else 0.0
    records = loaded.records
    if num_images is not None or subset is None:
        records = choose_records(records, DEFAULT_IMAGES if num_images is None else num_images)
    about = f"best detections of {class_name}" if class_name else "best detections"
    looks = "Where the decoder looks for" if is_attention(loaded.model) else "What speaks for"
    heading = f"{looks} the {about}, {Path(checkpoint).name} on {split}{loaded.origin}"
    on_sheet = {record["image_id"] for record in spread(records, SHEET_ROWS)}
    rows, written, lines = [], [], []
    for record in tqdm(records, desc="Grad-CAM", unit="image"):
        inputs = loaded.mapper(copy.deepcopy(record))
        heat = grad_cam(loaded.model, inputs, levels, class_index=class_index, top=top, score_threshold=score_threshold)
        painted = _PaintedImage(record, heat, loaded)
        lines += painted.lines
        written.append(
            save_png(
                output / truncate_file_name(f"grad_cam_{picture_name(record)}"), grid([painted.cells], heading=heading)
            )
        )
        if record["image_id"] in on_sheet:
            rows.append(painted.cells)
    if len(rows) < len(records):
        heading += f", {len(rows)} of {len(records)} images"
    if lines:
        inside = sum(line["hottest_in_box"] for line in lines)
        found = f"hottest pixel in the box for {inside} of {len(lines)} detections ({100 * inside / len(lines):.1f} %)"
        logger.info("%s: %s", output, found)
        heading += f"; {found}"
    output.mkdir(parents=True, exist_ok=True)
    write_json(
        output / NUMBERS,
        {
            "method": method_of(loaded.model),
            "checkpoint": str(checkpoint),
            "split": split,
            "num_images": len(records),
            "num_detections": len(lines),
            "hottest_in_box_share": inside / len(lines) if lines else None,
            "detections": lines,
        },
    )
    return [save_png(output / SHEET, grid(rows, heading=heading)), *written, output / NUMBERS]


def hottest_pixel(heat: np.ndarray) -> tuple[int, int] | None:
    """(x, y) of the greatest value of a heat map (H, W), the first of several; None where there is no heat."""
    y, x = np.unravel_index(int(np.argmax(heat)), heat.shape)
    return (int(x), int(y)) if heat[y, x] > 0 else None


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


class _PaintedImage:
    """The pictures of one image, and a line of numbers for each detection.

    Attributes:
        cells: the image with the detections asked about, then the heat of each under its box.
        lines: for `grad_cam.json`.
    """

    def __init__(self, record: dict[str, Any], heat: ImageHeat, loaded: LoadedSplit):
        class_names = loaded.class_names
        image = loaded.read(record)
        height, width = image.shape[:2]
        found = detector_postprocess(heat.detections, height, width)
        boxes = found_boxes(found)
        name = Path(record["file_name"]).name
        kind = "" if len(boxes) else ": no detections"
        self.cells = [Cell(name, paint_in_frame(image, boxes, class_names, (TILE, TILE)), kind)]
        self.lines = []
        for place, index in enumerate(found.heat_index.tolist()):
            on_image = heat.on_image(index, height, width).numpy()
            label, score = class_names[boxes.classes[place]], float(boxes.scores[place])
            level = heat.heats[index].level
            painted = _under_box(overlay(image, on_image), boxes.boxes[place])
            self.cells.append(Cell(f"{level}: {label}", painted, f" {score:.2f}"))
            self.lines.append(
                {
                    "image_id": record["image_id"],
                    "level": level,
                    "class": label,
                    "score": score,
                    "box_xyxy": boxes.boxes[place].tolist(),
                    **_hottest(on_image, boxes.boxes[place]),
                }
            )


def _hottest(heat: np.ndarray, box: np.ndarray) -> dict[str, Any]:
    pixel = hottest_pixel(heat)
    if pixel is None:
        return {"hottest_xy": None, "hottest_in_box": False}
    x, y = pixel
    # The middle of a pixel is half a pixel from its corner.
    inside = bool(box[0] <= x + 0.5 <= box[2] and box[1] <= y + 0.5 <= box[3])
    return {"hottest_xy": [x, y], "hottest_in_box": inside}


def _under_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The image in its frame with a box over it: white between dark edges, seen on any colour."""
    factor = TILE / max(image.shape[:2])
    enlarged, boxes = enlarge(image, LabelledBoxes(box, [0]), factor)
    corners = boxes.boxes[0].round().astype(int)
    for thickness, color in ((3, (0, 0, 0)), (1, WHITE)):
        cv2.rectangle(enlarged, corners[:2].tolist(), corners[2:].tolist(), color, thickness)
    return fit_in_frame(enlarged, (TILE, TILE))


def _class_index(names: Sequence[str], class_name: str | None) -> int | None:
    if class_name is not None and class_name not in names:
        raise UserError(f"The data has no class {class_name!r}; it has {', '.join(names)}.")
    return None if class_name is None else list(names).index(class_name)
