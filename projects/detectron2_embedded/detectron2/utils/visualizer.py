"""Paints boxes and labels on an image."""

import enum
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2._subset import missing_names
from detectron2.utils.file_io import PathManager
from detectron2.utils.painting import Color, brightened, font, palette, pieces, rgb255, wave
from PIL import Image, ImageDraw

__all__ = ["ColorMode", "VisImage", "Visualizer"]


@enum.unique
class ColorMode(enum.Enum):
    """How instances get their colours."""

    IMAGE = 0
    """One colour after another."""

    SEGMENTATION = 1
    """One colour for each class: `metadata.thing_colors` if there are any."""

    IMAGE_BW = 2
    """As IMAGE, on an image that predictions make gray."""


class VisImage:
    """An image to paint on.

    Args:
        img: (H, W, 3) RGB in [0, 255].
        scale: enlargement of the canvas.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0):
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Begin anew with an image of the same size, (H, W, 3) RGB in [0, 255]; what was painted is gone."""
        canvas = Image.fromarray(np.clip(img, 0, 255).astype(np.uint8))
        size = max(round(self.width * self.scale), 1), max(round(self.height * self.scale), 1)
        self.canvas = canvas if canvas.size == size else canvas.resize(size, Image.Resampling.BILINEAR)

    def get_image(self) -> np.ndarray:
        """The painted image, (H * scale, W * scale, 3) uint8 RGB."""
        return np.asarray(self.canvas).copy()

    def save(self, filepath: str) -> None:
        """Write the painted image; the extension says in which format."""
        suffix = Path(filepath).suffix.lower()
        if suffix not in Image.registered_extensions():
            raise ValueError(f"{filepath}: unknown image format {suffix!r}; .png or .jpg would be right.")
        with PathManager.open(str(filepath), "wb") as file:
            self.canvas.save(file, format=Image.registered_extensions()[suffix])


