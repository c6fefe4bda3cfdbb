"""Boxes, labels and contact sheets, painted with OpenCV. Images are RGB uint8 (H, W, 3) throughout."""

import colorsys
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from loradet.errors import UserError
from loradet.files import atomic_open
from loradet.visualization.text import (
    FONT,
    GAP,
    INK,
    LINE,
    PLAIN,
    ascii_text,
    shorten,
    text_block,
    text_line,
    text_width,
)

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
LABEL_WIDTH = 0.6  # of its image, the most that the name of a class may take


@dataclass(frozen=True)
class LabelledBoxes:
    """Detections, or ground truth where there are no scores.

    Attributes:
        boxes: (R, 4) XYXY in pixels of the image.
        classes: (R,) contiguous class ids.
        scores: (R,) in 0..1, or None.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self):
        object.__setattr__(self, "boxes", np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4))
        object.__setattr__(self, "classes", np.asarray(self.classes, dtype=np.int64).reshape(-1))
        if self.scores is not None:
            object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64).reshape(-1))
        counts = {len(self.boxes), len(self.classes), len(self.boxes if self.scores is None else self.scores)}
        if len(counts) > 1:
            raise UserError(f"boxes, classes and scores differ in number: {sorted(counts)}.")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Panel:
    """One image of a contact sheet; `ground_truth=None` leaves that half out."""

    image: np.ndarray
    title: str
    predictions: LabelledBoxes
    ground_truth: LabelledBoxes | None = None


def class_colors(count: int) -> list[Color]:
    """Bright colours, the same for the same class id whatever `count` is; neighbours differ in hue."""
    golden = 0.61803398875  # steps of the golden ratio spread any number of hues
    colors = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb((0.02 + index * golden) % 1.0, 0.85 - 0.25 * (index % 2), 1.0)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def paint_boxes(image: np.ndarray, labelled: LabelledBoxes, class_names: Sequence[str]) -> np.ndarray:
    """A copy of the image with boxes in the colours of their classes, labelled `name` or `name score`.

    The best scored boxes lie on top. Boxes may reach out of the image; labels stay in it where they fit.
    """
    _check_image(image)
    painted = np.ascontiguousarray(image).copy()
    colors = class_colors(len(class_names))
    extent = min(image.shape[:2])
    thickness = 1 if extent < 350 else 2
    font_scale = float(np.clip(extent / 900, 0.34, 0.55))
    order = np.arange(len(labelled)) if labelled.scores is None else np.argsort(labelled.scores)
    reach = 2 * max(image.shape[:2])  # OpenCV draws with 32-bit integers
    corners = np.clip(np.nan_to_num(labelled.boxes), -reach, reach).round().astype(int).tolist()
    for index in order:
        left, top, right, bottom = corners[index]
        color = colors[labelled.classes[index]]
        cv2.rectangle(painted, (left, top), (right, bottom), color, thickness)
    for index in order:
        score = "" if labelled.scores is None else f" {labelled.scores[index]:.2f}"
        text = ascii_text(class_names[labelled.classes[index]])
        text = shorten(text, round(LABEL_WIDTH * painted.shape[1]) - 4, font_scale, keep=score)
        _paint_label(painted, text, corners[index], colors[labelled.classes[index]], font_scale)
    return painted


def enlarge(image: np.ndarray, labelled: LabelledBoxes, factor: float) -> tuple[np.ndarray, LabelledBoxes]:
    """The image and its boxes, larger or smaller by a factor."""
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    return resized, LabelledBoxes(labelled.boxes * scale, labelled.classes, labelled.scores)


def paint_pair(panel: Panel, class_names: Sequence[str], min_side: int = 400) -> np.ndarray:
    """Ground truth (if any) and predictions of one image side by side, enlarged where it is small."""
    factor = max(1.0, min_side / max(panel.image.shape[:2]))
    halves = [half for half in (panel.ground_truth, panel.predictions) if half is not None]
    painted = [paint_boxes(*enlarge(panel.image, half, factor), class_names) for half in halves]
    gap = np.full((painted[0].shape[0], GAP, 3), 255, np.uint8)
    return painted[0] if len(painted) == 1 else np.hstack([painted[0], gap, painted[1]])


def paint_in_frame(
    image: np.ndarray, labelled: LabelledBoxes | None, class_names: Sequence[str], size: tuple[int, int]
) -> np.ndarray:
    """The painted image, fitted into the middle of a grey frame of a size (height, width); None: the frame alone."""
    if labelled is None:
        return fit_in_frame(None, size)
    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    return fit_in_frame(paint_boxes(*enlarge(image, labelled, factor), class_names), size)


def fit_in_frame(painted: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """A picture in the middle of a grey frame of a size (height, width); what reaches out of it is cut."""
    height, width = size
    frame = np.full((height, width, 3), 235, np.uint8)
    if painted is not None:
        painted = painted[:height, :width]
        y, x = (height - painted.shape[0]) // 2, (width - painted.shape[1]) // 2
        frame[y : y + painted.shape[0], x : x + painted.shape[1]] = painted
    return frame


def contact_sheet(
    panels: Sequence[Panel],
    class_names: Sequence[str],
    *,
    heading: str = "",
    tile: int = 320,
    columns: int = 2,
) -> np.ndarray:
    """Pairs «ground truth | predictions» in a grid, with titles and a legend of the classes that occur.

    Args:
        panels: one for each image.
        heading: above the grid, in as many lines as it needs.
        tile: width of the frame that each half is fitted into, and its largest height, in pixels.
        columns: pairs in a row.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise UserError("A contact sheet needs at least one image.")
    columns = min(columns, len(panels))
    halves = 1 if all(panel.ground_truth is None for panel in panels) else 2
    pair_width = halves * tile + (halves - 1) * 2
    width = GAP + columns * (pair_width + 2 * GAP) - GAP
    height = round(tile * min(1.0, max(panel.image.shape[0] / panel.image.shape[1] for panel in panels)))
    rows = [text_block(heading, width)] if heading else []
    for start in range(0, len(panels), columns):
        row = np.full((height + LINE + GAP, width, 3), 255, np.uint8)
        for column, panel in enumerate(panels[start : start + columns]):
            left = GAP + column * (pair_width + 2 * GAP)
            row[:-GAP, left : left + pair_width] = _pair_tile(panel, class_names, (height, tile), halves)
        rows.append(row)
    return np.vstack([*rows, legend(_present(panels), class_names, width)])


