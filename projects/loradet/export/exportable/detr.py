"""DETR's inference as a function of tensors."""

from typing import Any

import torch
from torch import Tensor

from loradet.detectors.detr.box_iou import to_xyxy
from loradet.export.exportable.base import Exportable
from loradet.export.exportable.detections import clip, finish, take


class ExportableDETR(Exportable):
    """See `Exportable`. There is no NMS: every query is a detection."""

    inputs = ("images", "sizes")
    exporters = ("torchscript", "dynamo")

    @property
    def fixed_size(self) -> tuple[tuple[int, int], str] | None:
        """As of the base class; and what all batches are padded to, where the model says so."""
        pad_to = self.model.pad_to
        return super().fixed_size if pad_to is None else (pad_to, f"model.pad_to is {list(pad_to)}")

    def limits(self) -> dict[str, Any]:
        return {"score_threshold": 0.0, "max_detections": self.model.num_queries}

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255.
            sizes: (N, 2) int64, height and width of each image in the batch.

        Returns:
            boxes (N, D, 4), XYXY pixels, clipped to the image; scores (N, D), falling; classes (N, D) int64; counts
            (N,) int64. Of each image the first `counts` entries are detections, the others are zeros.
        """
        model = self.model
        batch = self.prepare(images)
        features = model.backbone(batch)[model.in_feature]
        rows, columns = (
            self._padding(sizes[:, axis], batch.shape[2 + axis], features.shape[2 + axis]) for axis in (0, 1)
        )
        logits, boxes = model.predict(features, rows[:, :, None] | columns[:, None, :])
        probabilities = logits[-1].float().softmax(-1)
        if model.class_logits is None:
            probabilities = probabilities[..., :-1]
        else:
            probabilities = probabilities[..., model.class_logits]
        scores, classes = probabilities.max(-1)
        height, width = (sizes[:, axis, None, None].to(boxes.dtype) for axis in (0, 1))
        boxes = to_xyxy(boxes[-1]) * torch.cat((width, height, width, height), dim=-1)
        boxes, scores, classes = take(boxes, scores, classes, model.num_queries)
        return finish(clip(boxes, height, width), scores, classes)

    @staticmethod
    def _padding(sizes: Tensor, pixels: int, cells: int) -> Tensor:
        """Which cells (N, cells) of an axis are padding: see `loradet.detectors.detr.features.padding_mask`."""
        nearest = torch.arange(cells, device=sizes.device) * pixels // cells
        return nearest[None] >= sizes[:, None]