class Visualizer:
    """Paints predictions or annotations of one image, boxes only.

    Args:
        img_rgb: (H, W, 3) RGB in [0, 255].
        metadata: of the data set; `thing_classes` gives labels, `thing_colors` ([0, 255]) colours.
        scale: enlargement of the painted image.
        instance_mode: how colours are chosen.
        font_size_scale: enlargement of texts, and of lines with them.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ):
        image = np.asarray(img_rgb)
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"An RGB image (H, W, 3) is expected, found an array of shape {image.shape}.")
        self.metadata = metadata
        self.output = VisImage(image, scale)
        self._instance_mode = instance_mode
        size = max(math.sqrt(self.output.height * self.output.width) // 60, 11 / scale)
        self._default_font_size = size * font_size_scale

    def draw_instance_predictions(self, predictions: Any, jittering: bool = True) -> VisImage:
        """Paint what a detector returns.

        Args:
            predictions: Instances with `pred_boxes`, and `pred_classes` and `scores` if there are any.
            jittering: with ColorMode.SEGMENTATION vary the colours of a class slightly.

        Raises:
            NotImplementedError: there are masks or keypoints.
        """
        _refuse(predictions, ["pred_masks", "pred_keypoints"], "predictions")
        alpha = 0.5
        if self._instance_mode is ColorMode.IMAGE_BW:
            gray = self.output.img.astype(np.float32).mean(axis=2, keepdims=True)
            self.output.reset_image(np.repeat(gray, 3, axis=2))
            alpha = 0.3
        boxes = predictions.pred_boxes if predictions.has("pred_boxes") else None
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        scores = predictions.scores.tolist() if predictions.has("scores") else None
        colors = self._class_colors(classes, jittering)
        labels = self._labels(classes, scores, None)
        return self.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors, alpha=alpha)

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Paint the boxes of a data set's dict, crowds marked in their labels.

        Raises:
            NotImplementedError: there are keypoints, or a map of semantic or panoptic segmentation.
        """
        _refuse(dic, ["sem_seg_file_name", "sem_seg", "pan_seg_file_name"], "the dict")
        from detectron2.structures import BoxMode

        annotations = dic.get("annotations") or []
        boxes = [
            BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS) for annotation in annotations
        ]
        classes = [annotation["category_id"] for annotation in annotations]
        crowds = [annotation.get("iscrowd", 0) for annotation in annotations]
        return self.overlay_instances(
            boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
            labels=self._labels(classes, None, crowds),
            assigned_colors=self._class_colors(classes, jittering=True),
        )

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Paint boxes, large ones first, with their labels.

        Args:
            boxes: Boxes, tensor or array (N, 4), XYXY pixels of the image given.
            labels: a text for each.
            masks, keypoints: must be None.
            assigned_colors: a colour for each; default: one after another.
            alpha: opacity of the lines.

        Raises:
            NotImplementedError: masks or keypoints are given.
            ValueError: the numbers of boxes, labels and colours differ.
        """
        if masks is not None or keypoints is not None:
            raise NotImplementedError(
                "The embedded subset of Detectron2 paints boxes only; an installed one paints the others."
            )
        corners = _to_array(boxes)
        for name, items in (("labels", labels), ("assigned_colors", assigned_colors)):
            if items is not None and len(items) != len(corners):
                raise ValueError(f"{len(items)} {name} for {len(corners)} boxes.")
        if assigned_colors is None:
            assigned_colors = [palette(i) for i in range(len(corners))]
        areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
        for i in np.argsort(-areas, kind="stable"):
            self.draw_box(corners[i], alpha=alpha, edge_color=assigned_colors[i])
            if labels is not None:
                self._draw_label(labels[i], corners[i], assigned_colors[i])
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g", line_style: str = "-"
    ) -> VisImage:
        """Paint a box.

        Args:
            box_coord: XYXY pixels of the image given.
            alpha: opacity.
            edge_color: RGB in [0, 1], a letter as matplotlib has them, or a name or "#rrggbb".
            line_style: "-", "--", ":" or "-.".
        """
        x0, y0, x1, y1 = box_coord
        self._draw_lines([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], edge_color, alpha, line_style)
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Color,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Paint a line through points.

        Args:
            x_data, y_data: of the points, in pixels of the image given.
            color: as for `draw_box`.
            linestyle: as for `draw_box`.
            linewidth: in pixels of the image given, 1 or more; default: as of boxes.

        Raises:
            ValueError: not as many x as y, or an unknown style.
        """
        if len(x_data) != len(y_data):
            raise ValueError(f"{len(x_data)} x for {len(y_data)} y.")
        width = None if linewidth is None else max(linewidth, 1.0)
        self._draw_lines(list(zip(x_data, y_data)), color, 1.0, linestyle, width)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Paint a filled circle.

        Args:
            circle_coord: (x, y) of its centre, in pixels of the image given.
            color: as for `draw_box`.
            radius: in pixels of the image given.
        """
        (x, y), r = self._scaled(circle_coord), radius * self.output.scale
        layer, draw = self._layer()
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*rgb255(color), 255))
        self._merge(layer)
        return self.output

    def draw_polygon(self, segment: Any, color: Color, edge_color: Color | None = None, alpha: float = 0.5) -> VisImage:
        """Paint a filled polygon.

        Args:
            segment: (N, 2), its corners as (x, y) in pixels of the image given.
            color: as for `draw_box`.
            edge_color: default: `color`, darker where `alpha` is over 0.8.
            alpha: opacity of the inside.

        Raises:
            ValueError: another shape, or fewer than 3 corners.
        """
        corners = np.asarray(segment, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
            raise ValueError(f"A polygon is (N, 2) with N of 3 or more, not {corners.shape}.")
        edge = rgb255(color if edge_color is None else edge_color)
        if edge_color is None and alpha > 0.8:
            edge = tuple(round(0.4 * v) for v in edge)
        layer, draw = self._layer()
        points = [self._scaled(corner) for corner in corners]
        draw.polygon(points, fill=(*rgb255(color), round(255 * alpha)))
        width = max(round(self._default_font_size * self.output.scale / 15), 1)
        draw.line([*points, points[0]], fill=(*edge, 255), width=width)
        self._merge(layer)
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Paint a text on a dark ground.

        Args:
            text: one line.
            position: (x, y) of its upper edge, in pixels of the image given.
            font_size: height in pixels of the image given.
            color: as for `draw_box`; dark ones are brightened.
            horizontal_alignment: "left", "center" or "right" of the text lies at x.
            rotation: must be 0.
        """
        anchors = {"left": "l", "center": "m", "right": "r"}
        if horizontal_alignment not in anchors:
            raise ValueError(f"horizontal_alignment={horizontal_alignment!r}: expected {', '.join(anchors)}.")
        if rotation:
            raise NotImplementedError("Rotated text is not in the embedded Detectron2; an installed one has it.")
        scale = self.output.scale
        face = font((font_size or self._default_font_size) * scale)
        place = float(position[0]) * scale, float(position[1]) * scale
        anchor = anchors[horizontal_alignment] + "a"
        layer, draw = self._layer()
        left, top, right, bottom = draw.textbbox(place, text, font=face, anchor=anchor)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=(0, 0, 0, 190))
        draw.text(place, text, font=face, anchor=anchor, fill=(*brightened(rgb255(color)), 255))
        self._merge(layer)
        return self.output

    def get_output(self) -> VisImage:
        """The painted image."""
        return self.output

    def _draw_label(self, text: str, box: np.ndarray, color: Color) -> None:
        """Inside the box's upper left corner, or below a box that is too flat for it."""
        x0, y0, _, y1 = box
        flat = y1 - y0 < 2 * self._default_font_size
        y = y1 if flat and y1 + 1.5 * self._default_font_size < self.output.height else y0
        self.draw_text(text, (max(x0, 0), max(y, 0)), color=color, horizontal_alignment="left")

    def _draw_lines(
        self, points: Sequence[Sequence[float]], color: Color, alpha: float, style: str, width: float | None = None
    ) -> None:
        width = self._default_font_size / 5 if width is None else width
        pixels = max(round(width * self.output.scale), 1)
        layer, draw = self._layer()
        for piece in pieces([self._scaled(point) for point in points], style, pixels):
            draw.line(piece, fill=(*rgb255(color), round(255 * alpha)), width=pixels)
        self._merge(layer)

    def _scaled(self, point: Sequence[float]) -> tuple[float, float]:
        return float(point[0]) * self.output.scale, float(point[1]) * self.output.scale

    def _layer(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        layer = Image.new("RGBA", self.output.canvas.size)
        return layer, ImageDraw.Draw(layer)

    def _merge(self, layer: Image.Image) -> None:
        area = layer.getbbox()
        if area is not None:
            patch = layer.crop(area)
            self.output.canvas.paste(patch, area[:2], patch)

    def _labels(
        self, classes: list[int] | None, scores: list[float] | None, crowds: list[int] | None
    ) -> list[str] | None:
        names = self._metadata("thing_classes")
        columns: list[list[str]] = []
        if classes is not None:
            columns.append([names[c] if names and 0 <= c < len(names) else str(c) for c in classes])
        if scores is not None:
            columns.append([f"{score * 100:.0f}%" for score in scores])
        labels = [" ".join(row) for row in zip(*columns)] if columns else None
        if labels is not None and crowds is not None:
            labels = [label + ("|crowd" if crowd else "") for label, crowd in zip(labels, crowds)]
        return labels

    def _class_colors(self, classes: list[int] | None, jittering: bool) -> list[Color] | None:
        if self._instance_mode is not ColorMode.SEGMENTATION or classes is None:
            return None
        known = self._metadata("thing_colors")
        colors: list[Color] = []
        for i, c in enumerate(classes):
            base = np.asarray(known[c], dtype=np.float64) / 255 if known and c < len(known) else palette(c)
            shift = np.array([wave(3 * i + k) for k in range(3)]) * (0.1 if jittering else 0.0)
            colors.append(tuple(np.clip(np.asarray(base) + shift, 0, 1)))
        return colors

    def _metadata(self, name: str) -> Any:
        return self.metadata.get(name, None) if self.metadata is not None else None


def _refuse(holder: Any, names: Sequence[str], what: str) -> None:
    found = [name for name in names if (name in holder if isinstance(holder, dict) else holder.has(name))]
    if found:
        raise NotImplementedError(
            f"{what} have {', '.join(found)}, which the embedded Detectron2 does not paint; an installed one does."
        )


def _to_array(boxes: Any) -> np.ndarray:
    boxes = [] if boxes is None else getattr(boxes, "tensor", boxes)
    if isinstance(boxes, torch.Tensor):
        boxes = boxes.detach().cpu().numpy()
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


__getattr__ = missing_names(__name__, ["GenericMask"])
