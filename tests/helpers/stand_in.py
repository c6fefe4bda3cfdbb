"""A detector that knows the truth: it finds in each view what lies in it, so that only the merging can be wrong."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from loradet.datasets.mapper import DetectionMapper
from loradet.views import ViewDetector, ViewMapper, Views


class StandIn:
    """Called as a detector is, with samples that `look` has made.

    Args:
        boxes: (N, 4) XYXY, in pixels of the image.
        classes: (N,).
        least: parts of an object that are smaller than this share of it are not found.
    """

    def __init__(self, boxes: np.ndarray, classes: np.ndarray, least: float = 0.0):
        self.boxes, self.classes, self.least = boxes, classes, least
        self.calls: list[int] = []

    def __call__(self, inputs: Sequence[dict]) -> list[dict]:
        self.calls.append(len(inputs))
        assert len({tuple(item["image"].shape) for item in inputs}) == 1
        return [{"instances": self._find(item)} for item in inputs]

    def _find(self, item: dict) -> Instances:
        # Pixel (x, y) of the image holds x and y: where the view is from, and whether it is mirrored, is seen in it.
        pixels = item["image"].numpy().astype(int)
        x, y = pixels[0] + 256 * (pixels[2] % 16), pixels[1] + 256 * (pixels[2] // 16)
        left, right, top, bottom = x.min(), x.max() + 1, y.min(), y.max() + 1
        seen = self.boxes.clip([left, top] * 2, [right, bottom] * 2)
        areas = (seen[:, 2:] - seen[:, :2]).prod(1)
        kept = (areas > 0) & (areas >= self.least * (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1) - 1e-6)
        seen = seen[kept] - [left, top] * 2
        if x[0, 0] > x[0, -1]:
            seen = np.stack([right - left - seen[:, 2], seen[:, 1], right - left - seen[:, 0], seen[:, 3]], 1)
        scores = 0.5 + 0.4 * (areas[kept] % 97) / 97  # of a view's own, so that the order of the parts varies
        return Instances(
            (item["height"], item["width"]),
            pred_boxes=Boxes(torch.tensor(seen, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.tensor(scores, dtype=torch.float32),
            pred_classes=torch.tensor(self.classes[kept]),
        )


def coordinates(height: int, width: int) -> np.ndarray:
    """An image (H, W, 3), up to 4096 pixels a side, whose pixels say where they are."""
    y, x = np.indices((height, width))
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], 2).astype(np.uint8)


def look(
    detector: StandIn, size: tuple[int, int], views: Views, batch_size: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and classes that a stand-in finds by views of an image of a size (height, width)."""
    mapper = ViewMapper(DetectionMapper(is_train=False, augmentations=[], image_format="RGB"), views)
    sample = mapper.map_image({"file_name": "image", "image_id": 1}, coordinates(*size))
    (result,) = ViewDetector(detector, views, batch_size)([sample])
    found = result["instances"]
    assert found.image_size == size
    return found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy()