def save_png(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Write an RGB image as PNG, whole or not at all; its folder is made.

    Raises:
        ValueError: not an RGB uint8 image.
    """
    _check_image(image)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"OpenCV cannot encode {path} as PNG.")
    with atomic_open(path, "wb") as file:
        file.write(data.tobytes())
    return path


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"Expected an RGB uint8 image (H, W, 3), found {image.dtype} {image.shape}.")


def _paint_label(image: np.ndarray, text: str, box: list[int], color: Color, font_scale: float) -> None:
    (width, height), below = cv2.getTextSize(text, FONT, font_scale, 1)
    height, width = height + below + 2, width + 4
    left, top, _, bottom = box
    if top >= height:
        top -= height
    elif bottom + height <= image.shape[0]:
        top = bottom
    left = max(0, min(left, image.shape[1] - width))
    top = max(0, min(top, image.shape[0] - height))
    cv2.rectangle(image, (left, top), (left + width, top + height), color, cv2.FILLED)
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if brightness > 110 else WHITE
    position = (left + 2, top + height - below)
    cv2.putText(image, text, position, FONT, font_scale, ink, 1, cv2.LINE_AA)


def _pair_tile(panel: Panel, class_names: Sequence[str], size: tuple[int, int], halves: int) -> np.ndarray:
    height, tile = size
    canvas = np.full((height + LINE, halves * tile + (halves - 1) * 2, 3), 255, np.uint8)
    parts: list[tuple[LabelledBoxes | None, str]] = [(panel.predictions, "predictions")]
    if halves == 2:
        parts.insert(0, (panel.ground_truth, "ground truth"))
    for position, (labelled, name) in enumerate(parts):
        left = position * (tile + 2)
        title, kind = (panel.title, f": {name}") if position == 0 else ("", name)
        canvas[:LINE, left : left + tile] = text_line(title, tile, keep=kind)
        canvas[LINE:, left : left + tile] = paint_in_frame(panel.image, labelled, class_names, (height, tile))
    return canvas


def _present(panels: Sequence[Panel]) -> list[int]:
    found: set[int] = set()
    for panel in panels:
        for half in (panel.ground_truth, panel.predictions):
            found.update([] if half is None else half.classes.tolist())
    return sorted(found)


def legend(classes: Sequence[int], class_names: Sequence[str], width: int) -> np.ndarray:
    """Lines (H, width, 3) with colour and name of each class; a name wider than a line is shortened."""
    colors = class_colors(len(class_names))
    lines, left = [np.full((LINE, width, 3), 255, np.uint8)], GAP
    for index in classes:
        text = shorten(ascii_text(class_names[index]), width - 2 * GAP - 16, PLAIN)
        step = text_width(text, PLAIN) + 34
        if left + step - 18 > width - GAP and left > GAP:
            lines.append(np.full((LINE, width, 3), 255, np.uint8))
            left = GAP
        cv2.rectangle(lines[-1], (left, 5), (left + 11, 16), colors[index], cv2.FILLED)
        cv2.putText(lines[-1], text, (left + 16, LINE - 7), FONT, PLAIN, INK, 1, cv2.LINE_AA)
        left += step
    return np.vstack(lines)
